"""The node, as its follower sees it (``kvserver.replication.home.Home``)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kvserver.base.types import Epoch
from kvserver.engine.database import Database
from kvserver.replication.messages import Description, NodeIdentity
from kvserver.replication.peer import Peer
from kvserver.replication.vow import Vow
from kvserver.server.content_check import ContentCheck
from kvserver.server.ports import MemberPort

LOG = logging.getLogger("kvserver.server")


class NodeHome:
    """Belongs to the event loop."""

    cascades = False

    def __init__(self, member: MemberPort, peers: Callable[[str], Peer], content: ContentCheck) -> None:
        self._member = member
        self._content = content
        self.peers = peers
        archive = member.world.config.archive
        self.archive_url = archive.url if archive is not None else None

    @property
    def vow(self) -> Vow:
        """Return what the node has promised."""
        return self._member.vow

    def note_lost(self, revision: int) -> None:
        """Count for no quorum until the log reaches a revision again."""
        self._member.vow.note_lost(revision)

    def identity(self) -> NodeIdentity:
        """Return who the node is."""
        return self._member.identity()

    def database(self) -> Database | None:
        """Return the store; None while it is closed."""
        life = self._member.life
        return life.database if life is not None else None

    def source(self) -> str:
        """Return the address to follow."""
        return self._member.parts.primary_address()

    async def reopen(self, prepare: Callable[[], None]) -> None:
        """Close the store, have it prepared, and open it again as a follower's."""
        await self._member.reopen(prepare)

    async def begin(self, cluster_id: bytes, description: Description | None) -> None:
        """Remember which cluster the folder belongs to: the register said so before there was a store."""

    def on_epoch(self, epoch: Epoch, primary: str) -> None:
        """Note that an epoch was heard of from the source, and who is its primary."""
        self._member.parts.heard_of(epoch, primary)

    async def on_hash_point(self, revision: int) -> None:
        """Have the content hashed as of exactly this revision."""
        await self._content.on_point(revision)

    async def on_hash(self, revision: int, sha256: bytes) -> None:
        """Compare the source's hash with this node's."""
        await self._content.on_hash(revision, sha256)
