"""DiffAP: golden numbers of the three samplers and of the three gradients, the published weight, the batch."""

import pytest
import torch
from closed_forms import MEAN, STD, assert_moments, gaussian_score
from golden import RecordedNoise, load, sampler_noise
from torch import Tensor
from toy_denoisers import prior_toy

from defenses.base import Gradient
from defenses.diffap import DiffAP
from defenses.diffusion.schedule import VPSchedule, to_model_space
from defenses.noise import Noise

G, META = load("diffap")
NOISE = RecordedNoise(sampler_noise(G["noise"][0], G["noise"][1:]))
TOY = {"guidance_scale": META["meta"]["scale"], "reference_batch_size": 4, "reference_elements": 3 * 8 * 8}
CASES = {
    "random_guided": {},
    "random": {"guidance_scale": 0.0},
    "ddpm_guided": {"sampler": "ddpm"},
    "ddim_guided": {"sampler": "ddim"},
    "random_guided_200": {"t": 0.2},
}


def run(x: Tensor, gradient: Gradient = "exact", noise: RecordedNoise = NOISE, **fields: object) -> Tensor:
    return DiffAP(**{**TOY, **fields}).build(score=prior_toy(G), gradient=gradient)(x, noise)


@pytest.mark.parametrize("case", CASES)
def test_golden_output(case: str) -> None:
    assert (run(G["x01"], **CASES[case]) - G[f"output_{case}"]).abs().max() < 1e-9


def test_golden_states(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    keep = DiffAP.build.__globals__["reverse_ddim"]
    monkeypatch.setitem(
        DiffAP.build.__globals__, "reverse_ddim", lambda *a, **k: states.append(keep(*a, **k)) or states[-1]
    )
    run(G["x01"])
    assert (torch.stack(states) - G["states_random_guided"]).abs().max() < 1e-9


def test_the_batch_only_counts_through_reference_batch_size() -> None:
    alone = RecordedNoise({key: z[:1] for key, z in NOISE.normals.items()})
    assert torch.allclose(run(G["x01"][:1], noise=alone), G["output_random_guided"][:1], atol=1e-9)
    released = run(G["x01"][:1], noise=alone, reference_batch_size=1)
    assert (released - G["output_random_guided_image0_alone_same_scale"]).abs().max() < 1e-9


@pytest.mark.parametrize("batch", [1, 8, 16, 32, 64])
def test_published_pull(batch: int) -> None:
    recorded = META["meta"]["guidance_coefficient_of_x0_minus_ref_native_CIFAR_by_batch_size"][str(batch)]
    found = [DiffAP(reference_batch_size=batch).pull(VPSchedule().alpha_bar_at(i)) for i in range(999, 0, -200)]
    assert found == pytest.approx(recorded, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "gradient", "fields"),
    [
        ("exact_guided", "exact", {}),
        ("guidance_detached", "guidance_detached", {}),
        ("surrogate_unguided", "exact", DiffAP().surrogate().params()),
    ],
)
def test_golden_gradients(name: str, gradient: Gradient, fields: dict) -> None:
    """The surrogate is blind: its gradient is 4e-5 times as long as the exact one."""
    x = G["x01"].clone().requires_grad_()
    (run(x, gradient, **fields) * G["readout"]).sum().backward()
    assert (x.grad - G[f"grad_{name}"]).abs().max() < 1e-9


def test_exact_gradient_equals_finite_differences() -> None:
    x, direction, h = G["x01"].clone().requires_grad_(), G["readout"].flip(0), 1e-6
    (run(x) * G["readout"]).sum().backward()
    ends = [(run(G["x01"] + s * h * direction) * G["readout"]).sum() for s in (1, -1)]
    assert ((ends[0] - ends[1]) / (2 * h) - (x.grad * direction).sum()).abs() < 1e-6 * (ends[0] - ends[1]).abs() / h


def test_the_published_setting_returns_its_input() -> None:
    """Whatever the network says: 0.9 % of the difference between its prediction and the input is left."""
    bare = DiffAP().build(score=prior_toy(G))(G["x01"], NOISE)
    assert 0 < (bare - G["x01"]).abs().max() < 0.02


def test_unguided_ddpm_on_gaussian_data_gives_gaussian_data() -> None:
    """From noise, five ideal DDPM steps reach the data's mean whatever the image, and a known variance."""
    images = torch.full((4000, 1, 1, 1), 0.9, dtype=torch.float64)
    defense = DiffAP(guidance_scale=0.0, sampler="ddpm", steps=200)
    out = defense.build(score=gaussian_score(discrete=True))(images, Noise(0, torch.arange(4000)))
    assert_moments(to_model_space(out), MEAN, STD**2, bias=0.05)


def test_ranges_are_named() -> None:
    for fields, message in (
        ({"sampler": "ode"}, "sampler among"),
        ({"reference_batch_size": 0}, "reference_batch_size >= 1"),
        ({"t": 0.002, "steps": 5}, "steps <= 2"),
    ):
        with pytest.raises(ValueError, match=message):
            DiffAP(**fields)
