"""Bugs that taking another node's log and showing it have had elsewhere, or nearly had here; see ``seeded_bugs.corpus``."""

from __future__ import annotations

from seeded_bugs.corpus import SeededBug

TAKING = ("tests/unit/wal/test_received.py", "tests/unit/wal/test_received_refusals.py")
TAKING_FAILS = ("tests/unit/wal/test_received_failures.py",)
FOLLOWER_STARTS = ("tests/unit/wal/test_recovery_follower.py",)
TAIL = ("tests/unit/wal/test_tail.py",)
REPLAY = ("tests/unit/commit/test_replay.py",)
ENGINE = ("tests/unit/engine/test_follower.py",)
UPKEEP = ("tests/unit/engine/test_follower_upkeep.py",)
FRESH = ("tests/unit/engine/test_freshness.py",)
HISTORY = ("tests/unit/engine/test_epochs.py",)
DRIVER = ("tests/unit/replication/test_follower.py",)

REPLICATION_CORPUS = (
    SeededBug(
        "lower_epoch_taken_into_a_log",
        "kvserver/wal/chunk.py",
        (
            ("        if header.epoch.number < old.epoch.number:\n", "        if False:\n"),
            (" or header.epoch.number <= header.previous.epoch.number:\n", ":\n"),
        ),
        TAKING,
        "a deposed primary goes on writing into the logs of others",
    ),
    SeededBug(
        "other_nonce_of_one_number_taken_into_a_log",
        "kvserver/wal/chunk.py",
        (
            ("        if header.epoch.number == old.epoch.number and header.epoch != old.epoch:\n", "        if False:\n"),
            (" or header.epoch.number <= header.previous.epoch.number:\n", ":\n"),
        ),
        TAKING,
        "two primacies of one number in one log: no later judgement can tell them apart",
    ),
    SeededBug(
        "gap_between_segments_skipped",
        "kvserver/wal/chunk.py",
        (
            (
                "        if header.previous != position or header.previous_segment_id != old.segment_id:\n",
                "        if header.previous.revision < position.revision:\n",
            ),
        ),
        TAKING,
        "a segment that was never received is missing for good, and everything behind it looks right",
    ),
    SeededBug(
        "gap_within_a_segment_skipped",
        "kvserver/wal/received.py",
        (("        if offset > end:\n", "        if False:\n"),),
        TAKING,
        "marks have no chain: behind a lost one the file has a hole of zeros, where the next start finds its end",
    ),
    SeededBug(
        "chunk_taken_twice",
        "kvserver/wal/received.py",
        (("        if offset < end:\n", "        if False:\n"),),
        TAKING,
        "a repeated message lands behind what it repeats",
    ),
    SeededBug(
        "tables_have_it_and_it_is_applied_again",
        "kvserver/wal/chunk.py",
        (("                if base is None or frame.last_revision > base.revision:\n", "                if True:\n"),),
        TAKING,
        "the log behind a copy of the store begins before it, and versions count twice",
    ),
    SeededBug(
        "group_applied_out_of_its_order",
        "kvserver/commit/replay.py",
        (
            (
                "        if self._group is not None or group.first_revision != self.marks.applied + 1:\n",
                "        if self._group is not None:\n",
            ),
        ),
        REPLAY,
        "a group that comes again, or behind a gap, changes what was shown",
    ),
    SeededBug(
        "acknowledged_before_the_followers_sync",
        "kvserver/wal/receiving.py",
        (("            self.file.datasync()\n            failpoints", "            failpoints"),),
        TAKING_FAILS,
        "a quorum of page caches: one power cut over two machines takes back what three had acknowledged",
    ),
    SeededBug(
        "received_segment_named_without_a_sync_of_the_folder",
        "kvserver/wal/receiving.py",
        (('        failpoints.hit("wal.create.after_rename")\n        fs.sync_dir(path.parent)\n', ""),),
        TAKING_FAILS,
        "the bytes are durable, the name is not",
    ),
    SeededBug(
        "rest_of_a_failed_write_is_left",
        "kvserver/wal/receiving.py",
        (("                self.file.datasync()  # else", "                pass  # else"),),
        TAKING_FAILS,
        "what a full disk left behind the end comes back behind what was written there later",
    ),
    SeededBug(
        "end_moves_before_the_sync",
        "kvserver/wal/received.py",
        (
            (
                "        self._met = checked.met\n        return checked.groups\n",
                "        self._met = checked.met\n        if segment.is_named:\n            self._last = segment.info()\n"
                "            self._end = LogEnd(segment.walk.position, segment_id, segment.walk.offset)\n"
                "        return checked.groups\n",
            ),
        ),
        TAKING + TAIL,
        "what is written and not durable is acknowledged, and shipped on to others",
    ),
    SeededBug(
        "frames_behind_the_durable_end_are_shipped",
        "kvserver/wal/tail.py",
        (("        durable = info.length_bytes\n", "        durable = max(info.length_bytes, self._open(info).size())\n"),),
        TAIL,
        "a follower has what its primary loses in a crash: histories part without a fault of anybody",
    ),
    SeededBug(
        "follower_seals_at_its_start",
        "kvserver/wal/recovery.py",
        (("_Securing(received or follower, not follower)", "_Securing(received or follower, True)"),),
        FOLLOWER_STARTS,
        "its log is not its primary's any more, byte for byte, and it has to go back at each start",
    ),
    SeededBug(
        "what_was_cut_at_a_start_is_not_asked_for_again",
        "kvserver/wal/recovery.py",
        (("                must_refetch(needs)\n", "                pass\n"),),
        FOLLOWER_STARTS,
        "a node that lost what it acknowledged votes as if it had it",
    ),
    SeededBug(
        "answered_before_it_is_applied",
        "kvserver/engine/following.py",
        (
            (
                "            self._work.extend(groups)\n            self._work.append(_Inserted(chunk.ticket, received.end))\n",
                "            self._work.append(_Inserted(chunk.ticket, received.end))\n            self._work.extend(groups)\n",
            ),
        ),
        UPKEEP,
        "whoever waits for the applied revision reads what was before it",
    ),
    SeededBug(
        "chunks_behind_a_refused_one_are_taken",
        "kvserver/engine/following.py",
        (
            (
                "                    refusal = _wrong_peer(str(refused))\n                    break\n",
                "                    refusal = _wrong_peer(str(refused))\n                    continue\n",
            ),
        ),
        ("tests/unit/engine/test_follower_failures.py",),
        "each ticket gets the groups of another chunk",
    ),
    SeededBug(
        "shown_beyond_what_the_primary_shows",
        "kvserver/commit/replay.py",
        (("        visible = min(self.marks.applied, self._heard)\n", "        visible = self.marks.applied\n"),),
        REPLAY,
        "readers of a follower see what has no quorum yet",
    ),
    SeededBug(
        "shown_beyond_what_is_applied",
        "kvserver/commit/replay.py",
        (("        visible = min(self.marks.applied, self._heard)\n", "        visible = self._heard\n"),),
        REPLAY,
        "half a group is read, and then the other half of it",
    ),
    SeededBug(
        "mark_of_an_earlier_connection_trusted",
        "kvserver/commit/replay.py",
        (("        self._heard = self.marks.visible\n", "        pass\n"),),
        ENGINE,
        "the new source has another history behind that revision",
    ),
    SeededBug(
        "marks_heard_before_the_log_was_accepted",
        "kvserver/replication/following.py",
        (("        if self._is_accepted:\n", "        if self.receiving is not None:\n"),),
        DRIVER,
        "a node that has parted shows its own suffix, because the other one shows as much",
    ),
    SeededBug(
        "flush_passes_visible_on_a_follower",
        "kvserver/commit/replay.py",
        (("self._cuts and self._cuts[0].revision <= self.marks.visible:", "self._cuts:"),),
        REPLAY + UPKEEP,
        "tables take nothing back: the node can never rewind, and is fetched anew after each failover",
    ),
    SeededBug(
        "archive_hold_released_before_the_mark_passed",
        "kvserver/engine/archiving.py",
        (
            (
                "            self._holds.set_from(ARCHIVE, revision + 1)  # nobody",
                "            self._holds.release(ARCHIVE)  # nobody",
            ),
        ),
        ENGINE + UPKEEP,
        "the new primary has let go of what the old one had not archived: a hole for ever",
    ),
    SeededBug(
        "session_of_a_lost_branch_served",
        "kvserver/engine/epochs.py",
        (("                if end is None or revision <= end[1].revision:\n", "                if True:\n"),),
        HISTORY,
        "a client that saw what was lost goes on as if it had not been",
    ),
    SeededBug(
        "session_not_judged_again_when_its_revision_comes",
        "kvserver/engine/freshness.py",
        (("            self._history.require(*asked.session)  # an epoch", "            pass  # an epoch"),),
        FRESH,
        "while it waited an epoch began that left its branch: the same revision, another commit",
    ),
)
