"""Bugs by which nobody loses data: all of them wait, some tens of milliseconds behind every flush or merge."""

from __future__ import annotations

from seeded_bugs.corpus import SeededBug

PAUSES_CORPUS = (
    SeededBug(
        "answered_frame_keeps_itself",
        "kvserver/service/frames.py",
        (("            callback, self._callback = self._callback, None  #", "            callback = self._callback  #"),),
        ("tests/unit/service/test_pipeline_session.py",),
        "keys and values of thousands of frames stay until the collector looks, and then it takes its time",
    ),
    SeededBug(
        "merge_left_to_the_end",
        "kvserver/storage/rocks.py",
        (("self._live_files()).start()", "self._live_files())"),),
        ("tests/unit/storage/test_write_behind.py",),
        "32 MiB are written in one go, and a sync of the log beside it takes 22 ms",
    ),
    SeededBug(
        "complete_tables_handed_over",
        "kvserver/storage/write_behind.py",
        (("        self._known = set(complete)\n", "        self._known = set()\n"),),
        ("tests/unit/storage/test_write_behind.py",),
        "every start asks for all tables to be written that long have been",
    ),
    SeededBug(
        "memory_let_go_without_a_pause",
        "kvserver/engine/shedding.py",
        (("            loop.call_later(PAUSE_S, self._shed)", "            loop.call_soon(self._shed)"),),
        ("tests/unit/engine/test_shedding.py",),
        "the loop is busy behind every flush, and the log thread waits for the interpreter",
    ),
    SeededBug(
        "memory_let_go_too_slowly",
        "kvserver/engine/shedding.py",
        (("shed(min(VERSIONS * max(1, pauses), MOST_VERSIONS))", "shed(VERSIONS)"),),
        ("tests/unit/engine/test_shedding.py",),
        "the fastest writers fill memory faster than it is let go",
    ),
    SeededBug(
        "young_objects_not_looked_at",
        "kvserver/engine/shedding.py",
        (("            gc.collect(0)\n", ""),),
        ("tests/unit/engine/test_shedding.py",),
        "the collector looks at 150,000 objects at once, in 50 ms",
    ),
    SeededBug(
        "next_segment_filled_at_once",
        "kvserver/wal/space.py",
        (
            (
                "        wanted = min(limit, ahead + 2 * max(0, self._offset - limit // 2))\n",
                "        wanted = limit if self._offset > limit // 2 else ahead\n",
            ),
        ),
        ("tests/unit/wal/test_space.py",),
        "56 MiB of zeros in a row, and every sync beside them waits",
    ),
)
