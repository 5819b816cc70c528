"""Bugs that the records of an archive, plans and retention have had elsewhere, or nearly had here; see ``seeded_bugs.corpus``."""

from __future__ import annotations

from seeded_bugs.corpus import SeededBug

MANIFEST = ("tests/unit/archive/test_manifest.py", "tests/unit/archive/test_manifest_reading.py")
CATALOG = ("tests/unit/archive/test_catalog.py", "tests/unit/archive/test_catalog_damage.py")
PLAN = ("tests/unit/archive/test_plan.py", "tests/unit/archive/test_plan_model.py")
VERIFY = ("tests/unit/archive/test_verify.py",)
RETENTION = ("tests/unit/archive/test_retention.py", "tests/unit/archive/test_retention_model.py")
REMAINS = ("tests/unit/archive/test_retention_remains.py",)
SWEEP = ("tests/unit/archive/test_file_sweep.py",)
POINTS = ("tests/unit/archive/test_points.py",)
HOSTILE = ("tests/unit/archive/test_segment_hostile.py",)
FOLDER = ("tests/unit/archive/test_folder_store.py", "tests/unit/archive/test_folder_store_foreign.py")

ARCHIVE_CORPUS = (
    SeededBug(
        "gap_accepted",
        "kvserver/archive/lineage.py",
        (("            if entry.start != at or index in part.breaks:\n", "            if index in part.breaks:\n"),),
        CATALOG,
        "litestream 752: a chain with a hole in it was found broken only when it was to be restored",
    ),
    SeededBug(
        "epoch_read_beyond_its_branch",
        "kvserver/archive/lineage.py",
        (
            (
                "            if upto is not None and entry.start.revision >= upto.revision:\n                break\n",
                "",
            ),
        ),
        CATALOG,
        "what a deposed primary archived after its successor had parted is replayed as if it were history",
    ),
    SeededBug(
        "manifest_collision_ignored",
        "kvserver/archive/manifest.py",
        (("            if found != data:\n", "            if not found:\n"),),
        MANIFEST,
        "two primaries share one archive, and each takes the other's record for its own",
    ),
    SeededBug(
        "lost_answer_offered_anew",
        "kvserver/archive/manifest.py",
        (
            (
                "        if self._offered is not None:\n            self._settle()\n        if gap is not None and gap",
                "        if gap is not None and gap",
            ),
        ),
        MANIFEST,
        "a request that took effect late fences the writer that made it",
    ),
    SeededBug(
        "chain_of_records_not_compared",
        "kvserver/archive/manifest_chain.py",
        (("    if record.previous_sha256 != hashlib.sha256(data).digest():\n", "    if False:\n"),),
        CATALOG,
        "a manifest record can be exchanged, and nobody notices",
    ),
    SeededBug(
        "restore_planned_across_a_gap",
        "kvserver/archive/plan.py",
        (
            ("Span(CREATION_REVISION + 1, run.end", "Span(CREATION_REVISION + 1, catalog.runs[-1].end"),
            ("            if found is not None and revision <= found[0].end.revision:\n", "            if found is not None:\n"),
        ),
        PLAN,
        "the newest backup below the target is taken, whatever is missing behind it",
    ),
    SeededBug(
        "time_of_a_gap_answered",
        "kvserver/archive/plan.py",
        (("            if time_ms > proven_ms:\n", "            if False:\n"),),
        PLAN,
        "a moment of which nothing is known is restored as the last one that is known",
    ),
    SeededBug(
        "retention_too_eager",
        "kvserver/archive/retention_plan.py",
        (
            ("if entry.end.revision < floor and entry.id not in needed", "if entry.end.revision <= floor + 1"),
            (
                '                raise RetentionRefused(f"revisions',
                '                continue\n                raise RetentionRefused(f"revisions',
            ),
            ("        for one in self._needs.lost(kept, gone, backups, epochs):\n", "        for one in ():\n"),
        ),
        RETENTION,
        "litestream 771 and 1084: files deleted that the only way back led through",
    ),
    SeededBug(
        "retention_without_proof",
        "kvserver/archive/retention_plan.py",
        (("        self._prove(kept, gone, set(ids), self._emptied(records))\n", ""),),
        RETENTION,
        "the decision checks itself",
    ),
    SeededBug(
        "retention_trusts_a_base_that_is_not_whole",
        "kvserver/archive/retention_plan.py",
        (("            if lengths.get(name) != length:\n", "            if False:\n"),),
        RETENTION,
        "the older base goes, and the newer one lacks a file",
    ),
    SeededBug(
        "retention_forgets_what_came_after_its_decision",
        "kvserver/archive/retention.py",
        (("    plan = plan_retention(store, cluster_id, policy, now_ms, floor=written.first_revision)\n", ""),),
        RETENTION,
        "a point that was named a moment ago names nothing any more",
    ),
    SeededBug(
        "records_of_an_empty_epoch_removed_from_under_a_point",
        "kvserver/archive/retention_plan.py",
        (
            (" or part.epoch.number >= self._oldest_epoch\n", "\n"),
            ("        for one in self._needs.lost(kept, gone, backups, epochs):\n", "        for one in ():\n"),
        ),
        RETENTION,
        "an epoch in which nothing was written still leads from the one before it to the one behind",
    ),
    SeededBug(
        "records_believed_that_list_what_is_gone",
        "kvserver/archive/catalog_reading.py",
        (("        if entry.end.revision < self._floor and entry.id not in self._left_below:\n", "        if False:\n"),),
        REMAINS,
        "the last base is deleted, because a record still lists the log from the store's creation on",
    ),
    SeededBug(
        "sweep_does_not_look_for_backups",
        "kvserver/archive/file_sweep.py",
        (("        if backups := _announced(env, store, names):\n", "        if backups := 0:\n"),),
        SWEEP,
        "files of a backup that is being made are named by nothing yet",
    ),
    SeededBug(
        "backup_does_not_look_for_a_sweep",
        "kvserver/archive/file_sweep.py",
        (("        _replace_failed_sweep(store, names, now_ms)\n", ""),),
        SWEEP,
        "a file that a sweep is about to remove is found, and relied on",
    ),
    SeededBug(
        "point_made_while_retention_passes",
        "kvserver/archive/points.py",
        (("        _check_promised(store, cluster_id, plan.revision)  # retention", "        pass  # retention"),),
        POINTS,
        "the point is there, and what restoring it needs has just been removed",
    ),
    SeededBug(
        "verify_skips_the_files_of_backups",
        "kvserver/archive/verify.py",
        (
            (
                "        yield from {file.sha256: file for backup in self._catalog.backups for file in backup.files}.values()\n",
                "",
            ),
        ),
        VERIFY,
        "the log is read to the last byte, and the base that it stands on is not",
    ),
    SeededBug(
        "verify_believes_a_backup_s_position",
        "kvserver/archive/verify.py",
        (("if at.get(position.revision) != position.chain)", "if position.revision not in at)"),),
        VERIFY,
        "a backup of another history passes, because it has a revision that the log has too",
    ),
    SeededBug(
        "stored_checksum_not_checked",
        "kvserver/archive/segment_reading.py",
        (("        if crc32c(0, stored) != block.stored_crc:\n", "        if False:\n"),),
        HOSTILE,
        "bytes that are known to be damaged reach the decompressor",
    ),
    SeededBug(
        "frame_without_a_checksum_taken",
        "kvserver/archive/compression.py",
        (("        if not frame.has_checksum:\n", "        if False:\n"),),
        HOSTILE,
        "anything of the right length is taken for what was compressed",
    ),
    SeededBug(
        "exists_said_before_it_is_durable",
        "kvserver/archive/folder_store.py",
        (("        self._fs.sync_dir(path.parent)\n        return ObjectExists(name)\n", "        return ObjectExists(name)\n"),),
        FOLDER,
        "another writer has linked it and died; the log is let go, and the power takes the name back",
    ),
    SeededBug(
        "record_found_taken_for_durable",
        "kvserver/archive/manifest.py",
        (("            _make_durable(store, names.manifest(epoch.number, manifest._number - 1), data)\n", "            pass\n"),),
        MANIFEST,
        "a start relies on what its own last run had linked and not yet synced",
    ),
    SeededBug(
        "failed_sync_settled_by_reading",
        "kvserver/archive/manifest.py",
        (("                _make_durable(self._store, name, data)\n", "                pass\n"),),
        MANIFEST,
        "what can be read back is there, but a sync that failed has not made it durable",
    ),
    SeededBug(
        "archive_made_again_below_its_mount_point",
        "kvserver/archive/folder_store.py",
        (("            if made in self._made and self._fs.info(made) is None:\n", "            if False:\n"),),
        FOLDER,
        "the disk is unmounted, the log goes on into the bare folder, and is hidden when the disk is back",
    ),
)
