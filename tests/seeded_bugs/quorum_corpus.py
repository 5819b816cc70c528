"""Bugs of the policy and its quorum, each with the tests that must notice it."""

from __future__ import annotations

from seeded_bugs.corpus import SeededBug

MARKS = ("tests/unit/commit/test_marks.py",)
PIPELINE = ("tests/unit/commit/test_pipeline_quorum.py", "tests/unit/commit/test_pipeline_quorum_bounds.py")
POLICY = ("tests/unit/commit/test_pipeline_policy.py", "tests/unit/commit/test_state_policy.py")
FENCE = ("tests/unit/commit/test_pipeline_fence.py",)
MODEL = ("tests/unit/replication/test_quorum_model.py",)
QUORUM = ("tests/unit/replication/test_quorum.py",)
GUARD = ("tests/unit/replication/test_quorum_guard.py",)

QUORUM_CORPUS = (
    SeededBug(
        "visible_before_replicated",
        "kvserver/commit/marks.py",
        (("            shown = min(shown, self.replicated)\n", "            pass\n"),),
        MODEL,
        "readers see what the loss of one machine takes back",
    ),
    SeededBug(
        "all_that_was_recovered_is_shown_at_once",
        "kvserver/commit/marks.py",
        (("self.visible = flushed if waits else revision", "self.visible = revision"),),
        MODEL,
        "a primary that was cut off before it died shows at its start what nobody else has",
    ),
    SeededBug(
        "answered_when_the_group_begins_to_be_visible",
        "kvserver/commit/showing.py",
        (("if kept and kept[0].revision <= marks.visible:", "if kept and kept[0].revision - 1 <= marks.visible:"),),
        MODEL,
        "the last commits of a group are acknowledged although the quorum lacks them",
    ),
    SeededBug(
        "answers_pass_those_that_are_being_told",
        "kvserver/commit/showing.py",
        (("        if not self._telling and (self._kept or self._waits):\n", "        if self._kept or self._waits:\n"),),
        PIPELINE,
        "the order of answers is not the order of what they show",
    ),
    SeededBug(
        "cut_told_before_the_quorum_has_it",
        "kvserver/commit/showing.py",
        (
            (
                "            self._kept.append(_Kept(revision",
                "            if is_cut:\n                self._on_cut(done.position)\n"
                "            self._kept.append(_Kept(revision",
            ),
        ),
        PIPELINE,
        "tables take nothing back: what was flushed too early stays on a node that has to rewind",
    ),
    SeededBug(
        "policy_shown_by_the_rule_before_it",
        "kvserver/commit/pipeline.py",
        (
            (
                "        if self.marks.replicated is None and self.state.needs_quorum(self.marks.visible):\n",
                "        if False:\n",
            ),
        ),
        POLICY + MODEL,
        "between its revision and the first word about the quorum its own group is answered",
    ),
    SeededBug(
        "deposed_primary_goes_on_showing",
        "kvserver/commit/pipeline.py",
        (("        self._over = error\n        self.marks.move_replicated(0)\n", "        self._over = error\n"),),
        FENCE,
        "two primaries show two histories",
    ),
    SeededBug(
        "deposed_primary_answers_what_was_under_way",
        "kvserver/commit/pipeline.py",
        (("ticket.fail_with(OutcomeUnknown() if has_commits else repeated(error))", "pass"),),
        FENCE,
        "a client takes for kept what the new primary never had",
    ),
    SeededBug(
        "only_the_newest_policy_counts",
        "kvserver/commit/state.py",
        (("        return self._policies[max(0, later - 1) :]\n", "        return self._policies[-1:]\n"),),
        POLICY + MODEL,
        "a change of policy lets go of what the old one promised",
    ),
    SeededBug(
        "full_of_unreplicated_answers_and_still_admitting",
        "kvserver/commit/admission.py",
        (("return self._sealing or self._full or (", "return self._sealing or ("),),
        PIPELINE,
        "memory grows for as long as the quorum is away",
    ),
    SeededBug(
        "equal_number_with_another_nonce_accepted",
        "kvserver/replication/quorum.py",
        (("        if epoch != self.epoch or durable < self._begin:\n", "        if epoch.number != self.epoch.number:\n"),),
        QUORUM,
        "two primacies of one number acknowledge each other's writes",
    ),
    SeededBug(
        "acknowledgement_of_another_epoch_counts",
        "kvserver/replication/quorum.py",
        (("        if epoch != self.epoch or durable < self._begin:\n", "        if durable < self._begin:\n"),),
        QUORUM,
        "a member without the epoch's header may have another history at the same revision",
    ),
    SeededBug(
        "lower_acknowledgement_ignored",
        "kvserver/replication/quorum.py",
        (
            (
                "        member.durable[node_id] = durable\n        if before",
                "        member.durable[node_id] = max(before or 0, durable)\n        if before",
            ),
        ),
        QUORUM + MODEL,
        "what a member has lost counts as kept",
    ),
    SeededBug(
        "any_policy_in_force_suffices",
        "kvserver/replication/quorum.py",
        (("or replicated < least.replicated", "or replicated > least.replicated"),),
        QUORUM + MODEL,
        "during a change the weaker of the two rules decides",
    ),
    SeededBug(
        "later_primacy_excuses_an_earlier_one",
        "kvserver/replication/quorum.py",
        (("and (newest.epoch.number < epoch.number or newest.epoch == epoch)", ""),),
        QUORUM,
        "the new primary gives its quorum up, and the old one acknowledges alone by that note",
    ),
    SeededBug(
        "policy_that_is_over_is_waited_for",
        "kvserver/replication/policy_guard.py",
        (("        self._again |= marks.visible > before\n", ""),),
        GUARD,
        "writes wait for the old quorum until something else happens",
    ),
)
