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
)
