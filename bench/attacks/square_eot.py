"""Square Attack on the mean over a defense's noise: a random search that needs scores only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.attacks._journal import resumable
from bench.attacks.base import Attack, Oracle, Trace, check_positive, choose, register
from bench.threat import ThreatModel
from defenses.base import Defended
from defenses.noise import Noise, role_seed

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass
class _Best:
    images: Tensor
    margin: Tensor


@register
@dataclass(frozen=True, kw_only=True)
class SquareEOT(Attack):
    """Square Attack (Andriushchenko et al., ECCV 2020, Algorithms 1 to 3), Linf and L2, on EOT-averaged margins.

    One square of the image is changed at random a step and kept if the mean margin grows. The draws are the same at
    every query: with new ones a lucky mean would bar the way. With eot = 1, for deterministic defenses, an image is
    done when it is misclassified. Squares are drawn per image, where the library draws one for the whole batch, and
    reach the last row and column, which the library's never do. In L2 a square has at least three pixels a side: a
    direction finer than that is out of reach.

    Attributes:
        steps: candidates an image, at least 1.
        eot: draws of the mean margin, at least 1.
        p: share of the image that the first squares cover, in (0, 1], halved on the paper's schedule, which is
            stretched from 10,000 steps to `steps`.
    """

    title: ClassVar[str] = "Square+EOT"
    source: ClassVar[str] = "Andriushchenko et al., ECCV 2020, arXiv:1912.00049, Algorithms 1-3"
    gradient_free: ClassVar[bool] = True
    continues: ClassVar[bool] = True

    steps: int = 1000
    eot: int = 20
    p: float = 0.8

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, eot=self.eot)
        if not 0 < self.p <= 1:
            raise ValueError(f"Expected p in (0, 1], got {self.p}.")

    def looks(self) -> int:
        """One: every query asks the same draws."""
        return 1

    def perturb(
        self,
        model: Defended,
        images: Tensor,
        labels: Tensor,
        image_ids: Tensor,
        threat: ThreatModel,
        seed: int,
        *,
        trace: Trace | None = None,
    ) -> Tensor:
        """Adversarial images; see `Attack.perturb`."""
        oracle = Oracle(model, labels, image_ids, seed, eot=self.eot, loss="margin", trace=trace)
        at = _Best(images, torch.full_like(labels, -torch.inf, dtype=images.dtype))
        for step in resumable(range(self.steps), at):
            rows = torch.arange(len(images), device=images.device)
            if self.eot == 1 and not model.batch_coupled:
                rows = (at.margin <= 0).nonzero().squeeze(1)
            if not len(rows):
                continue
            some = oracle.at(rows)
            squares = Squares(Noise(role_seed(oracle.seed, "squares"), some.image_ids), step, images[rows])
            candidate = threat.project(
                self._candidate(squares, images[rows], at.images[rows], threat, step), images[rows]
            )
            answer = some.evaluate(candidate, 0)
            if trace is not None:
                trace.log(self.name, step, some.image_ids, answer.loss, answer.correct, draw=0)
            better = answer.margin > at.margin[rows]
            at.images = at.images.index_copy(0, rows, choose(better, candidate, at.images[rows]))
            at.margin = at.margin.index_copy(0, rows, torch.maximum(answer.margin, at.margin[rows]))
        return at.images

    def _candidate(self, squares: Squares, images: Tensor, best: Tensor, threat: ThreatModel, step: int) -> Tensor:
        height, width = images.shape[2:]
        if step == 0:
            start = squares.stripes() if threat.norm == "Linf" else squares.tiles()
            return images + threat.epsilon * start
        side = round(math.sqrt(self.share(step) * height * width))
        if threat.norm == "Linf":
            inside = squares.window(min(max(side, 1), height, width), 0)
            return torch.where(inside, images + threat.epsilon * squares.sign, best)
        side = min(max(side, 3) // 2 * 2 + 1, height, width)
        return images + squares.moved(best - images, side, threat.epsilon)

    def share(self, step: int) -> float:
        """Share of the image that the squares of this step cover: p halved at 0.1, 0.5, 2, 5, 10, 20, 40, 60 and 80 %
        of the steps."""
        return self.p / 2 ** sum(step * 10_000 / self.steps > at for at in HALVINGS)


class Squares:
    """The random shapes of one step, each a function of the image and the step alone.

    Args:
        noise: one row an image.
        step: its number, < 2**24.
        like: the images, (batch, channels, height, width).
    """

    def __init__(self, noise: Noise, step: int, like: Tensor) -> None:
        self.noise, self.step, self.like = noise, step, like
        self.batch, self.channels, self.height, self.width = like.shape
        numbers = self.uniform(5 + self.channels, stream=0)
        self.places = (numbers[:, 0:2], numbers[:, 2:4])
        self.turned = numbers[:, 4].view(-1, 1, 1, 1) < 0.5
        self.sign = _signs(numbers[:, 5:]).view(-1, self.channels, 1, 1)

    def uniform(self, *shape: int, stream: int) -> Tensor:
        """(batch, *shape) uniforms in [0, 1) of the `stream`, one for each thing drawn in this step."""
        return self.noise.uniform(self.like.new_empty((self.batch, *shape)), step=self.step, stream=stream)

    def stripes(self) -> Tensor:
        """Vertical stripes of one pixel, -1 or 1 in each channel: the start of the Linf attack."""
        return _signs(self.uniform(self.channels, 1, self.width, stream=1))

    def offsets(self, side: int, which: int) -> tuple[Tensor, Tensor]:
        """Each pixel's row and column relative to the corner of the first or second (0, 1) square, placed uniformly
        where it fits: (batch, 1, height, 1), (batch, 1, 1, width)."""
        free = self.like.new_tensor([self.height - side + 1, self.width - side + 1])
        top, left = (self.places[which] * free).floor().long().view(-1, 2, 1, 1, 1).unbind(1)
        rows = torch.arange(self.height, device=self.like.device).view(1, 1, -1, 1)
        columns = torch.arange(self.width, device=self.like.device).view(1, 1, 1, -1)
        return rows - top, columns - left

    def window(self, side: int, which: int) -> Tensor:
        """Booleans (batch, 1, height, width): the pixels of the first or second square of this side."""
        rows, columns = self.offsets(side, which)
        return (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)

    def blob(self, side: int) -> Tensor:
        """Two pyramids of opposite sign over the first square, lying or standing, norm one in it: (batch, 1, height,
        width); outside it, its edges go on."""
        rows, columns = (offset.clamp(0, side - 1) for offset in self.offsets(side, 0))
        shape = pyramids(side).to(self.like)
        return torch.where(self.turned, shape.T[rows, columns], shape[rows, columns])

    def tiles(self) -> Tensor:
        """A grid of five by five blobs of random sign and attitude, norm one: the start of the L2 attack."""
        side = max(min(self.height, self.width) // 5, 1)
        down, across = self.height // side, self.width // side
        shape = pyramids(side).to(self.like)
        turned = _enlarge(self.uniform(1, down, across, stream=2) < 0.5, side)
        grid = torch.where(turned, shape.T.repeat(down, across), shape.repeat(down, across))
        grid = grid * _enlarge(_signs(self.uniform(self.channels, down, across, stream=1)), side)
        top, left = (self.height - down * side) // 2, (self.width - across * side) // 2
        delta = torch.zeros_like(self.like)
        delta[:, :, top : top + down * side, left : left + across * side] = grid
        return delta / length(delta, (1, 2, 3))

    def moved(self, delta: Tensor, side: int, epsilon: float) -> Tensor:
        """`delta` with the second square's mass moved into the first, where a blob of random sign is added (Algorithm
        3). What the ball leaves unused goes there too, shared by the channels; the result has norm epsilon.
        """
        here, there = self.window(side, 0), self.window(side, 1)
        budget = length(delta * (here | there), (2, 3)) ** 2
        budget = budget + (epsilon**2 - length(delta, (1, 2, 3)) ** 2).clamp_min(0) / self.channels
        local = delta * here
        fresh = (self.blob(side) * self.sign + local / length(local, (2, 3))) * here
        fresh = fresh / length(fresh, (2, 3)) * budget.sqrt()
        delta = torch.where(here, fresh, delta * ~there)
        return epsilon * delta / length(delta, (1, 2, 3))


def _signs(uniform: Tensor) -> Tensor:
    return (uniform < 0.5).to(uniform.dtype) * 2 - 1


def _enlarge(grid: Tensor, side: int) -> Tensor:
    return grid.repeat_interleave(side, 2).repeat_interleave(side, 3)


def pyramids(side: int) -> Tensor:
    """(side, side): a pyramid over each half of a square, the second one negative, of norm one."""
    upper = pyramid(side // 2, side) if side > 1 else torch.zeros(0, side)
    shape = torch.cat((upper, -pyramid(side - side // 2, side)))
    return shape / length(shape, (0, 1))


def pyramid(height: int, width: int) -> Tensor:
    """(height, width): concentric rectangles, the k-th from the centre adding 1 / k**2 to all it covers; norm one."""
    rings = max(height // 2, width // 2) + 1
    heights = (1 / torch.arange(1, rings + 1).double() ** 2).flip(0).cumsum(0).flip(0)
    rows = (torch.arange(height) - height // 2).abs().view(-1, 1)
    columns = (torch.arange(width) - width // 2).abs().view(1, -1)
    shape = heights[torch.maximum(rows, columns)].float()
    return shape / length(shape, (0, 1))


def length(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Euclidean length over `dims`, which are kept; never zero."""
    return torch.linalg.vector_norm(x, dim=dims, keepdim=True).clamp_min(1e-12)
