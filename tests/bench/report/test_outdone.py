"""The mark on a number under the purifier's own gradient that the same attack with another gradient beats."""

from __future__ import annotations

from collections.abc import Sequence

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
    assert "outdone" not in weak  # everyone knows that it is weak


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
