"""Opens a data folder, step by step. A crash after any of them leaves a folder that the same steps open again.

    1  lock the folder               another process in it is refused
    2  read or create the identity   a foreign or newer folder is refused; a new one, or a checkpoint, becomes a store
    3  remove leftovers              future segments that never held a commit, tables that were never taken in, scratch copies
    4  open the tables               they say how far they are, and what the catalogue was there
    5  recover the log behind them   every case by name; what was read back is durable before step 6
    6  claim the next epoch          in the register, once; the number and nonce are ours alone
    7  record its branch             where in history it begins
    8  create its first segment      from here on commits can be written
    9  record that it has begun      in the register: a log without the epoch is damaged from now on

Steps 4 and 5 before 6: a folder that cannot be recovered claims nothing.

A follower takes the first five steps, seals nothing and claims nothing; its log goes on where it ends. A node that becomes
primary has claimed its epoch before it was opened, because the others were asked under it: step 6 then checks that the claim
is ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Callable

from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import OpenRefused
from kvserver.base.events import EpochBegun, Listener, LogRecovered, StoreCreated
from kvserver.base.fs import Lock, remove_tree
from kvserver.base.identity_file import create_identity
from kvserver.base.options import EngineOptions
from kvserver.base.paths import DataPaths
from kvserver.base.register import NodeRecord, Register
from kvserver.base.types import Epoch, Identity, Position, Role
from kvserver.commit.state import State
from kvserver.engine.claiming import Claims, check_register, read_claims
from kvserver.engine.epochs import EpochHistory
from kvserver.engine.identity import read_identity
from kvserver.engine.opening_tables import OpenedTables, open_tables
from kvserver.engine.swap import finish_swap
from kvserver.engine.table_kit import TableKit
from kvserver.storage.origin import Origin, read_origin
from kvserver.wal.log import LogWriter
from kvserver.wal.received import ReceivedLog
from kvserver.wal.recovery import RecoveredLog, recover
from kvserver.wal.space import LogSpace


@dataclasses.dataclass(frozen=True, slots=True)
class OpenRequest:
    """What is to be opened, and with what."""

    env: Environment
    paths: DataPaths
    options: EngineOptions
    register: Callable[[DataPaths], Register]
    register_kind: str
    kit: TableKit
    listener: Listener
    hold_archive: bool = False
    role: Role = Role.PRIMARY
    claimed: Epoch | None = None
    """The epoch that was claimed for this start."""
    cluster_id: bytes | None = None
    """Of which cluster the folder is, or becomes, a node; None: of that which it is of, or of a new one."""
    node: NodeRecord | None = None
    """What the register is told of this node; its name and id are those of the folder."""
    must_refetch: Callable[[int], None] = lambda revision: None
    """Told, before a received log is cut, up to which revision this node may have acknowledged what goes; durable on return."""


@dataclasses.dataclass(slots=True)
class Opened:
    """Everything that opening a folder yields."""

    lock: Lock
    identity: Identity
    state: State
    position: Position
    history: EpochHistory
    log: LogWriter | ReceivedLog
    """As primary, or as follower."""
    space: LogSpace | None
    """Only as primary."""
    tables: OpenedTables
    last_word_ms: int
    """The time of the newest thing that was found."""
    needs_revision: int
    """What this node may have acknowledged and lacks: up to there; 0: nothing."""


def open_folder(asked: OpenRequest) -> Opened:
    """Carry out the steps. Raises OpenRefused, Corruption, ReplicationError, OSError."""
    paths = asked.paths
    try:
        with contextlib.ExitStack() as undo:
            opened = _open(asked, undo)
            undo.pop_all()
    except OSError as error:
        hint = "make the folder readable and writable and see that its disk has 32 MiB free, then start again"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            hint = "allow the process more open files (ulimit -n; 1024 are enough), then start again"
        where = f" ({error.filename})" if error.filename else ""
        raise OpenRefused(f"{paths.root} cannot be opened: {error.strerror or error}{where}", hint) from error
    if asked.role is Role.PRIMARY:
        epoch, began = opened.history.epochs[-1]
        asked.listener(EpochBegun(epoch.number, epoch.nonce, began.revision))
    return opened


def _open(asked: OpenRequest, undo: contextlib.ExitStack) -> Opened:
    env, paths, listener = asked.env, asked.paths, asked.listener
    lock = _lock(env, paths)
    undo.callback(lock.release)
    failpoints.hit("engine.open.after_lock")
    finish_swap(env, paths)  # in between, log and tables may be of two histories
    origin, identity = _identify(asked)
    failpoints.hit("engine.open.after_identity")
    env.fs.make_dir(paths.wal)
    space = LogSpace(env.fs, paths, asked.options.wal, listener, env.clock)
    undo.callback(space.close)
    space.remove_leftovers()
    remove_tree(env.fs, paths.scratch)
    tables = open_tables(env, paths, asked.options.tables, asked.kit, identity, origin)
    undo.callback(tables.tables.close)
    failpoints.hit("engine.open.after_tables")
    if asked.role is Role.FOLLOWER:
        claims = read_claims(paths, identity, origin, lambda: asked.register(paths))
    else:
        register = asked.register(paths)
        claims = Claims(paths, identity, origin, register.records())
    recovered = _recover(asked, identity, claims, tables)
    failpoints.hit("engine.open.after_recover")
    log: LogWriter | ReceivedLog
    if asked.role is Role.FOLLOWER:
        past = claims.past_epochs(recovered)
        log = ReceivedLog(env.fs, paths, env.clock, identity.cluster_id, tables.position, recovered, listener)
    else:
        log, past = _begin_epoch(asked, register, claims, recovered, identity, space, undo)
    last_word_ms = recovered.time_ms or (origin.made_ms if origin is not None else env.clock.now_ms())
    return Opened(
        lock=lock,
        identity=identity,
        state=tables.state,
        position=log.position,
        history=EpochHistory(past, claims.foreign()),
        log=log,
        space=space if asked.role is Role.PRIMARY else None,
        tables=tables,
        last_word_ms=last_word_ms,
        needs_revision=recovered.needs_revision,
    )


def _begin_epoch(
    asked: OpenRequest,
    register: Register,
    claims: Claims,
    recovered: RecoveredLog,
    identity: Identity,
    space: LogSpace,
    undo: contextlib.ExitStack,
) -> tuple[LogWriter, list[tuple[Epoch, Position]]]:
    """Take the steps from the claim on; return the log that can be written to, and all epochs."""
    env, paths = asked.env, asked.paths
    claims.check_log(recovered, register)
    if asked.claimed is None:
        node = NodeRecord(identity.node_name, identity.node_id, asked.node.address if asked.node is not None else "")
        epoch = claims.claim(env, register, node)
    else:
        epoch = claims.confirm(asked.claimed, recovered)
    failpoints.hit("engine.open.after_claim")
    register.record_branch(epoch, recovered.position)
    log = LogWriter(env.fs, paths, env.clock, asked.options.wal, space, env.random_id, asked.listener)
    undo.callback(log.abandon)
    log.begin_epoch(identity.cluster_id, epoch, recovered.position, recovered.segments, recovered.time_ms)
    failpoints.hit("engine.open.after_first_segment")
    register.record_begun(epoch)
    failpoints.hit("engine.open.after_begun")
    return log, [*claims.past_epochs(recovered, epoch), (epoch, recovered.position)]


def _lock(env: Environment, paths: DataPaths) -> Lock:
    try:
        env.fs.make_dir(paths.root)
        return env.fs.lock(paths.lock)
    except BlockingIOError as error:
        raise OpenRefused(
            f"{paths.root} is in use by another process",
            "stop the other server, or name another folder with --data-dir",
        ) from error
    except OSError as error:
        raise OpenRefused(
            f"{paths.root} cannot be used: {error.strerror or error}",
            "name a folder that this user may create and write with --data-dir",
        ) from error


def _identify(asked: OpenRequest) -> tuple[Origin | None, Identity]:
    """Read what the folder is, or make it what was asked for. Raises OpenRefused, Corruption, OSError."""
    env, paths, cluster_id = asked.env, asked.paths, asked.cluster_id
    identity = read_identity(env, paths)
    origin: Origin | None = None
    if identity is None:
        if cluster_id is not None or asked.role is Role.FOLLOWER:
            origin = read_origin(env, paths)
            _check_may_join(paths, origin, cluster_id)
        identity = create_identity(env, paths, asked.options.node_name, asked.register_kind, cluster_id)
        asked.listener(StoreCreated(str(paths.root), identity.cluster_id.hex()))
    elif cluster_id is not None and identity.cluster_id != cluster_id:
        raise OpenRefused(
            f"{paths.root} is of cluster {identity.cluster_id.hex()}, not of {cluster_id.hex()}",
            "name a folder of that cluster, or a new one, with --data-dir",
        )
    check_register(identity, asked.register_kind, paths)
    return read_origin(env, paths), identity


def _check_may_join(paths: DataPaths, origin: Origin | None, cluster_id: bytes | None) -> None:
    """Raise OpenRefused where a folder without an identity cannot become a node of a cluster."""
    if cluster_id is None:
        raise OpenRefused(
            f"{paths.root} belongs to no cluster yet, and a follower needs one to follow",
            "start the node with --follow HOST:PORT of a node of the cluster",
        )
    if origin is not None and origin.cluster_id != cluster_id:
        raise OpenRefused(
            f"{paths.root} holds a checkpoint of cluster {origin.cluster_id.hex()}, not of {cluster_id.hex()}",
            "name an empty or new folder with --data-dir",
        )


def _recover(asked: OpenRequest, identity: Identity, claims: Claims, opened: OpenedTables) -> RecoveredLog:
    env, paths = asked.env, asked.paths
    begin = env.clock.monotonic()
    commits = 0

    def apply(first_revision: int, count: int, payload: bytes) -> None:
        nonlocal commits
        commits += count
        opened.state.replay_group(first_revision, count, payload)

    view, options = opened.state.view, asked.options.tables

    def behind_group(position: Position) -> None:
        """Cut memory as a running store does: a long log must not become one table, built by one helper at once."""
        if view.active.size_bytes >= options.memtable_bytes or view.active.most_keys >= options.memtable_keys:
            view.freeze(position.revision).position = position

    known, begun = claims.known()
    recovered = recover(
        env.fs,
        paths,
        identity.cluster_id,
        known=known,
        apply=apply,
        listener=asked.listener,
        begun=begun,
        base=opened.position,
        behind_group=behind_group,
        follower=asked.role is Role.FOLLOWER,
        wrote=claims.wrote,
        must_refetch=asked.must_refetch,
    )
    seconds = env.clock.monotonic() - begin
    asked.listener(
        LogRecovered(len(recovered.segments), commits, recovered.position.revision, recovered.bytes_read, seconds),
    )
    return recovered
