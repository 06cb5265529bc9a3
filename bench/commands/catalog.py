"""What `bench list` shows, without importing torch: a generated file, checked against the sources' hash.

`python -m bench.commands.catalog` writes it again. A stale file is never shown: the catalogue is then built
on the spot, slower.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.commands import grid_data
from bench.commands.sources import sources_hash

FILE = Path(__file__).with_name("catalog.json")
KINDS = ("defenses", "attacks", "datasets", "classifiers", "scores", "grids")

Entry = dict[str, Any]


def catalog() -> dict[str, list[Entry]]:
    """Kind -> entries, each with `name` and the columns that describe it."""
    try:
        stored = json.loads(FILE.read_text())
    except (OSError, ValueError):
        stored = {}
    return stored["kinds"] if stored.get("sources") == sources_hash() else build()


def build() -> dict[str, list[Entry]]:
    """The catalogue from the registries themselves."""
    from bench.attacks import attacks
    from bench.datasets import DATASETS
    from bench.grids import grid_names, load_grid
    from defenses import defenses
    from defenses.models.classifiers import CLASSIFIERS
    from defenses.models.scores import SCORES

    return {
        "defenses": [_defense(cls) for cls in defenses.values()],
        "attacks": [_attack(cls) for cls in attacks.values()],
        "datasets": [
            {"name": d.name, "classes": d.classes, "shape": "x".join(map(str, d.image_shape)), "source": d.source}
            for d in DATASETS.values()
        ],
        "classifiers": [
            {
                "name": c.name,
                "datasets": ", ".join(c.datasets),
                "clean": c.clean_accuracy,
                "licence": c.licence,
                "source": c.source,
            }
            for c in CLASSIFIERS.values()
        ],
        "scores": [
            {"name": s.name, "datasets": ", ".join(s.datasets), "licence": s.licence, "source": s.source}
            for s in SCORES.values()
        ],
        "grids": [{"name": name, "about": _first_paragraph(load_grid(name).about)} for name in grid_names()],
    }


def _defense(cls: Any) -> Entry:
    return {
        "name": cls.name,
        "stochastic": cls.stochastic,
        "batch-coupled": cls.batch_coupled,
        "gradients": ", ".join(cls.gradients) or "-",
        "evaluations": _cost(cls),
        "source": cls.source,
    }


def _cost(cls: Any) -> int | None:
    """Score-network evaluations an image of the default settings; None where there are no default settings."""
    try:
        return cls().network_evaluations
    except TypeError:
        return None


def _attack(cls: Any) -> Entry:
    return {"name": cls.name, "restricted": cls.restricted, "gradient-free": cls.gradient_free, "source": cls.source}


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split())


def refresh() -> None:
    """Write the catalogue's file again."""
    FILE.write_text(json.dumps({"sources": sources_hash(), "kinds": build()}, indent=1) + "\n")
    grid_data.refresh()


if __name__ == "__main__":
    refresh()
