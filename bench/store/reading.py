"""What a result database holds: cells, runs, batches, images, the view `results`, the literature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, Select, Text, and_, func, select, text, type_coerce

from bench.records import BatchRecord, ImageRecord, Votes
from bench.store.database import StoreError
from bench.store.limits import limited
from bench.store.open_database import OpenDatabase
from bench.store.packing import unpack, unpack_row, unpack_votes
from bench.store.patience import patient
from bench.store.rows import RowValues, find_cell_key, read_batch_record, read_image_record
from bench.store.schema import BatchRow, CellRow, GridRow, ImageRow, PublishedRow, RunRow, results_select

if TYPE_CHECKING:
    import pandas

    from bench.tally import Tally


AT_ONCE = 500  # runs whose images are read in one query
SAME_DEFENSE = (
    "dataset", "classifier", "defense", "defense_params", "defense_version", "norm", "epsilon", "tier", "balanced",
)  # fmt: skip


def _with_rivals(keys: Sequence[str]) -> Select[Any]:
    """Rows of `results` of the cells and of those with the same defense under the same threat."""
    names = [getattr(CellRow, name) for name in SAME_DEFENSE]
    shown = select(*names, CellRow.score).where(CellRow.key.in_(keys)).distinct().subquery()
    same = [shown.c[name] == getattr(CellRow, name) for name in SAME_DEFENSE]
    score = shown.c.score.is_not_distinct_from(CellRow.score)
    rivals = select(CellRow.key).join(shown, and_(*same, score))
    return results_select().where(CellRow.key.in_(rivals))


def _leave_text(column: Any) -> Any:
    return type_coerce(column, Text).label(column.name) if isinstance(column.type, JSON) else column


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
        return [read_image_record(row) for row in self._image_rows(run_id)]

    def image_rows(self, run_id: int) -> list[RowValues]:
        """The images of a run as they are stored: all columns, in the order in which they were judged.

        Votes are label -> draws.
        """
        return [{**row, **unpack_row(row)} for row in self._image_rows(run_id)]

    def _image_rows(self, run_id: int) -> list[RowValues]:
        query = select(ImageRow).where(ImageRow.run_id == run_id).order_by(ImageRow.batch, ImageRow.position)
        return self._rows(query)

    def count_images(self, run_id: int) -> int:
        """How many images of a run are stored."""
        return self._rows(select(func.count().label("n")).where(ImageRow.run_id == run_id))[0]["n"]

    def results(self) -> list[RowValues]:
        """Rows of the view `results`: for each cell its newest successful run; accuracies in percent."""
        return self._rows(results_select().order_by(CellRow.dataset, CellRow.defense, CellRow.attack, CellRow.key))

    @patient
    def frame(self, keys: Sequence[str] | None = None, *, as_text: bool = False) -> pandas.DataFrame:
        """The view `results` as a data frame.

        Args:
            keys: only these cells, and those of the same defense under the same threat, which may contradict them; None
                is all cells.
            as_text: leave JSON as the text that it is, a quarter of the memory.
        """
        import pandas

        query = results_select() if keys is None else _with_rivals(keys)
        if as_text:
            query = query.with_only_columns(*(_leave_text(column) for column in query.exported_columns))
        with self._reading() as connection:
            return pandas.read_sql(query, connection)

    def tallies(self, run_ids: Sequence[int]) -> dict[int, Tally]:
        """How often the images of runs were right: run -> its images. Votes are read when they are asked for."""
        import numpy as np

        from bench.tally import UNKNOWN, tally_rows

        names = (ImageRow.run_id, ImageRow.image_index, ImageRow.label, ImageRow.draws)
        rounded = func.coalesce(ImageRow.rounded_correct, UNKNOWN)
        query = select(*names, ImageRow.clean_correct, ImageRow.robust_correct, ImageRow.null_correct, rounded)
        found: dict[int, Tally] = {}
        for start in range(0, len(run_ids), AT_ONCE):
            chosen = query.where(ImageRow.run_id.in_(run_ids[start : start + AT_ONCE])).order_by(ImageRow.run_id)
            with self._reading() as connection:
                answer = connection.execute(chosen)  # of whole numbers alone: the driver's own rows are enough
                rows = np.array(answer.cursor.fetchall(), dtype=np.int32).reshape(-1, 8)
            runs, starts = np.unique(rows[:, 0], return_index=True)
            for run, part in zip(runs.tolist(), np.split(rows[:, 1:], starts[1:]), strict=True):
                found[run] = tally_rows(run, part, self._votes)
        return found

    def _votes(self, run_ids: Sequence[int], places: Sequence[int]) -> dict[int, Votes]:
        """Place of an image -> its votes on the adversarial image, summed over runs."""
        query = select(ImageRow.image_index, ImageRow.draws, ImageRow.robust_votes)
        chosen = query.where(ImageRow.run_id.in_(run_ids), ImageRow.image_index.in_(places))
        found: dict[int, Counter[int]] = {place: Counter() for place in places}
        for row in self._rows(chosen):
            found[row["image_index"]].update(unpack_votes(row["robust_votes"], row["draws"]))
        return dict(found)

    def published(self) -> list[RowValues]:
        """The literature: rows of the table `published`."""
        return self._rows(select(PublishedRow).order_by(PublishedRow.key))

    def grid(self, name: str) -> RowValues | None:
        """What is written down of a grid, under its name or its file's stem; None where it has not run."""
        return next(iter(self._rows(select(GridRow).where(GridRow.name == name))), None)

    def grids(self) -> list[RowValues]:
        """What is written down of the grids that have run, the last one first."""
        return self._rows(select(GridRow).order_by(GridRow.ran_at.desc(), GridRow.name))

    def last_grid(self) -> str | None:
        """The grid that ran last, by its name; None where nothing has run, or the last cell belonged to none."""
        known = self._rows(select(GridRow.name, GridRow.ran_at).order_by(GridRow.ran_at.desc()).limit(1))
        newest = select(CellRow.grid, RunRow.started_at).join(RunRow, RunRow.cell_key == CellRow.key)
        runs = self._rows(newest.order_by(RunRow.id.desc()).limit(1))
        if not runs or (known and known[0]["ran_at"] >= runs[0]["started_at"]):
            return known[0]["name"] if known else None
        return runs[0]["grid"]

    def failures(self) -> list[RowValues]:
        """The cells that have no successful run and whose newest one failed: their columns, as in `results`, and
        `error`."""
        newest = select(func.max(RunRow.id)).group_by(RunRow.cell_key)
        done = select(RunRow.cell_key).where(RunRow.status == "done")
        names = [column for column in CellRow.__table__.columns if column.name not in ("key", "created_at")]
        query = select(
            CellRow.key.label("cell_key"), *names, RunRow.id.label("run_id"), RunRow.error_message.label("error")
        )
        failed = query.join(RunRow, RunRow.cell_key == CellRow.key).where(
            RunRow.id.in_(newest), RunRow.status == "failed"
        )
        return self._rows(failed.where(CellRow.key.not_in(done)))

    def newest_runs(self, keys: Sequence[str]) -> dict[str, RowValues]:
        """Key of a cell -> its newest successful run, else its newest one."""
        runs = self._rows(select(RunRow).where(RunRow.cell_key.in_(keys)).order_by(RunRow.id))
        found: dict[str, RowValues] = {}
        for run in runs:
            if run["status"] == "done" or found.get(run["cell_key"], run)["status"] != "done":
                found[run["cell_key"]] = run
        return found

    def image_lists(self, run_ids: Sequence[int]) -> dict[int, list[Any]]:
        """Run -> its images in the order in which they were judged, each a row of place, label, draws, right draws
        (clean, attacked, null), votes on the adversarial image as `pack_votes` made them, as JSON, distance, broken_by,
        first_success."""
        row = ImageRow
        names = (row.run_id, row.image_index, row.label, row.draws, row.clean_correct, row.robust_correct)
        votes = type_coerce(row.robust_votes, Text)
        query = select(*names, row.null_correct, votes, row.distance, row.broken_by, row.first_success)
        found: dict[int, list[Any]] = {}
        with self._reading() as connection:
            chosen = query.where(row.run_id.in_(run_ids)).order_by(row.run_id, row.batch, row.position)
            for run, *image in connection.execute(chosen).cursor.fetchall():
                found.setdefault(run, []).append(image)
        return found

    def curves(self, run_ids: Sequence[int]) -> dict[int, list[list[dict[str, Any]]]]:
        """Run -> the convergence curves of its batches."""
        query = select(BatchRow.run_id, BatchRow.curve).where(BatchRow.run_id.in_(run_ids))
        found: dict[int, list[list[dict[str, Any]]]] = {}
        for row in self._rows(query.order_by(BatchRow.run_id, BatchRow.number)):
            found.setdefault(row["run_id"], []).append(unpack(row["curve"]))
        return found

    def evidence_places(self) -> dict[str, str]:
        """Key of a cell -> where the adversarial images of its newest successful run begin; without those of none."""
        newest = select(func.max(RunRow.id)).where(RunRow.status == "done").group_by(RunRow.cell_key)
        query = select(RunRow.cell_key, func.min(BatchRow.evidence).label("place")).join(BatchRow)
        chosen = query.where(RunRow.id.in_(newest), BatchRow.evidence.is_not(None)).group_by(RunRow.cell_key)
        return {row["cell_key"]: row["place"] for row in self._rows(chosen)}

    def count_by_grid(self) -> dict[str, int]:
        """Name of a grid -> how many of its cells are stored, the newest cell's grid first; without cells of none."""
        count = select(CellRow.grid, func.count().label("n")).where(CellRow.grid.is_not(None)).group_by(CellRow.grid)
        return {row["grid"]: row["n"] for row in self._rows(count.order_by(func.max(CellRow.created_at).desc()))}

    def keys_of(self, grid: str) -> list[str]:
        """Keys of the stored cells whose grid this is."""
        return [row["key"] for row in self._rows(select(CellRow.key).where(CellRow.grid == grid))]

    def query(
        self, sql: str, *, limit: int | None = None, seconds: float | None = None
    ) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Ask one SQL query on a connection that can only read, and only this database.

        Args:
            sql: the query.
            limit: at most so many rows, the first ones; None is all.
            seconds: how long it may take; None is without end.

        Returns:
            The names of the columns, and the rows.

        Raises:
            StoreError: the query would write, returns no rows, is wrong, names another file, or takes longer than it
                may; or the database is neither SQLite nor PostgreSQL.
        """
        if self._writer.dialect.name not in ("sqlite", "postgresql"):
            raise StoreError(f"Read-only queries work on SQLite and PostgreSQL, not on {self._writer.dialect.name}.")
        with self._reading() as connection, limited(connection, seconds):
            try:  # a cursor of PostgreSQL's takes one query, and no other statement; colons are no parameters here
                answer = connection.execution_options(stream_results=True).execute(text(sql.replace(":", r"\:")))
            except Warning as error:  # Python 3.11's sqlite3, on several statements
                raise StoreError(f"{self.where}: {error}") from error
            if not answer.returns_rows:
                raise StoreError("Expected a query that returns rows, such as SELECT * FROM results.")
            rows = answer if limit is None else answer.fetchmany(limit)
            return list(answer.keys()), [tuple(row) for row in rows]
