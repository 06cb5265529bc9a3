"""`bench.run`: `bench run` as a function."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bench.cell import Cell
from bench.commands.choose import chosen
from bench.commands.report import tables
from bench.commands.run import loader, measure, open_store, write_summary
from bench.evidence import vault_beside
from bench.grids import load_grid
from bench.run.display import make_watcher
from bench.run.work import Sharing
from bench.store import Store, default_url
from defenses.precision import Precision

if TYPE_CHECKING:
    import pandas as pd

PATIENCE = 900.0  # seconds, as `bench run --patience`


@dataclass(frozen=True, kw_only=True)
class GridResult:
    """What became of the cells of a grid. Printed, it is what `bench run` prints; a notebook shows its tables.

    Attributes:
        grid: its name or its file.
        cells: the cells that were asked for.
        frame: rows of the view `results`, one a cell that has been measured, now or before, in the grid's order.
        errors: key of a cell that failed now -> what went wrong.
        done: measured now.
        skipped: measured before.
        busy: left to another process that is running them.
        failed: ended by an error, which the database keeps.
        db: the database.
    """

    grid: str
    cells: list[Cell] = field(repr=False)
    frame: pd.DataFrame = field(repr=False)
    errors: dict[str, str] = field(repr=False)
    done: list[Cell] = field(repr=False)
    skipped: list[Cell] = field(repr=False)
    busy: list[Cell] = field(repr=False)
    failed: list[Cell] = field(repr=False)
    db: str
    _text: str = field(repr=False)

    def table(self, form: str = "text") -> str:
        """The grid's tables in a format of `bench report`: text, markdown, html, latex, csv or json."""
        with Store(self.db, readonly=True) as store:
            return tables(store, self.grid, self.cells, form, fragment=True)

    def __str__(self) -> str:
        return self._text

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table("html")


def run(
    grid: str | os.PathLike[str] = "quickstart",
    *,
    db: str | os.PathLike[str] | None = None,
    device: str | None = None,
    seed: int | None = None,
    num_images: int | None = None,
    attack_precision: Precision | None = None,
    compiled: bool = False,
    filters: Sequence[str] = (),
    limit: int | None = None,
    protocol: str | None = None,
    force: bool = False,
    take_over: bool = False,
    cell_timeout: float | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    progress: bool = True,
    evidence: bool = True,
) -> GridResult:
    """Run the cells of a grid that have not run yet. A cell that fails is a row of `errors`; the others go on.

    Args:
        grid: a shipped grid by name, or the path of a file (docs/adding-a-grid.md).
        db: the path of a SQLite file or any SQLAlchemy URL; None is $BENCH_DB, else results.sqlite.
        device: as torch writes it; None is a GPU where there is one, else the CPU.
        seed: of every cell, instead of the grid's.
        num_images: of every cell, instead of the grid's.
        attack_precision: "float32", "tf32" or "bfloat16", of the attacks' gradients, instead of the grid's; judges stay
            in float32.
        compiled: whether networks are compiled for these gradients (torch.compile); judges stay eager.
        filters: as `--filter` of the command line: "defense=contrastive".
        limit: at most so many cells.
        protocol: of grids that repeat a paper: "paper", "strong", "gold", "both" (paper and gold) or "quick"; None is
            paper and strong.
        force: run again what is done; the old results stay.
        take_over: do not wait for the leases of processes that have stopped.
        cell_timeout: minutes after which a cell whose code still runs fails; None is without end.
        data_dir: folder of the data sets.
        download: whether torchvision may download a missing data set.
        progress: whether to show how far it is.
        evidence: whether the adversarial images are kept beside the database (docs/evidence.md).

    Raises:
        LookupError: an unknown grid, filter or protocol, or no cell that passes.
        ValueError: a database or a device that cannot be used.
    """
    name, address = os.fspath(grid), default_url() if db is None else os.fspath(db)
    cells = chosen(
        name, protocol=protocol, filters=filters, limit=limit, attack_precision=attack_precision, seed=seed,
        num_images=num_images,
    )  # fmt: skip
    loads = loader(device, Path(data_dir) if data_dir is not None else None, download, compiled=compiled)
    console = None if progress else Console(quiet=True, force_terminal=False)
    with open_store(address, patience=PATIENCE) as store:
        with make_watcher(console, cells, gates=load_grid(name).gates) as shown:
            sharing = Sharing(take_over=take_over, cell_timeout=cell_timeout)
            vault = vault_beside(address) if evidence else None
            outcome = measure(cells, store, loads, shown, grid=name, force=force, sharing=sharing, vault=vault)
        keys = [cell.key for cell in cells]
        frame = store.frame().set_index("cell_key", drop=False)
        frame = frame.loc[[key for key in keys if key in frame.index]].reset_index(drop=True)
        errors = {cell.key: store.runs_of(cell.key)[0]["error_message"] for cell in outcome.failed}
        text = f"{tables(store, name, cells, 'text')}\n{write_summary(outcome, cells, store, name)}"
    return GridResult(
        grid=name, cells=cells, frame=frame, errors=errors, db=address, _text=text, done=outcome.done,
        skipped=outcome.skipped, busy=outcome.busy, failed=outcome.failed,
    )  # fmt: skip
