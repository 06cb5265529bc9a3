"""The sentences of `bench compare A B`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.report.numbers import name_text
from bench.report.outdone import SAME_DEFENSE
from bench.statistics import is_established

THREAT = ("dataset", "classifier", "attack", "norm", "epsilon", "gradient", "tier")
ATTACKER = ("attack", "attack_params", "attack_version", "attack_precision", "gradient")
BESIDES = ("attack_precision", "noise")  # said where it differs alone


UNALIKE = (
    "No conclusion: where the noise is known a number is of one recorded draw of each image, a fixed function; with "
    "fresh noise it is of the defense."
)


def compare_text(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    comparison: Mapping[str, float],
    doubts: Sequence[Sequence[str]] = ((), ()),
) -> str:
    """A paired comparison in words.

    Args:
        a: row of `results` or `cells`.
        b: the other.
        comparison: from `bench.statistics.compare`.
        doubts: why the numbers of a and of b are marked in a table, see `bench.report.frames.doubts_of`.
    """
    c = comparison
    lines = [
        f"A  {_cell_text(a)}",
        f"B  {_cell_text(b)}",
        f"Robust on the {c['images']} images that both saw: A {c['a_accuracy']:.1f} %, B {c['b_accuracy']:.1f} %.",
        f"Difference A - B: {c['difference']:+.1f} points, 95 % interval [{c['low']:+.1f}, {c['high']:+.1f}] (paired).",
        f"By vote, A alone is right on {c['only_a']} images, B alone on {c['only_b']}: McNemar p = {c['p_value']:.3g}.",
        _conclude(a, b, c, doubts) if _noise(a) == _noise(b) else UNALIKE,
        *(f"{name} is in doubt: {reason}" for name, reasons in zip("AB", doubts, strict=True) for reason in reasons),
        *(f"Careful, not the same {name}: A {x}, B {y}." for name, x, y in _differences(a, b)),
    ]
    return "\n".join(lines) + "\n"


def _cell_text(row: Mapping[str, Any]) -> str:
    return f"{row.get('cell_key') or row.get('key')}  " + ", ".join(
        name_text(name, row.get(name)) for name in ("defense", *THREAT)
    )


def _noise(row: Mapping[str, Any]) -> str:
    return row.get("noise") or "fresh"


def _conclude(
    a: Mapping[str, Any], b: Mapping[str, Any], comparison: Mapping[str, float], doubts: Sequence[Sequence[str]]
) -> str:
    if not is_established(comparison):
        return "No difference is established."
    better, worse = ("A", "B") if comparison["difference"] > 0 else ("B", "A")
    if _is_same(a, b, SAME_DEFENSE) and not _is_same(a, b, ATTACKER):
        return f"{worse}'s attack finds more than {better}'s."
    doubted = [name for name, reasons in zip("AB", doubts, strict=True) if reasons]
    if doubted:
        which = "both are" if len(doubted) > 1 else f"{doubted[0]} is"
        return f"{better} has the higher number, but {which} in doubt: no conclusion."
    return f"{better} is more robust than {worse} on these images."


def _is_same(a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str]) -> bool:
    return all(a.get(name) == b.get(name) for name in names)


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    a, b = ({**row, "noise": _noise(row)} for row in (a, b))
    pairs = [(name, name_text(name, a.get(name)), name_text(name, b.get(name))) for name in (*THREAT, *BESIDES)]
    return [pair for pair in pairs if pair[1] != pair[2]]
