"""Bugs that backups and restores have had elsewhere, or nearly had here; see ``seeded_bugs.corpus``."""

from __future__ import annotations

from seeded_bugs.corpus import SeededBug

HOSTILE = ("tests/unit/archive/test_segment_hostile.py", "tests/unit/archive/test_restore_hostile.py")
RESTORE = ("tests/unit/archive/test_restore.py", "tests/unit/archive/test_restore_model.py")
FOLDERS = ("tests/unit/archive/test_restore_folders.py",)
CRASHES = ("tests/unit/archive/test_restore_crashes.py",)
BACKUP = ("tests/unit/archive/test_backup.py",)
REPAIR = ("tests/unit/archive/test_repair.py",)
TAKE_OVER = ("tests/unit/archive/test_take_over.py",)
DRILL = ("tests/unit/archive/test_drill.py",)
HASH = ("tests/unit/storage/test_content_hash.py",)
OPEN = ("tests/unit/engine/test_open_restored.py",)

RESTORE_CORPUS = (
    SeededBug(
        "bomb_not_capped",
        "kvserver/archive/compression.py",
        (("        if frame.content_size != raw_length:\n", "        if False:\n"),),
        HOSTILE,
        "a frame of some bytes that claims gigabytes is believed",
    ),
    SeededBug(
        "name_joined_from_input",
        "kvserver/archive/record_fields.py",
        (("if not usable or ", "if False and "),),
        HOSTILE,
        "a backup's record names ../../etc/cron.d/x, and whoever restores it writes there",
    ),
    SeededBug(
        "restore_stops_one_commit_late",
        "kvserver/archive/restore_log.py",
        (("            last = min(revision, leg.last_revision)\n", "            last = min(revision + 1, leg.last_revision)\n"),),
        RESTORE,
        "the commit that was to be undone is there again",
    ),
    SeededBug(
        "restore_goes_to_the_end_of_the_frame",
        "kvserver/archive/restore_log.py",
        (("    if header.last_revision <= last:\n", "    if header.first_revision <= last:\n"),),
        RESTORE,
        "frames are not cut: everything that shared a sync with the target comes along",
    ),
    SeededBug(
        "origin_written_before_the_tables_are_there",
        "kvserver/archive/restore.py",
        (
            (
                "            standing = self._add_log()\n            log_done = clock.monotonic()\n",
                "            position = self._plan.position or self._plan.end\n"
                "            self._write_origin(Standing(self._plan.cluster_id, position, 0))\n"
                "            standing = self._add_log()\n            log_done = clock.monotonic()\n",
            ),
            (
                "            origin = self._write_origin(standing)\n",
                "            self._env.fs.remove(paths.origin)\n            origin = self._write_origin(standing)\n",
            ),
        ),
        CRASHES,
        "what a crash leaves of the tables counts as all of them",
    ),
    SeededBug(
        "base_files_named_before_they_are_durable",
        "kvserver/archive/restore_files.py",
        (("            part.sync()\n", ""),),
        CRASHES,
        "behind a power loss a file of the right length holds zeros, and is taken for fetched",
    ),
    SeededBug(
        "base_counts_as_fetched_too_early",
        "kvserver/archive/restore_files.py",
        (("        self._fs.sync_dir(tables)\n", ""),),
        CRASHES,
        "names that a power loss took back are never fetched again",
    ),
    SeededBug(
        "base_not_compared_with_its_record",
        "kvserver/archive/restore.py",
        (("            self._check_base(base)\n", ""),),
        HOSTILE,
        "tables of another moment under the log of this one",
    ),
    SeededBug(
        "unfinished_restore_is_served",
        "kvserver/engine/identity.py",
        (("    if restoring is not None:\n", "    if False:\n"),),
        (*OPEN, *CRASHES),
        "rqlite, litestream and others have started on half a restore",
    ),
    SeededBug(
        "another_target_in_a_begun_folder",
        "kvserver/archive/restore_target.py",
        (("    if same and (found.revision == wanted.revision or asked_alike):\n", "    if True:\n"),),
        FOLDERS,
        "an operator asks for Monday and gets what somebody began for Friday",
    ),
    SeededBug(
        "any_file_of_that_name_counts_as_sent",
        "kvserver/archive/backup_files.py",
        (("        if there is not None and there != found.length:\n", "        if False:\n"),),
        BACKUP,
        "half an upload from long ago becomes part of every backup since",
    ),
    SeededBug(
        "backup_not_announced",
        "kvserver/archive/backup.py",
        (("    with announced_backup(env, store, names):\n", "    with contextlib.nullcontext():\n"),),
        BACKUP,
        "files that a backup relies on are removed because no record names them yet",
    ),
    SeededBug(
        "take_over_without_a_fence",
        "kvserver/archive/take_over.py",
        (("    manifest.close(epoch, position)\n", ""),),
        TAKE_OVER,
        "two nodes archive one epoch, and each believes it is the primary",
    ),
    SeededBug(
        "drill_compares_nothing",
        "kvserver/archive/drill.py",
        (
            (
                "        return (self.found.sha256, self.found.keys) == (",
                "        return True or (self.found.sha256, self.found.keys) == (",
            ),
        ),
        DRILL,
        "a drill that cannot fail proves nothing",
    ),
    SeededBug(
        "hash_without_versions",
        "kvserver/storage/content_hash.py",
        (("row[1:head_length], 0))\n", "bytes(24), 0))\n"),),
        HASH,
        "keys and values alike, but every condition on a revision comes out differently",
    ),
    SeededBug(
        "repair_takes_any_segment_of_that_revision",
        "kvserver/archive/repair.py",
        (("            if not why:\n                fitting.append(entry)\n", "            fitting.append(entry)\n"),),
        REPAIR,
        "a segment of another history, put where a damaged one was",
    ),
    SeededBug(
        "damaged_segment_written_over",
        "kvserver/archive/repair.py",
        (("        self._fs.link(path, kept)\n", ""),),
        REPAIR,
        "what could tell why it was damaged is gone",
    ),
)
