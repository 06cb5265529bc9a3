"""Gates on the attacker's gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.attacks.losses import margin
from bench.gates.base import Gate, Subject, share
from bench.gates.chance import at_least, at_most
from bench.gates.images import transferred
from defenses.base import Defended, Gradient
from defenses.defended import with_gradient_retried

DERIVATIVES: tuple[Gradient, ...] = ("exact", "adjoint")  # claim to be the defense's own derivative
LENGTHS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)  # L2 lengths of finite differences, image units
AGREE = 0.1  # relative error at which a slope and its finite difference agree
ROUGHLY = 0.3  # the same where half the lengths are left out
ENOUGH = 0.9  # share of images that must pass
SURE = 0.05  # a share is too small where chance explains it less often than this
PLACES, CHEAP_PLACES = 3, 2
DIFFERENCES, CHEAP_DIFFERENCES = 36, 20  # answers of an audit at one place, along two directions
TOGETHER = 256  # rows a pass of the finite differences, memory only
NOT_USED = "The attack asks for no gradient."


def gradient_audit(subject: Subject) -> Gate:
    """The gradient against central finite differences with the same noise: where an attack begins, passes and ends.

    At the images, at a random start, and at the attack's images; where `ALWAYS` asks, at a random start and at the
    margin transfer's images.
    Along itself, and between itself and a random direction. A slope is confirmed where two of the step lengths agree
    with it; a batch of a coupled defense moves as one. A gradient of zero is not confirmed. Cost for each image: three
    gradients and 108 answers; where `ALWAYS` asks, two and 40, and of a coupled batch one and 6.
    """
    name, kind = "gradient_audit", subject.threat.gradient
    if subject.attack.gradient_free:
        return Gate(name, None, None, NOT_USED)
    if kind not in DERIVATIVES:
        return Gate(name, None, None, f"{kind} is not the derivative of the defense.")
    cheap, coupled = subject.cheap, subject.model.batch_coupled
    few = subject if coupled else subject.part(subject.probe)  # a part of a batch is another function
    places = {"at a random start in the ball": few.start()}
    if not (cheap and coupled):
        moves = subject.attack.restricted and not subject.is_still
        if moves:
            reached = transferred(subject) if cheap else subject.adversarial
            places["at attacked images"] = reached[: len(few.images)]
        if not (cheap and moves):
            places["at the images"] = few.images
    lengths = LENGTHS if not cheap else LENGTHS[2:7:2] if coupled else LENGTHS[::2]
    found = {place: audited(few, x, few.model, lengths, 1 if cheap and coupled else 2) for place, x in places.items()}
    limit = ROUGHLY if cheap else AGREE
    worst = min(found, key=lambda place: share(found[place] <= limit))
    errors = found[worst]
    value, middle = share(errors <= limit), float(errors.median())
    what = f"{value:.0%} of {len(errors)} {'batches' if subject.model.batch_coupled else 'images'}"
    words = f"finite differences agree for {what}, median error {middle:.1%}"
    if value >= 0.5 and at_most(int((errors <= limit).sum()), len(errors), ENOUGH) >= SURE:
        return Gate(name, True, value, f"Confirmed: {words} ({worst}).")
    return Gate(name, False, value, f"Declared {kind!r}, but not confirmed {worst}: {words}.")


def gradient_nonzero(subject: Subject) -> Gate:
    """NaN, infinite or zero gradients of the attack's loss: at the images, at a random start, at pixels of 0 and 1.

    Cost for each image: three gradients of up to four draws.
    """
    name = "gradient_nonzero"
    if subject.attack.gradient_free:
        return Gate(name, None, None, NOT_USED)
    few = subject.part(subject.probe)
    oracle = few.oracle(min(subject.eot, 4), subject.loss)  # raises where not finite
    for place, x in (("the images", few.images), ("a random start in the ball", few.start())):
        zero = _given(oracle.gradient(x, 0).gradient).flatten(1).abs().amax(1) <= 1e-12
        words = f"{share(zero):.0%} of {len(zero)} images have a gradient of zero at {place}"
        if at_least(int(zero.sum()), len(zero), 1 - ENOUGH) < SURE:
            return Gate(name, False, share(zero), f"{words}: the loss is saturated or masked.")
    ends = few.noise("ends").uniform(few.images, step=0) < 0.5
    moved = torch.where(ends, few.images.round(), few.images)  # as an attack leaves them
    none = _given(oracle.gradient(moved, 0).gradient) == 0
    if share(none[ends]) > ENOUGH > 2 * share(none[~ends & (moved > 0) & (moved < 1)]):
        held = "pixels at 0 and 1 have none: a clip holds them fast, see defenses.diffusion.clip"
        return Gate(name, False, share(none[ends]), f"{words}, but {held}.")
    return Gate(name, True, share(zero), f"{words}, as few at the images.")


def gradient_scale(subject: Subject) -> Gate:
    """What the gradient promises for a step of the ball's size, against what such steps do to the margin.

    Steps: along the gradient, along the straight-through gradient, and four random ones; per image the largest
    promise over the largest change. Far below 1 the gradient vanishes; far above 1 it is shattered.
    """
    name, epsilon = "gradient_scale", subject.threat.epsilon
    if subject.attack.gradient_free or not epsilon:
        return Gate(name, None, None, NOT_USED if epsilon else "The ball is a point.")
    gradient, images = _gradient(subject, subject.images), subject.images
    straight = subject.model.with_gradient("straight_through")
    around = _differentiated(
        straight, images, lambda x: straight(x, subject.noise()).gather(1, subject.labels[:, None]).sum()
    )
    random = [subject.noise("audit").normal(images, step=k) for k in range(1, 5)]
    promised, seen = (torch.zeros(len(images), device=images.device) for _ in range(2))
    with torch.no_grad():
        here = subject.margins(images)
        for direction in (gradient, -around, *random):
            moved = subject.threat.project(images + epsilon * subject.threat.direction(direction), images)
            promised = torch.maximum(promised, ((moved - images) * gradient).flatten(1).sum(1).abs())
            seen = torch.maximum(seen, (subject.margins(moved) - here).abs())
    value = float((promised / seen.clamp_min(1e-6)).median())
    if 0.01 <= value <= 100:
        return Gate(name, True, value, f"A step of epsilon changes the margin as promised, up to a factor {value:.2g}.")
    what = "vanishes beside finite differences" if value < 0.01 else "is shattered"
    return Gate(name, False, value, f"The gradient {what}: it promises {value:.2g} times what a step of epsilon does.")


def eot_signal(subject: Subject) -> Gate:
    """The expected cosine between the attack's EOT gradient and the mean gradient, from eight single draws."""
    name, draws = "eot_signal", 8
    if subject.attack.gradient_free or not hasattr(subject.attack, "eot"):
        return Gate(name, None, None, "The attack does not average draws at a step.")
    oracle = subject.oracle(1, subject.loss)
    gradients = torch.stack([_given(oracle.gradient(subject.images, k).gradient).flatten(1) for k in range(draws)])
    noise = gradients.var(0).sum(1)
    if float(noise.max()) <= 1e-12 * float((gradients**2).sum(2).max()):
        return Gate(name, True, None, "The gradient is the same at every draw.")
    signal = ((gradients.mean(0) ** 2).sum(1) - noise / draws).clamp_min(0)
    value = float((signal / (signal + noise / subject.eot + 1e-30)).sqrt().median())
    words = (
        f"With {subject.eot} draws a step, its gradient has an expected cosine of {value:.2f} with the mean gradient"
    )
    return Gate(name, value >= 0.45, value, f"{words}{'.' if value >= 0.45 else ': raise eot.'}")


def audited(
    subject: Subject, x: Tensor, model: Defended, lengths: Sequence[float] = LENGTHS, directions: int = 2
) -> Tensor:
    """Relative errors of a model's gradient at x, the worst of its directions; (batch,), or (1,) for a coupled batch.

    Args:
        subject: whose labels and noise are used.
        x: the points.
        model: the gradient's.
        lengths: of the differences, at least two.
        directions: 1 is halfway between the gradient and a random direction; 2 adds the gradient itself.

    Raises:
        ValueError: the model gives no gradient.
    """
    gradient = _gradient(subject, x, model)
    along, random = _unit(gradient), _unit(subject.noise("audit").normal(x, step=0))
    ways = (_unit(along + random), along)[:directions]
    errors = torch.stack([_slope_error(subject, x, gradient, way, model, lengths) for way in ways]).amax(0)
    zero = gradient.flatten(1).abs().amax(1) == 0
    return torch.where(zero.all() if model.batch_coupled else zero, 1.0, errors)


def _gradient(subject: Subject, images: Tensor, model: Defended | None = None) -> Tensor:
    """Gradient of the summed margins at one fixed draw."""
    return _differentiated(model or subject.model, images, lambda x: subject.margins(x, model).sum())


def _differentiated(model: Defended, images: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
    """Gradient at the images of a number that follows from a model's answers, fewer at once where memory runs out."""

    def ask() -> Tensor:
        with torch.enable_grad():
            x = images.clone().requires_grad_()
            found = total(x)
            if not found.requires_grad:
                raise ValueError(
                    f"the defense is not differentiable under gradient={model.gradient!r}. Attack it with another "
                    "kind, and leave this one out of its `gradients`."
                )
            return torch.autograd.grad(found, x)[0]

    return with_gradient_retried(model, ask, images, len(images))


@torch.no_grad()
def _slope_error(
    subject: Subject, x: Tensor, gradient: Tensor, direction: Tensor, model: Defended, lengths: Sequence[float]
) -> Tensor:
    """Relative error of the slope along unit directions, the second best over the step lengths; (batch,), or (1,)."""
    errors, together = [], model.batch_coupled
    points = [x + sign * h * direction for h in lengths for sign in (1, -1)]
    answers = _margins(subject, points, model)
    for k, h in enumerate(lengths):
        ahead, behind = answers[2 * k : 2 * k + 2]
        found = (ahead - behind) / (2 * h)
        moved = points[2 * k] - points[2 * k + 1]  # the step as float32 took it
        given = (moved * gradient).flatten(1).sum(1) / (2 * h)
        rounding = 1e-6 * (1 + ahead.abs()) / h  # of float32 margins
        if together:
            found, given, rounding = (v.sum(0, keepdim=True) for v in (found, given, rounding))
        size = torch.maximum(found.abs(), given.abs())
        error = ((found - given).abs() - rounding).clamp_min(0) / size.clamp_min(1e-30)
        errors.append(torch.where((rounding <= size / 2) | (size == 0), error, 1.0))  # drowned in rounding: unknown
    return torch.stack(errors).sort(0).values[1]


def _margins(subject: Subject, points: list[Tensor], model: Defended) -> list[Tensor]:
    """Margins at several points of each image, the same draw for all; in as few passes as the defense allows."""
    if model.batch_coupled:
        return [subject.margins(x, model) for x in points]
    found, size = [], max(1, TOGETHER // len(subject.images))
    for first in range(0, len(points), size):
        some = points[first : first + size]
        rows = torch.arange(len(subject.images), device=subject.images.device).repeat(len(some))
        logits = model(torch.cat(some), subject.noise()[rows])
        found += margin(logits, subject.labels[rows]).split(len(subject.images))
    return found


def _unit(direction: Tensor) -> Tensor:
    norm = direction.flatten(1).norm(dim=1).view(-1, *[1] * (direction.ndim - 1))
    return direction / norm.clamp_min(1e-30)


def _given(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient
