"""Attacks by hand on the planted defenses: each knows its trick, and shows what the defense is worth.

An attack returns several sets of images. The worst of them for each image counts, chosen on other draws than those that
judge it. The judge is a stranger: a new instance, one image a call, a secret seed, ids of no picture, no clean image
before.
"""

from __future__ import annotations

import copy
import itertools
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.losses import margin
from defenses.noise import Noise

EPSILON = 3 / 16
FOREIGN = 3_500_000_000  # ids from here on belong to no picture
STEPS, RESTARTS = 100, 3


@dataclass
class Victim:
    """What an attacker by hand has in hand.

    Attributes:
        defense: the planted defense.
        classifier: the network behind it.
        score: the score network, or None.
        images: (batch, 1, 8, 8) in [0, 1].
        labels: (batch,) integers.
    """

    defense: Any
    classifier: nn.Module
    score: Any
    images: Tensor
    labels: Tensor

    def ball(self, x: Tensor) -> Tensor:
        """Projected into the ball and into [0, 1]."""
        return (self.images + (x - self.images).clamp(-EPSILON, EPSILON)).clamp(0, 1)

    def start(self, seed: int) -> Tensor:
        """A random place in the ball."""
        unit = torch.rand(self.images.shape, generator=torch.Generator().manual_seed(seed))
        return self.ball(self.images + EPSILON * (2 * unit - 1))

    def ask(self, x: Tensor, draws: int) -> Tensor:
        """(draws, batch) margins that a stranger finds, image by image; positive where the answer is wrong.

        From a thread of its own, whose stack shows the defense no clean image.
        """
        defended = copy.deepcopy(self.defense).defend(self.classifier, self.score, gradient=self.defense.at).eval()
        answer, found = torch.no_grad()(defended.__call__), torch.empty(draws, len(x))
        with ThreadPoolExecutor(1) as alone:
            for draw, row in itertools.product(range(draws), range(len(x))):
                noise = Noise(secrets.randbits(63), torch.tensor([FOREIGN + secrets.randbelow(10**8)]))
                logits = alone.submit(answer, x[row : row + 1], noise).result()
                found[draw, row] = margin(logits, self.labels[row : row + 1])[0]
        return found


Adaptive = Callable[[Victim], list[Tensor]]
Answer = Callable[[Tensor], Tensor]


def ascend(victim: Victim, answer: Answer, *, steps: int = STEPS, restarts: int = RESTARTS, draws: int = 1) -> Tensor:
    """PGD with the margin loss through `answer`, images -> logits; for each image the best of all steps."""
    best, top = victim.images, torch.full((len(victim.images),), -torch.inf)
    for restart in range(restarts):
        x = victim.images if restart == 0 else victim.start(restart)
        for step in range(steps + 1):
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                found = torch.stack([margin(answer(x), victim.labels) for _ in range(draws)]).mean(0)
                (slope,) = torch.autograd.grad(found.sum(), x)
            better = found.detach() > top
            best = torch.where(better.view(-1, 1, 1, 1), x.detach(), best)
            top = torch.where(better, found.detach(), top)
            x = victim.ball(x + (EPSILON / 4 if step < steps // 2 else EPSILON / 16) * slope.sign())
    return best


@torch.no_grad()
def search(victim: Victim, answer: Answer, start: Tensor, *, steps: int = 100, pairs: int = 20) -> Tensor:
    """Differences of answers along wide random directions (NES), from `start`: 2 * pairs queries a step."""
    generator = torch.Generator().manual_seed(7)
    x = best = start
    top = torch.full((len(x),), -torch.inf)
    for _ in range(steps):
        here = margin(answer(x), victim.labels)
        better = here > top
        best, top = torch.where(better.view(-1, 1, 1, 1), x, best), torch.where(better, here, top)
        slope = torch.zeros_like(x)
        for _ in range(pairs):
            way = torch.randn(x.shape, generator=generator)
            ahead, behind = ((x + sign * EPSILON / 2 * way).clamp(0, 1) for sign in (1, -1))
            change = margin(answer(ahead), victim.labels) - margin(answer(behind), victim.labels)
            slope += change.view(-1, 1, 1, 1) * way
        x = victim.ball(x + EPSILON / 4 * slope.sign())
    return best


def without_the_trick(victim: Victim) -> list[Tensor]:
    """A stranger meets the classifier alone: attack that."""
    return [ascend(victim, victim.classifier)]


def through(model: Callable[[Victim], Answer], *, draws: int = 1) -> Adaptive:
    """Attack what `model` makes of the classifier, and the classifier alone.

    Args:
        model: victim -> the computation that is left when the trick is taken away, or its smooth stand-in.
        draws: of a random computation, a step.
    """

    def attack(victim: Victim) -> list[Tensor]:
        return [ascend(victim, model(victim), draws=draws), *without_the_trick(victim)]

    return attack


def on_levels(levels: int) -> Adaptive:
    """Attack the classifier, and hand over images on a grid of levels, beside which the trick looks for no attack."""

    def attack(victim: Victim) -> list[Tensor]:
        low = ((victim.images - EPSILON).clamp(0, 1) * levels - 1e-4).ceil()
        high = ((victim.images + EPSILON).clamp(0, 1) * levels + 1e-4).floor()

        def on_grid(x: Tensor) -> Tensor:
            return (x * levels).round().clamp(low, high) / levels

        found = without_the_trick(victim)[0]
        rounded = ascend(victim, lambda x: victim.classifier(x + (on_grid(x) - x).detach()))
        corners = victim.images + EPSILON * (found - victim.images).sign()
        return [on_grid(x) for x in (found, rounded, corners)]

    return attack


def most_wrong(victim: Victim, answer: Answer, found: list[Tensor]) -> Tensor:
    """Of several sets of images the worst for each."""
    with torch.no_grad():
        margins = torch.stack([margin(answer(x), victim.labels) for x in found])
    return torch.stack(found)[margins.argmax(0), torch.arange(len(victim.images))]


def searched(model: Callable[[Victim], Answer], *starts: Adaptive) -> Adaptive:
    """Search without gradients through `model` from the worst images of other attacks; those images too."""

    def attack(victim: Victim) -> list[Tensor]:
        found = [x for start in (without_the_trick, *starts) for x in start(victim)]
        return [*found, search(victim, model(victim), most_wrong(victim, model(victim), found))]

    return attack


def truth(victim: Victim, *, choose: int = 10, judge: int = 20) -> float:
    """What the attack by hand leaves, in percent.

    Args:
        victim: the defense and the images.
        choose: draws on which the worst image is chosen; one where the defense is deterministic.
        judge: fresh draws that judge it.
    """
    candidates = victim.defense.adaptive(victim)  # no clean image: a memory could keep it
    stochastic = victim.defense.stochastic or victim.defense.kind.startswith("draws")
    choose, judge = (choose, judge) if stochastic else (1, 1)
    best, worst = victim.images, torch.full((len(victim.images),), -torch.inf)
    for x in candidates:
        assert float((x - victim.images).abs().max()) <= EPSILON + 1e-6
        found = victim.ask(x, choose)
        score = (found > 0).double().mean(0) + 1e-3 * found.mean(0).tanh()
        best = torch.where((score > worst).view(-1, 1, 1, 1), x, best)
        worst = torch.maximum(score, worst)
    return 100 * float((victim.ask(best, judge) <= 0).double().mean())
