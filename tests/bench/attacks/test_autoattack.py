"""AutoAttack through the harness is the library called by hand, image by image, and does not disturb the process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from linear_problem import defended
from torch import Tensor, nn

from bench.attacks import attacks
from bench.attacks._library import QUERIES, Queries, _check_tiles
from bench.attacks.autoattack import AutoAttack
from bench.attacks.base import Trace
from bench.datasets import load_dataset
from bench.threat import ThreatModel
from defenses.base import Defended
from defenses.compat import import_autoattack
from defenses.models.classifiers import load_classifier
from defenses.noise import Noise, role_seed
from defenses.undefended import Undefended


class Linear(nn.Module):
    """Linear logits, counting the rows that it answers without and with a gradient."""

    def __init__(self, classes: int = 10, side: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(classes, side * side, generator=generator) / side
        self.rows = [0, 0]

    def forward(self, x: Tensor) -> Tensor:
        self.rows[x.requires_grad] += len(x)
        return (x.flatten(1) - 0.5) @ self.weight.T

    def radius(self, x: Tensor, norm: str) -> Tensor:
        """Exact distance (batch,) to the nearest class, away from the box's walls."""
        logits = self(x)
        top = logits.argmax(1)
        w = self.weight[top].unsqueeze(1) - self.weight
        size = w.abs().sum(2) if norm == "Linf" else w.norm(dim=2)
        gap = logits.gather(1, top.unsqueeze(1)) - logits
        return (gap / size).masked_fill(size == 0, torch.inf).amin(1)


def problem(n: int, classes: int = 10) -> tuple[Linear, Tensor, Tensor, Tensor]:
    """Classifier, images (n, 1, 8, 8) in the middle of the box, their true labels, ids."""
    classifier = Linear(classes)
    images = 0.5 + 0.1 * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-2.5, 2.5)
    return classifier, images, classifier(images).argmax(1), torch.arange(100, 100 + n)


def by_hand(version: str, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Tensor:
    """What a user of the library alone writes."""
    attack = import_autoattack().AutoAttack(model, norm=threat.norm, eps=threat.epsilon, seed=seed, version=version)
    attack.verbose = False
    images = images.contiguous()  # it stops on views
    return attack.run_standard_evaluation(images, labels, batch_size=len(images))[0]


def ripple(x: Tensor, draw: int | Tensor) -> Tensor:
    """A purifier that is different at every draw, and cheap."""
    phase = torch.as_tensor(draw).view(-1, 1, 1, 1) + torch.arange(x.shape[-1])
    return x + 0.01 * torch.sin(12.9898 * phase)


def test_rand_is_the_library() -> None:
    """By hand the purifier counts its calls itself. The robust ones cost what the forecast says."""
    classifier, images, labels, ids = problem(6)
    threat = ThreatModel(epsilon=float(classifier.radius(images, "Linf").median()))
    model = Defended(lambda x, noise: ripple(x, noise.draws), classifier)
    ours = attacks.make("autoattack_rand").perturb(model, images, labels, ids, threat, 3)
    calls = iter(range(10_000))
    theirs = by_hand("rand", lambda x: classifier(ripple(x, next(calls))), images, labels, threat, 3)
    assert torch.equal(ours, theirs)
    assert 0 < (ours != images).flatten(1).any(1).sum() < 6 and next(calls) == sum(QUERIES["rand"])


def test_a_defense_that_answers_for_a_batch_is_warned_of() -> None:
    """The library attacks what is left in batches of its own."""
    classifier, images, labels, ids = problem(4)
    model, trace = Defended(lambda x, noise: x, classifier, batch_coupled=True), Trace()
    attacks.make("autoattack_rand").perturb(model, images, labels, ids, ThreatModel(epsilon=0.01), 3, trace=trace)
    assert any("answers for a batch as a whole" in note for note in trace.notes)


def test_standard_is_the_library_and_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """All four attacks run, FAB and Square shortened here: outside the radius they all fail, and only there."""
    library = import_autoattack().AutoAttack
    full = library._set_version

    def short(self: Any, version: str) -> None:
        full(self, version)
        self.square.n_queries, self.fab.n_iter = 200, 5

    monkeypatch.setattr(library, "_set_version", short)
    classifier, images, labels, ids = problem(12)
    threat, trace = ThreatModel(epsilon=float(classifier.radius(images, "Linf").median()) * 1.001), Trace()
    ours = attacks.make("autoattack_standard").perturb(
        defended(classifier), images, labels, ids, threat, 3, trace=trace
    )
    threat.check(ours, images)
    robust = classifier(ours).argmax(1) == labels
    assert torch.equal(robust, classifier.radius(images, "Linf") > threat.epsilon) and 0 < robust.sum() < 12
    assert torch.equal(ours, by_hand("standard", classifier, images, labels, threat, 3))
    assert trace.survived == dict(zip(ids.tolist(), robust.tolist(), strict=True)) and not trace.notes


@pytest.mark.parametrize("variant", ["standard", "rand"])
def test_both_names_run_the_same(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`autoattack` with a variant and the attack of that name hand the same things to the library."""
    asked: list[tuple] = []
    monkeypatch.setattr("bench.attacks.autoattack.run_library", lambda *given: asked.append(given) or given[2])
    classifier, images, labels, ids = problem(2)
    given = defended(classifier), images, labels, ids, ThreatModel(epsilon=0.1), 4
    for attack in (AutoAttack(variant=variant), attacks.make(f"autoattack_{variant}")):
        attack.perturb(*given)
        assert attack.queries() == QUERIES[variant]
    assert asked[0] == asked[1] == (variant, *given, None)


def test_nothing_else_is_disturbed(capfd: pytest.CaptureFixture[str]) -> None:
    """Torch's generator and the process's tracer are put back; the library's warning goes to the trace."""
    classifier, images, labels, ids = problem(2)
    model = Defended(lambda x, noise: ripple(x, 50 * noise.draws), classifier)
    before, trace = torch.get_rng_state(), Trace()
    tracer = lambda frame, event, argument: None  # noqa: E731
    old = sys.gettrace()
    sys.settrace(tracer)
    try:
        threat = ThreatModel(epsilon=0.5)  # so wide that the first attack breaks all
        AutoAttack().perturb(model, images, labels, ids, threat, 0, trace=trace)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(old)
    assert torch.equal(torch.get_rng_state(), before)
    assert any("randomized defense" in note for note in trace.notes)
    assert capfd.readouterr() == ("", "")


def test_every_call_is_a_new_draw() -> None:
    seen: list[tuple[int, int]] = []
    classifier, images, _, _ = problem(3)

    def purify(x: Tensor, noise: Noise) -> Tensor:
        seen.append((noise.seed, int(noise.draws.unique())))
        return x

    queries = Queries(Defended(purify, classifier), "rand", seed=5)
    queries(images), queries(images[:1])
    assert seen == [(role_seed(5, "selection"), 0), (role_seed(5, "selection"), 1)]


@pytest.mark.parametrize(
    ("variant", "classes", "message"),
    [("standard", 9, "at least 10 classes .*nine target.* found 9"), ("rand", 2, "at least 3 classes.*found 2")],
)
def test_too_few_classes_are_refused(variant: str, classes: int, message: str) -> None:
    classifier, images, labels, ids = problem(2, classes)
    with pytest.raises(ValueError, match=message):
        AutoAttack(variant=variant).perturb(defended(classifier), images, labels, ids, ThreatModel(epsilon=0.1), 0)


@pytest.mark.parametrize("norm", ["L2", "L1"])
@pytest.mark.parametrize("side", [4, 8, 12, 13, 14, 16, 28, 32, 224])
def test_sizes_that_the_library_cannot_tile(side: int, norm: str) -> None:
    """The check says no exactly where the library's Square Attack raises an error of its own."""
    import_autoattack()
    from autoattack.square import SquareAttack

    images, labels = torch.full((1, 3, side, side), 0.5), torch.tensor([0])
    square = SquareAttack(lambda x: torch.eye(10)[torch.zeros(len(x), dtype=int)], norm=norm, eps=0.1, n_queries=1)
    try:
        square.perturb(images, labels)
    except (ZeroDivisionError, RuntimeError):
        with pytest.raises(ValueError, match=f"cannot tile images of {side} x {side}.*Use apgd_eot"):
            _check_tiles(side, side)
    else:
        _check_tiles(side, side)


def test_nonsense_is_refused_with_a_remedy() -> None:
    classifier, images, labels, ids = problem(2)
    threat = ThreatModel(epsilon=0.1, gradient="none")
    with pytest.raises(ValueError, match="Use square_eot or transfer"):
        AutoAttack(variant="rand").perturb(defended(classifier, gradient="none"), images, labels, ids, threat, 0)
    broken = Defended(lambda x, noise: x / 0, classifier)
    with pytest.raises(ValueError, match="finite logits, found NaN or infinity for 2 of 2"):
        AutoAttack(variant="rand").perturb(broken, images, labels, ids, threat, 0)
    with pytest.raises(ValueError, match="variant among standard, rand"):
        AutoAttack(variant="plus")  # type: ignore[arg-type]


@pytest.mark.slow
def test_standard_costs_what_the_forecast_says() -> None:
    classifier, images, labels, ids = problem(1)
    classifier.rows = [0, 0]
    AutoAttack().perturb(defended(classifier), images, labels, ids, ThreatModel(epsilon=0.0), 0)
    assert tuple(classifier.rows) == QUERIES["standard"]


def check_standard(dataset: str, name: str, epsilon: float, count: int) -> None:
    data, classifier = load_dataset(dataset), load_classifier(name)
    ids = torch.arange(count)
    images, labels = data.images(ids), torch.as_tensor(data.labels)[:count]
    threat = ThreatModel(epsilon=epsilon)
    model = Undefended().defend(classifier)
    ours = AutoAttack().perturb(model, images, labels, ids, threat, 0)
    theirs = by_hand("standard", classifier, images, labels, threat, 0)
    assert torch.equal(ours, theirs)
    robust = (classifier(ours).argmax(1) == labels).float().mean()
    assert 0 < robust < 1


@pytest.mark.slow
def test_standard_is_the_library_on_digits() -> None:
    """Ten minutes on a busy core; 79.6 % of the 500 images stay robust."""
    check_standard("digits", "digits_cnn_at", 3 / 16, 500)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classifier", "epsilon", "count"), [("cifar_resnet20", 1 / 255, 200), ("cifar10_small_at", 8 / 255, 32)]
)
def test_standard_is_the_library_on_cifar10(
    classifier: str, epsilon: float, count: int, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an hour and a quarter of one on a core."""
    monkeypatch.setenv("BENCH_DATA_DIR", str(shared / "data"))  # pictures and weights
    check_standard("cifar10", classifier, epsilon, count)
