"""Histograms keep three digits whatever the latency, add up, and tell percentiles as sorting the latencies would."""

from __future__ import annotations

import array
import bisect
import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbench.histogram import BUCKETS, MOST_NS, Histogram, fold, highest_ns


def _samples(count: int, seed: int = 1) -> array.array[int]:
    generator = random.Random(seed)
    return array.array("q", (int(generator.lognormvariate(14, 1.5)) for _ in range(count)))


def _filled(*parts: array.array[int]) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(fold(part))
    return histogram


@given(st.integers(0, MOST_NS))
def test_a_bucket_is_never_wider_than_a_thousandth(latency_ns: int) -> None:
    (bucket,) = fold(array.array("q", [latency_ns])).buckets
    assert 0 <= bucket < BUCKETS
    assert latency_ns <= highest_ns(int(bucket)) <= latency_ns * (1 + 1 / 1024)


def test_buckets_follow_each_other_without_a_gap() -> None:
    ends = [highest_ns(bucket) for bucket in range(BUCKETS)]
    assert ends == sorted(set(ends))
    assert ends[-1] == MOST_NS
    for bucket in range(0, BUCKETS - 1, 97):
        latencies = array.array("q", [ends[bucket], ends[bucket] + 1])
        assert list(fold(latencies).buckets) == [bucket, bucket + 1]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0])
def test_percentiles_are_those_of_the_sorted_latencies(share: float) -> None:
    samples = _samples(20_000)
    exact = sorted(samples)[max(math.ceil(share * len(samples)), 1) - 1]
    told = _filled(samples).percentile_ns(share)
    assert exact <= told <= exact * (1 + 1 / 1024)


def test_a_percentile_is_one_of_few() -> None:
    """Ranks are exact: of ten latencies the nine shortest are not above p90, and rounding moves none across."""
    histogram = _filled(array.array("q", [100] * 9 + [1_000]))
    assert histogram.percentiles_ns([0.5, 0.9, 0.91, 1.0]) == [100, 100, 1_000, 1_000]


def test_both_extremes_and_the_mean_are_exact() -> None:
    samples = _samples(5_000)
    summary = _filled(samples[:1_000], samples[1_000:]).summary_ms()
    assert summary["min"] == pytest.approx(min(samples) / 1e6, abs=1e-6)
    assert summary["max"] == pytest.approx(max(samples) / 1e6, abs=1e-6)
    assert summary["mean"] == pytest.approx(sum(samples) / len(samples) / 1e6, abs=1e-6)


def test_parts_add_up_to_the_whole() -> None:
    samples = _samples(6_000)
    whole, first, second = _filled(samples), _filled(samples[:17], samples[17:2_000]), _filled(samples[2_000:])
    first.merge(second)
    assert first.count == whole.count == len(samples)
    assert (first.counts == whole.counts).all()
    assert first.summary_ms() == whole.summary_ms()
    assert first.document() == whole.document()


def test_latencies_beyond_the_last_bucket_and_below_zero_are_kept() -> None:
    histogram = _filled(array.array("q", [-5, MOST_NS * 4]))
    assert (histogram.least_ns, histogram.most_ns, histogram.count) == (0, MOST_NS, 2)


def test_without_latencies_there_are_no_figures() -> None:
    assert set(Histogram().summary_ms().values()) == {None}
    assert Histogram().curve() == []
    assert Histogram().document() == {"highest_ns": [], "counts": []}


def test_the_curve_goes_from_the_shortest_to_the_longest() -> None:
    samples = _samples(5_000)
    curve = _filled(samples).curve()
    shares, values = [share for share, _ in curve], [value for _, value in curve]
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert shares == sorted(set(shares))
    assert values == sorted(values)
    assert values[0] == pytest.approx(min(samples) / 1e6, rel=0.001)
    assert values[-1] == max(samples) / 1e6
    assert sum(1 for share in shares if share > 0.99) >= 20, "the tail is what the curve is for"


def test_the_document_holds_every_latency() -> None:
    samples = _samples(3_000)
    document = _filled(samples).document()
    assert sum(document["counts"]) == len(samples)
    assert document["highest_ns"] == sorted(set(document["highest_ns"]))
    ordered = sorted(samples)
    expected = [bisect.bisect_right(ordered, end) for end in document["highest_ns"]]
    assert list(itertools.accumulate(document["counts"])) == expected
