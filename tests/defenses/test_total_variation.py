"""Total variation: a closed form, and the objective's minimum."""

import pytest
import torch
from torch import Tensor

from defenses.noise import Noise
from defenses.total_variation import TotalVariation


def purify(images: Tensor, **fields: float) -> Tensor:
    return TotalVariation(**fields).build()(images, Noise(0, torch.arange(len(images))))


def test_a_step_loses_contrast_by_the_closed_form() -> None:
    """Halves of m columns at 0 and 1: the minimiser moves each half towards the other by weight / m."""
    images = torch.zeros(1, 1, 10, 8, dtype=torch.float64)
    images[..., 4:] = 1
    out = purify(images, weight=0.2, tolerance=1e-12, iterations=5000)
    assert (out - (0.9 * images + 0.2 / 4)).abs().max() < 1e-5


def objective(u: Tensor, y: Tensor, weight: float) -> float:
    rows = torch.nn.functional.pad(u.diff(dim=-2), (0, 0, 0, 1))
    columns = torch.nn.functional.pad(u.diff(dim=-1), (0, 1))
    return float(((u - y) ** 2).sum() / 2 + weight * (rows**2 + columns**2).sqrt().sum())


def test_minimises_the_objective() -> None:
    images = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    out = purify(images, tolerance=1e-12, iterations=5000)
    best = objective(out, images, 0.1)
    assert all(objective(out + s * torch.randn_like(out), images, 0.1) > best for s in (1e-3, 1e-2, 1e-1))
    assert abs(out.mean() - images.mean()) < 1e-12  # a constant shift costs only distance


def test_channels_are_separate_and_dtype_is_kept() -> None:
    images = torch.rand(2, 3, 8, 8)
    out = purify(images)
    assert out.dtype == torch.float32
    assert torch.equal(out[1:, 2:], purify(images[1:, 2:]))


def test_range() -> None:
    with pytest.raises(ValueError, match="weight > 0"):
        TotalVariation(weight=0.0)
