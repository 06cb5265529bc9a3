"""The pages of a site, each made from data when it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.epsilon import epsilon_text
from bench.report.compare import ATTACKER
from bench.report.frames import Result, doubts_of
from bench.report.labels import label_of
from bench.report.numbers import absent
from bench.report.outdone import SAME_DEFENSE
from bench.view.charts import draw_convergence
from bench.view.libraries import FILES, read_asset
from bench.view.safe import write_script
from bench.view.words import NUMBERS, badge, describe_cell, find_doubts, knows_noise

HERE = Path(__file__).parent
OWN = ("site.js", "site.css")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css",
    ".png": "image/png",
}
THREAT = ("dataset", "classifier", "attack", "norm", "epsilon", "gradient", "tier")
COLUMNS = (
    "key", "defense", "attack", "gradient", "tier", "dataset", "classifier", "threat", "images", "clean", "robust",
    "low", "high", "null", "published", "verdict", "gates", "doubts", "grid",
)  # fmt: skip
IMAGES = ("index", "label", "draws", "clean", "robust", "null", "predicted", "votes", "distance", "broken_by", "first")
PROVENANCE = (
    "commit_hash", "dirty", "device", "precision", "started_at", "finished_at", "seconds", "network_evaluations",
    "weights", "licences", "packages", "notes",
)  # fmt: skip


@dataclass(frozen=True)
class CellData:
    """What a cell's page shows beside its row of `results`.

    Attributes:
        run: columns of `runs` of its newest successful run, or of its newest one.
        images: one row an image, as `IMAGES` names them.
        curve: points {attack, step, loss, accuracy}, averaged over batches; accuracy in percent.
        command: the command line that measures it again, or a sentence where none does.
    """

    run: Mapping[str, Any]
    images: Sequence[Sequence[Any]]
    curve: Sequence[Mapping[str, Any]]
    command: str


def no_pictures(key: str) -> Sequence[Path]:
    """Picture files of a cell, such as strips of its adversarial images: none."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Site:
    """What the pages are made from.

    Attributes:
        cells: rows of `results`, decoded and labelled, and those of cells without one, with their `error`.
        read: keys -> (key, what its page shows), one after another.
        published: rows of the table `published`.
        where: the database in words.
        pictures: key -> picture files, which its page shows.
        find_marks: () -> key -> why other results contradict the cell. It reads every image: the table of all cells is
            shown without waiting for it.
    """

    cells: Sequence[Result]
    read: Callable[[Sequence[str]], Iterable[tuple[str, CellData]]]
    published: Sequence[Mapping[str, Any]]
    where: str
    pictures: Callable[[str], Sequence[Path]] = field(default=no_pictures)
    find_marks: Callable[[], Mapping[str, str]] = field(default=dict)


class Pages:
    """A site as files: path -> content."""

    def __init__(self, site: Site) -> None:
        """Nothing is read before it is asked for."""
        self.site = site
        self.by_key = {cell["cell_key"]: cell for cell in site.cells}

    @cached_property
    def _templates(self) -> Any:
        try:
            from jinja2 import Environment, FileSystemLoader, StrictUndefined
        except ModuleNotFoundError as error:
            raise LookupError("Expected the package jinja2. pip install 'purification-bench[view]'.") from error

        made = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        made.filters["percent"] = lambda value: "–" if absent(value) else f"{value:.1f}"
        return made

    def fixed(self) -> list[str]:
        """Paths of everything but the cells."""
        assets = [f"assets/{name}" for name in (*FILES, *OWN)]
        data = [f"data/{name}.js" for name in ("cells", "marks", "literature")]
        return ["index.html", "compare.html", "literature.html", *data, *assets]

    def content(self, path: str) -> bytes | None:
        """The file of a path; None where there is none."""
        folder, _, name = path.rpartition("/")
        if path in self.fixed():
            return self._fixed(folder, name)
        stem, _, kind = name.partition(".")
        if folder.startswith("pictures/"):
            files = {picture.name: picture for picture in self.site.pictures(folder.rpartition("/")[2])}
            return files[name].read_bytes() if name in files else None
        if stem not in self.by_key or (folder, kind) not in (("cell", "html"), ("data", "js")):
            return None
        for key, data in self.site.read([stem]):
            return self.cell_page(key, data) if kind == "html" else self.cell_data(key, data)
        return None

    def _fixed(self, folder: str, name: str) -> bytes:
        if folder == "assets":
            return (HERE / "static" / name).read_bytes() if name in OWN else read_asset(name)
        if name == "cells.js":
            return f"window.benchCells = {write_script(self._cells())};\n".encode()
        if name == "marks.js":
            return f"window.benchMarks = {write_script(self._marks)};\n".encode()
        if name == "literature.js":
            return f"window.benchLiterature = {write_script(self._literature())};\n".encode()
        values = {"where": self.site.where, "count": len(self.site.cells), "top": ""}
        return self._templates.get_template(name).render(**values).encode()

    @cached_property
    def _marks(self) -> dict[str, str]:
        return dict(self.site.find_marks())

    def _cells(self) -> dict[str, Any]:
        return {"columns": COLUMNS, "rows": [self._row(cell) for cell in self.site.cells]}

    def _row(self, cell: Result) -> list[Any]:
        names = [label_of(cell, name) for name in ("defense", "attack")]
        threat = f"{cell['norm']} {epsilon_text(cell['epsilon'])}"
        threat += ", known noise" if knows_noise(cell) else ""
        return [
            cell["cell_key"], *names, cell["gradient"], cell["tier"], label_of(cell, "dataset"),
            label_of(cell, "classifier"), threat, cell["num_images"],
            *(_round(cell.get(name)) for name in ("clean_accuracy", "robust_accuracy", "robust_low", "robust_high")),
            _round(cell.get("null_accuracy")), _round(cell.get("published_robust")), cell.get("verdict"), badge(cell),
            "\n".join(find_doubts(cell)), cell.get("grid"),
        ]  # fmt: skip

    def _literature(self) -> list[list[Any]]:
        """Each published number, with the cells that measured it again."""
        measured: dict[str, list[list[Any]]] = {}
        for cell in self.site.cells:
            if not absent(cell.get("published_key")):
                number = [cell["cell_key"], _round(cell.get("robust_accuracy")), cell.get("verdict"), cell["tier"]]
                number.append(badge(cell))
                measured.setdefault(str(cell["published_key"]), []).append(number)
        rows = []
        for row in self.site.published:
            told = [row[name] for name in ("source_title", "year", "source_table", "dataset", "classifier", "defense")]
            told += [row["attack"], row["gradient_access"], f"{row['norm']} {row['eps']}"]
            told += [row[name] for name in ("n_images", "standard_acc", "robust_acc", "confidence", "notes")]
            told.append(row["attacker_gradient"])
            rows.append([*told, measured.get(row["key"], [])])
        return rows

    def cell_page(self, key: str, data: CellData) -> bytes:
        """The page of a cell."""
        cell = self.by_key[key] | {"outdone": self._marks.get(key)}
        numbers = [
            (title, cell.get(f"{name}_accuracy"), cell.get(f"{name}_low"), cell.get(f"{name}_high"), meaning)
            for name, title, meaning in NUMBERS
            if not absent(cell.get(f"{name}_accuracy"))
        ]
        chart = draw_convergence(data.curve)
        values = {
            "top": "../",
            "where": self.site.where,
            "key": key,
            "cell": cell,
            "title": f"{label_of(cell, 'defense')} under {label_of(cell, 'attack')}",
            "words": describe_cell(cell),
            "doubts": find_doubts(cell),
            "numbers": numbers,
            "gates": cell.get("gates") or [],
            "curve": data.curve[:: max(1, len(data.curve) // 12)],
            "chart": write_script(chart) if chart else None,
            "pictures": [picture.name for picture in self.site.pictures(key)],
            "count": len(data.images),
            "command": data.command,
            "settings": _settings(cell),
            "provenance": [(name, _plain(value)) for name in PROVENANCE if (value := data.run.get(name)) is not None],
        }
        return self._templates.get_template("cell.html").render(**values).encode()

    def cell_data(self, key: str, data: CellData) -> bytes:
        """The images of a cell, for its page and for comparisons."""
        cell = self.by_key[key]
        packages = data.run.get("packages") or {}
        drawn = [cell.get(name) for name in ("dataset", "num_images", "data_seed", "balanced")]
        content = {
            "key": key,
            "title": f"{label_of(cell, 'defense')} under {label_of(cell, 'attack')}, {cell['gradient']}",
            "threat": {name: cell.get(name) for name in THREAT} | {"noise": cell.get("noise") or "fresh"},
            "pictures": packages.get("pictures"),
            "used": packages.get("pictures_used"),
            "drawn": drawn,
            "doubts": doubts_of(cell | {"outdone": self._marks.get(key)}),
            "defense": json.dumps([cell.get(name) for name in SAME_DEFENSE], sort_keys=True, default=str),
            "attacker": json.dumps([cell.get(name) for name in ATTACKER], sort_keys=True, default=str),
            "columns": IMAGES,
            "rows": data.images,
        }
        name, told = write_script(key), write_script(content)
        return f"window.benchImages = window.benchImages || {{}};\nwindow.benchImages[{name}] = {told};\n".encode()


def _round(value: Any) -> float | None:
    """As the tables print it: to round twice, or with JavaScript's ties, shows another number than they do."""
    return None if absent(value) else float(f"{value:.1f}")


def _plain(value: Any) -> str:
    from json import dumps

    return dumps(value, indent=1, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)


def _settings(cell: Result) -> list[tuple[str, str]]:
    """Everything that decides the number, by column."""
    shown = (
        "dataset", "classifier", "score", "defense", "defense_version", "defense_params", "attack", "attack_version",
        "attack_params", "norm", "epsilon", "gradient", "tier", "num_images", "draws", "data_seed", "balanced", "seed",
        "noise", "attack_precision", "batch_size", "grid", "cell_key",
    )  # fmt: skip
    return [
        (name, epsilon_text(cell[name]) if name == "epsilon" else _plain(cell[name]))
        for name in shown
        if not absent(cell.get(name))
    ]
