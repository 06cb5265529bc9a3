"""ADBM's fine-tuning: golden numbers of the objective and of its attack, the two ends of the bridge, a short run."""

import torch
import torch.nn.functional as F
from golden import load
from torch import Tensor, nn

from bench.datasets import load_dataset
from bench.training.adbm import Bridge, attack_bridge, bridge_attack_loss, bridge_times, fit_adbm
from defenses.diffusion.schedule import VPSchedule
from defenses.models.classifiers import load_classifier
from defenses.models.scores import load_score

G, META = load("adbm_loss")


class Toy(nn.Module):
    """eps(x, label) = (c0 + c1 label / 1000) tanh(conv(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(G["net_W"].clone())

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        scale = (G["net_c"][0] + G["net_c"][1] * label / 1000).view(-1, 1, 1, 1)
        return scale * torch.tanh(F.conv2d(x, self.weight, G["net_b"], padding=1))


def classify(images: Tensor) -> Tensor:
    return images.flatten(1) @ G["A1"].T


def given() -> tuple[Bridge, Tensor]:
    t, level = bridge_times(G["u_level"].item(), G["u_t"].flatten(), META["meta"]["tune_T"])
    return Bridge(2 * G["x01"] - 1, G["z"], t, level), 2 * G["adv01"] - 1


def check(found: Tensor, name: str) -> None:
    error = (found - G[name]).abs().max()
    print(f"adbm_loss {name}: {error:.1e}")
    assert error < META["arrays"][name]["tolerance"]


def test_golden_objective() -> None:
    (bridge, attacked), network = given(), Toy()
    check(torch.tensor(bridge.level, dtype=torch.float64), "level")
    check(bridge.t.view(-1, 1, 1, 1), "t")
    check(bridge.state(attacked), "x_t")
    check(bridge.target(attacked), "target")
    check(bridge.clean(attacked, network), "x0_hat")
    loss = bridge.loss(attacked, network)
    check(loss, "loss")
    loss.backward()
    check(network.weight.grad, "grad_net_W")


def test_golden_attack() -> None:
    bridge, attacked = given()
    attacked.requires_grad_()
    loss = bridge_attack_loss(attacked, G["labels"], bridge=bridge, network=Toy(), classifier=classify)
    check(loss, "attack_loss")
    check(torch.autograd.grad(loss, attacked)[0], "grad_attack")


def test_the_target_implies_the_clean_image_and_the_ends_are_right() -> None:
    bridge, attacked = given()
    a = VPSchedule().alpha_bar(bridge.t).view(-1, 1, 1, 1)
    implied = (bridge.state(attacked) - (1 - a).sqrt() * bridge.target(attacked)) / a.sqrt()
    assert (implied - bridge.x).abs().max() < 1e-12
    last = Bridge(bridge.x, bridge.noise, torch.full((3,), bridge.level, dtype=torch.float64), bridge.level)
    noised = VPSchedule().diffuse(attacked, bridge.level, bridge.noise)
    assert (last.state(attacked) - noised).abs().max() < 1e-12


def test_the_attack_stays_in_its_ball_and_climbs() -> None:
    bridge, _ = given()
    options = {"bridge": bridge, "network": Toy(), "classifier": classify}
    start, attacked = (
        attack_bridge(G["labels"], torch.Generator().manual_seed(0), steps=steps, **options) for steps in (0, 3)
    )
    assert (attacked - bridge.x).abs().max() <= 16 / 255 + 1e-7 and attacked.abs().max() <= 1
    low, high = (bridge_attack_loss(x, G["labels"], **options) for x in (start, attacked))
    assert high > low


def test_a_short_run_lowers_the_loss_on_digits() -> None:
    """The shipped network, fine-tuned on the bridge, which it was not trained for: less error on the same states."""
    data = load_dataset("digits", split="train")
    images, labels = data.images(range(64)), data.labels[:64]
    classifier, network = load_classifier("digits_cnn"), load_score("digits_score").network
    t, level = bridge_times(1.0, torch.linspace(0.3, 1, 64))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    bridge = Bridge(2 * images - 1, noise, t, level)
    attacked = attack_bridge(
        labels, torch.Generator().manual_seed(1), bridge=bridge, network=network, classifier=classifier, epsilon=3 / 16
    )
    before = bridge.loss(attacked, network)
    tuned = fit_adbm(
        network.requires_grad_(), classifier, images, labels, steps=20, seed=0, what="digits_adbm", epsilon=3 / 16,
        learning_rate=1e-3,
    )  # fmt: skip
    assert bridge.loss(attacked, tuned) < 0.95 * before
    assert not any(p.requires_grad for p in tuned.parameters())
