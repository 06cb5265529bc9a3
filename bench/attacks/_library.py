"""Runs the AutoAttack library, unchanged, on a defense: what `autoattack`, `autoattack_standard` and `_rand` share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from bench.attacks._short import shorten
from bench.attacks.base import NoSuchAttack, Trace
from bench.threat import ThreatModel
from defenses.base import Defended
from defenses.defended import with_gradient_retried
from defenses.noise import Noise, role_seed

Variant = Literal["standard", "rand"]
CLASSES: dict[Variant, tuple[int, str]] = {
    "standard": (10, "its targeted attacks take nine target classes"),
    "rand": (3, "its DLR loss sorts three logits"),
}
"""Fewest classes that each variant works with, and why."""
QUERIES: dict[Variant, tuple[int, int]] = {"standard": (5954, 1910), "rand": (7, 4040)}
"""Answers without and with a gradient for an image that no attack breaks: counted on pyautoattack 0.2.0.

In Linf; L1 has other restarts and targets, and about as many answers.
"""
LOOKS: dict[Variant, int] = {"standard": 5, "rand": 3}
"""The clean image, and the end of each attack."""


class Queries(nn.Module):
    """A defense as the library calls it: model(x) -> logits, each call a new selection draw for every row.

    The library does not say which images a row holds, so rows are numbered: noise belongs to a place in the batch.
    """

    def __init__(self, model: Defended, variant: Variant, seed: int) -> None:
        super().__init__()
        self.model, self.variant, self.seed = model, variant, role_seed(seed, "selection")
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Answer as a classifier would.

        Args:
            x: images (batch, channels, height, width).

        Returns:
            Logits (batch, classes).

        Raises:
            ValueError: the library would go on with something meaningless: too few classes, or logits that are not
                finite.
            NoSuchAttack: the defense gives no gradient where one is asked for.
        """
        logits = self.model(x, Noise(self.seed, torch.arange(len(x)), self.calls))
        self.calls += 1
        least, why = CLASSES[self.variant]
        if logits.shape[1] < least:
            raise ValueError(
                f"AutoAttack {self.variant} needs at least {least} classes ({why}), found {logits.shape[1]}. "
                "Use apgd_eot with loss='margin', which works with two."
            )
        if bad := int((~torch.isfinite(logits)).any(1).sum()):
            raise ValueError(
                f"Expected finite logits, found NaN or infinity for {bad} of {len(x)} images in call {self.calls} of "
                "the AutoAttack library. Run pgd_eot to see which image it is; check the weights and the precision."
            )
        if torch.is_grad_enabled() and x.requires_grad and not logits.requires_grad:
            raise NoSuchAttack(
                f"The defense gives no gradient under gradient={self.model.gradient!r}. "
                "Use square_eot or transfer, or another gradient kind."
            )
        return logits


def run_library(
    variant: Variant,
    model: Defended,
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    threat: ThreatModel,
    seed: int,
    trace: Trace | None,
) -> Tensor:
    """What `AutoAttack(..., seed=seed, version=variant).run_standard_evaluation` returns for this batch.

    The library seeds torch's generator with `seed` before each of its attacks; the generator is put back afterwards.

    Args:
        variant: the library's version.
        model: the defense.
        images: as in `Attack.perturb`.
        labels: as in `Attack.perturb`.
        image_ids: as in `Attack.perturb`.
        threat: as in `Attack.perturb`.
        seed: as in `Attack.perturb`.
        trace: receives the library's warnings, one of ours where it attacks fewer images at a time than are judged
            although the defense answers for batches, and its own verdict on each image as looks.

    Returns:
        Adversarial images, of the shape of `images`.
    """

    def attacked() -> tuple[Tensor, Tensor, int]:
        with library_attack(variant, model, images, threat, seed, trace) as attack:
            found = attack.run_standard_evaluation(images.contiguous(), labels, batch_size=len(images))
            return *found, len(attack.attacks_to_run)

    adversarial, predicted, attacks = with_gradient_retried(model, attacked, images, len(images))
    if trace is not None:
        trace.notes += model.rows_at_once.take_notes()
        looks = 1 + attacks  # one draw of the clean image, one after each attack
        draws = [(variant, look) for look in range(looks)]
        trace.look(image_ids, (predicted == labels).expand(looks, -1), draws)
    return adversarial


@contextmanager
def library_attack(
    variant: Variant, model: Defended, images: Tensor, threat: ThreatModel, seed: int, trace: Trace | None
) -> Iterator[Any]:
    """An instance of the library's AutoAttack on a defense, torch's generators and tracer put back afterwards.

    Its arguments are those of `run_library`; the trace receives the warnings.
    """
    from defenses.compat import import_autoattack

    if threat.noise != "fresh":
        raise ValueError(
            "Expected noise='fresh' for AutoAttack's library, which does not say which images it asks about, so that "
            "their recorded draws are not found. Use apgd_eot or strong."
        )
    library = import_autoattack()
    if variant == "standard" and threat.norm != "Linf":
        _check_tiles(*images.shape[2:])
    queries = Queries(model, variant, seed)
    with _undisturbed(images), _warnings() as warnings:
        attack = library.AutoAttack(
            queries, norm=threat.norm, eps=threat.epsilon, seed=seed, version=variant, device=images.device
        )
        attack.verbose = False
        shorten(attack)
        yield attack
    if model.batch_coupled:
        warnings.append(
            "it attacks the images that are still right in batches of their own, and this defense answers for a batch "
            "as a whole; what it finds may be too weak."
        )
    if trace is not None:
        trace.notes += [f"AutoAttack: {text}" for text in warnings if f"AutoAttack: {text}" not in trace.notes]


def attack_by(attack: Any, name: str, images: Tensor, labels: Tensor) -> Tensor:
    """One attack of the library, prepared as its own loop does.

    Args:
        attack: from `library_attack`.
        name: the library's: "apgd-ce", "apgd-dlr", "apgd-t", "fab-t" or "square".
        images: (batch, channels, height, width) in [0, 1].
        labels: (batch,) integers.

    Returns:
        Its images; of those that its first draw finds wrong, the clean ones.
    """
    part = {"apgd-t": attack.apgd_targeted, "fab-t": attack.fab, "square": attack.square}.get(name, attack.apgd)
    if name.startswith("apgd") and part is attack.apgd:
        part.loss = name.removeprefix("apgd-")
    if part is attack.fab:
        part.targeted, part.n_restarts = True, 1
    queries: Queries = attack.model
    calls = queries.calls

    def attacked() -> Tensor:
        queries.calls, part.seed = calls, attack.get_seed()  # the same draws again, where memory ran out
        with torch.no_grad():
            found: Tensor = part.perturb(images.contiguous(), labels).detach()
        return found

    return with_gradient_retried(queries.model, attacked, images, len(images))


def _check_tiles(height: int, width: int) -> None:
    """Refuse sizes on which the library's Square Attack stops in L2 and L1: its first tiles stick out."""
    side, start = height // 5, (height - height // 5 * 5) // 2
    if side == 1 or (side and all(start + length // side * side <= length for length in (height, width))):
        return
    raise ValueError(
        f"AutoAttack standard cannot tile images of {height} x {width} for its Square Attack in L2 and L1; 8, 28, 32, "
        "64 and 224 pixels a side work. Use apgd_eot and nes_eot, or norm Linf."
    )


def check_variant(variant: str) -> None:
    """Raise ValueError for a variant that is none."""
    if variant not in get_args(Variant):
        raise ValueError(f"Expected variant among {', '.join(get_args(Variant))}, got {variant!r}.")


@contextmanager
def _undisturbed(images: Tensor) -> Iterator[None]:
    """Give back torch's generators, and the tracer that the library's check for dynamic defenses takes away."""
    tracer = sys.gettrace()
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        try:
            yield
        finally:
            sys.settrace(tracer)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """The library's warnings as a list, instead of lines on the terminal."""
    found: list[str] = []
    logger = logging.getLogger("auto-attack")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    passes_on = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = passes_on
