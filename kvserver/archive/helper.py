"""Processes beside the server that do one long thing each (hash a store, restore one for a drill) without holding up its loop.

A helper is a module run by ``python -m``. It answers in lines of JSON: any number that say how far it is, and a last one with
the result or the error. It keeps nothing that matters, and ends when the process that started it does, however that ended: then
its standard input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import kvserver
from kvserver.base.errors import Code, KvError

Fields: TypeAlias = "dict[str, Any]"

WATCH = "--watch"
"""The argument by which a helper knows that its standard input tells it when to end."""

_SOURCE = Path(kvserver.__file__).parent.parent
_NICENESS = 10


class Helper:
    """A process that does one thing. ``answers`` and ``kill`` may be called on different threads."""

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        """Start it. Raises KvError where that cannot be."""
        command = [sys.executable, "-m", module, WATCH, *arguments]
        self._module = module
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=_SOURCE, close_fds=True
            )
        except OSError as error:
            raise KvError(Code.INTERNAL, f"the helper {module} cannot be started: {error}") from error

    def answers(self) -> Iterator[Fields]:
        """Yield its answers, the result last. Blocks. Raises the KvError that it ended with, or that it died."""
        process = self._process
        assert process.stdout is not None
        assert process.stdin is not None
        last: Fields = {}
        try:
            for line in process.stdout:
                last = json.loads(line) if line.endswith(b"\n") else {}
                if "error" in last:
                    code, message, hint = last["error"]
                    raise KvError(Code(code), message, hint)
                yield last
            exit_code = process.wait()
        finally:
            self.kill()
            process.stdout.close()
            process.stdin.close()
        if "result" not in last:
            how = f"by signal {-exit_code}" if exit_code < 0 else f"with exit code {exit_code}"
            raise KvError(Code.INTERNAL, f"the helper {self._module} ended {how} before it was done", "try again")

    def result(self) -> Fields:
        """Wait for the result and return it. Raises as ``answers``."""
        *_, last = self.answers()
        return dict(last["result"])

    def kill(self) -> None:
        """End it, whatever it is doing; no harm where it ended by itself."""
        self._process.kill()
        self._process.wait()


def run_helper(work: Callable[[Sequence[str], Callable[[Fields], None]], Fields]) -> None:
    """Be a helper: carry out ``work(arguments, tell)`` and answer with what it returns or raises. For a module's ``main``."""
    arguments = sys.argv[1:]
    if arguments[:1] == [WATCH]:
        arguments = arguments[1:]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            os.nice(_NICENESS)
        threading.Thread(target=_end_with_input, name="input", daemon=True).start()
    try:
        _tell({"result": work(arguments, _tell)})
        return
    except KvError as error:
        _tell({"error": [int(error.code), error.message, error.hint]})
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _tell({"error": [int(Code.DISK_UNAVAILABLE), f"{where}{error.strerror or error}", "see that the disk can be read"]})
    except Exception as error:
        _tell({"error": [int(Code.INTERNAL), f"{type(error).__name__}: {error}", ""]})
    sys.exit(1)


def _tell(fields: Fields) -> None:
    sys.stdout.buffer.write(json.dumps(fields).encode() + b"\n")
    sys.stdout.buffer.flush()


def _end_with_input() -> None:
    # Not through the buffer: a thread that waits there holds a lock that the interpreter wants when it ends, and aborts without.
    unbuffered: Any = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
    while unbuffered.read(4096):
        pass
    os._exit(0)
