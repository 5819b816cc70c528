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
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Callable

from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption, OpenRefused
from kvserver.base.events import EpochBegun, Listener, LogRecovered, StoreCreated
from kvserver.base.fs import Lock, remove_tree
from kvserver.base.identity_file import create_identity
from kvserver.base.options import EngineOptions
from kvserver.base.paths import DataPaths
from kvserver.base.register import Register
from kvserver.base.types import Epoch, Identity, Position
from kvserver.commit.state import State
from kvserver.engine.epochs import EpochHistory
from kvserver.engine.identity import read_identity
from kvserver.engine.opening_tables import OpenedTables, open_tables
from kvserver.engine.table_kit import TableKit
from kvserver.storage.origin import Origin, read_origin
from kvserver.wal.log import LogWriter
from kvserver.wal.recovery import RecoveredLog, recover
from kvserver.wal.space import LogSpace

_EPOCHS_HINT = "put the folder epochs/ back as it was, from a copy taken together with wal/"


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


@dataclasses.dataclass(slots=True)
class Opened:
    """Everything that opening a folder yields."""

    lock: Lock
    identity: Identity
    state: State
    position: Position
    history: EpochHistory
    log: LogWriter
    space: LogSpace
    tables: OpenedTables


def open_folder(asked: OpenRequest) -> Opened:
    """Carry out the steps. Raises OpenRefused, Corruption, OSError."""
    env, paths, listener = asked.env, asked.paths, asked.listener
    try:
        with contextlib.ExitStack() as undo:
            lock = _lock(env, paths)
            undo.callback(lock.release)
            failpoints.hit("engine.open.after_lock")
            identity = _identify(env, paths, asked.options.node_name, asked.register_kind, listener)
            failpoints.hit("engine.open.after_identity")
            env.fs.make_dir(paths.wal)
            space = LogSpace(env.fs, paths, asked.options.wal, listener, env.clock)
            undo.callback(space.close)
            space.remove_leftovers()
            remove_tree(env.fs, paths.scratch)
            origin = read_origin(env, paths)
            opened = open_tables(env, paths, asked.options.tables, asked.kit, identity, origin)
            undo.callback(opened.tables.close)
            failpoints.hit("engine.open.after_tables")
            epochs = asked.register(paths)
            recovered = _recover(asked, identity, epochs, opened)
            failpoints.hit("engine.open.after_recover")
            epoch = _claim(env, paths, identity, epochs, recovered, origin)
            failpoints.hit("engine.open.after_claim")
            epochs.record_branch(epoch, recovered.position)
            log = LogWriter(env.fs, paths, env.clock, asked.options.wal, space, env.random_id, listener)
            undo.callback(log.abandon)
            log.begin_epoch(identity.cluster_id, epoch, recovered.position, recovered.segments, recovered.time_ms)
            failpoints.hit("engine.open.after_first_segment")
            epochs.record_begun(epoch)
            failpoints.hit("engine.open.after_begun")
            history = EpochHistory([*_past_epochs(epochs, recovered, origin, epoch), (epoch, recovered.position)])
            undo.pop_all()
    except OSError as error:
        hint = "make the folder readable and writable and see that its disk has 32 MiB free, then start again"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            hint = "allow the process more open files (ulimit -n; 1024 are enough), then start again"
        where = f" ({error.filename})" if error.filename else ""
        raise OpenRefused(f"{paths.root} cannot be opened: {error.strerror or error}{where}", hint) from error
    listener(EpochBegun(epoch.number, epoch.nonce, recovered.position.revision))
    return Opened(lock, identity, opened.state, log.position, history, log, space, opened)


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


def _identify(env: Environment, paths: DataPaths, node_name: str, register_kind: str, listener: Listener) -> Identity:
    identity = read_identity(env, paths)
    if identity is None:
        identity = create_identity(env, paths, node_name, register_kind)
        listener(StoreCreated(str(paths.root), identity.cluster_id.hex()))
    if identity.register != register_kind:
        raise OpenRefused(
            f"{paths.root} claims its epochs in a register of kind {identity.register!r}, not {register_kind!r}",
            "start the server with the register that the folder was created with",
        )
    return identity


def _recover(asked: OpenRequest, identity: Identity, register: Register, opened: OpenedTables) -> RecoveredLog:
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

    records = register.records()
    branches = [record.branch for record in records if record.branch is not None]
    begun = [record.epoch for record in records if record.begun]
    recovered = recover(
        env.fs,
        paths,
        identity.cluster_id,
        known=branches[-1] if branches else None,
        apply=apply,
        listener=asked.listener,
        begun=begun[-1] if begun else None,
        base=opened.position,
        behind_group=behind_group,
    )
    seconds = env.clock.monotonic() - begin
    asked.listener(
        LogRecovered(len(recovered.segments), commits, recovered.position.revision, recovered.bytes_read, seconds),
    )
    return recovered


def _claim(
    env: Environment, paths: DataPaths, identity: Identity, register: Register, recovered: RecoveredLog, origin: Origin | None
) -> Epoch:
    """Claim the number above every one that the register, the log or the store that this is a copy of has seen."""
    records = register.records()
    registered = {record.epoch.number: record.epoch for record in records}
    for epoch, _ in recovered.epochs:
        if epoch.number not in registered:
            raise Corruption(paths.epochs, 0, f"epoch {epoch.number} is in the log, but its claim is lost", _EPOCHS_HINT)
        if registered[epoch.number] != epoch:
            what = f"epoch {epoch.number} has another nonce in the log than in the register"
            raise Corruption(paths.epochs, 0, what, _EPOCHS_HINT)
    copied = origin.position.epoch.number if origin is not None else 0
    epoch = Epoch(max([0, copied, *registered]) + 1, env.random_id())
    register.claim(epoch, identity.node_id, env.clock.now_ms())
    return epoch


def _past_epochs(
    register: Register, recovered: RecoveredLog, origin: Origin | None, current: Epoch
) -> list[tuple[Epoch, Position]]:
    """Return the epochs before the current one, oldest first; the log no longer holds all of them."""
    known = list(origin.epochs) if origin is not None else []
    known += [(record.epoch, record.branch) for record in register.records() if record.begun and record.branch is not None]
    by_number = {epoch.number: (epoch, began) for epoch, began in [*known, *recovered.epochs] if epoch != current}
    return [by_number[number] for number in sorted(by_number)]
