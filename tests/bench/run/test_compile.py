"""--compile: attacks by compiled networks, a judge that never meets them, and a run that says what was compiled."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from bench.attacks.base import Trace
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.cli import main
from bench.commands.run import loader
from bench.commands.workers import write_options
from bench.evaluate import evaluate
from bench.run import progress
from bench.run.measuring import measure_batch
from bench.run.prepare import Loader
from bench.run.rates import Here
from bench.store import Store
from bench.threat import ThreatModel
from defenses.diffpure_sde import DiffPureSDE
from defenses.models.compiled import CompiledNetwork, Compiling

CPU = torch.device("cpu")
CELL = Cell(
    dataset="digits", classifier="digits_cnn", score="digits_score", defense=DiffPureSDE(t=0.1, steps=2),
    attack=PGDEOT(steps=3, step_size=0.05, eot=2), threat=ThreatModel(epsilon=3 / 16), num_images=6, batch_size=3,
    draws=3, tier="quick",
)  # fmt: skip
NOTE = "--compile: the score network compiled by torch.compile (aot_eager) in the attack's passes."


def broken(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no compiler here")


def measured(backend: Any = None, cell: Cell = CELL) -> tuple[list[Any], list[str], int, list[str]]:
    """(records, notes, evaluations, what was told of compiling) of a batch; without a backend it is eager."""
    torch._dynamo.reset()
    told: list[str] = []
    loads = Loader(CPU, compiling=None if backend is None else Compiling(backend))
    loads.tell(lambda attack, step: told.append(attack))
    ready = loads.prepare(cell)
    records, _, units = measure_batch(ready, ready.attacking(), slice(0, 3), Trace(), lambda x: None)
    loads.check_intact()
    return records, ready.notes(), units, told


def test_the_judge_is_eager_and_what_is_compiled_is_said() -> None:
    images, none, counted, silence = measured()
    others, notes, compiled, told = measured("aot_eager")
    looks = 3 * CELL.attack.steps * 2  # of three images, which a judge prices: each two evaluations
    assert compiled == counted - looks  # a compiled answer is no look
    for one, other in zip(images, others, strict=True):
        assert (one.clean_votes, one.null_votes) == (other.clean_votes, other.null_votes)
        assert one.first_success is not None and other.first_success is None
    assert NOTE in notes and not none and not silence
    assert any(text.startswith("compiling the score network, gradient of ") for text in told)


def test_a_judge_s_passes_meet_no_compiled_network(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    ready = Loader(CPU, compiling=Compiling("eager")).prepare(CELL)
    images, labels, ids = ready.batch(slice(0, 3))
    after: list[int] = []
    monkeypatch.setattr(CompiledNetwork, "forward", lambda self, *given: after.append(1) or self.network(*given))

    def judged(adversarial: torch.Tensor) -> None:
        after.clear()

    evaluate(ready.attacking(), CELL.attack, images, labels, ids, CELL.threat, draws=3, seed=0, keep=judged)
    assert not after


def test_a_forecast_times_compiled_gradients_and_eager_gates() -> None:
    torch._dynamo.reset()
    loads = Loader(CPU, compiling=Compiling("aot_eager"))
    rates = Here(loads)
    gates = rates.rate(CELL, "exact", None)
    assert not loads.prepare(CELL).notes()
    attack = rates.rate(CELL, "exact", "float32")
    assert NOTE in loads.prepare(CELL).notes()
    assert attack.units == gates.units == Here(Loader(CPU)).rate(CELL, "exact", "float32").units
    assert "compiled" in rates.remark


@pytest.mark.parametrize("backend", [broken, "no such backend"])
def test_without_a_compiler_the_cell_goes_on_eagerly(backend: Any) -> None:
    images, _, _, _ = measured()
    others, notes, _, told = measured(backend)
    assert [image.robust_votes for image in others] == [image.robust_votes for image in images]
    assert len(notes) == 2 and all("ran eagerly" in note for note in notes)
    assert len([text for text in told if "failed" in text]) == 2


def test_low_precision_is_compiled_apart(tmp_path: Path) -> None:
    torch._dynamo.reset()
    loads = Loader(CPU, compiling=Compiling("eager"))
    low = dataclasses.replace(CELL, attack_precision="bfloat16")
    first, second = loads.prepare(CELL), loads.prepare(low)
    assert first.fast is not None and second.fast is not None and first.fast[1] is not second.fast[1]
    assert measured("eager", low)[2] == measured(cell=low)[2]  # evaluations


def test_the_options_reach_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loader("cpu", None, False, compiled=True).compiling == Compiling()
    assert loader("cpu", None, False).compiling is None and write_options({"compile": True}) == ["--compile"]
    monkeypatch.setattr("bench.commands.run.Compiling", lambda: Compiling("aot_eager"))
    monkeypatch.setattr("bench.run.runner.find_gated", lambda cells: set())
    torch._dynamo.reset()
    grid = tmp_path / "mine.toml"
    grid.write_text(
        'dataset = "digits"\nclassifiers = "digits_cnn"\nscore = "digits_score"\nimages = 2\ndraws = 2\n'
        'defenses = [{ name = "diffpure_sde", t = 0.1, steps = 2 }]\n'
        'attacks = [{ name = "pgd_eot", steps = 2, step_size = 0.05, eot = 2 }]\nthreat = { epsilon = "3/16" }\n'
    )
    db = tmp_path / "r.sqlite"
    given = ["run", "--config", str(grid), "--compile", "--db", str(db), "--device", "cpu", "--no-evidence"]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    with Store(db, readonly=True) as store:
        assert NOTE in store.runs_of(store.frame()["cell_key"][0])[0]["notes"]
    assert "--compile" in CliRunner().invoke(main, ["worker", "--help"]).output


def test_compiling_is_no_step_of_an_attack() -> None:
    assert not progress.is_step("compiling the classifier, answer of 4 rows") and progress.is_step("pgd_eot")
