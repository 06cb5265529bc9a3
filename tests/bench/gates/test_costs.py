"""What gates cost: the forecast's count against the network evaluations of a run, gate by gate."""

from __future__ import annotations

import pytest
import torch

from bench.attacks.gold import Gold
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.evaluate import evaluate
from bench.gates import ALWAYS, GATES
from bench.gates.attackers import RANDOM_SEARCH
from bench.gates.costs import COSTS
from bench.gates.gradient import DERIVATIVES
from bench.grids import grid_cells
from bench.run.gating import check_gates, count_gate_answers
from bench.run.prepare import Loader
from bench.run.rates import time_answers
from bench.threat import ThreatModel
from defenses.base import Defense, Gradient
from defenses.diffpure_sde import DiffPureSDE
from defenses.jpeg import JPEG
from defenses.undefended import Undefended

LOADER = Loader(torch.device("cpu"))
SHARE = 0.25  # of a gold cell's cost that its gates may take


def test_every_gate_has_a_cost() -> None:
    assert set(COSTS) == {gate.__name__ for gate in (*GATES, *ALWAYS)}


@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize(
    ("defense", "gradient"),
    [(Undefended(), "exact"), (JPEG(), "straight_through"), (DiffPureSDE(t=0.1, steps=2), "exact")],
    ids=lambda value: getattr(value, "name", value),
)
def test_gates_cost_what_the_forecast_says(defense: Defense, gradient: Gradient, every: bool) -> None:
    cell = Cell(
        dataset="digits",
        classifier="digits_cnn",
        score="digits_score" if defense.needs_score else None,
        defense=defense,
        attack=PGDEOT(steps=3, step_size=0.1, eot=2),
        threat=ThreatModel(epsilon=3 / 16, gradient=gradient),
        num_images=32,
        tier="paper" if every else "quick",
    )
    prepared = LOADER.prepare(cell)
    images, labels, ids = prepared.batch(slice(0, 32))
    draws, stochastic = cell.judging_draws, defense.stochastic
    records = evaluate(
        prepared.model(), cell.attack, images, labels, ids, cell.threat, draws=draws, seed=0, stochastic=stochastic
    )
    spent = sum(gate["evaluations"] for gate in check_gates(prepared, records, every=every))
    _, said = time_answers(prepared, gradient, (8, 8)).price(*count_gate_answers(cell, every=every))
    early = (
        0 if every or {*DERIVATIVES} & {*prepared.model().kinds} else len(ids) * RANDOM_SEARCH.queries()[0]
    )  # ends with success
    assert 0.75 * (said - early) <= spent <= 1.02 * said, (spent, said)


def test_gates_of_gold_cost_at_most_a_quarter_of_it() -> None:
    """An answer with a gradient as three without: a forward pass, and a backward pass of twice its work."""
    seen = set()
    for cell in grid_cells("paper_tables", "gold"):
        place = (cell.dataset, cell.classifier, cell.defense.name, cell.threat.norm, cell.num_images)
        if place in seen or not isinstance(cell.attack, Gold):
            continue
        seen.add(place)
        gates, own = (plain + 3 * graph for plain, graph in (count_gate_answers(cell, every=True), whole(cell)))
        assert gates <= SHARE * own, (cell, gates / own)


def whole(cell: Cell) -> tuple[float, float]:
    plain, graph = cell.attack.queries()
    return cell.num_images * (plain + 3 * cell.judging_draws), cell.num_images * graph
