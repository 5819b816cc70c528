"""What the server is told: a flag, else its environment variable, else the configuration file, else the default.

The only module that reads the environment. The settings themselves are a table, ``kvserver/server/flags.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kvserver.archive.open_store import open_store
from kvserver.archive.store import StoreRefused
from kvserver.base.fs import FileSystem, OsFileSystem
from kvserver.base.limits import MIB
from kvserver.base.options import EngineOptions, PipelineOptions, TableOptions, WalOptions
from kvserver.base.paths import DataPaths
from kvserver.server import config_file, flags
from kvserver.server.config_file import BadConfigFile, Told
from kvserver.server.flags import DEFAULT_LISTEN, NODE_NAME, PREFIX, SETTINGS, Address

__all__ = ["DEFAULT_LISTEN", "Address", "ArchiveConfig", "ServeConfig", "parse"]

WRONG_USAGE = 2
"""The exit code of argparse, and ours, for what cannot be understood."""

CONFIG_VARIABLE = PREFIX + "CONFIG"
FAILPOINTS_VARIABLE = PREFIX + "FAILPOINTS"

_OF_TESTS = ("KVSERVER_CRASH_ROUNDS", "KVSERVER_SEEDED_BUGS", "KVSERVER_BENCH_DIR", "KVSERVER_CLUSTER_TESTS")
_OTHER_VARIABLES = frozenset({FAILPOINTS_VARIABLE, *_OF_TESTS})
"""Variables that are no settings: all but the first are read by the tests and by the benchmark."""

_OF_KUBERNETES = re.compile(
    r"KVSERVER_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)", re.ASCII
)
"""What Kubernetes puts into the environment of every pod beside a service whose name begins with ``kvserver``."""


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveConfig:
    """Where the log is archived, how, and what is done with the archive from time to time."""

    url: str
    workers: int
    level: int
    queue_bytes: int
    rate_bytes_per_s: int
    """0: no limit."""
    when_full: str
    """"refuse" or "gap"."""
    ballast_bytes: int
    verify_every_h: int
    """0: never; so are the next two."""
    drill_every_h: int
    backup_every_h: int
    keep_backups: int
    """0: no bound by number."""
    keep_days: int
    """0: no bound by time."""


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterConfig:
    """How the node finds its cluster, and what it does for the others."""

    register_url: str
    follow: Address | None
    advertise: Address | None
    members: tuple[str, ...]
    """With ``write_quorum``, the policy of a cluster that is made by this start; empty: asynchronous."""
    write_quorum: int
    slot_max_bytes: int
    tail_compression: str
    """"auto", "none" or "zstd"."""
    rewind_base_bytes: int
    """After so much log a new checkpoint is made to go back to; 0: none is kept."""
    content_check_h: int
    """Hours between two comparisons of the followers' content with the primary's; 0: never."""


@dataclasses.dataclass(frozen=True, slots=True)
class ServeConfig:
    """Everything that ``kvserver serve`` can be told."""

    data_dir: Path
    listen: Address
    http: Address | None
    name: str
    engine: EngineOptions
    archive: ArchiveConfig | None
    cluster: ClusterConfig | None
    """None: the node is alone, and its register lies in its data folder."""
    log_level: str
    log_format: str
    hints: bool
    loop: str
    """The event loop: "uvloop", or "asyncio", Python's own."""
    failpoints: str
    """Text for ``failpoints.arm_from_text``: only in the environment (KVSERVER_FAILPOINTS), only for tests."""
    warnings: tuple[str, ...]
    """What looks like a mistake and does not keep the server from serving, one sentence each."""
    effective: str
    """The settings in force as a configuration file, each with where it is from."""
    check_only: bool
    """Print ``effective`` and end."""


def parse(
    arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None, fs: FileSystem | None = None
) -> ServeConfig:
    """Return what the command line, the environment and the file say.

    Ends the process with 2 and a message that names the mistake, or with 0 for ``--help`` and ``--version``.
    """
    environment = os.environ if environment is None else environment
    parser, serve = flags.parsers()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help()
        parser.exit(WRONG_USAGE)
    try:
        told = _told(given, environment, OsFileSystem() if fs is None else fs)
        return _serve_config(told, given.check_config, environment)
    except (BadConfigFile, argparse.ArgumentTypeError, ValueError) as error:
        serve.exit(WRONG_USAGE, f"kvserver serve: error: {error}\n")


def _told(given: argparse.Namespace, environment: Mapping[str, str], fs: FileSystem) -> dict[str, Told]:
    """Return the value of every setting. Raises ArgumentTypeError and BadConfigFile."""
    from_flags = vars(given)
    path = given.config or environment.get(CONFIG_VARIABLE)
    from_file = config_file.read(fs, path) if path else {}
    told: dict[str, Told] = {}
    for setting in SETTINGS:
        text = environment.get(setting.variable)
        if setting.key in from_flags:
            told[setting.name] = Told(from_flags[setting.key], "flag")
        elif text is not None:
            try:
                told[setting.name] = Told(setting.read(text), "environment")
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentTypeError(f"{setting.variable}: {error}") from error
        elif setting.name in from_file:
            told[setting.name] = Told(from_file[setting.name], "file")
        else:
            told[setting.name] = Told(setting.default_value(), "default")
    return told


def _serve_config(told: Mapping[str, Told], check_only: bool, environment: Mapping[str, str]) -> ServeConfig:
    """Put the values together. Raises ValueError for those that do not fit together."""
    value = {setting.key: told[setting.name].value for setting in SETTINGS}
    if value["data_dir"] is None:
        raise ValueError("name the folder for the data with --data-dir DIR (or KVSERVER_DATA_DIR, or data-dir in the file)")
    limit, memtable = value["memory_limit_mb"], value["memtable_mb"]
    if limit and limit <= memtable:
        raise ValueError(
            f"memory-limit-mb ({limit}) must be above memtable-mb ({memtable}): writes would wait for a flush that never begins"
        )
    engine = _engine_options(value)
    name = Told(engine.node_name, told["name"].source)
    return ServeConfig(
        data_dir=value["data_dir"],
        listen=value["listen"],
        http=value["http"],
        name=value["name"],
        engine=engine,
        archive=_archive_config(value),
        cluster=_cluster_config(value),
        log_level=value["log_level"],
        log_format=value["log_format"],
        hints=value["hints"],
        loop=value["loop"],
        failpoints=environment.get(FAILPOINTS_VARIABLE, ""),
        warnings=tuple(_unknown_variables(environment)),
        effective=config_file.render({**told, "name": name}),
        check_only=check_only,
    )


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable that looks like one of ours and is none: probably misspelt, and without effect."""
    meant = {variable.removeprefix(PREFIX) for variable in (CONFIG_VARIABLE, *(setting.variable for setting in SETTINGS))}
    sentences = []
    for name in sorted(environment):
        short = name.removeprefix(PREFIX)
        ours = name != short and short not in meant and name not in _OTHER_VARIABLES
        if ours and not _OF_KUBERNETES.fullmatch(name):
            near = config_file.nearest(short, meant)
            hint = f"did you mean {PREFIX}{near}?" if near else "kvserver serve --help lists the settings"
            sentences.append(f"the environment variable {name} has no effect; {hint}")
    return sentences


def _engine_options(value: Mapping[str, Any]) -> EngineOptions:
    return EngineOptions(
        wal=WalOptions(
            segment_bytes=value["segment_mb"] * MIB,
            seal_age_ms=value["seal_age_s"] * 1000,
            group_window_ms=value["group_window_ms"],
            grouping=not value["no_grouping"],
        ),
        pipeline=PipelineOptions(memory_limit_bytes=value["memory_limit_mb"] * MIB, overlap=not value["no_overlap"]),
        tables=TableOptions(
            memtable_bytes=value["memtable_mb"] * MIB,
            block_cache_bytes=value["block_cache_mb"] * MIB,
            history_ms=value["history_s"] * 1000,
            history_revisions=value["history_revisions"],
        ),
        node_name=value["name"] or _host_name(),
    )


def _archive_config(value: Mapping[str, Any]) -> ArchiveConfig | None:
    """Return how to archive; None where there is to be no archive. Raises ValueError for an address that cannot be one."""
    url = value["archive"]
    if url is None:
        return None
    try:
        open_store(url).close()  # asks nothing of it, so one that is down is no mistake
    except StoreRefused as error:
        raise ValueError(f"archive: {error.message}; {error.hint}") from error
    _check_apart(url, value["data_dir"])
    return ArchiveConfig(
        url=url,
        workers=value["archive_workers"],
        level=value["archive_level"],
        queue_bytes=value["archive_queue_mb"] * MIB,
        rate_bytes_per_s=value["archive_rate_mb"] * MIB,
        when_full=value["archive_full"],
        ballast_bytes=value["ballast_mb"] * MIB,
        verify_every_h=value["archive_verify_h"],
        drill_every_h=value["archive_drill_h"],
        backup_every_h=value["backup_h"],
        keep_backups=value["keep_backups"],
        keep_days=value["keep_days"],
    )


def _cluster_config(value: Mapping[str, Any]) -> ClusterConfig | None:
    """Return how the node finds its cluster; None where it is alone. Raises ValueError for what does not fit together."""
    url, follow, quorum = value["register"], value["follow"], value["write_quorum"]
    members = tuple(value["members"].split(",")) if value["members"] else ()
    if url is None:
        if follow is not None or members or quorum:
            raise ValueError(
                "follow, members and write-quorum need --register URL: the register that all nodes of a cluster share"
            )
        return None
    try:
        open_store(url).close()  # asks nothing of it, so one that is down is no mistake
    except StoreRefused as error:
        raise ValueError(f"register: {error.message}; {error.hint}") from error
    if bool(members) != bool(quorum) or quorum > len(members):
        raise ValueError("members and write-quorum go together, and the quorum is at most as many as there are members")
    if follow is not None and follow in (value["listen"], value["advertise"]):
        raise ValueError(f"follow: {follow} is this node itself; name another one")
    return ClusterConfig(
        register_url=url,
        follow=follow,
        advertise=value["advertise"],
        members=members,
        write_quorum=quorum,
        slot_max_bytes=value["slot_max_mb"] * MIB,
        tail_compression=value["tail_compression"],
        rewind_base_bytes=value["rewind_base_mb"] * MIB,
        content_check_h=value["content_check_h"],
    )


def _check_apart(url: str, data_dir: Path) -> None:
    """Raise ValueError where the archive lies among the node's own files, some of which are removed at each start."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        return
    # Nothing is opened by this: it only tells whether two names lead to one folder.
    folder, data = (Path(os.path.realpath(path)) for path in (unquote(parts.path), data_dir))
    own = DataPaths(data).archive
    if data in (folder, *folder.parents) and own not in (folder, *folder.parents):
        raise ValueError(f"archive: {folder} lies among the node's own files; of the data folder, only {own} may be an archive")


def _host_name() -> str:
    name = socket.gethostname()
    return name if NODE_NAME.fullmatch(name) else "node"
