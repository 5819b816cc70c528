"""A histogram of latencies with three significant digits, in a fixed number of buckets, filled in bulk and merged by addition.

The buckets are those of an HDR histogram: 1,024 of equal width for every power of two, so that a bucket is never wider
than a thousandth of what it holds. Times are in nanoseconds, and exact up to 2 microseconds.
"""

from __future__ import annotations

import array
import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

_SUB_BITS = 10
_MOST_BITS = 45
BUCKETS = (_MOST_BITS - _SUB_BITS + 1) << _SUB_BITS
MOST_NS = (1 << _MOST_BITS) - 1
"""The longest time that has a bucket of its own, about ten hours; what is longer counts as this."""

Counts = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Sparse:
    """The buckets that are not empty, and what buckets forget: the sum and both extremes. It travels between processes."""

    buckets: npt.NDArray[np.uint16]
    counts: npt.NDArray[np.uint32]
    sum_ns: int
    least_ns: int
    most_ns: int

    @property
    def count(self) -> int:
        """How many latencies there are."""
        return int(self.counts.sum())


def fold(samples: array.array[int]) -> Sparse:
    """Sort latencies into buckets; ``samples`` is an array of nanoseconds and not empty."""
    values = np.clip(np.frombuffer(samples, dtype=np.int64), 0, MOST_NS)
    # frexp gives the number of bits of an integer that a double holds exactly, which 45 bits are.
    excess = np.maximum(np.frexp(values.astype(np.float64))[1].astype(np.int64) - (_SUB_BITS + 1), 0)
    dense = np.bincount((excess << _SUB_BITS) + (values >> excess))
    found = np.flatnonzero(dense)
    return Sparse(
        found.astype(np.uint16),
        dense[found].astype(np.uint32),
        int(values.sum()),
        int(values.min()),
        int(values.max()),
    )


def highest_ns(bucket: int) -> int:
    """Return the longest time that a bucket stands for."""
    if bucket < 2 << _SUB_BITS:
        return bucket
    excess = (bucket >> _SUB_BITS) - 1
    return ((bucket - (excess << _SUB_BITS) + 1) << excess) - 1


class Histogram:
    """Latencies of one kind of operation, or of several together."""

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BUCKETS, dtype=np.int64)
        self.count = 0
        self.sum_ns = 0
        self.least_ns = MOST_NS
        self.most_ns = 0

    def add(self, part: Sparse) -> None:
        """Add what another process, or another moment, has counted."""
        self.counts[part.buckets] += part.counts
        self.count += part.count
        self.sum_ns += part.sum_ns
        self.least_ns = min(self.least_ns, part.least_ns)
        self.most_ns = max(self.most_ns, part.most_ns)

    def merge(self, other: Histogram) -> None:
        """Add another histogram."""
        self.counts += other.counts
        self.count += other.count
        self.sum_ns += other.sum_ns
        self.least_ns = min(self.least_ns, other.least_ns)
        self.most_ns = max(self.most_ns, other.most_ns)

    def percentiles_ns(self, shares: list[float]) -> list[int]:
        """Return, for each share from 0 to 1, the time that so many latencies do not exceed; the histogram is not empty.

        The answer is the upper end of a bucket, so that a latency is never told shorter than it was.
        """
        cumulated = np.cumsum(self.counts)
        ranks = [max(1, math.ceil(share * self.count - 1e-9)) for share in shares]
        found = np.searchsorted(cumulated, ranks)
        return [max(self.least_ns, min(highest_ns(int(bucket)), self.most_ns)) for bucket in found]

    def percentile_ns(self, share: float) -> int:
        """Return the time that a share of the latencies does not exceed; the histogram is not empty."""
        return self.percentiles_ns([share])[0]

    def summary_ms(self) -> dict[str, float | None]:
        """Return the usual figures in milliseconds, each None where there is no latency."""
        names = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999, "p9999": 0.9999}
        if not self.count:
            return dict.fromkeys(["min", "mean", *names, "max"])
        found = zip(names, self.percentiles_ns(list(names.values())), strict=True)
        figures = {"min": self.least_ns, "mean": self.sum_ns / self.count, **dict(found), "max": self.most_ns}
        return {name: round(value / 1e6, 6) for name, value in figures.items()}

    def curve(self) -> list[tuple[float, float]]:
        """Return (share, milliseconds) at steps that halve what is left above them, five for each half, to the longest."""
        if not self.count:
            return []
        shares = [0.0]
        while (1 - shares[-1]) * self.count > 1 and len(shares) < 200:
            shares.append(1 - 2 ** (-len(shares) / 5))
        shares.append(1.0)
        return [(share, value / 1e6) for share, value in zip(shares, self.percentiles_ns(shares), strict=True)]

    def document(self) -> dict[str, Any]:
        """Return the buckets that are not empty, by the longest time of each, as JSON fields."""
        found = np.flatnonzero(self.counts)
        return {
            "highest_ns": [highest_ns(int(bucket)) for bucket in found],
            "counts": [int(count) for count in self.counts[found]],
        }
