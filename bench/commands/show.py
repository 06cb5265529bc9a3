"""`bench show`, `bench query` and `bench compare`: reading the database."""

from __future__ import annotations

import json
import math
from typing import Any

from bench.epsilon import epsilon_text
from bench.store import Store

RUN_COLUMNS = (
    "clean_accuracy", "robust_accuracy", "robust_low", "robust_high", "null_accuracy", "vote_accuracy",
    "worst_accuracy", "rounded_accuracy", "first_success_accuracy", "null_first_success_accuracy", "verdict",
    "verdict_reason", "network_evaluations", "seconds", "device", "precision", "commit_hash", "dirty", "weights",
    "licences", "packages", "notes", "error_class", "error_message", "remedy",
)  # fmt: skip
ROWS, SECONDS = 100_000, 60.0  # of an answer, unless more is asked for


def show(db: str, key: str) -> str:
    """Describe a cell: what stands against its number, its runs and their gates, the newest one's curve and images."""
    from bench.commands.doubts import find_doubts

    with Store(db, readonly=True) as store:
        cell = store.cell(key)
        runs = store.runs_of(cell["key"])
        lines = ["Cell", *_write_pairs(cell)]
        lines += [f"  in doubt: {reason}" for reason in find_doubts(store, [cell["key"]])[cell["key"]]]
        for run in runs:
            lines += ["", f"Run {run['id']}: {run['status']}, started {run['started_at']} UTC"]
            lines += _write_pairs({name: run[name] for name in RUN_COLUMNS})
            lines += [*_write_cost(store, run["id"]), *_write_evidence(store, run["id"], cell["key"])]
            lines += [f"  gate {g['gate']}: {_write_mark(g['passed'])} {g['reason']}" for g in run["gates"] or []]
            if run["error_traceback"]:
                lines += ["  traceback:", *(f"    {line}" for line in run["error_traceback"].splitlines())]
        done = store.latest_done(cell["key"])
        if done is not None:
            lines += ["", *_write_curve(store, done["id"]), "", *_write_images(store, done["id"])]
        elif not runs:
            lines += ["", "Not run yet."]
    return "\n".join(lines)


def _write_evidence(store: Store, run_id: int, key: str) -> list[str]:
    """Where the adversarial images of a run lie, and what to do with them."""
    kept = [batch.evidence for batch in store.batches(run_id) if batch.evidence is not None]
    if not kept:
        return ["  adversarial images: none were kept"]
    files = f"{len(kept)} files, the first is" if len(kept) > 1 else "one file,"
    return [f"  adversarial images: {files} {kept[0]} (bench verify {key[:8]}, bench draw {key[:8]})"]


def _write_cost(store: Store, run_id: int) -> list[str]:
    """How near the device's limit a run came, and the operations of its counted network."""
    batches = store.batches(run_id)
    shares = [(b.peak_bytes, b.device_bytes) for b in batches if b.peak_bytes and b.device_bytes]
    lines = []
    if shares:
        taken, whole = max(shares, key=lambda share: share[0] / share[1])
        lines.append(f"  memory: {taken / 2**30:.3g} of {whole / 2**30:.3g} GiB at most ({taken / whole:.0%})")
    done = [batch.operations for batch in batches if batch.operations]
    if done:
        rate = sum(done) / max(sum(b.seconds for b in batches if b.operations), 1e-9)
        lines.append(f"  operations: {sum(done):.3g} of the counted network ({rate / 1e12:.3g} TFLOP/s)")
    return lines


def _write_pairs(row: dict[str, Any]) -> list[str]:
    shown = {k: v for k, v in row.items() if v not in (None, "", {}, [])}
    return [
        f"  {name}: {epsilon_text(value) if name == 'epsilon' else _write_value(value)}"
        for name, value in shown.items()
    ]


def _write_value(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_mark(passed: bool | None) -> str:
    return {True: "passed:", False: "FAILED:", None: "not applicable:"}[passed]


def _write_curve(store: Store, run_id: int) -> list[str]:
    """At most eight points of the convergence curve, averaged over batches."""
    sums: dict[tuple[str, int], list[float]] = {}
    for batch in store.batches(run_id):
        for point in batch.curve:
            entry = sums.setdefault((point["attack"], point["step"]), [0.0, 0.0, 0.0])
            loss = math.nan if point["loss"] is None else point["loss"]  # stored so where it was not finite
            entry[0] += loss * point["images"]
            entry[1] += point["accuracy"] * point["images"]
            entry[2] += point["images"]
    points = list(sums.items())
    if not points:
        return ["No convergence curve: the attack keeps none."]
    stride = max(1, -(-len(points) // 8))
    picked = [*points[::stride], *([points[-1]] if (len(points) - 1) % stride else [])]
    return ["Convergence (attack, step, loss, accuracy):"] + [
        f"  {attack} {step}: {loss / n:.4f} {100 * right / n:.1f} %" for (attack, step), (loss, right, n) in picked
    ]


def _write_images(store: Store, run_id: int) -> list[str]:
    images = store.images(run_id)
    lines = [f"Images ({len(images)}): index, label, right draws of clean / attacked / null, distance, broken by"]
    for image in images[:20]:
        draws = f"{image.clean_correct} / {image.robust_correct} / {image.null_correct} of {image.draws}"
        lines.append(f"  {image.index} {image.label}: {draws}, {image.distance:.4g} {image.broken_by or ''}".rstrip())
    if len(images) > 20:
        lines.append(f'  ... all: bench query "SELECT * FROM images WHERE run_id = {run_id}"')
    return lines


def query(db: str, sql: str, form: str, *, limit: int = ROWS, seconds: float = SECONDS) -> tuple[str, str]:
    """Answer a query that only reads.

    Args:
        db: path or URL of the database.
        sql: the query.
        form: "text", "csv" or "json".
        limit: at most so many rows.
        seconds: how long it may take.

    Returns:
        The rows, and what is to be said of them: "" where they are all.
    """
    import pandas as pd

    with Store(db, readonly=True) as store:
        columns, rows = store.query(sql, limit=limit + 1, seconds=seconds)
    told = f"Only the first {limit} rows are shown; --limit N shows more." if len(rows) > limit else ""
    rows = rows[:limit]
    frame = pd.DataFrame(rows, columns=columns)
    if form == "csv":
        return frame.to_csv(index=False).rstrip("\n"), told
    if form == "json":
        return frame.to_json(orient="records", date_format="iso"), told
    return frame.to_string(index=False) if len(frame) else "No rows.", told


def compare(db: str, a: str, b: str) -> str:
    """Compare the newest successful runs of two cells, paired by image.

    Raises:
        LookupError: a cell is unknown or has no successful run.
        ValueError: the two ran on different copies of the data set.
    """
    from bench.commands.doubts import find_doubts
    from bench.report import compare_text
    from bench.statistics import compare as paired

    with Store(db, readonly=True) as store:
        cells = [store.cell(key) for key in (a, b)]
        runs = [store.latest_done(cell["key"]) for cell in cells]
        for cell, run in zip(cells, runs, strict=True):
            if run is None:
                raise LookupError(f"Cell {cell['key']} has no successful run yet. Run it with `bench run`.")
        done = [run for run in runs if run is not None]
        pictures = {(run["packages"] or {}).get("pictures") for run in done} - {None}
        if len(pictures) > 1:
            raise ValueError(
                f"Expected runs on the same pictures, {a} and {b} ran on two copies of {cells[0]['dataset']} that "
                "differ in order, part or resizing (`pictures` in their packages). Run one again where the other ran."
            )
        _check_pixels(cells, done)
        images = [store.images(run["id"]) for run in done]
        doubts = find_doubts(store, [cell["key"] for cell in cells])
    return compare_text(cells[0], cells[1], paired(*images), [doubts[cell["key"]] for cell in cells])


def _check_pixels(cells: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    """Raise ValueError where two runs drew the same pictures and a pixel differs."""
    drawn = [tuple(cell[name] for name in ("dataset", "num_images", "data_seed", "balanced")) for cell in cells]
    pixels = {(run["packages"] or {}).get("pictures_used") for run in runs} - {None}
    if drawn[0] == drawn[1] and len(pixels) > 1:
        raise ValueError(
            f"Expected runs on the same pictures, found other pixels (`pictures_used` in their packages) of "
            f"{cells[0]['dataset']}. Run one of them again where the other ran."
        )
