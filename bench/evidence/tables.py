"""Outcomes as files: npz, png, parquet."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np

from bench.evidence.outcomes import Outcomes

ENDINGS = {"npz": ".npz", "parquet": ".parquet", "png": ""}  # "" is a folder


def write_npz(outcomes: Outcomes, path: Path) -> None:
    """Arrays that numpy reads; `bench verify --images` takes the file too."""
    with path.open("wb") as file:
        np.savez_compressed(file, **outcomes.arrays())  # type: ignore[arg-type]


def write_png(outcomes: Outcomes, folder: Path) -> None:
    """Pictures of 8 bits a channel, <index>.png, and index.csv beside them."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for image, record in zip(outcomes.images, outcomes.records, strict=True):
        levels = (image * 255).round().clip(0, 255).astype(np.uint8)
        shown = levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)
        Image.fromarray(shown).save(folder / f"{record.index}.png")
    text = io.StringIO()
    rows = [{"file": f"{row['index']}.png", **row} for row in outcomes.rows()]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()})
    (folder / "index.csv").write_text(text.getvalue(), encoding="utf-8")


def write_parquet(outcomes: Outcomes, path: Path) -> None:
    """One row an image: `x_adv` as float32 bytes of the shape in `shape`, outcomes, votes as JSON.

    Raises:
        LookupError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise LookupError(
            "Parquet needs pyarrow, which is not installed. Try: pip install 'purification-bench[parquet]'."
        ) from error
    rows = []
    for image, row in zip(outcomes.images, outcomes.rows(), strict=True):
        plain = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()}
        rows.append({**plain, "shape": list(image.shape), "x_adv": np.ascontiguousarray(image, "<f4").tobytes()})
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
