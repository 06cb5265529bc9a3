"""A cell as plain data: its columns and its key, without the classes behind them, so that reports need no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

SEEDS = ("seed", "data_seed")
SAME = ("dataset", "classifier", "score")
MORE = ("num_images", "data_seed", "balanced")


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """What is to be measured.

    Attributes:
        columns: of table `cells`, but `key`.
        batch_coupled: whether an image's result depends on the batch that it was in, and so `batch_size` on the key.
    """

    columns: Mapping[str, Any]
    batch_coupled: bool

    @cached_property
    def key(self) -> str:
        """The key of the cell: see `hash_resolved`."""
        row = self.columns
        noise = row.get("noise") or "fresh"
        precision = row.get("attack_precision") or "float32"
        named = {
            kind: {"name": row[kind], "version": row[f"{kind}_version"], "params": row[f"{kind}_params"]}
            for kind in ("defense", "attack")
        }
        return hash_resolved(
            {
                **{name: row[name] for name in (*SAME, *MORE, "draws", "seed", "tier")},
                **named,
                "threat": {
                    **{name: row[name] for name in ("norm", "epsilon", "gradient")},
                    **({"noise": noise} if noise != "fresh" else {}),
                },
                "batch_size": row["batch_size"] if self.batch_coupled else None,
                **({"attack_precision": precision} if precision != "float32" else {}),
            }
        )

    def row(self) -> dict[str, Any]:
        """The columns of table `cells`."""
        return {"key": self.key, **self.columns}

    def change(self, **values: Any) -> PlannedCell:
        """The cell with other columns, and another key."""
        return replace(self, columns={**self.columns, **values})


def hash_resolved(resolved: Mapping[str, Any]) -> str:
    """First 16 hex digits of the sha256 of the canonical JSON of everything that decides a number."""
    text = json.dumps(resolved, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pack_cells(cells: Sequence[PlannedCell]) -> list[dict[str, Any]]:
    """Cells as JSON: neighbours that differ in their seeds alone are one entry."""
    packed: list[dict[str, Any]] = []
    for cell in cells:
        row = {name: value for name, value in cell.columns.items() if name not in SEEDS}
        head, seeds = {"row": row, "batch_coupled": cell.batch_coupled}, [cell.columns[name] for name in SEEDS]
        if packed and {name: packed[-1][name] for name in head} == head:
            packed[-1]["seeds"].append(seeds)
        else:
            packed.append({**head, "seeds": [seeds]})
    return packed


def unpack_cells(packed: Sequence[Mapping[str, Any]]) -> Iterator[PlannedCell]:
    """Undo `pack_cells`."""
    for entry in packed:
        for seeds in entry["seeds"]:
            columns = {**entry["row"], **dict(zip(SEEDS, seeds, strict=True))}
            yield PlannedCell(columns=columns, batch_coupled=entry["batch_coupled"])
