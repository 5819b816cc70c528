"""Who is let in, what is counted of acknowledgements, what is told of hashes, and what is held: around a stream."""

from __future__ import annotations

from kvserver.base.errors import NotServing
from kvserver.base.limits import KIB
from kvserver.base.shipping_events import FollowerConnected, FollowerForked, FollowerRefused, FollowerWentBack, TwoPrimariesMet
from kvserver.base.types import Epoch, LogEnd, Position
from kvserver.replication import shipment
from kvserver.replication.judge import HigherEpoch
from kvserver.replication.messages import Accepted, Chunk, Diverged, Gone, HashAt
from kvserver.replication.shipper import ShippingOptions
from kvserver.wal import format as fmt
from support.logs import CREATION, EPOCH, PATHS, SmallLog
from support.memfs import MemoryFileSystem
from support.received_logs import Follower
from support.shipping import ShippingNode

# -- who is not let in -------------------------------------------------------------------------------------------------


async def test_who_is_gone_or_diverged_is_told_so_and_nothing_else() -> None:
    node = ShippingNode()
    node.put("a")
    node.rotate()
    node.put("b")
    beyond = await node.follow("x", LogEnd(Position(EPOCH, 2, bytes(16)), 77, 5000))
    assert isinstance(beyond.envelopes[0].body, Diverged)
    assert any(isinstance(event, FollowerForked) for event in node.events)
    node.shipping.drop_slot("x")
    assert node.delete_obsolete() == 1
    stream = await node.follow()
    assert [type(envelope.body) for envelope in stream.envelopes] == [Gone]
    assert stream.envelopes[0].body == Gone(3, 0)
    assert stream.has_ended
    assert stream.error is None
    assert not any(isinstance(event, FollowerConnected) for event in node.events)


async def test_a_higher_epoch_is_passed_on_from_hellos_and_acknowledgements() -> None:
    node = ShippingNode()
    refused = await node.follow(promised=Epoch(5, 5))
    assert isinstance(refused.error, HigherEpoch)
    assert node.higher == [Epoch(5, 5)]
    stream = await node.follow()
    stream.ack(1, epoch=Epoch(6, 6))
    await node.settle()
    assert isinstance(stream.error, HigherEpoch)
    assert node.higher == [Epoch(5, 5), Epoch(6, 6)]
    assert node.acks == []


async def test_one_number_with_another_nonce_is_an_alarm_and_deposes_nobody() -> None:
    node = ShippingNode()
    refused = await node.follow(promised=Epoch(EPOCH.number, 5))
    assert refused.error is not None
    assert node.higher == []
    assert [type(event) for event in node.events] == [FollowerRefused, TwoPrimariesMet]


# -- acknowledgements --------------------------------------------------------------------------------------------------


async def test_acknowledgements_are_passed_on_with_their_epoch() -> None:
    node = ShippingNode()
    node.epochs.append((Epoch(2, 2), CREATION))
    node.put("a")
    stream = await node.follow()
    stream.ack(1)
    stream.ack(2, epoch=Epoch(2, 2))
    await node.settle()
    assert [(name, ack.epoch, ack.durable) for name, ack in node.acks] == [("b", EPOCH, 1), ("b", Epoch(2, 2), 2)]
    (slot,) = node.shipping.slots()
    assert (slot.durable_revision, slot.epoch) == (2, Epoch(2, 2))


async def test_a_follower_that_goes_back_raises_an_alarm_and_its_newest_word_is_passed_on() -> None:
    node = ShippingNode()
    for key in "abc":
        node.put(key)
    stream = await node.follow()
    stream.ack(4)
    stream.ack(3)
    stream.ack(3)
    await node.settle()
    assert [ack.durable for _, ack in node.acks] == [4, 3, 3]
    assert [event for event in node.events if isinstance(event, FollowerWentBack)] == [FollowerWentBack("b", "id-b", 4, 3)]
    stream.ack(4)
    await node.settle()
    assert [ack.durable for _, ack in node.acks] == [4, 3, 3, 4]


async def test_a_candidate_is_no_follower() -> None:
    node = ShippingNode()
    node.put("a")
    stream = await node.follow(only_log=True)
    stream.ack(2)
    await node.settle()
    assert node.acks == []
    assert node.shipping.slots() == []
    assert "slot:candidate b" in node.database.holds.list()
    await stream.hang_up()
    assert "slot:candidate b" not in node.database.holds.list()


# -- hashes ------------------------------------------------------------------------------------------------------------


async def test_a_hash_point_is_told_before_anything_beyond_it() -> None:
    node = ShippingNode()
    node.put("a")
    stream = await node.follow()
    assert node.shipping.announce(3) == ["b"]
    node.put("b", show=False)
    node.put("c")
    await node.settle()
    told = [envelope for envelope in stream.envelopes if isinstance(envelope.body, Chunk) and envelope.marks.hash_point == 3]
    assert told[0].marks.durable >= 3
    # One chunk ends exactly there, so that a follower can stop.
    ends = []
    follower = Follower()
    for chunk in stream.chunks:
        follower.take(chunk)
        follower.log.sync()
        ends.append(follower.log.end.position.revision)
    assert 3 in ends
    node.shipping.tell_hash(3, b"h" * 32)
    await node.settle()
    assert HashAt(3, b"h" * 32) in [envelope.body for envelope in stream.envelopes]
    await node.pass_ms(500)
    assert stream.envelopes[-1].marks.hash_point == 0


async def test_a_hash_point_that_is_passed_already_is_not_told() -> None:
    node = ShippingNode()
    node.put("a")
    node.put("b")
    stream = await node.follow()
    assert node.shipping.announce(2) == []
    node.shipping.tell_hash(2, b"h" * 32)
    await node.pass_ms(500)
    assert all(envelope.marks.hash_point == 0 for envelope in stream.envelopes)
    assert not any(isinstance(envelope.body, HashAt) for envelope in stream.envelopes)


def test_a_chunk_is_cut_only_where_a_group_ends() -> None:
    log = SmallLog(MemoryFileSystem()).begin()
    log.put("a", "b")
    log.put("c")
    path = log.writer.extent().segments()[0].path
    end = log.writer.end
    data = log.fs.open(path).pread(end.offset, 0)
    whole = Chunk(end.segment_id, 0, data)
    assert shipment.cut_behind(whole, 2) == whole
    cut = shipment.cut_behind(whole, 3)
    assert fmt.SEGMENT_HEADER_LENGTH < len(cut.data) < len(data)
    assert shipment.cut_behind(whole, 4) == whole
    assert shipment.cut_behind(whole, 99) == whole


# -- slots -------------------------------------------------------------------------------------------------------------


async def test_what_a_follower_needs_is_held_and_moves_with_it() -> None:
    node = ShippingNode()
    stream = await node.follow()
    for key in "abcd":
        node.put(key)
        node.rotate()
    await node.settle()
    assert node.delete_obsolete() == 0
    stream.ack(4)
    await node.settle()
    await node.pass_ms(1000)
    assert node.database.holds.list()["slot:b"] == 4
    assert node.delete_obsolete() == 2
    await stream.hang_up()
    await node.pass_ms(5000)
    assert node.delete_obsolete() == 0
    (slot,) = node.shipping.slots()
    assert (slot.state, slot.hold_revision, slot.silent_ms) == ("away", 4, 5000)


async def test_a_slot_that_holds_too_much_is_lost_and_comes_back_with_the_follower() -> None:
    node = ShippingNode(options=ShippingOptions(slot_max_bytes=20 * KIB))
    stream = await node.follow()
    node.put("a")
    await node.settle()
    stream.ack(2)
    await node.settle()
    await stream.hang_up()
    for number in range(12):
        node.put(f"k{number}", value=bytes(1800))
        node.rotate()
    await node.pass_ms(1000)
    assert "slot:b" not in node.database.holds.list()
    (slot,) = node.shipping.slots()
    assert (slot.state, slot.hold_revision) == ("lost", 0)
    node.delete_obsolete()
    told = await node.follow(end=LogEnd(Position(EPOCH, 2, bytes(16)), 77, 4200))
    assert isinstance(told.envelopes[0].body, Gone)
    back = await node.follow(end=node.database.log_end())
    assert isinstance(back.envelopes[0].body, Accepted)
    assert node.database.holds.list()["slot:b"] == 15


async def test_a_log_that_is_let_go_under_a_follower_ends_its_call() -> None:
    node = ShippingNode(options=ShippingOptions(slot_max_bytes=10 * KIB))
    stream = await node.follow()
    stream.pause()
    for number in range(12):
        node.put(f"k{number}", value=bytes(1800))
        node.rotate()
    await node.pass_ms(1000)
    assert node.delete_obsolete() > 0
    stream.go_on()
    await node.settle()
    assert isinstance(stream.error, NotServing)
    assert "let go" in str(stream.error)


async def test_holds_survive_a_restart_of_the_node() -> None:
    fs = MemoryFileSystem()
    node = ShippingNode(fs)
    stream = await node.follow()
    for key in "abcd":
        node.put(key)
        node.rotate()
    stream.ack(3)
    await node.settle()
    await node.pass_ms(1000)
    node.shipping.close()
    await node.settle()
    again = ShippingNode(fs, log=node.database.log)
    assert again.database.holds.list()["slot:b"] == 3
    (slot,) = again.shipping.slots()
    assert (slot.name, slot.node_id, slot.state, slot.connected) == ("b", "id-b", "away", False)
    assert PATHS.slots in [PATHS.root / name for name in fs.list_dir(PATHS.root)]


async def test_a_dropped_slot_ends_the_call_and_holds_nothing() -> None:
    node = ShippingNode()
    stream = await node.follow()
    node.shipping.drop_slot("b")
    await node.settle()
    assert isinstance(stream.error, NotServing)
    assert "slot:b" not in node.database.holds.list()
    assert node.shipping.slots() == []
