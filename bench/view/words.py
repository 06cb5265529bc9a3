"""A cell in words: what its page says before any table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.epsilon import epsilon_text
from bench.report.frames import doubts_of, gates_failed, has_run, say_rounded
from bench.report.labels import label_of
from bench.report.numbers import absent, interval_text, percent_text

GRADIENTS = {
    "exact": "differentiates the whole defense exactly",
    "guidance_detached": "differentiates the defense with its guidance held constant",
    "adjoint": "differentiates the defense by the adjoint equation",
    "surrogate": "differentiates a cheaper copy of the defense",
    "straight_through": "passes the gradient straight through the purifier, as if it were the identity (BPDA)",
    "transfer": "attacks the bare classifier and transfers the images",
    "none": "uses no gradient",
}
NUMBERS = (
    ("clean", "Clean", "single-draw accuracy on the clean images"),
    ("robust", "Robust", "single-draw accuracy on the adversarial images, on fresh draws: an upper bound"),
    ("null", "Null", "the same protocol with epsilon 0: what the defense loses without an attack"),
    ("vote", "Vote", "accuracy of a majority of at most ten draws"),
    ("worst", "Worst", "right in every one of at most ten draws"),
    ("first_success", "First success", "right at every look that the attack took, and on one judging draw"),
    ("null_first_success", "First success, null", "the same number of looks without an attack"),
)


def describe_cell(cell: Mapping[str, Any]) -> list[str]:
    """Sentences on what was measured, with which result.

    Args:
        cell: a row of `results` with titles and labels, or of `cells` for one without a result.
    """
    defense, attack = label_of(cell, "defense"), label_of(cell, "attack")
    score = "" if absent(cell.get("score")) else f", with the score network {label_of(cell, 'score')}"
    ball = f"{cell['norm']} ball of radius {epsilon_text(cell['epsilon'])}"
    how = GRADIENTS.get(cell["gradient"], f"has the gradient {cell['gradient']}")
    lines = [
        f"Classifier {label_of(cell, 'classifier')} behind the defense {defense}{score}, on {cell['num_images']} "
        f"images of {label_of(cell, 'dataset')}.",
        f"Attack {attack} in the {ball}; the attacker {how}.",
    ]
    if knows_noise(cell):
        lines.append(
            "The attacker knows the noise: attack and judge use one recorded draw of each image, so that the number is "
            "of a fixed function, not to be compared with numbers of fresh draws."
        )
    if has_run(cell):
        ends = [cell.get("robust_low"), cell.get("robust_high")]
        interval = "" if absent(ends[0]) else f", 95 % interval {interval_text(*ends)}"
        clean = percent_text(cell.get("clean_accuracy"))
        lines.append(f"Robust accuracy {percent_text(cell['robust_accuracy'])} %{interval}; clean {clean} %.")
    return lines


def knows_noise(cell: Mapping[str, Any]) -> bool:
    """Whether the attacker knows the noise (DW-box); rows of older databases do not say, and are of fresh draws."""
    return str(cell.get("noise") or "fresh") == "known"


def find_doubts(cell: Mapping[str, Any]) -> list[str]:
    """What stands against the number: the tier, gates, a weak or short attack, other results, rounding, batches."""
    doubts = ["Quick tier: not a robustness claim."] if cell.get("tier") == "quick" else []
    failed = gates_failed(cell)
    doubts += [f"Gate failed: {text}" for text in failed] + [text for text in doubts_of(cell) if text not in failed]
    doubts += say_rounded(cell) if has_run(cell) else []
    doubts += [str(cell[name]) for name in ("batch_note", "error") if not absent(cell.get(name))]
    return doubts


def badge(cell: Mapping[str, Any]) -> str:
    """As a table's mark, in one word: passed, doubt, failed (no number), or nothing where none was asked."""
    if not has_run(cell):
        return "failed" if not absent(cell.get("error")) else "not run"
    if doubts_of(cell):
        return "doubt"
    return "passed" if any(gate.get("passed") for gate in cell.get("gates") or ()) else ""
