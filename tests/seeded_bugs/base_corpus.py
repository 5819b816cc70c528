"""Bugs of the checkpoints that a node keeps to go back to, and of what a node counts for that has less than before."""

from __future__ import annotations

from seeded_bugs.corpus import SeededBug

GOING_BACK = ("tests/unit/replication/test_rewind_base.py",)
KEEPING = ("tests/unit/server/test_rewind_bases.py",)

BASE_CORPUS = (
    SeededBug(
        "base_beyond_the_position_taken",
        "kvserver/replication/rewind.py",
        ((" if not is_beyond(base.origin.position, common)]", "]"),),
        GOING_BACK,
        "the node comes back with what the cluster went on without, in tables that take nothing back",
    ),
    SeededBug(
        "base_not_led_forward",
        "kvserver/replication/rewind_tables.py",
        (("            _go_forward(floor, base, common, cluster_id, still_wanted)\n", ""),),
        GOING_BACK,
        "tables are exchanged for those of a base that no log leads on from: the store does not open any more",
    ),
    SeededBug(
        "copy_counts_for_what_it_lacks",
        "kvserver/replication/copying.py",
        (("        if end > copied.position.revision:", "        if end < 0:"),),
        GOING_BACK,
        "the same behind a copy of less than there was: kvctl reinit, and the primary dies before the rest was shipped",
    ),
    SeededBug(
        "base_of_a_history_given_up_kept",
        "kvserver/replication/copying.py",
        (("            clear_bases(floor.env, floor.paths)\n", "            pass\n"),),
        GOING_BACK,
        "a copy took the place of the store, and the next rewind goes back to a base of the one before it",
    ),
    SeededBug(
        "base_removed_while_others_lack_the_newer_one",
        "kvserver/engine/rewind_base.py",
        ((" if base.revision <= held_by_all][:-1]", "][:-1]"),),
        KEEPING + GOING_BACK,
        "the one base that is left holds what a new primary lacks, and the whole store is fetched",
    ),
    SeededBug(
        "log_behind_a_base_let_go",
        "kvserver/server/rewind_bases.py",
        (("        for base in self._bases:\n            with", "        for base in self._bases[-1:]:\n            with"),),
        KEEPING,
        "the tables can be gone back to, and what followed them is on no disk",
    ),
    SeededBug(
        "half_a_base_taken_for_one",
        "kvserver/engine/rewind_base.py",
        (
            (
                "            env.fs.remove(at.origin)\n            env.fs.sync_dir(at.root)\n",
                "            pass\n",
            ),
        ),
        GOING_BACK,
        "power is lost while a base is removed, and the rest of it has a name and a record",
    ),
    SeededBug(
        "archive_begun_before_the_log_is_held",
        "kvserver/server/member.py",
        (
            (
                "            self.watch.me = self.me()\n            self.watch.leads",
                "            await life.start_archive()\n            self.watch.leads",
            ),
            ("            await life.start_archive()\n        except", "        except"),
        ),
        ("tests/integration/test_member_bases.py",),
        "what is archived already goes at a start, before those who need it have said so: followers, and the way back",
    ),
    SeededBug(
        "member_that_never_followed_passed_over",
        "kvserver/server/parts.py",
        ((", *(0 for name in members if name not in held)]", "]"),),
        ("tests/integration/test_member_bases.py",),
        "a base holds what a member lacks that can be promoted",
    ),
)
