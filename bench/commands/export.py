"""`bench export`: a cell's images and outcomes for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.commands.doubts import find_doubts
from bench.datasets import dataset_info
from bench.evidence import Vault
from bench.evidence.metadata import write_croissant, write_hf
from bench.evidence.outcomes import Outcomes, join_batches
from bench.evidence.tables import write_npz, write_parquet, write_png
from bench.store import Store

FORMATS = ("npz", "png", "parquet", "hf", "croissant")


def export(db: str, key: str, form: str, output: Path | None, vault: Vault) -> str:
    """Write a cell's newest successful run.

    Args:
        db: path or URL of the database.
        key: the cell, by the beginning of its key.
        form: one of FORMATS.
        output: the file, or the folder of png, hf and croissant; None is named after the cell.
        vault: where the adversarial images lie.

    Returns:
        What was written, in a sentence.

    Raises:
        LookupError: an unknown cell, one that has not run, or one without images.
        ValueError: its files do not hold what the database says.
    """
    with Store(db, readonly=True) as store:
        cell = store.cell(key)
        run = store.latest_done(cell["key"])
        if run is None:
            raise LookupError(f"Cell {cell['key']} has no successful run yet. Run it with `bench run`.")
        doubts = find_doubts(store, [cell["key"]])[cell["key"]] if form in ("hf", "croissant") else []
        place = output or Path(f"{cell['key']}{'' if form in ('png', 'hf', 'croissant') else '.' + form}")
        if form == "hf":
            place.mkdir(parents=True, exist_ok=True)
            write_hf(cell, run, place / "README.md", doubts)
            return f"Wrote {place / 'README.md'}: the results of cell {cell['key']} for the Hugging Face hub."
        outcomes = _read(store, cell, run, vault)
    if form == "npz":
        write_npz(outcomes, place)
    elif form == "png":
        write_png(outcomes, place)
    elif form == "parquet":
        write_parquet(outcomes, place)
    else:
        place.mkdir(parents=True, exist_ok=True)
        write_parquet(outcomes, place / "images.parquet")
        write_croissant(cell, run, place / "images.parquet", place / "croissant.json", doubts)
    lost = " Rounded to 8 bits a channel: npz and parquet keep every bit." if form == "png" else ""
    return f"Wrote {place}: {len(outcomes.records)} images of cell {cell['key']}.{lost}"


def _read(store: Store, cell: dict[str, Any], run: dict[str, Any], vault: Vault) -> Outcomes:
    batches = store.batches(run["id"])
    if not all(batch.evidence for batch in batches):
        raise LookupError(
            f"Cell {cell['key']} keeps no adversarial images: its run is older than they are, or was made with "
            "--no-evidence. Run it again with `bench run --force`."
        )
    files = [vault.read_batch(str(batch.evidence), batch.evidence_sha256) for batch in batches]
    try:
        classes = dataset_info(cell["dataset"]).classes
    except LookupError:  # somebody's own data set, which no file here registers
        classes = 1
    return join_batches(files, store.images(run["id"]), classes)
