"""Marks on numbers that other results of the same defense contradict: they are no estimate of its robustness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from bench.report.frames import Result, cells_of, group_by, has_run
from bench.report.pooling import ImagesOf, join_runs
from bench.statistics import is_surely_above_zero, mcnemar, pool
from bench.tally import compare_tallies, pair

if TYPE_CHECKING:
    import pandas as pd

SAME_DEFENSE = (
    "dataset", "classifier", "score", "defense", "defense_params", "defense_version", "norm", "epsilon", "tier",
    "balanced", "noise",
)  # fmt: skip
SAME_ATTACK = ("attack", "attack_params", "attack_version", "attack_precision", "num_images")
USED = (
    *SAME_DEFENSE, *SAME_ATTACK, "gradient", "attack_title", "run_id", "seed", "data_seed", "robust_accuracy",
    "robust_low", "robust_high", "first_success_accuracy", "null_accuracy", "null_first_success_accuracy",
)  # fmt: skip
OWN_GRADIENTS = ("exact", "guidance_detached", "adjoint", "surrogate")
KNOWLEDGE = {"none": 0, "transfer": 1, "straight_through": 2, **dict.fromkeys(OWN_GRADIENTS, 3)}
FIRST_SUCCESS_GAP = (
    40.0  # points; honest stochastic defenses measured here reach 30 where luck is nil, 39 with a little
)
LUCK = 7.5  # points that resubmission alone may win where first success is expected to confirm the judge


def with_outdone(frame: pd.DataFrame, images: ImagesOf | None = None) -> pd.DataFrame:
    """The frame with columns `outdone` and `outdone_to`, see `mark_outdone`.

    Call it on all results, before any is filtered away.
    """
    if "outdone" in frame.columns:
        return frame
    cells = cells_of(frame[[name for name in USED if name in frame.columns]])
    mark_outdone(cells, images)
    marks = {name: [cell.get(name) for cell in cells] for name in ("outdone", "outdone_to")}
    return frame.assign(**marks) if any(marks["outdone"]) else frame


def mark_outdone(cells: Sequence[Result], images: ImagesOf | None = None) -> None:
    """Give `outdone`, a reason, to each cell that an attacker who knows no more leaves clearly below.

    And `outdone_to`, what the other one leaves in percent; None where the reason is not another attack.

    A number under one of OWN_GRADIENTS must stand against every kind and every attack; one under straight_through or
    transfer against kinds that know as little or less. That a weak kind finds less than a strong one is no news.

    Args:
        cells: results; changed in place.
        images: where given, rivals are compared on the images that both saw, in a paired test; without it, only the
            same attack with other gradients counts, where it leaves less than the interval of the cell holds.
    """
    done = [cell for cell in cells if has_run(cell)]
    look_up = None if images is None else cache(images)
    for group in group_by(done, lambda cell: str([cell.get(name) for name in SAME_DEFENSE])):
        lines = group_by(group, lambda cell: str([cell.get(name) for name in ("gradient", *SAME_ATTACK)]))
        for line in lines:
            reason, least = _first_success_reason(line), None
            if reason is None:
                reason, least = _rival_reason(line, lines, look_up)
            for cell in line if reason else ():
                cell["outdone"], cell["outdone_to"] = reason, least


def _first_success_reason(line: Sequence[Result]) -> str | None:
    """A mark where the attack saw far more broken than the judge confirms, and luck does not explain it."""
    names = ("robust_accuracy", "first_success_accuracy", "null_accuracy", "null_first_success_accuracy")
    if any(cell.get(name) is None for cell in line for name in names):
        return None
    if max(cell["robust_accuracy"] - cell["first_success_accuracy"] for cell in line) <= FIRST_SUCCESS_GAP:
        return None
    robust, first, null, null_first = (
        pool([{**c, "robust_accuracy": c[name]} for c in line])["mean"] for name in names
    )
    assert robust is not None and first is not None and null is not None and null_first is not None
    if robust - first <= FIRST_SUCCESS_GAP or null - null_first > LUCK:
        return None
    return (
        f"The attack saw all but {first:.1f} % of the images broken, the judge only all but {robust:.1f} %; without an "
        f"attack as many looks leave {null_first:.1f} %. The defense may tell the judge from the attack."
    )


def _rival_reason(
    line: Sequence[Result], lines: Sequence[Sequence[Result]], images: ImagesOf | None
) -> tuple[str | None, float | None]:
    """The strongest rival in words, and what it leaves: the same attack with another gradient where that suffices,
    else another attack."""
    rivals = [
        (not _is_same_attack(rival[0], line[0]), *found, rival[0])
        for rival in _rivals(line, lines, everywhere=images is not None)
        if (found := _accuracy_if_less(rival, line, images)) is not None
    ]
    for another, least, is_sure, rival in sorted(rivals, key=lambda found: found[:2]):
        if is_sure():  # a bootstrap: only of as many as it takes
            return _write_reason(line[0], rival, least, another=another), least
    return None, None


def _write_reason(own: Result, rival: Result, least: float, *, another: bool) -> str:
    if another:
        name = rival.get("attack_title") or rival.get("attack")
        if rival.get("attack_precision") != own.get("attack_precision"):
            name = f"{name} in {rival.get('attack_precision')}"
        return (
            f"The attack {name} with the {rival['gradient']} gradient leaves {least:.1f} % of the images that both "
            "saw, less than this one."
        )
    return (
        f"The same attack with the {rival['gradient']} gradient leaves {least:.1f} %, less than with the "
        f"{own['gradient']} one."
    )


def _rivals(
    line: Sequence[Result], lines: Sequence[Sequence[Result]], *, everywhere: bool
) -> Iterator[Sequence[Result]]:
    """Lines whose attacker knows no more than this one's."""
    own = KNOWLEDGE.get(line[0].get("gradient") or "", 0)
    for rival in lines:
        known = KNOWLEDGE.get(rival[0].get("gradient") or "", 0)
        if rival is not line and own and known <= own and (everywhere or _is_same_attack(rival[0], line[0])):
            yield rival


def _is_same_attack(a: Result, b: Result) -> bool:
    return all(str(a.get(name)) == str(b.get(name)) for name in SAME_ATTACK)


def _accuracy_if_less(
    rival: Sequence[Result], own: Sequence[Result], images: ImagesOf | None
) -> tuple[float, Callable[[], bool]] | None:
    """What the rival leaves, in percent, and a test of whether that is clearly less than `own` leaves; None where it
    cannot be.

    The same attack is compared on the seeds of both; another one on all images that both saw.
    """
    same = _is_same_attack(rival[0], own[0])
    if same:
        common = {_seeds(cell) for cell in rival} & {_seeds(cell) for cell in own}
        rival, own = ([cell for cell in side if _seeds(cell) in common] for side in (rival, own))
    if not rival or not own:
        return None
    if images is None:
        mean, low = pool(rival)["mean"], pool(own)["low"]
        return (mean, lambda: True) if mean is not None and low is not None and mean < low else None
    ours, theirs = pair(join_runs(own, images), join_runs(rival, images))
    if not len(ours):
        return None
    rates = theirs.robust / theirs.draws
    known = is_surely_above_zero(ours.robust / ours.draws - rates)
    if known is False:
        return None

    def is_less() -> bool:
        if known and same:
            return True
        if not same and mcnemar(ours.vote_right(), theirs.vote_right()) >= 0.05:
            return False
        return bool(known) or compare_tallies(ours, theirs)["low"] > 0

    return 100 * float(rates.mean()), is_less


def _seeds(cell: Result) -> tuple[Any, Any]:
    return cell.get("data_seed"), cell.get("seed")
