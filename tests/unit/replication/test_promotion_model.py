"""Random clusters under a policy of W of M: what was acknowledged is in the history of every primary that comes after."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter

import pytest

from kvserver.base import failpoints
from kvserver.base.errors import KvError
from kvserver.base.policy import Policy
from kvserver.base.types import Epoch
from unit.replication.promotion_cluster import Cluster, Killed, Node

STEPS = 60
PLACES = [name for name in failpoints.REPLICATION_NAMES if name.startswith(("promotion.", "vow."))]


class World:
    """A cluster to which things happen by chance, and its judge."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        names = "abcde"[: self.rng.randrange(2, 6)]
        self.cluster = Cluster(names, self._policy(names), seed)
        self.cluster.between = self._between
        self.cluster.on_take_over = self._judge
        self.taken: dict[int, tuple[str, Epoch]] = {}
        self.seen: Counter[str] = Counter()
        self._depth = 0

    def _policy(self, names: str) -> Policy:
        members = self.rng.sample(names, self.rng.randrange(1, len(names) + 1))
        return Policy(self.rng.randrange(1, len(members) + 1), tuple(sorted(members)))

    def _judge(self, node: Node, epoch: Epoch) -> None:
        assert epoch.number not in self.taken, f"epoch {epoch.number} was taken twice"
        self.taken[epoch.number] = (node.name, epoch)
        lost = set(self.cluster.acknowledged) - set(node.values)
        assert not lost, f"{node.name} lacks {lost} of what was acknowledged"
        self.seen["taken over"] += 1

    async def _between(self) -> None:
        """Let something happen in the middle of a promotion; other tasks too."""
        if self._depth == 0 and self.rng.random() < 0.3:
            self._depth += 1
            self.act(in_the_middle=True)
            self._depth -= 1
        if self.rng.random() < 0.5:
            await asyncio.sleep(0)

    def act(self, in_the_middle: bool = False) -> None:
        cluster, rng = self.cluster, self.rng
        nodes = list(cluster.nodes.values())
        primaries = [node for node in nodes if node.alive and node.role == "primary"]
        some = rng.sample(nodes, rng.randrange(len(nodes) + 1))
        chance = rng.random()
        if chance < 0.6 and primaries:
            change = self._policy("".join(cluster.nodes)) if rng.random() < 0.1 else None
            primary = rng.choice(primaries)
            if list(primary.policies())[1:]:
                change = None  # one change at a time
            if not primary.is_fenced:
                self.seen["acknowledged"] += bool(cluster.write(primary, some, change))
        elif chance < 0.7:
            cluster.cuts = {(rng.choice(nodes).name, rng.choice(nodes).name) for _ in range(rng.randrange(5))}
        elif chance < 0.8:
            cluster.cuts = set()
        elif not in_the_middle:
            node = rng.choice(nodes)
            if not node.alive:
                node.restart()
            elif chance < 0.9:
                node.kill()
            elif node.role != "primary":
                node.lose(rng.randrange(3))

    async def promote(self, name: str) -> None:
        for _ in range(self.rng.choice([0, 0, 3, 10, 20])):  # of two at once, one may be anywhere when the other begins
            await asyncio.sleep(0)
        try:
            await self.cluster.promote(name)
        except KvError:
            self.seen["refused"] += 1
        except Killed:
            self.seen["killed"] += 1

    async def run(self) -> None:
        for _ in range(STEPS):
            if self.rng.random() < 0.75:
                self.act()
                continue
            able = [name for name, node in self.cluster.nodes.items() if node.alive]
            candidates = self.rng.sample(able, min(len(able), self.rng.choice([1, 1, 2])))
            with self._a_kill() if self.rng.random() < 0.2 else contextlib.nullcontext():
                await asyncio.gather(*(self.promote(name) for name in candidates))

    @contextlib.contextmanager
    def _a_kill(self):  # type: ignore[no-untyped-def]
        def kill() -> None:
            failpoints.disarm_all()
            raise Killed

        failpoints.arm(self.rng.choice(PLACES), kill)
        try:
            yield
        finally:
            failpoints.disarm_all()


def run(seed: int) -> Counter[str]:
    world = World(seed)
    asyncio.run(world.run())
    return world.seen


@pytest.mark.parametrize("begin", range(0, 200, 25))
def test_what_was_acknowledged_is_in_every_later_history(begin: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(begin, begin + 25):
        try:
            seen += run(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert min(seen[what] for what in ("taken over", "acknowledged", "refused", "killed")) > 10, seen
