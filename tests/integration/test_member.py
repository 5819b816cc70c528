"""Nodes of a cluster in one process: their parts, and how they change."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.members import members
from integration.serving import refused
from kvserver.base.types import Role

pytestmark = pytest.mark.timeout(120)


async def test_three_nodes_begin_follow_and_change_parts(tmp_path: Path) -> None:
    async with members(tmp_path, "a", "b", "c") as nodes:
        await nodes.until_streaming("b", "c")
        for number in range(20):
            await nodes["a"].put(b"k%d" % number)
        await nodes.until_equal("a", "b", "c")
        assert await nodes["b"].get(b"k7") == b"v"
        refusal = await refused(nodes["b"].put(b"x"))
        assert (refusal.code, refusal.metadata["primary"]) == ("NOT_PRIMARY", nodes["a"].address)

        steps = await nodes["b"].promote()
        assert steps[-1].done and steps[-1].epoch.number == 2
        await nodes.until_role("a", Role.FOLLOWER)
        await nodes["b"].put(b"after")
        await nodes.until_streaming("a", "c")
        await nodes.until_equal("b", "a", "c")
        assert await nodes["a"].get(b"after") == b"v"
        assert nodes["a"].member.watch.newest_begun() is not None

        # a node that was promoted and deposed follows again, also behind the next promise that it gives
        await nodes["c"].promote()
        await nodes.until_role("b", Role.FOLLOWER)
        await nodes.until_streaming("a", "b")
        await nodes["a"].promote()
        await nodes.until_role("c", Role.FOLLOWER)
        await nodes["a"].put(b"last")
        await nodes.until_streaming("b", "c")
        await nodes.until_equal("a", "b", "c")
        assert await nodes["b"].get(b"last") == b"v"
