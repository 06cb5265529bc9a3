"""What every registered defense promises, tested on all of them: a new file is tested the day it appears."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest
import torch
from contract import COUNT, cases, defended, fast, smooth_answer, tiny_classifier, tiny_images, tiny_noise, tiny_score
from torch import Tensor

from defenses.base import GRADIENTS, Defense, Purifier, defenses
from defenses.defended import ALWAYS
from defenses.noise import Noise
from defenses.registry import field_docs

ROOT = Path(__file__).parents[2]
CASES = cases()
every = pytest.mark.parametrize("defense", CASES, ids=lambda d: d.name)
every_name = pytest.mark.parametrize("name", list(defenses))
REWRITTEN = ("exact", "guidance_detached", "adjoint")  # kinds that differentiate the purifier itself
SAME = 1e-9  # float64; networks round differently in batches of other sizes


def purified(defense: Defense, images: Tensor, rows: Tensor | slice = slice(None), seed: int = 0) -> Tensor:
    """Purified images (logits where the defense is no purifier) of some rows of a batch."""
    model = defended(defense, images.dtype)
    with torch.no_grad():
        return smooth_answer(defense, model)(images[rows], tiny_noise(seed)[rows])


@every_name
def test_is_a_documented_frozen_dataclass_named_after_its_file(name: str) -> None:
    cls = defenses[name]
    assert cls.name == name == Path(inspect.getfile(cls)).stem
    assert cls.__doc__ and isinstance(cls.stochastic, bool) and cls.version >= 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().version = 0  # type: ignore[misc]


@every
def test_class_attributes_are_not_overwritten_on_an_instance(defense: Defense) -> None:
    for cls in type(defense).__mro__:
        declared = {name for name, kind in vars(cls).get("__annotations__", {}).items() if "ClassVar" in str(kind)}
        assert not declared & vars(defense).keys()


@every_name
def test_every_field_has_its_line(name: str) -> None:
    described = field_docs(defenses[name])
    assert [f.name for f in dataclasses.fields(defenses[name]) if not described.get(f.name)] == []


@every_name
def test_title_and_source_can_be_followed(name: str) -> None:
    cls = defenses[name]
    assert cls.title.strip() and cls.source.strip()
    text = " ".join((cls.source, cls.published_caveat, inspect.getsource(inspect.getmodule(cls))))  # type: ignore[arg-type]
    assert [document for document in re.findall(r"[\w./-]+\.md\b", text) if not (ROOT / document).is_file()] == []


@every_name
def test_parameters_survive_json(name: str) -> None:
    for defense in (defenses.make(name), fast(name)):
        again = defenses.make(name, json.loads(json.dumps(defense.params())))
        assert again == defense and repr(again) == repr(defense) and hash(again) == hash(defense)
        assert set(defense.params()) == {field.name for field in dataclasses.fields(defense)}


class Recorded:
    """Noise with the five methods that the contract names, and no more."""

    def __init__(self, noise: Noise) -> None:
        self.normal, self.uniform = noise.normal, noise.uniform
        self.shared, self.shared_uniform = noise.shared, noise.shared_uniform
        self._noise = noise

    def repeat(self, draws: int) -> Recorded:
        return Recorded(self._noise.repeat(draws))


@every
def test_any_object_with_the_methods_of_noise_will_do(defense: Defense) -> None:
    if defense.batch_coupled:  # without draws, its runs are one batch
        defense = dataclasses.replace(defense, runs=1)  # type: ignore[call-arg]
    images, noise = tiny_images(torch.float32), tiny_noise()
    model = defended(defense, torch.float32)
    with torch.no_grad():
        logits = model(images, Recorded(noise))  # type: ignore[arg-type]
        assert logits.shape == (COUNT, 10) and logits.isfinite().all()
        alone = model.runs * model.votes == 1 and defense.name != "chain"
        assert not alone or torch.equal(logits, model(images, noise))


@every
def test_shape_dtype_and_range(defense: Defense) -> None:
    images = tiny_images(torch.float32)
    out = purified(defense, images)
    logits = defended(defense, torch.float32)(images, tiny_noise())
    assert logits.shape == (COUNT, 10) and logits.dtype == out.dtype == torch.float32
    assert logits.isfinite().all() and out.isfinite().all()
    if isinstance(defense, Purifier):
        assert out.shape == images.shape and -1 <= out.min() and out.max() <= 2


@every
def test_noise_decides(defense: Defense) -> None:
    first, again, other = (purified(defense, tiny_images(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) != defense.stochastic


@every
def test_batch_mates_matter_only_where_declared(defense: Defense) -> None:
    images = tiny_images()
    alone = torch.cat([purified(defense, images, slice(i, i + 1)) for i in range(COUNT)])
    effect = (purified(defense, images) - alone).abs().max()
    assert effect > 1e-4 if defense.batch_coupled else effect < SAME


@every
def test_permuted_rows_give_permuted_outputs(defense: Defense) -> None:
    images, order = tiny_images(), torch.tensor([2, 0, 1])
    assert (purified(defense, images)[order] - purified(defense, images, order)).abs().max() < SAME


@every
def test_network_evaluations_are_counted(defense: Defense) -> None:
    score = tiny_score()
    defended(defense)  # skips where weights are missing
    model = defense.defend(tiny_classifier(torch.float64), score, gradient="none")
    with torch.no_grad():
        model(tiny_images(), tiny_noise())
    assert score.network.images == COUNT * defense.network_evaluations


@every
@pytest.mark.parametrize("kind", GRADIENTS)
def test_gradient_kinds_are_as_declared(defense: Defense, kind: str) -> None:
    if kind not in (*defense.gradients, "straight_through", "transfer", "none"):
        sentence = rf"{type(defense).__name__} has no '{kind}' gradient\. It has: .*straight_through, transfer, none\.$"
        with pytest.raises(ValueError, match=sentence):
            defense.defend(tiny_classifier(torch.float64), tiny_score(), gradient=kind)  # type: ignore[arg-type]
        return
    images = tiny_images().requires_grad_()
    logits = defended(defense, gradient=kind)(images, tiny_noise())  # type: ignore[arg-type]
    if kind == "none":
        assert not logits.requires_grad
        return
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), images)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


@every
def test_every_kind_that_is_declared_is_reached_from_another(defense: Defense) -> None:
    """Or the gates believe that an attacker without it has the best there is."""
    model = defended(defense, gradient="transfer")
    assert set(model.kinds) == {*defense.gradients, *ALWAYS}
    assert {model.with_gradient(kind).gradient for kind in model.kinds} == set(model.kinds)


@every
def test_exact_gradient_equals_finite_differences(defense: Defense) -> None:
    if "exact" not in defense.gradients:
        pytest.skip("declares no exact gradient")
    answer, images, h = smooth_answer(defense, defended(defense)), tiny_images(), 1e-6
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    x = images.clone().requires_grad_()
    out = answer(x, tiny_noise())
    readout = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((out * readout).sum(), x)
    with torch.no_grad():
        ends = [(answer(images + s * h * direction, tiny_noise()) * readout).sum() for s in (1, -1)]
    numeric, analytic = (ends[0] - ends[1]) / (2 * h), (gradient * direction).sum()
    assert abs(numeric - analytic) < 1e-4 * max(abs(numeric), 1e-3)


@every
def test_pixels_at_the_ends_of_the_range_keep_their_gradient(defense: Defense) -> None:
    """An attack puts many pixels at 0 and 1; a clip without a gradient there would hold them fast."""
    if "exact" not in defense.gradients:
        pytest.skip("declares no exact gradient")
    answer, images = smooth_answer(defense, defended(defense)), tiny_images()
    at_ends = torch.where(images < 0.4, 0.0, torch.where(images > 0.6, 1.0, images))

    def gradient(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        out = answer(x, tiny_noise())
        readout = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        return torch.autograd.grad((out * readout).sum(), x)[0]

    inside = gradient(at_ends.clamp(1e-9, 1 - 1e-9))
    assert (gradient(at_ends) - inside).abs().max() < 1e-4 * inside.abs().max()


@every
def test_value_is_the_same_with_and_without_gradients(defense: Defense) -> None:
    expected = purified(defense, tiny_images())
    for kind in [kind for kind in REWRITTEN if kind in defense.gradients]:
        recorded = smooth_answer(defense, defended(defense, gradient=kind))  # type: ignore[arg-type]
        assert (recorded(tiny_images().requires_grad_(), tiny_noise()) - expected).abs().max() < SAME


@every
def test_surrogate_is_a_cheaper_purifier(defense: Defense) -> None:
    if "surrogate" not in defense.gradients:
        pytest.skip("declares no surrogate")
    assert isinstance(defense, Purifier)
    cheap = defense.surrogate()
    assert isinstance(cheap, Purifier) and cheap.network_evaluations < defense.network_evaluations


@every
def test_what_is_needed_is_asked_for(defense: Defense) -> None:
    if not defense.needs_score:
        defended(defense)  # skips where weights are missing
        defense.defend(tiny_classifier(torch.float64), None, gradient="none")
        return
    with pytest.raises(ValueError, match="needs a score network, got none"):
        defense.defend(tiny_classifier(torch.float64), None, gradient="none")
