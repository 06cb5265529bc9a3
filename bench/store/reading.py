"""What a result database holds: cells, runs, batches, images, the view `results`, the literature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, text

from bench.records import BatchRecord, ImageRecord
from bench.store.database import StoreError
from bench.store.open_database import OpenDatabase
from bench.store.patience import patient
from bench.store.rows import RowValues, find_cell_key, read_batch_record, read_image_record
from bench.store.schema import BatchRow, CellRow, ImageRow, PublishedRow, RunRow, results_select

if TYPE_CHECKING:
    import pandas


class ReadableStore(OpenDatabase):
    """An open result database, as far as it is read."""

    def cell(self, key: str) -> RowValues:
        """Find one cell by its key or the beginning of it.

        Args:
            key: hex digits, at least enough to name one cell.

        Returns:
            The columns of `cells`.

        Raises:
            LookupError: no cell's key begins so, or several do.
        """
        with self._reading() as connection:
            found = find_cell_key(connection, key)
            return dict(connection.execute(select(CellRow).where(CellRow.key == found)).mappings().one())

    def runs_of(self, cell_key: str) -> list[RowValues]:
        """The runs of a cell, newest first, with all their columns."""
        return self._rows(select(RunRow).where(RunRow.cell_key == cell_key).order_by(RunRow.id.desc()))

    def latest_done(self, cell_key: str) -> RowValues | None:
        """The newest successful run of a cell, which is the one that `results` shows; None without one."""
        return next((run for run in self.runs_of(cell_key) if run["status"] == "done"), None)

    def batches(self, run_id: int) -> list[BatchRecord]:
        """The finished batches of a run, in order."""
        rows = self._rows(select(BatchRow).where(BatchRow.run_id == run_id).order_by(BatchRow.number))
        return [read_batch_record(row) for row in rows]

    def images(self, run_id: int) -> list[ImageRecord]:
        """The images of a run, in the order in which they were judged."""
        query = select(ImageRow).where(ImageRow.run_id == run_id).order_by(ImageRow.batch, ImageRow.position)
        return [read_image_record(row) for row in self._rows(query)]

    def count_images(self, run_id: int) -> int:
        """How many images of a run are stored."""
        return self._rows(select(func.count().label("n")).where(ImageRow.run_id == run_id))[0]["n"]

    def results(self) -> list[RowValues]:
        """Rows of the view `results`: for each cell its newest successful run; accuracies in percent."""
        return self._rows(results_select().order_by(CellRow.dataset, CellRow.defense, CellRow.attack, CellRow.key))

    @patient
    def frame(self) -> pandas.DataFrame:
        """The view `results` as a data frame."""
        import pandas

        with self._reading() as connection:
            return pandas.read_sql(results_select(), connection)

    def published(self) -> list[RowValues]:
        """The literature: rows of the table `published`."""
        return self._rows(select(PublishedRow).order_by(PublishedRow.key))

    def query(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Ask one SQL query on a connection that can only read.

        Returns:
            The names of the columns, and the rows.

        Raises:
            StoreError: the query would write, returns no rows, or is wrong; or the database is neither SQLite nor
                PostgreSQL.
        """
        if self._writer.dialect.name not in ("sqlite", "postgresql"):
            raise StoreError(f"Read-only queries work on SQLite and PostgreSQL, not on {self._writer.dialect.name}.")
        with self._reading() as connection:
            try:  # a cursor of PostgreSQL's takes one query, and no other statement; colons are no parameters here
                answer = connection.execution_options(stream_results=True).execute(text(sql.replace(":", r"\:")))
            except Warning as error:  # Python 3.11's sqlite3, on several statements
                raise StoreError(f"{self.where}: {error}") from error
            if not answer.returns_rows:
                raise StoreError("Expected a query that returns rows, such as SELECT * FROM results.")
            return list(answer.keys()), [tuple(row) for row in answer]
