"""What a defense of the user's promises, checked on two images before its first cell runs: a sentence where it lies.

Those that ship are held to more of it by the tests. The validity gates ask again, of more images, after the attack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.run.prepare import Prepared
from defenses.base import Defended, Defense, Purifier
from defenses.noise import Noise, role_seed

IMAGES = 2
ROUNDING = 1e-3  # of the largest value: what another batch shape explains
DIFFERENTIATED = ("exact", "guidance_detached", "adjoint")  # kinds that differentiate the purifier itself


class BrokenContract(ValueError):
    """A defense is not what its class declares.

    Class attributes:
        remedy: what to do, for the command line.
    """

    remedy = "docs/your-own.md says what a defense promises; `bench audit FILE.py` checks its gradients."


def check_contract(prepared: Prepared) -> None:
    """Check a defense of the user's on two images: shape, purity, independence of the batch, randomness, gradient.

    Args:
        prepared: the cell; a defense that ships is passed over.

    Raises:
        BrokenContract: it is not what it declares.
    """
    defense = prepared.cell.defense
    if type(defense).__module__.startswith("defenses."):
        return
    images, _, ids = prepared.batch(slice(0, IMAGES))
    model = prepared.model()
    name = type(defense).__name__
    ask: Callable[..., Tensor] = model.purify if isinstance(defense, Purifier) else model
    noise = Noise(role_seed(prepared.cell.seed, "contract"), ids)
    with torch.no_grad():
        first = _answer(ask, images, noise, name, defense)
        _check_pure(ask, images, noise, first, name)
        if not defense.batch_coupled and len(images) > 1:
            alone = torch.cat([ask(images[i : i + 1], noise[slice(i, i + 1)]) for i in range(len(images))])
            _require(
                _alike(alone, first),
                f"{name} declares batch_coupled = False, but its answer for an image depends on the images beside it. "
                "Treat each image by itself, or declare batch_coupled = True.",
            )
        if not defense.stochastic:
            other = ask(images, Noise(role_seed(prepared.cell.seed, "contract: other draw"), ids))
            _require(
                _alike(other, first),
                f"{name} declares stochastic = False, but two draws of the noise give two answers. Declare "
                "stochastic = "
                "True, so that it is judged on several draws, or use no noise.",
            )
    if model.gradient in DIFFERENTIATED:
        _check_gradient(model, ask, images, noise, first, name)


def _answer(ask: Callable[..., Tensor], images: Tensor, noise: Noise, name: str, defense: Defense) -> Tensor:
    before = images.clone()
    try:
        found: Any = ask(images, noise)
    except (TypeError, AttributeError) as error:
        raise BrokenContract(
            f"Expected {name} to answer two images, found {type(error).__name__}: {error}. `build` must return a "
            "function of (images, noise)."
        ) from error
    purifies = isinstance(defense, Purifier)
    wanted = f"images {tuple(images.shape)}" if purifies else f"logits ({len(images)}, classes)"
    right = isinstance(found, Tensor) and (found.shape == images.shape if purifies else found.ndim == 2)
    _require(right, f"Expected {name} to return {wanted}, found {_words(found)}.")
    _require(
        found.dtype == images.dtype, f"Expected {name} to return {images.dtype}, found {found.dtype}. Convert it back."
    )
    _require(bool(found.isfinite().all()), f"Expected finite numbers from {name}, found NaN or infinity.")
    _require(
        torch.equal(before, images),
        f"{name} changes the images that it is given. Work on a copy: images.clone(), or x + y in place of x += y.",
    )
    return found


def _check_pure(ask: Callable[..., Tensor], images: Tensor, noise: Noise, first: Tensor, name: str) -> None:
    _require(
        _alike(ask(images, noise), first),
        f"{name} is not pure: the same images with the same noise give two answers. Draw from `noise` alone "
        "(noise.normal(like, step=k)), never from torch.rand, numpy or random, and keep nothing between calls.",
    )


def _check_gradient(
    model: Defended, ask: Callable[..., Tensor], images: Tensor, noise: Noise, first: Tensor, name: str
) -> None:
    kind = model.gradient
    lost = (
        f"{name} declares the gradient {kind!r}, but its answer has none (.detach(), .data, numpy, torch.no_grad or "
        "rounding cut it). Make it differentiable, or declare gradients = (): it is then attacked straight through."
    )
    with torch.enable_grad():
        x = images.clone().requires_grad_()
        try:
            found = ask(x, noise)
        except RuntimeError as error:
            if "requires grad" not in str(error):
                raise
            raise BrokenContract(lost) from error
        _require(
            _alike(found.detach(), first),
            f"{name} computes something else while a gradient is recorded than without. Both must be one function.",
        )
        if _alike(
            ask(1 - images, noise).detach(), first
        ):  # it answers other images alike: there is no gradient to lose
            return
        _require(found.requires_grad, lost)
        weights = Noise(role_seed(0, "contract: direction"), noise.image_ids).normal(found, step=0)
        (gradient,) = torch.autograd.grad((found * weights).sum(), x, allow_unused=True)
    _require(gradient is not None and bool(gradient.any()), lost)
    _require(bool(gradient.isfinite().all()), f"The gradient {kind!r} of {name} has NaN or infinity.")


def _alike(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= ROUNDING * b.abs().max().clamp_min(1))


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise BrokenContract(sentence)


def _words(found: Any) -> str:
    if isinstance(found, Tensor):
        return f"a tensor {tuple(found.shape)}"
    return "nothing: write `return`" if found is None else f"a {type(found).__name__}"
