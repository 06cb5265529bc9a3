"""Chains: composition, independent noise, traits that follow from the members, JSON."""

import json

import pytest
import torch
from torch import Tensor, nn

from defenses.base import defenses
from defenses.chain import Chain
from defenses.gaussian_noise import GaussianNoise
from defenses.jpeg import JPEG
from defenses.median_blur import MedianBlur
from defenses.models.score_models import NetworkScore
from defenses.noise import Noise

NOISE = Noise(0, torch.arange(3))


def images() -> Tensor:
    return torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def chain(*members: str | tuple[str, dict], **fields: object) -> Chain:
    pairs = tuple((m, {}) if isinstance(m, str) else m for m in members)
    return Chain(members=pairs, **fields)  # type: ignore[arg-type]


def test_is_the_composition_in_order() -> None:
    first, second = MedianBlur().build(), JPEG(quality=20).build()
    out = chain("median_blur", ("jpeg", {"quality": 20})).build()(images(), NOISE)
    assert torch.equal(out, second(first(images(), NOISE), NOISE))
    assert not torch.equal(out, first(second(images(), NOISE), NOISE))


def test_members_draw_independent_noise_and_the_first_its_own() -> None:
    noise = Noise(0, torch.arange(20_000))
    zeros = torch.zeros(len(noise), 1, 1, 1)
    one = chain(("gaussian_noise", {"sigma": 1.0})).build()(zeros, noise)
    two = chain(*[("gaussian_noise", {"sigma": 1.0})] * 2).build()(zeros, noise)
    assert torch.equal(one, GaussianNoise(sigma=1.0).build()(zeros, noise))
    second = two - one
    assert abs(second.var() - 1) < 0.04 and abs((one * second).mean()) < 0.03


@pytest.mark.parametrize(
    ("members", "stochastic", "coupled", "gradients", "cost"),
    [
        (["bit_depth", "jpeg"], False, False, (), 0),
        (["median_blur"], False, False, ("exact",), 0),
        (["gaussian_noise", "jpeg"], True, False, (), 0),
        (["diffpure_sde", "bit_depth"], True, False, (), 100),
        (["median_blur", ("contrastive", {"steps": 7})], True, True, ("exact", "guidance_detached", "surrogate"), 7),
    ],
)
def test_traits_follow_from_the_members(
    members: list, stochastic: bool, coupled: bool, gradients: tuple, cost: int
) -> None:
    found = chain(*members, runs=2)
    assert (found.stochastic, found.batch_coupled, found.network_evaluations) == (stochastic, coupled, 2 * cost)
    assert set(gradients) <= set(found.gradients) and bool(gradients) == bool(found.gradients)
    assert found.needs_score == (cost > 0)


def test_parameters_are_resolved_and_survive_json() -> None:
    defense = chain("jpeg", ("diffpure_sde", {"t": 0.05}), runs=3, combine="vote")
    params = json.loads(json.dumps(defense.params()))
    assert params["members"][0] == ["jpeg", {"runs": 1, "combine": "logits", "quality": 75}]
    again = defenses.make("chain", params)
    assert again == defense and hash(again) == hash(defense) and repr(again) == repr(defense)
    nested = Chain(members=(("chain", params | {"runs": 1}), ("bit_depth", {})))
    assert defenses.make("chain", json.loads(json.dumps(nested.params()))) == nested


def score() -> NetworkScore:
    return NetworkScore(lambda x, label: torch.tanh(x) * (1 + label.view(-1, 1, 1, 1) / 999), (1, 6, 6))


def test_surrogate_and_exact_gradients() -> None:
    defense = chain("gaussian_noise", ("diffpure_sde", {"t": 0.02, "steps": 10}))
    assert dict(defense.surrogate().members)["diffpure_sde"]["steps"] == 2
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double()
    for kind in ("exact", "surrogate"):
        x = images().double().requires_grad_()
        defense.defend(classifier, score(), gradient=kind)(x, NOISE).sum().backward()
        assert x.grad is not None and x.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ((), ValueError, "at least one member"),
        ((("jpg", {}),), LookupError, "Did you mean 'jpeg'"),
        ((("adversarial_training", {}),), ValueError, "Expected purifiers"),
        ((("jpeg", {"runs": 2}),), ValueError, "Set the runs of the chain"),
    ],
)
def test_refusals(members: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Chain(members=members)
