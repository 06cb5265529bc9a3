"""From results to lines: any number of a cell against any other."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from bench.draw import Line, Point
from bench.epsilon import epsilon_text
from bench.report.frames import Result, doubts_of, has_run
from bench.report.labels import label_of, set_labels
from bench.report.numbers import absent
from bench.report.pooling import ImagesOf, pool_seeds

PARTS = ("defense", "attack")
SHARED = ("dataset", "classifier", "score", "norm", "epsilon", "gradient", "tier", "defense", "attack",
          "attack_precision", "noise")  # fmt: skip
ATTACKED = ("robust", "vote", "worst", "first_success", "rounded")  # accuracies that an attack made
ALIASES = {"eps": "epsilon", "images": "num_images", "EOT": "eot"}
LABELS = {"epsilon": "epsilon", "t": "diffusion time t", "eot": "EOT draws a step", "num_images": "images",
          "evaluations": "network evaluations an image", "draws": "judging draws"}  # fmt: skip


def number_of(cell: Mapping[str, Any], name: str) -> float | None:
    """A number of a cell by its name; None where the cell has none.

    Args:
        cell: a row of `results`, decoded.
        name: a column, "evaluations" (network evaluations an image), a field of the defense or the attack, or
            "defense.<field>" and "attack.<field>".
    """
    name = ALIASES.get(name, name)
    if name == "evaluations":
        total = cell.get("network_evaluations")
        return None if absent(total) else float(total or 0) / cell["num_images"]
    part, dot, field = name.partition(".")
    if dot and part in PARTS:
        return _plain((cell.get(f"{part}_params") or {}).get(field))
    found = [_plain(cell.get(name)), _plain(cell.get(f"{name}_accuracy"))]
    found += [_plain((cell.get(f"{part}_params") or {}).get(name)) for part in PARTS]
    return next((value for value in found if value is not None), None)


def _plain(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and not absent(value) else None


def numbers_of(cells: Sequence[Result]) -> list[str]:
    """Names of numbers that differ among cells: what they can be drawn against."""
    names = {"epsilon", "draws", "num_images", "evaluations", "seconds"}
    for cell in cells:
        names |= {f"{part}.{field}" for part in PARTS for field in cell.get(f"{part}_params") or {}}
    return sorted(name for name in names if len({number_of(cell, name) for cell in cells} - {None}) > 1)


def check_number(cells: Sequence[Result], name: str) -> None:
    """Check that some cell has a number, and that one name means one field.

    Raises:
        ValueError: it is not so; with what could be asked for.
    """
    if not any(number_of(cell, name) is not None for cell in cells):
        known = ", ".join(numbers_of(cells)) or "none"
        raise ValueError(
            f"Expected a number that these cells have, got {name!r}. Numbers that differ among them: {known}."
        )
    field = ALIASES.get(name, name)
    both = [
        part for part in PARTS if len({_plain((c.get(f"{part}_params") or {}).get(field)) for c in cells} - {None}) > 1
    ]
    if len(both) > 1:
        raise ValueError(f"{name} is a field of the defense and of the attack. Write defense.{name} or attack.{name}.")


def lines_of(
    cells: Sequence[Result], x: str, y: str, by: Sequence[str], images: ImagesOf | None = None
) -> tuple[list[Line], int]:
    """Lines of y against x, a line for each value of `by`.

    Args:
        cells: results, decoded, with titles.
        x: see `number_of`.
        y: the same; an accuracy ("robust", "clean", "null", "vote", "worst", "rounded" and so on) has its interval.
        by: columns whose values make a line.
        images: run_id -> its images; see `pool_seeds`.

    Returns:
        The lines, and the number of cells that have run and lack one of the two numbers.
    """
    check_number(cells, x)
    check_number(cells, y)
    x = _choose_part(cells, x)
    pooled = [cell for cell in pool_seeds(cells, images) if has_run(cell)]
    named = [_without(cell, x) for cell in pooled]
    set_labels(named)
    found: dict[str, list[Point]] = {}
    kinds: dict[str, set[str]] = {}
    left = 0
    for cell, label in zip(pooled, named, strict=True):
        place, value = number_of(cell, x), number_of(cell, y)
        if place is None or value is None:
            left += 1
            continue
        name = ", ".join(_write_label(label, column) for column in by)
        ends = (_plain(cell.get(f"{y}_low")), _plain(cell.get(f"{y}_high")))
        doubted = bool(doubts_of(cell)) and any(name.removesuffix("_accuracy") in ATTACKED for name in (x, y))
        found.setdefault(name, []).append(Point(place, value, *ends, doubted=doubted))
        kinds.setdefault(name, set()).add(_kind(label))
    lines = []
    for name, points in found.items():
        alike = len(kinds[name]) == 1 and len({point.x for point in points}) == len(points)
        lines.append(Line(name, tuple(sorted(points, key=lambda p: p.x)), joined=alike))
    return lines, left


def _kind(cell: Result) -> str:
    """What points that one line may join have in common: all but numbers of the defense and the attack."""
    words = [
        {name: value for name, value in (cell.get(f"{part}_params") or {}).items() if _plain(value) is None}
        for part in PARTS
    ]
    return str([[cell.get(name) for name in SHARED], words])


def _write_label(cell: Result, column: str) -> str:
    return f"{cell['norm']} {epsilon_text(cell['epsilon'])}" if column == "epsilon" else label_of(cell, column)


def _choose_part(cells: Sequence[Result], x: str) -> str:
    """`x` with its part in front where it is a field of one that differs."""
    field = ALIASES.get(x, x)
    for part in PARTS:
        if len({_plain((c.get(f"{part}_params") or {}).get(field)) for c in cells} - {None}) > 1:
            return f"{part}.{field}"
    return x


def _without(cell: Result, x: str) -> Result:
    """A copy whose labels do not name the number that the axis shows."""
    other = copy.copy(cell)
    part, dot, field = x.partition(".")
    if x in ("epsilon", "eps"):
        other["epsilon"] = 0.0
    if dot:
        for kind in ("params", "texts"):
            values = dict(other.get(f"{part}_{kind}") or {})
            values.pop(field, None)
            other[f"{part}_{kind}"] = values
        other[f"{part}_always"] = tuple(name for name in other.get(f"{part}_always") or () if name != field)
    return other


def axis_label(name: str) -> str:
    """What stands beside an axis."""
    field = ALIASES.get(name, name).rpartition(".")[2]
    if name.startswith("attack.") and field in ("steps", "step_size"):
        return f"attack {field.replace('_', ' ')}"
    return LABELS.get(field, field.replace("_accuracy", "").replace("_", " "))
