"""Low-frequency attack: learned filters, guided by the clean image, and a bounded distortion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.attacks._adam import Adam
from bench.attacks._journal import resumable
from bench.attacks.base import Attack, Oracle, Trace, check_positive, choose, register
from bench.threat import NORMS, Norm, ThreatModel
from defenses.base import Defended

Distance = Literal["dssim", "rms"]


def patches(x: Tensor, size: int) -> Tensor:
    """(batch, channels, size**2, height * width) neighbourhoods, edges reflected."""
    half = size // 2
    columns = F.unfold(F.pad(x, (half, half, half, half), mode="reflect"), size)
    return columns.unflatten(1, (x.shape[1], size * size))


def colour_kernel(guide: Tensor, size: int, sigma: float) -> Tensor:
    """exp(-d^2 / (2 sigma^2)) of the colour distance d to every neighbour: (batch, size**2, height * width)."""
    difference = patches(guide, size) - guide.flatten(2).unsqueeze(2)
    return torch.exp(-(difference**2).sum(1) / (2 * sigma**2))


def gaussian_logits(size: int, sigma: float) -> Tensor:
    """(size**2,) logits whose softmax is a Gaussian of the given deviation in pixels."""
    axis = torch.arange(size) - size // 2
    return -(axis[:, None] ** 2 + axis[None, :] ** 2).flatten() / (2 * sigma**2)


def filtered(x: Tensor, logits: Tensor, colour: Tensor) -> Tensor:
    """x through one normalised filter a pixel, shared by the channels: softmax weights times the colour kernel."""
    weights = logits.softmax(1) * colour
    weights = weights / weights.sum(1, keepdim=True)
    size = math.isqrt(logits.shape[1])
    return (patches(x, size) * weights.unsqueeze(1)).sum(2).unflatten(2, tuple(x.shape[2:]))


def dssim(a: Tensor, b: Tensor) -> Tensor:
    """(batch,) structural dissimilarity (1 - SSIM) / 2 (Wang et al., IEEE TIP 2004): 11 x 11 Gaussian window of
    deviation 1.5, a smaller one where the image is smaller."""
    channels, side = a.shape[1], min(a.shape[2:])
    size = min(11, side if side % 2 else side - 1)
    window = gaussian_logits(size, 1.5).softmax(0).to(a).view(1, 1, size, size).repeat(channels, 1, 1, 1)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=channels)

    mean_a, mean_b = blur(a), blur(b)
    covariance = blur(a * b) - mean_a * mean_b
    variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))
    return (1 - ssim.flatten(1).mean(1)) / 2


def rms(a: Tensor, b: Tensor) -> Tensor:
    """(batch,) root of the mean squared difference, image units."""
    return ((a - b) ** 2).flatten(1).mean(1).add(1e-12).sqrt()


DISTANCES = {"dssim": dssim, "rms": rms}


@register
@dataclass(frozen=True, kw_only=True)
class LowFrequency(Attack):
    """The low-frequency attack LF (Kassis, Hengartner & Yu, DiffBreak, 2025; after UnMarker), with EOT.

    Adam learns an offset in arctanh space and a chain of filters, one kernel a pixel, normalised, times a colour
    kernel of the clean image; it maximises the mean margin of `eot` draws minus `weight` times the distance to the
    clean image where that reaches the bound. The iterate with the largest margin among those within the bound is
    returned (the clean image where there is none).

    Differs from the authors' code: their distance is LPIPS, which needs the weights of a VGG network; here it is DSSIM
    or RMS and the bound is in its units, so numbers are not comparable with published LF numbers. Gradients are clipped
    to norm 1 per image (theirs: one image a batch), and the best iterate within the bound is kept. Unrestricted: the
    threat model's epsilon plays no part.

    Attributes:
        steps: at least 1.
        eot: draws a step, at least 1.
        kernels: sides of the filters, odd, pixels.
        distance: "dssim", (1 - SSIM) / 2, or "rms" in image units.
        bound: on the distance, > 0.
        weight: of the penalty, > 0.
        filter_rate: Adam's rate for the filters, > 0.
        offset_rate: Adam's rate for the offset, > 0.
        colour_sigma: of the colour kernel, image units, > 0.
        initial_sigma: deviation of the first kernels, pixels, > 0; 0.2 is nearly the identity.
    """

    title: ClassVar[str] = "low-frequency attack"
    source: ClassVar[str] = "Kassis, Hengartner & Yu, DiffBreak, 2025; LPIPS replaced"
    restricted: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    continues: ClassVar[bool] = True

    steps: int = 100
    eot: int = 20
    kernels: tuple[int, ...] = (5, 7, 5, 3)
    distance: Distance = "dssim"
    bound: float = 0.05
    weight: float = 1e8
    filter_rate: float = 0.05
    offset_rate: float = 0.008
    colour_sigma: float = 0.05
    initial_sigma: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", tuple(self.kernels))
        check_positive(steps=self.steps, eot=self.eot, bound=self.bound, weight=self.weight)
        check_positive(filter_rate=self.filter_rate, offset_rate=self.offset_rate)
        check_positive(colour_sigma=self.colour_sigma, initial_sigma=self.initial_sigma)
        if not self.kernels or any(size < 1 or size % 2 == 0 for size in self.kernels):
            raise ValueError(f"Expected one or more odd kernel sizes, got {self.kernels}.")
        if self.distance not in get_args(Distance):
            raise ValueError(f"Expected distance among {', '.join(get_args(Distance))}, got {self.distance!r}.")

    def queries(self) -> tuple[int, int]:
        """(answers without a gradient, answers with one) for each image."""
        return self.eot, self.steps * self.eot

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
        image = _Image(images, self)
        best = _Best(images, torch.full_like(labels, -torch.inf, dtype=images.dtype))
        for step in resumable(range(self.steps + 1), best, image.optimizer):
            x = image.render()
            far = DISTANCES[self.distance](x, images)
            closing = step == self.steps
            answer = (oracle.evaluate if closing else oracle.gradient)(x.detach(), step * self.eot)
            if trace is not None:
                trace.log(self.name, step, image_ids, answer.loss, answer.correct, draw=step * self.eot)
            better = (far.detach() < self.bound) & (answer.margin > best.margin)
            best.image = choose(better, x.detach(), best.image)
            best.margin = torch.where(better, answer.margin, best.margin)
            if answer.gradient is not None:
                penalty = self.weight * (far * (far >= self.bound)).sum()
                image.descend(penalty - (answer.gradient * x).sum())
        return best.image


@dataclass
class _Best:
    """The best iterates within the bound, and their margins."""

    image: Tensor
    margin: Tensor


class _Image:
    """The attack's variables: an offset in arctanh space and one field of kernels for each filter."""

    def __init__(self, images: Tensor, attack: LowFrequency) -> None:
        sizes = [size for size in attack.kernels if size // 2 < min(images.shape[2:])]  # reflection needs the room
        self.colours = [colour_kernel(images, size, attack.colour_sigma) for size in sizes]
        self.base = torch.atanh((2 * images - 1) * 0.999999)
        self.offset = torch.zeros_like(images).requires_grad_()
        self.filters = self._filters(images, sizes, attack.initial_sigma)
        self.optimizer = Adam(([self.offset], attack.offset_rate), (self.filters, attack.filter_rate))

    def _filters(self, images: Tensor, sizes: Sequence[int], sigma: float) -> list[Tensor]:
        shape = len(images), -1, images[0, 0].numel()
        logits = [gaussian_logits(size, sigma).to(images).view(1, -1, 1) for size in sizes]
        return [field.expand(shape).clone().requires_grad_() for field in logits]

    def render(self) -> Tensor:
        """The image that the variables stand for, in [0, 1]."""
        x = (torch.tanh(self.base + self.offset) + 1) / 2
        for logits, colour in zip(self.filters, self.colours, strict=True):
            x = filtered(x, logits, colour)
        return x.clamp(0, 1)

    def descend(self, objective: Tensor) -> None:
        """One Adam step; the gradient's norm is clipped to 1 in each group, image by image."""
        variables = [self.offset, *self.filters]
        gradients = torch.autograd.grad(objective, variables)
        for group, members in ((variables[:1], gradients[:1]), (variables[1:], gradients[1:])):
            if members:
                norm = torch.stack([g.flatten(1).norm(dim=1) for g in members]).norm(dim=0).clamp_min(1)
                for variable, gradient in zip(group, members, strict=True):
                    variable.grad = gradient / norm.view(-1, *[1] * (gradient.ndim - 1))
        self.optimizer.step()
