"""The judge: attack, project, then score on fresh draws that the attack never used."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from bench.attacks.base import JUDGE_ROWS, UNSEEN, Attack, Oracle, Trace
from bench.records import ImageRecord
from bench.threat import ThreatModel, check_images
from defenses.base import Defended
from defenses.noise import Noise, role_seed

ROUNDING = 1e-3  # relative difference of logits that rounding explains


def evaluate(
    model: Defended,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    threat: ThreatModel,
    *,
    draws: int,
    seed: int,
    stochastic: bool = True,
    trace: Trace | None = None,
) -> list[ImageRecord]:
    """One record an image: how a defense answers it clean, attacked, and under the null attack.

    Args:
        model: the defended classifier.
        attack: makes the adversarial images; it gets copies of what it is given.
        images: (batch, channels, height, width) in [0, 1].
        labels: (batch,) integers.
        image_ids: (batch,) integers, places in the data set.
        threat: the ball and the kind of gradient.
        draws: judging draws an image.
        seed: every draw follows from it, from its role and from the image's id.
        stochastic: whether two answers for one image may differ.
        trace: receives what the attack reports.

    Raises:
        ValueError: images leave [0, 1], an attack leaves its ball, or logits or gradients are not finite.
    """
    check_images(images, image_ids)
    trace = trace or Trace()
    given = (images.clone(), labels.clone(), image_ids.clone())  # an attack may write into what it is given
    adversarial = _check_returned(attack.perturb(model, *given, threat, seed, trace=trace), images, attack)
    if attack.restricted:
        adversarial = threat.project(adversarial, images)
    threat.check(adversarial, images, restricted=attack.restricted)

    def answers(shown: Tensor, role: str, count: int = draws) -> Tensor:
        judge = Oracle(model, labels, image_ids, seed, eot=count, role=f"judge:{role}", rows=JUDGE_ROWS)
        return judge.evaluate(shown, 0).predictions

    if model.gradient in UNSEEN:
        trace.looks.clear()
        trace.survived.clear()
    clean, robust = answers(images, "clean"), answers(adversarial, "robust")
    if not stochastic:
        check_deterministic(model, adversarial, image_ids, seed)
    null = answers(images, "null") if stochastic else clean
    looks = max(trace.looks.values(), default=0)
    lucky = answers(images, "looks", looks) == labels if looks and stochastic else null == labels
    distance = threat.distance(adversarial, images)
    return [
        ImageRecord(
            index=image,
            label=int(labels[i]),
            clean_votes=_votes(clean[:, i]),
            robust_votes=_votes(robust[:, i]),
            null_votes=_votes(null[:, i]),
            distance=float(distance[i]),
            broken_by=trace.broken_by.get(image),
            first_success=trace.survived.get(image),
            null_first_success=bool(lucky[: trace.looks[image], i].all()) if image in trace.looks else None,
        )
        for i, image in enumerate(image_ids.tolist())
    ]


def _check_returned(found: object, images: Tensor, attack: Attack) -> Tensor:
    """A copy of what an attack returned. Raises ValueError for what is no images of the shape of `images`."""
    if not isinstance(found, Tensor) or found.shape != images.shape:
        what = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ValueError(
            f"Expected images {tuple(images.shape)} from {type(attack).__name__}.perturb, found {what}. Return the "
            "adversarial images."
        )
    return found.detach().clone()


@torch.no_grad()
def check_deterministic(model: Defended, images: Tensor, image_ids: Tensor, seed: int) -> None:
    """Raise ValueError where a defense that declares `stochastic = False` gives two draws two answers.

    Args:
        model: the defended classifier.
        images: (batch, channels, height, width) in [0, 1].
        image_ids: (batch,) integers.
        seed: of the two draws.
    """
    first, second = (model(images, Noise(role_seed(seed, f"judge:repeat {k}"), image_ids)) for k in (1, 2))
    apart = ((first - second).abs() > ROUNDING * (1 + first.abs())).any(1)
    if apart.any():
        raise ValueError(
            "Expected one answer for one image from a defense with stochastic = False, found two for "
            f"{int(apart.sum())} of {len(images)} images, the first with index {int(image_ids[apart][0])}. Set "
            "stochastic = True, so that it is judged on several draws, or make it a function of the image alone."
        )


def _votes(predictions: Tensor) -> dict[int, int]:
    return dict(Counter(predictions.tolist()))
