"""What an operator of a node that is alone is told about clusters: how the node is, and that the rest needs a register."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NoReturn

import kvserver
from kvserver.base.clock import Clock
from kvserver.base.errors import Code, NotServing, ReplicationError
from kvserver.engine.database import Database
from kvserver.replication.messages import Description, NodeIdentity
from kvserver.replication.promotion import PromotionStep
from kvserver.service.cluster_views import ClusterView, HistoryView, NodeView, PolicyView, SlotView


class AloneControl:
    """Does what the service Cluster asks for, of one node. Belongs to the event loop."""

    def __init__(self, clock: Clock, database: Callable[[], Database | None], address: Callable[[], str]) -> None:
        self._clock = clock
        self._database = database
        self._address = address

    @property
    def database(self) -> Database | None:
        """The store; None while it is not open."""
        return self._database()

    async def status(self, only_self: bool) -> ClusterView:
        """Return how this node is."""
        database = self._database()
        if database is None:
            raise NotServing("the node is starting")
        kept, epoch, marks = database.identity, database.history.current, database.marks
        described = Description(
            identity=NodeIdentity(kept.cluster_id, kept.node_name, kept.node_id, self._address(), kept.register),
            role=database.role.value,
            state="PRIMARY",
            reason="",
            epoch=epoch,
            promised=epoch,
            end=database.log_end(),
            applied=marks.applied,
            visible=marks.visible,
            heard=marks.durable,
            heard_ms=self._clock.now_ms(),
            follows="",
            primary=self._address(),
            server_version=kvserver.__version__,
        )
        node = NodeView(kept.node_name, self._address(), described, is_self=True)
        return ClusterView([node], self.policy(), "", ())

    async def history(self) -> HistoryView:
        """Refuse: the epochs of this node are in its own folder."""
        _refuse()

    async def promote(self, dry_run: bool, accept_loss: bool) -> AsyncIterator[PromotionStep]:
        """Say that it is primary already."""
        database = self._database()
        if database is None:
            raise NotServing("the node is starting")
        epoch = database.history.current
        message = f"{database.identity.node_name} is alone, and primary already, under epoch {epoch.number}"
        yield PromotionStep("serve", message, True, epoch, database.marks.durable)

    def policy(self) -> PolicyView:
        """Return that it decides alone."""
        return PolicyView(0, ())

    async def set_policy(self, write_quorum: int, members: tuple[str, ...]) -> int:
        """Refuse."""
        _refuse()

    async def degrade(self, reason: str) -> None:
        """Refuse."""
        _refuse()

    async def end_degrade(self) -> None:
        """Refuse."""
        _refuse()

    def slots(self) -> Sequence[SlotView]:
        """Return nobody."""
        return ()

    async def drop_slot(self, name: str) -> None:
        """Refuse."""
        _refuse()

    async def reinit(self) -> None:
        """Refuse."""
        _refuse()


def _refuse() -> NoReturn:
    raise ReplicationError(
        Code.WRONG_PEER,
        "this node is alone: it was started without --register, which the nodes of a cluster share",
        "make it the first node of a cluster: stop it, kvctl register move --data-dir DIR --to URL, start it with --register URL",
    )
