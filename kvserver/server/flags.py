"""Every setting of the server, once: its name, its default, what it means, how its text becomes a value; and the command line.

A setting is a flag (``--segment-mb``), a variable of the environment (``KVSERVER_SEGMENT_MB``) and a key of the configuration
file (``segment-mb`` in ``[log]``). All three are made of the table here, so that none of them can be forgotten.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import kvserver

DEFAULT_LISTEN = "127.0.0.1:7400"
DEFAULT_HTTP = "127.0.0.1:7480"
PREFIX = "KVSERVER_"
"""What the names of the environment's variables begin with."""

OFF = "off"
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
LOOPS = ("uvloop", "asyncio")
WHEN_FULL = ("refuse", "gap")
COMPRESSIONS = ("auto", "none", "zstd")

SECTIONS: Mapping[str, str] = {
    "server": "the server",
    "log": "the log of commits",
    "tables": "memory, tables and history",
    "archive": "the archive",
    "cluster": "several nodes",
}
"""The sections of a configuration file, and what the groups of flags are called in the help."""

NODE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"", "0", "false", "no", "off"})

_EXAMPLES = """\
examples:
  kvserver serve --data-dir data/node
  kvserver serve --data-dir /srv/kv --listen 0.0.0.0:7400 --http 0.0.0.0:7480 --name kv-1 --log-format json
  kvserver serve --data-dir /srv/kv --archive file:///mnt/archive --backup-h 24 --keep-days 30
  kvserver serve --data-dir /srv/kv --name a --register file:///mnt/register --advertise 10.0.0.1:7400 --listen 0.0.0.0:7400
  kvserver serve --data-dir /srv/kv --name b --register file:///mnt/register --follow 10.0.0.1:7400
  kvserver serve --config kvserver.toml --check-config
  KVSERVER_DATA_DIR=/srv/kv KVSERVER_MEMORY_LIMIT_MB=512 kvserver serve

Every setting can be given as a flag, as an environment variable (--data-dir as KVSERVER_DATA_DIR, a switch such as
--no-grouping as KVSERVER_NO_GROUPING=1) and as a key of the configuration file (data-dir; no-grouping = true). A flag wins
over its variable, the variable over the file.

exit codes: 0 ended as asked, 1 could not start (the message says why), 2 wrong usage, 70 the log or the server failed
"""


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One thing that can be set."""

    section: str
    name: str
    """As the file spells it: words and dashes."""
    shape: str
    """What stands for the value in the help; empty for a switch."""
    default: str | int | bool | None
    """As the file spells it; None where there is no fixed one. Its type is what the file must hold."""
    read: Callable[[str], Any]
    """Makes a value of text; raises ArgumentTypeError, which says what is wrong with it."""
    help: str

    @property
    def key(self) -> str:
        """Return the name as Python spells it."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """Return the name of the variable of the environment."""
        return PREFIX + self.key.upper()

    @property
    def kind(self) -> type:
        """Return what a configuration file must hold: str, int or bool."""
        return str if self.default is None else type(self.default)

    def default_value(self) -> Any:
        """Return the value of the default; None where there is no fixed one."""
        return None if self.default is None else self.read(str(self.default))


def _switch(text: str) -> bool:
    if text.lower() not in _YES | _NO:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 1 nor 0")
    return text.lower() in _YES


def _folder(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not the path of a folder")
    return Path(text).absolute()


def _node_name(text: str) -> str:
    if not NODE_NAME.fullmatch(text):
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


def _archive(text: str) -> str | None:
    if not text:
        raise argparse.ArgumentTypeError(f"an archive needs an address; {OFF!r} stands for none")
    return None if text == OFF else text


def _register(text: str) -> str | None:
    if not text:
        raise argparse.ArgumentTypeError(f"a register needs an address; {OFF!r} stands for one of this node alone")
    return None if text == OFF else text


def _node_names(text: str) -> str:
    names = [_node_name(name.strip()) for name in text.split(",")] if text else []
    if len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"{text!r} names a node twice")
    return ",".join(names)


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        usable = text.isascii() and text.isdigit() and len(text) <= len(str(most))
        if not usable or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return number


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def choice(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return choice


SETTINGS: tuple[Setting, ...] = (
    Setting("server", "data-dir", "DIR", None, _folder, "folder with the data; made if there is none"),
    Setting("server", "listen", "HOST:PORT", DEFAULT_LISTEN, _address, "serve gRPC there"),
    Setting(
        *("server", "http", "HOST:PORT", DEFAULT_HTTP, _optional_address),
        help="serve /livez, /readyz and /metrics there; 'off': nowhere",
    ),
    Setting("server", "name", "NAME", None, _node_name, "name of a new node (default: the host's name); kept in its folder"),
    Setting("server", "log-level", "|".join(LOG_LEVELS), "info", _one_of(LOG_LEVELS), "least grave messages to log"),
    Setting("server", "log-format", "|".join(LOG_FORMATS), "text", _one_of(LOG_FORMATS), "form of messages on standard error"),
    Setting("server", "loop", "|".join(LOOPS), LOOPS[0], _one_of(LOOPS), "event loop; asyncio is Python's own, and slower"),
    Setting("server", "hints", "", False, _switch, "print commands to try, also where standard output is no terminal"),
    Setting("log", "segment-mb", "N", 64, _between(16, 4095), "size of a segment, MiB"),
    Setting("log", "seal-age-s", "N", 60, _between(0, 86_400), "seal at this age, 0: never"),
    Setting(
        *("log", "group-window-ms", "N", 4, _between(0, 1000)),
        help="least time between two groups under a crowd of single writes; 0: none",
    ),
    Setting("log", "no-grouping", "", False, _switch, "one sync for each submission; for comparison only"),
    Setting("log", "no-overlap", "", False, _switch, "do nothing while a sync is under way; for comparison only"),
    Setting(
        *("tables", "memory-limit-mb", "N", 256, _between(0, 1 << 24)),
        help="MiB that what is not in tables yet may take; above it writes wait, then are refused; 0: no limit",
    ),
    Setting("tables", "memtable-mb", "N", 64, _between(1, 4096), "write memory into a table when it holds so many MiB"),
    Setting("tables", "block-cache-mb", "N", 384, _between(1, 1 << 24), "MiB for parts of tables that are read often"),
    Setting(
        *("tables", "history-s", "N", 3600, _between(0, 1 << 32)),
        help="a revision can be read at for so long; 0: no bound by time",
    ),
    Setting(
        *("tables", "history-revisions", "N", 10_000_000, _between(0, 1 << 62)),
        help="and while it is one of so many newest ones; 0: no bound by number",
    ),
    Setting(
        *("archive", "archive", "URL", OFF, _archive),
        help="archive the log there: file:///FOLDER or s3://BUCKET/PREFIX; 'off': nowhere",
    ),
    Setting("archive", "archive-workers", "N", 2, _between(1, 64), "segments that are archived at the same time, at most"),
    Setting("archive", "archive-level", "N", 1, _between(1, 19), "level of compression (zstd); while it is behind, level 1"),
    Setting(
        *("archive", "archive-queue-mb", "N", 2048, _between(64, 1 << 24)),
        help="MiB of the log that may wait for the archive; from half of it on commits are slowed",
    ),
    Setting(
        "archive", "archive-rate-mb", "N", 0, _between(0, 1 << 20), "MiB of the log that may be archived a second; 0: no limit"
    ),
    Setting(
        *("archive", "archive-full", "|".join(WHEN_FULL), WHEN_FULL[0], _one_of(WHEN_FULL)),
        help="when the queue is full, refuse writes, or give up its oldest part and leave a gap in the archive",
    ),
    Setting(
        *("archive", "ballast-mb", "N", 64, _between(0, 65_536)),
        help="MiB kept on the data's disk to be given back when it is full, so that the archive can catch up; 0: none",
    ),
    Setting("archive", "archive-verify-h", "N", 168, _between(0, 87_600), "check every byte of the archive so often; 0: never"),
    Setting(
        *("archive", "archive-drill-h", "N", 0, _between(0, 87_600)),
        help="restore the archive into a scratch folder and compare it with the node so often; 0: never",
    ),
    Setting("archive", "backup-h", "N", 0, _between(0, 87_600), "make a base backup so often; 0: only when asked to"),
    Setting("archive", "keep-backups", "N", 0, _between(0, 100_000), "keep so many newest backups; 0: no bound by number"),
    Setting(
        *("archive", "keep-days", "N", 0, _between(0, 36_500)),
        help="keep what is needed to restore any moment of so many days; 0: no bound by time",
    ),
    Setting(
        *("cluster", "register", "URL", OFF, _register),
        help="where the nodes of one cluster claim epochs: file:///FOLDER or s3://BUCKET/PREFIX, the same for all of them; "
        "'off': the node is alone",
    ),
    Setting(
        *("cluster", "follow", "HOST:PORT", OFF, _optional_address),
        help="a node of the cluster to begin with; the register knows who is primary later on; 'off': the register alone says",
    ),
    Setting(
        *("cluster", "advertise", "HOST:PORT", OFF, _optional_address),
        help="where other nodes and clients reach this one; 'off': the address of --listen",
    ),
    Setting(
        *("cluster", "members", "NAME,NAME", "", _node_names),
        help="at the cluster's first start: the nodes that the policy counts; later: kvctl cluster policy set",
    ),
    Setting(
        *("cluster", "write-quorum", "N", 0, _between(0, 15)),
        help="at the cluster's first start: so many members must have synced a write, the primary included; 0: the primary alone",
    ),
    Setting(
        *("cluster", "slot-max-mb", "N", 4096, _between(64, 1 << 24)),
        help="MiB of the log that are kept for a follower that is behind or away; above it the archive, or a new copy, must do",
    ),
    Setting(
        *("cluster", "tail-compression", "|".join(COMPRESSIONS), COMPRESSIONS[0], _one_of(COMPRESSIONS)),
        help="how what is shipped to followers is compressed; auto: zstd, but nothing on the same machine",
    ),
    Setting(
        *("cluster", "rewind-base-mb", "N", 512, _between(0, 1 << 20)),
        help="keep a checkpoint to go back to after a failover, a new one each N MiB of log; 0: none, a new copy is fetched then",
    ),
    Setting(
        *("cluster", "content-check-h", "N", 24, _between(0, 87_600)),
        help="have the followers compare their content with the primary's so often; 0: never",
    ),
)


def parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Return the command line, and the part of it that is ``serve``. What was not given is absent from what they return."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("kvserver", description=kvserver.__doc__, formatter_class=form)
    parser.add_argument("--version", action="version", version=f"kvserver {kvserver.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    summary = "serve the data in a folder over gRPC, until SIGTERM or Ctrl-C"
    serve = commands.add_parser("serve", help=summary, description=summary, epilog=_EXAMPLES, formatter_class=form)
    told = serve.add_argument_group("where settings come from")
    told.add_argument("--config", metavar="FILE", help="read settings from this TOML file (examples/kvserver.toml has them all)")
    told.add_argument("--check-config", action="store_true", help="print the settings in force, and where each is from; then end")
    groups = {section: serve.add_argument_group(title) for section, title in SECTIONS.items()}
    for setting in SETTINGS:
        _add(groups[setting.section], setting)
    return parser, serve


def _add(group: argparse._ArgumentGroup, setting: Setting) -> None:
    flag = f"--{setting.name}"
    if setting.kind is bool:
        group.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=setting.help)
        return
    default = "" if setting.default is None else f" (default: {setting.default})"
    group.add_argument(
        flag, metavar=setting.shape, type=setting.read, default=argparse.SUPPRESS, help=setting.help + default.replace("%", "%%")
    )
