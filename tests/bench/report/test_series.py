"""What a plot shows: the right numbers under the right names, and no line through cells that differ in more than x."""

from __future__ import annotations

from typing import Any

import pytest
from store_data import image

from bench.records import NOT_CONVERGED
from bench.report.entries import Notes, robust
from bench.report.run_series import convergence_lines, published_marks, vote_bars, worst_lines
from bench.report.series import lines_of, number_of, numbers_of


def cell(t: float, robust: float, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": "cifar10", "classifier": "net", "score": "s", "defense": "d", "defense_title": "D", "attack": "a",
        "attack_title": "A", "defense_params": {"t": t, "steps": 5, "clip": True},
        "attack_params": {"steps": 10, "eot": 2},
        "norm": "Linf", "epsilon": 8 / 255, "gradient": "exact", "tier": "quick", "num_images": 4, "data_seed": 0,
        "seed": 0, "draws": 5, "cell_key": f"{t}{robust}{changes}", "robust_accuracy": robust, "robust_low": robust - 5,
        "robust_high": robust + 5, "clean_accuracy": 90.0, "clean_low": 80.0, "clean_high": 95.0, "run_id": 1,
        "network_evaluations": 400, **changes,
    }  # fmt: skip


def test_numbers_by_name() -> None:
    one = cell(0.1, 40.0)
    found = [
        number_of(one, name) for name in ("t", "eot", "EOT", "evaluations", "robust", "draws", "attack.steps", "eps")
    ]
    assert found == [0.1, 2, 2, 100, 40, 5, 10, pytest.approx(8 / 255)]
    assert number_of(one, "clip") is None and number_of(one, "gradient") is None


def test_a_line_for_each_value_of_by_without_x_in_its_name() -> None:
    cells = [cell(t, 100 * t, gradient=kind) for kind in ("exact", "transfer") for t in (0.2, 0.1)]
    lines, left = lines_of(cells, "t", "robust", ("defense", "gradient"))
    assert [line.name for line in lines] == ["D, exact", "D, transfer"] and left == 0
    assert [(p.x, p.y, p.low, p.high) for p in lines[0].points] == [(0.1, 10, 5, 15), (0.2, 20, 15, 25)]
    assert all(line.joined for line in lines)
    (line,), _ = lines_of(cells, "t", "clean", ("defense",))
    assert not line.joined and line.points[0].low == 80.0


def test_a_doubted_number_is_a_doubted_point_but_the_clean_accuracy_beside_it_is_none() -> None:
    failed = [{"gate": "unseen", "passed": False, "reason": "The defense knows the pictures."}]
    cells = [
        cell(0.1, 60.0),
        cell(0.2, 60.0, gates=failed),
        cell(0.3, 60.0, notes=[f"{NOT_CONVERGED}it won 5 points."]),
    ]
    for y, doubted in (
        ("robust", [False, True, True]),
        ("robust_accuracy", [False, True, True]),
        ("clean", [False] * 3),
    ):
        (line,), _ = lines_of(cells, "t", y, ("defense",))
        assert [point.doubted for point in line.points] == doubted
    marked = published_marks([one | {"published_robust": 70.0} for one in cells])
    assert [mark.group.endswith(", in doubt") for mark in marked] == [False, True, True]


def test_epsilon_is_an_axis_too() -> None:
    (line,), _ = lines_of([cell(0.1, 60.0, epsilon=e) for e in (0.1, 0.05)], "epsilon", "robust", ("defense",))
    assert [p.x for p in line.points] == [0.05, 0.1] and line.joined and line.name == "D"


def test_one_name_for_two_fields_is_refused_and_an_unknown_one_lists_what_differs() -> None:
    both = [cell(0.1, 1.0, defense_params={"steps": n}, attack_params={"steps": 2 * n}) for n in (1, 2)]
    with pytest.raises(ValueError, match=r"defense.steps or attack.steps"):
        lines_of(both, "steps", "robust", ("defense",))
    (line,), _ = lines_of(both, "attack.steps", "robust", ("gradient",))
    assert [p.x for p in line.points] == [2, 4]
    with pytest.raises(ValueError, match="attack.steps, defense.steps"):
        lines_of(both, "sigma", "robust", ("defense",))
    assert numbers_of(both) == ["attack.steps", "defense.steps"]


def test_votes_and_worst_of_k() -> None:
    records = [image(1, 10), image(2, 5), image(3, 0)]
    assert vote_bars(records)["attacked"] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    (line,) = worst_lines({"D": records})
    assert [p.x for p in line.points] == list(range(1, 11))
    assert [p.y for p in line.points[:2]] == pytest.approx([50.0, 100 * (1 + 20 / 90) / 3])


def test_published_stands_beside_measured() -> None:
    with_number = cell(0.1, 40.0, published_robust=45.0, published_source="nie2022", verdict="agrees")
    (mark,) = published_marks([with_number, cell(0.2, 30.0), cell(0.3, 30.0, published_robust=float("nan"))])
    assert (mark.x, mark.y, mark.low, mark.high, mark.group) == (45.0, 40.0, 35.0, 45.0, "nie2022: agrees")


def test_a_footnote_says_what_8_bit_pictures_leave() -> None:
    for rounded, said in ((40.2, ""), (41.6, "As 8-bit pictures the adversarial images leave 41.6 %."), (None, "")):
        notes = Notes()
        robust(cell(0.1, 40.0, rounded_accuracy=rounded), notes)
        assert " ".join(notes.texts) == said


def test_convergence_is_weighted_by_images() -> None:
    steps = [
        {"attack": "pgd", "step": 0, "loss": loss, "accuracy": 1.0, "images": n} for loss, n in ((1.0, 3), (5.0, 1))
    ]
    (line,) = convergence_lines({"D": [*steps, {**steps[0], "step": 1, "loss": None}]}, "loss")
    assert [(p.x, p.y) for p in line.points] == [(0, 2.0)]
