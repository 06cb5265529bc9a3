"""Lee & Kim: golden outputs and gradients, their small attack runs, the Gaussian closed form, the vote."""

import json

import pytest
import torch
from closed_forms import SCHEDULE, assert_exact_gradient, assert_moments, gaussian_score, posterior_round_trip
from golden import RecordedNoise, load, toy_score
from torch import Tensor

import defenses
from defenses.diffusion.schedule import to_model_space
from defenses.gradual_noise import GradualNoise
from defenses.noise import Noise

G, META = load("lee_kim")
SCORE = toy_score(G, tau=lambda label: label / 1000)
ATTACK = GradualNoise().surrogate()
SMALL = GradualNoise(levels=(30, 30, 50, 125), steps=(30, 30, 25, 25), runs=1)


def in_call_order(normals: Tensor) -> RecordedNoise:
    return RecordedNoise({(0, step): z for step, z in enumerate(normals)})


def loss_of(images: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(images.flatten(1) @ G["A"].T, G["labels"], reduction="sum")


def gradient(x: Tensor, normals: Tensor, defense: GradualNoise = ATTACK, *, bpda: bool = False) -> Tensor:
    x = x.detach().clone().requires_grad_()
    purified = defense.build(score=SCORE)(x, in_call_order(normals))
    if bpda:
        purified = x + (purified - x).detach()
    return torch.autograd.grad(loss_of(purified), x)[0]


@pytest.mark.parametrize(("key", "defense"), [("gradual_attack", ATTACK), ("gradual_defense_small", SMALL)])
def test_golden_output_and_gradient(key: str, defense: GradualNoise) -> None:
    normals = G[f"noise_{key}"]
    out = defense.build(score=SCORE)(G["x01"], in_call_order(normals))
    assert (out - G[f"output_{key}"]).abs().max() < META["arrays"][f"output_{key}"]["tolerance"]
    assert (gradient(G["x01"], normals, defense) - G[f"grad_{key}"]).abs().max() < 1e-9
    assert defense.network_evaluations == META["meta"][key]["network_calls"]


@pytest.mark.parametrize("kind", ["linf", "l2", "bpda"])
def test_golden_attack_runs(kind: str) -> None:
    """Three sign steps of 0.007 with the gradient averaged over two purifications, from the clean image."""
    x = G["x01"]
    for step, expected in enumerate(G[f"adv_grads_{kind}"]):
        grads = [gradient(x, G["noise_pgd"][2 * step + rep], bpda=kind == "bpda") for rep in range(2)]
        mean = sum(grads) / 2
        assert (mean - expected).abs().max() < 1e-9
        x = within_ball(x + 0.007 * mean.sign(), kind)
    assert (x - G[f"adv_{kind}"]).abs().max() < META["arrays"][f"adv_{kind}"]["tolerance"]


def within_ball(x: Tensor, kind: str) -> Tensor:
    delta = x - G["x01"]
    if kind == "l2":
        norm = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        delta = delta * (0.5 / norm).clamp(max=1)
    else:
        delta = delta.clamp(-8 / 255, 8 / 255)
    return (G["x01"] + delta).clamp(0, 1)


def test_published_costs() -> None:
    assert GradualNoise(runs=1).network_evaluations == META["meta"]["full_gradual_defense_network_calls"] == 470
    assert GradualNoise().network_evaluations == 4700
    assert ATTACK.network_evaluations == META["meta"]["surrogate_attack_network_calls"] == 7
    assert (ATTACK.levels, ATTACK.steps) == ((30, 50, 125), (1, 1, 5))
    diffpure_like = GradualNoise(levels=(200,), steps=(5,), runs=1)
    assert diffpure_like.surrogate() == diffpure_like


def test_gaussian_data_give_the_posterior_stage_after_stage() -> None:
    n, defense = 4000, GradualNoise(levels=(50, 120), steps=(25, 60), runs=1)
    images = torch.full((n, 1, 1, 1), 0.9, dtype=torch.float64)
    out = defense.build(score=gaussian_score(discrete=True))(images, Noise(0, torch.arange(n)))
    mean, variance = 0.8, 0.0
    for level in defense.levels:
        mean, variance = posterior_round_trip(mean, variance, SCHEDULE.alpha_bar_at(level - 1))
    assert_moments(to_model_space(out), mean, variance, bias=0.02)


def test_exact_gradient_with_noise_of_its_own_in_every_stage() -> None:
    purify = GradualNoise(levels=(10, 20), steps=(2, 3), runs=1, eta=0.7).build(score=SCORE)
    assert_exact_gradient(lambda x: purify(x, Noise(0, torch.arange(4))), G["x01"])
    steps: list[int] = []

    class Spy(RecordedNoise):
        def normal(self, like: Tensor, *, step: int, stream: int = 0) -> Tensor:
            steps.append(step)
            return torch.zeros_like(like)

    purify(G["x01"], Spy({}))
    assert steps == list(range(7))


def test_runs_vote() -> None:
    class Linear(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ G["A"].T

    model = GradualNoise(levels=(30,), steps=(2,), runs=3).defend(Linear(), SCORE)
    shares = model(G["x01"], Noise(0, torch.arange(4))).exp()
    assert ((3 * shares).round() / 3 - shares).abs().max() < 1e-5  # thirds, but for the floor


def test_round_trip_through_json_and_ranges() -> None:
    params = json.loads(json.dumps(SMALL.params()))
    assert defenses.defenses.make("gradual_noise", params) == SMALL
    with pytest.raises(ValueError, match="for each of 2 stages, got 1"):
        GradualNoise(levels=(10, 20), steps=(5,))
    with pytest.raises(ValueError, match="Expected 1 <= steps <= 10"):
        GradualNoise(levels=(10,), steps=(11,))
    with pytest.raises(ValueError, match="integers in 1..1000"):
        GradualNoise(levels=())
