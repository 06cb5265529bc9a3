"""Cells whose attack computes in bfloat16: another cell, the same judge, and numbers that say what was used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import bench
from bench.attacks.base import Trace
from bench.attacks.cascade import CONFIRMED, Cascade
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.cli import main
from bench.evaluate import evaluate
from bench.grids import grid_cells
from bench.run.forecast import forecast
from bench.run.intact import ChangedNetwork
from bench.run.meter import Meter
from bench.run.prepare import Loader
from bench.run.rates import Here
from bench.run.runner import run_cells
from bench.store import Store
from bench.threat import ThreatModel
from defenses.contrastive import Contrastive
from defenses.diffpure_sde import DiffPureSDE
from defenses.precision import PRECISIONS, arithmetic

LOADER = Loader(torch.device("cpu"))
CONFIG = """
dataset = "digits"
classifiers = "digits_cnn"
score = "digits_score"
images = 4
draws = 2
attack_precision = ["float32", "bfloat16"]
defenses = [{ name = "diffpure_sde", t = 0.1, steps = 3 }, "undefended"]
attacks = [{ name = "pgd_eot", steps = 2, step_size = 0.05, eot = 2 }]
threat = { epsilon = "3/16" }
"""


class Silent:
    """A watcher that keeps what cells ended with."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def begin_cell(self, number: int, total: int, cell: Cell) -> None: ...
    def show_images(self, done: int, total: int) -> None: ...
    def show_step(self, attack: str, step: int) -> None: ...
    def end_cell(self, cell: Cell, status: str, text: str) -> None:
        self.ended.append(text)


def cell(**changes: Any) -> Cell:
    fields: dict[str, Any] = {
        "dataset": "digits", "classifier": "digits_cnn", "score": "digits_score",
        "defense": DiffPureSDE(t=0.1, steps=3), "attack": PGDEOT(steps=3, step_size=0.05, eot=2),
        "threat": ThreatModel(epsilon=3 / 16), "num_images": 8, "draws": 3, "attack_precision": "bfloat16",
    }  # fmt: skip
    return Cell(**(fields | changes))


def measured(one: Cell) -> tuple[list[Any], torch.Tensor, Trace]:
    """(records, adversarial images, trace)."""
    ready, found, trace = LOADER.prepare(one), [], Trace()
    images, labels, ids = ready.batch(slice(0, one.num_images))
    records = evaluate(
        ready.attacked(), one.attack, images, labels, ids, one.threat, draws=one.draws, seed=0, trace=trace,
        keep=found.append,
    )  # fmt: skip
    return records, found[0], trace


def test_the_judge_answers_in_float32() -> None:
    records, adversarial, _ = measured(cell())
    _, exact, _ = measured(cell(attack_precision="float32"))
    assert not torch.equal(adversarial, exact) and (adversarial - exact).abs().mean() < 0.01
    ready = LOADER.prepare(cell())
    images, labels, ids = ready.batch(slice(0, 8))
    given = Given(adversarial)
    again = evaluate(ready.model(), given, images, labels, ids, cell().threat, draws=3, seed=0)
    assert [r.robust_votes for r in again] == [r.robust_votes for r in records]
    assert [r.null_votes for r in again] == [r.null_votes for r in records]


class Given(PGDEOT):  # type: ignore[misc] - a stand-in for an attack
    """Hands over images."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        object.__setattr__(self, "images", images)

    def perturb(self, *_: Any, **__: Any) -> torch.Tensor:
        return self.images  # type: ignore[attr-defined]


def test_steps_in_low_precision_are_no_looks_but_check_draws_are() -> None:
    records, _, trace = measured(cell())
    assert trace.curve() and not trace.looks and all(r.first_success is None for r in records)
    cascade = Cascade(members=(("pgd_eot", {"steps": 2, "eot": 1}, None),), check_draws=3)
    records, _, trace = measured(cell(attack=cascade))
    assert set(trace.looks.values()) <= {3, CONFIRMED} and all(r.first_success is not None for r in records)
    assert measured(cell(attack_precision="float32"))[2].looks


def test_passes_in_both_precisions_are_counted() -> None:
    counts = []
    for precision in ("float32", "bfloat16"):
        ready = LOADER.prepare(cell(attack_precision=precision))
        images, labels, ids = ready.batch(slice(0, 4))
        model = ready.attacked()
        with Meter(*ready.counted(model)) as meter:
            cell().attack.perturb(model, images, labels, ids, cell().threat, 0)
            counts.append(meter.take())
    assert counts[0] == counts[1] > 0


@pytest.fixture
def tf32_everywhere() -> Any:
    with arithmetic():
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        yield


def test_a_cell_computes_in_float32_whatever_is_set_outside(tmp_path: Path, tf32_everywhere: None) -> None:
    seen = []

    class Watching(Silent):
        def show_step(self, attack: str, step: int) -> None:
            seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))

    with Store(tmp_path / "r.sqlite") as store:
        run_cells([cell(attack_precision="float32")], store, LOADER, Watching(), grid="g")
    assert ("highest", False) in seen[:-1] and all(found == ("highest", False) for found in seen[:-1])
    assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32


def test_results_say_it_gates_check_it_and_tables_show_it(tmp_path: Path) -> None:
    grid, db = tmp_path / "both.toml", str(tmp_path / "r.sqlite")
    grid.write_text(CONFIG)
    assert [c.attack_precision for c in grid_cells(str(grid))] == ["float32", "bfloat16", "float32"]
    done = CliRunner(env={"COLUMNS": "150"}).invoke(main, ["run", "--grid", str(grid), "--db", db, "--no-evidence"])
    assert done.exit_code == 0, done.output
    assert "PGD+EOT (bfloat16)" in done.output and "PGD+EOT (float32)" in done.output
    with Store(db) as store:
        rows = store.results()
        gates = {row["attack_precision"]: row["gates"] for row in rows}
        kept = {row["attack_precision"]: row for row in rows}
    said = {name: next(g for g in found if g["gate"] == "precision_cosine") for name, found in gates.items()}
    assert said["bfloat16"]["passed"] is True and said["bfloat16"]["evaluations"] > 0
    assert said["float32"]["passed"] is None
    assert kept["bfloat16"]["precision"] == "float32"  # of the judge
    alone = CliRunner(env={"COLUMNS": "150"}).invoke(main, ["report", "--all", "--db", db, "--format", "markdown"])
    assert "bfloat16" in alone.output
    wanted = ["report", "--grid", str(grid), "--db", db, "--attack-precision", "bfloat16"]
    low = CliRunner(env={"COLUMNS": "150"}).invoke(main, wanted).output
    assert "PGD+EOT (bfloat16)" in low and "undefended" in low
    assert low.count("DiffPure (SDE)") == 1 and "±" not in low  # once, though the grid has it itself


def test_the_option_makes_other_cells_and_leaves_what_has_no_such_gradient(tmp_path: Path) -> None:
    options = ["run", "--grid", "quickstart", "--db", str(tmp_path / "r.sqlite"), "--attack-precision", "bfloat16"]
    options += ["--filter", "defense=diffpure_sde", "--filter", "defense=undefended", "--dry-run", "--num-images", "2"]
    done = CliRunner(env={"COLUMNS": "150"}).invoke(main, options)
    assert done.exit_code == 0, done.output
    assert "bfloat16" in done.output and "undefended" in done.output
    choices = [p.type.choices for v in ("run", "worker") for p in main.commands[v].params
               if p.name == "attack_precision"]  # fmt: skip
    assert choices == [PRECISIONS, PRECISIONS]


def test_python_s_door_takes_it_and_tf32_needs_a_gpu(tmp_path: Path) -> None:
    given = {"defense": DiffPureSDE(t=0.1, steps=2), "score": "digits_score", "num_images": 4, "draws": 2}
    attack = PGDEOT(steps=1, step_size=0.05, eot=1)
    found = bench.evaluate("digits_cnn", "digits", attack=attack, attack_precision="bfloat16", **given)
    assert found.cell.attack_precision == found.row["attack_precision"] == "bfloat16"
    with pytest.raises(bench.EvaluationFailed, match="TF32"):
        bench.evaluate("digits_cnn", "digits", attack=attack, attack_precision="tf32", device="cpu", **given)
    with pytest.raises(ValueError, match="Leave it out"):
        bench.evaluate("digits_cnn", "digits", attack_precision="bfloat16", num_images=4)


def test_a_changed_copy_is_found_and_loaded_again() -> None:
    loader = Loader(torch.device("cpu"))
    low = loader.prepare(cell()).low
    next(p for p in low.parameters() if p.dtype == torch.bfloat16).data.add_(1)
    with pytest.raises(ChangedNetwork, match="digits_score"):
        loader.check_intact()
    assert loader.prepare(cell()).low is not low
    loader.check_intact()


def test_a_guidance_that_differentiates_the_network_and_the_forecast(tmp_path: Path) -> None:
    guided = cell(defense=Contrastive(t=0.05, steps=2, per_image=True, guidance_scale=5.0), num_images=2, draws=1)
    assert measured(guided)[0]
    lines = list(forecast([guided], str(tmp_path / "none.sqlite"), Here(LOADER)))
    assert "would fail" not in " ".join(lines) and "network evaluations" in lines[0]


def test_every_shipped_defense_leaves_its_low_precision_networks_as_they_were_loaded() -> None:
    """What building a defense changes is taken for a change by the attack, and fails the cell."""
    loader = Loader(torch.device("cpu"))
    cells = [cell for cell in grid_cells("attack_precision") if cell.dataset == "digits"][1::2]
    assert {cell.attack_precision for cell in cells} == {"bfloat16"} and len(cells) > 25
    for cell in cells:
        loader.prepare(cell).attacked()
        loader.check_intact()
