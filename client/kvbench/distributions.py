"""Which key an operation takes: uniform, zipfian or latest, as YCSB draws them, many at once and from a seed.

Zipfian numbers come from the method of Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (1994), with
the constant 0.99 that YCSB uses. A rank is drawn first: 0 is the most popular. What becomes of it is the difference:

- ``zipfian`` draws ranks among ten billion and scatters them over the keys by a hash (FNV-1a of 64 bits), so that the
  popular keys do not lie side by side. It is YCSB's ScrambledZipfianGenerator, with its precomputed zeta.
- ``latest`` draws ranks among the keys and counts them from the newest key backwards: the key that was loaded last is the
  most popular one. It is YCSB's SkewedLatestGenerator where no key is inserted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

THETA = 0.99
"""How skewed zipfian numbers are; YCSB's constant."""

SCRAMBLED_RANKS = 10_000_000_000
SCRAMBLED_ZETA = 26.46902820178302
"""The sum of 1 / i**0.99 for i from 1 to ten billion; YCSB carries the same figure, as it takes minutes to add up."""

UNIFORM, ZIPFIAN, LATEST = "uniform", "zipfian", "latest"
NAMES = (UNIFORM, ZIPFIAN, LATEST)

_EXACT_TERMS = 1 << 20
_FNV_OFFSET = 0xCBF29CE484222325
_FNV_PRIME = 1099511628211

Indexes = npt.NDArray[np.int64]


def draw(name: str, keys: int, count: int, generator: np.random.Generator) -> Indexes:
    """Return ``count`` indexes from 0 up to ``keys``, excluded, by the distribution of this name."""
    if name == UNIFORM:
        return generator.integers(0, keys, count, dtype=np.int64)
    if name == ZIPFIAN:
        ranks = zipfian_ranks(SCRAMBLED_RANKS, SCRAMBLED_ZETA, count, generator)
        hashed: Indexes = np.abs(fnv64(ranks).view(np.int64))  # how YCSB rids it of its sign
        taken: Indexes = hashed % keys
        return taken
    if name == LATEST:
        return keys - 1 - zipfian_ranks(keys, zeta(keys), count, generator)
    raise ValueError(f"there is no distribution {name!r}")


def zeta(ranks: int) -> float:
    """Return the sum of 1 / i**THETA for i from 1 to ``ranks``."""
    exact = min(ranks, _EXACT_TERMS)
    rest: float = ((ranks + 0.5) ** (1 - THETA) - (exact + 0.5) ** (1 - THETA)) / (1 - THETA)  # the integral, for large i as good
    return float(np.sum(np.arange(1, exact + 1, dtype=np.float64) ** -THETA)) + rest


def zipfian_ranks(ranks: int, zeta_of_ranks: float, count: int, generator: np.random.Generator) -> Indexes:
    """Return ``count`` ranks from 0 up to ``ranks``, excluded; rank r comes about in proportion to 1 / (r + 1)**THETA."""
    uniform = generator.random(count)
    scaled = uniform * zeta_of_ranks
    second = 1.0 + 0.5**THETA
    if ranks <= 2:
        few: Indexes = np.minimum((scaled >= 1.0).astype(np.int64), ranks - 1)
        return few
    eta = (1.0 - (2.0 / ranks) ** (1.0 - THETA)) / (1.0 - second / zeta_of_ranks)
    drawn = (ranks * (eta * uniform - eta + 1.0) ** (1.0 / (1.0 - THETA))).astype(np.int64)
    drawn[scaled < second] = 1
    drawn[scaled < 1.0] = 0
    within: Indexes = np.minimum(drawn, ranks - 1)  # rounding may reach the end
    return within


def fnv64(values: Indexes) -> npt.NDArray[np.uint64]:
    """Return the FNV-1a hash of each number's eight bytes, the lowest first."""
    left = values.astype(np.uint64)
    hashed = np.full(len(values), _FNV_OFFSET, dtype=np.uint64)
    for _ in range(8):
        hashed ^= left & np.uint64(0xFF)
        hashed *= np.uint64(_FNV_PRIME)  # wraps at 64 bits, as it has to
        left >>= np.uint64(8)
    return hashed
