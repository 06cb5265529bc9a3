"""Which cells of a grid a command is about."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from bench.cell import Cell
from bench.epsilon import epsilon_text, parse_epsilon
from bench.grids import grid_cells
from bench.run.part import Part
from defenses.registry import unknown_name


def chosen(
    grid: str,
    *,
    protocol: str | None = None,
    filters: Sequence[str] = (),
    limit: int | None = None,
    attack_precision: str | None = None,
    part: str | None = None,
    **changes: int | None,
) -> list[Cell]:
    """The cells of a grid (see `grid_cells`) that pass the filters, with changes made.

    Args:
        grid: its name or its file.
        protocol: of a grid that has several.
        filters: COLUMN=VALUE.
        limit: at most so many.
        attack_precision: of the attacks that have one (see `Cell.attacked_in`); None leaves the grid's.
        part: of the grid, as `bench.run.budget.Part` writes it; None is all.
        changes: field of a cell -> its value in place of the grid's (seed, num_images); None leaves the grid's.

    Raises:
        ValueError: a filter, a limit or a precision that is none.
        LookupError: there is no such cell.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"Expected limit >= 1, or none for all cells; got {limit}.")
    wanted: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    changed = [dataclasses.replace(cell, **wanted) for cell in grid_cells(grid, protocol)]
    if not changed:
        raise LookupError(f"The grid {grid} has no cells in protocol {protocol}. Choose another.")
    if attack_precision is not None:
        changed = [cell.attacked_in(attack_precision) for cell in changed]  # type: ignore[arg-type]
        if all(cell.attack_precision != attack_precision for cell in changed):
            raise ValueError(
                f"No attack of {grid} differentiates a network that could compute in {attack_precision}. Leave "
                "--attack-precision out."
            )
    rows = {cell.key: (cell, cell.row()) for cell in changed}.values()
    wished = _parse(filters)
    cells = [cell for cell, row in rows if _passes(row, wished)]
    if not cells:
        _name_stranger(grid, [row for _, row in rows], wished)
        raise LookupError(f"No cell of {grid} passes {' '.join(filters)}. See them with `bench run --dry-run`.")
    return (cells if part is None else Part.parse(part).of(cells))[:limit]


def _name_stranger(grid: str, rows: Sequence[dict[str, Any]], wished: dict[str, list[str]]) -> None:
    """Raise LookupError for a wish that no row fulfils by itself, with the values that there are."""
    for column, values in wished.items():
        for value in values:
            if column != "key" and not any(_passes(row, {column: [value]}) for row in rows):
                held = {epsilon_text(row[column]) if column == "epsilon" else str(row[column]) for row in rows}
                raise unknown_name(f"{column} in {grid}", value, held)


def _parse(filters: Sequence[str]) -> dict[str, list[str]]:
    """column -> values that pass; several filters on one column are alternatives."""
    parsed: dict[str, list[str]] = {}
    for text in filters:
        column, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"Expected --filter COLUMN=VALUE, got {text!r}. For example --filter defense=contrastive.")
        parsed.setdefault(column, []).append(value)
    return parsed


def _passes(row: dict[str, Any], wanted: dict[str, list[str]]) -> bool:
    for column, values in wanted.items():
        if column not in row:
            raise unknown_name("column", column, row)
        equal = _begins if column == "key" else _equal
        if not any(equal(row[column], value) for value in values):
            return False
    return True


def _begins(key: str, text: str) -> bool:
    """`--dry-run` prints a key's first letters; none at all choose nothing."""
    return bool(text) and key.startswith(text)


def _equal(stored: Any, text: str) -> bool:
    if isinstance(stored, float):
        number = parse_epsilon(text)
        close = number is not None and abs(stored - number) <= 1e-6 * max(1.0, abs(number))
        return close or ("/" in text and epsilon_text(stored) == text)  # scripts round 4/255 to 0.0157
    return str(stored) == text
