"""APGD+EOT: the library's golden iterates, the exact radius, and a schedule that sees the mean over draws."""

import pytest
import torch
from golden import load
from golden_attacks import toy
from linear_problem import TwoClasses, defended, problem

from bench.attacks.apgd_eot import APGDEOT, checkpoints, radii
from bench.attacks.base import Oracle, Trace
from bench.attacks.losses import Loss
from bench.datasets import load_dataset
from bench.threat import ThreatModel, sparse_signs
from defenses.base import Defended
from defenses.compat import import_autoattack
from defenses.models.classifiers import load_classifier


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_golden_iterates(norm: str, loss: str) -> None:
    g, _ = load("attacks_steps")
    case = f"{norm}_{loss}"
    seen: list[torch.Tensor] = []

    def watch(x: torch.Tensor, noise: object) -> torch.Tensor:
        seen.append(x.detach())
        return x

    threat = ThreatModel(norm=norm, epsilon=8 / 255 if norm == "Linf" else 0.5)
    oracle = Oracle(toy(g, watch), g["labels"], torch.arange(4), 0, loss=loss)
    start = g[f"apgd_init_{case}"].clamp(0, 1)
    climb = APGDEOT(steps=10, eot=1, loss=loss).climb(oracle, g["x01"], threat, start)
    found = {"first": seen[1], "second": seen[2], "best": climb.best}
    for what, images in found.items():
        off = (images - g[f"apgd_{what}_{case}"]).abs().flatten(1).amax(1)
        # where the DLR saturates at 1 an L2 direction is that of a rounding error, and says nothing
        saturated = torch.isclose(g[f"apgd_bestloss_{case}"], torch.ones(4).double()) & (norm == "L2")
        assert (off[~saturated] < 1e-9).all() and saturated.sum() <= 1
    assert torch.allclose(climb.best_loss, g[f"apgd_bestloss_{case}"], rtol=1e-9)
    assert torch.allclose(climb.step_size.flatten(), g[f"apgd_step_{case}"])
    assert len(seen) == 11 and torch.equal(climb.margin > 0, ~g[f"apgd_acc_{case}"].bool())


def test_checkpoints_of_a_hundred_steps() -> None:
    """Croce & Hein give p_j = 0, 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 for the published shares."""
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == {1: 1} and list(checkpoints(10)) == [2, *range(3, 11)]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_reaches_the_exact_radius(norm: str, loss: str) -> None:
    classifier, images, labels, ids = problem()
    threat = ThreatModel(norm=norm, epsilon=0.03 if norm == "Linf" else 0.12)
    attack = APGDEOT(steps=20, eot=1, loss=loss)
    adversarial = attack.perturb(defended(classifier), images, labels, ids, threat, seed=0)
    threat.check(adversarial, images)
    outside = classifier.radius(images, norm) > threat.epsilon
    robust = defended(classifier)(adversarial, None).argmax(1) == labels
    assert robust[outside].all() and 0.1 < outside.float().mean() < 0.9
    assert (robust.float().mean() - outside.float().mean()).abs() <= 0.01


def exact_l1_gain(classifier: TwoClasses, images: torch.Tensor, epsilon: float) -> torch.Tensor:
    """(batch,) how far w.x can be moved: the steepest values first, each as far as the box and the rest allow."""
    weights = (classifier.w.flatten() * -classifier.value(images).sign().unsqueeze(1)).double()
    x = images.flatten(1).double()
    order = weights.abs().argsort(1, descending=True)
    room = torch.where(weights > 0, 1 - x, x).gather(1, order)
    before = room.cumsum(1) - room
    return (weights.abs().gather(1, order) * (epsilon - before).clamp_min(0).minimum(room)).sum(1)


@pytest.mark.parametrize("epsilon", [0.15, 0.8])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_reaches_the_exact_l1_optimum(loss: Loss, epsilon: float) -> None:
    """A linear program; in the wider ball the box is active, and the steepest value alone would stop at the wall."""
    classifier, images, labels, ids = problem()
    threat = ThreatModel(norm="L1", epsilon=epsilon)
    adversarial = APGDEOT(steps=50, eot=1, loss=loss).perturb(defended(classifier), images, labels, ids, threat, seed=0)
    threat.check(adversarial, images)
    moved = (classifier.value(adversarial) - classifier.value(images)).abs().double()
    best = exact_l1_gain(classifier, images, threat.epsilon)
    assert (moved <= best + 1e-5).all() and (moved > 0.995 * best).double().mean() > 0.95
    robust = defended(classifier)(adversarial, None).argmax(1) == labels
    outside = classifier.value(images).abs() > best
    assert (robust.float().mean() - outside.float().mean()).abs() <= 0.01
    assert (epsilon == 0.15) == bool(0.1 < outside.float().mean() < 0.9)


def curved(rows: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """A deterministic toy network in ten classes and its images."""
    g = torch.Generator().manual_seed(3)
    first, last = torch.randn(192, 24, generator=g) / 7, torch.randn(24, 10, generator=g)

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh((x.flatten(1) - 0.5) @ first) @ last

    return Net(), torch.rand(rows, 3, 8, 8, generator=g)


@pytest.mark.parametrize("network", ["toy", "digits_cnn", "digits_cnn_at"])
@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_l1_is_as_strong_as_the_library_for_as_many_queries(network: str, epsilon: float) -> None:
    classifier, images = curved(64)
    if network != "toy":
        classifier, images = load_classifier(network), load_dataset("digits").images(torch.arange(64))
    labels = classifier(images).argmax(1)
    threat, attack, ids = ThreatModel(norm="L1", epsilon=epsilon), APGDEOT(steps=49, eot=1), torch.arange(64)
    asked = 0

    def purify(x: torch.Tensor, noise: object) -> torch.Tensor:
        nonlocal asked
        asked += 1
        return x

    oracle = Oracle(Defended(purify, classifier), labels, ids, 0)
    climb = attack.climb(oracle, images, threat, attack.start(oracle, images, threat, 0))
    threat.check(climb.best, images)
    assert asked == sum(queries for _, queries in radii(50)) == 50
    import_autoattack()
    from autoattack.autopgd_base import APGDAttack

    theirs = APGDAttack(classifier, n_iter=50, norm="L1", eps=epsilon, seed=0, device="cpu")
    theirs.init_hyperparam(images)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wide = [(factor * epsilon, queries - 1) for factor, queries in radii(50)]
        _, _, loss, _ = theirs.decr_eps_pgd(images, labels, *zip(*wide, strict=True))
    assert climb.best_loss.mean() > 0.97 * loss.mean()


@pytest.mark.parametrize("steps", [8, 19, 49])
def test_l1_takes_the_steps_of_the_library(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same start, radius by radius, where k is rounded up as theirs: the same best points."""
    monkeypatch.setattr("bench.attacks.apgd_eot.sparse_signs", lambda x, kept: sparse_signs(x, kept.ceil()))
    classifier, images = curved(64)
    labels, threat, attack = (
        classifier(images).argmax(1),
        ThreatModel(norm="L1", epsilon=4.0),
        APGDEOT(steps=steps, eot=1),
    )
    oracle = Oracle(Defended(lambda x, noise: x, classifier), labels, torch.arange(64), 0)
    x = attack.start(oracle, images, threat, 0)
    climb = attack.climb(oracle, images, threat, x)
    import_autoattack()
    from autoattack.autopgd_base import APGDAttack, L1_projection

    for factor, queries in radii(steps + 1):
        theirs = APGDAttack(classifier, n_iter=queries - 1, norm="L1", eps=4.0 * factor, seed=0, device="cpu")
        theirs.init_hyperparam(images)
        x = x + L1_projection(images, x - images, 4.0 * factor)
        x, _, loss, _ = theirs.attack_single_run(images, labels, x_init=x)
    assert torch.allclose(climb.best, x, rtol=0, atol=1e-3) and torch.allclose(climb.best_loss, loss, rtol=1e-4)


def test_l1_does_not_count_looks_outside_of_the_ball() -> None:
    """Two of the three radii are wider: what is wrong there says nothing of first success."""
    classifier, images, labels, ids = problem(20)
    trace = Trace()
    attack, threat = APGDEOT(steps=19, eot=1), ThreatModel(norm="L1", epsilon=1e-6)
    wide = ThreatModel(norm="L1", epsilon=3e-6)
    attack.perturb(defended(classifier), images, labels, ids, threat, seed=0, trace=trace)
    assert radii(20) == ((3, 6), (2, 6), (1, 8)) and radii(9) == ((1, 9),) and wide.epsilon > threat.epsilon
    assert set(trace.looks.values()) == {8} and len(trace.curve()) == 20 == attack.queries()[1]


def test_gaussian_purifier() -> None:
    """Noise does not fool the step size: the chance of survival left is the analytic one."""
    classifier, images, labels, ids = problem()
    epsilon, sigma = 0.03, 0.1
    attack = APGDEOT(steps=25, eot=20)
    adversarial = attack.perturb(defended(classifier, sigma), images, labels, ids, ThreatModel(epsilon=epsilon), seed=0)
    left = classifier.value(images).abs() - epsilon * classifier.w.abs().sum()
    signed = classifier.value(adversarial) * (2 * labels - 1)
    chance = torch.distributions.Normal(0, sigma * classifier.w.norm()).cdf
    assert (chance(signed).mean() - chance(left).mean()).abs() < 0.01 and (signed >= left - 1e-5).all()


def test_batch_restarts_and_trace() -> None:
    classifier, images, labels, ids = problem(12)
    model, threat = defended(classifier, 0.2), ThreatModel(norm="L2", epsilon=0.12)
    attack, trace = APGDEOT(steps=5, eot=4, restarts=2), Trace()
    whole = attack.perturb(model, images, labels, ids, threat, 5, trace=trace)
    parts = [attack.perturb(model, images[r], labels[r], ids[r], threat, 5) for r in (slice(0, 5), slice(5, 12))]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)
    assert [c["step"] for c in trace.curve()] == list(range(12))


@pytest.mark.parametrize(("fields", "message"), [({"eot": 0}, "eot > 0"), ({"rho": 0.0}, r"rho in \(0, 1\]")])
def test_ranges_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        APGDEOT(**fields)
