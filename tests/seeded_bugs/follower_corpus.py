"""Bugs of what stands on a follower, had elsewhere or nearly here: copies, rewinds, the archive, repeated writes, the SDK."""

from __future__ import annotations

from seeded_bugs.corpus import SeededBug

REWIND = ("tests/unit/replication/test_rewind.py",)
SWAP = ("tests/unit/engine/test_swap.py",)
COPY = ("tests/unit/replication/test_bootstrap.py",)
FOLLOWER = ("tests/unit/replication/test_follower.py",)
ARCHIVE = ("tests/unit/replication/test_archive_catch_up.py", "tests/unit/replication/test_follower_archive.py")
REPEATS = ("tests/unit/service/test_idempotency.py",)
WINDOW = ("tests/unit/service/test_idempotency_window.py",)
RETRY = ("tests/unit/kvclient/test_retry.py",)
SDK_KEYS = ("tests/unit/kvclient/test_joiner_keys.py",)
SDK_WRITES = ("tests/unit/kvclient/test_cluster_writes.py",)
SDK_READS = ("tests/unit/kvclient/test_cluster_reads.py",)

FOLLOWER_CORPUS = (
    SeededBug(
        "rewind_too_short_by_its_own_marks",
        "kvserver/replication/rewind.py",
        (
            (
                "    for _ in reader.frames():\n        if reader.position == position:\n            return reader.offset\n"
                "    return None\n",
                "    found = None\n    for _ in reader.frames():\n        if reader.position == position:\n"
                "            found = reader.offset\n    return found\n",
            ),
        ),
        REWIND,
        "the position is common, the marks behind it are this node's own: no byte of the source fits there",
    ),
    SeededBug(
        "rewind_too_short_by_a_segment",
        "kvserver/replication/rewind.py",
        (("        elif cut is not None and name < cut.segment:\n", "        elif cut is not None and name <= cut.segment:\n"),),
        REWIND,
        "commits that the cluster never had stay in the log, and are shown at the next revision",
    ),
    SeededBug(
        "rewind_too_far",
        "kvserver/replication/rewind.py",
        (("        elif cut is not None and name == cut.segment and cut.offset:\n", "        elif False:\n"),),
        REWIND,
        "acknowledged commits before the common position go with the rest of their segment",
    ),
    SeededBug(
        "cut_log_not_synced",
        "kvserver/replication/rewind.py",
        (("        part.sync()\n", ""),),
        REWIND,
        "the swap is durable, what was swapped in is not",
    ),
    SeededBug(
        "lost_suffix_not_kept",
        "kvserver/replication/rewind.py",
        (("        kept_in = _keep(fs, paths, behind, common, end, listener)\n", "        pass\n"),),
        REWIND,
        "what clients were told is kept is gone without a trace",
    ),
    SeededBug(
        "lost_suffix_not_kept_for_good",
        "kvserver/replication/rewind.py",
        (("        fs.sync_dir(kept.wal)\n", ""),),
        REWIND,
        "a power loss takes the second name, after the swap took the first",
    ),
    SeededBug(
        "lost_range_reported_one_short",
        "kvserver/replication/rewind.py",
        (("listener(SuffixLost(common.revision + 1, end, ", "listener(SuffixLost(common.revision + 2, end, "),),
        REWIND,
        "whoever repairs by the report leaves one commit out",
    ),
    SeededBug(
        "log_cut_below_the_tables",
        "kvserver/replication/rewind.py",
        (
            (
                "    if is_beyond(flushed, common):\n        if prepared",
                "    if False:\n        if prepared",
            ),
        ),
        REWIND,
        "tables keep what the log gave up: values that no history has",
    ),
    SeededBug(
        "any_position_of_that_revision_is_common",
        "kvserver/replication/rewind.py",
        (("        if reader.position == position:\n", "        if reader.position.revision == position.revision:\n"),),
        REWIND,
        "a log of another history is cut to the right length, and stays wrong",
    ),
    SeededBug(
        "swap_marker_removed_too_early",
        "kvserver/engine/swap.py",
        (
            (
                "    for name in names:\n        _exchange(fs, paths, name)\n",
                "    fs.remove(paths.swap)\n    for name in names:\n        _exchange(fs, paths, name)\n",
            ),
            ("    remove_tree(fs, paths.incoming)\n    fs.remove(paths.swap)\n", "    remove_tree(fs, paths.incoming)\n"),
        ),
        SWAP,
        "a crash leaves the tables of one history and the log of another, and nothing that says so",
    ),
    SeededBug(
        "part_moved_in_without_a_sync",
        "kvserver/engine/swap.py",
        (
            (
                "    fs.rename(coming, place)\n    fs.sync_dir(paths.root)\n    fs.sync_dir(paths.incoming)\n",
                "    fs.rename(coming, place)\n",
            ),
        ),
        SWAP,
        "of two folders a rename may be lost in one and kept in the other",
    ),
    SeededBug(
        "hash_of_a_copied_file_not_checked",
        "kvserver/replication/bootstrap.py",
        (("        if self._digest.digest() != part.sha256:\n", "        if False:\n"),),
        COPY,
        "a bit that the network flipped is in the store for ever",
    ),
    SeededBug(
        "name_of_a_copied_file_not_checked",
        "kvserver/replication/bootstrap.py",
        (("        if not _NAME.fullmatch(name):\n", "        if False:\n"),),
        COPY,
        "whoever sends a copy writes where it likes: ../PROMISE",
    ),
    SeededBug(
        "copy_that_ended_early_is_whole",
        "kvserver/replication/bootstrap.py",
        (
            (
                "        if (len(self._names), self._bytes) != (announced.total_files, announced.total_bytes):\n",
                "        if False:\n",
            ),
        ),
        COPY,
        "tables without one of their files",
    ),
    SeededBug(
        "copied_file_not_synced",
        "kvserver/replication/bootstrap.py",
        (("        self._file.sync()\n", ""),),
        COPY,
        "the copy takes the store's place, and the power goes",
    ),
    SeededBug(
        "copy_of_another_position_accepted",
        "kvserver/replication/bootstrap.py",
        (("        if origin.position != position or origin.epochs != list(epochs):\n", "        if False:\n"),),
        COPY,
        "the log that follows is asked for from a place where these tables never were",
    ),
    SeededBug(
        "log_behind_a_copy_not_held",
        "kvserver/replication/checkpoint_source.py",
        (
            (
                "            self._hold(identity.name, number, made.position.revision + 1)\n",
                "            self._let_go(identity.name, number)\n",
            ),
        ),
        COPY,
        "the copy takes an hour, and then the log behind it is gone: it is fetched again, and again",
    ),
    SeededBug(
        "log_behind_a_copy_not_reserved",
        "kvserver/replication/checkpoint_source.py",
        (("            self._reserve(identity, made.position.revision)\n", ""),),
        COPY,
        "the hold of the copy ends before the follower has called",
    ),
    SeededBug(
        "archive_taken_beyond_where_its_epoch_was_left",
        "kvserver/replication/archive_catch_up.py",
        (
            (
                "upto = link.upto if link.upto is not None and link.upto.revision < entry.end.revision else None\n",
                "upto = None\n",
            ),
        ),
        ARCHIVE,
        "what a deposed primary archived behind the branch is taken for history",
    ),
    SeededBug(
        "archive_gone_on_with_at_another_history",
        "kvserver/replication/archive_catch_up.py",
        (
            (
                "        return entry.segment_id == segment_id and entry.start.epoch == at.epoch and offset < entry.raw_length\n",
                "        return entry.segment_id == segment_id and offset < entry.raw_length\n",
            ),
        ),
        ARCHIVE,
        "a segment's name proves nothing about its epoch",
    ),
    SeededBug(
        "archive_taken_for_a_word_of_the_primary",
        "kvserver/replication/archive_catch_up.py",
        (("        database.pipeline.hear(revision)\n", "        database.hear(revision)\n"),),
        ARCHIVE,
        "reads that wait for the newest state are answered with hours ago",
    ),
    SeededBug(
        "remembered_answer_not_replayed",
        "kvserver/commit/state.py",
        (("            if not plain or not namespace or stop != value_at", "            if not plain or stop != value_at"),),
        REPEATS,
        "the new primary carries out again what the old one had",
    ),
    SeededBug(
        "remembered_answer_not_read_from_the_tables",
        "kvserver/commit/state.py",
        (
            (
                "            self._apply_system_row(key_of(row_key), stored.value, stored.mod_revision)\n",
                "            if not key_of(row_key).startswith(IDEMPOTENCY_ROWS):\n"
                "                self._apply_system_row(key_of(row_key), stored.value, stored.mod_revision)\n",
            ),
        ),
        REPEATS + WINDOW,
        "it is forgotten by the first flush",
    ),
    SeededBug(
        "window_judged_by_the_nodes_own_clock",
        "kvserver/commit/idempotency.py",
        (("        if issued_ms <= self.floor_ms or issued_ms", "        if issued_ms"),),
        WINDOW,
        "a node whose clock is behind takes what was forgotten for new",
    ),
    SeededBug(
        "remembered_answer_expires_before_it_is_forgotten",
        "kvserver/commit/keyed.py",
        (
            (
                "    remembered = state.answers.find(keyed.key)\n",
                "    state.answers.check_new(keyed.key, keyed.now_ms)\n    remembered = state.answers.find(keyed.key)\n",
            ),
        ),
        WINDOW,
        "the answer is there, and the client is told that nobody knows",
    ),
    SeededBug(
        "floor_not_raised_by_what_is_forgotten",
        "kvserver/commit/idempotency.py",
        (("        if floor_ms > self.floor_ms:\n", "        if False:\n"),),
        WINDOW,
        "what was forgotten is carried out again",
    ),
    SeededBug(
        "answer_remembered_in_another_group_than_the_effects",
        "kvserver/commit/pipeline.py",
        (
            (
                "            self._assign(ticket, step.outcome, step.data, step.commits)\n            step.apply(self.state)\n",
                "            row = len(step.data) - len(encode_commit(step.effects[-1]))\n"
                "            last = 1 if row else 0\n"
                "            if last:\n"
                "                self.marks.assigned += step.commits - 1\n"
                "                self._hand_over(step.data[:row], step.commits - 1, None)\n"
                "            self._assign(ticket, step.outcome, step.data[row:], 1 if last else step.commits)\n"
                "            step.apply(self.state)\n",
            ),
        ),
        REPEATS,
        "a crash between the two: carried out, and nobody remembers",
    ),
    SeededBug(
        "repeat_answered_before_the_first_is_durable",
        "kvserver/commit/keyed.py",
        (
            (
                "            return Step(RunDone(first, answer.commits), last)\n",
                "            return Step(RunDone(first, answer.commits), 0)\n",
            ),
        ),
        REPEATS,
        "the second caller is told what a crash takes back from the first",
    ),
    SeededBug(
        "another_write_answered_under_the_same_key",
        "kvserver/commit/keyed.py",
        (
            (
                "        case PutRun() if answer.kind == _PUTS and len(request.keys) == answer.commits:\n",
                "        case PutRun():\n",
            ),
        ),
        REPEATS,
        "a client that counts wrongly loses writes, and is told they succeeded",
    ),
    SeededBug(
        "unary_write_of_unknown_outcome_is_sent_again",
        "client/kvclient/_retry.py",
        (("        broken_read = not writes and isinstance", "        broken_read = isinstance"),),
        RETRY,
        "without a key it is carried out twice",
    ),
    SeededBug(
        "repeat_gets_a_key_of_its_own",
        "client/kvclient/_joiner.py",
        (
            (
                "    again = frame if whole and places and frame.idempotency is not None else frame.part(",
                "    again = frame.part(",
            ),
        ),
        SDK_KEYS,
        "every repeat is a write of its own to whoever remembers",
    ),
    SeededBug(
        "refusal_of_a_repeat_taken_for_the_outcome",
        "client/kvclient/_joiner.py",
        (("                again.open_outcome = frame.open_outcome or (carried_out and not frame.reads)\n", ""),),
        SDK_KEYS,
        "the first time may have been carried out, and the caller is told that nothing was",
    ),
    SeededBug(
        "answer_of_a_lower_epoch_accepted",
        "client/kvclient/_session.py",
        (("        if header.epoch < self._token.epoch:\n", "        if False:\n"),),
        SDK_WRITES,
        "a deposed primary that does not know it yet is believed",
    ),
    SeededBug(
        "session_of_a_client_ends_at_its_connection",
        "client/kvclient/_connection.py",
        (
            (
                "self.wait_for_ready, self.session, self.retry, seek, self)\n",
                "self.wait_for_ready, self.session.token, self.retry, seek, self)\n",
            ),
        ),
        SDK_READS,
        "who reads from a follower does not see what it has written itself",
    ),
)
