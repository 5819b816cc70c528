"""What the caller of a frame has seen: its reads wait for that, or the frame is refused; and what failures carry along."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from typing import Any

import pytest

from kvproto.v1 import errors_pb2, kv_pb2
from kvserver.base import failpoints
from kvserver.base.errors import Code, InvalidRequest, KvError
from kvserver.base.limits import MAX_FRAME_OPERATIONS, MAX_KEY_BYTES
from kvserver.service import convert
from support.memfs import MemoryFileSystem
from support.stores import open_store, settle
from unit.service.framing import Frames, delete, failures, get, put

MEMORY = kv_pb2.DURABILITY_MEMORY


@pytest.fixture
def frames() -> Frames:
    return Frames(open_store(MemoryFileSystem()))


def seen(frames: Frames, revision: int, epoch: int | None = None) -> kv_pb2.SessionToken:
    return kv_pb2.SessionToken(epoch=epoch or frames.database.history.current.number, revision=revision)


def reads(kind: str, *keys: bytes, **fields: Any) -> kv_pb2.PipelineRequest:
    """Return a frame of reads, as columns or one message each."""
    if kind == "gets":
        return kv_pb2.PipelineRequest(frame_id=9, gets=kv_pb2.GetColumns(keys=keys), **fields)
    operations = kv_pb2.MixedOperations(operations=[get(key) for key in keys])
    return kv_pb2.PipelineRequest(frame_id=9, mixed=operations, **fields)


def revisions(answer: kv_pb2.PipelineResponse) -> list[int]:
    return list(answer.gets.mod_revisions) or [result.kv.mod_revision for result in answer.results]


class Handled:
    """A frame that was handed in; its answer comes when the loop and the log have moved."""

    def __init__(self, frames: Frames, request: kv_pb2.PipelineRequest) -> None:
        self.answer: kv_pb2.PipelineResponse | None = None
        pending = frames.session.handle(request)
        self._task = asyncio.ensure_future(self._take(pending))

    async def _take(self, pending: Any) -> None:
        if inspect.isawaitable(pending):
            pending = await pending
        pending.on_done(lambda: setattr(self, "answer", pending.response()))

    async def turns(self) -> kv_pb2.PipelineResponse | None:
        for _ in range(5):
            await asyncio.sleep(0)
        return self.answer


@pytest.mark.parametrize("kind", ["gets", "mixed"])
async def test_reads_wait_until_the_node_shows_what_the_caller_has_seen(frames: Frames, kind: str) -> None:
    """Also where they find nothing of it: the caller must not see less than before."""
    frames.puts(1, [b"old"])
    settle(frames.database)
    frames.puts(2, [b"new"], durability=MEMORY)
    handled = Handled(frames, reads(kind, b"old", b"absent", session=seen(frames, 3)))
    assert await handled.turns() is None
    settle(frames.database)
    answer = await handled.turns()
    assert answer is not None
    assert (revisions(answer), answer.frame_id, answer.rejected) == ([2, 0], 9, False)
    assert frames.database.marks.visible == 3


@pytest.mark.parametrize("token", ["none", "empty", "visible"])
async def test_they_wait_for_nothing_else_that_others_wrote(frames: Frames, token: str) -> None:
    frames.puts(1, [b"a"])
    settle(frames.database)
    Frames(frames.database).puts(1, [b"of others"], durability=MEMORY)
    fields = {"empty": {"session": kv_pb2.SessionToken()}, "visible": {"session": seen(frames, 2)}}.get(token, {})
    answer = await Handled(frames, reads("gets", b"a", **fields)).turns()
    assert answer is not None
    assert revisions(answer) == [2]
    assert frames.database.marks.visible == 2


async def test_a_stream_that_only_reads_is_shown_nothing_that_is_not_durable_and_waits_for_nothing(frames: Frames) -> None:
    """Overwritten, deleted or created by others and not synced yet: for a reader it has not happened."""
    writer = Frames(frames.database)
    writer.puts(1, [b"overwritten", b"deleted"])
    settle(frames.database)
    writer.puts(2, [b"overwritten", b"created"], durability=MEMORY)
    writer.session.handle(kv_pb2.PipelineRequest(frame_id=3, deletes=kv_pb2.DeleteColumns(keys=[b"deleted"])))
    handled = Handled(frames, reads("gets", b"overwritten", b"deleted", b"created"))
    answer = await handled.turns()
    assert answer is not None, "it waits for what it may not see"
    assert revisions(answer) == [2, 3, 0]
    assert answer.header.revision == frames.database.marks.visible == 3
    settle(frames.database)
    later = await Handled(frames, reads("gets", b"overwritten", b"deleted", b"created")).turns()
    assert later is not None
    assert revisions(later) == [4, 0, 5]


def test_reads_of_what_is_visible_are_answered_in_the_same_turn(frames: Frames) -> None:
    frames.puts(1, [b"a"])
    settle(frames.database)
    pending = frames.session.handle(reads("gets", b"a", session=seen(frames, 2)))
    assert not isinstance(pending, Awaitable)


LOST = {
    "a branch that was lost": (1, 50, "HISTORY_LOST", {"next_epoch": "2", "branch_revision": "2"}),
    "an epoch that never was": (99, 2, "HISTORY_LOST", {}),
    "a revision that does not exist yet": (2, 50, "FUTURE_REVISION", {}),
}


@pytest.mark.parametrize("kind", ["gets", "mixed"])
@pytest.mark.parametrize("position", LOST)
async def test_a_position_that_is_no_part_of_the_history_rejects_the_frame(kind: str, position: str) -> None:
    disk = MemoryFileSystem()
    first = Frames(open_store(disk))
    first.puts(1, [b"a"])
    settle(first.database)
    first.database.close()
    frames = Frames(open_store(disk))
    epoch, revision, code, details = LOST[position]
    token = seen(frames, revision, epoch)
    request = reads(kind, b"a", b"", session=token)
    if kind == "mixed":
        request.mixed.operations.append(put(b"new"))
    answer = await Handled(frames, request).turns()
    assert answer is not None
    assert answer.rejected
    assert failures(answer) == {0: code}
    assert (len(answer.gets.values), len(answer.results)) == (0, 0)
    assert frames.database.marks.assigned == 2, "nothing of it was carried out"
    with pytest.raises(KvError) as caught:
        frames.database.reading_at(0, (token.epoch, token.revision)).answer()
    told, alone = answer.failures[0], caught.value
    assert (told.message, told.hint, dict(told.details)) == (alone.message, alone.hint, alone.details), "as a call of its own"
    assert told.details == details


async def test_writes_do_not_ask_what_was_seen(frames: Frames) -> None:
    lost = seen(frames, 5, 99)
    frames.puts(1, [b"a"], session=lost)
    assert frames.settled(1).commits == 1
    frames.deletes(2, b"a", session=lost)
    assert frames.settled(2).commits == 1


@pytest.mark.parametrize("kind", ["gets", "mixed"])
async def test_a_log_that_fails_while_reads_wait_rejects_them(frames: Frames, kind: str) -> None:
    frames.puts(1, [b"a"], durability=MEMORY)
    handled = Handled(frames, reads(kind, b"a", session=seen(frames, 2)))
    assert await handled.turns() is None

    def fail() -> None:
        raise OSError(5, "the disk is gone")

    failpoints.arm("wal.after_write", fail)
    try:
        settle(frames.database)
    finally:
        failpoints.disarm_all()
    answer = await handled.turns()
    assert answer is not None
    assert answer.rejected
    assert set(failures(answer)) == {0}


async def test_a_frame_that_waited_is_checked_as_any_other(frames: Frames) -> None:
    frames.puts(1, [b"a"], durability=MEMORY)
    large = Handled(frames, reads("gets", *[b"a"] * (MAX_FRAME_OPERATIONS + 1), session=seen(frames, 2)))
    bad = Handled(frames, reads("gets", b"a", b"", session=seen(frames, 2)))
    settle(frames.database)
    refused, answer = await large.turns(), await bad.turns()
    assert refused is not None
    assert refused.rejected
    assert failures(refused) == {0: "FRAME_TOO_LARGE"}
    assert answer is not None
    assert (failures(answer), revisions(answer)) == ({1: "EMPTY_KEY"}, [2, 0])


# -- what failures carry ----------------------------------------------------------------------------------------------


def test_failures_carry_what_to_do_next_and_what_programs_need(frames: Frames) -> None:
    frames.puts(1, [b"a"])
    settle(frames.database)
    frames.mixed(2, put(b"a", if_absent=True), delete(key=b"a", if_revision=9), put(b""), get(b"k" * (MAX_KEY_BYTES + 1)))
    first, second, empty, large = frames.settled(2).failures
    for failed in (first, second):
        assert (failed.mod_revision, dict(failed.details)) == (2, {"mod_revision": "2"})
        assert failed.hint == "read the key again and decide anew"
    assert (errors_pb2.ErrorCode.Name(empty.code), empty.message != "") == ("EMPTY_KEY", True)
    assert str(MAX_KEY_BYTES) in large.message


def test_a_rejection_carries_them_too(frames: Frames) -> None:
    frames.gets(1, b"a", namespace="nowhere")
    (failed,) = frames.answers[1].failures
    with pytest.raises(KvError) as caught:
        frames.database.namespace_id("nowhere")
    assert (failed.message, failed.hint) == (caught.value.message, caught.value.hint)
    assert failed.hint


def test_the_text_of_all_failures_together_is_bounded_hints_included() -> None:
    def error(message: int, hint: int) -> KvError:
        made = InvalidRequest(Code.INVALID_FIELD, "m" * message, "h" * hint)
        made.details["name"] = "value"
        return made

    bound = convert._FAILURE_TEXT_BYTES
    for message, hint in ((1_000, 0), (0, 1_000), (500, 500)):
        made = convert.failures((place, error(message, hint)) for place in range(2_000))
        told = [failure for failure in made if failure.details]
        assert sum(len(failure.message) + len(failure.hint) for failure in told) <= bound
        assert len(told) == bound // 1_000
        assert all((len(failure.message), len(failure.hint)) == (message, hint) for failure in told)
        silent = made[len(told) :]
        assert all(failure.code == Code.INVALID_FIELD and not failure.message and not failure.hint for failure in silent)
        assert [failure.index for failure in made] == list(range(2_000))
