"""Statistics of the judge: intervals, votes, paired tests, pooled seeds, and the verdict on a published value.

Rates are fractions in [0, 1] unless a name or docstring says percent. No function draws from global generators.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from bench.records import ImageRecord, Votes

FEW = 5  # images wrong (or right) below which a percentile bootstrap covers less than it says
Z95 = 1.959963984540054  # scipy.special.ndtri(0.975)
Interval = tuple[float, float]


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"Expected a confidence in (0, 1), got {confidence}. Write 95 % as 0.95.")
    if confidence == 0.95:  # importing scipy takes longer than most reports
        return Z95
    from scipy.special import ndtri

    return float(ndtri(0.5 + confidence / 2))


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a binomial rate (Wilson 1927, JASA 22:209-212), as fractions (low, high).

    successes may be fractional (a mean of rates times n). Unlike the normal interval it has width at 0 and n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"Expected n >= 1 and 0 <= successes <= n, got successes={successes}, n={n}.")
    z2 = _z(confidence) ** 2
    middle = successes + z2 / 2
    half = math.sqrt(z2 * (successes * (n - successes) / n + z2 / 4))
    return max(0.0, (middle - half) / (n + z2)), min(1.0, (middle + half) / (n + z2))


def _rates(correct: ArrayLike, draws: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    right = np.asarray(correct, dtype=np.int64)
    total = np.broadcast_to(np.asarray(draws, dtype=np.int64), right.shape)
    if right.ndim != 1 or len(right) == 0:
        raise ValueError(f"Expected one count an image, shape (images,), got shape {right.shape}.")
    if (total < 1).any() or (right < 0).any() or (right > total).any():
        raise ValueError("Expected draws >= 1 and 0 <= correct <= draws for every image; check the votes.")
    return right, total


def two_level_bootstrap(
    correct: ArrayLike, draws: ArrayLike, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile interval of the mean rate: resample images, then the draws within each (Efron & Tibshirani 1993).

    Images with equal counts are resampled together (multinomial, then binomial): the same law, at a cost that does not
    grow with images. Draw noise enters at both levels, so the interval is slightly wide rather than narrow. Near 0 %
    and 100 % it is narrow, and there without width: the low end is held at or below what Wilson gives for as many
    images wrong, FEW at most, and the high end likewise, so that worse outcomes never give a better bound.

    Args:
        correct: (images,) right draws of each image.
        draws: (images,) draws of each image, or one number for all.
        confidence: in (0, 1).
        resamples: of the bootstrap.
        seed: of its generator.
    """
    right, total = _rates(correct, draws)
    images = len(right)
    kinds, count = np.unique(np.stack([right, total]), axis=1, return_counts=True)
    random = np.random.default_rng(seed)
    chosen = random.multinomial(images, count / images, size=resamples)
    means = (random.binomial(chosen * kinds[1], kinds[0] / kinds[1]) / kinds[1]).sum(axis=1) / images
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    sure = float((right / total).sum())
    return (
        min(float(low), wilson(max(sure, images - FEW), images, confidence)[0]),
        max(float(high), wilson(min(sure, FEW), images, confidence)[1]),
    )


def is_vote_correct(votes: Votes, label: int) -> bool:
    """Whether `label` has strictly more votes than any other: ties count against the defense."""
    return votes.get(label, 0) > max((n for other, n in votes.items() if other != label), default=0)


def vote_at_k(votes: Votes, label: int, k: int) -> float:
    """Probability that a vote over k of the stored draws is right, ties against (exact, hypergeometric).

    Sums over a = votes for `label`; the coefficient of x^(k-a) in the product of the truncated polynomials
    sum_{j<a} C(v, j) x^j over the other labels counts the ways that nobody else reaches a.
    """
    draws = sum(votes.values())
    if not 1 <= k <= draws:
        raise ValueError(f"Expected 1 <= k <= {draws} (the stored draws), got k={k}.")
    others = [n for other, n in votes.items() if other != label]
    ways = sum(
        math.comb(votes.get(label, 0), a) * _ways_below(others, a, k - a)
        for a in range(1, min(k, votes.get(label, 0)) + 1)
    )
    return ways / math.comb(draws, k)


def _ways_below(counts: Sequence[int], limit: int, chosen: int) -> int:
    """Ways to choose `chosen` draws from groups of these sizes with fewer than `limit` from each."""
    ways = [1] + [0] * chosen
    for count in counts:
        takes = [math.comb(count, j) for j in range(min(count, limit - 1, chosen) + 1)]
        ways = [sum(takes[j] * ways[m - j] for j in range(min(m + 1, len(takes)))) for m in range(chosen + 1)]
    return ways[chosen]


def worst_of_k(correct: int, draws: int, k: int) -> float:
    """Probability that k of the stored draws, without replacement, are all right: C(correct, k) / C(draws, k)."""
    if not (1 <= k <= draws and 0 <= correct <= draws):
        raise ValueError(f"Expected 1 <= k <= draws and 0 <= correct <= draws, got {correct=}, {draws=}, {k=}.")
    return math.comb(correct, k) / math.comb(draws, k)


def summarize(
    records: Sequence[ImageRecord], *, stochastic: bool, k: int = 10, seed: int = 0
) -> dict[str, float | None]:
    """Accuracies of a run in percent, from its images.

    Keys: {clean,robust,null,rounded}_{accuracy,low,high} (Wilson where the defense is deterministic, two-level
    bootstrap where it is stochastic), vote_accuracy and worst_accuracy at k (at the stored draws where fewer),
    first_success_accuracy and null_first_success_accuracy: the attacker submits what he looked at on his way, and then
    the image that he hands over, on a judging draw. None where some image's outcome is unknown.
    """
    if not records:
        raise ValueError("Expected at least one image, got none.")
    summary: dict[str, float | None] = {}
    for kind in ("clean", "robust", "null", "rounded"):
        summary |= _single_draw(kind, records, stochastic, seed)
    return summary | {
        "vote_accuracy": _percent([_at_most(k, r, vote=True) for r in records]),
        "worst_accuracy": _percent([_at_most(k, r, vote=False) for r in records]),
        "first_success_accuracy": _percent([_and_last(r.first_success, r.robust_correct, r.draws) for r in records]),
        "null_first_success_accuracy": _percent(
            [_and_last(r.null_first_success, r.null_correct, r.draws) for r in records]
        ),
    }


def _single_draw(kind: str, records: Sequence[ImageRecord], stochastic: bool, seed: int) -> dict[str, float | None]:
    votes: list[Votes] = [getattr(record, f"{kind}_votes") or {} for record in records]
    names = (f"{kind}_accuracy", f"{kind}_low", f"{kind}_high")
    if not all(votes):
        return dict.fromkeys(names)
    right = [v.get(r.label, 0) for v, r in zip(votes, records, strict=True)]
    found = single_draw(right, [sum(v.values()) for v in votes], stochastic=stochastic, seed=seed)
    return dict(zip(names, found, strict=True))


def single_draw(correct: ArrayLike, draws: ArrayLike, *, stochastic: bool, seed: int = 0) -> tuple[float, float, float]:
    """Single-draw accuracy and the ends of its interval, in percent.

    Args:
        correct: (images,) right draws of each image.
        draws: (images,) draws of each image.
        stochastic: whether the interval is the two-level bootstrap's, else Wilson's.
        seed: of the bootstrap.
    """
    right, total = _rates(correct, draws)
    mean = float((right / total).mean())
    low, high = two_level_bootstrap(right, total, seed=seed) if stochastic else wilson(mean * len(right), len(right))
    return 100 * mean, 100 * low, 100 * high


def _at_most(k: int, record: ImageRecord, *, vote: bool) -> float | None:
    votes = record.robust_votes
    draws = sum(votes.values())
    if draws == 0:
        return None
    if vote:
        return vote_at_k(votes, record.label, min(k, draws))
    return worst_of_k(votes.get(record.label, 0), draws, min(k, draws))


def _and_last(looks: bool | None, correct: int, draws: int) -> float | None:
    """Probability that the looks were right and one judging draw more is."""
    return None if looks is None else looks * correct / draws


def _percent(outcomes: Sequence[float | bool | None]) -> float | None:
    known = [float(outcome) for outcome in outcomes if outcome is not None]
    return 100 * sum(known) / len(known) if len(known) == len(outcomes) else None


def mcnemar(a_correct: ArrayLike, b_correct: ArrayLike) -> float:
    """Exact two-sided p-value that a and b are right equally often (McNemar 1947): a fair coin on the images where they
    differ; 1.0 where they never do.

    Args:
        a_correct: (images,) bool.
        b_correct: (images,) bool, of the same images.
    """
    a, b = np.asarray(a_correct, dtype=bool), np.asarray(b_correct, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"Expected the same images on both sides, got shapes {a.shape} and {b.shape}.")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    tail = sum(math.comb(only_a + only_b, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2 ** (only_a + only_b))


def paired_difference(
    a_correct: ArrayLike,
    a_draws: ArrayLike,
    b_correct: ArrayLike,
    b_draws: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean over images of rate(a) - rate(b), with a percentile bootstrap over images: (difference, low, high).

    The per-image differences already hold the noise of the draws, so one level suffices. The interval is never
    narrower than if z^2 images had differed (3.84 at 95 %): two runs that agree everywhere are not proven equal.
    """
    a_right, a_total = _rates(a_correct, a_draws)
    b_right, b_total = _rates(b_correct, b_draws)
    if a_right.shape != b_right.shape:
        raise ValueError(f"Expected the same images on both sides, got {len(a_right)} and {len(b_right)}.")
    values, count = np.unique(np.round(a_right / a_total - b_right / b_total, 12), return_counts=True)
    images = len(a_right)
    mean = float(values @ count) / images
    means = np.random.default_rng(seed).multinomial(images, count / images, size=resamples) @ values / images
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    least = _z(confidence) ** 2 / (images + _z(confidence) ** 2)
    return mean, max(-1.0, min(float(low), mean - least)), min(1.0, max(float(high), mean + least))


def is_surely_above_zero(differences: ArrayLike, confidence: float = 0.95) -> bool | None:
    """Whether `paired_difference` would put its low end above 0; None where only its bootstrap can tell.

    Its low end lies no higher than what z^2 images that differ leave, which is exact; and by Bernstein's inequality a
    resample's mean falls to 0 too rarely for the bootstrap to miss it.

    Args:
        differences: (images,) rate(a) - rate(b).
        confidence: in (0, 1).
    """
    values = np.asarray(differences, dtype=float)
    images, mean = len(values), float(values.mean())
    z2 = _z(confidence) ** 2
    if mean - z2 / (images + z2) <= -1e-9:
        return False
    if mean - z2 / (images + z2) <= 1e-9:
        return None
    spread = float(((values - mean) ** 2).mean())
    bound = 2 * (spread + (mean - float(values.min())) * mean / 3)
    return True if images * mean**2 > 8 * bound else None


def compare(a: Sequence[ImageRecord], b: Sequence[ImageRecord], *, seed: int = 0) -> dict[str, float]:
    """Paired comparison of two runs on the images (dataset indices) that both saw.

    Keys: images, a_accuracy, b_accuracy, difference, low, high (percent and points, single-draw), only_a, only_b
    (images that one side's vote gets right and the other's does not), p_value (McNemar on these votes).
    """
    mine, theirs = {r.index: r for r in a}, {r.index: r for r in b}
    pairs = [(mine[i], theirs[i]) for i in sorted(mine.keys() & theirs.keys())]
    if not pairs:
        raise ValueError("The two runs have no image in common. Compare cells with the same dataset and data_seed.")
    odd = [x.index for x, y in pairs if x.label != y.label]
    if odd:
        raise ValueError(f"Image {odd[0]} has two labels. Compare cells of the same dataset.")
    sides = [np.array([_counts(pair[side]) for pair in pairs]).T for side in (0, 1)]
    return compare_counts(sides[0], sides[1], seed=seed)


def compare_counts(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> dict[str, float]:
    """`compare` for images that are counted already.

    Args:
        a: (3, images) right draws, draws, and whether the vote is right.
        b: the same of the other run, image by image.
        seed: of the bootstrap.
    """
    (a_right, a_draws, a_vote), (b_right, b_draws, b_vote) = np.asarray(a), np.asarray(b)
    difference = paired_difference(a_right, a_draws, b_right, b_draws, seed=seed)
    return {
        "images": len(a_right),
        "a_accuracy": 100 * float((a_right / a_draws).mean()),
        "b_accuracy": 100 * float((b_right / b_draws).mean()),
        **{name: 100 * value for name, value in zip(("difference", "low", "high"), difference, strict=True)},
        "only_a": int((a_vote > b_vote).sum()),
        "only_b": int((b_vote > a_vote).sum()),
        "p_value": mcnemar(a_vote, b_vote),
    }


def is_established(comparison: Mapping[str, float]) -> bool:
    """Whether a difference (see `compare`) counts: its interval leaves out 0 and McNemar's p is below 0.05."""
    return (comparison["low"] > 0 or comparison["high"] < 0) and comparison["p_value"] < 0.05


def _counts(record: ImageRecord) -> tuple[int, int, int]:
    votes = record.robust_votes
    return votes.get(record.label, 0), sum(votes.values()), int(is_vote_correct(votes, record.label))


def pool(rows: Sequence[Mapping[str, Any]], measure: str = "robust") -> dict[str, float | None]:
    """Several runs of one cell (other seeds, other data_seeds) as one line, in percent.

    Runs on the same images (data_seed) do not add images, so their half-widths are averaged; those of different
    data_seeds combine in quadrature.

    Args:
        rows: mappings with {measure}_accuracy, _low, _high, num_images, and data_seed.
        measure: "clean", "robust" or "null".

    Returns:
        mean (weighted by images), low, high, spread (sample standard deviation between the runs, in points; None for
        one) and seeds (number of runs).
    """
    if not rows:
        raise ValueError("Expected at least one run to pool, got none.")
    values, weights = np.array([[row[f"{measure}_accuracy"], row["num_images"]] for row in rows], dtype=float).T
    mean = float(np.average(values, weights=weights))
    spread = float(values.std(ddof=1)) if len(rows) > 1 else None
    below, above = (_pooled_half_width(rows, measure, end) for end in ("low", "high"))
    return {
        "mean": mean,
        "low": None if below is None else max(0.0, mean - below),
        "high": None if above is None else min(100.0, mean + above),
        "spread": spread,
        "seeds": len(rows),
    }


def _pooled_half_width(rows: Sequence[Mapping[str, Any]], measure: str, end: str) -> float | None:
    groups: dict[Any, list[tuple[float, float]]] = {}
    for row in rows:
        edge = row.get(f"{measure}_{end}")
        if edge is None or math.isnan(edge):
            return None
        width = abs(row[f"{measure}_accuracy"] - edge)
        groups.setdefault(row.get("data_seed"), []).append((width, row["num_images"]))
    averages = [np.mean(group, axis=0) for group in groups.values()]
    return math.sqrt(sum((w * n) ** 2 for w, n in averages)) / sum(n for _, n in averages)
