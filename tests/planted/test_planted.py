"""No number that flatters: each planted false defense is told by a gate that names the reason, no honest one is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planted.false_defenses import CALLS, PLANTED, SEEN, SILENT

from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell, Tier
from bench.run.prepare import Loader
from bench.run.runner import run_cells
from bench.store import Store
from bench.threat import ThreatModel
from defenses.adversarial_training import AdversarialTraining
from defenses.base import Defense, Gradient
from defenses.bit_depth import BitDepth
from defenses.ddpm import DDPM
from defenses.diffpure_ode import DiffPureODE
from defenses.diffpure_sde import DiffPureSDE
from defenses.gaussian_noise import GaussianNoise
from defenses.gdmp import GDMP
from defenses.jpeg import JPEG
from defenses.likelihood_maximization import LikelihoodMaximization
from defenses.undefended import Undefended

EPSILON = 3 / 16
FLATTERED = 10  # points that a planted number lies above what its honest twin keeps
HONEST: list[tuple[Defense, Gradient]] = [
    (Undefended(), "exact"),
    (AdversarialTraining(model="digits_cnn_at"), "exact"),
    (JPEG(), "straight_through"),
    (BitDepth(), "straight_through"),
    (GaussianNoise(), "exact"),
    (DiffPureSDE(t=0.1, steps=4), "exact"),
    (DiffPureODE(t=0.1, steps=4), "exact"),
    (DDPM(t=0.1, steps=4), "exact"),
    (GDMP(t=0.036, steps=3, rounds=1, runs=1, guidance_scale=1250.0), "exact"),
    (LikelihoodMaximization(), "exact"),
]


class Silent:
    """A watcher that shows nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.fixture(scope="module")
def loader() -> Loader:
    return Loader(torch.device("cpu"))


def cell(defense: Defense, gradient: Gradient, tier: Tier, num_images: int = 64) -> Cell:
    return Cell(
        dataset="digits",
        classifier="digits_cnn",
        score="digits_score" if defense.needs_score else None,
        defense=defense,
        attack=PGDEOT(steps=20, step_size=EPSILON / 8, eot=2 if defense.stochastic else 1),
        threat=ThreatModel(epsilon=EPSILON, gradient=gradient),
        num_images=num_images,
        tier=tier,
    )


REFUSED = "from a defense with stochastic = False, found two"


def run(one: Cell, loader: Loader, folder: Path, *, may_be_refused: bool = False) -> dict[str, Any]:
    """The row of the cell's run, measured into a database of its own.

    What breaks its contract on two images is refused before it is measured, and two answers for one image by the judge.
    """
    CALLS["rows"] = 0
    SEEN.clear()
    with Store(str(folder / f"{one.key}.sqlite")) as store:
        outcome = run_cells([one], store, loader, Silent(), grid="planted")
        row = store.runs_of(one.key)[0]
        is_refused = may_be_refused and (REFUSED in str(row["error_message"]) or row["error_class"] == "BrokenContract")
        assert is_refused or outcome.done == [one], row["error_message"]
    return row


def told(row: dict[str, Any]) -> dict[str, str]:
    """Gate -> reason, of those that failed."""
    return {gate["gate"]: gate["reason"] for gate in row["gates"] if gate["passed"] is False}


@pytest.mark.parametrize("planted", PLANTED, ids=lambda cls: cls.name)
def test_a_planted_defense_is_told_by_name(planted: Any, loader: Loader, tmp_path: Path) -> None:
    one = cell(planted(), planted.at, "quick" if planted.cheap else "paper")
    row = run(one, loader, tmp_path, may_be_refused=True)
    assert row["status"] == "failed" or told(row).keys() & planted.told_by, told(row)


@pytest.mark.slow
@pytest.mark.parametrize("silent", SILENT, ids=lambda cls: cls.name)
def test_an_undeclared_gradient_is_used(silent: Any, loader: Loader, tmp_path: Path) -> None:
    assert told(run(cell(silent(), silent.at, "paper"), loader, tmp_path)).keys() & silent.told_by


@pytest.mark.parametrize(("defense", "gradient"), HONEST, ids=lambda value: getattr(value, "name", value))
def test_an_honest_defense_is_not(defense: Defense, gradient: Gradient, loader: Loader, tmp_path: Path) -> None:
    assert told(run(cell(defense, gradient, "quick"), loader, tmp_path)) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("defense", "gradient"), HONEST, ids=lambda value: getattr(value, "name", value))
def test_an_honest_defense_passes_every_gate(
    defense: Defense, gradient: Gradient, loader: Loader, tmp_path: Path
) -> None:
    assert told(run(cell(defense, gradient, "paper"), loader, tmp_path)) == {}


def test_what_an_attacker_who_knows_leaves(loader: Loader, tmp_path: Path) -> None:
    """The honest twin of all that compute nothing: the number that stands behind each planted one."""
    assert run(cell(Undefended(), "exact", "quick"), loader, tmp_path)["robust_accuracy"] < FLATTERED


def test_an_attack_that_cannot_cross_the_ball(loader: Loader, tmp_path: Path) -> None:
    one = cell(Undefended(), "exact", "quick")
    short = replace(one, attack=PGDEOT(steps=4, step_size=EPSILON / 40, eot=1, start="zero"))
    assert {"step_reaches", "margin_transfer"} <= told(run(short, loader, tmp_path)).keys()
