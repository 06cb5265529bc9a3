"""What chance explains, on as few images as gates look at."""

from __future__ import annotations

import math

Z2 = 3.841459  # (normal quantile at 97.5 %) squared, as in `paired_difference`


def smallest_loss(images: int) -> float:
    """Smallest difference of accuracy on so many images whose paired 95 % interval can leave out 0, as a fraction."""
    return math.ceil(images * Z2 / (images + Z2)) / images


def at_most(successes: int, n: int, rate: float) -> float:
    """Probability of so few successes or fewer in n trials of this rate."""
    from scipy.stats import binom

    return float(binom.cdf(successes, n, rate))


def at_least(successes: int, n: int, rate: float) -> float:
    """Probability of so many successes or more in n trials of this rate."""
    from scipy.stats import binom

    return float(binom.sf(successes - 1, n, rate))
