"""What the server is told: flags, and environment variables of the same names. The only module that reads the environment."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import kvserver
from kvserver.base.limits import MIB
from kvserver.base.options import EngineOptions, PipelineOptions, WalOptions

DEFAULT_LISTEN = "127.0.0.1:7400"
DEFAULT_HTTP = "127.0.0.1:7480"
OFF = "off"
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
LOOPS = ("uvloop", "asyncio")

_NODE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"", "0", "false", "no", "off"})

_EXAMPLES = """\
examples:
  kvserver serve --data-dir data/node
  kvserver serve --data-dir /srv/kv --listen 0.0.0.0:7400 --http 0.0.0.0:7480 --name kv-1 --log-format json
  KVSERVER_DATA_DIR=/srv/kv KVSERVER_MEMORY_LIMIT_MB=2048 kvserver serve

Every flag can be given as an environment variable: --data-dir as KVSERVER_DATA_DIR, a switch such as --no-grouping as
KVSERVER_NO_GROUPING=1. A flag wins over its variable.

exit codes: 0 ended as asked, 1 could not start (the message says why), 2 wrong usage, 70 the log or the server failed
"""


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True)
class ServeConfig:
    """Everything that ``kvserver serve`` can be told."""

    data_dir: Path
    listen: Address
    http: Address | None
    name: str
    engine: EngineOptions
    log_level: str
    log_format: str
    hints: bool
    loop: str
    """The event loop: "uvloop", or "asyncio", Python's own."""
    failpoints: str
    """Text for ``failpoints.arm_from_text``: only in the environment (KVSERVER_FAILPOINTS), only for tests."""


def parse(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> ServeConfig:
    """Return what the command line and the environment say. Ends the process with 2, or 0 for ``--help`` and ``--version``."""
    environment = os.environ if environment is None else environment
    parser, serve = _parsers()
    _take_defaults(serve, environment)
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help()
        parser.exit(2)
    if given.data_dir is None:
        serve.error("name the folder for the data with --data-dir DIR (or KVSERVER_DATA_DIR)")
    return ServeConfig(
        data_dir=given.data_dir,
        listen=given.listen,
        http=given.http,
        name=given.name,
        engine=_engine_options(given),
        log_level=given.log_level,
        log_format=given.log_format,
        hints=given.hints,
        loop=given.loop,
        failpoints=environment.get("KVSERVER_FAILPOINTS", ""),
    )


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("kvserver", description=kvserver.__doc__, formatter_class=form)
    parser.add_argument("--version", action="version", version=f"kvserver {kvserver.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    summary = "serve the data in a folder over gRPC, until SIGTERM or Ctrl-C"
    serve = commands.add_parser("serve", help=summary, description=summary, epilog=_EXAMPLES, formatter_class=form)
    _add_flags(serve)
    return parser, serve


def _add_flags(serve: argparse.ArgumentParser) -> None:
    add = serve.add_argument
    where = serve.add_argument_group("where").add_argument
    where("--data-dir", metavar="DIR", type=_folder, help="folder with the data; made if there is none")
    where("--listen", metavar="HOST:PORT", type=_address, default=DEFAULT_LISTEN, help="serve gRPC there (default: %(default)s)")
    where(
        "--http",
        metavar="HOST:PORT",
        type=_optional_address,
        default=DEFAULT_HTTP,
        help="serve /livez, /readyz and /metrics there; 'off': nowhere (default: %(default)s)",
    )
    where("--name", type=_node_name, default=None, help="name of a new node (default: the host's name); kept in its folder")
    log = serve.add_argument_group("the log of commits").add_argument
    log("--segment-mb", metavar="N", type=_between(16, 4095), default=64, help="size of a segment, MiB (default: %(default)s)")
    log(
        "--seal-age-s",
        metavar="N",
        type=_between(0, 86_400),
        default=60,
        help="seal at this age, 0: never (default: %(default)s)",
    )
    log(
        "--group-window-ms",
        metavar="N",
        type=_between(0, 1000),
        default=4,
        help="least time between two groups under a crowd of single writes; 0: none (default: %(default)s)",
    )
    log("--no-grouping", action="store_true", help="one sync for each submission; for comparison only")
    log("--no-overlap", action="store_true", help="do nothing while a sync is under way; for comparison only")
    add(
        "--memory-limit-mb",
        metavar="N",
        type=_between(0, 1 << 24),
        default=8192,
        help="refuse writes when keys and values take more MiB of memory; 0: never (default: %(default)s)",
    )
    add("--log-level", choices=LOG_LEVELS, default="info", help="least grave messages to log (default: %(default)s)")
    add("--log-format", choices=LOG_FORMATS, default="text", help="form of the messages on standard error (default: %(default)s)")
    add("--loop", choices=LOOPS, default=LOOPS[0], help="event loop; asyncio is Python's own, and slower (default: %(default)s)")
    add("--hints", action="store_true", help="print commands to try, also where standard output is no terminal")


def _take_defaults(serve: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    """Let each flag's variable stand in for the flag. A bad value ends the process like a bad flag."""
    for action in serve._actions:
        if not action.option_strings or action.dest in ("help", "version"):
            continue
        variable = "KVSERVER_" + action.dest.upper()
        text = environment.get(variable)
        if text is None:
            continue
        if action.nargs == 0:
            if text.lower() not in _YES | _NO:
                serve.error(f"{variable} must be 1 or 0, not {text!r}")
            action.default = text.lower() in _YES
            continue
        try:
            action.default = action.type(text) if callable(action.type) else text
        except (argparse.ArgumentTypeError, ValueError) as error:
            serve.error(f"{variable}: {error}")
        if action.choices is not None and action.default not in action.choices:
            serve.error(f"{variable} must be one of {', '.join(action.choices)}, not {text!r}")


def _engine_options(given: argparse.Namespace) -> EngineOptions:
    return EngineOptions(
        wal=WalOptions(
            segment_bytes=given.segment_mb * MIB,
            seal_age_ms=given.seal_age_s * 1000,
            group_window_ms=given.group_window_ms,
            grouping=not given.no_grouping,
        ),
        pipeline=PipelineOptions(memory_limit_bytes=given.memory_limit_mb * MIB, overlap=not given.no_overlap),
        node_name=given.name or _host_name(),
    )


def _host_name() -> str:
    name = socket.gethostname()
    return name if _NODE_NAME.fullmatch(name) else "node"


def _folder(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not the path of a folder")
    return Path(text).absolute()


def _node_name(text: str) -> str:
    if not _NODE_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of 1 to 63 letters, digits, '.', '_' and '-'")
    return text


def _address(text: str) -> Address:
    host, separator, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    usable = separator and host and (bracketed or ":" not in host) and not set(host) & set("/ \t")
    if not usable or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HOST:PORT")
    return Address(host, int(port))


def _optional_address(text: str) -> Address | None:
    return None if text == OFF else _address(text)


def _between(least: int, most: int) -> Any:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return number
