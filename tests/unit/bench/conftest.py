"""Makes the benchmark's own package importable, which is no part of the distribution, and what its tests share."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE.parents[2] / "scripts" / "bench", HERE):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
