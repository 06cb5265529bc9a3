"""The mark on a number under the purifier's own gradient that the same attack with another gradient beats."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from bench.records import ImageRecord
from bench.report.outdone import mark_outdone


def test_an_exact_gradient_that_another_kind_beats_is_marked_and_never_best() -> None:
    same = {"defense": "guided", "defense_params": {}, "attack": "pgd_eot", "tier": "quick", "num_images": 64}
    exact = {**same, "gradient": "exact", "robust_accuracy": 59.4, "robust_low": 48.4}
    weak = {**same, "gradient": "straight_through", "robust_accuracy": 62.5, "robust_low": 52.0}
    held = {**same, "gradient": "guidance_detached", "robust_accuracy": 43.8, "robust_low": 32.8}
    mark_outdone([exact, weak])
    assert "outdone" not in exact
    mark_outdone([exact, weak, held, {**held, "defense": "another", "robust_accuracy": 1.0}])
    assert "guidance_detached gradient leaves 43.8 %" in exact["outdone"]
    assert "outdone" not in weak and "outdone" not in held
    strong = {**held, "gradient": "transfer", "robust_accuracy": 8.4, "robust_low": 3.8}
    mark_outdone([exact, weak, held, strong])
    assert "transfer gradient leaves 8.4 %, less than with the guidance_detached one" in held["outdone"]
    assert "transfer gradient leaves 8.4 %" in weak["outdone"]  # an attacker who knows less finds more


def test_that_a_weak_kind_finds_less_than_a_strong_one_is_no_news() -> None:
    same = {"defense": "guided", "attack": "pgd_eot", "tier": "quick", "num_images": 64}
    weak = {**same, "gradient": "straight_through", "robust_accuracy": 62.5, "robust_low": 52.0}
    exact = {**same, "gradient": "exact", "robust_accuracy": 3.0, "robust_low": 1.0}
    mark_outdone([weak, exact])
    assert "outdone" not in weak and "outdone" not in exact


def images_of(rights: dict[int, int]) -> Callable[[int], list[ImageRecord]]:
    """run_id -> 64 images, of which so many are right."""

    def images(run: int) -> list[ImageRecord]:
        votes = {"label": 1, "clean_votes": {1: 1}, "null_votes": {1: 1}, "distance": 0.0}
        return [ImageRecord(index=i, robust_votes={int(i < rights[run]): 1}, **votes) for i in range(64)]

    return images


def test_another_attack_that_leaves_far_less_marks_a_number() -> None:
    same = {"defense": "guided", "gradient": "exact", "robust_low": 0.0}
    pgd = {**same, "attack": "pgd_eot", "robust_accuracy": 53.1, "run_id": 1}
    gold = {**same, "attack": "gold", "robust_accuracy": 6.2, "run_id": 2}
    noise = {**same, "attack": "noise", "gradient": "none", "robust_accuracy": 98.0, "run_id": 3}
    mark_outdone([pgd, gold, noise], images_of({1: 34, 2: 4, 3: 63}))
    assert "The attack gold with the exact gradient leaves 6.2 %" in pgd["outdone"]
    assert "outdone" not in gold and "outdone" not in noise
    close = {**same, "attack": "apgd_eot", "robust_accuracy": 50.0, "run_id": 1}
    mark_outdone([close, {**gold, "run_id": 2}], images_of({1: 34, 2: 31}))
    assert "outdone" not in close  # three of 64 images prove nothing


def test_the_same_attack_in_another_precision_is_a_rival_of_its_own() -> None:
    same = {"defense": "guided", "gradient": "exact", "robust_low": 0.0, "attack": "pgd_eot"}
    low = {**same, "attack_precision": "bfloat16", "robust_accuracy": 53.1, "run_id": 1}
    full = {**same, "attack_precision": "float32", "robust_accuracy": 6.2, "run_id": 2}
    mark_outdone([low, full], images_of({1: 34, 2: 4}))
    assert "The attack pgd_eot in float32 with the exact gradient leaves 6.2 %" in low["outdone"]
    assert "outdone" not in full


def test_first_success_far_below_the_judge_marks_a_number() -> None:
    honest = {"defense": "sde", "attack": "pgd_eot", "gradient": "exact", "robust_low": 0.0, "num_images": 64}
    honest |= {"robust_accuracy": 54.4, "first_success_accuracy": 24.7, "null_accuracy": 100.0}
    honest["null_first_success_accuracy"] = 100.0
    lucky = {**honest, "defense": "noisy", "robust_accuracy": 90.0, "null_first_success_accuracy": 30.0}
    false = {**honest, "defense": "false", "robust_accuracy": 98.4, "first_success_accuracy": 3.1}
    mark_outdone([honest, lucky, false])
    assert "outdone" not in honest and "outdone" not in lucky
    assert "saw all but 3.1 % of the images broken, the judge only all but 98.4 %" in false["outdone"]


@pytest.mark.parametrize(("lost", "marked"), [(12, True), (0, False)])
def test_with_the_images_at_hand_the_paired_test_decides(lost: int, marked: bool) -> None:
    """Both intervals hold both numbers, but on the same 64 images one attack breaks twelve more, or as many others."""

    def images(run: int) -> list[ImageRecord]:
        right = range(32 - lost) if run == 2 else range(32)
        votes = {"label": 1, "clean_votes": {1: 1}, "null_votes": {1: 1}, "distance": 0.0}
        return [ImageRecord(index=i, robust_votes={int(i in right): 1}, **votes) for i in range(64)]

    same = {"defense": "guided", "defense_params": {}, "attack": "pgd_eot", "robust_low": 0.0}
    exact = {**same, "gradient": "exact", "robust_accuracy": 50.0, "run_id": 1}
    held = {**same, "gradient": "guidance_detached", "robust_accuracy": 50.0 - lost / 0.64 - 0.1, "run_id": 2}
    mark_outdone([exact, held], images)
    assert ("outdone" in exact) is marked
    others = {**same, "gradient": "exact", "robust_accuracy": 50.0, "run_id": 1, "balanced": True}
    mark_outdone([others, held], images)
    assert "outdone" not in others  # balanced: other images


def test_the_mark_tests_all_seeds_together() -> None:
    """Three of 64 images prove nothing, three of each of eight samples do; what one sample shows others may deny."""

    def marks(lost: Sequence[int]) -> set[bool]:
        def images(run: int) -> list[ImageRecord]:
            sample, held = divmod(run, 2)
            votes = {"label": 1, "clean_votes": {1: 1}, "null_votes": {1: 1}, "distance": 0.0}
            right = 32 - held * lost[sample]
            return [ImageRecord(index=100 * sample + i, robust_votes={int(i < right): 1}, **votes) for i in range(64)]

        same = {"defense": "guided", "attack": "pgd_eot", "robust_accuracy": 50.0}
        cells = [
            {**same, "gradient": kind, "data_seed": k, "run_id": 2 * k + held}
            for k in range(len(lost))
            for held, kind in enumerate(("exact", "guidance_detached"))
        ]
        mark_outdone(cells, images)
        return {"outdone" in cell for cell in cells if cell["gradient"] == "exact"}

    assert marks([3]) == {False} and marks([3] * 8) == {True}
    assert marks([12]) == {True} and marks([12, -12, -12]) == {False}
