"""Join result databases by content: every run once, whatever its number in the file that it comes from."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select

from bench.store.database import StoreError, to_json
from bench.store.rows import RowValues, check_same_cell
from bench.store.schema import BatchRow, CellRow, GridRow, ImageRow, PublishedRow, RunRow
from bench.store.store import Store

IDENTITY = ("cell_key", "started_at", "commit_hash", "packages", "precision", "weights", "batch_size")
COST = (
    "seconds",
    "stored_at",
    "device",
    "evidence",
    "evidence_sha256",
)  # of a batch: they may differ between two copies of one measurement
Run = dict[str, Any]
"""`run`: the columns of `runs`; `batches`: number -> (columns of the batch, its images' columns); `files`: number ->
the database that the batch was read from."""


def merge_databases(
    paths: Sequence[Path], output: Path, carry: Callable[[Path, RowValues], str | None] | None = None
) -> int:
    """Join SQLite files into one.

    A run is the same in two files when it began at the same second, on the same code, weights and packages. Its
    batches have to be equal where both have them; what only one of them has is added.

    Args:
        paths: the files, which are only read.
        output: the file to write, which may be one of them; it is replaced at the end, whole.
        carry: (file, row of `batches`) -> where the adversarial images of that batch lie for the new file, once nothing
            is left to refuse.

    Returns:
        The number of runs in it.

    Raises:
        StoreError: two files hold different measurements under one run, or different cells under one key.
    """
    cells: dict[str, RowValues] = {}
    runs: dict[str, Run] = {}
    grids: dict[str, RowValues] = {}
    for path in paths:
        with Store(path, readonly=True) as store:
            for cell in store._rows(select(CellRow).order_by(CellRow.created_at)):
                _add_cell(cells, cell)
            for run in store._rows(select(RunRow).order_by(RunRow.id)):
                _add_run(runs, _read_run(store, run, path), path)
            for grid in reversed(store.grids()):
                if grid["ran_at"] >= grids.get(grid["name"], grid)["ran_at"]:
                    grids[grid["name"]] = grid
    for entry in runs.values() if carry is not None else ():
        for number, (row, _) in entry["batches"].items():
            row["evidence"] = carry(entry["files"][number], row) if carry and row["evidence"] else row["evidence"]
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        fresh = Path(folder) / "merged.sqlite"
        with Store(fresh) as store:
            _write(store, cells, sorted(runs.values(), key=lambda entry: entry["run"]["started_at"]))
            with store._writing() as connection:
                for grid in grids.values():
                    connection.execute(insert(GridRow).values(**grid))
        os.replace(fresh, output)
    return len(runs)


def _add_cell(cells: dict[str, RowValues], cell: RowValues) -> None:
    if (known := cells.setdefault(cell["key"], cell)) is not cell:
        check_same_cell(known, {name: value for name, value in cell.items() if name != "created_at"})  # type: ignore[arg-type]


def _read_run(store: Store, run: RowValues, path: Path) -> Run:
    stored = store._rows(select(BatchRow).where(BatchRow.run_id == run["id"]))
    batches: dict[int, tuple[RowValues, list[RowValues]]] = {row["number"]: (row, []) for row in stored}
    images = select(ImageRow).where(ImageRow.run_id == run["id"]).order_by(ImageRow.batch, ImageRow.position)
    for image in store._rows(images):
        batches[image["batch"]][1].append(image)
    return {"run": run, "batches": batches, "files": dict.fromkeys(batches, path)}


def _add_run(runs: dict[str, Run], new: Run, path: Path) -> None:
    name = to_json({column: str(new["run"][column]) for column in IDENTITY if column != "packages"})
    name += to_json(new["run"]["packages"])
    known = runs.setdefault(name, new)
    if known is new:
        return
    for number, batch in new["batches"].items():
        known["files"].setdefault(number, path)
        if known["batches"].get(number, batch)[0]["evidence"] is None and batch[0]["evidence"] is not None:
            known["batches"][number], known["files"][number], batch = batch, path, known["batches"][number]
        if _content(known["batches"].setdefault(number, batch)) != _content(batch):
            raise StoreError(
                f"Batch {number} of the run of cell {new['run']['cell_key']} that began at {new['run']['started_at']} "
                f"is another measurement in {path} than in a file before it. Nothing was written. See both with "
                "`bench show`, and merge without the file that is wrong."
            )
    both_done = known["run"]["status"] == new["run"]["status"] == "done"
    if both_done and _result(known["run"]) != _result(new["run"]):
        raise StoreError(
            f"The run of cell {new['run']['cell_key']} that began at {new['run']['started_at']} has other results in "
            f"{path} than in a file before it. Nothing was written."
        )
    order = ("failed", "running", "done")
    if order.index(new["run"]["status"]) > order.index(known["run"]["status"]):
        known["run"] = new["run"]


def _content(batch: tuple[RowValues, list[RowValues]]) -> str:
    row, images = batch
    cost = {name: value for name, value in row.items() if name not in (*COST, "run_id")}
    return to_json([cost, [{name: value for name, value in image.items() if name != "run_id"} for image in images]])


def _result(run: Mapping[str, Any]) -> str:
    names = [name for name in run if name.endswith(("_accuracy", "_low", "_high"))]
    return to_json({name: run[name] for name in [*names, "gates", "network_evaluations"]})


def _write(store: Store, cells: Mapping[str, RowValues], runs: Sequence[Run]) -> None:
    with store._writing() as connection:
        known = set(connection.execute(select(PublishedRow.key)).scalars())
        for cell in cells.values():
            published = cell["published_key"] if cell["published_key"] in known else None
            connection.execute(insert(CellRow).values(**{**cell, "published_key": published}))
        for entry in runs:
            unfinished = {"host": None, "pid": None} if entry["run"]["status"] == "running" else {}
            row = {name: value for name, value in entry["run"].items() if name != "id"} | unfinished
            key = connection.execute(insert(RunRow).values(**row)).inserted_primary_key
            assert key is not None
            for _, (batch, images) in sorted(entry["batches"].items()):
                connection.execute(insert(BatchRow).values(**{**batch, "run_id": key[0]}))
                if images:
                    connection.execute(insert(ImageRow), [{**image, "run_id": key[0]} for image in images])
