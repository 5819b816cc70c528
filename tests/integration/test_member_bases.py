"""Checkpoints to go back to, of whole nodes: what all have is said to all, and a start holds the log before it lets any go."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.members import MemberNode, Members, members
from integration.serving import until
from kvserver.base.errors import NotServing
from kvserver.engine.rewind_base import HOLD
from kvserver.server.life import Life

pytestmark = pytest.mark.timeout(120)


def held_from(node: MemberNode) -> int | None:
    """Return the revision from which on the log is held behind the oldest base."""
    return node.database._holds.list().get(HOLD)


def held_by_all(node: MemberNode) -> int:
    bases = node.member.parts.bases
    return bases.held_by_all if bases is not None else 0


async def kept(nodes: Members, *names: str) -> None:
    """Return when these nodes have a base."""
    for name in names:
        await nodes[name].database.flush()
    await until(lambda: all(nodes[name].member.parts.newest_base for name in names), 20)


async def test_every_node_hears_what_all_have_and_keeps_a_base_of_no_more(tmp_path: Path) -> None:
    async with members(tmp_path, "a", "b", "c") as nodes:
        await nodes.until_streaming("b", "c")
        revision = await nodes["a"].put(b"k")
        await nodes.until_equal(*nodes)
        await until(lambda: all(held_by_all(node) == revision for node in nodes.values()), 20)
        await nodes["c"].stop()
        newer = await nodes["a"].put(b"k")
        await nodes.until_equal("a", "b")
        for name in ("a", "b"):
            nodes[name].member.tick()
        assert (held_by_all(nodes["a"]), held_by_all(nodes["b"])) == (revision, revision), "c may come back"
        await kept(nodes, "a", "b")
        assert nodes["a"].member.parts.newest_base == newer
        nodes["a"].member.parts.drop_slot("c")
        await until(lambda: held_by_all(nodes["a"]) == held_by_all(nodes["b"]) == newer, 20)


async def test_a_member_that_never_followed_has_nothing(tmp_path: Path) -> None:
    flags = ("--members", "a,b,c", "--write-quorum", "2")
    async with members(tmp_path, "a", "b", flags=flags) as nodes:
        await nodes.until_streaming("b")
        await nodes["a"].put(b"k")
        await nodes.until_equal("a", "b")
        for name in ("a", "b"):
            nodes[name].member.tick()
        assert (held_by_all(nodes["a"]), held_by_all(nodes["b"])) == (0, 0)


async def test_a_follower_believes_only_whom_it_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with members(tmp_path, "a", "b") as nodes:
        await nodes.until_streaming("b")
        await nodes["a"].put(b"k")
        await nodes.until_equal(*nodes)
        await until(lambda: held_by_all(nodes["b"]) > 0, 20)

        def refuse(*arguments: object) -> object:
            raise NotServing("not now")

        monkeypatch.setattr(type(nodes["a"].member.parts.shipping), "ship", refuse)
        shipping = nodes["a"].member.parts.shipping
        assert shipping is not None
        for shipment in list(shipping._shipments.values()):
            shipment.end(NotServing("not now"))
        await until(lambda: nodes["b"].state == "CONNECTING", 20)
        await until(lambda: held_by_all(nodes["b"]) == 0, 20)


async def test_a_primary_that_starts_holds_the_log_behind_its_base_before_the_archive_lets_it_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = ("--archive", (tmp_path / "archive").as_uri(), "--ballast-mb", "0")
    async with members(tmp_path, "a", flags=archive) as nodes:
        node = nodes["a"]
        first = await node.put(b"k")
        await kept(nodes, "a")
        for number in range(3):
            await node.put(b"more/%d" % number)
            await node.database.seal()
        await node.database.flush()
        await until(lambda: node.database.marks.archived >= node.database.log_end().position.revision, 20)
        assert held_from(node) == first + 1
        held_then: list[int | None] = []
        start_archive = Life.start_archive

        async def noted(life: Life) -> None:
            held_then.append(life.database._holds.list().get(HOLD))
            await start_archive(life)

        monkeypatch.setattr(Life, "start_archive", noted)
        for _ in range(2):
            await node.stop()
            await node.start()
            await until(lambda: node.database.marks.archived >= first + 3, 20)
            node.database.tick()
            assert node.database.tail().oldest_revision() <= first + 1, "it is there to go back by"
        assert held_then == [first + 1] * 2
