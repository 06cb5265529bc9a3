"""How the cells of a table are called: titles, with the fields in brackets that differ among the rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from bench.literature.verdict import MODELS
from bench.report.frames import Result, group_by
from bench.report.numbers import COLUMN_TITLES, name_text
from bench.report.pooling import TWINS

THREAT = ("dataset", "classifier", "norm", "epsilon")
NAMES = ("defense", "attack", "classifier", "dataset", "norm", "gradient", "tier")
PRECISION, USUAL = "attack_precision", "float32"  # of an attack: another one is always shown
NOISE, FRESH = "noise", "fresh"  # as well
REST = (
    *NAMES,
    "epsilon",
    "score",
    "num_images",
    "seed",
    "data_seed",
    "defense_version",
    "attack_version",
    PRECISION,
    NOISE,
)
NETWORKS = ("dataset", "classifier", "score")


def label_of(cell: Mapping[str, Any], column: str) -> str:
    """A field of a cell as a table writes it: its label, else its title, else its value."""
    return cell.get(f"{column}_label") or cell.get(f"{column}_title") or name_text(column, cell.get(column))


def set_labels(cells: Sequence[Result]) -> None:
    """Set `<column>_label` for data set, classifier, score network, defense and attack.

    A defense is compared with itself under one data set, classifier, norm and epsilon: the fields that differ there
    stand in brackets behind its title, and those of `defense_always` too. Where words alone tell the rows apart, the
    numbers that differ as well go into `<column>_details`, for the legend. Two networks with one title keep their
    names.
    """
    for cell in cells:  # a sheet that turns out too wide is laid out again
        for column in (*NETWORKS, *COLUMN_TITLES):
            cell.pop(f"{column}_label", None)
    for column in NETWORKS:
        for same_title in group_by(cells, partial(_title, column=column)):
            if len({cell.get(column) for cell in same_title}) > 1:
                for cell in same_title:
                    cell[f"{column}_label"] = join_label(_title(cell, column), [str(cell.get(column))])
    for column in ("defense", "attack"):
        for group in group_by(cells, partial(_rival_key, column=column)):
            _label_group(group, column, [_fields(cell, column) for cell in group])


def part_twins(cells: Sequence[Result], place: Callable[[Result], Any]) -> None:
    """Where cells would share a place of the table, name the draws, batch size or balance that sets them apart."""
    for group in group_by(cells, place):
        if len(group) > 1:
            _label_group(group, "defense", [{name: cell.get(name) for name in TWINS} for cell in group])


def name_models(cells: Sequence[Result]) -> None:
    """Call the network of a defense that is a classifier itself by its own name, in place of the cell's classifier.

    The row stays where it was: `classifier_place` keeps the other name.
    """
    for cell in cells:
        if cell.get("defense") in MODELS:
            params, texts = cell.get("defense_params") or {}, cell.get("defense_texts") or {}
            model = texts.get("model") or params.get("model")
            cell["classifier_place"] = label_of(cell, "classifier")
            cell["classifier_label"] = model or (label_of(cell, "score") if cell.get("score") else str(cell["defense"]))


def part_rest(cells: Sequence[Result], place: Callable[[Result], Any], column: str) -> None:
    """Where cells share a place still, say what differs in brackets behind `column`: at last the keys of the cells."""
    for group in group_by(cells, place):
        told: list[list[str]] = [[] for _ in group]
        for name in (*REST, "cell_key"):
            if len({str(remarks) for remarks in told}) == len(group):
                break
            values = [_rest_text(cell, name) for cell in group]
            if len(set(values)) > 1:
                told = [[*remarks, value] for remarks, value in zip(told, values, strict=True)]
        for cell, remarks in zip(group, told, strict=True):
            if remarks:
                cell[f"{column}_label"] = join_label(label_of(cell, column), remarks)


def _rest_text(cell: Result, name: str) -> str:
    if name == "cell_key":
        return str(cell.get(name))[:8]
    text = label_of(cell, name)
    return text if name in NAMES else f"{name}={text}"


def join_label(title: str, remarks: Sequence[str]) -> str:
    """Title and remarks in one pair of brackets: "DiffPure (ODE)", ["t=0.1"] -> "DiffPure (ODE, t=0.1)"."""
    if not remarks:
        return title
    head, bracket, inside = title.removesuffix(")").partition(" (") if title.endswith(")") else (title, "", "")
    return f"{head} ({', '.join([*([inside] if bracket else []), *remarks])})"


def field_text(name: str, value: Any) -> str:
    """A field as a table writes it: a true one its name, a word itself, others name=value; "" for None and False."""
    if value is None or value is False:
        return ""
    if value is True:
        return name.replace("_", " ")
    if isinstance(value, str):
        value = f"{value} noise" if name == NOISE else value
        return value.replace("_", " ")
    return f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"


def _title(cell: Result, column: str) -> str:
    return cell.get(f"{column}_title") or str(cell.get(column))


def _rival_key(cell: Result, column: str) -> tuple[str, ...]:
    return (_title(cell, column), *(str(cell.get(name)) for name in THREAT))


def _fields(cell: Result, column: str) -> dict[str, Any]:
    """What tells two cells of one defense or attack apart."""
    network = {"score": cell.get("score")} if column == "defense" else {}
    name = {"registered": cell.get(column)}  # two classes may have one title
    if column == "attack":
        name |= {PRECISION: cell.get(PRECISION) or USUAL, NOISE: cell.get(NOISE) or FRESH}
    return {**(cell.get(f"{column}_params") or {}), **network, **name, "version": cell.get(f"{column}_version")}


def _label_group(group: Sequence[Result], column: str, fields: Sequence[Mapping[str, Any]]) -> None:
    written = [json.dumps(given, sort_keys=True) for given in fields]
    kinds = dict(zip(written, zip(group, fields, strict=True), strict=True))  # many cells have equal fields
    names = sorted({name for _, given in kinds.values() for name in given})
    differing = {name for name in names if len({json.dumps(given.get(name)) for _, given in kinds.values()}) > 1}
    told: dict[str, list[str]] = {}
    for text, (cell, given) in kinds.items():
        texts = cell.get(f"{column}_texts") or {}
        always = {
            *(cell.get(f"{column}_always") or ()),
            *(name for name, usual in ((PRECISION, USUAL), (NOISE, FRESH)) if given.get(name) != usual),
        }
        shown = [name for name in names if name in differing or name in always]
        remarks = filter(None, (texts.get(name, field_text(name, given.get(name))) for name in shown))
        told[text] = sorted(remarks, key=_is_number)  # words before numbers
    words = {text: [remark for remark in remarks if not _is_number(remark)] for text, remarks in told.items()}
    enough = len({str(remarks) for remarks in words.values()}) == len(kinds)
    for cell, text in zip(group, written, strict=True):
        every, short = told[text], words[text]
        cell[f"{column}_label"] = join_label(label_of(cell, column), short if enough else every)
        cell[f"{column}_details"] = ", ".join(remark for remark in every if remark not in short) if enough else ""


def _is_number(text: str) -> bool:
    return "=" in text
