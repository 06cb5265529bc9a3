"""Gates on the defense as a function, and on the images that an attack returns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.gates.base import Gate, Subject, rms, share
from defenses.noise import Noise

FLOAT_SLACK = 1e-3  # of the largest logit: what rounding in another batch shape explains
HALF_LEVEL = 0.5 / 255


@torch.no_grad()
def repeatable(subject: Subject) -> Gate:
    """The same images and the same noise give the same answer: no randomness beside the noise that is passed in."""
    first, again = (subject.model(subject.images, subject.noise()) for _ in range(2))
    value = float((first - again).abs().max() / first.abs().max().clamp_min(1))
    if value <= FLOAT_SLACK:
        return Gate("repeatable", True, value, "The same noise gives the same answer.")
    return Gate(
        "repeatable",
        False,
        value,
        f"The same images with the same noise gave logits that differ by {value:.1%}: the defense draws random numbers "
        "of its own (a global generator?), so no gradient and no judging draw can be replayed.",
    )


@torch.no_grad()
def batch_independence(subject: Subject) -> Gate:
    """An image answered alone and in its batch."""
    if subject.model.batch_coupled:
        return Gate("batch_independence", None, None, "The defense is declared batch-coupled; its batches stay whole.")
    whole, noise = subject.model(subject.images, subject.noise()), subject.noise()
    few = range(min(4, len(whole)))
    alone = torch.cat([subject.model(subject.images[i : i + 1], noise[slice(i, i + 1)]) for i in few])
    value = float((alone - whole[: len(alone)]).abs().max() / whole.abs().max().clamp_min(1))
    passed = value <= FLOAT_SLACK
    words = "An image's answer does not depend on its batch-mates."
    if not passed:
        words = f"Logits of an image alone and in its batch differ by {value:.1%}: declare the defense batch_coupled."
    return Gate("batch_independence", passed, value, words)


@torch.no_grad()
def not_identity(subject: Subject) -> Gate:
    """The distance from a purifier's input to its output, against half an 8-bit level."""
    noise = _Spy(subject.noise().seed, subject.image_ids)
    purified = subject.model.purify(subject.images, noise)
    if torch.equal(purified, subject.images) and not noise.drawn:
        return Gate("not_identity", None, 0.0, "Nothing is purified: the images come back as they are, without a draw.")
    value = rms(purified - subject.images)
    passed = value > HALF_LEVEL
    words = f"It draws noise {len(noise.drawn)} times and moves images by {value:.3g} (RMS)."
    if not passed:
        words += " That is less than half an 8-bit level: the purifier returns its input."
    return Gate("not_identity", passed, value, words)


def inside_ball(subject: Subject) -> Gate:
    """Adversarial images rounded to 8 bits stay in the ball and keep their effect."""
    rounded = (subject.adversarial * 255).round() / 255
    _, low, high = subject.lower(subject.judged(rounded))
    excess = 0.0
    if subject.attack.restricted:
        slack = HALF_LEVEL * (1.0 if subject.threat.norm == "Linf" else subject.images[0].numel() ** 0.5)
        allowed = subject.threat.epsilon * (1 + 1e-5) + slack + 1e-6
        excess = share(subject.threat.distance(rounded, subject.images) > allowed)
    if excess:
        words = f"{excess:.0%} of the images leave the ball by more than rounding to 8 bits explains."
    elif high < 0:
        words = f"Rounding to 8 bits undoes the attack: accuracy rises by {-high:.1%} or more."
    else:
        words = "Rounded to 8 bits, the images stay in the ball and fool the defense as often."
    return Gate("inside_ball", not excess and high >= 0, excess, words)


class _Spy(Noise):
    """Noise that counts its draws."""

    drawn: list[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "drawn", [])

    def _draw(self, like: Tensor, step: int, stream: int, *, normal: bool) -> Tensor:
        self.drawn.append(step)
        return super()._draw(like, step, stream, normal=normal)

    def _draw_shared(
        self,
        shape: Sequence[int],
        step: int,
        stream: int,
        device: torch.device | str,
        dtype: torch.dtype,
        *,
        normal: bool,
    ) -> Tensor:
        self.drawn.append(step)
        return super()._draw_shared(shape, step, stream, device, dtype, normal=normal)
