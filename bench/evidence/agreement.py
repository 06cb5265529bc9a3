"""Whether draws that were judged afresh agree with those that are stored, on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DISAGREES = 0.001  # p-value below which two sets of draws do not come from one defense


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Stored and fresh draws on the same images.

    Attributes:
        stored: accuracy of the stored draws, percent.
        fresh: accuracy of the fresh draws, percent.
        p_value: probability of a difference at least as large if both come from one defense.
        changed: places of the images whose own draws contradict each other.
    """

    stored: float
    fresh: float
    p_value: float
    changed: tuple[int, ...]

    @property
    def agrees(self) -> bool:
        """Whether neither the accuracies nor any image's draws contradict each other."""
        return self.p_value >= DISAGREES and not self.changed


def compare_draws(
    stored: Sequence[int], draws: Sequence[int], fresh: Sequence[int], more: int, *, stochastic: bool
) -> Agreement:
    """Compare stored and fresh draws, image by image: the images are the same, so that only draws may differ.

    Given how often an image was right in all its draws, the stored ones are a sample without replacement (Fisher's
    exact test). Summed over the images, these counts are close to normal.

    Args:
        stored: (images,) right draws that are stored.
        draws: (images,) draws that are stored.
        fresh: (images,) right draws among the fresh ones.
        more: fresh draws an image.
        stochastic: whether two draws may differ at all.
    """
    from scipy.stats import hypergeom, norm

    k, n, f = (np.asarray(values, dtype=float) for values in (stored, draws, fresh))
    share = [float(np.mean(k / n)), float(np.mean(f / more))]
    if not stochastic:
        apart = np.flatnonzero((k / n) != (f / more))
        return Agreement(
            stored=100 * share[0],
            fresh=100 * share[1],
            p_value=0.0 if len(apart) else 1.0,
            changed=tuple(map(int, apart)),
        )
    whole, right = n + more, k + f
    spread = right * (whole - right) * n * more / (whole**2 * np.maximum(whole - 1, 1))  # of each stored count
    weight = 1 / n + 1 / more  # a stored draw less is a fresh one more
    deviation = math.sqrt(float((spread * weight**2).sum())) / len(k)
    difference = abs(share[0] - share[1])
    p = 1.0 if deviation == 0 else float(2 * norm.sf(difference / deviation))
    law = hypergeom(whole.astype(int), right.astype(int), n.astype(int))
    single = 2 * np.minimum(law.cdf(k), law.sf(k - 1))
    changed = np.flatnonzero(single < DISAGREES / len(k))
    return Agreement(stored=100 * share[0], fresh=100 * share[1], p_value=min(1.0, p), changed=tuple(map(int, changed)))
