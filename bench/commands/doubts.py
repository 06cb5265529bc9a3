"""Why tables mark a number, for the commands that show one number."""

from __future__ import annotations

from collections.abc import Sequence

from bench.commands.grid_data import find_names
from bench.commands.report import RunImages
from bench.commands.titles import with_titles
from bench.report import with_outdone
from bench.report.frames import cells_of, doubts_of
from bench.report.pooling import share_doubts
from bench.store import Store


def find_doubts(store: Store, keys: Sequence[str]) -> dict[str, list[str]]:
    """Find why a table of the whole database marks the robust accuracies of cells.

    Args:
        store: the results.
        keys: of the cells.

    Returns:
        Key -> reasons, a sentence each; empty for a number without a mark and for a cell that has not run.
    """
    frame = with_titles(store.frame(keys, as_text=True), find_names(store))
    cells = cells_of(with_outdone(frame, RunImages(store, frame)))
    share_doubts(cells)
    found = {cell["cell_key"]: doubts_of(cell) for cell in cells}
    return {key: found.get(key, []) for key in keys}
