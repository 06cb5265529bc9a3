"""SDE-GDMP: golden numbers, the batch, exact gradients through the guidance."""

import pytest
import torch
from golden import RecordedNoise, load, sampler_noise, toy_score
from torch import Tensor

from defenses.diffpure_sde import DiffPureSDE
from defenses.diffusion.guidance import reconstruction_guide, reconstruction_scale
from defenses.diffusion.schedule import VPSchedule, to_model_space
from defenses.sde_gdmp import SDEGDMP

G, META = load("sde_gdmp")
READOUT = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def noise(rows: slice = slice(None)) -> RecordedNoise:
    guidance = {(1, k): z[rows] for k, z in enumerate(G["zg"])}  # entry 0 is the contract check's: never asked for
    return RecordedNoise(sampler_noise(G["e"][rows], G["z"][:, rows]) | guidance)


def test_golden_output() -> None:
    out = SDEGDMP(reference_batch_size=4).build(score=toy_score(G))(G["x01"], noise())
    assert (to_model_space(out) - G["output"]).abs().max() < META["arrays"]["output"]["tolerance"]


def test_golden_levels_and_guidance() -> None:
    assert SDEGDMP().guided_levels() == G["index_sequence"].tolist()
    states: list[Tensor] = []
    score = toy_score(G)
    network = score.network
    score.network = lambda x, label: (states.append(x), network(x, label))[1]
    SDEGDMP(reference_batch_size=4).build(score=score)(G["x01"], noise())
    for k, expected in zip(G["guidance_steps"].tolist(), G["guidance"], strict=True):
        index = SDEGDMP().guided_levels()[k]
        reference = VPSchedule().diffuse_at(to_model_space(G["x01"]), index, G["zg"][k + 1])
        scale = reconstruction_scale(VPSchedule().alpha_bar_at(index), guidance_scale=1000, epsilon=8 / 255)
        assert torch.allclose(scale / 4 * reconstruction_guide(states[k], reference), expected, atol=1e-10)


def test_batch_mates_do_not_matter_and_without_guidance_it_is_diffpure() -> None:
    purify = SDEGDMP(steps=10).build(score=toy_score(G))
    assert torch.allclose(purify(G["x01"], noise())[:1], purify(G["x01"][:1], noise(slice(1))), atol=1e-12)
    plain = DiffPureSDE(t=0.1, steps=10).build(score=toy_score(G))(G["x01"], noise())
    assert torch.allclose(
        SDEGDMP(steps=10, guidance_scale=0.0).build(score=toy_score(G))(G["x01"], noise()), plain, atol=1e-12
    )


def gradient(kind: str, **fields: float) -> Tensor:
    x = G["x01"].clone().requires_grad_()
    out = SDEGDMP(steps=5, reference_batch_size=1, **fields).build(score=toy_score(G), gradient=kind)(x, noise())
    (out * READOUT).sum().backward()
    return x.grad


def test_exact_gradient_equals_finite_differences_and_detached_does_not() -> None:
    purify = SDEGDMP(steps=5, reference_batch_size=1).build(score=toy_score(G))
    direction, h = READOUT.flip(-1) / 10, 1e-5
    ends = [(purify(G["x01"] + s * h * direction, noise()) * READOUT).sum() for s in (1, -1)]
    numeric = (ends[0] - ends[1]) / (2 * h)
    assert abs(numeric - (gradient("exact") * direction).sum()) < 1e-7 * abs(numeric)
    assert not torch.allclose(gradient("guidance_detached"), gradient("exact"), rtol=1e-2)


def test_ranges_are_named() -> None:
    with pytest.raises(ValueError, match="reference_batch_size >= 1"):
        SDEGDMP(reference_batch_size=0)
