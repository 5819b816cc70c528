"""Bugs that archiving a log has had elsewhere, or nearly had here; see ``seeded_bugs.corpus``."""

from __future__ import annotations

from seeded_bugs.corpus import SeededBug

ARCHIVER = ("tests/unit/archive/test_archiver.py", "tests/unit/archive/test_archiver_crashes.py")
ARCHIVER_FAULTS = ("tests/unit/archive/test_archiver_faults.py", "tests/unit/archive/test_archiver_others.py")
ENGINE_HOOKS = ("tests/unit/engine/test_archiving.py",)
PRESSURE = ("tests/unit/archive/test_archiver_pressure.py",)
CONTINUATION = ("tests/unit/archive/test_continuation.py",)

ARCHIVER_CORPUS = (
    SeededBug(
        "log_not_held_for_the_archive_at_a_start",
        "kvserver/engine/database.py",
        (("        if asked.hold_archive:\n            self._archiving.hold_everything()\n", ""),),
        ENGINE_HOOKS,
        "until the archive was heard from, the first flush deletes what nobody has archived",
    ),
    SeededBug(
        "deleted_before_it_is_archived",
        "kvserver/archive/archiver.py",
        (
            (
                "            self._put[segment_id] = put\n",
                "            self._put[segment_id] = put\n            self._source.on_archived(put.entry.end)\n",
            ),
        ),
        ARCHIVER,
        "put is not archived: nothing lists it, and a later segment may be put before an earlier one",
    ),
    SeededBug(
        "archived_past_visible",
        "kvserver/archive/archiver.py",
        (("            if info.end.revision > visible:\n                return None\n", ""),),
        ARCHIVER,
        "the archive would hold what a failure of the log takes back",
    ),
    SeededBug(
        "stop_leaves_what_a_silent_archive_lacks",
        "kvserver/server/archive_part.py",
        (
            (
                "        if figures.error or figures.fenced or",
                "        if not figures.heard or figures.error or figures.fenced or",
            ),
        ),
        ("tests/integration/test_archive_waiting.py",),
        "a node that is stopped just after its start leaves its last segment to the next one, and says nothing of it",
    ),
    SeededBug(
        "failure_of_an_earlier_attempt_told_as_the_answer",
        "kvserver/archive/failures.py",
        (("        ask = self._begun.pop(what, self._asks)\n", "        ask = self._asks\n"),),
        ARCHIVER_FAULTS,
        "kvctl archive now fails with what was wrong before the archive was mended",
    ),
    SeededBug(
        "mark_moved_over_a_hole",
        "kvserver/archive/archiver.py",
        (("            if put is None:\n                break\n", "            if put is None:\n                continue\n"),),
        ARCHIVER,
        "pgbackrest 2629: one stuck segment, and everything behind it counted as the archive's end",
    ),
    SeededBug(
        "log_let_go_past_what_is_just_being_listed",
        "kvserver/archive/backlog.py",
        (("itertools.takewhile(", "filter("),),
        PRESSURE,
        "segments that lie in the archive already, and that nobody gave up, go from the log before a record lists them",
    ),
    SeededBug(
        "read_back_skipped",
        "kvserver/archive/upload.py",
        (("        self._read_back(name, compressor.stored_length, compressor.stored_crc)\n", ""),),
        ARCHIVER_FAULTS,
        "litestream 752: uploads that returned success, and nothing that could be restored",
    ),
    SeededBug(
        "retried_listing_closes_the_epoch_that_it_has_come_to",
        "kvserver/archive/continuation.py",
        (
            (
                "            at = sum(entry.start.epoch.number < self._manifest.epoch.number for entry in entries)\n",
                "            pass\n",
            ),
        ),
        CONTINUATION,
        "a call made again after half of it took effect fences the node off its own archive",
    ),
    SeededBug(
        "another_history_believed_at_a_start",
        "kvserver/archive/archiver.py",
        (("            unarchived(sealed, standing)\n", "            pass\n"),),
        ARCHIVER_FAULTS,
        "a node set back to an old copy of its folder lets its log go by the marks of another life",
    ),
    SeededBug(
        "pressure_admits_those_who_stand_in_line",
        "kvserver/commit/admission.py",
        (("        if self.refusing is not None or self._memory_is_full():\n", "        if self._memory_is_full():\n"),),
        ENGINE_HOOKS,
        "a full queue must refuse before a revision is given, or the log grows all the same",
    ),
)
