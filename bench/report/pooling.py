"""Runs that differ in their seeds alone, pooled into one line of a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from bench.literature.verdict import overlap
from bench.records import ImageRecord
from bench.report.frames import NEEDED, Result, doubts_of, group_by, has_run
from bench.report.numbers import absent
from bench.statistics import pool, single_draw
from bench.tally import UNKNOWN, Tally, join_tallies, tally_records

ImagesOf = Callable[[int], Tally | Sequence[ImageRecord]]  # run_id -> its images, as records or counted

TWINS = ("draws", "batch_size", "balanced")
IDENTITY = (*NEEDED[:-1], "score", "tier", "attack_precision", "noise", *TWINS) + tuple(
    f"{column}_{part}" for column in ("defense", "attack") for part in ("params", "version")
)
INTERVALS = ("clean", "robust", "null", "rounded")
MEANS = ("vote_accuracy", "worst_accuracy", "first_success_accuracy", "null_first_success_accuracy")
COMPARED = {"agrees", "disagrees"}  # verdicts of runs that may be compared with the literature: so may their pool


def pool_seeds(cells: Sequence[Result], images: ImagesOf | None = None) -> list[Result]:
    """One cell for all that differ in seed and data_seed alone.

    `runs` and `planned` count them; `<kind>_spread` is the standard deviation between them, in points.

    Args:
        cells: results, decoded; see `cells_of`.
        images: run_id -> its images. With it a picture that several runs drew counts once, in the number of images and
            in the intervals; without it, data seeds are taken for disjoint samples.
    """
    return [group[0] if len(group) == 1 else _pool_group(group, images) for group in _group_seeds(cells)]


def share_doubts(cells: Sequence[Result]) -> None:
    """Give `shared_doubts` to each cell of several that differ in their seeds alone: one's gates stand for all.

    Args:
        cells: results, decoded; changed in place.
    """
    for group in _group_seeds(cells):
        if len(group) > 1:
            reasons = list(dict.fromkeys(reason for cell in group for reason in doubts_of(cell)))
            for cell in group:
                cell["shared_doubts"] = reasons


def _group_seeds(cells: Sequence[Result]) -> list[list[Result]]:
    return group_by(cells, lambda cell: json.dumps([cell.get(name) for name in IDENTITY], sort_keys=True, default=str))


def join_runs(cells: Sequence[Result], images: ImagesOf) -> Tally:
    """The images of several runs, each once, with the draws of all."""
    return join_tallies([_tally(int(cell["run_id"]), images) for cell in cells])


def _tally(run: int, images: ImagesOf) -> Tally:
    found = images(run)
    return found if isinstance(found, Tally) else tally_records(run, found, images)  # type: ignore[arg-type]


def _pool_group(group: Sequence[Result], images: ImagesOf | None) -> Result:
    done = [cell for cell in group if has_run(cell)]
    sizes = {cell.get("data_seed"): cell["num_images"] for cell in done or group}
    joint = {**(done or group)[0], "num_images": sum(sizes.values()), "planned": len(group), "runs": len(done)}
    if done:
        joint |= _pool_accuracies(done)
        joint |= _count_pictures_once(done, images) if images is not None else {}
        joint |= _judge_pool(joint, done)
        joint |= _join_remarks(done)
    return joint


def _count_pictures_once(done: Sequence[Result], images: ImagesOf) -> Result:
    """Number of images, accuracies and their intervals from distinct images."""
    tally = join_runs(done, images)
    if not len(tally):
        return {}
    stochastic = bool((tally.draws > 1).any())
    found: Result = {"num_images": len(tally)}
    for kind in INTERVALS:
        if (getattr(tally, kind) == UNKNOWN).any():
            continue
        numbers = single_draw(getattr(tally, kind), tally.draws, stochastic=stochastic)
        found |= dict(zip((f"{kind}_{part}" for part in ("accuracy", "low", "high")), numbers, strict=True))
    return found


def _pool_accuracies(done: Sequence[Result]) -> Result:
    found: Result = {}
    for kind in INTERVALS:
        known = all(cell.get(f"{kind}_accuracy") is not None for cell in done)
        line = pool(done, kind) if known else {}
        ends = {"accuracy": "mean", "low": "low", "high": "high", "spread": "spread"}
        found |= {f"{kind}_{name}": line.get(key) for name, key in ends.items()}
    for name in MEANS:
        known = all(cell.get(name) is not None for cell in done)
        found[name] = pool(done, name.removesuffix("_accuracy"))["mean"] if known else None
    return found


def _judge_pool(joint: Result, done: Sequence[Result]) -> Result:
    """The verdict on the pool: computed anew where all runs may be compared with the literature."""
    verdicts = {cell.get("verdict") for cell in done}
    if verdicts <= COMPARED and not absent(joint.get("published_robust")) and not absent(joint["robust_low"]):
        word, reason = overlap(joint, joint["published_robust"], joint.get("published_images"))
        return {"verdict": word, "verdict_reason": reason}
    if len(verdicts) > 1:
        return {"verdict": "mixed", "verdict_reason": "the pooled runs have different verdicts"}
    if len(done) > 1:
        return {"verdict_reason": f"all {len(done)} pooled runs, the first: {done[0].get('verdict_reason')}"}
    return {}


def _join_remarks(done: Sequence[Result]) -> Result:
    joined = {name: [item for cell in done for item in cell.get(name) or ()] for name in ("gates", "notes")}
    outdone = next((cell for cell in done if cell.get("outdone")), {})
    return {**joined, **{name: outdone.get(name) for name in ("outdone", "outdone_to")}}
