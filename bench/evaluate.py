"""The judge: attack, project, then score on fresh draws that the attack never used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bench.attacks.base import JUDGE_ROWS, UNSEEN, Attack, Oracle, Trace
from bench.records import ImageRecord
from bench.threat import ThreatModel, check_images
from defenses.base import Defended
from defenses.known_noise import know_noise
from defenses.noise import Noise, role_seed
from defenses.precision import arithmetic

LOOKS = 16  # draws of the clean image asked for at once
ROUNDING = 1e-3  # relative difference of logits that rounding explains


@arithmetic()
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
    keep: Callable[[Tensor], None] | None = None,
) -> list[ImageRecord]:
    """One record an image: how a defense answers it clean, attacked, and under the null attack.

    Args:
        model: the defended classifier; of one that is attacked in low precision, or compiled (`AttackedDefense`), the
            judge sees the eager float32 answers.
        attack: makes the adversarial images; it gets copies of what it is given.
        images: (batch, channels, height, width) in [0, 1].
        labels: (batch,) integers.
        image_ids: (batch,) integers, places in the data set.
        threat: the ball and the kind of gradient; where it says that the noise is known, attack and judge use the same
            recorded draw of each image, and the judge asks once.
        draws: judging draws an image.
        seed: every draw follows from it, from its role and from the image's id.
        stochastic: whether two answers for one image may differ.
        trace: receives what the attack reports.
        keep: is given the adversarial images, (batch, channels, height, width).

    Raises:
        ValueError: images leave [0, 1], an attack leaves its ball, or logits or gradients are not finite.
    """
    check_images(images, image_ids)
    trace = trace or Trace()
    if threat.noise == "known":
        model, draws, stochastic = know_noise(model, seed), 1, False
    given = (images.clone(), labels.clone(), image_ids.clone())  # an attack may write into what it is given
    trace.sees = model.as_judged
    with arithmetic(model.attack_precision):
        found = attack.perturb(model, *given, threat, seed, trace=trace)
    adversarial = _check_returned(found, images, attack)
    if attack.restricted:
        adversarial = threat.project(adversarial, images)
    threat.check(adversarial, images, restricted=attack.restricted)
    if keep is not None:
        keep(adversarial.clone())

    def answers(shown: Tensor, role: str, count: int = draws) -> Tensor:
        judge = Oracle(model, labels, image_ids, seed, eot=count, role=f"judge:{role}", rows=JUDGE_ROWS)
        return judge.evaluate(shown, 0).predictions

    if model.gradient in UNSEEN:
        trace.looks.clear()
        trace.survived.clear()
    robust, clean = answers(adversarial, "robust"), answers(images, "clean")  # no clean image is shown before
    if not stochastic:
        check_deterministic(model, adversarial, image_ids, seed)
    pictures = round_to_8_bits(adversarial)  # the same draws: what differs is due to the rounding
    rounded = robust if torch.equal(pictures, adversarial) else answers(pictures, "robust")
    null = answers(images, "null") if stochastic else clean
    if stochastic:
        oracle = Oracle(model, labels, image_ids, seed, role="judge:looks", rows=JUDGE_ROWS)
        lucky = price_looks(oracle, images, trace.looks)
    else:
        lucky = {image: bool(right) for image, right in zip(image_ids.tolist(), null[0] == labels, strict=True)}
    distance = threat.distance(adversarial, images)
    return [
        ImageRecord(
            index=image,
            label=int(labels[i]),
            clean_votes=_votes(clean[:, i]),
            robust_votes=_votes(robust[:, i]),
            null_votes=_votes(null[:, i]),
            distance=float(distance[i]),
            rounded_votes=_votes(rounded[:, i]),
            broken_by=trace.broken_by.get(image),
            first_success=trace.survived.get(image),
            null_first_success=lucky[image] if image in trace.looks else None,
        )
        for i, image in enumerate(image_ids.tolist())
    ]


def price_looks(oracle: Oracle, images: Tensor, looks: Mapping[int, int]) -> dict[int, bool]:
    """Whether a clean image is right on as many draws as an attack looked at: what the looks alone break.

    No more of an image's draws are asked for once one is wrong, unless its batch-mates need them.

    Args:
        oracle: of the judge's draws for looks.
        images: (batch, channels, height, width) in [0, 1].
        looks: image id -> how many; an image that is missing had none.

    Returns:
        Image id -> whether all were right.
    """
    ids = oracle.image_ids.tolist()
    left = {row: looks[image] for row, image in enumerate(ids) if image in looks}
    right = dict.fromkeys(ids, True)
    first = 0
    while left:
        rows = torch.tensor(list(range(len(ids))) if oracle.model.batch_coupled else list(left), device=images.device)
        some = oracle.at(rows)
        some.eot = min(LOOKS, max(left.values()) - first)
        correct = dict(zip(rows.tolist(), some.evaluate(images[rows], first).correct.T.cpu(), strict=True))
        for row, count in list(left.items()):
            right[ids[row]] = bool(correct[row][: count - first].all())
            if not right[ids[row]] or count <= first + some.eot:
                del left[row]
        first += some.eot
    return right


def round_to_8_bits(images: Tensor) -> Tensor:
    """The images as a picture file with 8 bits a channel holds them; it may lie 1/510 outside of their ball."""
    return (images * 255).round().clamp(0, 255) / 255


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
