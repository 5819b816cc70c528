"""Opening a folder as a follower, or as primary of a cluster: what it becomes a node of, and whose epochs count."""

from __future__ import annotations

import pytest

from kvserver.base.environment import Environment
from kvserver.base.errors import Code, Corruption, OpenRefused, ReplicationError
from kvserver.base.events import EpochBegun, Event, LogRecovered, StoreCreated
from kvserver.base.register import EpochRecord, NodeRecord
from kvserver.base.types import NO_EPOCH, Epoch, Role
from kvserver.commit.requests import Put
from kvserver.engine.claiming import Claims
from kvserver.storage.origin import read_origin
from support.clocks import ManualClock
from support.logs import PATHS
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.stores import content, do, run_settling, settle
from unit.engine.followed import SHARED, Node, Pair, SharedRegister, ship, write_history

OTHER = bytes(range(16))


class Unreachable(SharedRegister):
    """A register that does not answer."""

    def records(self) -> list[EpochRecord]:
        raise ReplicationError(Code.REGISTER_UNAVAILABLE, "it does not answer", "see to it")


def refused(node: Node, role: Role = Role.PRIMARY, **options: object) -> str:
    """Return the message with which becoming primary is refused; nothing of it was claimed or written."""
    before, files = dict(node.register.held), node.disk.contents()
    with pytest.raises(ReplicationError) as error:
        node.open(role, **options)  # type: ignore[arg-type]
    assert error.value.code is Code.PROMOTION_REFUSED
    assert error.value.hint
    assert node.register.held == before
    after = node.disk.contents()
    assert {path for path in files if path.suffix == ".wal"} == {path for path in after if path.suffix == ".wal"}
    return error.value.message


# As a follower


def test_a_new_folder_becomes_a_follower_of_the_cluster_and_claims_nothing() -> None:
    register, events = SharedRegister(), list[Event]()
    node = Node("b", register)
    database = node.open(Role.FOLLOWER, OTHER, listener=events.append)
    assert (database.identity.cluster_id, database.identity.register) == (OTHER, SHARED)
    assert (database.role, database.history.current) == (Role.FOLLOWER, NO_EPOCH)
    assert (database.marks.visible, database.marks.durable, database.log_end().segment_id) == (1, 1, 0)
    assert [type(event) for event in events] == [StoreCreated, LogRecovered]
    assert register.held == {}
    assert node.disk.list_dir(PATHS.wal) == []
    node.disk = node.disk.power_loss(lambda _: LOST)
    assert node.open(Role.FOLLOWER).identity == database.identity


def test_a_folder_of_no_cluster_cannot_follow() -> None:
    with pytest.raises(OpenRefused, match="belongs to no cluster yet") as error:
        Node("b", SharedRegister()).open(Role.FOLLOWER)
    assert "--follow" in error.value.hint


@pytest.mark.parametrize("role", list(Role))
def test_a_folder_of_another_cluster_is_refused(role: Role) -> None:
    pair = Pair()
    pair.follower.close()
    with pytest.raises(OpenRefused, match=OTHER.hex()):
        pair.b.open(role, OTHER)


def test_a_follower_opens_while_the_register_does_not_answer_and_a_primary_does_not() -> None:
    pair = Pair()
    write_history(pair.primary)
    pair.ship()
    pair.follower.close()
    pair.b.register = Unreachable()
    follower = pair.b.open(Role.FOLLOWER)
    assert follower.history.epochs == pair.primary.history.epochs
    follower.close()
    with pytest.raises(ReplicationError) as error:
        pair.b.open(Role.PRIMARY)
    assert error.value.code is Code.REGISTER_UNAVAILABLE


def test_a_folder_keeps_its_register() -> None:
    pair = Pair()
    pair.follower.close()
    with pytest.raises(OpenRefused, match="register-1"):
        pair.b.open(Role.FOLLOWER, register_id="register-2")


# A copy of the store


def copied(pair: Pair, disk: MemoryFileSystem) -> None:
    """Put a checkpoint of the primary where a new node's folder will be."""
    target = PATHS.root.with_name("copy")
    run_settling(pair.primary, pair.primary.checkpoint(target))
    for path, data in pair.a.disk.contents().items():
        if path.is_relative_to(target):
            disk.plant(PATHS.root / path.relative_to(target), data)


def test_a_copy_of_the_clusters_own_store_goes_on_from_where_it_was_made() -> None:
    pair = Pair()
    write_history(pair.primary)
    disk = MemoryFileSystem()
    copied(pair, disk)
    made_at = pair.primary.marks.visible
    node = Node("c", pair.register, disk)
    database = node.open(Role.FOLLOWER, pair.cluster_id)
    assert (database.marks.flushed, database.marks.visible) == (made_at, made_at)
    assert database.history.epochs == pair.primary.history.epochs
    assert content(database) == content(pair.primary)
    do(pair.primary, Put(1, b"later", b"v"))
    ship(pair.primary, database)
    database.hear(pair.primary.marks.visible)
    assert content(database) == content(pair.primary)
    disk.kill()
    again = node.open(Role.FOLLOWER)
    again.hear(pair.primary.marks.visible)
    assert content(again) == content(pair.primary)
    assert again.history.epochs == pair.primary.history.epochs
    claimed = node.claim()
    again.close()
    assert content(node.open(Role.PRIMARY, claimed=claimed)) == content(pair.primary)


def test_a_copy_of_another_clusters_store_does_not_become_a_node_of_this_one() -> None:
    pair = Pair()
    write_history(pair.primary)
    disk = MemoryFileSystem()
    copied(pair, disk)
    with pytest.raises(OpenRefused, match="holds a checkpoint of cluster"):
        Node("c", pair.register, disk).open(Role.FOLLOWER, OTHER)


# As primary, where others are


def test_a_restart_of_the_primary_claims_the_next_epoch() -> None:
    pair = Pair()
    do(pair.primary, Put(1, b"a", b"1"))
    pair.primary.close()
    events: list[Event] = []
    again = pair.a.open(Role.PRIMARY, listener=events.append)
    assert again.history.current.number == 2
    assert pair.register.held[2].node == "a"
    assert pair.register.held[2].node_id == again.identity.node_id
    assert any(isinstance(event, EpochBegun) for event in events)


def test_a_start_as_primary_is_refused_while_another_nodes_claim_is_the_newest() -> None:
    pair = Pair()
    do(pair.primary, Put(1, b"a", b"1"))
    pair.primary.close()
    pair.b.claim()
    assert "node 'b' has claimed epoch 2" in refused(pair.a)


def test_a_start_behind_a_promotion_that_came_to_nothing_is_refused() -> None:
    """A claim alone proves neither the promises of the others nor that nothing of what they acknowledged is missing here."""
    pair = Pair()
    pair.ship()
    do(pair.primary, Put(1, b"not", b"here"))
    pair.b.claim()
    pair.follower.close()
    assert "has claimed epoch 1, and no promotion of this node has come to its end since" in refused(pair.b)
    pair.register.record_branch(pair.register.held[2].epoch, pair.follower.log_end().position)
    assert pair.b.open(Role.PRIMARY).history.current.number == 3


def test_a_claim_that_another_node_makes_in_this_moment_is_refused() -> None:
    pair = Pair()
    pair.primary.close()

    class Racing(SharedRegister):
        def claim(self, epoch: Epoch, node: NodeRecord, now_ms: int) -> None:
            raise FileExistsError(epoch.number)

    racing = Racing()
    racing.held = pair.register.held
    pair.a.register = racing
    assert "in this moment" in refused(pair.a)


def test_a_claim_made_before_must_be_this_nodes_own_the_newest_and_not_begun() -> None:
    pair = Pair()
    write_history(pair.primary)
    pair.ship()
    claimed = pair.b.claim()
    pair.follower.close()
    pair.primary.close()
    assert "was not claimed by this node but by node 'b'" in refused(pair.a, claimed=claimed)
    assert "was not claimed by this node" in refused(pair.b, claimed=Epoch(claimed.number, claimed.nonce + 1))
    assert "was not claimed by this node" in refused(pair.b, claimed=Epoch(9, 9))
    later = pair.a.claim()
    assert "node 'a' has claimed epoch 3, behind 2" in refused(pair.b, claimed=claimed)
    promoted = pair.a.open(Role.PRIMARY, claimed=later)
    assert promoted.history.current == later
    promoted.close()
    assert "was begun before" in refused(pair.a, claimed=later)


def test_what_a_deposed_primary_had_begun_is_no_longer_asked_of_its_log() -> None:
    """It was primary up to a revision that the cluster went on without, and has given that up since."""
    pair = Pair()
    write_history(pair.primary)
    pair.ship()
    do(pair.primary, Put(1, b"lost", b"v"))
    claims = Claims(PATHS, pair.primary.identity, None, pair.register.records())
    assert claims.known()[1] == Epoch(1, pair.primary.history.current.nonce)
    claimed = pair.b.claim()
    pair.follower.close()
    pair.b.open(Role.PRIMARY, claimed=claimed)
    claims = Claims(PATHS, pair.primary.identity, None, pair.register.records())
    assert claims.known() == (None, None)
    assert claims.wrote(pair.primary.history.current)
    assert not claims.wrote(claimed)


def test_a_primary_that_lost_its_newest_epoch_is_refused() -> None:
    pair = Pair()
    do(pair.primary, Put(1, b"a", b"1"))
    pair.primary.close()
    before = pair.a.disk.clone()
    pair.a.open(Role.PRIMARY).close()
    pair.a.disk = before
    with pytest.raises(Corruption, match="epoch 2"):
        pair.a.open(Role.PRIMARY)


def test_an_epoch_of_the_log_that_the_register_does_not_know_is_refused() -> None:
    pair = Pair()
    do(pair.primary, Put(1, b"a", b"1"))
    pair.primary.close()
    held = pair.register.held.pop(1)
    with pytest.raises(Corruption, match="its claim is lost"):
        pair.a.open(Role.PRIMARY)
    pair.register.held[1] = held._replace(epoch=Epoch(1, 5))
    with pytest.raises(Corruption, match="another nonce"):
        pair.a.open(Role.PRIMARY)


def test_epochs_that_the_log_does_not_come_from_are_no_part_of_its_history() -> None:
    """Node c was promoted without having followed the primary of epoch 2."""
    pair = Pair()
    write_history(pair.primary)
    pair.ship()
    third = Node("c", pair.register)
    third.open(Role.FOLLOWER, pair.cluster_id)
    ship(pair.primary, third.db)
    second = pair.b.claim()
    pair.follower.close()
    pair.b.open(Role.PRIMARY, claimed=second)
    claimed = third.claim()
    third.db.close()
    promoted = third.open(Role.PRIMARY, claimed=claimed)
    assert [epoch.number for epoch, _ in promoted.history.epochs] == [1, 3]


def test_older_epochs_than_the_log_holds_are_learned_from_the_register_or_from_another_node() -> None:
    pair = Pair()
    for _ in range(3):
        do(pair.primary, Put(1, b"a", b"1"))
        pair.primary.close()
        pair.primary = pair.a.open(Role.PRIMARY)
    do(pair.primary, Put(1, b"a", b"2"))
    pair.ship()
    flushing = pair.follower.flush()
    settle(pair.follower)
    flushing.answer()
    pair.follower.tick()
    settle(pair.follower)
    pair.follower.close()
    assert pair.b.open(Role.FOLLOWER).history.epochs == pair.primary.history.epochs
    pair.b.db.close()
    pair.b.register = Unreachable()
    alone = pair.b.open(Role.FOLLOWER)
    assert len(alone.history.epochs) < 4
    reading = alone.reading_at(0, (1, 2))
    assert not reading.done, "it has not been told yet of the time before its log"
    alone.history.learn(pair.primary.history.epochs)
    assert alone.history.epochs == pair.primary.history.epochs
    alone.hear(pair.primary.marks.visible)
    assert reading.answer() == pair.primary.marks.visible


def test_the_origin_of_a_copy_is_read() -> None:
    pair = Pair()
    write_history(pair.primary)
    disk = MemoryFileSystem()
    copied(pair, disk)
    origin = read_origin(Environment(disk, ManualClock()), PATHS)
    assert origin is not None
    node = Node("c", pair.register, disk)
    identity = node.open(Role.FOLLOWER, pair.cluster_id).identity
    mine = [EpochRecord(epoch, identity.node_id, 0, None) for epoch, _ in origin.epochs]
    assert not Claims(PATHS, identity, origin, mine).wrote(origin.position.epoch), "the copy came from elsewhere"
