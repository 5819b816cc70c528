"""Keeps a primary's pipeline told of what the policy's quorum has.

Three things change the answer: an acknowledgement, what is durable on the primary itself, and the policies that must hold. The
last changes when the commit of a policy gets its revision (the pipeline holds it until it hears from here) and when it becomes
visible, which is itself an effect of the answer; so the answer is worked out again until it stays.
"""

from __future__ import annotations

from kvserver.commit.pipeline import CommitPipeline
from kvserver.replication.messages import Ack
from kvserver.replication.quorum import AckVerdict, Quorum, Standing


class PolicyGuard:
    """One primacy's quorum and the pipeline above it. Belongs to the event loop."""

    def __init__(self, pipeline: CommitPipeline, quorum: Quorum, degraded: bool = False) -> None:
        self.quorum = quorum
        self._pipeline = pipeline
        self._degraded = degraded
        self._considering = False
        self._again = False
        pipeline.why_unmet = lambda: str(self.standing())
        self.consider()

    @property
    def degraded(self) -> bool:
        """Say whether the quorum is given up for now."""
        return self._degraded

    def set_degraded(self, degraded: bool) -> None:
        """Give the quorum up, or return to it; to be called when that is in the register."""
        self._degraded = degraded
        self.consider()

    def on_ack(self, name: str, node_id: str, ack: Ack) -> AckVerdict:
        """Take a follower's acknowledgement."""
        verdict = self.quorum.acknowledge(name, node_id, ack.epoch, ack.durable)
        self.consider()
        return verdict

    def forget(self, name: str) -> None:
        """Forget what was acknowledged under a name."""
        self.quorum.forget(name)
        self.consider()

    def consider(self) -> None:
        """Tell the pipeline what is replicated; to be called whenever something became durable or visible."""
        self._again = True
        if self._considering:  # called back by what this itself made visible
            return
        self._considering = True
        try:
            while self._again:
                self._again = False
                self._consider_once()
        finally:
            self._considering = False

    def _consider_once(self) -> None:
        marks = self._pipeline.marks
        before = marks.visible
        replicated = self.standing().replicated
        if replicated is None and marks.replicated is None:  # as ever, without a policy
            return
        self._pipeline.set_replicated(replicated)
        self._again |= marks.visible > before

    def standing(self) -> Standing:
        """Return how far the quorum is; while it is given up, that nobody waits for it."""
        return self._standing(self._degraded)

    def standing_by_policy(self) -> Standing:
        """Return how far the quorum is, given up or not: whether it can be returned to."""
        return self._standing(degraded=False)

    @property
    def is_caught_up(self) -> bool:
        """Say whether the policy's quorum has all that is visible, so that returning to it takes nothing back."""
        replicated = self.standing_by_policy().replicated
        return replicated is None or replicated >= self._pipeline.marks.visible

    def _standing(self, degraded: bool) -> Standing:
        marks = self._pipeline.marks
        return self.quorum.standing(marks.durable, self._pipeline.state.policies_at(marks.visible), degraded)
