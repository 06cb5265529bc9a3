"""Runs that differ in their seeds alone, pooled into one line of a table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from bench.literature.verdict import overlap
from bench.records import ROUNDED, VOTES, ImageRecord
from bench.report.frames import NEEDED, Result, group_by, has_run
from bench.report.numbers import absent
from bench.statistics import pool, summarize

ImagesOf = Callable[[int], Sequence[ImageRecord]]  # run_id -> the votes on its images

TWINS = ("draws", "batch_size", "balanced")
IDENTITY = (*NEEDED[:-1], "score", "tier", *TWINS) + tuple(
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
    groups = group_by(
        cells, lambda cell: json.dumps([cell.get(name) for name in IDENTITY], sort_keys=True, default=str)
    )
    return [group[0] if len(group) == 1 else _pool_group(group, images) for group in groups]


def join_runs(cells: Sequence[Result], images: ImagesOf) -> list[ImageRecord]:
    """The images of several runs, each once, with the votes of all."""
    found: dict[int, list[ImageRecord]] = {}
    for cell in cells:
        for record in images(int(cell["run_id"])):
            found.setdefault(record.index, []).append(record)
    joint = []
    for same in found.values():
        votes: dict[str, Any] = {name: sum((Counter(getattr(r, name)) for r in same), Counter()) for name in VOTES}
        rounded = [r.rounded_votes for r in same]
        known = all(one is not None for one in rounded)
        votes[ROUNDED] = sum((Counter(one) for one in rounded), Counter()) if known else None
        joint.append(replace(same[0], **votes))
    return joint


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
    records = join_runs(done, images)
    if not records:
        return {}
    summary = summarize(records, stochastic=any(record.draws > 1 for record in records))
    kept = [f"{kind}_{part}" for kind in INTERVALS for part in ("accuracy", "low", "high")]
    return {"num_images": len(records), **{name: summary[name] for name in kept if summary[name] is not None}}


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
    return {**joined, "outdone": next((cell["outdone"] for cell in done if cell.get("outdone")), None)}
