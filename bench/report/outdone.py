"""The mark on a number under the purifier's own gradient that the same attack with another kind of gradient beats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.records import VOTES, ImageRecord
from bench.report.frames import Result, cells_of, group_by, has_run
from bench.statistics import compare, pool

if TYPE_CHECKING:
    import pandas as pd

ImagesOf = Callable[[int], Sequence[ImageRecord]]  # run_id -> the votes on its images

SAME_BUT_GRADIENT = (
    "dataset", "classifier", "score", "defense", "defense_params", "defense_version", "attack", "attack_params",
    "attack_version", "norm", "epsilon", "tier", "num_images", "balanced",
)  # fmt: skip
OWN_GRADIENTS = {"exact", "guidance_detached", "adjoint", "surrogate"}  # the others are known to be weak


def with_outdone(frame: pd.DataFrame, images: ImagesOf | None = None) -> pd.DataFrame:
    """The frame with a column `outdone`, see `mark_outdone`.

    Call it on all results, before any is filtered away.
    """
    if "outdone" in frame.columns:
        return frame
    cells = cells_of(frame)
    mark_outdone(cells, images)
    reasons = [cell.get("outdone") for cell in cells]
    return frame.assign(outdone=reasons) if any(reasons) else frame


def mark_outdone(cells: Sequence[Result], images: ImagesOf | None = None) -> None:
    """Give `outdone`, a reason, to each cell under one of OWN_GRADIENTS that the same attack with another kind beats.

    Such a number is no estimate of robustness.

    Args:
        cells: results; changed in place.
        images: where given, the other kind must leave less in the paired comparison of the images of all seeds that
            ran with both; without it, less than the interval of these cells holds.
    """
    done = [cell for cell in cells if has_run(cell)]
    for group in group_by(done, lambda cell: str([cell.get(name) for name in SAME_BUT_GRADIENT])):
        kinds = {kind[0].get("gradient"): kind for kind in group_by(group, lambda cell: cell.get("gradient"))}
        for own in kinds.keys() & OWN_GRADIENTS:
            found = {name: _accuracy_if_less(other, kinds[own], images) for name, other in kinds.items()}
            less = {name: accuracy for name, accuracy in found.items() if accuracy is not None}
            if not less:
                continue
            name = min(less, key=less.__getitem__)
            for cell in kinds[own]:
                cell["outdone"] = (
                    f"The same attack with the {name} gradient leaves {less[name]:.1f} %, less than with the {own} one."
                )


def _accuracy_if_less(other: Sequence[Result], own: Sequence[Result], images: ImagesOf | None) -> float | None:
    """What `other` leaves on the seeds of both, in percent; None where that is not clearly less than `own` leaves."""
    common = {_seeds(cell) for cell in other} & {_seeds(cell) for cell in own}
    here, there = ([cell for cell in side if _seeds(cell) in common] for side in (other, own))
    if not common:
        return None
    if images is not None:
        found = compare(_join_runs(there, images), _join_runs(here, images))
        return found["b_accuracy"] if found["low"] > 0 else None
    mean, low = pool(here)["mean"], pool(there)["low"]
    return mean if mean is not None and low is not None and mean < low else None


def _seeds(cell: Result) -> tuple[Any, Any]:
    return cell.get("data_seed"), cell.get("seed")


def _join_runs(cells: Sequence[Result], images: ImagesOf) -> list[ImageRecord]:
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
