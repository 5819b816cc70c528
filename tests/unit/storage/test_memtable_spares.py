"""The dicts of memtables that the garbage collector does not walk. In a process of its own: what is frozen stays frozen."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, sys
from kvserver.storage import memtable

if {spares}:
    memtable.make_spares(gc.freeze)
table = memtable.Memtable()
keys = [b"%d" % number for number in range(1000)]
table.put_run(1, keys, keys, 2)
chains = table.find(1).chains
assert chains[b"1"][:2] == (3, b"1")
print(any(one is chains for one in gc.get_objects()))
while table.shed(1):
    pass
print(not chains and any(one is chains for one in memtable._spares))
print(sys.getsizeof(chains) == sys.getsizeof({{}}))
"""


def outcome(spares: bool) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(spares=spares)], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split()


def test_a_memtable_made_of_a_spare_is_out_of_sight_and_gives_it_back_empty() -> None:
    assert outcome(spares=True) == ["False", "True", "True"]


def test_without_spares_it_is_in_sight() -> None:
    assert outcome(spares=False)[0] == "True"
