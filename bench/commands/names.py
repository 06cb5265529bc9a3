"""What tables call data sets, networks, defenses and attacks, as plain data: reports read it without torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from bench.planned import PlannedCell

Entry = Mapping[str, Any]
KINDS = ("dataset", "classifier", "score", "defense", "attack")
PLAIN: Entry = {"title": None, "words": [], "always": [], "caveat": "", "batch_coupled": None}
"""`title`: what tables call it. Of a defense or an attack also `words`, pairs of a field's value and how tables write
it, and `always`, the fields that are always shown. Of a defense also `caveat`, what is known against its published
numbers, and `batch_coupled`, None where that depends on the fields."""
BESIDES: Mapping[tuple[str, str], Entry] = {
    ("attack", "external"): {"title": "images made elsewhere", "always": ["by"]}
}
"""What no grid writes down: images of others, see `bench.attacks._external`."""


class Names(Protocol):
    """Where the names are looked up."""

    def entry(self, kind: str, name: str) -> Entry:
        """What is known of a name; see `PLAIN`."""

    def is_batch_coupled(self, defense: str, params: Mapping[str, Any]) -> bool:
        """Whether one image's answer depends on its batch-mates."""


class StoredNames:
    """Names that were written down: see `gather_names`."""

    def __init__(self, stored: Iterable[Mapping[str, Any]], others: Names | None = None) -> None:
        """Join what several places know; the first that knows a name tells.

        Args:
            stored: results of `gather_names`.
            others: asked for what is in none of these.
        """
        self._others = others
        self._entries: dict[tuple[str, str], Entry] = {}
        self._coupled: dict[str, bool] = {}
        for names in stored:
            for kind in KINDS:
                for name, entry in names.get(kind, {}).items():
                    self._entries.setdefault((kind, name), entry)
            for text, coupled in names.get("batch_coupled", {}).items():
                self._coupled.setdefault(text, coupled)

    def entry(self, kind: str, name: str) -> Entry:
        """What was written down of a name, else the name itself."""
        found = self._entries.get((kind, name))
        if found is None and self._others is not None:
            return self._others.entry(kind, name)
        return found or {**PLAIN, "title": name, **BESIDES.get((kind, name), {})}

    def is_batch_coupled(self, defense: str, params: Mapping[str, Any]) -> bool:
        """As written down; of fields that nobody wrote down the class is asked, which imports torch."""
        if ("defense", defense) not in self._entries and self._others is not None:
            return self._others.is_batch_coupled(defense, params)
        if ("defense", defense) not in self._entries:  # of another version, or of someone else's
            return False
        always = self._entries["defense", defense]["batch_coupled"]
        if always is not None:
            return bool(always)
        found = self._coupled.get(_identify(defense, params))
        return LiveNames().is_batch_coupled(defense, params) if found is None else found


class LiveNames:
    """Names looked up in the registries of this process."""

    def entry(self, kind: str, name: str) -> Entry:
        """What is registered under a name; what is not registered any more is called by its name."""
        if kind in ("defense", "attack"):
            return _describe_class(kind, name)
        return {**PLAIN, "title": _title(_find_record(kind), name)}

    def is_batch_coupled(self, defense: str, params: Mapping[str, Any]) -> bool:
        """Whether the defense with these fields is; False of one that cannot be made here."""
        from defenses.base import defenses

        try:
            return bool(defenses.make(defense, params).batch_coupled)
        except (LookupError, TypeError, ValueError):  # a defense of another version, or of someone else's
            return False


def gather_names(cells: Iterable[PlannedCell]) -> dict[str, Any]:
    """Write down the names that cells use.

    Returns:
        kind -> name -> entry, and "batch_coupled" -> defense and fields -> whether they are, where the fields decide.
    """
    live = LiveNames()
    names: dict[str, Any] = {kind: {} for kind in KINDS} | {"batch_coupled": {}}
    for row in (cell.columns for cell in cells):
        for kind in KINDS:
            if row[kind] is not None and row[kind] not in names[kind]:
                names[kind][row[kind]] = live.entry(kind, row[kind])
        for value in (row["defense_params"] | row["attack_params"]).values():  # networks that a defense brings
            if isinstance(value, str) and value not in names["classifier"] and _is_classifier(value):
                names["classifier"][value] = live.entry("classifier", value)
        place = _identify(row["defense"], row["defense_params"])
        if names["defense"][row["defense"]]["batch_coupled"] is None and place not in names["batch_coupled"]:
            names["batch_coupled"][place] = live.is_batch_coupled(row["defense"], row["defense_params"])
    return names


def _identify(defense: str, params: Mapping[str, Any]) -> str:
    return json.dumps([defense, params], sort_keys=True)


def _describe_class(kind: str, name: str) -> Entry:
    from bench.attacks.base import attacks
    from defenses.base import defenses

    registry: Any = defenses if kind == "defense" else attacks
    if name not in registry:
        return {**PLAIN, "title": name}
    cls = registry[name]
    return {
        "title": getattr(cls, "title", name),
        "words": [list(pair) for pair in getattr(cls, "words", {}).items()],
        "always": list(getattr(cls, "always_shown", ())),
        "caveat": getattr(cls, "published_caveat", ""),
        "batch_coupled": _coupled_always(cls),
    }


def _coupled_always(cls: type) -> bool | None:
    """Whether a class is batch-coupled; None where the fields of an instance decide."""
    from defenses.traits import decided_by_fields

    return None if decided_by_fields(cls, "batch_coupled") else bool(cls.batch_coupled)  # type: ignore[attr-defined]


def _find_record(kind: str) -> Callable[[str], Any]:
    from bench.datasets import dataset_info
    from defenses.models.classifiers import classifier_info
    from defenses.models.scores import score_info

    return {"dataset": dataset_info, "classifier": classifier_info, "score": score_info}[kind]


def _is_classifier(name: str) -> bool:
    return _title(_find_record("classifier"), name) != name


def _title(look_up: Callable[[str], Any], name: str) -> str:
    try:
        return getattr(look_up(name), "title", name)
    except (LookupError, OSError, ValueError):  # a network that is gone, or another machine's
        return name
