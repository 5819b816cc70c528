"""What the pieces of a member ask of each other, as interfaces: ``member`` and ``parts`` do it, and import the pieces."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from kvserver.base.errors import KvError
from kvserver.base.paths import DataPaths
from kvserver.base.types import Epoch, Role
from kvserver.replication.checkpoint_source import CheckpointSource
from kvserver.replication.follower import Follower
from kvserver.replication.home import FollowerFloor, Home
from kvserver.replication.messages import Description, NodeIdentity, Promised
from kvserver.replication.peer import Peer
from kvserver.replication.shipper import Shipping
from kvserver.replication.slots import SlotInfo
from kvserver.replication.store_register import StoreRegister
from kvserver.replication.vow import Vow
from kvserver.server.config import ClusterConfig
from kvserver.server.life import Life, World
from kvserver.server.register_watch import RegisterWatch


class PartsPort(Protocol):
    """What belongs to a member beside its store; see ``kvserver.server.parts.Parts``."""

    driver: Follower | None
    shipping: Shipping | None
    copies: CheckpointSource | None
    distrusted: str

    @property
    def home(self) -> Home:
        """The node, as its follower sees it."""

    @property
    def floor(self) -> FollowerFloor:
        """The outside world of its follower."""

    @property
    def is_degraded(self) -> bool:
        """Say whether the policy's quorum is given up for now."""

    def peer(self, address: str) -> Peer:
        """Return who speaks to another node."""

    def describe(self) -> Description:
        """Say who the node is, which part it plays and how far it is."""

    def primary_address(self) -> str:
        """Return where the primary is, as far as is known."""

    def heard_of(self, epoch: Epoch, primary: str) -> None:
        """Note who is primary under an epoch."""

    def slots(self) -> list[SlotInfo]:
        """Return who is shipped the log."""

    def drop_slot(self, name: str) -> None:
        """Let go of what is held for a follower. Raises KvError."""

    @property
    def newest_base(self) -> int:
        """Return the revision of the newest checkpoint that can be gone back to; 0: there is none."""

    async def note_policy(self, degraded: bool, reason: str) -> None:
        """Give the quorum up or return to it. Raises KvError."""

    async def stand_still(self) -> None:
        """Follow nobody until ``move_again``."""

    def move_again(self) -> None:
        """Follow again."""

    def not_following(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Follow nobody while the block runs."""

    def promised(self, given: bool) -> Promised:
        """Return the answer to whoever asked for a promise."""

    def raise_distrusted(self) -> None:
        """Raise KvError where the node does not trust its own content."""


class MemberPort(Protocol):
    """A node of a cluster; see ``kvserver.server.member.Member``."""

    world: World
    cluster: ClusterConfig
    paths: DataPaths
    life: Life | None
    address: str
    fenced: str
    is_stopping: bool
    changing: asyncio.Lock
    register: StoreRegister
    vow: Vow
    watch: RegisterWatch

    @property
    def parts(self) -> PartsPort:
        """What belongs to it beside its store."""

    @property
    def is_primary(self) -> bool:
        """Say whether it takes writes."""

    def identity(self) -> NodeIdentity:
        """Return who it is."""

    async def become(self, role: Role, claimed: Epoch | None = None, why: str = "") -> None:
        """End this life and begin another. ``changing`` is held. Raises KvError."""

    async def reopen(self, prepare: Callable[[], None]) -> None:
        """Close the store, have it prepared on a thread, and open it again, as follower."""

    async def promise(self, epoch: Epoch, candidate: NodeIdentity) -> Promised:
        """Refuse lower epochs from now on. Raises KvError."""

    def fence(self, error: KvError, why: str) -> None:
        """Acknowledge nothing any more."""

    def serve_nothing(self) -> None:
        """Answer clients NOT_SERVING from now on."""
