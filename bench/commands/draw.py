"""`bench draw`: the images behind a number, and what the defense made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bench.cell import Cell
from bench.commands.strip import answer_tiles, choose_scale, name_of, purify_draws, show_difference
from bench.draw import Tile, draw_strip
from bench.draw.style import check_form
from bench.epsilon import epsilon_text
from bench.evidence import EvidenceBatch, Vault
from bench.grids import load_grid
from bench.run.prepare import Loader
from bench.store import Store


def draw(
    db: str,
    key: str,
    output: Path,
    loader: Loader,
    vault: Vault,
    *,
    grid: str | None = None,
    images: int = 8,
    index: Sequence[int] = (),
    draws: int = 3,
    seed: int = 0,
    width: str = "page",
) -> str:
    """Draw a strip of a cell into a file.

    Args:
        db: path or URL of the database.
        key: the cell, by the beginning of its key.
        output: the file; its ending says whether it is an SVG, a PNG or a PDF.
        loader: where data sets and networks come from.
        vault: where the adversarial images lie.
        grid: a file that defines what the cell names.
        images: how many, the first ones of the run: nobody chose them.
        index: these places of the test split instead.
        draws: purifications of each.
        seed: of these draws.
        width: "column" or "page" of a paper.

    Returns:
        What was drawn, in a sentence.
    """
    form = check_form(output.suffix)
    if grid is not None:
        load_grid(grid)
    with Store(db, readonly=True) as store:
        row = store.cell(key)
        run = store.latest_done(row["key"])
        if run is None:
            raise LookupError(f"Cell {row['key']} has no successful run yet. Run it with `bench run`.")
        kept = [batch for batch in store.batches(run["id"]) if batch.evidence is not None]
    if not kept:
        raise LookupError(
            f"Cell {row['key']} keeps no adversarial images: its run is older than they are, or was made with "
            "--no-evidence. Run it again with `bench run --force`."
        )
    files: list[EvidenceBatch] = []
    for batch in kept:
        assert batch.evidence is not None
        files.append(vault.read_batch(batch.evidence, batch.evidence_sha256))
        if not index and sum(len(file.index) for file in files) >= images:
            break
    cell = Cell.from_row(row)
    rows, scale = _make_rows(cell, files, loader, images, index, draws, seed)
    purifies = len(rows[0]) > 3
    heads = ["clean", "adversarial", f"difference × {scale:g}"]
    heads += [f"draw {number}" for number in range(1, len(rows[0]) - 2)] if purifies else []
    threat = f"{cell.threat.norm} {epsilon_text(cell.threat.epsilon)}, {cell.threat.gradient} gradient"
    remark = (
        "Under the clean image its label; under the adversarial one how many of the judge's draws were right; under "
        f"the difference (grey is none) its {cell.threat.norm} norm"
    )
    remark += "; under each purified image the answer, ✗ where it is wrong." if purifies else "."
    title = f"{cell.dataset}, {cell.classifier}, {cell.defense.title}, {cell.attack.title} ({threat})"
    output.write_bytes(draw_strip(rows, heads, title=title, remark=remark, width=width, form=form))
    return f"Wrote {output}: {len(rows)} images of cell {row['key']}, differences times {scale:g}."


def _make_rows(
    cell: Cell, files: Sequence[EvidenceBatch], loader: Loader, images: int, index: Sequence[int], draws: int, seed: int
) -> tuple[list[list[Tile]], float]:
    """The tiles of each image, and the scale of the differences."""
    prepared = loader.prepare(cell)
    model, names = prepared.model(), prepared.data.class_names
    known = {i: (file, place) for file in files for place, i in enumerate(file.index)}
    missing = [i for i in index if i not in known]
    if missing:
        raise LookupError(
            f"Image {missing[0]} is not in this cell. It has {', '.join(map(str, sorted(known)[:12]))} ..."
        )
    chosen = list(index) or list(known)[:images]
    clean = prepared.data.images(chosen)
    adversarial = torch.from_numpy(np.stack([known[i][0].images[known[i][1]] for i in chosen]))
    scale = choose_scale(adversarial - clean)
    ids = torch.tensor(chosen, device=prepared.device)
    count = draws if cell.defense.stochastic else 1
    purified = purify_draws(model, adversarial.to(prepared.device), ids, draws=count, seed=seed)
    cleans = all(not torch.allclose(draw.images, adversarial, atol=1e-6) for draw in purified)
    rows = []
    for place, i in enumerate(chosen):
        file, row = known[i]
        outcome = file.outcomes[row]
        label, votes = outcome["label"], outcome["robust_votes"]
        right, total = votes.get(str(label), 0), sum(votes.values())
        told = f"{right} of {total} right" if total > 1 or cleans else name_of(names, int(next(iter(votes))))
        wrong = right == 0
        rows.append(
            [
                Tile(clean[place].numpy(), name_of(names, label)),
                Tile(adversarial[place].numpy(), told + " ✗" * wrong, wrong),
                Tile(show_difference(clean[place], adversarial[place], scale), f"{outcome['distance']:.3g}"),
                *(answer_tiles(purified, place, label, names) if cleans else []),
            ]
        )
    return rows, scale
