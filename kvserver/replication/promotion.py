"""How a node becomes primary: claim, promises, catch up, branch, first segment.

    look       who is there, and whether enough could promise; nothing is changed until that is so
    claim      the next epoch, create-once in the register: of two candidates one has the number
    promises   a durable promise to refuse lower epochs, of this node first, then of all others at once
    catch-up   with the furthest log among those who promised, until none is further
    branch     the store is opened as primary: it records where the epoch begins and makes its first segment
    serve      done

**Why it is safe.** From the promises on, no lower epoch can gather a quorum, and what it gathered before is in a log that this
node then has (``kvserver.replication.ballot``). The claim comes before the promises, so that what is promised is nobody else's;
the promises before the catch-up, so that what is caught up with does not grow any more. Right before the branch the candidate
looks whether a later claim, or a later promise of its own, has overtaken it.

**Whatever ends it, nothing has to be undone.** A claim without a branch is passed over by everybody. Promises stay: they refuse
the former primary's epoch, so that it may be left without a quorum; any node, the former primary too, is promoted by trying
again, under a higher number. That is why nothing is claimed before a look around.

**What needs to be accepted by name** (``accept_loss``): a quorum that cannot be had, a further log that cannot be fetched, a log
beside the line of the newest epoch. Under an asynchronous policy the loss of the primary may take back what it alone had; that is
not refused but said, as a range.

Runs on the event loop; what blocks goes through ``run_blocking``, and whoever drives it decides what becomes of it when its own
caller hangs up: closed before its end it stands down.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, Corruption, KvError, ReplicationError
from kvserver.base.policy import Policy
from kvserver.base.register import EpochRecord, Register
from kvserver.base.types import NO_EPOCH, Epoch, LogEnd
from kvserver.replication import ballot
from kvserver.replication.ballot import Answer, Loss
from kvserver.replication.candidate import Candidate
from kvserver.replication.canvass import Canvass, RunBlocking
from kvserver.replication.messages import Description
from kvserver.replication.peer import Peers
from kvserver.replication.vow import UNKNOWN_LOST

__all__ = ["TIMEOUT_S", "Candidate", "PromotionStep", "RunBlocking", "promote"]

TIMEOUT_S = 5.0
"""A node that takes longer to answer is taken for one that does not."""


class PromotionStep(NamedTuple):
    """One step of a promotion, or, with ``done``, its outcome."""

    step: str
    """"look", "claim", "promises", "catch-up", "branch" or "serve"."""
    message: str
    done: bool = False
    epoch: Epoch = NO_EPOCH
    revision: int = 0
    """At which the epoch begins."""
    lost_from: int = 0
    """The first revision that may be lost; 0: none."""
    lost_upto: int = 0
    """The last one that anybody heard of; below ``lost_from``: nobody heard of one."""


async def promote(
    candidate: Candidate,
    register: Register,
    peers: Peers,
    env: Environment,
    run_blocking: RunBlocking,
    *,
    dry_run: bool = False,
    accept_loss: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> AsyncIterator[PromotionStep]:
    """Make a node the primary; yield each step when it is done, and at last the outcome.

    With ``dry_run`` nothing is claimed, promised or changed: the outcome is what would happen. Raises ReplicationError
    (PROMOTION_REFUSED), Corruption where the register does not check.
    """
    said = candidate.describe()
    promotion = _Promotion(candidate, register, peers, env, run_blocking, accept_loss, timeout_s)
    if said.role == "primary" and said.state != "FENCED" and not await promotion.canvass.knows_later(said.epoch):
        message = f"{candidate.identity.name} is primary already, under epoch {said.epoch.number}"
        yield PromotionStep("serve", message, True, said.epoch, candidate.end().position.revision)
        return
    promotion.require_ready(said)
    yield await promotion.look(dry_run)
    if dry_run:
        return
    failpoints.hit("promotion.after_look")
    try:
        yield await promotion.claim()
        async for step in promotion.gather():
            yield step
        yield await promotion.overtaken()
        outcome = await promotion.take_over()
    except BaseException:
        await candidate.stand_down()
        raise
    yield outcome  # here a caller that has heard enough ends nothing


class _Promotion:
    """One attempt."""

    def __init__(
        self,
        candidate: Candidate,
        register: Register,
        peers: Peers,
        env: Environment,
        run_blocking: RunBlocking,
        accept_loss: bool,
        timeout_s: float,
    ) -> None:
        self._candidate = candidate
        self._me = candidate.identity
        self.canvass = Canvass(self._me, register, peers, run_blocking, timeout_s)
        self._env = env
        self._accept_loss = accept_loss
        self._counts = candidate.vow.is_complete
        self._epoch = NO_EPOCH
        self._is_claimed = False
        self._lacking: LogEnd | None = None
        self._loss = Loss()

    # Before anything is changed

    def require_ready(self, said: Description) -> None:
        """Raise ReplicationError where the node cannot become primary, whatever the others say."""
        if said.role == "none":
            raise self._refused("it is changing its part at this moment", "try again in a moment")
        if said.state in ballot.UNFILLED or self._candidate.end().position.revision < 1:
            raise self._refused("it has no whole copy of the data yet", "promote a node that has; see: kvctl cluster status")
        if said.state == "FAILED":
            hint = f"mend what is wrong and start it again, or fetch it anew with: kvctl reinit {self._me.name}"
            raise self._refused(f"it has failed: {said.reason or 'see its log'}", hint)
        if not self._counts and not self._accept_loss:
            needs, instead = self._candidate.vow.needs_revision, "or promote another one; see: kvctl cluster status"
            if needs == UNKNOWN_LOST:
                why = "it is new, or has a copy of less than it had, and no primary has said yet what it may have acknowledged"
                raise self._refused(why, f"let it follow the primary, {instead}")
            why = f"it lost something that it had acknowledged, and has not fetched it again up to revision {needs}"
            raise self._refused(why, f"let it follow a node that has it, {instead}")

    async def look(self, dry_run: bool) -> PromotionStep:
        """Look around: what the register holds, who answers, and whether enough could promise."""
        await self._read_register()
        await self.canvass.ask_how_far(self._members())
        promised = [self._candidate.vow.promised, *(one.highest for one in self.canvass.answers.values())]
        number = max(0, *(epoch.number for epoch in promised), *(record.epoch.number for record in self.canvass.records)) + 1
        end = self._candidate.end()
        self._require_no_conflict(end)
        ahead = ballot.furthest(self.canvass.records, self.canvass.answers.values(), end)
        best = ahead[0].end if ahead and ahead[0].end is not None else end
        policies = self._candidate.policies()
        short = self._short(policies)
        if short and not self._accept_loss:
            hint = f"promote {ahead[0].node.name}, whose log is further; or {_bring_back()}" if ahead else _bring_back()
            raise self._refused("; ".join([*short, *self.canvass.silent()]), hint)
        missed = ballot.off_the_line(self.canvass.records, best)
        if missed and not self._accept_loss:
            raise self._refused(missed, _bring_back())
        if not dry_run:
            self._epoch = Epoch(number, self._env.random_id())
            heard = [name for name, one in self.canvass.answers.items() if one.end is not None]
            there = f"{', '.join(heard)} answered" if heard else "no other node answered"
            return PromotionStep("look", _sentence(there, *self.canvass.silent()))
        lost = self._judge_loss(best, policies, short)
        catch_up = f"it would catch up with {ahead[0].node.name} to revision {best.position.revision}" if ahead else ""
        message = f"{self._me.name} would become primary under epoch {number}, from revision {best.position.revision} on"
        message = _sentence(message, catch_up, *short, *self.canvass.silent(), lost.said(), "nothing was changed")
        return PromotionStep("look", message, True, Epoch(number, 0), best.position.revision, lost.first, lost.last)

    # The steps

    async def claim(self) -> PromotionStep:
        """Claim the epoch."""
        try:
            await self.canvass.claim(self._epoch, self._env.clock.now_ms())
        except FileExistsError:
            raise await self._was_overtaken(self._epoch.number) from None
        except ReplicationError as error:
            raise self._refused(
                f"{error.message}; whether epoch {self._epoch.number} was claimed is not known", error.hint
            ) from error
        except OSError as error:
            raise self._refused(f"the register cannot be written: {error}", "see that it is reachable, and try again") from error
        self._is_claimed = True
        failpoints.hit("promotion.after_claim")
        return PromotionStep("claim", f"epoch {self._epoch.number} is claimed for {self._me.name}", epoch=self._epoch)

    async def gather(self) -> AsyncIterator[PromotionStep]:
        """Gather promises, and catch up, until no node that promised is further and the policy's quorum has promised."""
        await self._promise_oneself()
        self.canvass.forget_answers()
        is_first = True
        while True:
            policies = self._candidate.policies()
            await self.canvass.ask_promises(self._members(), self._epoch)
            self._require_obedience()
            if is_first:
                failpoints.hit("promotion.after_promises")
            end = self._candidate.end()
            self._require_no_conflict(end)
            ahead = ballot.furthest(self.canvass.records, self.canvass.answers.values(), end)
            if is_first:
                given = [self._me.name, *(name for name, one in self.canvass.answers.items() if one.promised)]
                message = _sentence(f"{', '.join(given)} promised to obey epoch {self._epoch.number}", *self.canvass.silent())
                yield PromotionStep("promises", message, epoch=self._epoch)
                is_first = False
            if ahead and self._lacking is None:
                yield await self._catch_up(ahead)
                continue
            self._require_quorum(policies, end)
            failpoints.hit("promotion.after_catch_up")
            return

    async def overtaken(self) -> PromotionStep:
        """Look whether a later claim or promise has overtaken this one, right before the epoch begins."""
        await self._read_register()
        newest = self.canvass.records[-1].epoch if self.canvass.records else NO_EPOCH
        if newest != self._epoch:
            raise await self._was_overtaken(newest.number)
        promised = self._candidate.vow.promised
        if promised != self._epoch:
            raise self._refused(f"it has promised to obey epoch {promised.number} meanwhile", _see_who())
        # Behind the claim the former primary cannot give its quorum up any more; what it noted before counts.
        self._require_quorum(self._candidate.policies(), self._candidate.end())
        revision = self._candidate.end().position.revision
        message = f"epoch {self._epoch.number} is to begin behind revision {revision}: the store is opened as primary"
        return PromotionStep("branch", message, epoch=self._epoch, revision=revision)

    async def take_over(self) -> PromotionStep:
        """Begin the epoch."""
        try:
            began = await self._candidate.take_over(self._epoch)
        except KvError as error:
            raise self._refused(f"the store cannot be opened as primary: {error.message}", error.hint) from error
        except OSError as error:
            raise self._refused(f"the store cannot be opened as primary: {error}", "see its log") from error
        failpoints.hit("promotion.after_take_over")
        message = f"{self._me.name} is primary under epoch {self._epoch.number}, from revision {began.revision} on"
        message = _sentence(message, self._loss.said())
        return PromotionStep("serve", message, True, self._epoch, began.revision, self._loss.first, self._loss.last)

    # What the steps consist of

    async def _promise_oneself(self) -> None:
        try:
            mine = await self._candidate.promise(self._epoch)
        except KvError as error:
            raise self._refused(f"it cannot promise: {error.message}", error.hint) from error
        except OSError as error:
            raise self._refused(f"its own promise cannot be kept: {error}", "see that its disk can be written") from error
        if not mine.promised or self._candidate.vow.promised != self._epoch:
            number = self._candidate.vow.promised.number
            raise self._refused(f"it has promised to obey epoch {number} itself", _see_who())
        self._counts = self._counts and mine.complete
        failpoints.hit("promotion.after_own_promise")

    async def _catch_up(self, ahead: list[Answer]) -> PromotionStep:
        """Catch up with the furthest log, from any node that has it; where loss is accepted, with the furthest that there is."""
        best = ahead[0].end
        assert best is not None, "only nodes that said how far they are can be ahead"
        failures = []
        for one in ahead:
            assert one.end is not None, "only nodes that said how far they are can be ahead"
            is_best = ballot.order(one.end) == ballot.order(best)
            if not is_best and not self._accept_loss:
                break
            try:
                await self._candidate.catch_up(one.node.address, one.end)
            except (KvError, OSError) as error:
                failures.append(f"{one.node.name}: {error.message if isinstance(error, KvError) else error}")
                continue
            reached = self._candidate.end()
            if ballot.order(reached) < ballot.order(one.end):
                failures.append(f"{one.node.name}: its log came only up to revision {reached.position.revision}")
                continue
            self._lacking = None if is_best else best
            message = _sentence(f"caught up with {one.node.name} to revision {reached.position.revision}", *failures)
            return PromotionStep("catch-up", message, epoch=self._epoch, revision=reached.position.revision)
        why = f"revision {best.position.revision} of {ahead[0].node.name} cannot be fetched ({'; '.join(failures)})"
        if not self._accept_loss:
            raise self._refused(why, f"promote {ahead[0].node.name}, or see that it can be reached; {_accepting()}")
        self._lacking = best
        return PromotionStep("catch-up", _sentence(why, "that is accepted"), epoch=self._epoch)

    def _require_obedience(self) -> None:
        against = ballot.obeys_another(self.canvass.answers.values(), self._epoch)
        if against is None:
            return
        name, number = against.node.name, against.highest.number
        if number == self._epoch.number:
            why = f"{name} has promised to obey another epoch {number} than the one that was claimed"
            raise self._refused(why, "two registers are in use, or one was changed by hand; see: kvctl cluster history")
        raise self._refused(f"{name} has promised to obey epoch {number} already", _see_who())

    def _require_quorum(self, policies: Sequence[Policy], end: LogEnd) -> None:
        short = self._short(policies)
        if short and not self._accept_loss:
            raise self._refused("; ".join([*short, *self.canvass.silent()]), _bring_back())
        missed = ballot.off_the_line(self.canvass.records, end)
        if missed and not self._accept_loss:
            raise self._refused(missed, _bring_back())
        self._loss = self._judge_loss(end, policies, short)

    def _require_no_conflict(self, own: LogEnd) -> None:
        ends = [
            (one.node.name, one.end) for one in self.canvass.answers.values() if one.end is not None and one.end.position.revision
        ]
        records = self.canvass.records
        if self._is_claimed and all(record.epoch != self._epoch for record in records):
            records = [*records, EpochRecord(self._epoch, self._me.node_id, 0, None)]
        conflict = ballot.conflict(records, [(self._me.name, own), *ends])
        if conflict:
            raise self._refused(conflict, "see the epochs with: kvctl cluster history; and which nodes share one register")

    def _witnesses(self) -> frozenset[str]:
        """Return the names of those that promised, or would, and lack nothing."""
        counted = {name for name, one in self.canvass.answers.items() if one.counts}
        return frozenset(counted | ({self._me.name} if self._counts else set()))

    def _short(self, policies: Sequence[Policy]) -> list[str]:
        """Return why the promises, if they are all that there are, do not prove that nothing acknowledged is missing."""
        short = ballot.unmet(policies, self._witnesses())
        former = ballot.former_primary(self.canvass.records)
        has_quorum = any(policy.write_quorum for policy in policies)
        if (
            has_quorum
            and former is not None
            and ballot.is_degraded(self.canvass.notes)
            and former.node_id not in self._witness_ids()
        ):
            note = self.canvass.notes[-1]
            short.append(f"{note.node} gave the quorum up ({note.reason}), and {former.node or former.node_id} does not answer")
        return short

    def _witness_ids(self) -> frozenset[str]:
        ids = {one.node.node_id for one in self.canvass.answers.values() if one.counts}
        return frozenset(ids | ({self._me.node_id} if self._counts else set()))

    def _judge_loss(self, end: LogEnd, policies: Sequence[Policy], short: Sequence[str]) -> Loss:
        revision, silent_ms = self._candidate.heard()
        heard = max([revision, *(one.heard for one in self.canvass.answers.values())])
        by_quorum = bool(policies) and all(policy.write_quorum for policy in policies) and not short
        lost = ballot.loss(self.canvass.records, end, self._witness_ids(), by_quorum, self._lacking, heard)
        return lost._replace(why=f"{lost.why}; this node heard of it {silent_ms} ms ago") if lost.first else lost

    async def _read_register(self) -> None:
        try:
            await self.canvass.read_register()
        except Corruption:
            raise
        except KvError as error:
            raise self._refused(error.message, error.hint) from error
        except OSError as error:
            raise self._refused(f"the register cannot be read: {error}", "see that it is reachable, and try again") from error

    def _members(self) -> set[str]:
        return {name for policy in self._candidate.policies() for name in policy.members}

    async def _was_overtaken(self, number: int) -> ReplicationError:
        """Return the error that another node is becoming primary, or has, by its name where the register tells."""
        await self._read_register()
        who = next(
            (record.node or record.node_id for record in self.canvass.records if record.epoch.number == number), "another node"
        )
        return self._refused(f"{who} has claimed epoch {number}", _see_who())

    def _refused(self, why: str, hint: str) -> ReplicationError:
        if self._is_claimed:
            why = f"{why}; nothing was acknowledged under epoch {self._epoch.number}, which stays claimed"
            hint = f"{hint}; then try again with: kvctl -E {self._me.address} promote"
        return ReplicationError(Code.PROMOTION_REFUSED, f"{self._me.name} cannot become primary: {why}", hint)


def _sentence(*clauses: str) -> str:
    return "; ".join(clause for clause in clauses if clause)


def _see_who() -> str:
    return "see who is primary, or about to be, with: kvctl cluster status"


def _accepting() -> str:
    return "or accept what may be lost with: kvctl promote --accept-loss"


def _bring_back() -> str:
    return f"bring back the nodes that are missing; {_accepting()}"
