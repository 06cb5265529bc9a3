"""`bench view`: results as pages, served on this machine or written to a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.commands.again import Commands
from bench.commands.grid_data import find_names
from bench.commands.report import RunImages, batch_note
from bench.commands.titles import with_titles
from bench.report import with_outdone
from bench.report.frames import Result, cells_of
from bench.report.labels import set_labels
from bench.report.pooling import share_doubts
from bench.store import Store
from bench.store.packing import unpack_votes
from bench.store.smoke_mark import check_database
from bench.view import CellData, Pages, Site
from bench.view.pages import no_pictures

AT_ONCE = 200  # cells whose images are read in one query


def make_pages(store: Store, pictures: Callable[[str], Sequence[Path]] = no_pictures) -> Pages:
    """The pages of a database.

    Args:
        store: the results.
        pictures: key of a cell -> picture files that its page shows.

    Raises:
        ValueError: a database of smoke runs, or one without any cell.
    """
    check_database(store, smoke=False)
    cells = _read_cells(store)
    if not cells:
        raise ValueError(f"There are no results in {store.where} yet. Make some with `bench run`.")
    where = store.where.replace("\\", "/").rpartition("/")[2]  # a site is for others: no folder of this machine
    commands = Commands(store, {cell["cell_key"]: cell for cell in cells}, where)

    def read(keys: Sequence[str]) -> Iterator[tuple[str, CellData]]:
        for start in range(0, len(keys), AT_ONCE):
            yield from _read_details(store, keys[start : start + AT_ONCE], commands)

    return Pages(
        Site(
            cells=cells, read=read, published=store.published(), where=where, pictures=pictures,
            find_marks=lambda: _find_marks(store),
        )
    )  # fmt: skip


def _find_marks(store: Store) -> dict[str, str]:
    """Key of a cell -> why other results contradict it."""
    frame = with_titles(store.frame(as_text=True), find_names(store))
    marked = with_outdone(frame, RunImages(store, frame))
    if "outdone" not in marked:
        return {}
    return {key: why for key, why in zip(marked["cell_key"], marked["outdone"], strict=True) if isinstance(why, str)}


def _read_cells(store: Store) -> list[Result]:
    """Rows of `results` with what tables call them, then the cells that only failed."""
    names = find_names(store)
    frame = with_titles(store.frame(as_text=True), names)
    cells = cells_of(frame)
    for cell in cells:
        cell["batch_note"] = batch_note(cell, names)
    share_doubts(cells)
    import pandas as pd

    failed = pd.DataFrame(store.failures())
    cells += cells_of(with_titles(failed, names)) if len(failed) else []
    set_labels(cells)
    return cells


def _read_details(store: Store, keys: Sequence[str], commands: Commands) -> Iterator[tuple[str, CellData]]:
    runs = store.newest_runs(keys)
    ids = [run["id"] for run in runs.values()]
    images, curves = store.image_lists(ids), store.curves(ids)
    for key in keys:
        run = runs.get(key, {})
        number = run.get("id", -1)
        rows = [_show_image(row) for row in images.get(number, ())]
        yield key, CellData(run, rows, _average(curves.get(number, ())), commands.find(key))


def _show_image(row: Sequence[Any]) -> list[Any]:
    """A row of `IMAGES`: the label with most votes (ties named), and the votes in words."""
    index, label, draws, clean, robust, null, text, distance, broken, first = row
    predicted, said = _say_votes(text if isinstance(text, str) else json.dumps(text), draws)
    looks = None if first is None else "right" if first else "wrong"
    return [index, label, draws, clean, robust, null, predicted, said, float(f"{distance:.4g}"), broken, looks]


@lru_cache(maxsize=100_000)  # a million images have few different votes
def _say_votes(text: str, draws: int) -> tuple[int | str, str]:
    """The label with most votes, "tie" where there are several; and the votes in words."""
    votes = sorted(unpack_votes(json.loads(text), draws).items(), key=lambda vote: (-vote[1], vote[0]))
    said = ", ".join(f"{name}×{count}" for name, count in votes)
    tied = len(votes) > 1 and votes[0][1] == votes[1][1]
    return ("tie", f"tie: {said}") if tied else (votes[0][0], said)


def _average(batches: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The convergence curve, averaged over batches by their images."""
    sums: dict[tuple[str, int], list[float]] = {}
    for point in (point for curve in batches for point in curve):
        entry = sums.setdefault((str(point["attack"]), int(point["step"])), [0.0, 0.0, 0.0])
        loss = float("nan") if point["loss"] is None else point["loss"]
        for place, value in enumerate((loss * point["images"], point["accuracy"] * point["images"], point["images"])):
            entry[place] += value
    return [
        {"attack": attack, "step": step, "loss": None if loss != loss else loss / n, "accuracy": 100 * right / n}
        for (attack, step), (loss, right, n) in sums.items()
        if n
    ]
