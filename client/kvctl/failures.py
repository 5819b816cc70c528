"""Exit codes, and how an error is told: one line for people, or one JSON object for programs, on standard error."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvclient import Compacted

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
"""No connection, or no answer in time."""
EXIT_REFUSED = 4
"""The server refused or failed."""
EXIT_UNHEALTHY = 5
"""A check found something: damage, or a threshold passed."""
EXIT_NOT_FOUND = 6
EXIT_CONDITION = 7
EXIT_INTERRUPTED = 130

STANDARD_OUTPUT = "standard output"
"""What errors call it."""


class CtlError(Exception):
    """An error that ends a command: a stable code, a message, a hint (may be empty) and the exit code.

    ``fields`` are added to the JSON form.
    """

    def __init__(self, code: str, message: str, hint: str = "", exit_code: int = EXIT_ERROR, **fields: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        self.fields = fields

    def document(self) -> dict[str, Any]:
        """Return the JSON form; docs/kvctl.md describes it."""
        told = {"code": self.code, "message": self.message, "hint": self.hint, "exit_code": self.exit_code}
        return {**told, **self.fields}


def as_ctl_error(error: Exception) -> CtlError:
    """Turn an error of the SDK or of a file into one that ends a command; raise it again if it is neither."""
    if isinstance(error, CtlError):
        return error
    if isinstance(error, OSError):
        what = error.strerror or str(error)
        return CtlError("FILE_ERROR", f"{error.filename}: {what}" if error.filename else what)
    import kvclient

    if not isinstance(error, kvclient.KvClientError):
        raise error
    fields: dict[str, Any] = {"details": error.details} if error.details else {}
    if isinstance(error, kvclient.Compacted):
        return _compacted(error, fields)
    if isinstance(error, kvclient.ConditionFailed):
        fields["mod_revision"] = error.mod_revision
    return CtlError(error.code, error.message, error.hint, exit_code_of(error), **fields)


def _compacted(error: Compacted, fields: dict[str, Any]) -> CtlError:
    """Name the oldest revision that can be read, whatever the server's own hint says."""
    oldest = error.oldest_readable_revision
    if oldest:
        fields["oldest_readable_revision"] = oldest
    hint = f"read at revision {oldest} or a later one" if oldest else "see the oldest readable revision with: kvctl status"
    return CtlError(error.code, error.message, error.hint or hint, EXIT_REFUSED, **fields)


def name_file(error: OSError, name: str) -> OSError:
    """Return an error that says which file it is about: one from a write to an open file does not."""
    if error.filename is None:
        error.filename = name
    return error


def exit_code_of(error: Exception) -> int:
    """Return the exit code for an error of the SDK."""
    import kvclient

    match error:
        case kvclient.ConditionFailed():
            return EXIT_CONDITION
        case kvclient.Timeout():
            return EXIT_UNREACHABLE
        case kvclient.Unavailable() | kvclient.OutcomeUnknown():
            return EXIT_REFUSED if error.from_server else EXIT_UNREACHABLE
        case _:
            return EXIT_REFUSED


def report(error: CtlError, *, as_json: bool) -> int:
    """Tell an error on standard error and return its exit code."""
    if as_json:
        tell(json.dumps(error.document()))
    else:
        tell(f"error: {_one_line(error.message)} [{error.code}]")
        if error.hint:
            tell(f"hint: {_one_line(error.hint)}")
    return error.exit_code


def warn(code: str, message: str, meant: str = "", *, as_json: bool) -> None:
    """Tell on standard error what does not end the command: a line for people, or a JSON object whose ``warning`` is the code.

    ``meant`` is the word that was probably wanted instead; it may be empty.
    """
    hint = f"did you mean {meant}?" if meant else ""
    if as_json:
        tell(json.dumps({"warning": code, "message": message, "hint": hint}))
        return
    tell(f"warning: {_one_line(message)} [{code}]")
    if hint:
        tell(f"hint: {_one_line(hint)}")


def tell(text: str) -> None:
    """Write a line to standard error; where that is closed or full, the exit code has to say it all."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def _one_line(text: str) -> str:
    """Escape what could move a terminal's cursor: a server's message may quote keys."""
    return "".join(mark if mark.isprintable() else f"\\x{ord(mark):02x}" for mark in text)
