"""Labels: titles as they are, the fields that differ and no others."""

from __future__ import annotations

from typing import Any

import pytest

from bench.report.labels import field_text, join_label, label_of, set_labels
from bench.report.pooling import pool_seeds


def cell(name: str, title: str, params: dict[str, Any], **more: Any) -> dict[str, Any]:
    same = {
        "dataset": "digits",
        "classifier": "cnn",
        "score": "net",
        "norm": "Linf",
        "epsilon": 0.1,
        "attack": "pgd_eot",
    }
    return {**same, "defense": name, "defense_title": title, "defense_params": params, **more}


def labels(*cells: dict[str, Any]) -> list[str]:
    set_labels(cells)
    assert [label_of(c, "defense") for c in cells] == [c["defense_label"] for c in cells]
    return [c["defense_label"] for c in cells]


def test_a_title_is_shown_letter_for_letter() -> None:
    for title in ("adpative ddpm gdmp", "contrastive (jpeg)", "cifar10 model"):
        assert labels(cell("mine", title, {"t": 0.1})) == [title]


def test_the_fields_that_differ_and_no_others() -> None:
    found = labels(*(cell("ode", "DiffPure (ODE)", {"t": t, "steps": 5}) for t in (0.1, 0.2)))
    assert found == ["DiffPure (ODE, t=0.1)", "DiffPure (ODE, t=0.2)"]


def test_words_suffice_where_they_tell_the_rows_apart() -> None:
    cells = [
        cell("guided", "guided", {"solver": "ode", "per_image": False, "steps": 5}, defense_texts={"solver": "ODE"}),
        cell("guided", "guided", {"solver": "sde", "per_image": True, "steps": 20}, defense_texts={"solver": "SDE"}),
    ]
    assert labels(*cells) == ["guided (ODE)", "guided (per image, SDE)"]
    assert [c["defense_details"] for c in cells] == ["steps=5", "steps=20"]


def test_two_versions_and_two_classes_of_one_title_differ() -> None:
    versions = labels(*(cell("sde", "SDE", {}, defense_version=version) for version in (1, 2)))
    assert versions == ["SDE (version=1)", "SDE (version=2)"]
    assert labels(cell("mine", "SDE", {}), cell("sde", "SDE", {})) == ["SDE (mine)", "SDE (sde)"]


def test_two_networks_of_one_title_keep_their_names() -> None:
    cells = [cell("a", "A", {}, classifier=name, classifier_title="ResNet-50") for name in ("mine", "theirs")]
    set_labels(cells)
    assert [label_of(c, "classifier") for c in cells] == ["ResNet-50 (mine)", "ResNet-50 (theirs)"]
    set_labels(cells[:1])  # laid out again, alone
    assert label_of(cells[0], "classifier") == "ResNet-50"


def test_fields_that_a_defense_always_shows() -> None:
    trained = cell(
        "at", "adversarial training", {"model": "x"}, defense_texts={"model": "WRN, Linf"}, defense_always=("model",)
    )
    assert labels(trained) == ["adversarial training (WRN, Linf)"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "per image"), (False, ""), (None, ""), (3, "per_image=3"), (0.5, "per_image=0.5"), ("a_b", "a b")],
)
def test_a_field_as_a_table_writes_it(value: Any, text: str) -> None:
    assert field_text("per_image", value) == text


def test_remarks_share_the_brackets_of_a_title() -> None:
    assert join_label("DiffPure (ODE)", ["t=0.1"]) == "DiffPure (ODE, t=0.1)"
    assert join_label("JPEG", []) == "JPEG" and join_label("JPEG", ["a", "b"]) == "JPEG (a, b)"


def test_another_precision_than_float32_is_always_shown_and_float32_where_both_are() -> None:
    cells = [
        cell("sde", "SDE", {}, attack_title="PGD", attack_params={}, attack_precision=name)
        for name in ("float32", "bfloat16")
    ]
    set_labels(cells)
    assert [c["attack_label"] for c in cells] == ["PGD (float32)", "PGD (bfloat16)"]
    for alone, label in zip(cells, ("PGD", "PGD (bfloat16)"), strict=True):
        set_labels([alone])
        assert alone["attack_label"] == label
    older = {name: value for name, value in cells[0].items() if name != "attack_precision"}
    set_labels([older])
    assert older["attack_label"] == "PGD"
    assert len(pool_seeds([{**c, "num_images": 4} for c in cells])) == 2
