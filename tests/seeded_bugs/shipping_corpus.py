"""Bugs that shipping a log, and the driver of a follower, have had elsewhere, or nearly had here; see ``seeded_bugs.corpus``."""

from __future__ import annotations

from seeded_bugs.corpus import SeededBug

JUDGE = ("tests/unit/replication/test_judge.py",)
SHIPPER = ("tests/unit/replication/test_shipper.py", "tests/unit/replication/test_shipper_around.py")
SLOTS = ("tests/unit/replication/test_slots.py",)
DRIVER = ("tests/unit/replication/test_follower.py",)
TROUBLES = ("tests/unit/replication/test_follower_troubles.py",)
RECEIVING = ("tests/unit/replication/test_receiving.py",)

SHIPPING_CORPUS = (
    SeededBug(
        "higher_epoch_ignored",
        "kvserver/replication/judge.py",
        (("    if epoch.number > known.number:\n        raise HigherEpoch", "    if False:\n        raise HigherEpoch"),),
        JUDGE,
        "a deposed primary goes on shipping to whoever knows better",
    ),
    SeededBug(
        "lower_epoch_shipped_to_who_promised_a_higher_one",
        "kvserver/replication/judge.py",
        (("    if hello.promised.number > current.number and not hello.only_log:\n", "    if False:\n"),),
        JUDGE,
        "the promise refuses the old primary, and its log comes all the same, by way of a third node",
    ),
    SeededBug(
        "other_nonce_of_one_number_is_not_noticed",
        "kvserver/replication/judge.py",
        (("        if known.number == epoch.number and known != epoch and epoch.number:\n", "        if False:\n"),),
        JUDGE,
        "two registers, two primaries, one number: it shows when the histories cannot be joined any more",
    ),
    SeededBug(
        "place_taken_by_its_offset_alone",
        "kvserver/replication/judge.py",
        (("    if found == position:\n", "    if found is not None:\n"),),
        JUDGE,
        "a forked history of the same length is gone on with",
    ),
    SeededBug(
        "sent_back_not_far_enough",
        "kvserver/replication/judge.py",
        (
            (
                "        if left.epoch != shared.epoch or left.revision < branch.revision:\n",
                "        if left.epoch != shared.epoch:\n",
            ),
        ),
        JUDGE,
        "who left the shared epoch before this node did is sent to a place where it never was",
    ),
    SeededBug(
        "sent_back_too_far",
        "kvserver/replication/judge.py",
        (
            (
                "    if end.revision > branch.revision:\n        return Diverged(branch, following, list(here.epochs))\n",
                "    if end.revision > branch.revision:\n        return Diverged(shared.began, following, list(here.epochs))\n",
            ),
        ),
        JUDGE,
        "acknowledged commits that both have are given up, and for a while one node fewer has them",
    ),
    SeededBug(
        "slot_released_one_segment_early",
        "kvserver/replication/slots.py",
        (("            self._hold(slot, needed, needed)\n", "            self._hold(slot, needed + 1, needed + 1)\n"),),
        SLOTS,
        "the follower has all commits of a segment and lacks its seal: the next chunk is gone",
    ),
    SeededBug(
        "slot_released_when_its_follower_goes_away",
        "kvserver/replication/slots.py",
        (
            (
                "        if not slot.is_kept:\n            self._release(slot)\n",
                "        if True:\n            self._release(slot)\n",
            ),
        ),
        SLOTS,
        "a restart of a follower costs a new copy of the store",
    ),
    SeededBug(
        "slot_moves_with_what_was_received",
        "kvserver/replication/slots.py",
        (
            (
                "        if not self._note_progress(slot, ack.durable):\n",
                "        if not self._note_progress(slot, ack.received):\n",
            ),
        ),
        SLOTS,
        "received is not durable: after its crash the follower asks for what was let go",
    ),
    SeededBug(
        "slot_held_beyond_its_cap",
        "kvserver/replication/slots.py",
        (("            if held_bytes > self._max_bytes:\n", "            if False:\n"),),
        SLOTS,
        "PostgreSQL before 13: a follower that never comes back fills the primary's disk",
    ),
    SeededBug(
        "slots_forgotten_by_a_power_loss",
        "kvserver/replication/slots.py",
        (
            (
                "        fs.rename(temporary, self._paths.slots)\n        fs.sync_dir(self._paths.root)\n",
                "        fs.rename(temporary, self._paths.slots)\n",
            ),
        ),
        SLOTS,
        "the first flush after the start deletes what the followers need",
    ),
    SeededBug(
        "node_that_lost_what_it_acknowledged_goes_on_counting",
        "kvserver/replication/slots.py",
        (("        if durable < slot.acknowledged:\n", "        if False:\n"),),
        SLOTS,
        "nobody hears that a member's disk does not keep what it promised",
    ),
    SeededBug(
        "impossible_acknowledgement_taken",
        "kvserver/replication/shipment.py",
        (("        if not ack.applied <= ack.durable <= ack.received <= durable:\n", "        if False:\n"),),
        SHIPPER,
        "a follower of a later version, or of another history, completes a quorum for what it cannot have",
    ),
    SeededBug(
        "more_in_flight_than_allowed",
        "kvserver/replication/shipment.py",
        (("        return not in_flight or in_flight + length <= MAX_IN_FLIGHT_BYTES\n", "        return True\n"),),
        SHIPPER,
        "a follower that stands still fills the primary's memory",
    ),
    SeededBug(
        "sent_beyond_a_hash_point",
        "kvserver/replication/shipment.py",
        (
            (
                "            if chunk is not None and self._has_room(len(chunk.data)):  # one frame alone may be larger\n"
                "                return self._send(cut_behind(chunk, self._hash_point) if self._hash_point else chunk)\n",
                "            if chunk is not None and self._has_room(len(chunk.data)):  # one frame alone may be larger\n"
                "                return self._send(chunk)\n",
            ),
        ),
        SHIPPER,
        "the two sides hash at different revisions, and every comparison is passed over",
    ),
    SeededBug(
        "old_call_goes_on_beside_the_new_one",
        "kvserver/replication/shipper.py",
        (("            former.end(_taken_over())\n", "            pass\n"),),
        SHIPPER,
        "late acknowledgements of a connection that is dead to the follower move its slot",
    ),
    SeededBug(
        "lower_epoch_listened_to_in_the_middle_of_a_call",
        "kvserver/replication/following.py",
        (("        check_epoch(obeyed(self._home), self._address, marks.epoch)\n", ""),),
        DRIVER,
        "the promise came while the old primary was sending, and what it sends is taken and acknowledged",
    ),
    SeededBug(
        "lower_epoch_than_promised_is_followed",
        "kvserver/replication/source_check.py",
        (("    if epoch.number < promised.number:\n", "    if False:\n"),),
        DRIVER,
        "a follower gives the deposed primary its quorum back",
    ),
    SeededBug(
        "other_nonce_of_a_promised_number_is_followed",
        "kvserver/replication/source_check.py",
        (("    if epoch.number == promised.number and epoch != promised:\n", "    if False:\n"),),
        DRIVER,
        "one number, two primaries, and this node obeys both",
    ),
    SeededBug(
        "chunks_under_way_when_it_is_told_to_stand_still",
        "kvserver/replication/following.py",
        (("                await self.receiving.intake.ended()\n", "                pass\n"),),
        TROUBLES,
        "a promise says where the log ends, and the log goes on behind it",
    ),
    SeededBug(
        "taken_beyond_a_hash_point_before_it_was_looked_at",
        "kvserver/replication/following.py",
        (("            await self._look(marks.hash_point, body)\n", ""),),
        TROUBLES,
        "the content is never compared",
    ),
    SeededBug(
        "any_number_of_chunks_handed_over",
        "kvserver/replication/receiving.py",
        (("        while self._waiting and (self._waiting", "        while False and (self._waiting"),),
        RECEIVING,
        "a slow disk and a quick network fill the memory",
    ),
)
