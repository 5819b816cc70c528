"""What a follower is sent, in which order and when; and what is held, counted and refused around that."""

from __future__ import annotations

import asyncio
import random

import pytest

from kvserver.base.errors import Code, NotServing
from kvserver.base.limits import KIB, MIB
from kvserver.base.options import WalOptions
from kvserver.replication import shipment
from support.logs import CREATION, EPOCH, SmallLog
from support.memfs import MemoryFileSystem
from support.received_logs import Follower
from support.shipping import ShippingNode, Stream, identity

LARGE = WalOptions(segment_bytes=32 * MIB)


async def test_all_that_is_there_is_sent_first_from_the_very_begin() -> None:
    node = ShippingNode()
    node.put("a", "b")
    node.put("c")
    stream = await node.follow()
    assert stream.accepted.offset == 0
    assert stream.accepted.epochs == [(EPOCH, CREATION)]
    follower = Follower()
    for chunk in stream.chunks:
        follower.take(chunk)
    follower.log.sync()
    assert follower.log.end == node.database.log_end()
    assert stream.envelopes[-1].marks.pending_bytes == 0


async def test_what_is_written_later_is_sent_at_once() -> None:
    node = ShippingNode()
    stream = await node.follow()
    before = len(stream.chunks)
    node.put("a")
    await node.settle()
    assert len(stream.chunks) == before + 1
    marks = stream.envelopes[-1].marks
    assert (marks.epoch, marks.durable, marks.visible, marks.primary) == (EPOCH, 2, 2, "a:7400")
    assert marks.time_ms == node.clock.now_ms()


async def test_a_seal_and_the_next_segment_follow() -> None:
    node = ShippingNode()
    stream = await node.follow()
    node.put("a")
    node.rotate()
    node.put("b")
    await node.settle()
    follower = Follower()
    for chunk in stream.chunks:
        follower.take(chunk)
    follower.log.sync()
    assert follower.log.end == node.database.log_end()
    assert len(follower.log.sealed) == 1


async def test_a_follower_goes_on_exactly_where_its_log_ends() -> None:
    node = ShippingNode()
    first = await node.follow()
    node.put("a")
    await node.settle()
    follower = Follower()
    for chunk in first.chunks:
        follower.take(chunk)
    follower.log.sync()
    await first.hang_up()
    node.put("b")
    node.rotate()
    second = await node.follow(end=follower.log.end)
    assert (second.accepted.segment_id, second.accepted.offset) == follower.log.end[1:]
    for chunk in second.chunks:
        follower.take(chunk)
    follower.log.sync()
    assert follower.log.end == node.database.log_end()


async def test_every_order_of_writing_sealing_acknowledging_and_stopping() -> None:
    """A follower that is cut off again and again comes to the same log, and is never sent more than is durable."""
    chosen = random.Random(6)
    for _ in range(30):
        node = ShippingNode()
        follower = Follower()
        stream: Stream | None = None
        taken = 0
        for _ in range(40):
            match chosen.choice(("put", "put", "put", "rotate", "ack", "hang up", "pause", "go on", "time")):
                case "put":
                    node.put(*(f"k{number}" for number in range(chosen.randint(1, 5))))
                case "rotate" if node.written is not None and node.written.writer.segment.groups:
                    node.rotate()
                case "hang up" if stream is not None:
                    await stream.hang_up()
                    stream = None
                case "pause" if stream is not None:
                    stream.pause()
                case "go on" if stream is not None:
                    stream.go_on()
                case "time":
                    await node.pass_ms(chosen.choice((1, 10, 1000)))
                case "ack" if stream is not None:
                    await node.settle()
                    for chunk in stream.chunks[taken:]:
                        follower.take(chunk)
                    taken = len(stream.chunks)
                    follower.log.sync()
                    stream.ack(follower.log.end.position.revision)
            if stream is None:
                stream, taken = await node.follow(end=follower.log.end), 0
            await node.settle()
            node.delete_obsolete()
        stream.go_on()
        await node.settle()
        assert stream.error is None
        for chunk in stream.chunks[taken:]:
            follower.take(chunk)
        follower.log.sync()
        assert follower.log.end == node.database.log_end()
        node.shipping.close()
        await node.settle()
        assert stream.has_ended


async def test_only_what_is_durable_is_sent_on_by_a_follower() -> None:
    source = SmallLog(MemoryFileSystem()).begin()
    source.put("a")
    relay = Follower()
    missing = relay.missing(source.fs, source.writer)
    relay.take(missing[0])
    relay.log.sync()
    node = ShippingNode(fs=relay.fs, log=relay.log)
    stream = await node.follow()
    sent = stream.sent_bytes
    source.put("b")
    for chunk in relay.missing(source.fs, source.writer):
        relay.take(chunk)
    node.database.moved()
    await node.settle()
    assert stream.sent_bytes == sent
    assert stream.envelopes[-1].marks.durable == 2
    relay.log.sync()
    node.database.moved()
    await node.settle()
    assert stream.sent_bytes > sent
    assert stream.envelopes[-1].marks.durable == 3


# -- flow control ------------------------------------------------------------------------------------------------------


async def test_no_more_is_under_way_than_is_allowed() -> None:
    node = ShippingNode(wal=LARGE)
    for number in range(24):
        node.put(f"k{number}", value=bytes(900 * KIB))
    stream = await node.follow()
    sent = stream.sent_bytes
    assert shipment.MAX_IN_FLIGHT_BYTES - 2 * MIB < sent <= shipment.MAX_IN_FLIGHT_BYTES
    await node.pass_ms(400)
    assert stream.sent_bytes == sent
    stream.ack(2, durable_bytes=1 * MIB)
    await node.settle()
    assert sent < stream.sent_bytes <= shipment.MAX_IN_FLIGHT_BYTES + 1 * MIB
    while stream.sent_bytes < node.database.log_end().offset:
        stream.ack(2)
        before = stream.sent_bytes
        await node.settle()
        assert before < stream.sent_bytes <= before + shipment.MAX_IN_FLIGHT_BYTES


async def test_nothing_is_read_for_a_follower_that_takes_nothing() -> None:
    node = ShippingNode(wal=LARGE)
    stream = await node.follow()
    stream.pause()
    for number in range(5):
        node.put(f"k{number}", value=bytes(900 * KIB))
        await node.settle()
    assert stream.sent_bytes <= 2 * MIB
    stream.go_on()
    await node.settle()
    assert stream.envelopes[-1].marks.pending_bytes == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"durable": 9},
        {"durable": 2, "durable_bytes": 1 << 40},
        {"durable": 2, "applied": 3, "received": 3},
        {"durable": 2, "received": 1},
    ],
)
async def test_an_acknowledgement_that_cannot_be_ends_the_call(wrong: dict[str, int]) -> None:
    node = ShippingNode()
    node.put("a")
    stream = await node.follow()
    stream.ack(**wrong)  # type: ignore[arg-type]
    await node.settle()
    assert stream.error is not None
    assert stream.error.code is Code.INVALID_FIELD  # type: ignore[attr-defined]
    assert node.acks == []


async def test_bytes_are_not_acknowledged_backwards() -> None:
    node = ShippingNode()
    node.put("a")
    stream = await node.follow()
    stream.ack(2)
    stream.ack(2, durable_bytes=0)
    await node.settle()
    assert stream.error is not None
    assert len(node.acks) == 1


# -- marks and signs of life -------------------------------------------------------------------------------------------


async def test_a_sign_of_life_comes_at_least_twice_a_second() -> None:
    node = ShippingNode()
    stream = await node.follow()
    for _ in range(8):
        before = len(stream.envelopes)
        await node.pass_ms(250)
        await node.pass_ms(250)
        assert len(stream.envelopes) == before + 1
        assert stream.envelopes[-1].body is None


async def test_marks_alone_are_sent_at_once_after_quiet_and_soon_otherwise() -> None:
    node = ShippingNode()
    stream = await node.follow()
    await node.pass_ms(100)
    before = len(stream.envelopes)
    node.standing = node.standing._replace(archived=1)
    node.database.moved()
    await node.settle()
    assert len(stream.envelopes) == before + 1
    assert stream.envelopes[-1].marks.archived == 1
    for visible in (2, 3, 4):
        node.standing = node.standing._replace(visible=visible)
        node.database.moved()
        await node.settle()
    assert len(stream.envelopes) == before + 1
    await node.pass_ms(5)
    assert len(stream.envelopes) == before + 2
    assert stream.envelopes[-1].marks.visible == 4


async def test_marks_that_did_not_move_are_not_sent_again() -> None:
    node = ShippingNode()
    stream = await node.follow()
    await node.pass_ms(50)
    before = len(stream.envelopes)
    for _ in range(10):
        node.database.moved()
        await node.settle()
    assert len(stream.envelopes) == before


async def test_no_timers_are_left_behind() -> None:
    node = ShippingNode()
    stream = await node.follow()
    for number in range(20):
        node.put(f"k{number}")
        await node.pass_ms(2)
    assert node.timers.count <= 2
    await stream.hang_up()
    assert node.timers.count == 1  # the holds' own


# -- ends --------------------------------------------------------------------------------------------------------------


async def test_it_ends_in_order_when_the_follower_does() -> None:
    node = ShippingNode()
    stream = await node.follow()
    stream.finish()
    await node.settle()
    assert stream.has_ended
    assert stream.error is None


async def test_close_ends_every_call_and_lets_nobody_in() -> None:
    node = ShippingNode()
    one, two = await node.follow("b"), await node.follow("c")
    node.shipping.close()
    node.shipping.close()
    await node.settle()
    late = await node.follow("d")
    for stream in (one, two, late):
        assert isinstance(stream.error, NotServing)
    node.database.moved()


async def test_a_second_call_of_the_same_node_takes_over() -> None:
    node = ShippingNode()
    node.put("a")
    old = await node.follow()
    new = await node.follow()
    assert isinstance(old.error, NotServing)
    node.put("b")
    await node.settle()
    assert new.envelopes[-1].marks.durable == 3
    (slot,) = node.shipping.slots()
    assert (slot.connected, slot.state) == (True, "streaming")


async def test_of_two_calls_that_are_judged_at_once_the_later_one_stays() -> None:
    node = ShippingNode()
    node.put("a")
    old, new = Stream(node.shipping, node.hello()), Stream(node.shipping, node.hello())
    await node.settle()
    assert isinstance(old.error, NotServing)
    assert old.envelopes == []
    node.put("b")
    await node.settle()
    assert new.error is None
    assert new.envelopes[-1].marks.durable == 3


async def test_a_name_is_given_to_one_node_at_a_time() -> None:
    node = ShippingNode()
    first = await node.follow()
    other = await node.follow(identity=identity("b", "another id"))
    assert other.error is not None
    assert other.error.code is Code.WRONG_PEER  # type: ignore[attr-defined]
    assert "follows already" in str(other.error)
    assert not first.has_ended
    await first.hang_up()
    again = await node.follow(identity=identity("b", "another id"))
    assert again.error is None


async def test_a_call_that_is_cut_off_while_it_is_judged_leaves_nothing() -> None:
    node = ShippingNode()
    task = asyncio.create_task(anext(node.shipping.ship(node.hello(), _no_acks())))
    await asyncio.sleep(0)
    task.cancel()
    await node.settle()
    assert [slot.connected for slot in node.shipping.slots()] == [False]


async def _no_acks():  # type: ignore[no-untyped-def]
    return
    yield
