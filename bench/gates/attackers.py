"""Attackers that the cell did not try: each would have to find as little as the cell's own attack."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from bench.attacks._short import at_most as cut_to
from bench.attacks.base import Attack, NoSuchAttack, choose
from bench.attacks.cascade import Cascade
from bench.attacks.nes_eot import NESEOT
from bench.attacks.square_eot import SquareEOT
from bench.gates.base import Gate, Subject, share
from bench.gates.chance import at_least, at_most
from bench.gates.gradient import AGREE, DERIVATIVES, ENOUGH, LENGTHS, ROUGHLY, SURE, audited
from bench.gates.images import LEVELS, climber, is_on_grid, transferred
from bench.gates.strength import compared
from bench.threat import round_towards
from defenses.memory import is_out_of_memory

SATURATED = 1e-4  # probability that is left to all wrong classes
SEARCH = NESEOT(steps=40, samples=8)
MISSED = 0.04  # share of the images that a random search may break and the cell's attack not
SHORT_SEARCH, RANDOM_SEARCH = NESEOT(steps=10, samples=5), SquareEOT(steps=1000, eot=1)
NEAREST = 8  # pictures of other classes that an image is moved to
OTHERS, FEW_OTHERS = 500, 64  # pictures among which they are looked for: small ones, and others
SMALL = 3 * 64 * 64
STILL = "The attack moves no image."


def margin_transfer(subject: Subject) -> Gate:
    """PGD with the margin loss on the cell's own bare classifier, handed over: the defense's head may be made to mask.

    Cost: forty gradients of the classifier and the judging draws.
    """
    name = "margin_transfer"
    if not subject.attack.restricted or subject.is_still:
        return Gate(name, None, None, STILL if subject.is_still else "The attack is not restricted to the ball.")
    return compared(name, subject, transferred(subject), "margin-loss transfer from the bare classifier")


def on_grid(subject: Subject) -> Gate:
    """The margin transfer's images on the levels that the pictures lie on, and on 8 bits.

    A defense can tell an attack by numbers that no picture has; an attacker may keep to the pictures' own. Red where
    such an image leaves clearly less than the cell: rounded towards the clean one, or as far away as the ball allows.
    Cost: the judging draws three times.
    """
    name, epsilon = "on_grid", subject.threat.epsilon
    if not subject.attack.restricted or subject.is_still:
        return Gate(name, None, None, STILL if subject.is_still else "The attack is not restricted to the ball.")
    images, x = subject.images, transferred(subject)
    own = next((n for n in LEVELS if is_on_grid(images, n)), LEVELS[-1])
    ways = {f"rounded to 1/{n}": round_towards(images, x, n) for n in sorted({own, LEVELS[-1]})}
    if subject.threat.norm == "Linf":
        length = max(int(epsilon * own + 1e-6), 1) / own
        ways[f"at the ball's corners, in steps of 1/{own}"] = images + length * (x - images).sign()
    found = []
    for words, moved in ways.items():
        x = subject.threat.project(moved, images)
        with torch.no_grad():
            judged = subject.judged(x)
        words = f"the margin transfer {words}"
        subject.asked.append((words, judged))
        found.append((words, subject.beaten(judged, 1 - 0.05 / len(ways))))
    words, (difference, low, _) = max(found, key=lambda entry: entry[1][1])
    if low > 0:
        text = f"{words[0].upper()}{words[1:]} leaves {difference:.1%} less than the cell's attack"
        return Gate(name, False, difference, f"{text}: the defense, or the attack, depends on numbers off the grid.")
    return Gate(name, True, difference, f"Images on the pictures' own levels find no more; {subject.sees}.")


def saturated_loss(subject: Subject) -> Gate:
    """Where cross-entropy leaves wrong classes no probability, its gradient is rounding: is the margin loss stronger?

    Cost: one answer an image; the attack once more where the loss is saturated.
    """
    name, fields = "saturated_loss", subject.attack.params()
    losses = {m.params().get("loss") for m in _members(subject.attack)}
    if subject.attack.gradient_free or "ce" not in losses or subject.is_still:
        return Gate(name, None, None, "The attack has no cross-entropy.")
    with torch.no_grad():
        probabilities = subject.model(subject.images, subject.noise()).double().softmax(1)
    right = probabilities.gather(1, subject.labels[:, None]).squeeze(1)
    left = 1 - right[probabilities.argmax(1) == subject.labels]
    value = float(left.median()) if len(left) else 1.0
    if value > SATURATED:
        return Gate(name, True, value, f"The wrong classes keep a probability of {value:.2g}: the loss has a gradient.")
    few = subject.part(max(subject.probe, 8))
    steps = cut_to(max(_most(subject.attack, "steps", 20), 10))
    attack = climber(subject.threat, steps, eot=int(fields.get("eot", 1)))
    gate = compared(name, few, few.attacked(attack), "the margin loss")
    words = f"The wrong classes keep a probability of {value:.1g} only, so cross-entropy is nearly flat. {gate.reason}"
    return replace(gate, reason=words)


def step_reaches(subject: Subject) -> Gate:
    """Steps that together cannot cross the ball's radius leave most of it unseen. Costs nothing."""
    name, epsilon = "step_reaches", subject.threat.epsilon
    walks = [m.params() for m in _members(subject.attack) if {"steps", "step_size"} <= set(m.params())]
    if not walks or not epsilon:
        return Gate(name, None, None, "The attack takes no steps of a fixed size.")
    value = max(walk["steps"] * walk["step_size"] for walk in walks) / epsilon
    if value >= 1:
        return Gate(name, True, value, f"All steps together are {value:.2g} times the radius.")
    return Gate(name, False, value, f"All steps together are {value:.2g} times the radius: the attack cannot cross it.")


def undeclared_gradient(subject: Subject) -> Gate:
    """The cell's attack with autograd's gradient of the purifier, where finite differences confirm it, declared or not.

    Where the gate must be cheap, too few images are asked to tell two attacks apart: that there is a gradient which
    the defense does not declare is then the fault.
    """
    name = "undeclared_gradient"
    if subject.threat.gradient in DERIVATIVES or not subject.attack.restricted or subject.is_still:
        return Gate(name, None, None, "The attack has the defense's own gradient, or no ball.")
    if any(kind in subject.model.kinds for kind in DERIVATIVES):
        return Gate(name, None, None, "The defense declares a gradient of its own; see beats_exact.")
    model = copy.copy(subject.model)
    model.gradient = "exact"
    few = subject.part(subject.probe)
    lengths, limit = (LENGTHS[::2], ROUGHLY) if subject.cheap else (LENGTHS, AGREE)
    try:
        confirmed = audited(few, few.start(), model, lengths) <= limit
    except (ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return Gate(name, None, None, f"Autograd gives none: {error}")
    if share(confirmed) < 0.5 or at_most(int(confirmed.sum()), len(confirmed), ENOUGH) < SURE:
        return Gate(name, None, share(confirmed), "Finite differences do not confirm autograd's gradient.")
    if subject.cheap:
        words = "Autograd gives a gradient that finite differences confirm, but the defense declares none"
        return Gate(name, False, share(confirmed), f'{words}: no attack with it was run. Declare "exact".')
    attack = subject.attack
    if attack.gradient_free:
        attack = climber(subject.threat, cut_to(40), eot=min(subject.eot, 4), loss="ce")
    try:
        x = subject.attacked(attack, model=model, threat=replace(subject.threat, gradient="exact"))
    except NoSuchAttack as error:
        return Gate(name, None, None, f"There is no such attack: {error}")
    gate = compared(name, subject, x, "autograd's gradient, which the defense does not declare,")
    if gate.passed:  # what so few images show is no excuse
        reason = f"The defense has a gradient that it does not declare, and the cell's attack had none. {gate.reason}"
        return replace(gate, passed=False, reason=reason)
    return gate


def plateau(subject: Subject) -> Gate:
    """A search without gradients, which crosses plateaus: by differences of answers with fresh draws (see `NESEOT`).

    Where the gate must be cheap it is asked of a defense without a derivative of its own alone. Where nothing is drawn
    either, a random search (see `SquareEOT`) takes its place, which ends with success: what it breaks is broken, so
    that the images that the cell's attack left count, not a difference between two attacks.
    """
    name = "plateau"
    if not subject.attack.restricted or subject.is_still:
        return Gate(name, None, None, STILL if subject.is_still else "The attack is not restricted to the ball.")
    if subject.cheap and any(kind in subject.model.kinds for kind in DERIVATIVES):
        return Gate(name, None, None, "The defense declares a gradient of its own.")
    search = search_for(subject.cheap, subject.evidence.stochastic or subject.threat.norm == "L1")
    queries = search.queries()[0]
    if isinstance(search, SquareEOT):
        return _missed(name, subject, search)
    return compared(name, subject, subject.attacked(search), f"a search without gradients ({queries} queries)")


@torch.no_grad()
def _missed(name: str, subject: Subject, search: SquareEOT) -> Gate:
    other = subject.judged(subject.attacked(search))
    subject.asked.append(("a random search", other))
    left = subject.correct.all(0)
    broken, images = int((left & ~other.all(0)).sum()), len(left)
    enough = next((k for k in range(images + 1) if at_least(k, images, MISSED) < 0.025), images + 1)
    reason = f"A random search ({search.steps} queries) breaks {broken} of the {int(left.sum())} images"
    reason = f"{reason} that the cell's attack leaves of {images}"
    reason += "." if broken >= enough else f"; {enough} would be more than chance."
    return Gate(name, broken < enough, broken / images, reason)


def search_for(cheap: bool, by_differences: bool) -> Attack:
    """The search of `plateau`, no longer than `cut_short` allows.

    Args:
        cheap: whether it must be.
        by_differences: of answers, for defenses that draw, and in L1, where the random search has no squares.
    """
    if cheap and not by_differences:
        return replace(RANDOM_SEARCH, steps=cut_to(RANDOM_SEARCH.steps))
    search = SHORT_SEARCH if cheap else SEARCH
    return replace(search, steps=cut_to(search.steps), samples=cut_to(search.samples))


@torch.no_grad()
def towards_others(subject: Subject) -> Gate:
    """Each image moved as far as the ball allows towards the nearest pictures of other classes; the worst of them.

    A purifier that projects onto images it knows has flat or unhelpful gradients, and its borders lie between images.
    The pictures are not the cell's.
    """
    name, source, threat = "towards_others", subject.evidence.unseen, subject.threat
    if subject.is_still or not subject.attack.restricted or source is None:
        return Gate(name, None, None, "There are no other pictures, or no ball.")
    pictures = source(cut_to(OTHERS if subject.images[0].numel() <= SMALL else FEW_OTHERS))
    if pictures is None:
        return Gate(name, None, None, "There are no pictures beside the cell's own.")
    others, classes = (part.to(subject.images.device) for part in pictures)
    distance = torch.cdist(subject.images.flatten(1), others.flatten(1))
    distance[subject.labels[:, None] == classes] = torch.inf
    nearest = distance.argsort(1)[:, :NEAREST]
    oracle = subject.oracle(1, "margin")
    worst, top = subject.images.clone(), oracle.evaluate(subject.images, 0).margin
    for draw, place in enumerate(nearest.unbind(1), 1):
        x = threat.project(others[place], subject.images)
        margins = oracle.evaluate(x, draw).margin
        worst, top = choose(margins > top, x, worst), torch.maximum(top, margins)
    return compared(name, subject, worst, f"moves towards the nearest {NEAREST} pictures of other classes")


def _members(attack: Attack) -> list[Attack]:
    return attack.made() if isinstance(attack, Cascade) else [attack]


def _most(attack: Attack, field: str, default: int) -> int:
    found: list[Any] = [m.params().get(field) for m in _members(attack)]
    return max((int(value) for value in found if value), default=default)
