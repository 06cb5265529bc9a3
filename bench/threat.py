"""The threat model: what the attacker may change, and which gradient of the defense it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from defenses.base import GRADIENTS, Gradient
from defenses.field_types import check_fields

Norm = Literal["Linf", "L2", "L1"]
NORMS: tuple[Norm, ...] = get_args(Norm)
Knowledge = Literal["fresh", "known"]
SLACK = 1e-3  # of a level: what rounding of float32 puts beside it
TOLERANCE = 1e-5  # relative excess over epsilon that float32 rounding explains
LARGEST: dict[Norm, float] = {"Linf": 1.0, "L2": 1e4, "L1": 1e6}  # radii that no picture's box exceeds
SPARSITY = 0.05  # share of the values that a steepest step in L1 moves


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """A ball around every image, inside the box [0, 1], and the attacker's kind of gradient.

    Attributes:
        norm: "Linf", "L2" or "L1".
        epsilon: radius in image units (8/255 for Linf on CIFAR-10, 12 for L1), >= 0.
        gradient: what the attacker differentiates, see `Defended`.
        noise: "fresh", or "known": attack and judge use the same recorded draw of each image (the deterministic white
            box, DW-box; ADDT, ICLR 2025, arXiv:2404.14309). Its numbers are of a fixed function: none of fresh draws.
    """

    norm: Norm = "Linf"
    epsilon: float
    gradient: Gradient = "exact"
    noise: Knowledge = "fresh"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.norm not in NORMS:
            raise ValueError(f"Expected norm among {', '.join(NORMS)}, got {self.norm!r}.")
        if self.gradient not in GRADIENTS:
            raise ValueError(f"Expected gradient among {', '.join(GRADIENTS)}, got {self.gradient!r}.")
        if self.noise not in get_args(Knowledge):
            raise ValueError(f"Expected noise among {', '.join(get_args(Knowledge))}, got {self.noise!r}.")
        limit = LARGEST[self.norm]
        if not 0 <= self.epsilon <= limit:
            raise ValueError(
                f"Expected epsilon in [0, {limit:g}] in image units, got {self.epsilon}. Write 8/255 as {8 / 255:.6f}."
            )

    def project(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """Nearest images (batch, channels, height, width) in the ball (L2: along the ray), then in [0, 1].

        In L1 the nearest in ball and box at once: the ball first, then the box, would leave some of the radius unused.
        """
        if self.norm == "L1":
            return project_l1(adversarial, images, self.epsilon)
        delta = adversarial - images
        if self.norm == "Linf":
            delta = delta.clamp(-self.epsilon, self.epsilon)
        else:
            norms = delta.flatten(1).norm(dim=1).view(-1, *[1] * (delta.ndim - 1))
            delta = delta * (self.epsilon / norms.clamp_min(1e-12)).clamp_max(1.0)
        return (images + delta).clamp(0, 1)

    def round_to_8_bits(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """The nearest 8-bit pictures in the ball: a level inwards where the nearest level lies outside."""
        inwards, nearest = round_towards(images, adversarial, 255), (adversarial * 255).round() / 255
        if self.norm == "Linf":
            outside = (nearest - images).abs() > self.epsilon * (1 + TOLERANCE) + 1e-7
        else:
            outside = self.distance(nearest, images).view(-1, *[1] * (images.ndim - 1)) > self.epsilon
        return self.project(torch.where(outside, inwards, nearest), images)

    def distance(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """(batch,) distances in this norm, image units."""
        delta = (adversarial - images).flatten(1).double()
        if self.norm == "L1":
            return delta.abs().sum(1)
        return delta.abs().amax(1) if self.norm == "Linf" else delta.norm(dim=1)

    def across(self, images: Tensor) -> float:
        """The norm of an image of ones: how far apart a black image and a white one of this shape are."""
        values = images[0].numel()
        return {"Linf": 1.0, "L2": values**0.5, "L1": float(values)}[self.norm]

    def direction(self, gradient: Tensor) -> Tensor:
        """Steepest ascent of length one: the sign (Linf), or the gradient over its norm (L2); 0 where it is 0.

        In L1 the signs of the largest 5 % of the values, over their number (SLIDE; Tramer & Boneh, NeurIPS 2019): the
        steepest step moves one value alone, which the box soon stops.
        """
        if self.norm == "Linf":
            return gradient.sign()
        if self.norm == "L1":
            return sparse_signs(
                gradient, torch.full_like(gradient.flatten(1)[:, 0], round(SPARSITY * gradient[0].numel()))
            )
        broad = (-1, *[1] * (gradient.ndim - 1))
        largest = gradient.flatten(1).abs().amax(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        scaled = gradient / largest.view(broad)  # a confident classifier's gradient can be 1e-12 small
        return scaled / (scaled.flatten(1).norm(dim=1).view(broad) + 1e-12)

    def random_start(self, images: Tensor, unit: Tensor) -> Tensor:
        """A start in the ball: uniform (Linf) from `unit` in [0, 1), or of norm epsilon (L2) along 2 unit - 1.

        In L1 standard normals, projected (Croce & Hein, ICML 2021): a few values, which take all of the budget.
        """
        if self.norm == "L1":
            tiny = torch.finfo(unit.dtype).eps
            return self.project(images + torch.special.ndtri(unit.clamp(tiny, 1 - tiny)), images)
        delta = 2 * unit - 1
        if self.norm == "L2":
            delta = self.direction(delta)
        return self.project(images + self.epsilon * delta, images)

    def check(self, adversarial: Tensor, images: Tensor, *, restricted: bool = True) -> None:
        """Raise ValueError if an adversarial image left the ball or the box, or is not a number."""
        bad = ~torch.isfinite(adversarial).flatten(1).all(1)
        bad |= (adversarial.flatten(1).amax(1) > 1) | (adversarial.flatten(1).amin(1) < 0)
        if restricted:
            bad |= self.distance(adversarial, images) > self.epsilon * (1 + TOLERANCE) + 1e-6
        if bad.any():
            first = int(bad.nonzero()[0])
            far = float(self.distance(adversarial, images)[first])
            raise ValueError(
                f"Expected adversarial images in [0, 1] within {self.norm} {self.epsilon:.6g}, found {int(bad.sum())} "
                f"outside, the first at batch position {first} (distance {far:.6g}). An attack must project its result."
            )


def project_l1(adversarial: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The nearest images in the L1 ball and in [0, 1] at once (Croce & Hein, ICML 2021, Proposition 2.1).

    A value moves by |delta| - shift, at least 0 and at most the room that the box leaves it. The shift is the smallest
    one, at least 0, for which the moves sum to epsilon or less; the sum is linear between the values of |delta| and of
    |delta| - room, so that sorting them gives it exactly. In float64; the result is rounded towards the image, so that
    rounding does not leave the ball.

    Args:
        adversarial: (batch, ...), any finite values.
        images: the centres, of the same shape, in [0, 1].
        epsilon: radius, image units, >= 0.
    """
    centre = images.flatten(1).double()
    delta = adversarial.flatten(1).double() - centre
    wanted, room = delta.abs(), torch.where(delta > 0, 1 - centre, centre)
    points, order = torch.cat((wanted, wanted - room), 1).sort(1, descending=True)
    free = torch.where(order < wanted.shape[1], 1, -1).cumsum(1)  # values that move, and not yet by all of their room
    sums = torch.zeros_like(points)
    sums[:, 1:] = (free[:, :-1] * (points[:, :-1] - points[:, 1:])).cumsum(1)
    last = torch.searchsorted(sums, sums.new_full((len(sums), 1), epsilon), right=True) - 1
    start, slope, reached = (values.gather(1, last) for values in (points, free, sums))
    shift = (start - (epsilon - reached) / slope.clamp_min(1)).clamp_min(0)
    shift = torch.where(last == points.shape[1] - 1, 0, shift)  # all of it fits
    moves = (wanted - shift).clamp_min(0).minimum(room)
    found = (centre + delta.sign() * moves).to(adversarial.dtype)
    inwards = found.nextafter(images.flatten(1).to(found))
    return torch.where((found.double() - centre).abs() > moves, inwards, found).view_as(images).clamp(0, 1)


def sparse_signs(gradient: Tensor, kept: Tensor) -> Tensor:
    """Signs of the largest values of each gradient over their number: of L1 norm one, 0 where the gradient is 0.

    Args:
        gradient: (batch, ...).
        kept: (batch,) how many values, rounded; at least one is kept, and all that equal the smallest kept one.
    """
    size = gradient.flatten(1).abs()
    rank = kept.round().long().clamp(1, size.shape[1]) - 1
    least = size.sort(1, descending=True).values.gather(1, rank.unsqueeze(1))
    signs = torch.where(size >= least, gradient.flatten(1).sign(), 0)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1)).view_as(gradient)


def round_towards(images: Tensor, x: Tensor, levels: int) -> Tensor:
    """`x` on multiples of 1 / levels, each pixel rounded towards that of `images`; both (batch, ...) in [0, 1]."""
    scaled = x * levels
    return torch.where(x >= images, (scaled + SLACK).floor(), (scaled - SLACK).ceil()) / levels


def check_images(images: Tensor, image_ids: Tensor) -> None:
    """Raise ValueError with the count and the first index where images are not finite or leave [0, 1]."""
    flat = images.flatten(1)
    bad = ~torch.isfinite(flat).all(1) | (flat.amax(1) > 1) | (flat.amin(1) < 0)
    if bad.any():
        first = int(image_ids[int(bad.nonzero()[0])])
        raise ValueError(
            f"Expected images in [0, 1], found {int(bad.sum())} outside or not finite, the first with index {first}, "
            f"values in [{float(images.min()):.3g}, {float(images.max()):.3g}]. Convert with to_image_space."
        )


def check_finite(values: Tensor, image_ids: Tensor, what: str) -> None:
    """Raise ValueError with the count and the first image's index where `values` (batch, ...) are not finite."""
    bad = ~torch.isfinite(values.flatten(1)).all(1)
    if bad.any():
        first = int(image_ids[int(bad.nonzero()[0])])
        raise ValueError(
            f"Expected finite {what}, found NaN or infinity for {int(bad.sum())} images, the first with index {first}. "
            "Check the weights and the precision; an exact gradient can overflow where a guidance scale is large."
        )
