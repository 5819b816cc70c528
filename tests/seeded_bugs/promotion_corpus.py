"""Bugs that register, promises and promotions have had elsewhere, or nearly had here; see ``seeded_bugs.corpus``."""

from __future__ import annotations

from seeded_bugs.corpus import SeededBug

VOW = ("tests/unit/replication/test_vow.py",)
BALLOT = ("tests/unit/replication/test_promotion_ballot.py",)
PROMOTION = ("tests/unit/replication/test_promotion.py",)
PROMOTION_FAILS = ("tests/unit/replication/test_promotion_failures.py",)
MODEL = ("tests/unit/replication/test_promotion_model.py",)
REGISTER = ("tests/unit/replication/test_store_register.py",)
REGISTER_DAMAGE = ("tests/unit/replication/test_store_register_damage.py",)
REGISTERS = ("tests/conformance/test_registers.py",)
ROLES = ("tests/unit/engine/test_open_roles.py",)

GATHER = """        async for step in promotion.gather():
            yield step
        yield await promotion.overtaken()
        outcome = await promotion.take_over()
"""

PROMOTION_CORPUS = (
    SeededBug(
        "promise_not_synced",
        "kvserver/replication/vow.py",
        (("        self._fs.sync_dir(self._paths.root)\n        self._promised, ", "        self._promised, "),),
        VOW,
        "Raft's vote, kept in a page cache: after the power cut both primaries have a quorum",
    ),
    SeededBug(
        "promise_not_written",
        "kvserver/replication/vow.py",
        (("                self._write(epoch, self._needs_revision)\n", "                self._promised = epoch\n"),),
        VOW,
        "a restart forgets it",
    ),
    SeededBug(
        "promise_believed_before_it_is_durable",
        "kvserver/replication/vow.py",
        (
            (
                '        failpoints.hit("vow.after_write")\n',
                '        failpoints.hit("vow.after_write")\n'
                "        self._promised, self._needs_revision = promised, needs_revision\n",
            ),
        ),
        VOW,
        "the second question is answered with what the first one's failed sync left in memory",
    ),
    SeededBug(
        "promise_read_back_taken_for_durable",
        "kvserver/replication/vow.py",
        (("            env.fs.sync_dir(paths.root)\n", "            pass\n"),),
        VOW,
        "it was renamed, not synced, read at the next start, told to others, and then the power went",
    ),
    SeededBug(
        "promise_of_a_lower_epoch_given",
        "kvserver/replication/vow.py",
        (("        return epoch == self._promised or epoch.number > self._promised.number\n", "        return True\n"),),
        VOW,
        "a promise that is taken back is none",
    ),
    SeededBug(
        "promise_of_one_number_given_to_two",
        "kvserver/replication/vow.py",
        (("epoch == self._promised or epoch.number > self._promised.number", "epoch.number >= self._promised.number"),),
        VOW,
        "two primacies of one number gather the same node",
    ),
    SeededBug(
        "lost_revision_forgotten_with_the_next_promise",
        "kvserver/replication/vow.py",
        (("                self._write(epoch, self._needs_revision)\n", "                self._write(epoch, 0)\n"),),
        VOW,
        "a node that lacks what it acknowledged is a witness again",
    ),
    SeededBug(
        "damaged_promise_taken_for_none",
        "kvserver/replication/vow.py",
        (
            (
                "    except Corruption as error:\n        raise Corruption(path, 0, error.what, _REMEDY) from None\n",
                "    except Corruption:\n        return NO_EPOCH, 0\n",
            ),
        ),
        VOW,
        "one flipped bit, and the old primary may be obeyed",
    ),
    SeededBug(
        "logs_ordered_by_revision_alone",
        "kvserver/replication/ballot.py",
        (("    return end.position.epoch.number, end.position.revision\n", "    return 0, end.position.revision\n"),),
        BALLOT + MODEL,
        "the longest log is a deposed primary's, and wins over what was acknowledged since",
    ),
    SeededBug(
        "incomplete_member_counted",
        "kvserver/replication/ballot.py",
        (
            (
                "        return self.promised and self.complete and self.end is not None\n",
                "        return self.promised and self.end is not None\n",
            ),
        ),
        PROMOTION + MODEL,
        "who lost its disk says that it knows of nothing acknowledged",
    ),
    SeededBug(
        "unpromised_member_counted",
        "kvserver/replication/ballot.py",
        (
            (
                "        return self.promised and self.complete and self.end is not None\n",
                "        return self.complete and self.end is not None\n",
            ),
        ),
        BALLOT + MODEL,
        "it goes on acknowledging for the old primary behind the candidate's look",
    ),
    SeededBug(
        "node_made_anew_counted_under_its_old_name",
        "kvserver/replication/ballot.py",
        (("    if given.identity.node_id != node.node_id:\n", "    if False:\n"),),
        PROMOTION,
        "an empty disk under a name of the policy",
    ),
    SeededBug(
        "log_beside_the_line_is_caught_up_with",
        "kvserver/replication/ballot.py",
        (("one.end is not None and not has_left_the_line(records, one.end)]", "one.end is not None]"),),
        PROMOTION + MODEL,
        "what a deposed primary wrote alone comes to life under the next one",
    ),
    SeededBug(
        "begin_of_the_newest_epoch_may_be_missing",
        "kvserver/replication/ballot.py",
        (
            ("    if has_left_the_line(records, end):\n        return", "    if False:\n        return"),
            ("    if end.position.revision < newest.branch.revision:\n", "    if False:\n"),
        ),
        PROMOTION + MODEL + BALLOT,
        "a node that slept through a failover becomes primary of what was before it",
    ),
    SeededBug(
        "own_lack_overlooked",
        "kvserver/replication/promotion.py",
        (("        if not self._counts and not self._accept_loss:\n", "        if False:\n"),),
        PROMOTION,
        "the candidate itself lost what it had acknowledged",
    ),
    SeededBug(
        "branch_recorded_before_the_promises",
        "kvserver/replication/promotion.py",
        (
            (
                GATHER,
                "        outcome = await promotion.take_over()\n"
                + GATHER.replace("        outcome = await promotion.take_over()\n", ""),
            ),
        ),
        PROMOTION,
        "the old primary goes on acknowledging behind the place where the new epoch began",
    ),
    SeededBug(
        "others_promise_before_oneself",
        "kvserver/replication/promotion.py",
        (
            (
                "        await self._promise_oneself()\n        self.canvass.forget_answers()\n",
                "        self.canvass.forget_answers()\n",
            ),
        ),
        PROMOTION + MODEL,
        "the candidate itself goes on acknowledging for the old primary",
    ),
    SeededBug(
        "promoted_without_catching_up",
        "kvserver/replication/promotion.py",
        (("            if ahead and self._lacking is None:\n", "            if False:\n"),),
        PROMOTION + MODEL,
        "a member that promised has what was acknowledged, and the new primary has not",
    ),
    SeededBug(
        "caught_up_as_far_as_it_went",
        "kvserver/replication/promotion.py",
        (("            if ballot.order(reached) < ballot.order(one.end):\n", "            if False:\n"),),
        PROMOTION,
        "the connection broke half-way, and that counts as having all",
    ),
    SeededBug(
        "quorum_judged_before_the_catch_up_alone",
        "kvserver/replication/promotion.py",
        (
            ("            self._require_quorum(policies, end)\n", "            pass\n"),
            ("        self._require_quorum(self._candidate.policies(), self._candidate.end())\n", ""),
        ),
        PROMOTION + MODEL,
        "what the log brings may name another policy than the candidate knew",
    ),
    SeededBug(
        "later_claim_not_looked_for",
        "kvserver/replication/promotion.py",
        (("        if newest != self._epoch:\n", "        if False:\n"),),
        PROMOTION,
        "two candidates begin two epochs, and the lower one begins last",
    ),
    SeededBug(
        "later_promise_not_looked_for",
        "kvserver/replication/promotion.py",
        (("        if promised != self._epoch:\n", "        if False:\n"),),
        PROMOTION,
        "it has told another candidate that its own log is at its end",
    ),
    SeededBug(
        "higher_promise_ignored",
        "kvserver/replication/promotion.py",
        (("        if against is None:\n            return\n", "        if True:\n            return\n"),),
        PROMOTION,
        "a member obeys a higher epoch already",
    ),
    SeededBug(
        "own_higher_promise_ignored",
        "kvserver/replication/promotion.py",
        (("        if not mine.promised or self._candidate.vow.promised != self._epoch:\n", "        if False:\n"),),
        PROMOTION,
        "a candidate that obeys another one goes on nevertheless",
    ),
    SeededBug(
        "claims_no_higher_than_what_was_promised",
        "kvserver/replication/promotion.py",
        (("number = max(0, *(epoch.number for epoch in promised), *(", "number = max(0, *("),),
        PROMOTION,
        "the number was promised under a register that lost its claim",
    ),
    SeededBug(
        "log_of_an_unknown_epoch_counts",
        "kvserver/replication/promotion.py",
        (("        if conflict:\n", "        if False:\n"),),
        PROMOTION,
        "two registers for one cluster, and the promotion joins what belongs apart",
    ),
    SeededBug(
        "given_up_quorum_taken_for_a_proof",
        "kvserver/replication/promotion.py",
        (("            has_quorum\n            and former", "            False\n            and former"),),
        PROMOTION,
        "while the quorum was given up the old primary acknowledged alone",
    ),
    SeededBug(
        "failed_promotion_leaves_the_node_standing",
        "kvserver/replication/promotion.py",
        (("        await candidate.stand_down()\n        raise\n", "        raise\n"),),
        PROMOTION_FAILS,
        "it follows nobody any more, and nobody says so",
    ),
    SeededBug(
        "two_claims_of_one_number",
        "kvserver/replication/store_register.py",
        (('            raise FileExistsError(f"{self.url}: {name} exists already")\n', "            return\n"),),
        REGISTER,
        "both have won",
    ),
    SeededBug(
        "claim_of_another_taken_for_ones_own",
        "kvserver/replication/store_register.py",
        (("data = encode(records.new_token(self._random_bytes))", "data = encode(bytes(8))"),),
        REGISTER,
        "after an answer that was lost a record that says the same is somebody else's",
    ),
    SeededBug(
        "claim_written_where_no_register_is",
        "kvserver/replication/store_register.py",
        (("        self.check()\n        if not _create_once", "        if not _create_once"),),
        REGISTER,
        "a share that is not mounted takes every claim, on each node",
    ),
    SeededBug(
        "branch_written_for_the_claim_of_another",
        "kvserver/replication/store_register.py",
        (("        if claimed.epoch != epoch:\n", "        if False:\n"),),
        REGISTERS,
        "where an epoch begins is said by a node that does not have it",
    ),
    SeededBug(
        "listing_that_lags_hides_an_epoch",
        "kvserver/replication/store_register.py",
        (("        while following <= records.MAX_NUMBER and", "        while False and"),),
        REGISTER,
        "the newest claim is overlooked, and its number wanted again",
    ),
    SeededBug(
        "epoch_that_began_without_a_branch",
        "kvserver/replication/store_register.py",
        (("        if begun and branch is None:\n", "        if False:\n"),),
        REGISTER_DAMAGE,
        "without its branch nobody knows which logs left the line",
    ),
    SeededBug(
        "record_of_another_register_accepted",
        "kvserver/replication/register_records.py",
        (('        if register_id and self.text("register") != register_id:\n', "        if False:\n"),),
        REGISTER_DAMAGE,
        "a folder copied over another one brings epochs that never were",
    ),
    SeededBug(
        "record_of_another_claim_accepted",
        "kvserver/replication/register_records.py",
        (('        if self.own_epoch("epoch") != epoch:\n', "        if False:\n"),),
        REGISTER_DAMAGE,
        "one number, two nonces: the branch of the one under the claim of the other",
    ),
    SeededBug(
        "claim_under_another_number_accepted",
        "kvserver/replication/register_records.py",
        (("        if epoch.number != number:\n", "        if False:\n"),),
        REGISTER_DAMAGE,
        "a renamed record is an epoch twice",
    ),
    SeededBug(
        "local_branch_written_for_another_claim",
        "kvserver/replication/local_register.py",
        (('        if claim["nonce"] != f"{epoch.nonce:016x}":\n', "        if False:\n"),),
        REGISTERS,
        "a folder that was put back from a copy goes on with an epoch of its other life",
    ),
    SeededBug(
        "deposed_primary_claims_at_its_restart",
        "kvserver/engine/claiming.py",
        (
            ("        if newest is not None and not self._is_own(newest):\n", "        if False:\n"),
            ("        if other is not None:\n            what", "        if False:\n            what"),
        ),
        ROLES,
        "the old primary is started, takes the next number, and nobody has promised anything",
    ),
    SeededBug(
        "overtaken_claim_is_begun",
        "kvserver/engine/claiming.py",
        (("        if newest.epoch != claimed:\n", "        if False:\n"),),
        ROLES,
        "between the last look and the branch another node has claimed the next epoch",
    ),
    SeededBug(
        "claim_of_another_node_is_begun",
        "kvserver/engine/claiming.py",
        (("        if record is None or not self._is_own(record):\n", "        if record is None:\n"),),
        ROLES,
        "the number is right, and it is somebody else's",
    ),
    SeededBug(
        "epoch_recorded_as_begun_before_its_segment_is_durable",
        "kvserver/engine/opening.py",
        (
            (
                '    register.record_begun(epoch)\n    failpoints.hit("engine.open.after_begun")\n',
                '    failpoints.hit("engine.open.after_begun")\n',
            ),
            (
                "    register.record_branch(epoch, recovered.position)\n",
                "    register.record_branch(epoch, recovered.position)\n    register.record_begun(epoch)\n",
            ),
        ),
        ("tests/unit/engine/test_open.py", *ROLES),
        "a crash between the two: an epoch that has begun, and no log has anything of it",
    ),
)
