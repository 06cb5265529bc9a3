"""From the rows of `results` to the cells of a table: missing ones added, seeds pooled, variants named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.literature.verdict import overlap
from bench.records import VOTES, ImageRecord
from bench.report.numbers import absent, params_text
from bench.statistics import compare, pool

if TYPE_CHECKING:
    import pandas as pd

Cell = dict[str, Any]
ImagesOf = Callable[[int], Sequence[ImageRecord]]  # run_id -> what its images said

NEEDED = ("dataset", "classifier", "defense", "attack", "norm", "epsilon", "gradient", "num_images", "cell_key")
TWINS = ("draws", "batch_size", "balanced")
IDENTITY = (*NEEDED[:-1], "score", "tier", *TWINS) + tuple(
    f"{column}_{part}" for column in ("defense", "attack") for part in ("params", "version")
)
JSON_COLUMNS = ("defense_params", "attack_params", "gates", "notes")
COMPARED = {"agrees", "disagrees"}  # verdicts of runs that may be compared with the literature: so may their pool
MEANS = ("vote_accuracy", "worst_accuracy", "first_success_accuracy", "null_first_success_accuracy")


def with_expected(frame: pd.DataFrame, expected: pd.DataFrame | None) -> pd.DataFrame:
    """`frame` and, with empty results, the rows of `expected` that it lacks (by cell_key), in the order of `expected`.

    ValueError where a column that identifies a cell is missing. Needed: NEEDED; everything else may be absent.
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


def cells_of(frame: pd.DataFrame) -> list[Cell]:
    """The rows as dictionaries: JSON columns decoded, empty fields None."""
    return [{str(name): _decoded(str(name), value) for name, value in row.items()} for row in frame.to_dict("records")]


def as_planned(cells: Sequence[Cell], expected: pd.DataFrame) -> None:
    """Give each cell the batch size of its plan: what a run really used is no part of what it measured."""
    if "batch_size" in expected.columns:
        sizes = dict(zip(expected["cell_key"], expected["batch_size"], strict=True))
        for cell in cells:
            cell["batch_size"] = sizes.get(cell["cell_key"], cell.get("batch_size"))


def _decoded(name: str, value: Any) -> Any:
    if isinstance(value, (dict, list)):
        return value
    if absent(value):
        return None
    return json.loads(value) if name in JSON_COLUMNS and isinstance(value, str) else value


def ran(cell: Mapping[str, Any]) -> bool:
    """Whether the cell has a result."""
    return cell.get("robust_accuracy") is not None


def warnings_of(cell: Mapping[str, Any]) -> list[str]:
    """What the AutoAttack library warned of, as it would have on a terminal."""
    return [note for note in cell.get("notes") or () if note.startswith("AutoAttack: ")]


def gates_failed(cell: Mapping[str, Any]) -> list[str]:
    """Every gate that failed, as "gate: reason"."""
    return [f"{gate['gate']}: {gate.get('reason')}" for gate in cell.get("gates") or () if gate.get("passed") is False]


SAME_BUT_GRADIENT = (
    "dataset", "classifier", "score", "defense", "defense_params", "defense_version", "attack", "attack_params",
    "attack_version", "norm", "epsilon", "tier", "num_images", "balanced",
)  # fmt: skip


OWN = {"exact", "guidance_detached", "adjoint", "surrogate"}  # the others are known to be weak


def with_outdone(frame: pd.DataFrame, images: ImagesOf | None = None) -> pd.DataFrame:
    """`frame` with a column `outdone`, see `mark_outdone`; best of all results, before any is filtered away."""
    if "outdone" in frame.columns:
        return frame
    cells = cells_of(frame)
    mark_outdone(cells, images)
    reasons = [cell.get("outdone") for cell in cells]
    return frame.assign(outdone=reasons) if any(reasons) else frame


def mark_outdone(cells: Sequence[Cell], images: ImagesOf | None = None) -> None:
    """Give `outdone`, a reason, to each cell whose gradient is of the purifier itself (`OWN`) and that the same attack
    with another kind beats.

    The other leaves less in the paired comparison (see `compare`) of the images of all seeds that ran with both, which
    images(run_id) hands over; without `images`, less than the interval of these cells holds. Such a number is no
    estimate of robustness.
    """
    done = [cell for cell in cells if ran(cell)]
    for group in _groups(done, lambda cell: str([cell.get(name) for name in SAME_BUT_GRADIENT])):
        kinds = {kind[0].get("gradient"): kind for kind in _groups(group, lambda cell: cell.get("gradient"))}
        for own in kinds.keys() & OWN:
            left = {k: left for k, cells in kinds.items() if (left := _less(cells, kinds[own], images)) is not None}
            for cell in kinds[own] if left else ():
                name = min(left, key=left.__getitem__)
                less = f"leaves {left[name]:.1f} %, less than with the {own} one."
                cell["outdone"] = f"The same attack with the {name} gradient {less}"


def _less(other: Sequence[Cell], own: Sequence[Cell], images: ImagesOf | None) -> float | None:
    """What `other` leaves on the seeds of both, in percent; None where that is not clearly less than `own` leaves."""
    common = {_seeds(cell) for cell in other} & {_seeds(cell) for cell in own}
    here, there = ([cell for cell in side if _seeds(cell) in common] for side in (other, own))
    if not common:
        return None
    if images is not None:
        found = compare(_joint(there, images), _joint(here, images))
        return found["b_accuracy"] if found["low"] > 0 else None
    mean, low = pool(here)["mean"], _pooled_measure(there, "robust")["robust_low"]
    return None if mean is None or absent(low) or mean >= low else mean


def _seeds(cell: Cell) -> tuple[Any, Any]:
    return cell.get("data_seed"), cell.get("seed")


def _joint(cells: Sequence[Cell], images: ImagesOf) -> list[ImageRecord]:
    """The images of several runs, each once, with the votes of all."""
    found: dict[int, list[ImageRecord]] = {}
    for cell in cells:
        for record in images(int(cell["run_id"])):
            found.setdefault(record.index, []).append(record)
    joint = []
    for same in found.values():
        votes: dict[str, Any] = {name: sum((Counter(getattr(r, name)) for r in same), Counter()) for name in VOTES}
        joint.append(replace(same[0], **votes))
    return joint


def pooled(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for all that differ in seed and data_seed alone; `runs` and `planned` count them, `spread` is theirs."""
    groups = _groups(cells, lambda cell: json.dumps([cell.get(name) for name in IDENTITY], sort_keys=True, default=str))
    return [group[0] if len(group) == 1 else _pooled(group) for group in groups]


def _pooled(group: Sequence[Cell]) -> Cell:
    done = [cell for cell in group if ran(cell)]
    sizes = {cell.get("data_seed"): cell["num_images"] for cell in done or group}
    joint = {**(done or group)[0], "num_images": sum(sizes.values()), "planned": len(group), "runs": len(done)}
    if not done:
        return joint
    for kind in ("clean", "robust", "null"):
        joint |= _pooled_measure(done, kind)
    for name in MEANS:
        values = [cell.get(name) for cell in done]
        joint[name] = None if None in values else pool(done, name.removesuffix("_accuracy"))["mean"]
    verdicts = {cell.get("verdict") for cell in done}
    if verdicts <= COMPARED and not absent(joint.get("published_robust")) and not absent(joint["robust_low"]):
        word, reason = overlap(joint, joint["published_robust"], joint.get("published_images"))
        joint |= {"verdict": word, "verdict_reason": reason}
    elif len(verdicts) > 1:
        joint |= {"verdict": "mixed", "verdict_reason": "the pooled runs have different verdicts"}
    elif len(done) > 1:
        joint["verdict_reason"] = f"all {len(done)} pooled runs, the first: {done[0].get('verdict_reason')}"
    outdone = next((cell["outdone"] for cell in done if cell.get("outdone")), None)
    joined = {name: [item for cell in done for item in cell.get(name) or ()] for name in ("gates", "notes")}
    return joint | joined | {"outdone": outdone}


def _pooled_measure(done: Sequence[Cell], kind: str) -> Cell:
    if any(cell.get(f"{kind}_accuracy") is None for cell in done):
        return {f"{kind}_{end}": None for end in ("accuracy", "low", "high", "spread")}
    line = pool(done, kind)
    ends = {"accuracy": "mean", "low": "low", "high": "high", "spread": "spread"}
    return {f"{kind}_{name}": line[key] for name, key in ends.items()}


def name_variants(cells: Sequence[Cell], column: str, always: Sequence[str] = ()) -> None:
    """Set `<column>_label`: the name, with those parameters in brackets that differ among its cells of one threat, and
    those of `always` that it has.

    column: "defense" or "attack". A defense is compared with itself under one data set, classifier, norm and epsilon.
    """
    threat = ("dataset", "classifier", "norm", "epsilon")
    for group in _groups(cells, lambda cell: (cell[column], *(str(cell.get(name)) for name in threat))):
        _label(group, column, [_parameters(cell, column) for cell in group], str(group[0][column]), always)


def name_twins(cells: Sequence[Cell], place: Callable[[Cell], Any]) -> None:
    """Where cells would share a place of the table, name the draws, batch size or balance that sets them apart."""
    for group in _groups(cells, place):
        if len(group) > 1:
            given = [{name: cell.get(name) for name in TWINS} for cell in group]
            _label(group, "defense", given, group[0]["defense_label"])


def _groups(cells: Sequence[Cell], key: Callable[[Cell], Any]) -> list[list[Cell]]:
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return list(groups.values())


def _label(
    group: Sequence[Cell], column: str, params: Sequence[Mapping[str, Any]], name: str, always: Sequence[str] = ()
) -> None:
    keys = sorted({key for given in params for key in given})
    differing = [key for key in keys if key in always or len({json.dumps(given.get(key)) for given in params}) > 1]
    for cell, given in zip(group, params, strict=True):
        shown = {key: given.get(key) for key in differing}
        cell[f"{column}_label"] = f"{name} {params_text(shown)}" if shown else name


def _parameters(cell: Cell, column: str) -> dict[str, Any]:
    extra = {"score": cell.get("score")} if column == "defense" else {}
    return {**(cell.get(f"{column}_params") or {}), **extra, "version": cell.get(f"{column}_version")}
