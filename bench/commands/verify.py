"""`bench verify`: is a stored number what its images say?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.cell import Cell
from bench.commands.choose import chosen
from bench.commands.verify_judging import Judging, Verdict, judge_files
from bench.evidence import EvidenceBatch, EvidenceError, Vault
from bench.evidence.checks import doubt_file, doubt_rows
from bench.grids import load_grid
from bench.records import BatchRecord, ImageRecord
from bench.run.prepare import Loader
from bench.store import Store


def verify(
    db: str, keys: Sequence[str], grid: str | None, loader: Loader, vault: Vault, judging: Judging
) -> Iterator[tuple[str, Verdict]]:
    """Check cells one by one, in words.

    Args:
        db: path or URL of the database.
        keys: cells, by the beginnings of their keys.
        grid: all cells of this grid that have run, where no key is given; a file may define what the cells name.
        loader: where data sets and networks come from.
        vault: where the adversarial images lie.
        judging: how they are judged again.

    Returns:
        The text about each cell that has run, and its verdict.
    """
    if grid is not None:
        load_grid(grid)
    with Store(db, readonly=True) as store:
        wanted = [store.cell(key) for key in keys] if keys else _cells_of(store, grid)
        for row in wanted:
            run = store.latest_done(row["key"])
            if run is None and not keys:
                continue
            if run is None:
                yield f"{row['key']}  not verified: no run of it has finished.", Verdict(complete=False)
                continue
            try:
                cell = Cell.from_row(row)
                verdict = _verify_cell(store, row, run, cell, loader, vault, judging)
            except (LookupError, ValueError) as error:  # one cell that cannot be loaded does not stop the others
                yield f"{row['key']}  not verified: {error}", Verdict(complete=False)
                continue
            yield "\n".join([f"{row['key']}  {cell}", *verdict.lines, _conclude(verdict)]), verdict


def _cells_of(store: Store, grid: str | None) -> list[dict[str, Any]]:
    if grid is None:
        raise ValueError("Expected a cell or --grid NAME, got neither. `bench query` lists the cells: "
                         '"SELECT cell_key, defense FROM results".')  # fmt: skip
    rows = []
    for cell in chosen(grid):
        try:
            rows.append(store.cell(cell.key))
        except LookupError:
            rows.append(cell.row())
    return rows


def _conclude(verdict: Verdict) -> str:
    if verdict.doubts:
        return f"  NOT VERIFIED: {len(verdict.doubts)} of these do not hold."
    return (
        "  VERIFIED"
        if verdict.complete
        else "  INCOMPLETE: nothing is wrong with the rows, but there is nothing to judge."
    )


def _verify_cell(
    store: Store, row: dict[str, Any], run: dict[str, Any], cell: Cell, loader: Loader, vault: Vault, judging: Judging
) -> Verdict:
    verdict = Verdict()
    rows = store.image_rows(run["id"])
    found = list(doubt_rows(row, run, rows, stochastic=cell.defense.stochastic))
    verdict.note("rows", f"{len(rows)} images: votes, counts and accuracies agree", found)
    data = loader.pictures(cell)
    index = [image["image_index"] for image in rows]
    _check_data(verdict, run, rows, data, index)
    batches = store.batches(run["id"])
    kept = [batch for batch in batches if batch.evidence is not None]
    if not kept:
        verdict.complete = False
        verdict.lines.append("  images  none were kept: the run is older than evidence, or was made with --no-evidence")
        return verdict
    records = {batch.number: [] for batch in batches}  # type: dict[int, list[ImageRecord]]
    for image, record in zip(rows, _records(store, run["id"], verdict), strict=False):
        records[image["batch"]].append(record)
    files = _read_files(verdict, kept, len(batches), vault, records)
    if files and not verdict.doubts:
        judge_files(verdict, run, cell, loader, files, judging)
    elif files:
        verdict.lines.append("  judged  not again, since something above is wrong")
    return verdict


def _records(store: Store, run_id: int, verdict: Verdict) -> list[ImageRecord]:
    try:
        return store.images(run_id)
    except ValueError:  # votes that do not add up: told already
        return []


def _check_data(verdict: Verdict, run: dict[str, Any], rows: list[dict[str, Any]], data: Any, index: list[int]) -> None:
    """Labels against the data set, and whether it is the copy that the run saw."""
    outside = [i for i in index if not 0 <= i < len(data)]
    if outside:
        verdict.note("labels", "", [f"image {outside[0]} is not among the {len(data)} of {data.name}"])
        return
    known = data.labels.tolist()
    wrong = [
        f"image {row['image_index']}: label {row['label']} is stored, the data set says {known[row['image_index']]}"
        for row in rows
        if known[row["image_index"]] != row["label"]
    ]
    seen = (run["packages"] or {}).get("pictures_used")
    if seen is not None and not wrong and seen != data.fingerprint_of(index):
        wrong = [f"the pictures of {data.name} here are not those of the run (another copy, decoder or part)"]
    verdict.note("labels", f"as in {data.name}, whose pictures are those of the run", wrong)


def _read_files(
    verdict: Verdict, kept: list[BatchRecord], batches: int, vault: Vault, records: dict[int, list[ImageRecord]]
) -> list[EvidenceBatch]:
    files: list[EvidenceBatch] = []
    doubts: list[str] = []
    missing: list[str] = []
    for batch in kept:
        assert batch.evidence is not None
        try:
            file = vault.read_batch(batch.evidence, batch.evidence_sha256)
        except EvidenceError as error:
            missing.append(str(error))
            continue
        except ValueError as error:
            doubts.append(str(error))
            continue
        doubts += doubt_file(file, records[batch.number])
        files.append(file)
    if len(kept) != batches:
        doubts.append(f"{batches - len(kept)} of {batches} batches have no images")
    verdict.note("files", f"{len(files)}, each with the sum that is stored, and with the votes of the rows", doubts)
    if missing:
        verdict.complete = False
        verdict.lines.append(f"  images  missing: {missing[0]}")
    return files
