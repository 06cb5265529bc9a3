"""What the database keeps in few characters reads back."""

from __future__ import annotations

import json
from math import nan
from typing import Any

import pytest

from bench.store.packing import POINTS, pack, pack_rounded, pack_votes, unpack, unpack_row, unpack_votes


@pytest.mark.parametrize(
    ("votes", "packed"),
    [({3: 10}, 3), ({0: 1}, 0), ({3: 9, 8: 1}, {"3": 9, "8": 1})],
)
def test_votes_that_agree_are_their_label(votes: dict[int, int], packed: Any) -> None:
    assert pack_votes(votes) == packed
    assert unpack_votes(json.loads(json.dumps(packed)), sum(votes.values())) == votes


@pytest.mark.parametrize("rounded", [None, {3: 9, 8: 1}, {8: 1, 3: 9}, {3: 10}, {8: 10}])
def test_votes_of_a_rounded_image_are_kept_where_they_differ(rounded: dict[int, int] | None) -> None:
    robust = {3: 9, 8: 1}
    packed = None if rounded is None else pack_rounded(rounded, robust)
    assert (packed is None) == (rounded is None or rounded == robust)
    row = {"draws": 10, "clean_votes": 3, "robust_votes": pack_votes(robust), "null_votes": 8}
    correct = None if rounded is None else rounded.get(3, 0)
    votes = unpack_row({**row, "rounded_votes": packed, "rounded_correct": correct})
    assert votes == {
        "clean_votes": {3: 10}, "robust_votes": robust, "null_votes": {8: 10}, "rounded_votes": rounded
    }  # fmt: skip


@pytest.mark.parametrize("steps", [[0], [0, 1, 2], [4, 5], [0, 20, 40, 80], [0, 0, 1], [*range(POINTS)]])
def test_a_curve_reads_back(steps: list[int]) -> None:
    curve = [{"attack": "a", "images": 2, "step": step, "loss": step / 4, "accuracy": 0.5} for step in steps]
    curve += [{"attack": "b", "images": 2, "step": 7, "loss": None, "accuracy": 1.0}]
    assert unpack(json.loads(json.dumps(pack(curve)))) == curve


@pytest.mark.parametrize("length", [POINTS + 1, 2 * POINTS, 1000])
def test_a_long_curve_keeps_its_first_and_last_step_and_even_ones_between(length: int) -> None:
    curve = [{"attack": "a", "images": 2, "step": i, "loss": float(i), "accuracy": 0.5} for i in range(length)]
    kept = [point["step"] for point in unpack(pack(curve))]
    assert pack(unpack(pack(curve))) == pack(curve)  # what a migration packs again
    assert (kept[0], kept[-1]) == (0, length - 1) and POINTS // 2 < len(kept) <= POINTS
    assert len({b - a for a, b in zip(kept, kept[1:-1], strict=False)}) == 1


def test_what_is_no_number_becomes_null_and_others_lose_digits() -> None:
    (piece,) = pack([{"attack": "a", "images": 1, "step": 0, "loss": nan, "accuracy": 0.123456}])
    assert piece == {"attack": "a", "images": 1, "step": 0, "loss": [None], "accuracy": [0.1235]}
