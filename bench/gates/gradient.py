"""Gates on the attacker's gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.gates.base import Gate, Subject, share
from defenses.base import Gradient

DERIVATIVES: tuple[Gradient, ...] = (
    "exact",
    "guidance_detached",
    "adjoint",
)  # claim to be the defense's own derivative
DIFFERENCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)  # L2 lengths of finite differences, image units
AGREE = 0.1  # relative error at which a slope and its finite difference agree
ENOUGH = 0.9  # share of images that must pass
NOT_USED = "The attack asks for no gradient."


def gradient_audit(subject: Subject) -> Gate:
    """The gradient against central finite differences with the same noise.

    Along itself, and between itself and a random direction. A slope is confirmed where two of the step lengths agree
    with it; a batch of a coupled defense moves as one.
    """
    name, kind = "gradient_audit", subject.threat.gradient
    if subject.attack.gradient_free:
        return Gate(name, None, None, NOT_USED)
    gradient = _gradient(subject, subject.images)
    along, random = _unit(gradient), _unit(subject.noise("audit").normal(subject.images, step=0))
    errors = torch.maximum(*(_slope_error(subject, gradient, _unit(d)) for d in (along, along + random)))
    value, middle = share(errors <= AGREE), float(errors.median())
    what = f"{value:.0%} of {len(errors)} {'batches' if subject.model.batch_coupled else 'images'}"
    words = f"finite differences agree for {what}, median error {middle:.1%}"
    if kind not in DERIVATIVES:
        return Gate(name, None, value, f"{kind} is not the derivative of the defense; {words}.")
    if value >= ENOUGH:
        return Gate(name, True, value, f"Confirmed: {words}.")
    return Gate(name, False, value, f"Declared {kind!r}, but not confirmed: {words}.")


def gradient_nonzero(subject: Subject) -> Gate:
    """NaN, infinite or zero gradients of the attack's loss at the clean images, or at pixels of 0 and 1 alone."""
    name = "gradient_nonzero"
    if subject.attack.gradient_free:
        return Gate(name, None, None, NOT_USED)
    oracle = subject.oracle(min(subject.eot, 4), subject.loss)  # raises where not finite
    value = share(_given(oracle.gradient(subject.images, 0).gradient).flatten(1).abs().amax(1) <= 1e-12)
    words = f"{value:.0%} of the images have a gradient of zero"
    if value > 1 - ENOUGH:
        return Gate(name, False, value, f"{words}: the loss is saturated or masked.")
    ends = subject.noise("ends").uniform(subject.images, step=0) < 0.5
    moved = torch.where(ends, subject.images.round(), subject.images)  # as an attack leaves them
    zero = _given(oracle.gradient(moved, 0).gradient) == 0
    if share(zero[ends]) > ENOUGH > 2 * share(zero[~ends & (moved > 0) & (moved < 1)]):
        held = "pixels at 0 and 1 have none: a clip holds them fast, see defenses.diffusion.clip"
        return Gate(name, False, share(zero[ends]), f"{words}, but {held}.")
    return Gate(name, True, value, f"{words}.")


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
    with torch.enable_grad():
        x = images.clone().requires_grad_()
        logits = straight(x, subject.noise())
        (around,) = torch.autograd.grad(logits.gather(1, subject.labels[:, None]).sum(), x)
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
    if subject.attack.gradient_free:
        return Gate(name, None, None, NOT_USED)
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


def _gradient(subject: Subject, images: Tensor) -> Tensor:
    """Gradient of the summed margins at one fixed draw."""
    with torch.enable_grad():
        x = images.clone().requires_grad_()
        total = subject.margins(x).sum()
        if not total.requires_grad:
            raise ValueError(f"the defense is not differentiable under gradient={subject.threat.gradient!r}.")
        return torch.autograd.grad(total, x)[0]


@torch.no_grad()
def _slope_error(subject: Subject, gradient: Tensor, direction: Tensor) -> Tensor:
    """Relative error of the slope along unit directions, the second best over the step lengths; (batch,), or (1,)."""
    errors, together = [], subject.model.batch_coupled
    for h in DIFFERENCES:
        points = [subject.images + sign * h * direction for sign in (1, -1)]
        ahead, behind = (subject.margins(x) for x in points)
        found = (ahead - behind) / (2 * h)
        given = ((points[0] - points[1]) * gradient).flatten(1).sum(1) / (2 * h)  # of the step as float32 took it
        rounding = 1e-6 * (1 + ahead.abs()) / h  # of float32 margins
        if together:
            found, given, rounding = (v.sum(0, keepdim=True) for v in (found, given, rounding))
        size = torch.maximum(found.abs(), given.abs())
        error = ((found - given).abs() - rounding).clamp_min(0) / size.clamp_min(1e-30)
        errors.append(torch.where((rounding <= size / 2) | (size == 0), error, 1.0))  # drowned in rounding: unknown
    return torch.stack(errors).sort(0).values[1]


def _unit(direction: Tensor) -> Tensor:
    norm = direction.flatten(1).norm(dim=1).view(-1, *[1] * (direction.ndim - 1))
    return direction / norm.clamp_min(1e-30)


def _given(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient
