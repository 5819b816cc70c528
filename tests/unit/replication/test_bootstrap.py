"""Copies of a store: sent whole, held to what was announced, taken only if every byte checks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from kvserver.base.environment import Environment
from kvserver.base.errors import Code, KvError, NotServing, Refused
from kvserver.base.paths import DataPaths
from kvserver.base.replication_events import CopySent
from kvserver.engine.obsolete_files import HoldRefused
from kvserver.engine.swap import begin_swap, finish_swap, swap_names
from kvserver.replication.bootstrap import CopyRefused, fetch_copy
from kvserver.replication.checkpoint_source import HOLD, LINGER_S, PIECE_BYTES
from kvserver.replication.messages import CheckpointPart
from kvserver.storage.origin import read_origin
from support.crashes import record_crash_points, sampled_states
from support.follow_scene import FollowScene, SceneNode
from support.logs import PATHS
from support.memfs import MemoryFileSystem
from support.recordfs import RecordingFileSystem

INCOMING = DataPaths(PATHS.incoming)


async def inline(work: Callable[[], Any], name: str) -> Any:
    return work()


def holds(node: SceneNode) -> dict[str, int]:
    assert node.db is not None
    return dict(node.db.holds())


async def sent(node: SceneNode, name: str = "b") -> list[CheckpointPart]:
    assert node.checkpoints is not None
    identity = node.identity()._replace(name=name, node_id="other")
    return [part async for part in node.checkpoints.parts(identity)]


def source_of(scene: FollowScene, large: bool = False) -> SceneNode:
    a = scene.primary("a")
    a.put("x", "y", value=bytes(1_000_000) if large else b"value")
    a.put("z", value=bytes(1_000_000) if large else b"value")
    return a


# -- sending ------------------------------------------------------------------------------------------------------------


async def test_a_copy_is_announced_sent_file_by_file_and_ends_with_its_position() -> None:
    async with FollowScene() as scene:
        a = source_of(scene, large=True)
        parts = await sent(a)
        first, *pieces, last = parts
        assert (first.file, first.data, first.position) == ("", b"", None)
        files: dict[str, bytes] = {}
        for piece in pieces:
            assert len(piece.data) <= PIECE_BYTES
            files[piece.file] = files.get(piece.file, b"") + piece.data
            if piece.sha256:
                assert hashlib.sha256(files[piece.file]).digest() == piece.sha256
        assert (first.total_files, first.total_bytes) == (len(files), sum(map(len, files.values())))
        assert max(map(len, files.values())) > 2 * PIECE_BYTES
        assert last.position == a.db.log_end().position
        assert list(last.epochs) == a.db.history.epochs
        assert [piece.file for piece in pieces if piece.sha256] == list(dict.fromkeys(piece.file for piece in pieces))
        await scene.pass_s(1)
        assert a.node.disk.list_dir(PATHS.scratch) == []
        (event,) = a.of(CopySent)
        assert (event.node, event.revision, event.files) == ("b", last.position.revision, len(files))


async def test_the_log_behind_a_copy_is_held_until_the_follower_has_come_back_or_a_time_is_over() -> None:
    async with FollowScene() as scene:
        a = source_of(scene)
        await sent(a, "b")
        await sent(a, "c")
        revision = a.db.log_end().position.revision + 1
        assert holds(a)[HOLD + "b"] == holds(a)[HOLD + "c"] == revision
        a.checkpoints.following("b")
        assert HOLD + "b" not in holds(a) and HOLD + "c" in holds(a)
        await scene.pass_s(LINGER_S + 1)
        assert HOLD + "c" not in holds(a)


async def test_a_node_that_begins_anew_is_held_for_as_long_as_from_the_begin() -> None:
    async with FollowScene() as scene:
        a = source_of(scene)
        await sent(a, "b")
        await scene.pass_s(LINGER_S - 10)
        await sent(a, "b")
        await scene.pass_s(20)
        assert HOLD + "b" in holds(a)


async def test_a_caller_that_hangs_up_leaves_nothing() -> None:
    async with FollowScene() as scene:
        a = source_of(scene, large=True)
        for after in range(6):
            parts = a.checkpoints.parts(a.identity()._replace(name="b", node_id="other"))
            for _ in range(after):
                await anext(parts)
            await parts.aclose()
            await scene.pass_s(1)
            assert not a.node.disk.exists(PATHS.scratch) or a.node.disk.list_dir(PATHS.scratch) == []
            assert HOLD + "b" not in holds(a)


async def test_a_caller_that_is_cancelled_while_the_copy_is_made_leaves_nothing() -> None:
    async with FollowScene() as scene:
        a = source_of(scene)
        for turns in range(12):
            task = asyncio.ensure_future(sent(a))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await scene.pass_s(1)
            assert not a.node.disk.exists(PATHS.scratch) or a.node.disk.list_dir(PATHS.scratch) == []
            if task.cancelled():
                assert HOLD + "b" not in holds(a)


async def test_a_checkpoint_that_fails_is_told_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FollowScene() as scene:
        a = source_of(scene)

        async def full(target: Any, **options: Any) -> Any:
            a.node.disk.plant(target / "half", b"")
            raise Refused(Code.DISK_FULL, "the disk is full")

        monkeypatch.setattr(a.db, "checkpoint", full)
        with pytest.raises(Refused):
            await sent(a)
        await scene.pass_s(1)
        assert a.node.disk.list_dir(PATHS.scratch) == []
        assert HOLD + "b" not in holds(a)


async def test_whoever_is_given_a_copy_is_reserved_the_log_behind_it() -> None:
    async with FollowScene() as scene:
        a = source_of(scene)
        told: list[tuple[str, int]] = []
        a.checkpoints.reserve = lambda identity, revision: told.append((identity.name, revision))
        parts = await sent(a)
        assert told == [("b", parts[-1].position.revision)]

        def refuse(identity: Any, revision: int) -> None:
            raise HoldRefused("it is gone")

        a.checkpoints.reserve = refuse
        with pytest.raises(Refused, match="going"):
            await sent(a)
        await scene.pass_s(1)
        assert a.node.disk.list_dir(PATHS.scratch) == []
        assert HOLD + "b" not in holds(a)


async def test_a_stranger_is_sent_nothing() -> None:
    async with FollowScene() as scene:
        a = source_of(scene)
        parts = a.checkpoints.parts(a.identity()._replace(cluster_id=bytes(16)))
        with pytest.raises(KvError) as refused:
            await anext(parts)
        assert refused.value.code is Code.WRONG_PEER


# -- taking -------------------------------------------------------------------------------------------------------------


async def feed(parts: list[CheckpointPart]) -> AsyncIterator[CheckpointPart]:
    for part in parts:
        yield part


@pytest.fixture
async def parts() -> list[CheckpointPart]:
    async with FollowScene() as scene:
        return await sent(source_of(scene, large=True))


def place() -> tuple[MemoryFileSystem, Environment]:
    fs = MemoryFileSystem()
    fs.make_dir(PATHS.root)
    return fs, Environment(fs=fs)


async def test_a_whole_copy_is_taken_byte_for_byte(parts: list[CheckpointPart]) -> None:
    fs, env = place()
    fs.plant(INCOMING.tables / "left over", b"from an attempt before")
    copied = await fetch_copy(env, PATHS, feed(parts), inline)
    wanted: dict[str, bytes] = {}
    for part in parts:
        if part.file:
            wanted[part.file] = wanted.get(part.file, b"") + part.data
    found = {path.name: data for path, data in fs.contents().items() if path.parent in (INCOMING.tables, INCOMING.root)}
    assert found == wanted
    assert fs.list_dir(INCOMING.wal) == []
    assert (copied.position, copied.files) == (parts[-1].position, len(wanted))
    origin = read_origin(env, INCOMING)
    assert origin is not None and origin.position == copied.position
    assert all(not str(change).startswith("write") for change in fs.unsynced()), "everything is durable"


def changed(parts: list[CheckpointPart], at: int, **fields: Any) -> list[CheckpointPart]:
    return [*parts[:at], parts[at]._replace(**fields), *(parts[at + 1 :] if at != -1 else [])]


def renamed(parts: list[CheckpointPart], name: str, which: int = 1) -> list[CheckpointPart]:
    old = parts[which].file
    return [part._replace(file=name) if part.file == old else part for part in parts]


def without_file(parts: list[CheckpointPart], name: str) -> list[CheckpointPart]:
    return [part for part in parts if part.file != name]


EXTRA = CheckpointPart("999.sst", b"extra", hashlib.sha256(b"extra").digest())
Spoil = Callable[[list[CheckpointPart]], list[CheckpointPart]]

SPOILT: dict[str, tuple[Spoil, str]] = {
    "a byte flipped": (lambda p: changed(p, 1, data=b"?" + p[1].data[1:]), "hash"),
    "another hash": (lambda p: [part._replace(sha256=bytes(32)) if part.sha256 else part for part in p], "hash"),
    "a file missing": (lambda p: without_file(p, p[1].file), "said"),
    "its origin missing": (lambda p: [*without_file(p, "ORIGIN")[:-1], EXTRA, p[-1]], "said|origin"),
    "a file too many": (lambda p: [*p[:-1], EXTRA, p[-1]], "more than|larger"),
    "a file twice": (lambda p: [*p[:-1], *(part for part in p if part.file == p[1].file), p[-1]], "two files"),
    "a file in another case": (lambda p: [*p[:-1], EXTRA._replace(file="origin"), p[-1]], "two files"),
    "a name with a folder": (lambda p: renamed(p, "a/b"), "not the name"),
    "a name above": (lambda p: renamed(p, ".."), "not the name"),
    "an absolute name": (lambda p: renamed(p, "/etc/passwd"), "not the name"),
    "a hidden name": (lambda p: renamed(p, ".x"), "not the name"),
    "no name": (lambda p: renamed(p, ""), "empty|not the name|said|before"),
    "a long name": (lambda p: renamed(p, "x" * 200), "not the name"),
    "a name with a zero": (lambda p: renamed(p, "a\0b"), "not the name"),
    "files mixed": (lambda p: [p[0], p[1], EXTRA, *p[2:]], "before"),
    "more bytes than said": (lambda p: changed(p, 0, total_bytes=p[0].total_bytes - 1), "larger"),
    "fewer bytes than said": (lambda p: changed(p, 0, total_bytes=p[0].total_bytes + 1), "came"),
    "fewer files than said": (lambda p: changed(p, 0, total_files=p[0].total_files + 1), "came"),
    "too many files said": (lambda p: changed(p, 0, total_files=1 << 40), "said"),
    "no announcement": (lambda p: p[1:], "without saying"),
    "announced twice": (lambda p: [p[0], p[0], *p[1:]], "twice"),
    "cut off": (lambda p: p[:-1], "not sent to its end"),
    "cut off in a file": (lambda p: [p[0], p[1], p[-1]], "middle of the file"),
    "nothing at all": (lambda p: [], "not sent to its end"),
    "something behind its end": (lambda p: [*p, EXTRA], "follows its end"),
    "another position": (
        lambda p: changed(p, -1, position=p[-1].position._replace(revision=99)),  # type: ignore[union-attr]
        "another position",
    ),
    "other epochs": (lambda p: changed(p, -1, epochs=()), "another position"),
    "a huge piece": (lambda p: changed(p, 1, data=bytes(5 << 20)), "larger"),
    "an empty piece": (lambda p: [p[0], p[1]._replace(data=b"", sha256=b""), *p[1:]], "empty"),
}


@pytest.mark.parametrize("how", SPOILT)
async def test_what_is_not_exactly_a_copy_is_refused(parts: list[CheckpointPart], how: str) -> None:
    fs, env = place()
    spoil, why = SPOILT[how]
    with pytest.raises(CopyRefused, match=why) as refused:
        await fetch_copy(env, PATHS, feed(spoil(parts)), inline)
    assert refused.value.code is Code.WRONG_PEER
    assert all(path.is_relative_to(PATHS.incoming) for path in fs.contents()), "nothing is written anywhere else"
    assert not fs.exists(PATHS.swap)
    await fetch_copy(env, PATHS, feed(parts), inline)


async def test_no_room_is_said_before_anything_is_written(parts: list[CheckpointPart]) -> None:
    fs, env = place()
    fs.free_space_bytes = parts[0].total_bytes
    with pytest.raises(Refused) as refused:
        await fetch_copy(env, PATHS, feed(parts), inline)
    assert refused.value.code is Code.DISK_FULL
    assert fs.contents() == {}


async def test_a_connection_that_breaks_leaves_what_the_next_attempt_removes(parts: list[CheckpointPart]) -> None:
    _fs, env = place()

    async def broken(at: int) -> AsyncIterator[CheckpointPart]:
        for part in parts[:at]:
            yield part
        raise NotServing("the connection broke")

    for at in range(len(parts)):
        with pytest.raises(NotServing):
            await fetch_copy(env, PATHS, broken(at), inline)
    copied = await fetch_copy(env, PATHS, feed(parts), inline)
    assert copied.position == parts[-1].position


async def test_a_copy_of_a_store_that_holds_nothing_is_one_too() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        found = await sent(a)
        _, env = place()
        copied = await fetch_copy(env, PATHS, feed(found), inline)
        assert copied.position == found[-1].position and copied.position.revision == 1


async def test_power_lost_at_any_step_leaves_no_store_or_a_whole_one() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x")
        sent_parts = await sent(a)
    fs, _ = place()
    wanted = {part.file: part.data for part in sent_parts if part.file}

    def run(recording: RecordingFileSystem[MemoryFileSystem]) -> None:
        env = Environment(fs=recording)
        coroutine = fetch_copy(env, PATHS, feed(sent_parts), inline)
        with contextlib.suppress(StopIteration):
            coroutine.send(None)
        begin_swap(env, PATHS, swap_names(PATHS))
        recording.mark("decided")
        finish_swap(env, PATHS)

    seen = {True: 0, False: 0}
    for point in record_crash_points(fs, run):
        for state in sampled_states(point.disk, random.Random(2), 10):
            env = Environment(fs=state.disk)
            finish_swap(env, PATHS)
            is_there = state.disk.exists(PATHS.tables)
            seen[is_there] += 1
            assert is_there or not point.marks("decided")
            if is_there:
                found = {path.name: data for path, data in state.disk.contents().items() if PATHS.swap_temporary != path}
                assert found == wanted, str(state)
                assert read_origin(env, PATHS) is not None
                assert state.disk.list_dir(PATHS.wal) == []
    assert seen[True] > 5 and seen[False] > 20
