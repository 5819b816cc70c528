"""Bugs of a node that changes its part, had elsewhere or nearly here; see ``seeded_bugs.corpus``."""

from __future__ import annotations

from seeded_bugs.corpus import SeededBug

ROLES = ("tests/unit/server/test_roles.py",)
PROMISING = ("tests/unit/server/test_promising.py",)
POLICY = ("tests/unit/server/test_policy_part.py",)
CONTENT = ("tests/unit/server/test_content_check.py",)

SERVER_CORPUS = (
    SeededBug(
        "primary_promises_and_goes_on_acknowledging",
        "kvserver/server/promising.py",
        (("        if candidate.node_id != me.node_id:\n", "        if False:\n"),),
        PROMISING,
        "what it acknowledges behind its word the candidate does not have",
    ),
    SeededBug(
        "end_told_while_writes_are_on_their_way",
        "kvserver/server/promising.py",
        (("            await _settled(life)\n", ""),),
        PROMISING,
        "the log goes on behind the end that the candidate catches up with",
    ),
    SeededBug(
        "promise_while_another_log_is_taken",
        "kvserver/server/promising.py",
        (("    async with member.parts.not_following():\n", "    if True:\n"),),
        PROMISING,
        "a chunk of the old primary is made durable and acknowledged behind the promise",
    ),
    SeededBug(
        "primary_fenced_by_an_epoch_below_its_own",
        "kvserver/server/promising.py",
        (("        if epoch.number <= life.database.history.current.number:  # of", "        if False:  # of"),),
        PROMISING,
        "a candidate that comes late stops the primary that has overtaken it",
    ),
    SeededBug(
        "promise_to_a_candidate_of_another_register",
        "kvserver/server/promising.py",
        (("    if candidate.register_id != me.register_id:\n", "    if False:\n"),),
        PROMISING,
        "numbers of two registers are compared with each other",
    ),
    SeededBug(
        "old_primary_leads_again_against_its_promise",
        "kvserver/server/roles.py",
        (("    if promised > newest.epoch:\n", "    if False:\n"),),
        ROLES,
        "it is started between the candidate's promises and its branch",
    ),
    SeededBug(
        "promotion_that_came_to_nothing_leads_at_its_restart",
        "kvserver/server/roles.py",
        (("    if other is not None:\n", "    if False:\n"),),
        ROLES,
        "its claim is the newest, and it has neither promises nor what the others have",
    ),
    SeededBug(
        "note_counts_at_the_look_that_finds_it",
        "kvserver/server/policy_part.py",
        (("        is_read = self._confirmed and not", "        is_read = not"),),
        POLICY,
        "that look read the claims before the note was there: a candidate between the two has seen neither",
    ),
    SeededBug(
        "claim_behind_the_note_not_looked_for",
        "kvserver/server/policy_part.py",
        (("            await self._look(life)  # a claim", "            pass  # a claim"),),
        POLICY,
        "the candidate relies on a quorum that the old primary does without",
    ),
    SeededBug(
        "returned_to_the_quorum_behind_the_note",
        "kvserver/server/policy_part.py",
        (("            self._returns = True\n            guard.set_degraded(False)\n", "            pass\n"),),
        POLICY,
        "whoever reads the note relies on the quorum, and the primary has acknowledged alone since",
    ),
    SeededBug(
        "content_of_another_revision_compared",
        "kvserver/server/content_check.py",
        (("        if found.position.revision == revision and self._life() is life:\n", "        if self._life() is life:\n"),),
        CONTENT,
        "a busy follower is taken off service for being ahead",
    ),
    SeededBug(
        "differences_counted_over_rounds_that_were_equal",
        "kvserver/server/content_check.py",
        (("        if mine == theirs:\n            self._differed = 0\n", "        if mine == theirs:\n"),),
        CONTENT,
        "two odd rounds in a year end a node's service",
    ),
    SeededBug(
        "hash_of_another_revision_told",
        "kvserver/server/content_check.py",
        (("        if found.position.revision != revision:\n            LOG", "        if False:\n            LOG"),),
        CONTENT,
        "the primary itself makes its followers distrust themselves",
    ),
)
