"""Fresh draws agree with stored ones exactly as often as they should, and a defense that differs is found."""

from __future__ import annotations

import numpy as np
import pytest

from bench.evidence.agreement import compare_draws

DRAWS = [10] * 64


def test_honest_draws_are_not_accused() -> None:
    """Rates between 0 and 1, a tenth of the draws: about one honest cell in a hundred has p < 0.01."""
    random, values = np.random.default_rng(0), []
    for _ in range(300):
        rates = random.beta(0.4, 0.4, size=64)
        found = compare_draws(random.binomial(10, rates), DRAWS, random.binomial(2, rates), 2, stochastic=True)
        values.append(found.p_value)
        assert found.agrees or found.p_value < 0.001 or found.changed
    assert 0.02 < np.mean(np.array(values) < 0.05) < 0.09


def test_another_defense_is_told_by_how_much() -> None:
    found = compare_draws([7] * 64, DRAWS, [1] * 64, 3, stochastic=True)
    assert not found.agrees and found.stored == pytest.approx(70) and found.fresh == pytest.approx(100 / 3)


def test_one_image_whose_draws_cannot_be_its_own_is_named() -> None:
    stored, fresh = [10] * 64, [10] * 64
    stored[5] = 0
    found = compare_draws(stored, DRAWS, fresh, 10, stochastic=True)
    assert found.changed == (5,) and not found.agrees


def test_a_deterministic_defense_has_one_answer() -> None:
    assert compare_draws([1, 0, 1], [1] * 3, [1, 0, 1], 1, stochastic=False).agrees
    found = compare_draws([1, 0, 1], [1] * 3, [1, 1, 1], 1, stochastic=False)
    assert found.changed == (1,) and not found.agrees
