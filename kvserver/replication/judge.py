"""What a follower that introduces itself is answered: the log from exactly where its own ends, or why not.

A follower says where its log ends (position, segment, offset), and which epochs led there. The newest epoch that both nodes know
is the *shared* one. In it the two histories are the same up to the earlier of their ends: an epoch has one writer, and ends
where the next one began. So the shared epoch, and where each side left it, say where the histories part; the segment's id, the
offset and the chain then prove that the bytes are the same too.

The rows, in the order in which they are asked; the first that fits is the answer:

    who asks
      no name or id, no cluster, or another one; another register     WRONG_PEER
      this very node, or the one that this node follows               WRONG_PEER
    which epochs
      a number that is known here with another nonce                  FENCED, an alarm: two primaries of one number
      it knows a higher epoch than this node, and than it promised    FENCED, and this node hears of it
      its log is of a higher epoch than this node's log               STALE: this node is the one that is behind
      it promised a higher one than this log's, and wants to follow   FENCED: follow the primary of that epoch
    where its history parts, with the shared epoch
      none is shared                                                  at the creation, else DIVERGED there
      it left the shared epoch for one that is unknown here           DIVERGED at the earlier of the two ends; at the
                                                                      epoch's begin where it does not say where it left it
      it ends behind the end of the shared epoch here                 DIVERGED at that end
      it is at that end, with another chain                           DIVERGED at the epoch's begin, an alarm
      this node's log still is in the shared epoch, and ends before   STALE
    which place in the log
      a frame ends there, with an equal position                      ACCEPT there; at a sealed end: at the next segment
      a frame ends there, with another position                       DIVERGED at the epoch's begin, an alarm
      only tables, and the log has the revision behind them           ACCEPT at the begin of its segment
      the log begins behind it, and its segment is not here           GONE
      its position is where this node's log ends                      STALE: it has frames without commits that are not here
      its position is where the next epoch began                      DIVERGED at its own position: see below
      anything else                                                   DIVERGED at the epoch's begin, an alarm

*Diverged at its own position*: both have the same commits, but a mark or a seal behind them differs, as when the old primary
sealed its segment while the new one had the same place sealed by itself. Nothing is lost by going back to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

from kvserver.base.errors import Code, ReplicationError
from kvserver.base.types import Epoch, LogEnd, Position
from kvserver.replication.messages import Diverged, EpochBegin, Gone, Hello, NodeIdentity
from kvserver.wal.format import SEGMENT_HEADER_LENGTH


class Places(Protocol):
    """What is asked of a log: ``kvserver.wal.tail.LogTail``."""

    def position_at(self, segment_id: int, offset: int) -> Position | None:
        """Return the position behind the frame that ends exactly there; None: none does, or the segment is not here."""

    def begin_for(self, revision: int) -> tuple[int, int] | None:
        """Return the segment that contains the revision, or will, and offset 0; None: it is gone."""

    def after(self, segment_id: int) -> int | None:
        """Return the segment behind a sealed one."""

    def is_sealed_end(self, segment_id: int, offset: int) -> bool:
        """Say whether a sealed segment ends there."""

    def oldest_revision(self) -> int:
        """Return the first revision of the oldest segment."""


class Here(NamedTuple):
    """The node that answers, at this moment."""

    identity: NodeIdentity
    promised: Epoch
    epochs: Sequence[EpochBegin]
    """Of its history, oldest first; at least one."""
    end: LogEnd
    """Where its log durably ends."""
    archived: int
    follows: str = ""
    """The address of the node that it follows; empty: nobody."""


class Accept(NamedTuple):
    """The log is shipped from there."""

    segment_id: int
    offset: int


class Forked(NamedTuple):
    """The follower diverged where no honest history can: within an epoch, which has one writer."""

    diverged: Diverged
    what: str


Verdict: TypeAlias = Accept | Gone | Diverged | Forked


class HigherEpoch(ReplicationError):
    """Another node knows a higher epoch: if this node is primary, it is one no more."""

    def __init__(self, epoch: Epoch, known: Epoch, who: str) -> None:
        super().__init__(
            Code.FENCED,
            f"{who} knows epoch {epoch.number}; this node knows none above {known.number}",
            "follow the primary of the newest epoch; see who it is with: kvctl cluster status",
        )
        self.epoch = epoch
        self.details["epoch"] = str(known.number)


class TwoPrimaries(ReplicationError):
    """One number was given to two epochs: the nodes do not claim in the same register."""

    def __init__(self, mine: Epoch, theirs: Epoch, who: str) -> None:
        super().__init__(
            Code.FENCED,
            f"epoch {mine.number} has the nonce {mine.nonce:016x} here, and {theirs.nonce:016x} at {who}: "
            "two nodes claimed one number, in registers that are not the same",
            "stop one of the two, and compare the registers of both with: kvctl cluster status",
        )
        self.mine, self.theirs = mine, theirs


class Behind(ReplicationError):
    """The other node has more than this one."""

    def __init__(self, what: str) -> None:
        super().__init__(Code.STALE, f"this node is behind the one that asks: {what}", "ask again later, or another node")


def judge(here: Here, hello: Hello, places: Places) -> Verdict:
    """Return what a hello is answered. Raises ReplicationError: HigherEpoch, TwoPrimaries, Behind, or WRONG_PEER or FENCED."""
    check_hello(here, hello)
    parted = _parted(here, hello)
    return parted if parted is not None else _place(here, hello, places)


def check_hello(here: Here, hello: Hello) -> None:
    """Raise what ``judge`` does for who asks and which epochs it knows, without a look at the log."""
    _check_identity(here, hello)
    _check_epochs(here, hello)


def check_heard(here: Here, epoch: Epoch, who: str) -> None:
    """Raise HigherEpoch or TwoPrimaries if an epoch that another node names does not go with what is known here."""
    for known in (*(known for known, _ in here.epochs), here.promised):
        if known.number == epoch.number and known != epoch and epoch.number:
            raise TwoPrimaries(known, epoch, who)
    known = max(here.promised, here.epochs[-1][0])
    if epoch.number > known.number:
        raise HigherEpoch(epoch, known, who)


# -- who asks, which epochs ----------------------------------------------------------------------------------------------


def _check_identity(here: Here, hello: Hello) -> None:
    mine, theirs = here.identity, hello.identity
    if not theirs.name or not theirs.node_id:
        raise _wrong("it does not say its name and id", "give each node a name of its own with: --name")
    if not theirs.cluster_id:
        raise _wrong(
            f"{theirs.name} belongs to no cluster yet, so it has no log to go on with", "fetch a copy of the store first"
        )
    if theirs.cluster_id != mine.cluster_id:
        what = f"{theirs.name} is of cluster {theirs.cluster_id.hex()}, this node of {mine.cluster_id.hex()}"
        raise _wrong(what, "follow a node of its own cluster, or give it an empty data folder")
    if theirs.node_id == mine.node_id:
        raise _wrong(f"{theirs.name} is this very node, or a copy of its data folder", "follow another node")
    if theirs.register_id != mine.register_id:
        what = f"{theirs.name} sees the register {theirs.register_id!r}, this node {mine.register_id!r}"
        raise _wrong(what, "start all nodes of a cluster with the same --register")
    if here.follows and here.follows == theirs.address and not hello.only_log:
        raise _wrong(f"this node follows {theirs.name} at {here.follows}: nobody would be first", "follow the primary")


def _check_epochs(here: Here, hello: Hello) -> None:
    who = hello.identity.name
    for epoch in (*(epoch for epoch, _ in hello.epochs), hello.end.position.epoch, hello.promised):
        check_heard(here, epoch, who)
    current, theirs = here.epochs[-1][0], hello.end.position.epoch
    if theirs.number > current.number:
        raise Behind(f"its log is of epoch {current.number}, that of {who} of epoch {theirs.number}")
    if hello.promised.number > current.number and not hello.only_log:
        raise ReplicationError(
            Code.FENCED,
            f"{who} promised to obey epoch {hello.promised.number}; this node's log is of epoch {current.number}",
            "follow the primary of that epoch; see who it is with: kvctl cluster status",
        )


def _wrong(what: str, hint: str) -> ReplicationError:
    return ReplicationError(Code.WRONG_PEER, what, hint)


# -- where its history parts ---------------------------------------------------------------------------------------------


class _Shared(NamedTuple):
    """The newest epoch that both logs have something of."""

    epoch: Epoch
    began: Position
    following: EpochBegin | None
    """What came behind it here; None: nothing yet."""
    left: Position | None
    """Where the follower went on in an epoch that is unknown here; None: it did not. Its begin, where that is not told."""


def _shared(here: Here, hello: Hello) -> _Shared | None:
    end_epoch = hello.end.position.epoch
    # What it knows of later epochs says nothing about its log.
    theirs = {epoch: began for epoch, began in hello.epochs if epoch.number <= end_epoch.number}
    following: EpochBegin | None = None
    for epoch, began in reversed(here.epochs):
        if epoch == end_epoch:
            return _Shared(epoch, began, following, None)
        if epoch in theirs:
            later = [begin for begin in theirs.items() if begin[0].number > epoch.number]
            left = min(later)[1] if later else began
            return _Shared(epoch, began, following, left if left.epoch == epoch else began)
        following = (epoch, began)
    return None


def _parted(here: Here, hello: Hello) -> Verdict | None:
    """Return where the follower's history parts from this one's, as far as epochs and revisions tell; None: nowhere."""
    end = hello.end.position
    shared = _shared(here, hello)
    if shared is None:
        first, creation = here.epochs[0]
        # The same cluster has the same creation, whatever else they do not share.
        return None if end == creation else Diverged(creation, first, list(here.epochs))
    if shared.following is None:
        return _parted_in_current(here, hello, shared)
    following, branch = shared.following
    left = shared.left
    if left is not None:
        if left.epoch != shared.epoch or left.revision < branch.revision:
            return Diverged(left, shared.epoch, list(here.epochs))
        if left.revision == branch.revision and left != branch:
            return _forked(here, shared, f"it left epoch {shared.epoch.number} at revision {left.revision} with another chain")
        return Diverged(branch, following, list(here.epochs))
    if end.revision > branch.revision:
        return Diverged(branch, following, list(here.epochs))
    if end.revision == branch.revision and end != branch and end.epoch == branch.epoch:
        return _forked(here, shared, f"its revision {end.revision} of epoch {end.epoch.number} has another chain")
    return None


def _parted_in_current(here: Here, hello: Hello, shared: _Shared) -> Verdict | None:
    """The same, where this node's log still is in the shared epoch."""
    end, mine = hello.end.position, here.end.position
    if end.revision > mine.revision:
        raise Behind(f"its log durably ends at revision {mine.revision}, that of {hello.identity.name} at {end.revision}")
    if end.revision == mine.revision and end.epoch == mine.epoch and end != mine:
        return _forked(here, shared, f"its revision {end.revision} of epoch {end.epoch.number} has another chain")
    return None


def _forked(here: Here, shared: _Shared, what: str) -> Forked:
    return Forked(Diverged(shared.began, shared.epoch, list(here.epochs)), what)


# -- which place in the log ----------------------------------------------------------------------------------------------


def _place(here: Here, hello: Hello, places: Places) -> Verdict:
    """Return the place from which on the follower is shipped the log."""
    position, segment_id, offset = hello.end
    if not segment_id:
        return _place_behind_tables(here, hello, places)
    found = places.position_at(segment_id, offset)
    if found == position:
        following = places.after(segment_id) if places.is_sealed_end(segment_id, offset) else None
        return Accept(segment_id, offset) if following is None else Accept(following, 0)
    shared = _shared(here, hello)
    if found is not None:
        what = f"where segment {segment_id:016x} has {_named(found)} at offset {offset}, it has {_named(position)}"
        return _fork_at(here, shared, what)
    oldest = places.oldest_revision()
    if position.revision < oldest and places.position_at(segment_id, SEGMENT_HEADER_LENGTH) is None:
        return Gone(oldest, here.archived)
    if position == here.end.position:
        raise Behind(
            f"both are at revision {position.revision}, but {hello.identity.name} has frames behind it that are not here"
        )
    if shared is not None and shared.following is not None and position == shared.following[1]:
        return Diverged(position, shared.following[0], list(here.epochs))
    return _fork_at(here, shared, f"no frame of segment {segment_id:016x} ends at offset {offset}, as it says of its log")


def _place_behind_tables(here: Here, hello: Hello, places: Places) -> Verdict:
    """The same for a follower that has tables and no log. The chain is compared where the log names it without a search; the
    follower compares it again when it comes to its own position in what it is sent."""
    position = hello.end.position
    begin = places.begin_for(position.revision + 1)
    if begin is None:
        return Gone(places.oldest_revision(), here.archived)
    before = places.position_at(begin[0], SEGMENT_HEADER_LENGTH)
    if before is not None and before[:2] == position[:2] and before != position:
        return _fork_at(here, _shared(here, hello), f"its tables hold {_named(position)}, which is {_named(before)} here")
    return Accept(*begin)


def _fork_at(here: Here, shared: _Shared | None, what: str) -> Forked:
    if shared is None:
        first, creation = here.epochs[0]
        return Forked(Diverged(creation, first, list(here.epochs)), what)
    return _forked(here, shared, what)


def _named(position: Position) -> str:
    return f"revision {position.revision} of epoch {position.epoch.number}, chain {position.chain.hex()}"
