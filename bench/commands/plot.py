"""`bench plot`: numbers of the database as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bench.commands.choose import chosen
from bench.commands.doubts import find_doubts
from bench.commands.titles import with_titles
from bench.draw import draw_bars, draw_lines, draw_scatter
from bench.draw.style import check_form
from bench.grids import load_grid
from bench.literature.publish import published_columns
from bench.literature.verdict import verdict_columns
from bench.report.frames import Result, cells_of, doubts_of, has_run
from bench.report.labels import label_of, set_labels
from bench.report.run_series import convergence_lines, published_marks, vote_bars, worst_lines
from bench.report.series import axis_label, lines_of
from bench.store import Store

KINDS = ("curve", "convergence", "votes", "worst", "published")
ACCURACIES = ("robust", "clean", "null", "vote", "worst", "first_success", "null_first_success", "rounded")
MOST = 8  # lines of one plot that can be told apart


def plot(
    db: str,
    keys: Sequence[str],
    grid: str | None,
    output: Path,
    *,
    protocol: str | None = None,
    kind: str = "curve",
    x: str | None = None,
    y: str = "robust",
    by: Sequence[str] = ("defense", "gradient"),
    width: str = "column",
    log: bool = False,
    title: str | None = None,
) -> str:
    """Draw a picture into a file.

    Args:
        db: path or URL of the database.
        keys: cells, by the beginnings of their keys.
        grid: all cells of this grid; None with no keys is every cell.
        protocol: only these cells of the grid.
        output: the file; its ending says whether it is an SVG, a PNG or a PDF.
        kind: one of KINDS.
        x: what a curve is drawn against; see `bench.report.series.number_of`.
        y: what a curve shows; "loss" or "accuracy" of a convergence.
        by: columns whose values make a line.
        width: "column" or "page" of a paper.
        log: whether x is logarithmic.
        title: heading; None is the grid's.

    Returns:
        What was drawn, in a sentence.
    """
    form = check_form(output.suffix)
    with Store(db, readonly=True) as store:
        cells = _cells(store, keys, grid, protocol)
        if kind != "convergence":
            doubts = find_doubts(store, [cell["cell_key"] for cell in cells])
            cells = [{**cell, "shared_doubts": doubts[cell["cell_key"]]} for cell in cells]
        shown: dict[str, Any] = {"width": width, "form": form}
        shown["title"] = title if title is not None else load_grid(grid).title if grid else ""
        if kind == "curve":
            data, said = _curve(store, cells, x, y, by, log, shown)
        elif kind == "published":
            marks = published_marks(cells)
            if not marks:
                raise ValueError("Expected cells that name a published number, found none among those that have run.")
            labels: dict[str, Any] = {
                "x_label": "published robust accuracy, %",
                "y_label": "measured robust accuracy, %",
            }
            data, said = draw_scatter(marks, **labels, **shown), f"{len(marks)} pairs of numbers"
        else:
            data, said = _of_runs(store, cells, kind, y, by, log, shown)
    output.write_bytes(data)
    return f"Wrote {output}: {said}."


def _cells(store: Store, keys: Sequence[str], grid: str | None, protocol: str | None) -> list[Result]:
    frame = with_titles(store.frame())
    wanted = {store.cell(key)["key"] for key in keys}
    published: dict[str, dict[str, Any]] = {}
    if grid is not None:
        ours = chosen(grid, protocol=protocol)
        wanted |= {cell.key for cell in ours} if not keys else set()
        known = {row["key"]: row for row in store.published()}
        caveats = {cell.key: cell.defense.published_caveat for cell in ours}
        literature = {cell.key: known.get(cell.published or "") for cell in ours}
        published = {key: published_columns(row) for key, row in literature.items()}
    found = [cell for cell in cells_of(frame) if not (keys or grid) or cell["cell_key"] in wanted]
    found = [{**cell, **published.get(cell["cell_key"], {})} for cell in found if has_run(cell)]
    if grid is not None:  # another grid, which named no number, may have run the cell
        found = [
            {**cell, **verdict_columns(cell, literature[key], caveats[key])}
            if (key := cell["cell_key"]) in caveats
            else cell
            for cell in found
        ]
    if not found:
        raise LookupError(f"No such cell has run in {store.where}. Run it with `bench run`.")
    return found


def _curve(
    store: Store, cells: list[Result], x: str | None, y: str, by: Sequence[str], log: bool, shown: dict[str, Any]
) -> tuple[bytes, str]:
    if x is None:
        raise ValueError("Expected --x NAME, what the curve is drawn against: epsilon, t, steps, eot, evaluations ...")
    _check_columns(cells, by)
    lines, left = lines_of(cells, x, y, by, cache(store.images))
    _check_few(lines)
    percent = y in ACCURACIES or y.endswith("_accuracy")
    y_label = f"{axis_label(y)} accuracy, %" if percent else axis_label(y)
    tiers = {cell["tier"] for cell in cells}
    remark = "95 % intervals." if any(p.low is not None for line in lines for p in line.points) else ""
    remark += " Quick tier: no robustness claim." if "quick" in tiers else ""
    data = draw_lines(
        lines, x_label=axis_label(x), y_label=y_label, percent=percent, log=log, remark=remark.strip(), **shown
    )
    said = f"{len(lines)} lines, {sum(len(line.points) for line in lines)} points"
    if not all(line.joined for line in lines):
        said += f"; points that differ in more than {x} are not joined (--by can name what else tells them apart)"
    return data, said + (f"; {left} cells have no {x} or no {y}" if left else "")


def _of_runs(
    store: Store, cells: list[Result], kind: str, y: str, by: Sequence[str], log: bool, shown: dict[str, Any]
) -> tuple[bytes, str]:
    """Pictures of the images or the steps of single runs."""
    _check_columns(cells, by)
    set_labels(cells)
    names = {cell["run_id"]: ", ".join(label_of(cell, column) for column in by) for cell in cells}
    if len(set(names.values())) < len(names):
        names = {cell["run_id"]: f"{names[cell['run_id']]}, {cell['cell_key'][:6]}" for cell in cells}
    names |= {cell["run_id"]: f"{names[cell['run_id']]}, in doubt" for cell in cells if doubts_of(cell)}
    if kind == "votes":
        if len(cells) > 1:
            raise ValueError(
                f"Expected one cell for a histogram of votes, got {len(cells)}. Name one: bench plot CELL."
            )
        bars = vote_bars(store.images(cells[0]["run_id"]))
        shown["title"] = shown["title"] or names[cells[0]["run_id"]]
        return draw_bars(
            bars, x_label="right draws of an image", y_label="images", **shown
        ), f"{cells[0]['num_images']} images"
    if kind == "worst":
        lines = worst_lines({name: store.images(run) for run, name in names.items()})
        labels: dict[str, Any] = {"x_label": "k", "y_label": "right in all of k draws, %"}
        _check_few(lines)
        return draw_lines(lines, **labels, log=log, **shown), f"{len(lines)} lines"
    y = "loss" if y == "loss" else "accuracy"
    steps = {name: [step for batch in store.batches(run) for step in batch.curve] for run, name in names.items()}
    lines = [line for line in convergence_lines(steps, y) if line.points]
    if not lines:
        raise ValueError("These attacks keep no convergence curve, or took no step.")
    _check_few(lines)
    y_label = "right draws of the attack, %" if y == "accuracy" else "loss"
    data = draw_lines(lines, x_label="step", y_label=y_label, percent=y == "accuracy", log=log, **shown)
    return data, f"{len(lines)} lines"


def _check_columns(cells: Sequence[Result], by: Sequence[str]) -> None:
    from defenses.registry import unknown_name

    for column in by:
        if column not in cells[0]:
            raise unknown_name("column", column, [name for name in cells[0] if "_" not in name])


def _check_few(lines: Sequence[Any]) -> None:
    if len(lines) > MOST:
        raise ValueError(
            f"Expected at most {MOST} lines, which the eye can tell apart, got {len(lines)}. Choose fewer cells "
            "(their keys, a grid) or fewer columns with --by."
        )
