"""Fine-tuning a score network into an adversarial diffusion bridge (Li et al., ICLR 2025, arXiv:2408.00315)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.training.loop import Network, batches, fit
from bench.training.progress import Progress, silent
from bench.training.score import Predict
from defenses.diffusion.schedule import VPSchedule, to_image_space, to_model_space

SHORTEST = 1e-5  # least time of a state
SCHEDULE = VPSchedule()


@dataclass(frozen=True)
class Bridge:
    """States between clean images and attacked, noised ones; noise and times stay while the attack changes.

    At t = level a state is the attacked image noised to that time, at t = 0 the clean image, and the image that the
    target implies is the clean one at every t.

    Attributes:
        x: (batch, channels, height, width), clean images in the [-1, 1] space.
        noise: standard normals, shape of x.
        t: (batch,) times in (0, level].
        level: time of the attacked end, in (0, 1].
    """

    x: Tensor
    noise: Tensor
    t: Tensor
    level: float

    def state(self, attacked: Tensor) -> Tensor:
        """What the network is shown, shape of x; `attacked` are images in the [-1, 1] space."""
        a, end = self._signals()
        moved = (attacked - self.x) * end * (1 - a) / ((1 - end) * a.sqrt())
        return a.sqrt() * self.x + (1 - a).sqrt() * self.noise + moved

    def target(self, attacked: Tensor) -> Tensor:
        """What the network should answer to `state`."""
        a, end = self._signals()
        return self.noise + (attacked - self.x) * (1 / a - 1).sqrt() * end / (1 - end)

    def clean(self, attacked: Tensor, network: Predict) -> Tensor:
        """The clean image that the network finds behind `state`, in the [-1, 1] space."""
        a, _ = self._signals()
        state = self.state(attacked)
        return (state - (1 - a).sqrt() * network(state, 999 * self.t)) / a.sqrt()

    def loss(self, attacked: Tensor, network: Predict) -> Tensor:
        """Mean squared error of the network's answer, over all values."""
        return (network(self.state(attacked), 999 * self.t) - self.target(attacked)).square().mean()

    def _signals(self) -> tuple[Tensor, float]:
        return SCHEDULE.alpha_bar(self.t).view(-1, 1, 1, 1), SCHEDULE.alpha_bar(self.level)


def bridge_times(u_level: float, u: Tensor, longest: float = 0.2) -> tuple[Tensor, float]:
    """Times of a batch and their common end, which is uniform between 0.1 and `longest`, as released.

    Args:
        u_level: uniform in [0, 1).
        u: (batch,), uniform in [0, 1).
        longest: in (0, 1]; above 0.9 every batch ends there.

    Returns:
        Times (batch,) in [1e-5, level], and the level.
    """
    level = longest if longest > 0.9 else 0.1 + u_level * (longest - 0.1)
    return SHORTEST + u * (level - SHORTEST), level


def bridge_attack_loss(
    attacked: Tensor, labels: Tensor, *, bridge: Bridge, network: Predict, classifier: nn.Module
) -> Tensor:
    """Mean cross-entropy of the classifier on the clean images that the network finds: what the attack climbs."""
    return cross_entropy(classifier(to_image_space(bridge.clean(attacked, network))), labels)


def attack_bridge(
    labels: Tensor,
    generator: torch.Generator,
    *,
    bridge: Bridge,
    network: Predict,
    classifier: nn.Module,
    epsilon: float = 8 / 255,
    steps: int = 3,
) -> Tensor:
    """Attacked images in the [-1, 1] space: sign steps as long as the radius, from a random start, as released.

    Args:
        labels: (batch,).
        generator: of the random start.
        bridge: times and noise are held through the attack.
        network: (state, label) -> noise; differentiated.
        classifier: images in [0, 1] -> logits.
        epsilon: Linf radius, image units, > 0.
        steps: >= 0.
    """
    radius, x = 2 * epsilon, bridge.x
    attacked = (x + radius * (2 * torch.rand(x.shape, generator=generator) - 1)).clamp(-1, 1)
    for _ in range(steps):
        attacked = attacked.detach().requires_grad_()
        value = bridge_attack_loss(attacked, labels, bridge=bridge, network=network, classifier=classifier)
        (gradient,) = torch.autograd.grad(value, attacked)
        attacked = (attacked.detach() + radius * gradient.sign()).clamp(x - radius, x + radius).clamp(-1, 1)
    return attacked.detach()


def fit_adbm(
    network: Network,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    seed: int,
    what: str,
    epsilon: float = 8 / 255,
    longest: float = 0.2,
    batch_size: int = 128,
    learning_rate: float = 2e-4,
    progress: Progress = silent,
) -> Network:
    """Fine-tune a trained score network on attacked images of a frozen classifier; returns the averaged one, see `fit`.

    The authors take 30,000 steps of batches of 128 on CIFAR-10.

    Args:
        network: (x_t, label) -> noise.
        classifier: images in [0, 1] -> logits.
        images: (N, channels, height, width) in [0, 1].
        labels: (N,).
        steps: of the optimiser.
        seed: of every random draw.
        what: is trained, for `progress` and messages.
        epsilon: Linf radius of the training attack, image units.
        longest: see `bridge_times`.
        batch_size: images a step, at most N.
        learning_rate: highest one.
        progress: see `Progress`.
    """
    generator = torch.Generator().manual_seed(seed)
    stream = batches(len(images), min(batch_size, len(images)), generator)

    def loss(net: nn.Module) -> Tensor:
        rows = next(stream)
        return bridge_loss(
            net, to_model_space(images[rows]), labels[rows], generator, classifier=classifier, epsilon=epsilon,
            longest=longest,
        )  # fmt: skip

    return fit(network, loss, steps=steps, learning_rate=learning_rate, what=what, progress=progress)


def bridge_loss(
    network: Predict,
    x: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    classifier: nn.Module,
    epsilon: float = 8 / 255,
    longest: float = 0.2,
) -> Tensor:
    """The fine-tuning loss of one batch: times, noise and the attack are drawn, and the attack is made here.

    Args:
        network: (state, label) -> noise.
        x: (batch, channels, height, width), clean images in the [-1, 1] space.
        labels: (batch,).
        generator: of every random draw.
        classifier: images in [0, 1] -> logits.
        epsilon: Linf radius of the attack, image units.
        longest: see `bridge_times`.
    """
    u_level, u = torch.rand((), generator=generator), torch.rand(len(x), generator=generator)
    t, level = bridge_times(u_level.item(), u, longest)
    bridge = Bridge(x, torch.randn(x.shape, generator=generator), t, level)
    attacked = attack_bridge(labels, generator, bridge=bridge, network=network, classifier=classifier, epsilon=epsilon)
    return bridge.loss(attacked, network)
