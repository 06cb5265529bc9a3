"""What `bench list` shows, without importing torch: a generated file, checked against the sources' hash.

`python -m bench.commands.catalog` writes it again. A stale file is never shown: the catalogue is then built
on the spot, slower.
"""

from __future__ import annotations

import json
from collections.abc import Callable
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
        stored = json.loads(FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = {}
    return stored["kinds"] if stored.get("sources") == sources_hash() else build()


def build() -> dict[str, list[Entry]]:
    """The catalogue from the registries themselves."""
    return {kind: entries_of(kind) for kind in KINDS}


def entries_of(kind: str) -> list[Entry]:
    """The entries of one kind, plug-ins included, from its registry."""
    describe, registry = _describers()[kind]
    return [describe(registry[name]) for name in registry] if kind != "grids" else [describe(name) for name in registry]


def _describers() -> dict[str, tuple[Callable[[Any], Entry], Any]]:
    from bench.attacks import attacks
    from bench.datasets import DATASETS
    from bench.grids import GRIDS
    from defenses import defenses
    from defenses.models.classifiers import CLASSIFIERS
    from defenses.models.scores import SCORES

    return {
        "defenses": (_defense, defenses),
        "attacks": (_attack, attacks),
        "datasets": (_dataset, DATASETS),
        "classifiers": (_classifier, CLASSIFIERS),
        "scores": (_score, SCORES),
        "grids": (_grid, GRIDS),
    }


def _dataset(info: Any) -> Entry:
    shape = "x".join(map(str, info.image_shape))
    return {"name": info.name, "classes": info.classes, "shape": shape, "source": info.source}


def _classifier(info: Any) -> Entry:
    facts = {"datasets": ", ".join(info.datasets), "clean": info.clean_accuracy}
    return {"name": info.name, **facts, "licence": info.licence, "source": info.source}


def _score(info: Any) -> Entry:
    return {
        "name": info.name, "datasets": ", ".join(info.datasets), "licence": info.licence, "source": info.source,
    }  # fmt: skip


def _grid(name: str) -> Entry:
    from bench.grids import load_grid

    return {"name": name, "about": _first_paragraph(load_grid(name).about)}


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
    document = {"sources": sources_hash(), "kinds": build()}
    FILE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    grid_data.refresh()


if __name__ == "__main__":
    refresh()
