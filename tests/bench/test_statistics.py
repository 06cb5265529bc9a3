"""Intervals, votes and paired tests against closed forms, exhaustive counts and simulation."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from bench import statistics
from bench.records import ImageRecord


def record(index: int, robust: dict[int, int], label: int = 0, **fields: object) -> ImageRecord:
    draws = sum(robust.values())
    votes = {"clean_votes": {label: draws}, "null_votes": {label: draws}, "robust_votes": robust}
    return ImageRecord(index=index, label=label, distance=0.1, **(votes | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 64), (13, 64), (64, 64), (499, 500)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_is_scipys(successes: int, n: int, confidence: float) -> None:
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert statistics.wilson(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (0, 0, 0.95), (1, 2, 95)])
def test_wilson_refuses(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="Expected"):
        statistics.wilson(successes, n, confidence)


@pytest.mark.parametrize("right", [0, 64])
def test_bootstrap_at_the_ends_is_wilson(right: int) -> None:
    correct = [10] * right + [0] * (64 - right)
    assert statistics.two_level_bootstrap(correct, 10) == statistics.wilson(right, 64)


def test_bootstrap_of_one_draw_is_binomial() -> None:
    correct = [1] * 30 + [0] * 70
    expected = binom.ppf([0.025, 0.975], 100, 0.3) / 100
    assert statistics.two_level_bootstrap(correct, 1, resamples=40_000) == pytest.approx(expected, abs=0.0101)


def test_bootstrap_of_equal_images_has_the_draws_variance() -> None:
    """Every image at rate 1/2 on 10 draws: images add nothing, so the mean of 50 is Binomial(500, 1/2) / 500."""
    expected = binom.ppf([0.025, 0.975], 500, 0.5) / 500
    assert statistics.two_level_bootstrap([5] * 50, 10, resamples=40_000) == pytest.approx(expected, abs=0.0021)


def test_bootstrap_is_the_naive_one() -> None:
    """Grouping images by their counts changes the speed, not the law: compare with resampling image by image."""
    correct, draws = np.array([0, 3, 10, 10, 7, 10, 2, 4] * 4), np.array([4, 4, 10, 10, 10, 10, 4, 4] * 4)
    random = np.random.default_rng(1)
    picked = random.integers(0, len(correct), size=(40_000, len(correct)))
    means = (random.binomial(draws[picked], (correct / draws)[picked]) / draws[picked]).mean(axis=1)
    low, high = np.quantile(means, [0.1, 0.9])
    found = statistics.two_level_bootstrap(correct, draws, confidence=0.8, resamples=40_000)
    assert found == pytest.approx((low, high), abs=0.0063)


def test_bootstrap_is_repeatable_and_its_seed_matters() -> None:
    correct = list(range(11)) * 5
    first = statistics.two_level_bootstrap(correct, 10, resamples=500)
    assert first == statistics.two_level_bootstrap(correct, 10, resamples=500)
    assert first != statistics.two_level_bootstrap(correct, 10, resamples=500, seed=1)


def test_bootstrap_covers_the_truth() -> None:
    """Images of rates from Beta(2, 1), mean 2/3: 95 % intervals hold it in at least 93 % of 400 experiments."""
    random = np.random.default_rng(0)
    hits = 0
    for seed in range(400):
        correct = random.binomial(10, random.beta(2, 1, size=60))
        low, high = statistics.two_level_bootstrap(correct, 10, resamples=800, seed=seed)
        hits += low <= 2 / 3 <= high
    assert 0.93 <= hits / 400 <= 0.995


def test_bootstrap_covers_the_truth_where_few_images_are_wrong() -> None:
    """Images all right or all wrong, 98 % of them right: the low end lies above the truth in 2.5 % of 400, or less."""
    random, above, missed = np.random.default_rng(0), 0, 0
    for seed in range(400):
        low, high = statistics.two_level_bootstrap(10 * (random.random(256) < 0.98), 10, resamples=400, seed=seed)
        above, missed = above + (low > 0.98), missed + (not low <= 0.98 <= high)
    assert above <= 10 and missed <= 20


@pytest.mark.parametrize(("correct", "draws"), [([], 1), ([2], 1), ([-1], 1), ([1], 0), ([[1]], 1)])
def test_bootstrap_refuses(correct: list, draws: int) -> None:
    with pytest.raises(ValueError, match="Expected"):
        statistics.two_level_bootstrap(correct, draws)


def test_a_tied_vote_counts_against_the_defense() -> None:
    assert statistics.is_vote_correct({1: 3, 2: 2}, 1)
    assert not statistics.is_vote_correct({1: 3, 2: 3}, 1)
    assert not statistics.is_vote_correct({2: 1}, 1)


@pytest.mark.parametrize("votes", [{0: 5, 1: 3, 2: 2}, {0: 3, 1: 3, 2: 2}, {1: 4}, {0: 2, 1: 1, 2: 1, 3: 1}])
def test_vote_and_worst_of_k_by_exhaustion(votes: dict[int, int]) -> None:
    draws = [label for label, count in votes.items() for _ in range(count)]
    for k in range(1, len(draws) + 1):
        subsets = [Counter(subset) for subset in itertools.combinations(draws, k)]
        right = sum(statistics.is_vote_correct(subset, 0) for subset in subsets)
        assert statistics.vote_at_k(votes, 0, k) == pytest.approx(right / len(subsets), abs=1e-12)
        never_wrong = sum(subset[0] == k for subset in subsets)
        assert statistics.worst_of_k(votes.get(0, 0), len(draws), k) == pytest.approx(never_wrong / len(subsets))


@pytest.mark.parametrize("k", [0, 4])
def test_votes_refuse_k_outside_the_stored_draws(k: int) -> None:
    with pytest.raises(ValueError, match=f"got.*k={k}"):
        statistics.vote_at_k({0: 3}, 0, k)
    with pytest.raises(ValueError, match=f"got.*k={k}"):
        statistics.worst_of_k(3, 3, k)


def test_summarize_a_deterministic_defense() -> None:
    records = [record(i, {0: 1} if i < 3 else {1: 1}) for i in range(4)]
    summary = statistics.summarize(records, stochastic=False)
    low, high = statistics.wilson(3, 4)
    assert (summary["robust_accuracy"], summary["robust_low"], summary["robust_high"]) == (75, 100 * low, 100 * high)
    assert (summary["clean_accuracy"], summary["clean_low"]) == (100, 100 * statistics.wilson(4, 4)[0])
    assert summary["vote_accuracy"] == summary["worst_accuracy"] == 75
    assert summary["first_success_accuracy"] is None


def test_summarize_a_stochastic_defense() -> None:
    records = [
        record(0, {0: 10}, first_success=True, null_first_success=True),
        record(1, {0: 6, 1: 4}, first_success=True, null_first_success=True),
        record(2, {0: 2, 1: 8}, first_success=False, null_first_success=False),
    ]
    summary = statistics.summarize(records, stochastic=True, k=10)
    low, high = statistics.two_level_bootstrap([10, 6, 2], 10)
    assert summary["robust_accuracy"] == pytest.approx(60)
    assert (summary["robust_low"], summary["robust_high"]) == (100 * low, 100 * high)
    assert summary["vote_accuracy"] == pytest.approx(200 / 3)
    assert summary["worst_accuracy"] == pytest.approx(100 / 3)
    assert summary["first_success_accuracy"] == pytest.approx(160 / 3)  # the last image counts too
    assert summary["null_first_success_accuracy"] == pytest.approx(200 / 3)
    at_two = statistics.summarize(records, stochastic=True, k=2)
    assert at_two["worst_accuracy"] == pytest.approx(100 * (1 + 15 / 45 + 1 / 45) / 3)


def test_summarize_refuses_no_images() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        statistics.summarize([], stochastic=False)


def test_mcnemar_is_a_fair_coin_on_the_differences() -> None:
    a = [True] * 8 + [False] * 2 + [True] * 5
    b = [False] * 8 + [True] * 2 + [True] * 5
    exact = 2 * sum(math.comb(10, i) for i in range(3)) / 2**10
    assert statistics.mcnemar(a, b) == pytest.approx(exact)
    assert statistics.mcnemar(a, a) == 1.0
    with pytest.raises(ValueError, match="same images"):
        statistics.mcnemar([True], [True, False])


def test_paired_difference_uses_the_pairing() -> None:
    """Two defenses that fail on the same hard images differ far more surely than their separate intervals say."""
    a = np.array([10] * 100 + [2] * 100)
    difference, low, high = statistics.paired_difference(a, 10, a - 1, 10)
    assert difference == pytest.approx(0.1)
    assert high - low == pytest.approx(2 * 3.8415 / (200 + 3.8415), abs=1e-4)  # no spread: the floor


def test_paired_difference_of_one_draw_is_normal() -> None:
    a, b = [1] * 60 + [0] * 20 + [1] * 120, [0] * 60 + [1] * 20 + [1] * 120
    difference, low, high = statistics.paired_difference(a, 1, b, 1, resamples=40_000)
    half = 1.96 * math.sqrt((80 / 200 - 0.2**2) / 200)
    assert (difference, low, high) == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=0.006)


def test_compare_pairs_the_common_images() -> None:
    a = [record(i, {0: 2}) for i in range(5)]
    b = [record(i, {0: 1, 1: 1} if i < 4 else {0: 2}) for i in range(1, 9)]
    found = statistics.compare(a, b)
    assert (found["images"], found["only_a"], found["only_b"]) == (4, 3, 0)
    assert (found["a_accuracy"], found["b_accuracy"]) == (100, 62.5)
    assert found["difference"] == pytest.approx(37.5)
    assert found["p_value"] == pytest.approx(0.25)


def test_compare_refuses_what_is_no_pair() -> None:
    with pytest.raises(ValueError, match="no image in common"):
        statistics.compare([record(0, {0: 1})], [record(1, {0: 1})])
    with pytest.raises(ValueError, match="Image 7 has two labels"):
        statistics.compare([record(7, {0: 1})], [record(7, {0: 1}, label=1)])


def test_pool_averages_seeds_and_adds_images() -> None:
    run = {"robust_accuracy": 50.0, "robust_low": 40.0, "robust_high": 62.0, "num_images": 64, "data_seed": 0}
    same = statistics.pool([run, run | {"robust_accuracy": 54.0, "robust_low": 44.0, "robust_high": 66.0}])
    assert same == pytest.approx({"mean": 52, "low": 42, "high": 64, "spread": math.sqrt(8), "seeds": 2})
    apart = statistics.pool([run | {"data_seed": i} for i in range(4)])
    assert apart == pytest.approx({"mean": 50, "low": 45, "high": 56, "spread": 0, "seeds": 4})


def test_pool_of_one_has_no_spread_and_of_unknown_ends_no_interval() -> None:
    one = statistics.pool([{"robust_accuracy": 50.0, "robust_low": math.nan, "robust_high": None, "num_images": 8}])
    assert one == {"mean": 50.0, "low": None, "high": None, "spread": None, "seeds": 1}
    with pytest.raises(ValueError, match="at least one run"):
        statistics.pool([])


@pytest.mark.parametrize("seed", range(6))
def test_the_quick_answer_is_the_bootstraps_or_none(seed: int) -> None:
    """Wherever the exact bound and Bernstein's decide, the interval of the bootstrap says the same."""
    random, known = np.random.default_rng(seed), 0
    for _ in range(40):
        images, draws = int(random.integers(2, 200)), int(random.integers(1, 11))
        a, b = (random.binomial(draws, random.beta(0.3, 0.3, images)) for _ in range(2))
        b = (b * random.uniform(0, 1)).astype(int)
        quick = statistics.is_surely_above_zero(a / draws - b / draws)
        if quick is not None:
            known += 1
            assert quick == (statistics.paired_difference(a, [draws] * images, b, [draws] * images)[1] > 0)
    assert known > 20
    assert statistics.is_surely_above_zero(np.ones(20)) is True
    assert statistics.is_surely_above_zero(np.zeros(20)) is False
