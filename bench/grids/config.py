"""A grid in TOML: data set, classifiers, defenses, attacks, threat and numbers; lists are swept. "
"docs/adding-a-grid.md."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.grids.grid import Grid
from bench.grids.toml_values import convert, sweep
from defenses.registry import unknown_name
from defenses.user_error import UserFileError

if TYPE_CHECKING:
    from bench.cell import Cell
    from defenses.base import Defense

ALIASES = {
    "datasets": "dataset", "classifier": "classifiers", "num_images": "images", "seed": "seeds", "defense": "defenses",
    "data_seed": "data_seeds", "gradient": "gradients", "attack": "attacks", "attack_precision": "attack_precisions",
}  # fmt: skip
KEYS: dict[str, Any] = {
    "title": str, "caption": str, "score": str, "images": int, "draws": int, "batch_size": int, "balanced": bool,
    "tier": str, "dataset": None, "classifiers": None, "seeds": None, "data_seeds": None, "gradients": None,
    "attack_precisions": None, "plugins": None, "defenses": None, "attacks": None, "threat": None,
}  # fmt: skip
"""Key -> its type; None where there is more to it."""
NEEDED = ("dataset", "classifiers", "defenses", "attacks", "threat")
CELL = {"images": "num_images", "draws": "draws", "batch_size": "batch_size", "balanced": "balanced", "tier": "tier"}


def load_config(path: Path) -> Grid:
    """The grid of a TOML file.

    Raises:
        LookupError: there is no such file.
        UserFileError: it is no TOML, or holds something that no grid has; the message names the key.
    """
    if not path.is_file():
        raise LookupError(f"There is no grid file {path} in {Path.cwd()}. Give the path of a TOML file.")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserFileError(f"{path.name}: {error}. Texts stand in quotes; docs/adding-a-grid.md has one.") from error
    values = _checked(found, path.name)
    title, caption = values.get("title", path.stem), values.get("caption", "")
    return Grid(title=title, caption=caption, about=title, cells=lambda: _cells(values, path))


def _checked(found: Mapping[str, Any], file: str) -> dict[str, Any]:
    values = {}
    for key, value in found.items():
        name = ALIASES.get(key, key)
        if name not in KEYS:
            raise UserFileError(f"{file}: {unknown_name('key', key, KEYS)}")
        if name in values:
            raise UserFileError(f"{file}: {key}: found {name} too. Write one of them.")
        values[name] = value if KEYS[name] is None else convert(value, KEYS[name], f"{file}: {key}")
    missing = [name for name in NEEDED if name not in values]
    if missing:
        raise UserFileError(f"{file}: expected the key {missing[0]}, found {', '.join(found) or 'none'}. Add it.")
    for name, kind in (
        ("dataset", str),
        ("classifiers", str),
        ("plugins", str),
        ("gradients", str),
        ("attack_precisions", str),
    ):
        values[name] = [convert(v, kind, f"{file}: {name}") for v in _list(values.get(name, []))]
    for name in ("seeds", "data_seeds"):
        values[name] = [convert(v, int, f"{file}: {name}") for v in _list(values.get(name, 0))]
    empty = [name for name in ("dataset", "classifiers", "defenses", "attacks") if not values[name]]
    if empty:
        raise UserFileError(f"{file}: {empty[0]}: expected at least one, found none.")
    return values


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _cells(values: Mapping[str, Any], path: Path) -> Iterator[Cell]:
    from bench.attacks import attacks
    from bench.cell import Cell
    from bench.datasets import dataset_info
    from bench.threat import ThreatModel
    from defenses import defenses
    from defenses.models.classifiers import classifier_info
    from defenses.models.scores import score_info
    from defenses.precision import PRECISIONS
    from defenses.user_file import load_file

    file = path.name
    for plugin in values["plugins"]:
        load_file(path.parent / Path(plugin).expanduser())
    _look_up(values["dataset"], dataset_info, f"{file}: dataset")
    _look_up(values["classifiers"], classifier_info, f"{file}: classifiers")
    _look_up([values["score"]] if "score" in values else [], score_info, f"{file}: score")
    fields = {CELL[name]: values[name] for name in CELL if name in values}
    precisions = values["attack_precisions"] or ["float32"]
    for name in precisions:
        if name not in PRECISIONS:
            raise UserFileError(f"{file}: attack_precision: {unknown_name('precision', name, PRECISIONS)}")
    threats = _threats(values["threat"], file, ThreatModel)
    made = [list(_made(entry, attacks, f"{file}: attacks[{k}]")) for k, entry in enumerate(_list(values["attacks"]))]
    chosen = [attack for _, _, attack in sum(made, [])]
    for number, entry in enumerate(_list(values["defenses"])):
        place = f"{file}: defenses[{number}]"
        for score, own, defense in _made(entry, defenses, place):
            score = score or values.get("score")
            if defense.needs_score and score is None:
                raise UserFileError(f'{place}: {defense.name} needs a score network, found none. Add score = "...".')
            kinds = _gradients(own, values["gradients"], defense, place)
            for dataset, classifier, attack, threat, kind, precision, seed, data_seed in product(
                *(values["dataset"], values["classifiers"], chosen, threats, kinds, precisions),
                *(values["seeds"], values["data_seeds"]),
            ):
                try:
                    cell = Cell(
                        dataset=dataset, classifier=classifier, score=score if defense.needs_score else None,
                        defense=defense, attack=attack, threat=replace(threat, gradient=kind), seed=seed,
                        data_seed=data_seed, **fields,
                    )  # fmt: skip
                    yield cell.attacked_in(precision)
                except ValueError as error:
                    raise UserFileError(f"{file}: {error}") from error


def _look_up(names: list[str], info: Any, place: str) -> None:
    for name in names:
        try:
            info(name)
        except (LookupError, ValueError) as error:
            raise UserFileError(f"{place}: {error}") from error


def _made(entry: Any, registry: Any, place: str) -> Iterator[tuple[str | None, list[str], Any]]:
    """(score network, kinds of gradient, instance) of every combination that a table, or a name, stands for."""
    table = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise UserFileError(f"{place}: expected a name, or a table with a name and fields, found {entry!r}.")
    try:
        cls = registry[table["name"]]
    except LookupError as error:
        raise UserFileError(f"{place}.name: {error}") from error
    own = {"name"} if registry.kind == "attack" else {"name", "score", "gradients", "gradient"}
    fields = {name: value for name, value in table.items() if name not in own}
    kinds = [convert(v, str, f"{place}.gradients") for v in _list(table.get("gradients", table.get("gradient", [])))]
    score = convert(table["score"], str, f"{place}.score") if "score" in table and "score" in own else None
    for chosen in sweep(cls, fields, place):
        try:
            yield score, kinds, cls(**chosen)
        except (ValueError, TypeError) as error:
            raise UserFileError(f"{place}: {error}") from error


def _threats(given: Any, file: str, cls: Any) -> list[Any]:
    tables = _list(given)
    if not all(isinstance(table, dict) for table in tables):
        raise UserFileError(f"{file}: threat: expected a table with norm and epsilon, found {given!r}. Write [threat].")
    found = []
    for table in tables:
        if "epsilon" not in table:
            raise UserFileError(f'{file}: threat.epsilon: expected a number or a fraction such as "8/255", found none.')
        if "gradient" in table:
            raise UserFileError(f"{file}: threat.gradient: write gradients = [...] above all tables.")
        for fields in sweep(cls, table, f"{file}: threat"):
            try:
                found.append(cls(**fields))
            except ValueError as error:
                raise UserFileError(f"{file}: threat: {error}") from error
    return found


def _gradients(own: list[str], common: list[str], defense: Defense, place: str) -> list[Any]:
    """The kinds that a defense is attacked with: its own, else those of the file that it has, else the strongest."""
    from defenses.base import GRADIENTS
    from defenses.defended import ALWAYS

    has = (*defense.gradients, *ALWAYS)
    for kind in (*own, *common):
        if kind not in GRADIENTS:
            raise UserFileError(f"{place}: {unknown_name('kind of gradient', kind, GRADIENTS)}")
    wrong = [kind for kind in own if kind not in has] or (common if not own and not set(common) & set(has) else [])
    if wrong:
        raise UserFileError(f"{place}: {defense.name} has no gradient {wrong[0]!r}. It has: {', '.join(has)}.")
    chosen = own or [kind for kind in common if kind in has]
    return chosen or ["exact" if "exact" in defense.gradients else "straight_through"]
