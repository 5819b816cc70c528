"""What a follower is answered: every row of the table in ``kvserver.replication.judge``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from kvserver.base.errors import Code, ReplicationError
from kvserver.base.types import NO_EPOCH, Epoch, LogEnd, Position
from kvserver.replication.judge import Accept, Behind, Forked, Here, HigherEpoch, TwoPrimaries, Verdict, check_heard, judge
from kvserver.replication.messages import Diverged, EpochBegin, Gone, Hello, NodeIdentity
from kvserver.wal.format import SEGMENT_HEADER_LENGTH

CLUSTER = bytes(range(16))
ONE, TWO, THREE, FOUR = (Epoch(number, number * 11) for number in (1, 2, 3, 4))


def chain(text: str) -> bytes:
    return text.encode().ljust(16, b".")


def at(epoch: Epoch, revision: int, history: str = "") -> Position:
    return Position(epoch, revision, chain(f"{epoch.number}/{revision}{history}"))


CREATION = at(NO_EPOCH, 1)
BEGAN_TWO = at(ONE, 10)
BEGAN_THREE = at(TWO, 20)
EPOCHS: list[EpochBegin] = [(ONE, CREATION), (TWO, BEGAN_TWO), (THREE, BEGAN_THREE)]


@dataclasses.dataclass
class Log:
    """Segments by id: their places, in order, and whether they are sealed. The first revision of all of them is ``oldest``."""

    places: dict[int, dict[int, Position]]
    sealed: Sequence[int] = ()
    oldest: int = 2

    def position_at(self, segment_id: int, offset: int) -> Position | None:
        return self.places.get(segment_id, {}).get(offset)

    def begin_for(self, revision: int) -> tuple[int, int] | None:
        if revision < self.oldest:
            return None
        for segment_id, places in self.places.items():
            if revision <= max(place.revision for place in places.values()):
                return segment_id, 0
        return list(self.places)[-1], 0

    def after(self, segment_id: int) -> int | None:
        ids = list(self.places)
        following = ids.index(segment_id) + 1
        return ids[following] if following < len(ids) else None

    def is_sealed_end(self, segment_id: int, offset: int) -> bool:
        return segment_id in self.sealed and offset == max(self.places[segment_id])

    def oldest_revision(self) -> int:
        return self.oldest


HEADER = SEGMENT_HEADER_LENGTH


def the_log() -> Log:
    """Three segments, one an epoch; at 5000 a group ended, at 5096 the seal."""
    return Log(
        {
            101: {HEADER: at(ONE, 1), 4500: at(ONE, 5), 5000: at(ONE, 10), 5096: at(ONE, 10)},
            102: {HEADER: at(TWO, 10), 4500: at(TWO, 15), 5000: at(TWO, 20), 5096: at(TWO, 20)},
            103: {HEADER: at(THREE, 20), 4500: at(THREE, 25), 5000: at(THREE, 30)},
        },
        sealed=(101, 102),
    )


def identity(name: str = "b", **changes: Any) -> NodeIdentity:
    return NodeIdentity(CLUSTER, name, f"id-{name}", f"{name}:7400", "folder:x")._replace(**changes)


def here(**changes: Any) -> Here:
    end = LogEnd(at(THREE, 30), 103, 5000)
    return Here(identity("a"), THREE, EPOCHS, end, archived=4)._replace(**changes)


def hello(position: Position, segment_id: int = 0, offset: int = 0, **changes: Any) -> Hello:
    number = position.epoch.number
    epochs = [begin for begin in EPOCHS if begin[0].number <= number]
    return Hello(identity(), THREE, LogEnd(position, segment_id, offset), epochs)._replace(**changes)


def judged(said: Hello, log: Log | None = None, **changes: Any) -> Verdict:
    return judge(here(**changes), said, log or the_log())


# -- which place -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "segment_id", "offset", "accepted"),
    [
        (at(ONE, 5), 101, 4500, (101, 4500)),
        (at(ONE, 1), 101, HEADER, (101, HEADER)),
        (at(ONE, 10), 101, 5000, (101, 5000)),
        (at(ONE, 10), 101, 5096, (102, 0)),
        (at(TWO, 20), 102, 5096, (103, 0)),
        (at(THREE, 30), 103, 5000, (103, 5000)),
        (at(THREE, 20), 103, HEADER, (103, HEADER)),
    ],
)
def test_it_is_accepted_at_exactly_its_place(position: Position, segment_id: int, offset: int, accepted: tuple[int, int]) -> None:
    assert judged(hello(position, segment_id, offset)) == Accept(*accepted)


def test_the_segment_behind_a_sealed_one_need_not_be_there_yet() -> None:
    log = the_log()
    log.sealed = (101, 102, 103)
    assert judged(hello(at(THREE, 30), 103, 5000), log) == Accept(103, 5000)


@pytest.mark.parametrize(("revision", "segment_id"), [(5, 101), (10, 102), (9, 101), (25, 103), (30, 103)])
def test_tables_alone_are_accepted_at_the_begin_of_the_segment_behind(revision: int, segment_id: int) -> None:
    epoch = ONE if revision <= 10 else THREE
    assert judged(hello(at(epoch, revision))) == Accept(segment_id, 0)


def test_the_creation_is_a_place_too() -> None:
    assert judged(hello(CREATION)) == Accept(101, 0)
    assert judged(hello(CREATION, epochs=[(ONE, CREATION)])) == Accept(101, 0)


def test_tables_whose_position_is_another_one_here_are_a_fork() -> None:
    verdict = judged(hello(at(THREE, 20, "other")))
    assert isinstance(verdict, Forked)
    assert verdict.diverged.common == BEGAN_THREE


def test_tables_behind_which_the_log_begins_later_find_it_gone() -> None:
    log = the_log()
    del log.places[101]
    log.oldest = 11
    assert judged(hello(at(ONE, 5)), log) == Gone(11, 4)
    assert judged(hello(at(ONE, 10)), log) == Accept(102, 0)


def test_a_log_whose_segment_was_deleted_finds_it_gone() -> None:
    log = the_log()
    del log.places[101]
    log.oldest = 11
    assert judged(hello(at(ONE, 5), 101, 4500), log) == Gone(11, 4)
    # Its seal was in that segment: nobody can send it that any more, although no commit is missing.
    assert judged(hello(at(ONE, 10), 101, 5000), log) == Gone(11, 4)


def test_no_frame_ends_where_it_says_it_ends() -> None:
    verdict = judged(hello(at(ONE, 5), 101, 4508))
    assert isinstance(verdict, Forked)
    assert verdict.diverged == Diverged(CREATION, ONE, EPOCHS)


def test_another_position_at_its_place_is_a_fork() -> None:
    verdict = judged(hello(at(THREE, 25, "other"), 103, 4500))
    assert isinstance(verdict, Forked)
    assert verdict.diverged == Diverged(BEGAN_THREE, THREE, EPOCHS)


def test_a_segment_that_is_unknown_here_in_the_midst_of_an_epoch_is_a_fork() -> None:
    assert isinstance(judged(hello(at(THREE, 25), 999, 4500)), Forked)


@pytest.mark.parametrize(("segment_id", "offset"), [(103, 5072), (104, HEADER)])
def test_frames_without_commits_that_are_not_here_yet(segment_id: int, offset: int) -> None:
    with pytest.raises(Behind) as caught:
        judged(hello(at(THREE, 30), segment_id, offset))
    assert caught.value.code is Code.STALE


def test_the_seals_of_the_last_segment_of_an_epoch_may_differ() -> None:
    verdict = judged(hello(at(ONE, 10), 101, 5168))
    assert verdict == Diverged(at(ONE, 10), TWO, EPOCHS)


# -- where its history parts -----------------------------------------------------------------------------------------


def test_a_suffix_of_an_old_epoch_goes_back_to_where_the_next_one_began() -> None:
    assert judged(hello(at(ONE, 12), 101, 6000)) == Diverged(BEGAN_TWO, TWO, EPOCHS)
    assert judged(hello(at(TWO, 21), 102, 6000)) == Diverged(BEGAN_THREE, THREE, EPOCHS)
    assert judged(hello(at(TWO, 21))) == Diverged(BEGAN_THREE, THREE, EPOCHS)


def test_another_chain_where_the_next_epoch_began_is_a_fork() -> None:
    verdict = judged(hello(at(ONE, 10, "other"), 101, 5000))
    assert isinstance(verdict, Forked)
    assert verdict.diverged == Diverged(CREATION, ONE, EPOCHS)


def test_tables_with_another_chain_where_the_next_epoch_began_are_a_fork() -> None:
    """They name no place in the log, and the segment behind them begins with the chain of its own epoch."""
    found = judged(hello(at(ONE, 10, "other")))
    assert isinstance(found, Forked) and found.diverged == Diverged(CREATION, ONE, EPOCHS)


def test_an_epoch_that_was_claimed_and_lost_goes_back_to_where_it_began() -> None:
    """Epoch 3 began at revision 18 there; here epoch 4 began at 20, and epoch 3 never was."""
    mine = [(ONE, CREATION), (TWO, BEGAN_TWO), (FOUR, BEGAN_THREE)]
    end = LogEnd(at(FOUR, 30), 103, 5000)
    for left, common, goes_on in (
        (at(TWO, 18), at(TWO, 18), TWO),
        (at(TWO, 20), BEGAN_THREE, FOUR),
        (at(TWO, 22), BEGAN_THREE, FOUR),
    ):
        said = hello(at(THREE, 24), 777, 5000, epochs=[*EPOCHS[:2], (THREE, left)])
        assert judged(said, epochs=mine, end=end, promised=FOUR) == Diverged(common, goes_on, mine)


def test_where_a_lost_epoch_began_with_another_chain_is_a_fork() -> None:
    mine = [(ONE, CREATION), (TWO, BEGAN_TWO), (FOUR, BEGAN_THREE)]
    said = hello(at(THREE, 24), 777, 5000, epochs=[*EPOCHS[:2], (THREE, at(TWO, 20, "other"))])
    verdict = judged(said, epochs=mine, end=LogEnd(at(FOUR, 30), 103, 5000), promised=FOUR)
    assert isinstance(verdict, Forked)
    assert verdict.diverged.common == BEGAN_TWO


def test_where_it_left_is_not_told_goes_back_to_what_is_certain() -> None:
    mine = [(ONE, CREATION), (TWO, BEGAN_TWO), (FOUR, BEGAN_THREE)]
    said = hello(at(THREE, 24), 777, 5000, epochs=EPOCHS[:2])
    verdict = judged(said, epochs=mine, end=LogEnd(at(FOUR, 30), 103, 5000), promised=FOUR)
    assert verdict == Diverged(BEGAN_TWO, TWO, mine)


def test_an_epoch_without_commits_that_it_left_is_no_fork() -> None:
    """Epoch 2 has no commits here: it began at revision 10, and so did epoch 4."""
    empty_end = at(TWO, 10)
    mine = [(ONE, CREATION), (TWO, BEGAN_TWO), (FOUR, empty_end)]
    said = hello(at(THREE, 12), 777, 5000, epochs=EPOCHS[:2])
    verdict = judged(said, epochs=mine, end=LogEnd(at(FOUR, 30), 103, 5000), promised=FOUR)
    assert verdict == Diverged(BEGAN_TWO, TWO, mine)


def test_the_same_cluster_without_a_shared_epoch_goes_back_to_the_creation() -> None:
    mine = [(TWO, CREATION), (THREE, at(TWO, 20))]
    verdict = judged(hello(at(ONE, 5), 101, 4500, epochs=[(ONE, CREATION)]), epochs=mine)
    assert verdict == Diverged(CREATION, TWO, mine)


def test_what_it_knows_of_later_epochs_says_nothing_of_its_log() -> None:
    assert judged(hello(at(ONE, 5), 101, 4500, epochs=EPOCHS)) == Accept(101, 4500)


def test_whoever_has_more_of_the_same_epoch_is_told_that_this_node_is_behind() -> None:
    with pytest.raises(Behind, match="ends at revision 30, that of b at 31"):
        judged(hello(at(THREE, 31), 103, 6000))
    with pytest.raises(Behind, match="of epoch 3, that of b of epoch 4"):
        judged(hello(at(FOUR, 31), 104, 6000, promised=FOUR), promised=FOUR)


def test_the_same_revision_at_the_end_with_another_chain_is_a_fork() -> None:
    assert isinstance(judged(hello(at(THREE, 30, "other"), 103, 5000)), Forked)


# -- who asks, which epochs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "does not say its name"),
        ({"node_id": ""}, "does not say its name"),
        ({"cluster_id": b""}, "belongs to no cluster"),
        ({"cluster_id": bytes(16)}, "is of cluster 0000"),
        ({"node_id": "id-a"}, "this very node"),
        ({"register_id": "folder:y"}, "sees the register 'folder:y'"),
        ({"address": "b:1"}, "nobody would be first"),
    ],
)
def test_strangers_are_refused_by_name(changes: dict[str, Any], words: str) -> None:
    said = hello(at(THREE, 30), 103, 5000, identity=identity(**changes))
    with pytest.raises(ReplicationError, match=words) as caught:
        judged(said, follows="b:1")
    assert caught.value.code is Code.WRONG_PEER


def test_a_candidate_may_be_followed_and_catch_up_all_the_same() -> None:
    said = hello(at(THREE, 30), 103, 5000, only_log=True)
    assert judged(said, follows="b:7400") == Accept(103, 5000)


def test_a_higher_epoch_deposes() -> None:
    with pytest.raises(HigherEpoch) as caught:
        judged(hello(at(THREE, 25), 103, 4500, promised=FOUR))
    assert (caught.value.code, caught.value.epoch) == (Code.FENCED, FOUR)
    with pytest.raises(HigherEpoch):
        judged(hello(at(FOUR, 25), 103, 4500))


def test_who_promised_an_epoch_follows_no_lower_one_but_may_catch_up() -> None:
    said = hello(at(THREE, 25), 103, 4500, promised=FOUR)
    with pytest.raises(ReplicationError, match="promised to obey epoch 4") as caught:
        judged(said, promised=FOUR)
    assert caught.value.code is Code.FENCED
    assert not isinstance(caught.value, HigherEpoch)
    assert judged(said._replace(only_log=True), promised=FOUR) == Accept(103, 4500)


@pytest.mark.parametrize(
    "changes",
    [
        {"promised": Epoch(3, 99)},
        {"epochs": [(Epoch(1, 99), CREATION)]},
        {"end": LogEnd(Position(Epoch(3, 99), 25, bytes(16)), 103, 4500)},
    ],
)
def test_one_number_with_two_nonces_is_an_alarm(changes: dict[str, Any]) -> None:
    with pytest.raises(TwoPrimaries) as caught:
        judged(hello(at(THREE, 25), 103, 4500)._replace(**changes))
    assert caught.value.code is Code.FENCED


def test_two_nonces_of_a_promise_are_an_alarm_too() -> None:
    with pytest.raises(TwoPrimaries):
        check_heard(here(promised=FOUR), Epoch(4, 1), "b")
    check_heard(here(promised=FOUR), FOUR, "b")
    check_heard(here(), NO_EPOCH, "b")
