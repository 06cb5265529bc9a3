"""`bench list KIND NAME` says everything that is known under one name."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from bench.attacks import attacks
from bench.commands.list import describe, listing
from defenses import defenses
from defenses.registry import field_docs


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_defense_is_described_by_title_source_fields_traits_and_caveat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    cls, text = defenses["gdmp"], describe("defenses", "gdmp")
    assert text.startswith("gdmp: GDMP (version 1)\n\nSource: Wang et al., 2022")
    assert "Attributes:" not in text and max(map(len, text.splitlines())) <= 80
    for field in dataclasses.fields(cls):
        assert any(line.startswith(f"{field.name} ") for line in text.splitlines()), field.name
    rounds = next(line for line in text.splitlines() if line.startswith("rounds"))
    assert rounds.split() == ["rounds", "4", *field_docs(cls)["rounds"].split()][: len(rounds.split())]
    assert "stochastic: yes" in text and "needs: a score network" in text and "evaluations: 1440" in text
    assert "gradients: exact, guidance_detached, surrogate, straight_through, transfer, none" in words(text)
    assert words(defenses["ssni"].published_caveat) in words(describe("defenses", "ssni"))


def test_long_defaults_and_meanings_wrap_inside_their_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = describe("defenses", "gradual_noise").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("levels "))
    assert lines[first].startswith("levels   (30, 30, 30, 30, 50,    noise levels of the stages")
    assert lines[first + 1].startswith("         50, 125, 125)           ")


def test_needs_of_a_defense() -> None:
    needs = {
        "jpeg": "needs: nothing",
        "contrastive": "needs: a score network and the classifier",
        "adp": "needs: a score network or the score of the images alone",
    }
    for name, line in needs.items():
        assert line in describe("defenses", name).splitlines()


@pytest.mark.parametrize("kind", ["defenses", "attacks"])
def test_every_class_has_a_description_with_its_summary(kind: str) -> None:
    for name, cls in (defenses if kind == "defenses" else attacks).items():
        text = describe(kind, name)
        assert words((inspect.getdoc(cls) or "").split("\n\n")[0]) in words(text)
        assert all(field.name in text for field in dataclasses.fields(cls))


def test_names_made_on_the_spot_are_those_of_the_registries() -> None:
    from bench.commands.list import PATTERNS
    from bench.datasets import DATASETS
    from defenses.models.classifiers import CLASSIFIERS
    from defenses.models.scores import SCORES

    for kind, registry in (("datasets", DATASETS), ("classifiers", CLASSIFIERS), ("scores", SCORES)):
        assert set(PATTERNS[kind]) == set(registry.patterns)  # type: ignore[attr-defined]
        assert "<file>.py:<function>" in listing(kind)
