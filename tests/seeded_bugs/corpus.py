"""Bugs that this kind of software has had, as changes to our own source, each with the test that must catch it.

A text that no longer occurs exactly once fails the corpus: the bug has to be seeded anew in the code as it is now.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class SeededBug:
    """A replacement in one file, and the tests of which one at least must fail with it."""

    name: str
    file: str
    changes: tuple[tuple[str, str], ...]
    caught_by: tuple[str, ...]
    why: str


CAMPAIGN = ("tests/crash/test_power_loss.py", "tests/crash/test_every_failpoint.py")
FAILING = ("tests/crash/test_failing_calls.py",)
CROSSING = ("tests/crash/test_crossing.py",)
UNIT_WAL = ("tests/unit/wal",)
RACES = ("tests/unit/engine/test_races_writes.py", "tests/unit/engine/test_races_reads.py")
AGREE = ("tests/unit/engine/test_eager_and_lazy.py",)
VIEW = ("tests/unit/storage/test_view.py",)
FLUSH_FAILURE = ("tests/unit/engine/test_flush_failure.py",)
UPKEEP = ("tests/unit/engine/test_upkeep.py",)
CHECKPOINT = ("tests/unit/engine/test_checkpoint.py",)
JOINER = ("tests/unit/kvclient/test_joiner.py", "tests/unit/kvclient/test_joiner_machine.py")
FRAMES = ("tests/unit/kvclient/test_frames.py",)
SEEN = ("tests/unit/service/test_pipeline_seen.py",)

SYNC_OF_THE_LAST_GROUP = (
    "        self._file.datasync()\n        frame, chain = self._build(kind, count, payload, time_ms)\n        failpoints"
)

CORPUS = (
    SeededBug(
        "acknowledged_before_the_sync",
        "kvserver/wal/segment.py",
        (("        self._file.datasync()\n", ""),),
        CAMPAIGN,
        "NATS lost 131,418 acknowledged messages this way in a power cut (Jepsen, December 2025)",
    ),
    SeededBug(
        "answered_before_a_sync_that_follows",
        "kvserver/wal/segment.py",
        (
            ("        self._file.datasync()\n", ""),
            ("        frame, chain = self._build(kind, count, payload, time_ms)\n        failpoints", SYNC_OF_THE_LAST_GROUP),
        ),
        CAMPAIGN,
        "the sync comes, but only with the next group",
    ),
    SeededBug(
        "waiters_cross_by_a_list_swap",
        "kvserver/wal/group_commit.py",
        (
            (
                "        self._queue.put(item)\n",
                "        if isinstance(item, Submission):\n"
                "            self._swap.append(item.waiter)\n"
                "            item.waiter = None\n"
                "        self._queue.put(item)\n",
            ),
            ("        self.groups = 0\n", "        self.groups = 0\n        self._swap: list = []\n"),
            (
                "        self.groups += 1\n",
                "        self.groups += 1\n"
                "        waiters, self._swap = self._swap, []\n"
                "        items = items + [Submission(b'', 0, waiter, 0) for waiter in waiters]\n",
            ),
        ),
        CROSSING,
        "bytes and waiters taken at different moments: answered what was not in the written buffer",
    ),
    SeededBug(
        "visible_before_durable",
        "kvserver/commit/pipeline.py",
        (
            (
                "values, revision)\n        self.marks.applied = revision\n",
                "values, revision)\n        self.marks.applied = self.marks.visible = revision\n",
            ),
        ),
        CAMPAIGN,
        "pebble leaves this to its caller; readers saw what a crash took back",
    ),
    SeededBug(
        "refusal_not_held",
        "kvserver/commit/pipeline.py",
        (("        if depends_on <= self.marks.visible:\n", "        if True:\n"),),
        CROSSING,
        "a failed condition tells of the write that made it fail",
    ),
    SeededBug(
        "no_sync_of_the_folder",
        "kvserver/wal/segment.py",
        (("    fs.sync_dir(paths.wal)\n", ""),),
        CAMPAIGN,
        "a segment whose name is lost is lost with all it holds",
    ),
    SeededBug(
        "segment_named_before_its_header_is_durable",
        "kvserver/wal/segment.py",
        (("    prepared.file.datasync()\n", ""),),
        CAMPAIGN,
        "an empty or torn header under a durable name cannot be told from damage",
    ),
    SeededBug(
        "read_back_tail_not_synced",
        "kvserver/wal/recovery.py",
        (
            ("        file.sync()\n", ""),
            ("            writer.seal(reader.time_ms)\n", ""),
        ),
        CAMPAIGN,
        "after kill -9 the tail may live in the page cache alone: shown, then lost with the power",
    ),
    SeededBug(
        "read_back_tail_synced_but_not_written_again",
        "kvserver/wal/recovery.py",
        (("        file.pwrite(reader.data[begin : reader.offset], begin)\n", ""),),
        FAILING,
        "after a failed sync the pages are clean: a later sync writes nothing and succeeds",
    ),
    SeededBug(
        "checksum_does_not_cover_the_header",
        "kvserver/wal/format.py",
        (
            ("    crc = crc32c(crc32c(seed, head), body)\n", "    crc = crc32c(seed, body)\n"),
            ("crc32c(crc32c(seed, data[offset:crc_at]), data", "crc32c(seed, data"),
        ),
        UNIT_WAL,
        "a flipped count or revision would be believed",
    ),
    SeededBug(
        "checksum_not_seeded_with_the_segment",
        "kvserver/wal/format.py",
        (('    return crc32c(0, segment_id.to_bytes(8, "little"))\n', "    return 0\n"),),
        UNIT_WAL,
        "bytes left over from another segment would check",
    ),
    SeededBug(
        "tail_rule_too_lax",
        "kvserver/wal/recovery.py",
        (("    return Case.PROVEN_LAST if proven else Case.TORN_LAST\n", "    return Case.TORN_LAST\n"),),
        UNIT_WAL,
        "one flipped bit in the middle lost 679,153 acknowledged messages (NATS, Jepsen 2025)",
    ),
    SeededBug(
        "tail_rule_too_strict",
        "kvserver/wal/recovery.py",
        (("    return Case.PROVEN_LAST if proven else Case.TORN_LAST\n", "    return Case.PROVEN_LAST\n"),),
        CAMPAIGN,
        "every power cut would need an operator",
    ),
    SeededBug(
        "torn_tail_thrown_away",
        "kvserver/wal/recovery.py",
        (("        _keep_torn_tail(fs, paths, reader, listener)\n", "        pass\n"),),
        UNIT_WAL,
        "what was cut is evidence, and sometimes all there is of a write",
    ),
    SeededBug(
        "failed_sync_retried",
        "kvserver/wal/segment.py",
        (
            (
                "        self._file.datasync()\n",
                "        try:\n            self._file.datasync()\n        except OSError:\n            self._file.datasync()\n",
            ),
        ),
        FAILING,
        "fsyncgate: the second sync succeeds without having written anything",
    ),
    SeededBug(
        "goes_on_after_a_failed_write",
        "kvserver/wal/group_commit.py",
        (("            self.error = error\n", "            self.error = None\n"),),
        FAILING,
        "answers a group that was never written",
    ),
    SeededBug(
        "log_thread_ends_without_a_word",
        "kvserver/wal/group_commit.py",
        (("            except Exception as error:  # between", "            except OSError as error:  # between"),),
        CROSSING,
        "whoever waits for the thread waits for ever, and the node looks well",
    ),
    SeededBug(
        "sealed_without_a_sync",
        "kvserver/wal/segment.py",
        (("        self._file.sync()\n", ""),),
        CAMPAIGN,
        "the next segment claims a predecessor that the power took back",
    ),
    SeededBug(
        "flushed_memtable_let_go_while_rows_are_in_use",
        "kvserver/storage/view.py",
        (
            (
                "        return self._above + [memtable for made, memtable in self._retained if made > generation]\n",
                "        return self._above\n",
            ),
        ),
        VIEW + RACES,
        "rows read before a flush and memory as it is after it have a hole between them",
    ),
    SeededBug(
        "rows_labelled_with_the_tables_they_come_from_not_with_the_memory_looked_at",
        "kvserver/commit/reading.py",
        (("self._view.pin(rows._replace(generation=until_read.rows.generation))", "self._view.pin(rows)"),),
        RACES,
        "a flush between the look into memory and the read of the tables hides what it moved; the write ends the process",
    ),
    SeededBug(
        "tables_of_today_asked_about_rows_of_yesterday",
        "kvserver/storage/view.py",
        (("        if rows.flushed_revision <= CREATION_REVISION:", "        if not self.has_tables:"),),
        RACES,
        "a write that was in line during the very first flush ends the process",
    ),
    SeededBug(
        "relative_put_taken_for_a_first_version",
        "kvserver/storage/memtable.py",
        (("    return (base[0], base[1] + number) if base[1] else (-create, number)\n", "    return -create, number\n"),),
        VIEW + AGREE,
        "versions would begin anew with every memtable",
    ),
    SeededBug(
        "figures_of_the_layer_below_the_next",
        "kvserver/storage/view.py",
        (("self._below(sources, place + 1, namespace, key, rows)", "self._below(sources, place + 2, namespace, key, rows)"),),
        VIEW + AGREE,
        "with two memtables frozen, the one between is left out of the count",
    ),
    SeededBug(
        "history_in_the_bucket_before",
        "kvserver/storage/flush_build.py",
        (("number = superseded_at // self._job.bucket_revisions", "number = (superseded_at - 1) // self._job.bucket_revisions"),),
        AGREE,
        "the past version at the first revision of a bucket is looked for in the wrong one",
    ),
    SeededBug(
        "history_dropped_while_it_can_be_read",
        "kvserver/engine/flushing.py",
        (("keep_from=self._state.oldest_readable(self._marks.visible)", "keep_from=self._marks.visible"),),
        AGREE,
        "what a flush displaces is gone although the window promises it",
    ),
    SeededBug(
        "bucket_given_up_one_too_early",
        "kvserver/engine/upkeep.py",
        (("bound = (oldest + 1) // self._bucket_revisions", "bound = oldest // self._bucket_revisions + 1"),),
        UPKEEP,
        "the bucket that the oldest readable revision needs goes too",
    ),
    SeededBug(
        "window_passes_a_running_scan",
        "kvserver/engine/upkeep.py",
        (("                wanted = min(wanted, pin.revision)\n", "                pass\n"),),
        RACES,
        "a long scan of the newest state ends with COMPACTED for no fault of its own",
    ),
    SeededBug(
        "scan_tells_of_a_drop_that_is_not_durable",
        "kvserver/commit/reading.py",
        (("self._state.require_live(namespace, self._marks.visible)", "self._state.require_live(namespace)"),),
        RACES,
        "an error shows things too: a crash takes the drop back",
    ),
    SeededBug(
        "rows_replace_an_answer_that_was_told",
        "kvserver/commit/pipeline.py",
        (("            if ticket.done:  # the log failed meanwhile, and that was told\n                return\n", ""),),
        RACES,
        "who awaits the answer reads it a turn later, and finds there what was never durable",
    ),
    SeededBug(
        "flushed_mark_moved_before_the_table_is_in",
        "kvserver/engine/flushing.py",
        (
            (
                '        failpoints.hit("engine.flush.after_build")\n',
                '        failpoints.hit("engine.flush.after_build")\n        self._flushed = job.upto\n'
                "        self._marks.flushed = job.upto.revision\n",
            ),
        ),
        FLUSH_FAILURE,
        "where the table is not taken in, the next one is built from the wrong position on",
    ),
    SeededBug(
        "log_released_before_the_table_is_in",
        "kvserver/engine/flushing.py",
        (
            (
                '        failpoints.hit("engine.flush.after_build")\n',
                '        failpoints.hit("engine.flush.after_build")\n'
                "        self._floor.holds.set(FLUSH, job.upto.revision + 1)\n"
                "        self._floor.deleter.delete_obsolete()\n",
            ),
        ),
        CAMPAIGN,
        "a crash in between leaves a range of history that nobody has",
    ),
    SeededBug(
        "frozen_at_what_is_durable",
        "kvserver/engine/flushing.py",
        (("        self._view.freeze(self._marks.applied)\n", "        self._view.freeze(self._marks.durable)\n"),),
        CAMPAIGN,
        "the memtable holds more than the table that is built for it, and goes nevertheless",
    ),
    SeededBug(
        "dropped_namespace_leaves_its_rows",
        "kvserver/engine/upkeep.py",
        (
            (
                "            self._tables.delete_range(start, end)\n"
                "            self._tables.compact(start, end)\n"
                "            return True\n",
                "            return True\n",
            ),
        ),
        UPKEEP,
        "its space never returns",
    ),
    SeededBug(
        "checkpoint_called_whole_before_it_is",
        "kvserver/engine/checkpoint.py",
        (
            ("        write_origin(env, paths, origin)\n", ""),
            (
                "        tables.checkpoint(paths.tables)\n",
                "        write_origin(env, paths, origin)\n        tables.checkpoint(paths.tables)\n",
            ),
        ),
        CHECKPOINT,
        "half a copy opens as an empty or a damaged store",
    ),
    SeededBug(
        "copy_claims_an_epoch_of_its_parent",
        "kvserver/engine/claiming.py",
        (("copied = self._origin.position.epoch.number if self._origin is not None else 0\n", "copied = 0\n"),),
        CHECKPOINT,
        "a session of one store is taken for one of the other",
    ),
    SeededBug(
        "write_of_a_lost_stream_is_sent_again",
        "client/kvclient/_joiner.py",
        (("if (frame.repeatable or not carried_out) and", "if"),),
        JOINER,
        "a write that is on disk already is carried out a second time, over what others wrote in between",
    ),
    SeededBug(
        "write_under_way_is_called_not_written",
        "client/kvclient/_joiner.py",
        (("            _expire(frame, now, under_way)\n", "            _expire(frame, now, in_line)\n"),),
        JOINER,
        "a caller repeats, or gives up, what is on disk",
    ),
    SeededBug(
        "answers_are_matched_by_their_order",
        "client/kvclient/_joiner.py",
        (
            (
                "frame = self._under_way.pop(answer.frame_id, None)",
                "frame = self._under_way.pop(next(iter(self._under_way), 0), None)",
            ),
        ),
        JOINER,
        "the server answers out of order, and each caller gets another one's outcome",
    ),
    SeededBug(
        "revisions_are_given_to_failed_puts_too",
        "client/kvclient/_frames.py",
        (("            places = [place for place in places if place not in failures]\n", "            pass\n"),),
        FRAMES,
        "behind a put that failed every caller gets the revision of another's commit",
    ),
    SeededBug(
        "unfit_answer_is_called_an_error_of_the_server",
        "client/kvclient/_joiner.py",
        (("if reads else errors.outcome_unknown(error.message)", "if True else errors.outcome_unknown(error.message)"),),
        JOINER,
        "a write that may be on disk counts as failed",
    ),
    SeededBug(
        "reader_is_shown_what_is_not_durable",
        "kvserver/service/pipeline.py",
        (("            revision = self._database.marks.visible\n", "            revision = self._database.marks.assigned\n"),),
        SEEN,
        "a stream that only reads does not wait, so it must not see what a crash may take back",
    ),
)
