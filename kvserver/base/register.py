"""The register: where epochs are claimed. What it must do; ``kvserver.replication`` has the kinds there are."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from kvserver.base.types import Epoch, Position


class EpochRecord(NamedTuple):
    """One epoch as the register knows it."""

    epoch: Epoch
    node_id: str
    claimed_ms: int
    branch: Position | None
    """Where in history it began; None while that is not recorded: then nothing was acknowledged under it."""
    begun: bool = False
    """Its first segment was durable: a log without it has lost something."""


class Register(Protocol):
    """Create-once records of epochs. Errors are OSError, or Corruption where a record does not check."""

    def records(self) -> list[EpochRecord]:
        """Return all epochs ever claimed, oldest first."""

    def claim(self, epoch: Epoch, node_id: str, now_ms: int) -> None:
        """Claim an epoch; FileExistsError where its number is taken."""

    def record_branch(self, epoch: Epoch, branch: Position) -> None:
        """Record where a claimed epoch begins; FileExistsError where that was done before."""

    def record_begun(self, epoch: Epoch) -> None:
        """Record that the epoch's first segment is durable; FileExistsError where that was done before."""
