"""From the address of a register to the register that lies there, and the way of a single node's register into a shared one.

**Moving.** A store that began alone has its epochs in its own folder. To become one node of several, they are copied into a
register that others see, and the identity is made to name it: that is the last step, and one rename. Until then the folder opens
with the register it has; from then on only with the shared one. Repeated after a crash the copy goes on where it was: what is
there already is compared, not written again. What the folder began on its own in between is a longer list of epochs, of which the
shared one has the beginning.
"""

from __future__ import annotations

from kvserver.archive.open_store import open_store
from kvserver.archive.store import Store, StoreError
from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, OpenRefused, ReplicationError
from kvserver.base.identity_file import replace_register
from kvserver.base.paths import DataPaths
from kvserver.base.register import EpochRecord, NodeRecord
from kvserver.base.types import Identity
from kvserver.engine.identity import read_identity
from kvserver.replication.local_register import KIND, LocalRegister
from kvserver.replication.store_register import StoreRegister, found, kind_of, look

_HISTORY = "see what the register holds with: kvctl cluster history; name an address without a register to begin a new one"


def open_register(url: str, env: Environment, cluster_id: bytes | None = None) -> StoreRegister:
    """Return the register at an address, made there first if need be: of this cluster, or (None) of a new one.

    Whose it is where it existed is for the caller to compare (``check_same``). Raises ReplicationError, also for an address that
    cannot be one; Corruption.
    """
    store = register_store(url, env)
    return StoreRegister(store, found(store, env, cluster_id), env)


def find_register(url: str, env: Environment) -> StoreRegister | None:
    """Return the register at an address; None where there is none, and none is made. Raises as ``open_register`` does."""
    store = register_store(url, env)
    founded = look(store)
    return StoreRegister(store, founded, env) if founded is not None else None


def register_store(url: str, env: Environment) -> Store:
    """Return the store at a register's address. Raises ReplicationError for what cannot be one."""
    try:
        return open_store(url, env.fs)
    except StoreError as error:
        what = error.message.replace("the archive", "the register", 1)
        raise ReplicationError(Code.REGISTER_UNAVAILABLE, what, error.hint) from None


def move_register(env: Environment, paths: DataPaths, target: StoreRegister) -> None:
    """Copy a stopped node's epochs from its own folder into a shared register, and make its identity name that one.

    Does nothing where that was done before. Raises OpenRefused where the folder is in use, is no store, or where the register is
    of another cluster or holds what the node does not know; ReplicationError, Corruption, OSError.
    """
    if not env.fs.exists(paths.identity):
        raise OpenRefused(f"{paths.root} holds no store", "name the data folder of the node")
    try:
        lock = env.fs.lock(paths.lock)
    except BlockingIOError:
        what = f"{paths.root} is in use by another process"
        raise OpenRefused(what, "stop the node; its register is moved while it does not run") from None
    try:
        identity = read_identity(env, paths)
        if identity is None:
            raise OpenRefused(f"{paths.root} holds no store", "name the data folder of the node")
        _check_target(identity, target)
        if identity.register == target.kind:
            env.fs.sync_dir(paths.root)  # whoever renamed the file may have died before that was durable
            return
        target.check()
        _copy(LocalRegister(env.fs, paths).records(), identity, target)
        failpoints.hit("register.move.after_copy")
        replace_register(env, paths, identity, target.kind)
        failpoints.hit("register.move.after_identity")
    finally:
        lock.release()


def _check_target(identity: Identity, target: StoreRegister) -> None:
    founded = target.founded
    if founded.cluster_id != identity.cluster_id:
        what = f"the register {target.url} belongs to cluster {founded.cluster_id.hex()}, the node to {identity.cluster_id.hex()}"
        raise OpenRefused(what, "name an address without a register; each cluster has one of its own")
    if identity.register not in (KIND, kind_of(founded)):
        what = f"the node's register is {identity.register!r}, and only one in its own folder can be moved"
        raise OpenRefused(what, "go on with the register that it has")


def _copy(records: list[EpochRecord], identity: Identity, target: StoreRegister) -> None:
    """Write what the target lacks of these epochs, oldest first. Raises OpenRefused where it has what is not among them."""
    there = {record.epoch.number: record for record in target.records()}
    known = {record.epoch.number: record for record in records}
    for number, record in there.items():
        if number not in known or not _is_part(record, known[number]):
            what = f"the register {target.url} holds an epoch {number} that this node does not know"
            raise OpenRefused(what, _HISTORY)
    for record in records:
        copied = there.get(record.epoch.number)
        if copied is None:
            name = identity.node_name if record.node_id == identity.node_id else ""
            target.claim(record.epoch, NodeRecord(name, record.node_id, ""), record.claimed_ms)
            failpoints.hit("register.move.after_claim")
        if record.branch is not None and (copied is None or copied.branch is None):
            target.record_branch(record.epoch, record.branch)
            failpoints.hit("register.move.after_branch")
        if record.begun and (copied is None or not copied.begun):
            target.record_begun(record.epoch)


def _is_part(copied: EpochRecord, record: EpochRecord) -> bool:
    """Say whether a record is a copy of another, perhaps one that was not finished."""
    return (
        copied.epoch == record.epoch
        and copied.node_id == record.node_id
        and copied.claimed_ms == record.claimed_ms
        and copied.branch in (None, record.branch)
        and (record.begun or not copied.begun)
    )
