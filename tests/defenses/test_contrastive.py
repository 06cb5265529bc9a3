"""The authors' released behaviour as golden numbers; exact gradients through guidance and online training."""

import dataclasses

import pytest
import torch
from golden import RecordedNoise, load, sampler_noise, toy_score
from torch import Tensor, nn

from defenses.contrastive import EMBEDDING_STREAM, Contrastive
from defenses.diffusion.guidance import embedding_bounds
from defenses.diffusion.schedule import to_model_space
from defenses.noise import Noise

G, META = load("contrastive_guided")
BOUNDS = embedding_bounds(10)


class Linear(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ G["A"].T + G["bias"]


def weights(which: int) -> Tensor:
    return torch.cat([G[f"emb{which}_{b}_d{d}"].flatten() for b in range(3) for d in (1, 2, 3)])


def noise(which: int = 1, rows: int = 4, flip: bool = False) -> RecordedNoise:
    e, z = (G["e"].flip(0), G["z"].flip(0)) if flip else (G["e"], G["z"])
    uniform = (weights(which) / BOUNDS + 1) / 2
    return RecordedNoise(sampler_noise(e[:rows], z[:, :rows]), {(EMBEDDING_STREAM, 0): uniform})


def run(defense: Contrastive, x01: Tensor, recorded: RecordedNoise, cache: Tensor | None = None) -> Tensor:
    purify = defense.purifier(classifier=Linear(), score=toy_score(G), initial_cache=cache)
    return to_model_space(purify(x01, recorded))


def test_unguided_is_diffpure() -> None:
    out = run(Contrastive(guidance_scale=0.0), G["x01"], noise())
    assert (out - G["output_unguided"]).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("min0", {}),
        ("min40", {"guide_from": 40}),
        ("min0_T10_s5000", {"guidance_scale": 5000.0, "temperature": 10.0}),
    ],
)
def test_released_behaviour(key: str, fields: dict) -> None:
    out = run(Contrastive(**fields), G["x01"], noise())
    assert (out - G[f"output_{key}"]).abs().max() < META["arrays"][f"output_{key}"]["tolerance"]


def test_batch_mates_matter() -> None:
    out = run(Contrastive(), G["batch_mates_x"], noise())
    assert (out - G["output_batch_mates"]).abs().max() < 1e-8


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_single_image(kind: str) -> None:
    out = run(Contrastive(loss=f"released_{kind}"), G["x01"][:1], noise(rows=1))
    assert (out - G[f"output_B1_{kind}"]).abs().max() < 1e-8


def test_per_image_equals_batches_of_one() -> None:
    """Image 0 of a batch, guided per image, is image 0 alone (whose value is golden)."""
    recorded = noise()
    recorded.uniforms[EMBEDDING_STREAM, 0] = recorded.uniforms[EMBEDDING_STREAM, 0].repeat(4, 1)
    out = run(Contrastive(per_image=True, guide_from=0), G["x01"], recorded)
    assert (out[:1] - G["output_B1_hard"]).abs().max() < 1e-8
    assert not Contrastive(per_image=True).batch_coupled and Contrastive().batch_coupled


@pytest.mark.parametrize("fields", [{}, {"embedding": False, "loss": "infonce"}])
def test_each_draw_is_a_batch_of_its_own(fields: dict) -> None:
    """Three draws in one batch equal three batches, in value and gradient."""
    model = Contrastive(t=0.1, steps=6, **fields).defend(Linear(), toy_score(G))
    images = torch.arange(4)
    x = G["x01"].repeat(3, 1, 1, 1).requires_grad_()
    together = model(x, Noise(3, images).repeat(3))
    (gradient,) = torch.autograd.grad(together[:, 0].sum(), x)
    for draw in range(3):
        alone = G["x01"].clone().requires_grad_()
        answer = model(alone, Noise(3, images, draw))
        rows = slice(4 * draw, 4 * draw + 4)
        assert torch.allclose(answer, together[rows], atol=1e-9)
        assert torch.allclose(torch.autograd.grad(answer[:, 0].sum(), alone)[0], gradient[rows], atol=1e-7)
    with pytest.raises(ValueError, match="draw by draw"):
        model(G["x01"], Noise(3, images, torch.tensor([0, 1, 0, 1])))


def test_a_single_image_is_not_contrasted_with_itself() -> None:
    """From call 1 on, the float32 gradient of a single image would be noise; the default starts at call 2."""
    assert Contrastive(per_image=True).guide_from == 2 and Contrastive().guide_from == 0

    def rounding(guide_from: int) -> float:
        defense = Contrastive(t=0.1, steps=8, per_image=True, guide_from=guide_from)
        wide = noise()
        wide.uniforms[EMBEDDING_STREAM, 0] = wide.uniforms[EMBEDDING_STREAM, 0].repeat(4, 1)
        found = []
        for dtype in (torch.float64, torch.float32):
            g = {k: v.to(dtype) if v.is_floating_point() else v for k, v in G.items()}
            linear = Linear()
            linear.forward = lambda x, g=g: x.flatten(1) @ g["A"].T + g["bias"]
            x = g["x01"].clone().requires_grad_()
            out = defense.build(classifier=linear, score=toy_score(g))(x, wide)
            found.append(torch.autograd.grad((out * READOUT.to(dtype)).sum(), x)[0].double())
        return float((found[0] - found[1]).norm() / found[0].norm())

    assert rounding(2) < 0.05 and rounding(0) > 0.5


def test_the_state_leak_is_an_explicit_initial_cache() -> None:
    fresh = run(Contrastive(), G["x01"].flip(0), noise(2, flip=True))
    assert (fresh - G["output_second_pass_fresh"]).abs().max() < 1e-8
    last_seen: list[Tensor] = []
    score = toy_score(G)
    network = score.network
    score.network = lambda x, label: (last_seen.append(x), network(x, label))[1]
    Contrastive().build(classifier=Linear(), score=score)(G["x01"], noise())
    leaked = run(Contrastive(), G["x01"].flip(0), noise(2, flip=True), cache=last_seen[-1])
    assert (leaked - G["output_second_pass"]).abs().max() < 1e-8


READOUT = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradient(defense: Contrastive, kind: str = "exact", rows: int = 4) -> Tensor:
    x = G["x01"][:rows].clone().requires_grad_()
    purify = defense.build(classifier=Linear(), score=toy_score(G), gradient=kind)
    (purify(x, noise(rows=rows)) * READOUT[:rows]).sum().backward()
    return x.grad


@pytest.mark.parametrize(
    ("fields", "rows"),
    [({}, 4), ({"guide_from": 5}, 4), ({}, 1), ({"embedding": False, "loss": "infonce"}, 4), ({"solver": "ode"}, 4)],
)
def test_exact_gradient_equals_finite_differences(fields: dict, rows: int) -> None:
    defense = Contrastive(t=0.1, steps=12, **fields)
    purify = defense.build(classifier=Linear(), score=toy_score(G))
    x, direction = G["x01"][:rows], READOUT[:rows].flip(-1) / 10
    h = 1e-7  # small: the first Adam steps bend sharply
    ends = [(purify(x + s * h * direction, noise(rows=rows)) * READOUT[:rows]).sum() for s in (1, -1)]
    numeric = (ends[0] - ends[1]) / (2 * h)
    analytic = (gradient(defense, rows=rows) * direction).sum()
    assert abs(numeric - analytic) < 3e-6 * abs(numeric)


def test_checkpointing_changes_nothing_and_detached_guidance_does(monkeypatch: pytest.MonkeyPatch) -> None:
    defense = Contrastive(t=0.1, steps=10)
    exact = gradient(defense)
    for every in (0, 1, 3):
        monkeypatch.setattr(Contrastive, "checkpoint_every", every)
        assert torch.allclose(gradient(defense), exact, rtol=1e-10, atol=1e-12)
    detached = gradient(defense, "guidance_detached")
    cosine = torch.cosine_similarity(exact.flatten(), detached.flatten(), dim=0)
    assert 0 < cosine < 0.9999


def test_value_is_the_same_with_and_without_gradients() -> None:
    defense = Contrastive(t=0.1, steps=10)
    purify = defense.build(classifier=Linear(), score=toy_score(G))
    recorded = purify(G["x01"].clone().requires_grad_(), noise()).detach()
    with torch.no_grad():
        assert (recorded - purify(G["x01"], noise())).abs().max() < 1e-13


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature > 0"),
        ({"loss": "triplet"}, "Expected loss among"),
        ({"per_image": True, "loss": "infonce"}, "constant for a single image"),
        ({"t": 0.0}, r"t in \(0, 1\]"),
    ],
)
def test_ranges_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Contrastive(**fields)
    assert dataclasses.is_dataclass(Contrastive)


def test_a_named_guide_is_taken_to_the_classifier() -> None:
    from defenses.models.classifiers import load_classifier
    from defenses.models.scores import load_score

    score = load_score("digits_score").double()  # type: ignore[attr-defined]
    defense = Contrastive(t=0.05, steps=2, guide="digits_cnn_at")
    model = defense.defend(load_classifier("digits_cnn").double(), score, gradient="exact")
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    assert model(images, Noise(0, torch.arange(2))).dtype == torch.float64


def test_features_of_the_state_before_are_not_computed_again() -> None:
    """One more guided step asks the classifier once more, not twice."""
    from contract import fast, tiny_classifier, tiny_images, tiny_noise, tiny_score

    asked: list[int] = []
    for steps in (3, 4):
        classifier = tiny_classifier.__wrapped__(torch.float64)
        asked.append(0)
        classifier.register_forward_hook(lambda *_: asked.__setitem__(-1, asked[-1] + 1))
        defense = fast("contrastive", {"steps": steps, "runs": 1})
        with torch.no_grad():
            defense.build(classifier=classifier, score=tiny_score())(tiny_images(), tiny_noise())
    assert asked[1] - asked[0] == 1
