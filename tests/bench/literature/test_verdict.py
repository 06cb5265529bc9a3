"""Verdicts: agreement by intervals, and never between numbers of different attackers."""

from __future__ import annotations

import pytest

from bench.literature.publish import read_published
from bench.literature.verdict import ATTACKERS, GRADIENTS, is_same_attack, verdict
from bench.statistics import wilson

MEASURED = {
    "robust_accuracy": 70.0,
    "robust_low": 58.0,
    "robust_high": 80.0,
    "num_images": 64,
    "norm": "Linf",
    "epsilon": 8 / 255,
    "gradient": "adjoint",
    "attack": "autoattack_rand",
    "attack_params": '{"eot": 20}',
    "tier": "paper",
}
PUBLISHED = {
    "robust_acc": 70.64,
    "n_images": None,
    "norm": "Linf",
    "epsilon": 8 / 255,
    "gradient_access": "adjoint",
    "attack": "AutoAttack",
    "attack_name": "autoattack",
}
BY_ATTACK = {row["attack"]: row for row in read_published()}


def test_a_value_inside_the_interval_agrees() -> None:
    word, reason = verdict(MEASURED, PUBLISHED)
    assert word == "agrees"
    assert reason == "measured 70.0 [58.0, 80.0] of 64 images meets the published 70.6 (number of images not stated)"


def test_the_published_interval_counts_where_its_images_are_known() -> None:
    outside = PUBLISHED | {"robust_acc": 81.0}
    assert verdict(MEASURED, outside)[0] == "disagrees"
    word, reason = verdict(MEASURED, outside | {"n_images": 512})
    low, high = wilson(0.81 * 512, 512)
    assert word == "agrees"
    assert reason.endswith(f"the published 81.0 [{100 * low:.1f}, {100 * high:.1f}] of 512 images")


@pytest.mark.parametrize("attack", ["autoattack_rand", "bpda_eot"])
def test_an_attacks_own_count_is_another_measure_than_fresh_draws(attack: str) -> None:
    """One wrong look is enough for the library; the judge asks images that it never broke, and finds them right."""
    published = PUBLISHED | {"attack_name": {"bpda_eot": "bpda_eot"}.get(attack, "autoattack")}
    word, reason = verdict(MEASURED | {"attack": attack, "draws": 10}, published)
    assert word == "not comparable" and "metric: measured on fresh draws" in reason
    assert "metric" not in verdict(MEASURED | {"attack": attack, "draws": 1}, published)[1]


@pytest.mark.parametrize(("value", "side"), [(20.0, "above"), (95.0, "below")])
def test_a_disagreement_says_on_which_side(value: float, side: str) -> None:
    word, reason = verdict(MEASURED, PUBLISHED | {"robust_acc": value, "n_images": 512})
    assert word == "disagrees" and f"lies {side} the published {value}" in reason


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("diffpure_wrn70_16_dropout", "WideResNet-70-16 (stated for all tests)"),
        ("cifar_resnet56", "not_stated"),
        ("file:blocks:mine.safetensors", "WideResNet-28-10"),
    ],
)
def test_the_same_or_an_unknown_classifier_is_no_difference(ours: str, theirs: str) -> None:
    assert verdict(MEASURED | {"classifier": ours}, PUBLISHED | {"classifier": theirs})[0] == "agrees"


@pytest.mark.parametrize(
    ("measured", "published", "reason"),
    [
        ({"tier": "quick"}, {}, "quick tier, not a robustness claim"),
        ({"gradient": "exact"}, {}, "gradient: measured exact, published adjoint"),
        ({}, {"gradient_access": "exact (reported flawed)"}, "gradient: measured adjoint, published exact (rep"),
        ({}, {"norm": "L2", "epsilon": 0.5}, "threat: measured Linf 0.0314, published L2 0.5000"),
        ({}, {"epsilon": None}, "threat: measured Linf 0.0314, published Linf of unknown size"),
        ({"attack": "pgd_eot"}, {}, "attack: measured pgd_eot, published AutoAttack"),
        (
            {},
            {"metric": "worst", "metric_stated": "Wor.Rob over 10 evaluations"},
            "metric: measured on single draws, published Wor.Rob over 10 evaluations",
        ),
        (
            {"classifier": "cifar_resnet56"},
            {"classifier": "WideResNet-28-10"},
            "classifier: measured ResNet-56, published WideResNet-28-10",
        ),
        ({}, {"robust_acc": float("nan")}, "the source states no robust accuracy"),
    ],
)
def test_different_attackers_are_not_compared(measured: dict, published: dict, reason: str) -> None:
    word, found = verdict(MEASURED | measured, PUBLISHED | published)
    assert word == "not comparable"
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("name", "params", "published", "same"),
    [
        ("autoattack", {"variant": "standard"}, "AutoAttack (standard)", True),
        ("autoattack", {"variant": "rand"}, "AutoAttack (standard)", False),
        ("autoattack_standard", {}, "AutoAttack rand (EOT 20)", False),
        ("autoattack_rand", {"eot": 20}, "AutoAttack rand (EOT 20)", True),
        ("autoattack_rand", {"eot": 4}, "AutoAttack rand (EOT 20)", False),
        ("pgd_eot", {"steps": 200, "eot": 20}, "PGD+EOT (200 steps, EOT 20)", True),
        ("pgd_eot", {"steps": 20, "eot": 20}, "PGD+EOT (200 steps, EOT 20)", False),
        ("pgd_eot", {"steps": 20}, "PGD+EOT", True),
        ("bpda_eot", {"steps": 50, "eot": 15}, "BPDA+EOT (50 steps, EOT 15)", True),
        ("diffattack", {"steps": 100, "eot": 20}, "DiffAttack (100 it, EOT 20)", True),
        ("transfer", {}, "AutoAttack on classifier only", True),
        ("autoattack", {}, "AutoAttack on classifier only", False),
        ("my_attack", {}, "AutoAttack", False),
        ("pgd_eot", {"steps": 10, "eot": 1}, "PGD-100", False),
        ("pgd_eot", {"steps": 100, "eot": 1}, "PGD-100", True),
        ("pgd_eot", {"steps": 10}, "PGD, BPDA+EOT", False),
        ("eotpgd_10", {"steps": 10}, "PGD+EOT, one denoising step as approximation", False),
        ("eotpgd_10", {"steps": 10}, "PGD+EOT (10 steps, EOT 10)", True),
        ("eotpgd_10", {"steps": 10}, "PGD", False),
        ("autoattack_standard", {}, "AutoAttack, BPDA+EOT", False),
        ("autoattack_rand", {}, "Fixed AutoAttack (20 final replicas)", True),
        ("diffattack", {"steps": 10}, "DiffAttack-DiffGrad; Wor.Rob, 10 evaluations, 100 it", False),
        ("diffhammer", {}, "DiffHammer + EOT; Avg.Rob over 10 evaluations", True),
        ("square_eot", {}, "Square (5000 queries)", True),
        ("transfer", {}, "DMI (transfer) + EOT; Avg.Rob over 10 evaluations", False),
        ("transfer", {}, "PGD-100 on classifier only", True),
        ("pgd_eot", {}, "Diff-PGD-10", False),
        ("bpda_eot", {"eot": 15}, "BPDA + EOT 20", False),
        ("clean", {}, "no attack; Avg.Rob over 10 evaluations", True),
        ("gold", {}, "external evaluation listed by RobustBench", False),
    ],
)
def test_attacks_match_by_family_and_stated_settings(name: str, params: dict, published: str, same: bool) -> None:
    assert is_same_attack(name, params, BY_ATTACK[published]) is same


@pytest.mark.parametrize("kind", ["transfer", "identity", "surrogate", "detached", "other"])
def test_a_verdict_says_what_the_published_attack_could_not_differentiate(kind: str) -> None:
    word, reason = verdict(MEASURED, PUBLISHED | {"attacker_gradient": kind})
    assert word == "agrees" and reason.endswith(ATTACKERS[kind]) and reason != ATTACKERS[kind]
    word, reason = verdict(MEASURED | {"tier": "quick"}, PUBLISHED | {"attacker_gradient": kind})
    assert word == "not comparable" and reason == f"quick tier, not a robustness claim; {ATTACKERS[kind]}"
    assert ("transfer number" in reason) is (kind == "transfer")


@pytest.mark.parametrize("kind", ["exact", "adjoint", "none", None])
def test_an_attack_that_differentiates_the_defense_needs_no_word(kind: str | None) -> None:
    assert verdict(MEASURED, PUBLISHED | {"attacker_gradient": kind}) == verdict(MEASURED, PUBLISHED)


def test_what_published_attacks_differentiated() -> None:
    """The words are known; where the source names its gradient, the two columns agree; AAOpt's logs are transfers."""
    known = {"exact", "adjoint", "surrogate", "identity", "detached", "transfer", "none", "other", None}
    same = {"straight_through": "identity", "guidance_detached": "detached"}
    for row in read_published():
        kind, access = row["attacker_gradient"], GRADIENTS.get(row["gradient_access"])
        assert kind in known
        if access is not None and (row["source_key"], kind) != ("lei2025oscp", "transfer"):
            assert kind == same.get(access, access), row["key"]
        if row["attack_target"] and row["defense_family"] == "purification":
            assert kind == "transfer", row["key"]
    logged = {row["robust_acc"]: row for row in read_published() if row["source_key"] == "aaopt2025"}
    assert [logged[value]["attacker_gradient"] for value in (89.26, 86.91, 88.28, 28.32)] == [
        *("transfer", "transfer", "transfer", "identity")
    ]


def test_equal_attacks_have_equal_columns() -> None:
    """The columns are written once for each text of the column `attack`, in words that the comparison knows."""
    names = ("attack_name", "attack_variant", "attack_steps", "attack_eot", "attack_target", "attack_several")
    names += ("metric", "metric_stated")
    for row in read_published():
        assert [row[name] for name in names] == [BY_ATTACK[row["attack"]][name] for name in names]
        assert row["attack_target"] in (None, "classifier only") and row["attack_several"] in (None, "yes")
        assert row["metric"] in (None, "worst", "vote", "average")
        assert (row["metric"] is None) == (row["metric_stated"] is None)
