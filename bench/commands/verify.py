"""`bench verify`: is a stored number what its images say?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.cell import Cell
from bench.commands.choose import chosen
from bench.evidence import EvidenceBatch, EvidenceError, Vault
from bench.evidence.agreement import compare_draws
from bench.evidence.checks import doubt_file, doubt_images, doubt_rows
from bench.evidence.judging import RUN, doubt_replay, judge_again
from bench.grids import load_grid
from bench.records import BatchRecord, ImageRecord
from bench.run.meter import Meter
from bench.run.prepare import Loader, Prepared, weights_of
from bench.run.provenance import hash_own_code, own_code_in
from bench.store import Store

SHARE = 0.01  # of a cell's network evaluations that judging again may cost
SHOWN = 5  # doubts of one kind that are written out


@dataclass
class Verdict:
    """What came of one cell.

    Attributes:
        lines: what was looked at, and what was found.
        doubts: what is wrong; none where everything held.
        complete: whether there were images to judge.
    """

    lines: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    complete: bool = True

    def note(self, what: str, good: str, doubts: Sequence[str]) -> None:
        """Add a line about one check.

        Args:
            what: was looked at.
            good: what it means if nothing is wrong.
            doubts: what is wrong.
        """
        self.doubts += doubts
        more = f" (and {len(doubts) - SHOWN} more)" if len(doubts) > SHOWN else ""
        self.lines.append(f"  {what:<8}{'WRONG: ' + '; '.join(doubts[:SHOWN]) + more if doubts else good}")


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How images are judged again.

    Attributes:
        draws: fresh draws an image; None is as many as a hundredth of the cell's cost pays for, the cell's at most.
        seed: of the fresh draws.
        replay: also ask the very draws of the run, which have to say the same.
    """

    draws: int | None = None
    seed: int = 0
    replay: bool = False


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
        _judge(verdict, run, cell, loader, files, judging)
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


def _judge(
    verdict: Verdict, run: dict[str, Any], cell: Cell, loader: Loader, files: list[EvidenceBatch], judging: Judging
) -> None:
    prepared = loader.prepare(cell)
    doubts: list[str] = []
    farthest = 0.0
    places = [torch.tensor(file.index) for file in files]
    labels = [torch.as_tensor(prepared.data.labels)[place] for place in places]
    for file, place, label in zip(files, places, labels, strict=True):
        clean = prepared.data.images(place)
        doubts += doubt_images(file, clean, label, cell.threat, restricted=cell.attack.restricted)
        farthest = max(farthest, max(outcome["distance"] for outcome in file.outcomes))
    ball = f"{cell.threat.norm} {cell.threat.epsilon:.6g}"
    inside = f"and {ball}" if cell.attack.restricted else f"(the attack has no ball; {ball} is for show)"
    verdict.note("images", f"inside [0, 1] {inside}, the farthest at {farthest:.6g}", doubts)
    changed = _what_changed(run, cell)
    if changed:
        verdict.lines.append(f"  note    judged with other {changed} than the run")
    if doubts:
        return
    device = [label.to(prepared.device) for label in labels]
    _judge_freshly(verdict, run, prepared, files, device, judging)
    if judging.replay:
        model, found = prepared.model(), []
        for file, label in zip(files, device, strict=True):
            said = judge_again(model, file, label, draws=cell.judging_draws, seed=cell.seed, role=RUN)
            found += doubt_replay(file, said)
        verdict.note("replayed", "the very draws of the run give every vote again", found)


def _what_changed(run: dict[str, Any], cell: Cell) -> str:
    changed = ["weights"] if run["weights"] != weights_of(cell) else []
    if own_code_in(run["packages"] or {}) != hash_own_code(cell.defense, cell.attack):
        changed.append("code of the defense or the attack")
    return " and ".join(changed)


def _judge_freshly(
    verdict: Verdict, run: dict[str, Any], prepared: Prepared, files: list[EvidenceBatch], labels: list[Any],
    judging: Judging,
) -> None:  # fmt: skip
    """Fresh draws, as many as are asked for or as a hundredth of the cell's cost pays for."""
    cell, model = prepared.cell, prepared.model()
    role = f"judge:verify {judging.seed}"
    right = [torch.zeros(len(label), dtype=torch.int64) for label in labels]
    spent = done = 0
    wanted = judging.draws or cell.judging_draws
    wanted = wanted if cell.defense.stochastic else 1
    with Meter(prepared.counted(model)) as meter:
        while done < wanted:
            for place, (file, label) in enumerate(zip(files, labels, strict=True)):
                said = judge_again(model, file, label, draws=1, seed=cell.seed, role=role, first=done)
                right[place] += (said == label).sum(0).cpu()
            done += 1
            spent += meter.take()
            if judging.draws is None and spent * (done + 1) / done > SHARE * (run["network_evaluations"] or 0):
                break
    outcomes = [outcome for file in files for outcome in file.outcomes]
    index = [i for file in files for i in file.index]
    stored = [outcome["robust_votes"].get(str(outcome["label"]), 0) for outcome in outcomes]
    draws = [sum(outcome["robust_votes"].values()) for outcome in outcomes]
    found = compare_draws(stored, draws, torch.cat(right).tolist(), done, stochastic=cell.defense.stochastic)
    low, high = run["robust_low"], run["robust_high"]
    told = (
        f"again on {done} fresh draw{'s' * (done > 1)}: robust {found.fresh:.1f} % beside {found.stored:.1f} % "
        f"[{low:.1f}, {high:.1f}]"
    )
    cost = (
        f"{100 * spent / run['network_evaluations']:.2g} % of the cell's network evaluations"
        if run["network_evaluations"]
        else ""
    )
    doubts = []
    if not found.agrees:
        by = f"{found.fresh - found.stored:+.1f} points, p = {found.p_value:.2g}"
        named = f", images {', '.join(str(index[i]) for i in found.changed[:SHOWN])}" if found.changed else ""
        doubts = [f"{told}: off by {by}{named}"]
    verdict.note("judged", f"{told}: agrees (p = {found.p_value:.2g}); {cost}", doubts)
