"""The search for a node: which one is taken, in which order they are asked, and when it ends."""

from __future__ import annotations

import pytest

from kvclient import _link
from kvclient._endpoints import MAX_LEARNT, Endpoints
from kvclient._search import Role, Search, Seek, role_of, seek_of


class World:
    """What each address is, and who is named by whom."""

    def __init__(self, given: str, seek: Seek, **avoided: bool) -> None:
        self.endpoints = Endpoints(given)
        self.search = Search(self.endpoints, seek, frozenset(name.replace("_", ":") for name in avoided))
        self.asked: list[str] = []

    def round(self, roles: dict[str, Role], named: dict[str, str] | None = None) -> str | None:
        """Ask one after the other; return who is taken, None where the round ends without."""
        while True:
            current = self.endpoints.current
            self.asked.append(current)
            word = ""
            if current in roles:
                if self.search.takes(roles[current]):
                    return current
                word = (named or {}).get(current, "")
            if not self.search.go_on(word):
                return None


ALL = {"a:1": Role.OTHER, "b:2": Role.PRIMARY, "c:3": Role.OTHER}
NOBODY = dict.fromkeys(ALL, Role.OTHER)


@pytest.mark.parametrize(
    ("seek", "found"), [(Seek.NODE, "a:1"), (Seek.PRIMARY, "b:2"), (Seek.FOLLOWERS, "a:1"), (Seek.ANY, "a:1")]
)
def test_what_fits_is_taken(seek: Seek, found: str) -> None:
    assert World("a:1,b:2,c:3", seek).round(ALL) == found


def test_a_node_that_does_not_know_the_question_is_taken_by_all() -> None:
    for seek in Seek:
        assert World("a:1", seek).round({"a:1": Role.UNKNOWN}) == "a:1"


def test_the_word_of_a_node_is_followed_to_one_that_nobody_named() -> None:
    world = World("a:1,c:3", Seek.PRIMARY)
    assert world.round(ALL, {"a:1": "b:2"}) == "b:2"
    assert world.asked == ["a:1", "b:2"]
    assert str(world.endpoints) == "a:1,c:3,b:2"


def test_nodes_that_name_each_other_are_asked_once() -> None:
    world = World("a:1,c:3", Seek.PRIMARY)
    assert world.round(NOBODY, {"a:1": "c:3", "c:3": "a:1"}) is None
    assert world.asked == ["a:1", "c:3"]


@pytest.mark.parametrize("word", ["nonsense", "h:0", "http://x", "a b:1:2", ":7400"])
def test_a_word_that_is_no_address_is_passed_over(word: str) -> None:
    world = World("a:1,b:2", Seek.PRIMARY)
    assert world.round(ALL, {"a:1": word}) == "b:2"
    assert len(world.endpoints) == 2


def test_without_a_primary_another_round_follows_a_pause_and_without_nodes_none_does() -> None:
    world = World("a:1,b:2", Seek.PRIMARY)
    assert world.round({}) is None
    assert (world.search.next_round(False), world.search.nobody()) == (None, None)
    assert world.search.next_round(True) is True
    assert world.round(NOBODY) is None
    assert world.search.next_round(False) is True
    nobody = world.search.nobody()
    assert nobody is not None and nobody.code == "NOT_PRIMARY" and not nobody.from_server
    assert world.round(ALL) == "b:2"


def test_the_primary_is_the_second_choice_of_who_wants_a_follower() -> None:
    world = World("b:2,d:4", Seek.FOLLOWERS)
    assert world.round(ALL) is None
    assert world.search.next_round(False) is False, "at once"
    assert world.round(ALL) == "b:2"
    assert world.search.settled


def test_who_was_left_a_moment_ago_is_taken_last() -> None:
    world = World("a:1,c:3", Seek.FOLLOWERS, a_1=True)
    assert world.round(ALL) == "c:3"
    both = World("a:1,c:3,b:2", Seek.FOLLOWERS, a_1=True, c_3=True)
    assert both.round(ALL) is None
    assert both.search.next_round(False) is False
    assert both.round(ALL) == "b:2", "the primary is fresh"
    only = World("a:1", Seek.ANY, a_1=True)
    assert only.round(ALL) is None
    assert only.search.next_round(False) is False
    assert only.round(ALL) == "a:1"


def test_a_primary_that_was_left_is_taken_where_there_is_no_other() -> None:
    world = World("a:1,b:2,c:3", Seek.PRIMARY, b_2=True)
    assert world.round(ALL) is None
    assert world.search.next_round(False) is False
    assert world.round(ALL) == "b:2"


def test_learnt_addresses_are_bounded_and_those_given_stay() -> None:
    endpoints = Endpoints("a:1,b:2")
    for number in range(1, 3 * MAX_LEARNT):
        assert endpoints.go_to(f"learnt:{number}")
        assert endpoints.current == f"learnt:{number}"
    assert len(endpoints) == 2 + MAX_LEARNT
    assert endpoints.given == ["a:1", "b:2"]
    assert endpoints.go_to("a:1") and endpoints.current == "a:1"


def test_health_and_choices() -> None:
    assert [role_of(word) for word in (b"\x08\x01", b"\x08\x02", b"", None)] == [
        Role.PRIMARY,
        Role.OTHER,
        Role.OTHER,
        Role.UNKNOWN,
    ]
    assert [seek_of(name) for name in ("primary", "followers", "any")] == [Seek.PRIMARY, Seek.FOLLOWERS, Seek.ANY]
    for bad in ("node", "nearest", ""):
        with pytest.raises(ValueError, match="read_from"):
            seek_of(bad)


def test_an_answer_without_nodes_names_nobody() -> None:
    assert _link.primary_known_to(None) == ""
