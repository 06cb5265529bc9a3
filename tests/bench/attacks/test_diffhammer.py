"""DiffHammer: the EM step in closed form, the grafted gradient exact, the exact radius reached."""

import pytest
import torch
from linear_problem import defended, problem
from torch import Tensor, nn

from bench.attacks.apgd_eot import APGDEOT
from bench.attacks.base import NoSuchAttack, Oracle, Trace
from bench.attacks.diffhammer import DiffHammer, _Hammer, select
from bench.threat import ThreatModel
from defenses.base import Defended
from defenses.noise import Noise

THREAT = ThreatModel(norm="L2", epsilon=0.5)


def test_one_em_step_by_hand() -> None:
    losses = torch.tensor([[-0.2], [-0.4]])
    gradients = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])
    chosen, direction = select(losses, gradients, THREAT, em_steps=1, sharpness=5.0)
    # along g_0 the losses become -0.2 + 0.5, -0.4; along g_1: -0.2, -0.4 + 1.0. elu: 0.3 - 0.33 < -0.18 + 0.6
    assert chosen.tolist() == [1]
    w = torch.sigmoid(5 * torch.tensor([-0.2, 0.6]))
    assert torch.allclose(direction[0], torch.tensor([w[0], 2 * w[1]]) / w.sum())


def test_conflicting_draws_do_not_cancel() -> None:
    """Three draws nearly broken along +e, one far draw with a threefold gradient along -e: the mean gradient is 0."""
    losses = torch.tensor([[-0.1], [-0.1], [-0.1], [-6.0]])
    gradients = torch.tensor([[[1.0]], [[1.0]], [[1.0]], [[-3.0]]])
    assert gradients.mean(0) == 0
    chosen, direction = select(losses, gradients, THREAT, em_steps=5, sharpness=5.0)
    assert chosen < 3 and torch.allclose(direction, torch.ones(1, 1), atol=1e-3)


class Bend(nn.Module):
    """A purifier whose Jacobian depends on the image and on the noise: x + s z sin(3 x)."""

    def forward(self, x: Tensor, noise: Noise) -> Tensor:
        return x + 0.3 * noise.normal(x, step=0) * torch.sin(3 * x)


def test_gradient_is_grafted_through_the_reference_draw() -> None:
    classifier, images, labels, ids = problem(6)
    model, attack = Defended(Bend(), classifier), DiffHammer(eot=4, losses=("margin",))
    hammer = _Hammer(attack, THREAT, model, labels, ids, 0, eot=4, loss="margin")
    found = hammer.gradient(images, 8)
    signs = (1 - 2 * labels).view(-1, 1, 1, 1)  # the margin's gradient is +-w at every purified image
    losses, _, _, gradients = hammer._look(images, 8)
    assert torch.allclose(gradients, (signs * classifier.w).expand_as(gradients), atol=1e-5)
    chosen, _ = select(losses, gradients, THREAT, em_steps=5, sharpness=5.0)
    z = Noise(hammer.seed, ids, 8 + chosen).normal(images, step=0)
    expected = signs * classifier.w * (1 + 0.9 * z * torch.cos(3 * images))
    assert torch.allclose(found.gradient, expected, atol=1e-4)
    for rows in (9, 5, 2):
        hammer._rows, hammer._step = rows, 0
        assert torch.allclose(hammer.gradient(images, 8).gradient, expected, atol=1e-4)


@pytest.mark.parametrize(("norm", "sigma"), [("Linf", 0.0), ("L2", 0.0), ("Linf", 0.1)])
def test_reaches_the_exact_radius(norm: str, sigma: float) -> None:
    classifier, images, labels, ids = problem()
    epsilon = 0.03 if norm == "Linf" else 0.12
    threat, trace = ThreatModel(norm=norm, epsilon=epsilon), Trace()
    attack = DiffHammer(steps=25, eot=2, losses=("margin", "ce"))
    adversarial = attack.perturb(defended(classifier, sigma), images, labels, ids, threat, 0, trace=trace)
    threat.check(adversarial, images)
    robust = classifier.value(adversarial) * (2 * labels - 1) > 0
    radius = classifier.radius(images, norm)
    assert robust[radius > epsilon].all()
    assert (robust.float().mean() - (radius > epsilon).float().mean()).abs() <= 0.01
    assert {c["attack"] for c in trace.curve()} == {"diffhammer"} and len(trace.curve()) == 52


def test_batch_does_not_matter_and_coupled_batches_stay_whole() -> None:
    classifier, images, labels, ids = problem(8)
    model, threat = Defended(Bend(), classifier), ThreatModel(epsilon=0.03)
    attack = DiffHammer(steps=3, eot=3)
    whole = attack.perturb(model, images, labels, ids, threat, 2)
    parts = [attack.perturb(model, images[r], labels[r], ids[r], threat, 2) for r in (slice(0, 3), slice(3, 8))]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)
    sizes: list[int] = []

    def purify(x: Tensor, noise: Noise) -> Tensor:
        sizes.append(len(x))
        return x + 0.1 * noise.shared(x.shape[1:], step=0)

    attack.perturb(Defended(purify, classifier, batch_coupled=True), images, labels, ids, threat, 2)
    assert set(sizes) == {8}


def test_beats_plain_averaging_where_draws_conflict() -> None:
    """Two draws in three read w.x, the third an opposed and stronger -3 w.x that cannot be broken."""
    classifier, images, labels, ids = problem(40)

    def purify(x: Tensor, noise: Noise) -> Tensor:
        rare = noise.uniform(x[:, :1, :1, :1], step=0) < 1 / 3
        sure = (2 * labels[noise.image_ids] - 1).view(-1, 1, 1, 1) * classifier.w / classifier.w.norm() ** 2
        return torch.where(rare, 0.5 + 200 * sure - 3 * (x - 0.5), x)

    model, threat = Defended(purify, classifier), ThreatModel(epsilon=0.03)
    judged = []
    for attack in (DiffHammer(steps=15, eot=9, losses=("margin",)), APGDEOT(steps=15, eot=9, loss="margin")):
        x = attack.perturb(model, images, labels, ids, threat, 0)
        judged.append(Oracle(model, labels, ids, 0, eot=50, role="judge").evaluate(x, 0).correct.float().mean(0))
    breakable = classifier.radius(images, "Linf") < 0.03
    selective, plain = (accuracy[breakable].mean() for accuracy in judged)
    assert breakable.sum() > 20 and selective < 0.45 and plain > selective + 0.1  # 1/3 of the draws cannot be broken


@pytest.mark.parametrize(
    ("fields", "message"), [({"eot": 1}, "apgd_eot"), ({"losses": ("cw",)}, "margin"), ({"losses": ()}, "losses > 0")]
)
def test_ranges(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffHammer(**fields)


def test_a_defense_that_is_no_purifier_before_a_classifier_is_refused() -> None:
    class Other(Defended):
        def forward(self, images: torch.Tensor, noise: object) -> torch.Tensor:
            return self.classifier(1 - images)

    classifier, images, labels, ids = problem(4)
    other = Other(lambda x, noise: x, classifier)
    with pytest.raises(NoSuchAttack, match="Other answers otherwise. Use apgd_eot"):
        DiffHammer(steps=2, eot=2).perturb(other, images, labels, ids, ThreatModel(epsilon=0.03), 0)
