"""GDMP: golden numbers of both guidances, the batch, exact gradients, a learned variance."""

import pytest
import torch
from golden import RecordedNoise, load, toy_score
from torch import Tensor

from defenses.diffusion.guidance import reconstruction_guide, reconstruction_scale
from defenses.diffusion.schedule import VPSchedule, to_model_space
from defenses.gdmp import GDMP
from defenses.models.score_models import NetworkScore

G, META = load("gdmp")
READOUT = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
KINDS = {
    "mse": {"t": 0.036, "rounds": 4, "guidance_scale": 60_000.0},
    "ssim": {"t": 0.06, "rounds": 2, "guidance_scale": 1000.0},
}


def score() -> NetworkScore:
    return toy_score(G, tau=lambda label: label / 1000)


def noise(kind: str, rows: slice = slice(None)) -> RecordedNoise:
    normals: dict[tuple[int, int], Tensor] = {}
    for r, forward in enumerate(G[f"zf_{kind}"]):
        n = len(G[f"z_{kind}"][r])
        normals[0, r * (n + 1)] = forward[rows]
        for k in range(n):
            normals[0, r * (n + 1) + k + 1] = G[f"z_{kind}"][r, k][rows]
            normals[1, r * (n + 1) + k + 1] = G[f"zg_{kind}"][r, k][rows]
    return RecordedNoise(normals)


def gdmp(kind: str, **fields: object) -> GDMP:
    return GDMP(**{"guidance": kind, "reference_batch_size": 4, **KINDS[kind], **fields})


@pytest.mark.parametrize("kind", KINDS)
def test_golden_output_after_every_round(kind: str) -> None:
    for rounds, expected in enumerate(G[f"output_{kind}"], start=1):
        out = gdmp(kind, rounds=rounds).build(score=score())(G["x01"], noise(kind))
        assert (out - expected).abs().max() < META["arrays"][f"output_{kind}"]["tolerance"]


@pytest.mark.parametrize("kind", KINDS)
def test_golden_guidance(kind: str) -> None:
    states: list[Tensor] = []
    model, schedule = score(), VPSchedule()
    network = model.network
    model.network = lambda x, label: (states.append(x), network(x, label))[1]
    gdmp(kind, rounds=1).build(score=model)(G["x01"], noise(kind))
    for k, expected in zip((0, 1, len(states) - 1), G[f"guidance_{kind}"], strict=True):
        index = len(states) - 1 - k
        reference = schedule.diffuse_at(to_model_space(G["x01"]), index, G[f"zg_{kind}"][0, k])
        scale = reconstruction_scale(
            schedule.alpha_bar_at(index), guidance_scale=KINDS[kind]["guidance_scale"], epsilon=8 / 255
        )
        guide = scale / 4 * reconstruction_guide(states[k], reference, kind=kind)
        assert torch.allclose(guide, expected, rtol=1e-6, atol=1e-7 * expected.abs().max())


def test_golden_scale() -> None:
    for index, expected in zip(G["scale_index"].tolist(), G["scale_mse"].tolist(), strict=True):
        found = reconstruction_scale(VPSchedule().alpha_bar_at(index), guidance_scale=60_000, epsilon=8 / 255)
        assert abs(found / expected - 1) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_batch_mates_do_not_matter(kind: str) -> None:
    purify = gdmp(kind, rounds=1, steps=6).build(score=score())
    assert torch.allclose(purify(G["x01"], noise(kind))[:1], purify(G["x01"][:1], noise(kind, slice(1))), atol=1e-9)


FIELDS = {"steps": 4, "rounds": 2, "guidance_scale": 20.0, "reference_batch_size": 1}


def gradient(defense: GDMP, differentiated: str, recorded: RecordedNoise) -> Tensor:
    x = G["x01"].clone().requires_grad_()
    (defense.build(score=score(), gradient=differentiated)(x, recorded) * READOUT).sum().backward()
    return x.grad


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("renoise", [True, False])
def test_exact_gradient_equals_finite_differences(kind: str, renoise: bool) -> None:
    defense, recorded = gdmp(kind, renoise_reference=renoise, **FIELDS), noise(kind)
    purify, direction, h = defense.build(score=score()), READOUT.flip(-1) / 10, 1e-6
    ends = [(purify(G["x01"] + s * h * direction, recorded) * READOUT).sum() for s in (1, -1)]
    numeric = (ends[0] - ends[1]) / (2 * h)
    exact = gradient(defense, "exact", recorded)
    assert abs(numeric - (exact * direction).sum()) < 1e-6 * abs(numeric)
    assert not torch.allclose(gradient(defense, "guidance_detached", recorded), exact, rtol=1e-2)


def test_value_is_the_same_with_and_without_gradients() -> None:
    purify, recorded = gdmp("ssim", **FIELDS).build(score=score()), noise("ssim")
    value = purify(G["x01"].clone().requires_grad_(), recorded).detach()
    with torch.no_grad():
        assert torch.allclose(value, purify(G["x01"], recorded), atol=1e-12)


def test_a_learned_variance_at_its_upper_end_is_the_large_one() -> None:
    toy = score()
    two_heads = NetworkScore(lambda x, t: torch.cat((toy.network(x, t), torch.ones_like(x)), 1), (3, 8, 8))
    fields = {"rounds": 1, "steps": 6, "guidance_scale": 0.0}
    learned = gdmp("mse", variance="learned", **fields).build(score=two_heads)(G["x01"], noise("mse"))
    large = gdmp("mse", variance="large", **fields).build(score=toy)(G["x01"], noise("mse"))
    assert torch.allclose(learned, large, atol=1e-9)
    with pytest.raises(ValueError, match="learned variance"):
        gdmp("mse", variance="learned", **fields).build(score=toy)(G["x01"], noise("mse"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"rounds": 0}, "rounds >= 1"), ({"guidance": "l1"}, "guidance among"), ({"steps": 50}, "at most 36 steps")],
)
def test_ranges_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GDMP(**fields)
