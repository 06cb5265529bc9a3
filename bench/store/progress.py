"""How far a grid is, and how fast: what `bench status` asks the database."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import case, func, select
from sqlalchemy.orm import aliased

from bench.store.claims import ClaimingStore, read_clock
from bench.store.patience import patient
from bench.store.rows import RowValues
from bench.store.schema import BatchRow, CellRow, ImageRow, RunRow

LAST = 2000  # batches that a rate looks at


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What was stored lately.

    Attributes:
        images: how many.
        seconds: over how long they were measured.
        idle: seconds since the last batch was stored.
    """

    images: int
    seconds: float
    idle: float


class WatchedStore(ClaimingStore):
    """An open result database that says how far it is."""

    @patient
    def progress(self) -> list[RowValues]:
        """Each cell with its status (done, running, failed, waiting) and the images, batches, error of its newest run.

        `batch_size` is the run's, or the cell's before there is one.
        """
        newest = select(RunRow.cell_key, func.max(RunRow.id).label("id")).group_by(RunRow.cell_key).subquery()
        finished = aliased(RunRow)
        done = select(finished.id).where(finished.cell_key == CellRow.key, finished.status == "done").exists()
        counts = [
            select(func.count()).where(table.run_id == newest.c.id).correlate(newest).scalar_subquery().label(name)
            for table, name in ((ImageRow, "images"), (BatchRow, "batches"))
        ]
        status = case((done, "done"), else_=func.coalesce(RunRow.status, "waiting")).label("status")
        size = func.coalesce(RunRow.batch_size, CellRow.batch_size).label("batch_size")
        names = (CellRow.key, CellRow.grid, CellRow.num_images, CellRow.defense, CellRow.attack, RunRow.error_message)
        cells = select(*names, size, status, *counts).outerjoin(newest, newest.c.cell_key == CellRow.key)
        return self._rows(cells.outerjoin(RunRow, RunRow.id == newest.c.id).order_by(CellRow.created_at, CellRow.key))

    @patient
    def measure_rate(self, cell_keys: Collection[str] | None, window: float) -> Rate:
        """Measure how fast images of some cells are stored.

        Args:
            cell_keys: of these cells; None is all.
            window: seconds to look back from now; twice the longest of the last batches where that is more.
        """
        images = select(func.count()).where(ImageRow.run_id == BatchRow.run_id, ImageRow.batch == BatchRow.number)
        columns = (BatchRow.stored_at, BatchRow.seconds, RunRow.cell_key, images.scalar_subquery().label("images"))
        query = select(*columns).join(RunRow, RunRow.id == BatchRow.run_id).order_by(BatchRow.stored_at.desc())
        with self._reading() as connection:
            now = read_clock(connection)
            rows = connection.execute(query.where(BatchRow.stored_at.is_not(None)).limit(LAST)).all()
        last = [row for row in rows if cell_keys is None or row.cell_key in cell_keys]
        window = max([window, *(2 * row.seconds for row in last)])
        ages = [((now - row.stored_at).total_seconds(), row) for row in last]
        recent = [(age, row) for age, row in ages if age <= window]
        return Rate(
            images=sum(row.images for _, row in recent),
            seconds=max((age + row.seconds for age, row in recent), default=0.0),
            idle=min((age for age, _ in ages), default=0.0),
        )
