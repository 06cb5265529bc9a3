"""Gates on the defense as a function, and on the images that an attack returns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.attacks.base import JUDGE_ROWS
from bench.gates.base import Gate, Subject, rms, share
from defenses.defended import purify_retried
from defenses.noise import Noise

FLOAT_SLACK = 1e-3  # of the largest logit: what rounding in another batch shape explains
HALF_LEVEL = 0.5 / 255
COPIES = 20


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
    """An adversarial image alone, in its batch, beside copies of itself, and among as many rows as the judge asks.

    Cost: four images alone, twenty copies of two, and one pass of the judge's size.
    """
    name, model = "batch_independence", subject.model
    if model.batch_coupled:
        return Gate(name, None, None, "The defense is declared batch-coupled; its batches stay whole.")
    x, noise = subject.adversarial, subject.noise()
    few = range(min(4, len(x)))
    alone = torch.cat([model(x[i : i + 1], noise[slice(i, i + 1)]) for i in few])
    many = torch.arange(max(len(x), min(subject.evidence.rows, JUDGE_ROWS)), device=x.device) % len(x)
    copies = [torch.full((COPIES,), i, device=x.device) for i in few[:2]]
    settings = {
        f"in a batch of {len(x)}": model(x, noise)[: len(alone)],
        f"in a batch of {len(many)} rows, as the judge's": model(x[many], noise[many])[: len(alone)],
        f"beside {COPIES - 1} copies of itself": torch.cat([model(x[rows], noise[rows])[:1] for rows in copies]),
    }
    largest = alone.abs().max().clamp_min(1)
    found = {words: float((alone[: len(got)] - got).abs().max() / largest) for words, got in settings.items()}
    worst = max(found, key=lambda words: found[words])
    if found[worst] <= FLOAT_SLACK:
        return Gate(name, True, found[worst], "An image's answer does not depend on its batch-mates.")
    words = f"Logits of an adversarial image alone and {worst} differ by {found[worst]:.1%}: declare it batch_coupled."
    return Gate(name, False, found[worst], words)


@torch.no_grad()
def not_identity(subject: Subject) -> Gate:
    """The distance from a purifier's input to its output, against half an 8-bit level."""
    noise = _Spy(subject.noise().seed, subject.image_ids)
    purified = purify_retried(subject.model, subject.images, noise)
    if torch.equal(purified, subject.images) and not noise.drawn:
        return Gate("not_identity", None, 0.0, "Nothing is purified: the images come back as they are, without a draw.")
    value = rms(purified - subject.images)
    passed = value > HALF_LEVEL
    words = f"It draws noise {len(noise.drawn)} times and moves images by {value:.3g} (RMS)."
    if not passed:
        words += " That is less than half an 8-bit level: the purifier returns its input."
    return Gate("not_identity", passed, value, words)


def inside_ball(subject: Subject) -> Gate:
    """Adversarial images rounded to 8 bits stay in the ball and fool the defense as often, not less and not more.

    Cost: the judging draws once more.
    """
    rounded = (subject.adversarial * 255).round() / 255
    difference, low, high = subject.lower(subject.judged(rounded))
    excess = 0.0
    if subject.attack.restricted:
        slack = HALF_LEVEL * subject.threat.across(subject.images)
        allowed = subject.threat.epsilon * (1 + 1e-5) + slack + 1e-6
        excess = share(subject.threat.distance(rounded, subject.images) > allowed)
    if excess:
        words = f"{excess:.0%} of the images leave the ball by more than rounding to 8 bits explains."
    elif high < 0:
        words = f"Rounding to 8 bits undoes the attack: accuracy rises by {-high:.1%} or more."
    elif low > 0:
        words = f"Rounding to 8 bits breaks {difference:.1%} more: the defense works off the 8-bit grid alone."
    else:
        words = f"Rounded to 8 bits, the images stay in the ball and fool the defense as often ({subject.sees})."
    return Gate("inside_ball", not excess and low <= 0 <= high, excess or difference, words)


@torch.no_grad()
def draws_agree(subject: Subject) -> Gate:
    """A defense that is declared deterministic gives one answer, whatever the draw. Cost: two answers an image."""
    name = "draws_agree"
    if subject.evidence.stochastic:
        return Gate(name, None, None, "The defense is declared stochastic.")
    x = subject.start()
    first, other = (subject.model(x, subject.noise(role)) for role in ("look", "another look"))
    value = float((first - other).abs().max() / first.abs().max().clamp_min(1))
    if value <= FLOAT_SLACK:
        return Gate(name, True, value, "Two draws give the same answer, as a deterministic defense must.")
    words = f"Declared deterministic, but the logits of two draws differ by {value:.1%}: declare stochastic = True."
    return Gate(name, False, value, words)


class _Spy(Noise):
    """Noise that remembers what was drawn, of any of its rows."""

    drawn: set[tuple[int, int, str]]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "drawn", set())

    def __getitem__(self, rows: Tensor | slice) -> Noise:
        part = super().__getitem__(rows)
        some = _Spy(part.seed, part.image_ids, part.draws)
        object.__setattr__(some, "drawn", self.drawn)
        return some

    def _draw(self, like: Tensor, step: int, stream: int, *, normal: bool) -> Tensor:
        self.drawn.add((step, stream, f"{normal}"))
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
        self.drawn.add((step, stream, f"{normal}, shared"))
        return super()._draw_shared(shape, step, stream, device, dtype, normal=normal)
