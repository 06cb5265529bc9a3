"""The perturbation network of AAOpt (Wesego & Rooshenas, NeurIPS 2025): it predicts noise on adversarial perturbations.

It learns what attacked minus clean looks like for one classifier, so a defense that uses it was made for that one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.training.augment import jitter
from bench.training.classifier import PGD
from bench.training.loop import Network, batches, fit
from bench.training.progress import Progress, silent
from bench.training.score import Predict
from defenses.diffusion.schedule import VPSchedule

SCHEDULE = VPSchedule()
SIGNALS = torch.tensor([SCHEDULE.alpha_bar_at(i) for i in range(SCHEDULE.levels)], dtype=torch.float64)


def find_perturbations(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[PGD],
    generator: torch.Generator,
    *,
    copies: int = 1,
    rows: int = 512,
) -> Tensor:
    """Attacked minus clean, in units of the [-1, 1] space: of each image under each attack, and none.

    The authors take AutoAttack's APGD-CE, at Linf 2, 4 and 8/255 and L2 0.5 and 1; here it is PGD.

    Args:
        classifier: images in [0, 1] -> logits.
        images: (N, channels, height, width) in [0, 1].
        labels: (N,).
        attacks: on the bare classifier.
        generator: of the random starts and of the jitter.
        copies: versions of every image; from the second on it is jittered before the attack.
        rows: images attacked at a time.

    Returns:
        (copies (1 + len(attacks)) N, channels, height, width).
    """
    found = []
    for copy in range(copies):
        clean = images if copy == 0 else jitter(images, generator)
        found.append(torch.zeros_like(clean))
        for attack in attacks:
            parts = zip(clean.split(rows), labels.split(rows), strict=True)
            found.append(2 * torch.cat([attack(classifier, x, y, generator) - x for x, y in parts]))
    return torch.cat(found)


def perturbation_loss(network: Predict, perturbations: Tensor, index: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the noise that a network finds in noised perturbations, over all values.

    Args:
        network: (noised perturbation, level) -> noise.
        perturbations: (batch, channels, height, width), see `find_perturbations`.
        index: (batch,) levels, in 0..999.
        noise: standard normals, shape of the perturbations.
    """
    a = SIGNALS.to(perturbations)[index].view(-1, 1, 1, 1)
    noised = a.sqrt() * perturbations + (1 - a).sqrt() * noise
    return (network(noised, index.to(noised.dtype)) - noise).square().mean()


def fit_perturbation(
    network: Network,
    perturbations: Tensor,
    *,
    steps: int,
    seed: int,
    what: str,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    progress: Progress = silent,
) -> Network:
    """Train a network to find the noise on perturbations, all levels alike; returns the averaged network, see `fit`.

    The authors take Adam at 2e-5 for 3,000 epochs of CIFAR-10.

    Args:
        network: (noised perturbation, level) -> noise.
        perturbations: (M, channels, height, width), see `find_perturbations`.
        steps: of the optimiser.
        seed: of every random draw.
        what: is trained, for `progress` and messages.
        batch_size: perturbations a step, at most M.
        learning_rate: highest one.
        progress: see `Progress`.
    """
    generator = torch.Generator().manual_seed(seed)
    stream = batches(len(perturbations), min(batch_size, len(perturbations)), generator)

    def loss(net: nn.Module) -> Tensor:
        chosen = perturbations[next(stream)]
        index = torch.randint(0, SCHEDULE.levels, (len(chosen),), generator=generator)
        return perturbation_loss(net, chosen, index, torch.randn(chosen.shape, generator=generator))

    return fit(network, loss, steps=steps, learning_rate=learning_rate, what=what, progress=progress)
