"""What opening a folder asks of the register, and writes into it: whose epochs there are, and which one is ours from now on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvserver.base.environment import Environment
from kvserver.base.errors import Code, Corruption, KvError, OpenRefused, ReplicationError
from kvserver.base.paths import DataPaths
from kvserver.base.register import EpochRecord, NodeRecord, Register
from kvserver.base.types import NO_EPOCH, Epoch, Identity, Position
from kvserver.storage.origin import Origin
from kvserver.wal.recovery import RecoveredLog

LOCAL = "local"
"""The id of every register of a single node: all that is in it is that node's."""

_EPOCHS_HINT = "put the folder epochs/ back as it was, from a copy taken together with wal/"
_REGISTER_HINT = "see that the register is the one of this cluster and was not changed by hand: kvctl cluster history"


class Claims:
    """What the register says, as one node sees it."""

    def __init__(self, paths: DataPaths, identity: Identity, origin: Origin | None, records: list[EpochRecord]) -> None:
        self._paths = paths
        self._identity = identity
        self._origin = origin
        self._records = records

    # -- what a recovery may count on -----------------------------------------------------------------------------

    def known(self) -> tuple[Position | None, Epoch | None]:
        """Return the newest branch, and the newest epoch that has begun, if they are this node's own; None where they are not.

        Where another node has begun an epoch since, this one may have given up what it wrote, rightly.
        """
        branches = [record for record in self._records if record.branch is not None]
        begun = [record for record in self._records if record.begun]
        return (
            branches[-1].branch if branches and self._is_own(branches[-1]) else None,
            begun[-1].epoch if begun and self._is_own(begun[-1]) else None,
        )

    def wrote(self, epoch: Epoch) -> bool:
        """Say whether all that this folder holds of an epoch was written here, by this node as primary.

        Not where the folder began as a copy of the cluster's own store in that epoch, or behind it: then some was received.
        """
        if self._identity.register == LOCAL:
            return True
        origin = self._origin
        is_copy = origin is not None and origin.cluster_id == self._identity.cluster_id
        if is_copy and origin is not None and origin.position.epoch.number >= epoch.number:
            return False
        return any(record.epoch == epoch and self._is_own(record) for record in self._records)

    def foreign(self) -> frozenset[Epoch]:
        """Return the epochs that other nodes have claimed."""
        return frozenset(record.epoch for record in self._records if not self._is_own(record))

    def _is_own(self, record: EpochRecord) -> bool:
        return self._identity.register == LOCAL or record.node_id == self._identity.node_id

    # -- claiming -------------------------------------------------------------------------------------------------

    def check_log(self, recovered: RecoveredLog, register: Register) -> None:
        """Check that each epoch in the log was claimed, and as it is there. Raises Corruption."""
        where: object = self._paths.epochs if self._identity.register == LOCAL else register.url
        hint = _EPOCHS_HINT if self._identity.register == LOCAL else _REGISTER_HINT
        registered = {record.epoch.number: record.epoch for record in self._records}
        for epoch, _ in recovered.epochs:
            if epoch.number not in registered:
                raise Corruption(where, 0, f"epoch {epoch.number} is in the log, but its claim is lost", hint)
            if registered[epoch.number] != epoch:
                what = f"epoch {epoch.number} has another nonce in the log than in the register"
                raise Corruption(where, 0, what, hint)

    def claim(self, env: Environment, register: Register, node: NodeRecord) -> Epoch:
        """Claim the number above every one that the register, the log or the store that this is a copy of has seen.

        Raises ReplicationError (PROMOTION_REFUSED) where the newest claim is another node's, or becomes so in this moment.
        """
        newest = self._records[-1] if self._records else None
        if newest is not None and not self._is_own(newest):
            raise _refused(f"{_whose(newest)} has claimed epoch {newest.epoch.number}, the newest one")
        other = before_leading(self._records, self._is_own)
        if other is not None:
            what = (
                f"{_whose(other)} has claimed epoch {other.epoch.number}, and no promotion of this node has come to its end since"
            )
            raise _refused(what)
        copied = self._origin.position.epoch.number if self._origin is not None else 0
        epoch = Epoch(max([0, copied, *(record.epoch.number for record in self._records)]) + 1, env.random_id())
        try:
            register.claim(epoch, node, env.clock.now_ms())
        except FileExistsError:
            if self._identity.register == LOCAL:
                raise
            raise _refused(f"another node has claimed epoch {epoch.number} in this moment") from None
        return epoch

    def confirm(self, claimed: Epoch, recovered: RecoveredLog) -> Epoch:
        """Return an epoch that was claimed before, if it is ours, the newest, and not begun. Raises ReplicationError."""
        record = next((record for record in self._records if record.epoch == claimed), None)
        if record is None or not self._is_own(record):
            raise _refused(
                f"epoch {claimed.number} was not claimed by this node" + (f" but by {_whose(record)}" if record else "")
            )
        newest = self._records[-1]
        if newest.epoch != claimed:
            raise _refused(f"{_whose(newest)} has claimed epoch {newest.epoch.number}, behind {claimed.number}")
        if record.branch is not None:
            raise _refused(f"epoch {claimed.number} was begun before; a start claims one of its own")
        if recovered.position.epoch.number >= claimed.number:
            raise _refused(
                f"the log has come to epoch {recovered.position.epoch.number}, epoch {claimed.number} cannot follow it"
            )
        return claimed

    # -- history --------------------------------------------------------------------------------------------------

    def past_epochs(self, recovered: RecoveredLog, current: Epoch = NO_EPOCH) -> list[tuple[Epoch, Position]]:
        """Return the epochs that led to the log's end, oldest first; the log no longer holds all of them.

        Epochs of the register that are not of this line are left out: their primaries were not followed.
        """
        known = list(self._origin.epochs) if self._origin is not None else []
        known += [(record.epoch, record.branch) for record in self._records if record.begun and record.branch is not None]
        began = {epoch: position for epoch, position in [*known, *recovered.epochs] if epoch != current}
        line: list[tuple[Epoch, Position]] = []
        epoch = recovered.position.epoch
        while epoch in began:
            position = began.pop(epoch)
            line.append((epoch, position))
            epoch = position.epoch
        if epoch != NO_EPOCH:  # the line breaks off: what is older is taken as it comes
            line += sorted(((one, at) for one, at in began.items() if one.number < epoch.number), reverse=True)
        return line[::-1]


def before_leading(records: Sequence[EpochRecord], is_own: Callable[[EpochRecord], bool]) -> EpochRecord | None:
    """Return the newest claim of another node, if this one has recorded no branch since; None: it was the last to lead, or first.

    A branch is recorded behind the promises of the others and with all that they had. A mere claim proves neither.
    """
    for record in reversed(records):
        if not is_own(record):
            return record
        if record.branch is not None:
            return None
    return None


def read_claims(paths: DataPaths, identity: Identity, origin: Origin | None, register: Callable[[], Register]) -> Claims:
    """Return what the register says; nothing where it cannot be reached: a follower does without."""
    try:
        records = register().records()
    except (OSError, ReplicationError):
        records = []
    return Claims(paths, identity, origin, records)


def check_register(identity: Identity, register_id: str, paths: DataPaths) -> None:
    """Raise OpenRefused where a folder belongs to another register than the one it is opened with."""
    if identity.register != register_id:
        raise OpenRefused(
            f"{paths.root} claims its epochs in a register of kind {identity.register!r}, not {register_id!r}",
            "start the server with the register that the folder was created with",
        )


def _whose(record: EpochRecord) -> str:
    return f"node {record.node!r}" if record.node else f"the node with id {record.node_id or 'unknown'}"


def _refused(why: str) -> KvError:
    hint = "start this node as a follower, and make it primary with: kvctl promote, if it is to be"
    return ReplicationError(Code.PROMOTION_REFUSED, f"this node cannot become primary: {why}", hint)
