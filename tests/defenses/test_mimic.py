"""MimicDiffusion: golden output and states, the batch, the surrogate, why there is no exact gradient."""

import pytest
import torch
from closed_forms import assert_exact_gradient
from golden import RecordedNoise, load
from torch import Tensor, nn
from toy_denoisers import prior_toy

from defenses.base import Purifier
from defenses.ddim import DDIM
from defenses.diffusion.schedule import to_image_space
from defenses.mimic import MimicDiffusion

G, META = load("mimic")
NOISE = RecordedNoise({(0, k): z for k, z in enumerate(G["noise"][1:])})  # row 0 is the draw that the source wastes
TOY = {"guidance_scale": META["meta"]["scale"], "reference_batch_size": 2, "reference_pixels": 64}


def run(x: Tensor, noise: RecordedNoise = NOISE, **fields: object) -> Tensor:
    return MimicDiffusion(**{**TOY, **fields}).build(score=prior_toy(G))(x, noise)


@pytest.mark.parametrize(
    ("name", "scale"), [("output", 23.4375), ("output_native_scale", 3000.0), ("output_unguided", 0.0)]
)
def test_golden_output(name: str, scale: float) -> None:
    assert (run(G["x01"], guidance_scale=scale) - G[name]).abs().max() < META["arrays"][name]["tolerance"]


def test_golden_states() -> None:
    """A walk cut short: its last step is at a known level, and its state is the network's next input."""
    inputs: list[Tensor] = []
    score = prior_toy(G)
    network = score.network
    score.network = lambda x, label: (inputs.append(x), network(x, label))[1]
    out = MimicDiffusion(**TOY).build(score=score)(G["x01"], NOISE)
    for k, expected in zip((20, 40, 60, 80), G["states_every_20"], strict=False):
        assert (inputs[k] - expected).abs().max() < 1e-9
    assert (out - to_image_space(G["states_every_20"][-1])).abs().max() < 1e-9


def test_the_batch_only_counts_through_reference_batch_size() -> None:
    alone = RecordedNoise({key: z[:1] for key, z in NOISE.normals.items()})
    assert torch.allclose(run(G["x01"][:1], noise=alone), G["output"][:1], atol=1e-9)
    released = run(G["x01"][:1], noise=alone, reference_batch_size=1)
    assert (released - G["output_image0_alone_same_scale"]).abs().max() < 1e-9


def test_the_image_has_no_gradient() -> None:
    """Not refused for lack of an implementation: autograd of the very computation is zero."""
    x = G["x01"].clone().requires_grad_()
    for steps in (10, 20):
        (gradient,) = torch.autograd.grad(run(x, steps=steps).sum(), x, materialize_grads=True)
        assert gradient.abs().max() == 0
    with pytest.raises(ValueError, match="has no 'exact' gradient. It has: surrogate, straight_through"):
        MimicDiffusion().defend(nn.Identity(), prior_toy(G), gradient="exact")
    assert MimicDiffusion(softness=0.1).gradients == ("exact", "surrogate")


def test_a_soft_sign_has_an_exact_gradient_and_tends_to_the_sign() -> None:
    assert_exact_gradient(lambda x: run(x, steps=10, softness=0.5), G["x01"])
    assert (run(G["x01"], steps=10, softness=1e-9) - run(G["x01"], steps=10)).abs().max() < 1e-6


def test_the_surrogate_is_plain_denoising_from_level_200() -> None:
    cheap = MimicDiffusion().surrogate()
    assert isinstance(cheap, Purifier) and cheap == DDIM(t=0.2, steps=5, eta=1.0)


def test_ranges_are_named() -> None:
    for fields, message in (
        ({"guide_after": 0.9, "guide_until": 0.2}, "guide_after < guide_until"),
        ({"guidance_scale": -1.0}, "guidance_scale >= 0"),
        ({"reference_pixels": 0}, "reference_pixels >= 1"),
        ({"steps": 1001}, "steps <= 1000"),
    ):
        with pytest.raises(ValueError, match=message):
            MimicDiffusion(**fields)
