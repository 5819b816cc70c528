"""The follower and what goes wrong: rows of the same trouble, bytes that do not check, full disks, and being told to stop."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any

import pytest

from kvserver.base.errors import Code, Refused
from kvserver.base.replication_events import ChunkNotTaken
from kvserver.base.types import LogEnd, Role
from kvserver.commit.ticket import Ticket
from kvserver.replication.following import first_revision
from kvserver.replication.messages import Accepted, Chunk, Diverged, Envelope, Gone, HashAt
from kvserver.replication.states import Lasting
from support.follow_scene import FollowScene
from support.follow_waits import S, in_state, log_end, same, shows, steps, streaming
from support.memfs import os_error
from support.stores import content, settle


async def test_histories_that_part_again_and_again_end_in_failure() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(shows(b, 2))

        def parted_again(envelope: Envelope) -> Envelope:
            if not isinstance(envelope.body, Accepted):
                return envelope
            return envelope._replace(body=Diverged(log_end(b).position, a.db.history.current, []))

        a.spoil = parted_again
        a.is_down = True
        await scene.until(in_state(S.CONNECTING, b))
        a.is_down = False
        await scene.until(in_state(S.FAILED, b))
        assert "times in a row" in b.follower.reason and b.follower.machine.lasting is Lasting.OPERATOR
        assert b.follower.machine.counts["CONNECTING", "DIVERGED"] == 4


async def test_tables_at_the_begin_of_an_epoch_that_was_given_up_are_fetched_anew() -> None:
    """A primary that starts and flushes has tables behind the begin of its epoch, at a revision that the others have too."""
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        await scene.until(shows(b, a.put("x", "y")))
        await scene.until(lambda: log_end(b) == log_end(a))
        await b.follower.stop()
        a.close()
        a.open(Role.PRIMARY).flush()
        settle(a.db)
        assert a.db.flusher.position == log_end(a).position, "of its own epoch"
        b.promote()
        b.put("z")
        a.close()
        a.named = b.address
        a.open(Role.FOLLOWER)
        a.make_follower().start()
        await scene.until(streaming(a))
        await same(scene, b, a)
        assert ("DIVERGED", "RESTORING") in steps(a)


async def test_a_log_that_is_gone_again_and_again_ends_in_failure() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x")
        b = scene.member("b", "a")
        a.spoil = lambda envelope: envelope._replace(body=Gone(9, 0)) if envelope.body else envelope
        b.follower.start()
        await scene.until(in_state(S.FAILED, b))
        assert "times in a row" in b.follower.reason
        b.follower.reinit()
        a.spoil = lambda envelope: envelope
        await scene.until(streaming(b))
        assert ("FAILED", "RESTORING") in steps(b)


def flipped(envelope: Envelope) -> Envelope:
    body = envelope.body
    if not isinstance(body, Chunk):
        return envelope
    data = bytearray(body.data)
    data[-1] ^= 1
    return envelope._replace(body=body._replace(data=bytes(data)))


def shifted(envelope: Envelope) -> Envelope:
    body = envelope.body
    return envelope._replace(body=body._replace(offset=body.offset + 8)) if isinstance(body, Chunk) else envelope


def truncated(envelope: Envelope) -> Envelope:
    body = envelope.body
    return envelope._replace(body=body._replace(data=body.data[:-8])) if isinstance(body, Chunk) else envelope


def of_another(envelope: Envelope) -> Envelope:
    body = envelope.body
    return envelope._replace(body=body._replace(segment_id=body.segment_id ^ 1)) if isinstance(body, Chunk) else envelope


def unannounced(envelope: Envelope) -> Envelope | None:
    return None if isinstance(envelope.body, Accepted) else envelope


def accepted_twice(envelope: Envelope) -> Envelope:
    return envelope._replace(body=Accepted(1, 0, [])) if isinstance(envelope.body, Chunk) else envelope


@pytest.mark.parametrize("spoil", [flipped, shifted, truncated, of_another, unannounced, accepted_twice])
async def test_what_does_not_check_is_not_taken_and_ends_in_failure(spoil: Callable[[Envelope], Envelope | None]) -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x")
        b = scene.member("b", "a")
        a.spoil = spoil
        b.follower.start()
        await scene.until(in_state(S.FAILED, b))
        assert [event.times for event in b.of(ChunkNotTaken)] == [1, 2, 3, 4, 5]
        assert b.follower.machine.lasting is Lasting.SOURCE
        assert log_end(b).position.revision == 1
        assert content(b.db) == {}


async def test_a_chunk_that_was_refused_once_is_asked_for_again() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x")
        b = scene.member("b", "a")
        times = iter([True, True])
        a.spoil = lambda envelope: flipped(envelope) if isinstance(envelope.body, Chunk) and next(times, False) else envelope
        b.follower.start()
        await scene.until(streaming(b))
        await same(scene, a, b)


async def test_a_full_disk_is_waited_for() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        receive = b.db.receive

        def full(segment_id: int, offset: int, data: bytes) -> Ticket[LogEnd]:
            ticket: Ticket[LogEnd] = Ticket(None, lambda end: end)
            ticket.fail(Refused(Code.DISK_FULL, "the disk of the log is full"))
            return ticket

        b.db.receive = full  # type: ignore[method-assign]
        revision = a.put("x")
        await scene.until(in_state(S.CONNECTING, b))
        await scene.pass_s(100)
        assert "a disk is full" in b.follower.reason and b.follower.state is not S.FAILED
        b.db.receive = receive  # type: ignore[method-assign]
        await scene.until(shows(b, revision))


async def test_a_full_disk_while_a_copy_is_fetched_is_waited_for_too() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x")
        b = scene.member("b", "a", has_store=False)
        b.node.disk.free_space_bytes = 1000
        b.follower.start()
        await scene.until(lambda: "free" in b.follower.reason)
        assert b.follower.state is S.RESTORING
        await scene.pass_s(60)
        assert b.follower.state is S.RESTORING
        b.node.disk.free_space_bytes = 1 << 40
        await scene.until(streaming(b))


async def test_a_mistake_of_the_disk_says_so() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a", has_store=False)

        def broken(part: Any) -> Any:
            raise os_error(errno.ENOSPC)

        a.spoil_part = broken
        b.follower.start()
        await scene.until(lambda: "disk is full" in b.follower.reason)


async def test_the_content_is_looked_at_exactly_at_a_hash_point() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        assert a.shipping is not None
        point = a.put("x") + 1
        a.spoil = lambda envelope: envelope._replace(marks=envelope.marks._replace(hash_point=point))
        await scene.until(shows(b, point - 1))
        await scene.until(shows(b, a.put("y")))
        await scene.until(shows(b, a.put("z", "and", "more")))
        assert b.points == [(point, point)]
        a.spoil = lambda envelope: envelope._replace(body=HashAt(point, b"h" * 32)) if envelope.body is None else envelope
        await scene.until(lambda: bool(b.hashes))
        assert b.hashes[0] == (point, b"h" * 32)


async def test_nothing_beyond_a_hash_point_is_taken_before_all_up_to_it_is_applied_and_looked_at() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        point = a.put("x") + 2
        a.shipping.announce(point)
        taken: list[int] = []
        tasks: list[asyncio.Future[None]] = []
        receive = b.db.receive

        def slow(segment_id: int, offset: int, data: bytes) -> Ticket[LogEnd]:
            taken.append(first_revision(Chunk(segment_id, offset, data)))
            assert taken[-1] <= point or b.points, "it was not looked at yet"
            ticket: Ticket[LogEnd] = Ticket(None, lambda end: end)

            async def later() -> None:
                for _ in range(10):
                    await asyncio.sleep(0)
                ticket.decide(await receive(segment_id, offset, data))
                ticket.complete()

            tasks.append(asyncio.ensure_future(later()))
            return ticket

        b.db.receive = slow  # type: ignore[method-assign]
        a.put("1", "2", "3", "4")
        await scene.until(shows(b, point + 2))
        assert b.points == [(point, point)]
        a.shipping.tell_hash(point, b"h" * 32)
        await scene.until(lambda: b.hashes == [(point, b"h" * 32)])
        assert any(revision > point for revision in taken)


async def test_a_pause_leaves_nothing_under_way() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        revision = a.put(*(f"{number}" for number in range(50)))
        for _ in range(12):
            await asyncio.sleep(0)
        await b.follower.pause()
        end = log_end(b)
        assert b.follower.source == ""
        await scene.pass_s(20)
        assert log_end(b) == end
        assert b.follower.state is S.CONNECTING and "told to follow nobody" in b.follower.reason
        b.follower.resume()
        await scene.until(shows(b, revision))
        await same(scene, a, b)


async def test_a_pause_waits_for_what_the_store_has_in_hand() -> None:
    """A promise says where the log ends; what is on its way to the disk when it is given would go on behind that."""
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        under_way: list[Ticket[LogEnd]] = []
        tasks: list[asyncio.Future[None]] = []
        receive = b.db.receive

        def slow(segment_id: int, offset: int, data: bytes) -> Ticket[LogEnd]:
            ticket: Ticket[LogEnd] = Ticket(None, lambda end: end)
            under_way.append(ticket)

            async def later() -> None:
                for _ in range(10):
                    await asyncio.sleep(0)
                ticket.decide(await receive(segment_id, offset, data))
                ticket.complete()

            tasks.append(asyncio.ensure_future(later()))
            return ticket

        b.db.receive = slow  # type: ignore[method-assign]
        a.put("x")
        await scene.until(lambda: bool(under_way))
        assert not under_way[-1].done
        await b.follower.pause()
        assert all(ticket.done for ticket in under_way)


async def test_a_follower_whose_memory_is_full_for_good_stops_all_the_same() -> None:
    """The disk is full, so nothing gets into tables. Whoever asks for a promise, or ends the node, must not wait for that."""
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        full = True
        assert b.db is not None and b.db._following is not None
        b.db._following.must_wait = lambda: full
        a.put("x", "y")
        await scene.until(lambda: log_end(b) == log_end(a))
        await scene.pass_s(5)
        assert b.db.marks.applied < b.db.marks.durable, "it waits as long as somebody sends"
        end = log_end(b)
        await asyncio.wait_for(b.follower.stop(), 5)
        assert log_end(b) == end and b.db.marks.applied == end.position.revision
        b.follower.start()
        await scene.until(streaming(b))
        a.put("z")
        await scene.pass_s(5)
        assert b.db.marks.applied == end.position.revision, "it waits again"
        full = False
        b.db.pipeline.admit_waiting()
        await same(scene, a, b)


async def test_a_store_is_fetched_anew_when_an_operator_wants_it() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(shows(b, a.put("x")))
        b.follower.reinit()
        await scene.until(lambda: b.reopened == 1 and b.follower.state is S.STREAMING)
        await same(scene, a, b)


async def test_a_copy_that_does_not_check_is_fetched_again_and_then_given_up() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x")
        b = scene.member("b", "a", has_store=False)
        a.spoil_part = lambda part: [part._replace(data=b"?" + part.data[1:]) if part.data else part]
        b.follower.start()
        await scene.until(in_state(S.FAILED, b))
        assert "5 times in a row" in b.follower.reason and b.follower.machine.lasting is Lasting.SOURCE
        assert b.db is None
