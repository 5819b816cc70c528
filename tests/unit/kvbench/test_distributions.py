"""Keys are drawn as YCSB draws them: each draw like a plain transcription of its generators, and all of them by their law."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from kvbench import distributions
from kvbench.distributions import LATEST, SCRAMBLED_RANKS, SCRAMBLED_ZETA, THETA, UNIFORM, ZIPFIAN, draw, zeta, zipfian_ranks

COUNT = 200_000


def _generator(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def _plain_rank(uniform: float, items: int, zeta_of_items: float) -> int:
    """One draw, as Gray et al. and YCSB's ZipfianGenerator write it down."""
    alpha = 1 / (1 - THETA)
    zeta2theta = 1 + 0.5**THETA
    eta = (1 - (2 / items) ** (1 - THETA)) / (1 - zeta2theta / zeta_of_items)
    uz = uniform * zeta_of_items
    if uz < 1:
        return 0
    if uz < 1 + 0.5**THETA:
        return 1
    return int(items * (eta * uniform - eta + 1) ** alpha)


def _plain_hash(value: int) -> int:
    """YCSB's Utils.fnvhash64, in signed numbers of 64 bits."""
    hashed = 0xCBF29CE484222325
    for _ in range(8):
        hashed = ((hashed ^ (value & 0xFF)) * 1099511628211) & (1 << 64) - 1
        value >>= 8
    return abs(hashed - (1 << 64) if hashed >> 63 else hashed)


def test_ranks_are_drawn_like_the_plain_generator() -> None:
    uniforms = _generator().random(5_000)
    for items in (3, 1_000, 10**6):
        total = zeta(items)
        expected = [min(_plain_rank(uniform, items, total), items - 1) for uniform in uniforms]
        assert zipfian_ranks(items, total, 5_000, _generator()).tolist() == expected


def test_zipfian_keys_are_drawn_like_the_plain_scrambled_generator() -> None:
    ranks = [_plain_rank(uniform, SCRAMBLED_RANKS, SCRAMBLED_ZETA) for uniform in _generator().random(5_000)]
    expected = [_plain_hash(rank) % 1_000 for rank in ranks]
    assert draw(ZIPFIAN, 1_000, 5_000, _generator()).tolist() == expected


def test_zeta_is_the_sum_and_agrees_with_the_figure_that_ycsb_carries() -> None:
    for ranks in (1, 2, 10, 4_321):
        assert zeta(ranks) == pytest.approx(math.fsum(1 / index**THETA for index in range(1, ranks + 1)), rel=1e-12)
    beyond_exact = distributions._EXACT_TERMS + 1_000
    assert zeta(beyond_exact) == pytest.approx(math.fsum(1 / index**THETA for index in range(1, beyond_exact + 1)), rel=1e-12)
    assert zeta(SCRAMBLED_RANKS) == pytest.approx(SCRAMBLED_ZETA, rel=1e-11)


def test_uniform_keys_are_all_alike() -> None:
    counts = np.bincount(draw(UNIFORM, 100, COUNT, _generator()), minlength=100)
    expected = COUNT / 100
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    # 99 degrees of freedom: 148 is exceeded once in a thousand seeds, and this seed is fixed.
    assert chi_square < 148


def test_a_rank_comes_about_in_proportion_to_its_weight() -> None:
    ranks = zipfian_ranks(1_000, zeta(1_000), COUNT, _generator())
    counts = np.bincount(ranks, minlength=1_000)
    total = zeta(1_000)
    for rank, tolerance in ((0, 0.02), (1, 0.03)):  # these two are exact in the method; the others are approximated by it
        assert counts[rank] / COUNT == pytest.approx((rank + 1) ** -THETA / total, rel=tolerance)
    for upto in (10, 100, 500):
        assert counts[:upto].sum() / COUNT == pytest.approx(zeta(upto) / total, abs=0.02)


def test_the_hottest_zipfian_key_has_the_share_that_ycsb_gives_it() -> None:
    keys = 100_000
    counts = Counter(draw(ZIPFIAN, keys, COUNT, _generator()).tolist())
    hottest = counts.most_common(3)
    for rank, (key, count) in enumerate(hottest):
        if rank < 2:
            assert key == _plain_hash(rank) % keys
            assert count / COUNT == pytest.approx((rank + 1) ** -THETA / SCRAMBLED_ZETA, rel=0.05)
    popular = sum(count for _, count in counts.most_common(keys // 10)) / COUNT
    assert 0.5 < popular < 0.95, "a tenth of the keys gets most of the operations"


def test_popular_zipfian_keys_do_not_lie_side_by_side() -> None:
    counts = Counter(draw(ZIPFIAN, 100_000, COUNT, _generator()).tolist())
    popular = sorted(key for key, _ in counts.most_common(20))
    assert popular[0] < 25_000
    assert popular[-1] > 75_000
    assert min(high - low for low, high in itertools.pairwise(popular)) > 1


def test_latest_prefers_what_was_loaded_last() -> None:
    keys = 10_000
    counts = np.bincount(draw(LATEST, keys, COUNT, _generator()), minlength=keys)
    assert counts.argmax() == keys - 1
    assert counts[keys - 1] / COUNT == pytest.approx(1 / zeta(keys), rel=0.03)
    assert counts[keys - 2] / COUNT == pytest.approx(2**-THETA / zeta(keys), rel=0.03)
    assert counts[-100:].sum() > counts[:-100].sum() * 0.9
    assert counts[: keys // 2].sum() < COUNT * 0.12


@pytest.mark.parametrize("name", distributions.NAMES)
@pytest.mark.parametrize("keys", [1, 2, 3, 7, 1_000])
def test_every_key_is_within_bounds_and_none_of_few_is_left_out(name: str, keys: int) -> None:
    drawn = draw(name, keys, 20_000, _generator())
    assert drawn.min() >= 0
    assert drawn.max() < keys
    if keys <= 7:
        assert set(drawn.tolist()) == set(range(keys))


@pytest.mark.parametrize("name", distributions.NAMES)
def test_a_seed_gives_the_same_keys_again_and_another_one_others(name: str) -> None:
    first, again, other = (draw(name, 1_000, 500, _generator(seed)).tolist() for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_a_distribution_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no distribution 'normal'"):
        draw("normal", 10, 10, _generator())
