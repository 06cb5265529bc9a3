"""Does a measured robust accuracy agree with a published one, and may the two be compared at all?"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bench.statistics import wilson

Row = Mapping[str, Any]
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
    "autoattack": r"(fixed )?autoattack",
    "pgd_eot": r"(full )?pgd",
    "eotpgd_10": r"pgd ?\+ ?eot",
    "bpda_eot": r"bpda",
    "square_eot": r"square",
    "stadv": r"stadv",
    "diffattack": r"diffattack",
    "diffhammer": r"diffhammer",
    "low_frequency": r"low-frequency",
    "clean": r"no attack",
    "transfer": r".*(on classifier only|\(transfer\)|transfer )",
}
"""Our attack -> how the published column `attack` begins, in small letters."""

MODELS = ("adversarial_training", "diffusion_classifier")  # defenses that are classifiers themselves


def verdict(measured: Row, published: Row) -> Verdict:
    """("agrees" | "disagrees" | "not comparable", the reason in words).

    measured: robust_accuracy, robust_low, robust_high (percent), num_images, norm, epsilon, gradient, attack,
    attack_params, tier, classifier, defense, as in the view `results`. published: robust_acc, n_images, norm, epsilon
    (a number, None where not stated), gradient_access, attack, classifier, as in the table `published`. They agree when
    the measured interval meets the published one: binomial (Wilson) where the number of images is known, else the value
    alone.
    """
    value: Any = published.get("robust_acc")
    if _absent(value):
        return "not comparable", "the source states no robust accuracy"
    differences = list(_differences(measured, published))
    if differences:
        return "not comparable", "; ".join(differences)
    return overlap(measured, float(value), published.get("n_images"))


def verdict_columns(measured: Row, published: Row | None, caveat: str = "") -> dict[str, str]:
    """Columns `verdict` and `verdict_reason`; none where the literature has no number. caveat: what else is known
    against that number (`Defense.published_caveat`)."""
    if not published:
        return {}
    word, reason = verdict(measured, published)
    return {"verdict": word, "verdict_reason": f"{reason}. {caveat}" if caveat else reason}


def overlap(measured: Row, value: float, images: Any) -> Verdict:
    """The verdict of two numbers that may be compared. value: published, percent, on so many images (None: unknown)."""
    low, high = value, value
    theirs = f"the published {value:.1f} (number of images not stated)"
    if not _absent(images):
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


def _differences(measured: Row, published: Row) -> Iterator[str]:
    if measured.get("tier") == "quick":
        yield "quick tier, not a robustness claim"
    ours, theirs = (
        _classifier_title(str(measured.get("classifier"))),
        str(published.get("classifier") or "").partition(" (")[0],
    )
    named = theirs[:1].isupper()  # else "not_stated", "as in source"
    if named and ours is not None and ours != _short_title(theirs) and measured.get("defense") not in MODELS:
        yield f"classifier: measured {ours}, published {theirs}"
    kind, access = measured["gradient"], published.get("gradient_access")
    if GRADIENTS.get(str(access)) != kind:
        yield f"gradient: measured {kind}, published {access or 'not stated'}"
    if _threat(measured) != _threat(published):
        yield f"threat: measured {_threat(measured)}, published {_threat(published)}"
    attack = str(published.get("attack"))
    if not same_attack(measured["attack"], measured.get("attack_params"), attack):
        yield f"attack: measured {measured['attack']}, published {attack}"
    if any(word in attack for word in ("Wor.Rob", "MV.Rob")):
        yield f"metric: measured on single draws, published {attack.rpartition('; ')[2]}"
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


def _threat(row: Row) -> str:
    epsilon: Any = row.get("epsilon")
    size = "of unknown size" if _absent(epsilon) else f"{float(epsilon):.4f}"
    return f"{row.get('norm')} {size}"


def same_attack(name: str, params: Any, published: str) -> bool:
    """Whether our attack is the published one: same family, and the same variant, steps and EOT where they are stated.

    name, params: our registered name and its fields (or their JSON). published: e.g. "PGD+EOT (200 steps, EOT 20)".
    """
    text = published.lower()
    family, _, version = name.partition("_") if name.startswith("autoattack") else (name, "", "")
    fields = json.loads(params) if isinstance(params, str) else dict(params or {})
    if ("on classifier only" in text) != (name == "transfer"):
        return False
    if not re.match(ATTACKS.get(family, re.escape(name)), text):
        return False
    stated = re.search(r"\b(standard|rand)\b", text) if family == "autoattack" else None
    if stated and stated[1] != (version or fields.get("variant", stated[1])):
        return False
    if re.search(r", *\w*(pgd|bpda|autoattack|square)|, one\b.*\bstep\b", text):
        return False  # several attacks in one number, or another approximation of the gradient
    numbers = {"steps": r"(\d+) (?:steps|it)\b|\bpgd-(\d+)", "eot": r"eot (\d+)"}
    for field, pattern in numbers.items():
        if found := re.search(pattern, text):
            number = int(next(filter(None, found.groups())))
            if fields.get(field, number) != number:
                return False
    return True


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
