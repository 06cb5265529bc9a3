"""Does the defense answer everyone alike? Who asks, how often and about which picture must not matter."""

from __future__ import annotations

import itertools
import secrets
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from bench.attacks._short import at_most as cut_to
from bench.gates.attackers import STILL
from bench.gates.base import Gate, Subject
from bench.gates.images import LEVELS, is_on_grid, transferred
from bench.statistics import paired_difference, wilson
from defenses.base import Defended
from defenses.noise import Noise

FOREIGN = 3_000_000_000  # ids from here on belong to no picture
OTHER_CALLS = 100
UNSEEN_IMAGES = 8  # other pictures, where the gate must be cheap
FAR = 0.1  # by how much the cell may lie above unseen pictures, beyond both intervals
RARE = 1e-3  # how rarely chance may make the gates' images unlike the cell's others


def robust_above_null(subject: Subject) -> Gate:
    """Attacked images must not be answered clearly better than clean ones: from the cell's records, at no cost."""
    name, records = "robust_above_null", subject.evidence.records
    if not records or subject.is_still:
        return Gate(name, None, None, STILL if subject.is_still else "There are no records of the cell.")
    draws = np.array([r.draws for r in records])
    robust, clean = (np.array([getattr(r, f"{kind}_correct") for r in records]) for kind in ("robust", "clean"))
    difference, low, _ = paired_difference(robust, draws, clean, draws)
    how = f"{abs(difference):.1%} {'more' if difference > 0 else 'less'} often than clean ones"
    words = f"Attacked images are answered right {how}"
    if low > 0:
        return Gate(name, False, difference, f"{words}: the defense knows them, or the attack helps it.")
    return Gate(name, True, difference, f"{words}.")


def agrees_with_cell(subject: Subject) -> Gate:
    """The cell's stored votes against every attack of the gates on the same images; those images against the others.

    Red where an attack of the gates leaves clearly less than what is stored (95 % over all of them together), or where
    chance hardly explains how far the gates' images are from the cell's others. Asked last, it costs the cell's attack.
    """
    name = "agrees_with_cell"
    if subject.stored is None:
        return Gate(name, None, None, "There are no records of the cell.")
    right, draws = subject.stored
    own_words = "its own attack, run again," if subject.left is None else "its own images, judged again,"
    asked = [(own_words, subject.correct), *subject.asked]
    found = [(words, subject.paired((right, draws), other, 1 - 0.05 / len(asked))) for words, other in asked]
    words, (difference, low, _) = max(found, key=lambda entry: entry[1][1])
    own = float((right / draws).mean())
    if low > 0:
        text = f"The cell stored {own:.1%} on the gates' images; {words} leaves {own - difference:.1%}"
        return Gate(name, False, difference, f"{text}: the defense treats the cell's judge in another way.")
    apart, chance = _apart(subject)
    if chance < RARE:
        text = f"The cell's {len(right)} images that gates look at are {apart:+.1%} from its others"
        return Gate(name, False, apart, f"{text}, which chance explains with p = {chance:.1g}.")
    return Gate(
        name, True, difference, f"No attack of {len(asked)} leaves less than the stored {own:.1%}; {subject.sees}."
    )


def _apart(subject: Subject) -> tuple[float, float]:
    """Robust accuracy of the gates' images minus that of the cell's others, and a permutation's p-value."""
    from scipy.stats import permutation_test

    mine = set(subject.image_ids.tolist())
    rates = {True: [], False: []}  # type: dict[bool, list[float]]
    for record in subject.evidence.records:
        rates[record.index in mine].append(record.robust_correct / record.draws)
    if len(rates[False]) < 2 or len(rates[True]) < 2:
        return 0.0, 1.0

    def gap(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(a.mean(axis) - b.mean(axis))

    test = permutation_test(
        (np.array(rates[True]), np.array(rates[False])),
        gap,
        vectorized=True,
        n_resamples=9999,
        rng=np.random.default_rng(0),
    )
    return float(test.statistic), float(test.pvalue)


@torch.no_grad()
def outsider(subject: Subject) -> Gate:
    """The same adversarial images, asked by a stranger.

    A new instance, a seed that nobody knows, foreign ids, one image a call, in another order, no clean image before.
    The images are a margin transfer's; where the cell's attack has been run for another gate, its images too.
    Cost: two answers an image and kind of image, one by one (one of a deterministic defense, and where `ALWAYS` asks).
    """
    name = "outsider"
    if subject.is_still or not subject.attack.restricted:
        return Gate(name, None, None, STILL if subject.is_still else "The attack is not restricted to the ball.")
    if subject.evidence.unknown is not None:
        return Gate(name, None, None, "The noise is known by the ids of the images: a stranger's have other draws.")
    kinds = {"margin-loss transfer": transferred(subject)}
    if "adversarial" in vars(subject):
        kinds["the cell's attack"] = subject.adversarial
    reasons, worst = [], 0.0
    for words, x in kinds.items():
        known = subject.judged(x)
        counts = (known.sum(0).cpu().numpy(), np.array(len(known)))
        for _ in range(2):  # a second stranger where the first differs: of a hundred honest cells, chance marks one
            difference, low, high = subject.paired(counts, asked_by_stranger(subject, x), 1 - 0.01 / len(kinds))
            if low <= 0 <= high:
                break
        else:
            less = "less" if difference > 0 else "more"
            reasons.append(
                f"a stranger's {words} is answered right {abs(difference):.1%} {less} often than the judge's"
            )
        worst = max(worst, difference, key=abs)
    if reasons:
        text = "; ".join(reasons)
        return Gate(name, False, worst, f"{text[0].upper()}{text[1:]}: the defense knows who asks (ids, seed, batch).")
    return Gate(name, True, worst, f"A stranger gets the same answers ({worst:+.1%}); {subject.sees}.")


@torch.no_grad()
def asked_by_stranger(subject: Subject, x: Tensor) -> Tensor:
    """(draws, batch) correctness of a new instance, image by image; whole batches of a coupled defense, shuffled."""
    model = _fresh(subject)
    ask = torch.no_grad()(model.__call__)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(subject.seed % 2**63))
    draws = max(1, subject.draws // 4)
    correct = torch.zeros((draws, len(x)), dtype=torch.bool)
    parts = [order] if model.batch_coupled else [order[i : i + 1] for i in range(len(order))]
    with ThreadPoolExecutor(1) as alone:  # a thread's stack shows the defense no clean image, and no caller
        for draw, rows in itertools.product(range(draws), parts):
            here = rows.to(x.device)
            ids = FOREIGN + torch.randint(0, 10**9, (len(rows),), generator=torch.Generator().manual_seed(int(rows[0])))
            noise = Noise(secrets.randbits(63), ids.to(x.device), draw)
            logits = alone.submit(ask, x[here], noise).result()
            correct[draw, rows] = (logits.argmax(1) == subject.labels[here]).cpu()
    return correct


@torch.no_grad()
def remembers(subject: Subject) -> Gate:
    """The same question again after a hundred others, and to a new instance that never saw a clean image.

    Cost: a hundred answers, and three an image.
    """
    name, x, noise = "remembers", subject.adversarial, subject.noise("remember")
    first = subject.model(x, noise)
    if subject.model.batch_coupled:
        others = [subject.noise(f"other {k}") for k in range(2)]
        for other in others:
            subject.model(subject.images, other)
    else:
        for k in range(cut_to(OTHER_CALLS)):
            row = slice(k % len(x), k % len(x) + 1)
            subject.model(subject.images[row], subject.noise(f"other {k}")[row])
    answers = {"after other questions": subject.model(x, noise), "from a new instance": _fresh(subject)(x, noise)}
    largest = first.abs().max().clamp_min(1)
    found = {words: float((first - answer).abs().max() / largest) for words, answer in answers.items()}
    worst = max(found, key=lambda words: found[words])
    if found[worst] <= 1e-3:
        return Gate(name, True, found[worst], "Asked again, the defense answers the same.")
    words = f"The same question {worst} gets logits that differ by {found[worst]:.1%}: the defense has a memory."
    return Gate(name, False, found[worst], words)


def unseen(subject: Subject) -> Gate:
    """The cell's attack on pictures that no data set holds, under foreign ids, before anyone showed them clean.

    They are pictures that are not the cell's, with a little noise: a defense may know the training pictures too.
    Red where the cell lies far above them. Cost: the attack once more.
    """
    name, source = "unseen", subject.evidence.unseen
    if subject.is_still or not subject.evidence.records or source is None:
        return Gate(name, None, None, "There are no other pictures, no records, or no attack.")
    if subject.cheap and subject.model.batch_coupled:
        return Gate(name, None, None, "Left out, as it would cost the attack on a whole batch.")
    pictures = source(min(UNSEEN_IMAGES, len(subject.images)) if subject.cheap else len(subject.images))
    if pictures is None:
        return Gate(name, None, None, "There are no pictures beside the cell's own.")
    images, labels = (part.to(subject.images.device) for part in pictures)
    images = nobodys(images, subject)
    other = subject.on(images, labels, FOREIGN + torch.arange(len(images), device=images.device))
    there = float(other.correct.double().mean())
    here = float(np.mean([r.robust_correct / r.draws for r in subject.evidence.records]))
    cells, gates = len(subject.evidence.records), len(images)
    far = wilson(here * cells, cells)[0] - wilson(there * gates, gates)[1]
    words = f"{here:.1%} on the cell's {cells} pictures, {there:.1%} on {gates} new ones under the same attack"
    if far > FAR:
        return Gate(name, False, here - there, f"{words}: the defense knows the cell's pictures.")
    return Gate(name, True, here - there, f"{words}.")


def nobodys(images: Tensor, subject: Subject) -> Tensor:
    """The pictures with noise of up to two thirds of the ball on their own levels: a memory of any split has no such.

    On digits an adversarially trained classifier loses five points by it.
    """
    levels = next((n for n in LEVELS if is_on_grid(images, n)), LEVELS[-1])
    most = max(1, round(2 / 3 * subject.threat.epsilon / subject.threat.across(images) * levels))
    generator = torch.Generator().manual_seed(subject.seed % 2**63)
    steps = torch.randint(-most, most + 1, images.shape, generator=generator).to(images)
    return (images + steps / levels).clamp(0, 1)


def _fresh(subject: Subject) -> Defended:
    return (subject.evidence.fresh or subject.build)(subject.threat.gradient)
