"""What fits a budget: seeds go first, then pictures, then the strength of the attack, and each is told."""

from __future__ import annotations

import pytest

from bench.attacks.momentum_pgd import MomentumPGD
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.run.bill import Done
from bench.run.budget import Plan, fit
from bench.run.part import Part
from bench.run.rates import Rate
from bench.threat import ThreatModel
from defenses.base import Gradient
from defenses.jpeg import JPEG
from defenses.precision import Precision

THREAT = ThreatModel(epsilon=3 / 16, gradient="straight_through")
STEPS = {"gold": 100, "strong": 10, "quick": 1}


class OneSecond:
    """An answer costs a second, of which the judge's and the gates' are free."""

    place, remark = "a clock", "exact"

    def find_missing(self, cell: Cell) -> dict[str, str]:
        return {}

    def rate(self, cell: Cell, kind: Gradient, precision: Precision) -> Rate:
        return Rate(seconds=(0.0, 1.0), units=(1.0, 1.0))


def cells(protocol: str | None) -> list[Cell]:
    if protocol not in STEPS:
        raise LookupError(protocol)
    return [
        Cell(
            dataset="digits", classifier="digits_cnn", score=None, defense=JPEG(quality=quality),
            attack=PGDEOT(steps=STEPS[protocol], eot=1), threat=THREAT, num_images=64, seed=seed, data_seed=data_seed,
            draws=1,
        )
        for quality in (50, 75) for seed in (3, 5, 7) for data_seed in range(4)
    ]  # fmt: skip


def plan(seconds: float, protocol: str = "gold") -> Plan:
    return fit(cells, protocol, seconds, OneSecond(), Done(None))


@pytest.fixture(autouse=True)
def _no_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their cost does not shrink with seeds and pictures, and would hide what does."""
    monkeypatch.setattr("bench.run.bill.count_gate_answers", lambda cell, every: (0, 0))


def test_nothing_is_given_up_where_all_fits() -> None:
    found = plan(1e9)
    assert len(found.cells) == 24 and found.given_up == [] and str(found.part) == "" and found.protocol == "gold"


@pytest.mark.parametrize(
    ("share", "part"),
    [(0.99, "seeds=2"), (0.6, "seeds=1"), (0.3, "seeds=1,data_seeds=2"), (0.1, "seeds=1,data_seeds=1"),
     (0.05, "seeds=1,data_seeds=1,images=32"), (0.021, "seeds=1,data_seeds=1,images=16")],
)  # fmt: skip
def test_seeds_go_first_then_pictures(share: float, part: str) -> None:
    whole = 24 * 64 * 100
    found = plan(share * whole)
    assert (str(found.part), found.protocol) == (part, "gold") and found.cost.seconds <= share * whole
    assert {cell.seed for cell in found.cells} <= {3, 5} and "at most 3" in found.given_up[0]


def test_pictures_given_up_are_told_with_their_interval() -> None:
    (_, told) = plan(0.3 * 24 * 64 * 100).given_up
    assert "128 in place of 256: an interval of about 9 points to each side in place of 6" in told


def test_a_weaker_attack_comes_last_and_is_told() -> None:
    found = plan(0.02 * 24 * 64 * 100)  # less than one seed of sixteen pictures at full strength
    assert found.protocol == "strong"
    assert found.given_up[0].startswith("protocol gold -> strong")
    assert plan(0.0001 * 24 * 64 * 100 * 3).protocol == "quick"


def test_what_does_not_fit_says_what_the_least_costs() -> None:
    with pytest.raises(ValueError, match=r"Expected a budget of at least 0\.00889 h, .* found 0\.000278 h"):
        plan(1.0)


def test_what_is_done_costs_nothing() -> None:
    class AllDone(Done):
        def holds(self, cell: Cell) -> bool:
            return True

    assert fit(cells, "gold", 0.0, OneSecond(), AllDone(None)).cost.seconds == 0


def test_a_part_is_written_and_read() -> None:
    part = Part(seeds=1, images=16)
    assert Part.parse(str(part)) == part and {cell.num_images for cell in part.of(cells("quick"))} == {16}
    assert len(part.of(cells("quick"))) == 8 and Part().of(cells("quick")) == cells("quick")
    for wrong in ("seeds=0", "seed=1", "seeds=1,seeds=2", "images=x", ""):
        with pytest.raises(ValueError, match="Expected a part such as"):
            Part.parse(wrong)


def test_a_grid_of_one_protocol_keeps_it() -> None:
    with pytest.raises(ValueError, match="at least"):
        fit(lambda protocol: cells("gold"), None, 1.0, OneSecond(), Done(None), weaker=False)


def test_attacks_without_members_are_counted_as_they_are() -> None:
    cell = Cell(
        dataset="digits",
        classifier="digits_cnn",
        score=None,
        defense=JPEG(),
        attack=MomentumPGD(steps=7),
        threat=THREAT,
    )
    found = fit(lambda protocol: [cell], None, 1e9, OneSecond(), Done(None), weaker=False)
    assert found.cost.units == cell.num_images * (7 + 5)
