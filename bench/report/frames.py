"""From the rows of the view `results` to dictionaries, one a cell, with the planned cells that have not run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.printable import printable_data
from bench.records import NOT_CONVERGED, WEAK_ATTACK
from bench.report.numbers import absent

if TYPE_CHECKING:
    import pandas as pd

Result = dict[str, Any]  # a row of `results`

NEEDED = ("dataset", "classifier", "defense", "attack", "norm", "epsilon", "gradient", "num_images", "cell_key")
ROUNDING = 0.5  # points: what rounding to 8 bits has to move before a footnote says so
JSON_COLUMNS = ("defense_params", "attack_params", "gates", "notes")


def with_expected(frame: pd.DataFrame, expected: pd.DataFrame | None) -> pd.DataFrame:
    """The results and, without numbers, the planned cells that have not run, in the order of the plan.

    Args:
        frame: rows of `results`; the columns NEEDED, everything else may be absent.
        expected: the planned cells, with the same columns; None where nothing was planned.

    Raises:
        ValueError: a column that identifies a cell is missing.
    """
    import pandas as pd

    for given in (frame,) if expected is None else (frame, expected):
        missing = [name for name in NEEDED if name not in given.columns]
        if missing:
            raise ValueError(f"Expected the columns of the view `results`, missing: {', '.join(missing)}.")
    if expected is None or expected.empty:
        return frame.reset_index(drop=True)
    lacking = expected[~expected["cell_key"].isin(frame["cell_key"])]
    if frame.empty:  # the columns of results, without any
        both = lacking.reindex(columns=[*frame.columns, *lacking.columns.difference(frame.columns, sort=False)])
    else:
        both = pd.concat([frame, lacking]) if len(lacking) else frame
    place = {key: place for place, key in enumerate(expected["cell_key"])}
    order = both["cell_key"].map(lambda key: place.get(key, len(place)))
    return both.iloc[order.argsort(kind="stable")].reset_index(drop=True)


def printable_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with printable texts: no name, note or error moves a cursor, and UTF-8 can write all of them."""
    texts = [name for name in frame.columns if frame[name].dtype.kind not in "biufMm"]
    return frame.assign(**{str(name): _printable(frame[name]) for name in texts})


def _printable(column: pd.Series) -> pd.Series:
    """The column itself where all its texts are printable, as they nearly always are: a copy costs memory."""
    values = column.tolist()
    texts = {value for value in values if isinstance(value, str)}
    plain = all(text.isprintable() for text in texts) and all(
        value is None or isinstance(value, (str, float)) for value in values
    )
    return column if plain else column.map(printable_data)


def cells_of(frame: pd.DataFrame) -> list[Result]:
    """The rows as dictionaries: JSON columns decoded, empty fields None."""
    names = [str(name) for name in frame.columns]
    columns = [_decode(name, frame.iloc[:, place]) for place, name in enumerate(names)]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)] if names else []


def _decode(name: str, column: pd.Series) -> list[Any]:
    """The values of a column, by column since a row at a time is slow."""
    values = column.tolist()
    if column.dtype.kind in "biu":
        return values
    read: dict[str, Any] = {}  # equal texts share one object, which nobody changes
    for value in values:
        if isinstance(value, str) and value not in read:
            read[value] = json.loads(value) if name in JSON_COLUMNS else value
    if name in JSON_COLUMNS:
        values = [value if isinstance(value, (str, dict, list, tuple)) else None for value in values]
    return [
        read[value] if isinstance(value, str) else None if value is None or value != value else value
        for value in values
    ]


def take_planned_batch_sizes(cells: Sequence[Result], expected: pd.DataFrame) -> None:
    """Give each cell the batch size of its plan: what a run really used is no part of what it measured."""
    if "batch_size" in expected.columns:
        sizes = dict(zip(expected["cell_key"], expected["batch_size"], strict=True))
        for cell in cells:
            cell["batch_size"] = sizes.get(cell["cell_key"], cell.get("batch_size"))


def has_run(cell: Mapping[str, Any]) -> bool:
    """Whether the cell has a number."""
    return cell.get("robust_accuracy") is not None


def warnings_of(cell: Mapping[str, Any]) -> list[str]:
    """What AutoAttack's library warned of, as it would have on a terminal, weak attacks, and lengths too short."""
    warned = [note for note in cell.get("notes") or () if note.startswith(("AutoAttack: ", WEAK_ATTACK))]
    warned = list(dict.fromkeys(warned))
    first, *others = unfinished(cell) or [""]
    more = f" ({len(others)} more of the pooled runs say so.)" if others else ""
    return [*warned, f"{first}{more}"] if first else warned


def unfinished(cell: Mapping[str, Any]) -> list[str]:
    """Notes of the attack that a longer one would find more, one a run."""
    return [note for note in cell.get("notes") or () if note.startswith(NOT_CONVERGED)]


def say_rounded(cell: Mapping[str, Any]) -> list[str]:
    """The accuracy once the adversarial images are 8-bit pictures, where that is another number."""
    rounded = cell.get("rounded_accuracy")
    if rounded is None or absent(rounded) or abs(rounded - cell["robust_accuracy"]) < ROUNDING:
        return []
    return [f"As 8-bit pictures the adversarial images leave {rounded:.1f} %."]


def gates_failed(cell: Mapping[str, Any]) -> list[str]:
    """Every gate that failed, as "gate: reason"."""
    return [f"{gate['gate']}: {gate.get('reason')}" for gate in cell.get("gates") or () if gate.get("passed") is False]


def doubts_of(cell: Mapping[str, Any]) -> list[str]:
    """Why a table marks a robust accuracy with an exclamation mark.

    Args:
        cell: a row of `results`, decoded, with `outdone` (see `mark_outdone`) and `shared_doubts` (see `share_doubts`)
            where these were looked for.

    Returns:
        Reasons, a sentence each: gates that failed, a weak or too short attack, what other results leave.
    """
    outdone = cell.get("outdone")
    own = gates_failed(cell) + warnings_of(cell) + ([] if absent(outdone) else [str(outdone)])
    return list(dict.fromkeys([*own, *(cell.get("shared_doubts") or ())]))


def group_by(cells: Sequence[Result], key: Callable[[Result], Any]) -> list[list[Result]]:
    """The cells in groups of equal key, in order of first appearance."""
    groups: dict[Any, list[Result]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return list(groups.values())
