"""What every registered attack keeps: an attack's file is tested the day it appears."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import Attack, Trace, attacks
from bench.threat import NORMS, Norm, ThreatModel
from defenses.base import Gradient, Purify
from defenses.compat import import_autoattack
from defenses.diffpure_sde import DiffPureSDE
from defenses.models.score_models import NetworkScore
from defenses.noise import Noise, role_seed
from defenses.registry import field_docs

SMALL = {
    **{"steps": 2, "apgd_steps": 2, "eot": 2, "restarts": 1, "defense_replicates": 4, "check_draws": 3},
    **{"samples": 2, "first": 1, "longest": 4},
}
"""Fields that cost time, wherever an attack has them."""
SETTINGS: dict[str, dict[str, Any]] = {
    "cascade": {"members": (("noise", {}, None), ("pgd_eot", {"steps": 2, "eot": 2}, None))},
}
"""Fields of single attacks that stand in for dearer ones."""
GRADIENT: dict[str, Gradient] = {"bpda_eot": "straight_through"}
"""Attacks that know one kind of gradient only; the others are asked with the exact one."""
NAMES = sorted(attacks)
RADII: dict[Norm, float] = {"Linf": 0.05, "L2": 0.5, "L1": 10.0}


@pytest.fixture(autouse=True)
def _short_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoAttack has no fields for what costs time."""
    library = import_autoattack().AutoAttack
    full = library._set_version

    def short(self: Any, version: str) -> None:
        full(self, version)
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = self.apgd.eot_iter = 2
        self.apgd.n_iter_orig = self.apgd_targeted.n_iter_orig = 3  # one step in each radius of L1
        self.apgd_targeted.n_target_classes = self.fab.n_target_classes = 2
        self.square.n_queries = 5

    monkeypatch.setattr(library, "_set_version", short)


def make(name: str) -> Attack:
    """The attack on settings that take no time."""
    known = {field.name for field in dataclasses.fields(attacks[name])}
    return attacks.make(name, {**{k: v for k, v in SMALL.items() if k in known}, **SETTINGS.get(name, {})})


class Net(nn.Module):
    """A small smooth classifier of 3 x 8 x 8 images in ten classes."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.first = torch.randn(24, 192, generator=g) / 7
        self.last = torch.randn(10, 24, generator=g)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((x.flatten(1) - 0.5) @ self.first.T) @ self.last.T


class Bench:
    """Seven images, and a diffusion defense that remembers the seeds of the noise that it was given."""

    def __init__(self, gradient: Gradient) -> None:
        self.seeds: set[int] = set()
        score = NetworkScore(lambda x, label: 0.3 * torch.tanh(x), (3, 8, 8))
        model = DiffPureSDE(t=0.01, steps=2).defend(Net(), score, gradient=gradient)
        self.model = model.with_purify(self.remember)
        pictures = torch.rand(7, 8, 8, 3, generator=torch.Generator().manual_seed(1))
        self.images = pictures.permute(0, 3, 1, 2)  # as data sets hand them over: not contiguous
        self.labels = self.model.classifier(self.images).argmax(1)
        self.ids = torch.tensor([5, 3, 900, 11, 0, 77, 42])

    def remember(self, purify: Purify) -> Purify:
        def purified(x: Tensor, noise: Noise) -> Tensor:
            self.seeds.add(noise.seed)
            return purify(x, noise)

        return purified

    def perturb(
        self, name: str, threat: ThreatModel, rows: slice = slice(None), trace: Trace | None = None, seed: int = 7
    ) -> Tensor:
        given = self.images[rows], self.labels[rows], self.ids[rows]
        return make(name).perturb(self.model, *given, threat, seed, trace=trace)


def setting(name: str, norm: Norm = "Linf") -> tuple[Bench, ThreatModel]:
    gradient = GRADIENT.get(name, "exact")
    return Bench(gradient), ThreatModel(norm=norm, epsilon=RADII[norm], gradient=gradient)


@pytest.mark.parametrize("name", NAMES)
def test_is_documented_data(name: str) -> None:
    cls = attacks[name]
    assert cls.name == name == Path(sys.modules[cls.__module__].__file__ or "").stem
    assert cls.source and cls.source.strip() and cls.version >= 1
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    doc = inspect.getdoc(cls) or ""
    undocumented = [field.name for field in dataclasses.fields(cls) if field.name not in doc]
    assert len(doc) > 40 and not undocumented
    attack = cls()
    again = attacks.make(name, json.loads(json.dumps(attack.params())))
    assert again == attack and repr(again) == repr(attack) and hash(again) == hash(attack)
    plain, differentiated = attack.queries()
    assert plain >= 0 and differentiated >= 0 and not (attack.gradient_free and differentiated)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NAMES)
def test_stays_in_ball_and_box_and_leaves_its_input_alone(name: str, norm: Norm) -> None:
    if norm not in make(name).norms and norm == "L1":
        pytest.skip("refused by the cell")
    bench, threat = setting(name, norm)
    before, generator, trace = bench.images.clone(), torch.get_rng_state(), Trace()
    try:
        adversarial = bench.perturb(name, threat, trace=trace)
    except ValueError as error:
        assert norm == "L2" and "Use " in str(error)  # a norm may be refused, with a remedy
        return
    assert adversarial.shape == bench.images.shape and adversarial.dtype == torch.float32
    assert not adversarial.requires_grad
    threat.check(adversarial, bench.images, restricted=attacks[name].restricted)
    assert torch.equal(bench.images, before) and torch.equal(torch.get_rng_state(), generator)
    looked = set(bench.ids.tolist()) if bench.seeds else set()
    assert set(trace.looks) == set(trace.survived) <= looked and bool(trace.looks) == bool(looked)
    assert max(trace.looks.values(), default=0) <= make(name).looks()
    assert name == "clean" or not torch.equal(adversarial, bench.images)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(name: str) -> None:
    """The same seed, the same images; and no draw of the judge, nor one of the bare seed, is ever looked at."""
    bench, threat = setting(name)
    first, second = bench.perturb(name, threat), bench.perturb(name, threat)
    assert torch.equal(first, second)
    roles = ("clean", "robust", "null", "looks")
    assert not bench.seeds & {7, *(role_seed(7, f"judge:{role}") for role in roles)}
    if bench.seeds:
        seeds = set(bench.seeds)
        bench.perturb(name, threat, seed=8)
        assert len(bench.seeds) == 2 * len(seeds)


@pytest.mark.parametrize("name", [name for name in NAMES if not attacks[name].batch_coupled])
def test_the_batch_does_not_matter(name: str) -> None:
    bench, threat = setting(name)
    whole = bench.perturb(name, threat)
    parts = [bench.perturb(name, threat, rows) for rows in (slice(0, 1), slice(1, 5), slice(5, 7))]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_ball_of_radius_zero_holds_one_image(name: str) -> None:
    """The null control's radius is no special case."""
    if not attacks[name].restricted:
        pytest.skip("no ball")
    bench, threat = setting(name)
    adversarial = bench.perturb(name, dataclasses.replace(threat, epsilon=0.0))
    assert torch.allclose(adversarial, bench.images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_is_an_error_unless_none_is_needed(name: str) -> None:
    bench, threat = Bench("none"), ThreatModel(epsilon=0.05, gradient="none")
    if attacks[name].gradient_free:
        threat.check(bench.perturb(name, threat), bench.images, restricted=attacks[name].restricted)
    else:
        with pytest.raises(ValueError, match="gradient"):
            bench.perturb(name, threat)


@pytest.mark.parametrize("name", list(attacks))
def test_every_field_has_its_line_and_the_source_can_be_followed(name: str) -> None:
    cls = attacks[name]
    assert {field.name for field in dataclasses.fields(cls)} == set(field_docs(cls))
    assert cls.title and cls.source and ".md" not in cls.source
