"""Gates on the attack: nothing simpler, longer or wider may do clearly better."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bench.attacks._short import at_most
from bench.attacks.base import JUDGE_ROWS, Attack, NoSuchAttack, Oracle, attacks
from bench.gates.base import CHEAP_DRAWS, DRAWS, Gate, Subject, scaled, share
from bench.statistics import paired_difference, wilson
from defenses.base import Gradient

SQUARE = {"steps": 200, "eot": 4}
WIDEST = 64 / 255  # radius at which every classifier is at chance
STEP_FIELDS = ("steps", "apgd_steps")


def beats_noise(subject: Subject) -> Gate:
    """Random noise in the ball leaves the accuracy at least as high as the attack."""
    if not subject.attack.restricted:
        return Gate("beats_noise", None, None, "The attack is not restricted to the ball.")
    uniform = subject.noise("noise").uniform(subject.images, step=0)
    return compared("beats_noise", subject, subject.threat.random_start(subject.images, uniform), "random noise")


def beats_transfer(subject: Subject) -> Gate:
    """The same attack with the bare classifier's gradient."""
    return _other_gradient("beats_transfer", subject, "transfer")


def beats_straight_through(subject: Subject) -> Gate:
    """The same attack with the straight-through gradient (BPDA)."""
    return _other_gradient("beats_straight_through", subject, "straight_through")


def beats_guidance_detached(subject: Subject) -> Gate:
    """The same attack with the guidance held constant: its exact derivative may be too large to lead anywhere."""
    return _other_gradient("beats_guidance_detached", subject, "guidance_detached")


def beats_exact(subject: Subject) -> Gate:
    """The same attack with the exact gradient, where the cell's is another."""
    return _other_gradient("beats_exact", subject, "exact")


def beats_surrogate(subject: Subject) -> Gate:
    """The same attack with a cheaper purifier's gradient."""
    return _other_gradient("beats_surrogate", subject, "surrogate")


def beats_square(subject: Subject) -> Gate:
    """A short Square Attack, which needs no gradient."""
    name = "beats_square"
    if subject.attack.name == "square_eot" or not subject.attack.restricted:
        return Gate(name, None, None, "The attack is Square itself, or not restricted to the ball.")
    if subject.threat.norm == "L1":
        return Gate(name, None, None, "square_eot has no squares for L1; see plateau.")
    steps = at_most(SQUARE["steps"])
    square = attacks.make("square_eot", {"steps": steps, "eot": at_most(min(subject.eot, SQUARE["eot"]))})
    return compared(name, subject, subject.attacked(square), f"Square with {steps} queries")


def known_noise(subject: Subject) -> Gate:
    """An attacker who knows the noise leaves no more than the same images do on fresh draws."""
    name, unknown = "known_noise", subject.evidence.unknown
    if unknown is None:
        return Gate(name, None, None, "The attacker does not know the noise.")
    draws = CHEAP_DRAWS if subject.cheap else DRAWS
    judge = Oracle(
        unknown(subject.threat.gradient),
        subject.labels,
        subject.image_ids,
        subject.seed,
        eot=draws,
        role="judge:gates",
        rows=JUDGE_ROWS,
    )
    with torch.no_grad():
        fresh = judge.evaluate(subject.adversarial, 0).correct
    difference, low, high = subject.beaten(fresh)
    words = (
        f"On {draws} fresh draws the same {len(subject.images)} images leave {share(fresh):.1%}: on the known draw "
        f"{difference:+.1%}, interval {low:+.1%} to {high:+.1%}"
    )
    if low > 0:
        return Gate(name, False, difference, f"{words}: knowing the noise must not help the defense.")
    return Gate(name, True, difference, f"{words}.")


def more_steps(subject: Subject) -> Gate:
    """The attack with twice the steps."""
    return _longer("more_steps", subject, STEP_FIELDS, "twice the steps")


def more_eot(subject: Subject) -> Gate:
    """The attack with twice the draws a step."""
    return _longer("more_eot", subject, ("eot",), "twice the draws a step")


def epsilon_sweep(subject: Subject) -> Gate:
    """Accuracy as the ball grows: never clearly rising, at chance in the end."""
    name, threat = "epsilon_sweep", subject.threat
    if not (subject.attack.restricted and threat.epsilon):
        return Gate(name, None, None, "There is no ball to grow.")
    side = threat.across(subject.images)
    widest = max(min(8 * threat.epsilon, 0.5 * side), WIDEST * side, threat.epsilon)
    found = [subject.correct]
    for epsilon in ((threat.epsilon * widest) ** 0.5, widest):
        attack = scaled(subject.attack, ("step_size",), epsilon / threat.epsilon) or subject.attack
        found.append(subject.judged(subject.attacked(attack, threat=replace(threat, epsilon=epsilon))))
    value, n = share(found[-1]), len(subject.images)
    curve = ", ".join(f"{share(correct):.0%}" for correct in found)
    words = f"Accuracy {curve} as epsilon grows from {threat.epsilon:.3g} to {widest:.3g}"
    if any(_is_rising(a, b) for a, b in zip(found, found[1:], strict=False)):
        return Gate(name, False, value, f"{words}: it rises, so the attack gets lost.")
    if wilson(value * n, n)[0] > 1 / subject.classes:
        return Gate(name, False, value, f"{words}: it stays above chance ({1 / subject.classes:.0%}).")
    return Gate(name, True, value, f"{words}.")


def _is_rising(narrow: Tensor, wide: Tensor) -> bool:
    counts = [c.sum(0).cpu().numpy() for c in (wide, narrow)]
    return paired_difference(counts[0], len(wide), counts[1], len(narrow))[1] > 0


def _other_gradient(name: str, subject: Subject, kind: Gradient) -> Gate:
    if subject.attack.gradient_free or kind in (subject.threat.gradient, *subject.evidence.tried):
        return Gate(name, None, None, f"The attack asks for no gradient, or for {kind} already.")
    try:
        model = subject.build(kind)
    except ValueError as error:
        return Gate(name, None, None, f"There is no such attack: {error}")
    try:
        x = subject.attacked(subject.attack, model=model, threat=replace(subject.threat, gradient=kind))
    except NoSuchAttack as error:
        return Gate(name, None, None, f"There is no such attack: {error}")
    return compared(name, subject, x, f"the same attack with the {kind} gradient")


def _longer(name: str, subject: Subject, fields: tuple[str, ...], words: str) -> Gate:
    longer: Attack | None = scaled(subject.attack, fields, 2)
    if longer is None:
        return Gate(name, None, None, f"The attack has no {' or '.join(fields)}.")
    return compared(name, subject, subject.attacked(longer), f"the attack with {words}")


def compared(name: str, subject: Subject, x: Tensor, words: str) -> Gate:
    """Passes unless accuracy on x is clearly lower (the paired 95 % interval leaves 0) than the cell's.

    Args:
        name: of the gate.
        subject: whose images are compared; the cell's side is what it stored, or its attack run again.
        x: the other attack's images.
        words: what the other attack is.
    """
    with torch.no_grad():
        other = subject.judged(x)
    subject.asked.append((words, other))
    difference, low, high = subject.beaten(other)
    beaten = low > 0
    verb = "beats the attack" if beaten else "does no better"
    reason = f"{words[0].upper()}{words[1:]} {verb}: {-difference:+.1%} accuracy, interval {-high:+.1%} to {-low:+.1%}"
    return Gate(name, not beaten, difference, reason + ("." if beaten else f"; {subject.sees}."))
