"""Does a measured robust accuracy agree with a published one, and may the two be compared at all?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from bench.statistics import wilson

Columns = Mapping[str, Any]
Verdict = tuple[str, str]

GRADIENTS = {
    "exact": "exact",
    "exact (checkpointing)": "exact",
    "exact (segment-wise)": "exact",
    "exact (end to end)": "exact",
    "exact (with guidance gradients)": "exact",
    "white_box": "exact",
    "adjoint": "adjoint",
    "surrogate": "surrogate",
    "bpda": "straight_through",
    "no_purifier_gradient": "straight_through",
    "oblivious": "transfer",
    "black_box": "none",
    "none": "none",
}
"""Published `gradient_access` -> our gradient kind. Those missing (grafted, flawed) have no counterpart."""

ATTACKS = {
    "pgd_eot": ("pgd", "pgd_eot"),
    "eotpgd_10": ("pgd_eot",),
    "square_eot": ("square",),
}
"""Our attack -> the published `attack_name`s that it may be compared with; an attack that is missing: its own name."""

ATTACKERS = {
    "transfer": "the published number is a transfer number: its images were not made against the defense",
    "identity": "the published attack took the purifier for the identity",
    "surrogate": "the published attack differentiated a cheaper copy of the defense",
    "detached": "the published attack held the guidance constant",
    "other": "the published attack differentiated something else than the defense",
}
"""Published `attacker_gradient` -> what a verdict says of it. Those missing (exact, adjoint, none) need no word."""

OTHER_METRICS = ("worst", "vote")
"""Published `metric`s that are no mean over single draws: the worst of k draws, the majority of k draws."""

MODELS = ("adversarial_training", "diffusion_classifier")  # defenses that are classifiers themselves


def verdict(measured: Columns, published: Columns) -> Verdict:
    """Judge whether a measured robust accuracy agrees with a published one.

    They agree when the measured interval meets the published one: binomial (Wilson) where the number of images is
    known, else the value alone. Numbers of different attackers are not compared.

    Args:
        measured: robust_accuracy, robust_low, robust_high (percent), num_images, draws, norm, epsilon, gradient,
            attack, attack_params, tier, classifier, defense, as in the view `results`.
        published: robust_acc (percent), n_images, norm, epsilon (a number, None where not stated), gradient_access,
            attack, attack_*, metric, metric_stated, classifier, attacker_gradient, as in the table `published`.

    Returns:
        "agrees", "disagrees" or "not comparable", and the reason in words, with what the published attack could not
        differentiate.
    """
    word, reason = _judge(measured, published)
    told = ATTACKERS.get(str(published.get("attacker_gradient")))
    return word, f"{reason}; {told}" if told else reason


def _judge(measured: Columns, published: Columns) -> Verdict:
    value: Any = published.get("robust_acc")
    if _is_absent(value):
        return "not comparable", "the source states no robust accuracy"
    differences = list(_find_differences(measured, published))
    if differences:
        return "not comparable", "; ".join(differences)
    return overlap(measured, float(value), published.get("n_images"))


def verdict_columns(measured: Columns, published: Columns | None, caveat: str = "") -> dict[str, str]:
    """Fill the columns `verdict` and `verdict_reason`.

    Args:
        measured: see `verdict`.
        published: see `verdict`; None where the literature has no number.
        caveat: what else is known against that number (`Defense.published_caveat`).

    Returns:
        The two columns; nothing without a published number.
    """
    if not published:
        return {}
    word, reason = verdict(measured, published)
    return {"verdict": word, "verdict_reason": f"{reason}. {caveat}" if caveat else reason}


def overlap(measured: Columns, value: float, images: Any) -> Verdict:
    """Judge two numbers that may be compared.

    Args:
        measured: see `verdict`.
        value: the published robust accuracy, percent.
        images: how many images it was measured on; None where not stated.
    """
    low, high = value, value
    theirs = f"the published {value:.1f} (number of images not stated)"
    if not _is_absent(images):
        low, high = (100 * end for end in wilson(value / 100 * int(images), int(images)))
        theirs = f"the published {value:.1f} [{low:.1f}, {high:.1f}] of {int(images)} images"
    ours = (
        f"{measured['robust_accuracy']:.1f} [{measured['robust_low']:.1f}, {measured['robust_high']:.1f}] "
        f"of {measured['num_images']} images"
    )
    if measured["robust_low"] <= high and low <= measured["robust_high"]:
        return "agrees", f"measured {ours} meets {theirs}"
    side = "above" if measured["robust_low"] > high else "below"
    return "disagrees", f"measured {ours} lies {side} {theirs}"


def _find_differences(measured: Columns, published: Columns) -> Iterator[str]:
    if measured.get("tier") == "quick":
        yield "quick tier, not a robustness claim"
    ours = _classifier_title(str(measured.get("classifier")))
    theirs = str(published.get("classifier") or "").partition(" (")[0]
    named = theirs[:1].isupper()  # else "not_stated", "as in source"
    if named and ours is not None and ours != _short_title(theirs) and measured.get("defense") not in MODELS:
        yield f"classifier: measured {ours}, published {theirs}"
    kind, access = measured["gradient"], published.get("gradient_access")
    if GRADIENTS.get(str(access)) != kind:
        yield f"gradient: measured {kind}, published {access or 'not stated'}"
    if _write_threat(measured) != _write_threat(published):
        yield f"threat: measured {_write_threat(measured)}, published {_write_threat(published)}"
    if not is_same_attack(measured["attack"], measured.get("attack_params"), published):
        yield f"attack: measured {measured['attack']}, published {published.get('attack')}"
    if published.get("metric") in OTHER_METRICS:
        yield f"metric: measured on single draws, published {published['metric_stated']}"
    elif _counts_its_own(str(measured["attack"])) and int(measured.get("draws") or 1) > 1:
        yield "metric: measured on fresh draws, published the attack's own count, for which one wrong look is enough"


def _classifier_title(name: str) -> str | None:
    """Title of a registered classifier; None where it is unknown here, which is then not compared."""
    from defenses.models.classifiers import classifier_info

    try:
        return classifier_info(name).title
    except (LookupError, OSError, ValueError):
        return None


def _short_title(published: str) -> str:
    """A published classifier as our titles write it: "WideResNet-28-10" -> "WRN-28-10"."""
    return published.partition("/")[0].replace("WideResNet", "WRN")


def _counts_its_own(attack: str) -> bool:
    """Whether the literature reports what the attack itself counted, and its images are not all meant to be shown."""
    return attack.startswith("autoattack") or attack == "bpda_eot"


def _write_threat(row: Columns) -> str:
    epsilon: Any = row.get("epsilon")
    size = "of unknown size" if _is_absent(epsilon) else f"{float(epsilon):.4f}"
    return f"{row.get('norm')} {size}"


def is_same_attack(name: str, params: Any, published: Columns) -> bool:
    """Whether our attack is the published one: same name and target; same variant, steps and EOT where they are stated.

    Args:
        name: our registered name.
        params: its fields, or their JSON.
        published: a row of the table `published`, of which the columns `attack_*` are read.
    """
    if published.get("attack_several") == "yes":
        return False
    if (published.get("attack_target") == "classifier only") != (name == "transfer"):
        return False
    family, _, version = name.partition("_") if name.startswith("autoattack") else (name, "", "")
    if name != "transfer" and published.get("attack_name") not in ATTACKS.get(family, (family,)):
        return False
    fields = json.loads(params) if isinstance(params, str) else dict(params or {})
    variant = published.get("attack_variant")
    if variant and variant != (version or fields.get("variant")):
        return False
    stated = {field: published.get(f"attack_{field}") for field in ("steps", "eot")}
    return all(_is_absent(theirs) or fields.get(field, theirs) == theirs for field, theirs in stated.items())


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
