"""The runner: continues where it stopped, loses nothing, and reports what failed."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import runpy
import sys
import types
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from bench.attacks.base import Trace
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.evaluate import evaluate
from bench.records import ImageRecord
from bench.run.forecast import forecast
from bench.run.gating import _kept_images, check_gates
from bench.run.prepare import Loader, names_of
from bench.run.provenance import hash_own_code
from bench.run.rates import Here
from bench.run.runner import run_cells
from bench.store import Store
from bench.threat import ThreatModel
from defenses.adversarial_training import AdversarialTraining
from defenses.base import Defended, Gradient
from defenses.chain import Chain
from defenses.contrastive import Contrastive
from defenses.diffpure_sde import DiffPureSDE
from defenses.undefended import Undefended

THREAT = ThreatModel(epsilon=3 / 16)
PER_IMAGE = Contrastive(t=0.1, steps=4, per_image=True, guidance_scale=50.0)  # at 500 its gradient explodes here
LOADER = Loader(torch.device("cpu"))


class Silent:
    """A watcher that only counts images, and can interrupt at a given batch."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.batches, self.stop_at, self.outcomes = 0, stop_at, []

    def begin_cell(self, number: int, total: int, cell: Cell) -> None: ...
    def show_step(self, attack: str, step: int) -> None: ...
    def show_images(self, done: int, total: int) -> None:
        self.batches += 1
        if self.batches == self.stop_at:
            raise KeyboardInterrupt

    def end_cell(self, cell: Cell, status: str, text: str) -> None:
        self.outcomes.append((status, text))


def cell(**changes: object) -> Cell:
    fields = {
        "dataset": "digits",
        "classifier": "digits_cnn",
        "score": "digits_score",
        "defense": DiffPureSDE(t=0.1, steps=4),
        "attack": PGDEOT(steps=3, step_size=0.05, eot=2),
        "threat": THREAT,
        "num_images": 12,
        "batch_size": 4,
        "draws": 3,
    }
    return Cell(**(fields | changes))


def outcomes(path: Path, wanted: Cell) -> list[ImageRecord]:
    with Store(path) as store:
        return store.images(store.latest_done(wanted.key)["id"])


def measure(path: Path, *cells: Cell, watcher: Silent | None = None, force: bool = False) -> Silent:
    watcher = watcher or Silent()
    with Store(path) as store:
        run_cells(cells, store, LOADER, watcher, grid="test", force=force)
    return watcher


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.sqlite", tmp_path / "parts.sqlite"
    measure(whole, cell())
    for stop_at in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            measure(parts, cell(), watcher=Silent(stop_at))
    resumed = measure(parts, cell())
    assert resumed.outcomes[0][0] == "done"
    assert outcomes(parts, cell()) == outcomes(whole, cell())
    with Store(parts) as store:
        assert len(store.runs_of(cell().key)) == 1


def test_a_second_run_does_nothing_and_force_adds_a_run(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    measure(path, cell())
    assert measure(path, cell()).outcomes == [("skipped", "done before")]
    measure(path, cell(), force=True)
    with Store(path) as store:
        assert [run["status"] for run in store.runs_of(cell().key)] == ["done", "done"]


@pytest.mark.parametrize("defense", [DiffPureSDE(t=0.1, steps=4), PER_IMAGE])
def test_batch_size_does_not_matter(tmp_path: Path, defense: object) -> None:
    """Batch sizes 1, 7 and 64: the same outcomes, up to images that float rounding tips (networks round by batch)."""
    found = []
    for size in (1, 7, 64):
        one = cell(defense=defense, batch_size=size, num_images=14)
        measure(tmp_path / f"{size}.sqlite", one)
        found.append({r.index: r.robust_votes for r in outcomes(tmp_path / f"{size}.sqlite", one)})
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        assert sum(found[0][i] != other[i] for i in other) <= 1


def test_a_failed_cell_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    bad = cell(num_images=501)
    good = cell(defense=Undefended(), score=None)
    watcher = measure(path, bad, good)
    assert [status for status, _ in watcher.outcomes] == ["failed", "done"]
    with Store(path) as store:
        run = store.runs_of(bad.key)[0]
        assert run["status"] == "failed" and "num_images <= 500" in run["error_message"]
        assert "Traceback" in run["error_traceback"]
        assert [row["cell_key"] for row in store.results()] == [good.key]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_a_failed_cell_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def too_much(*_: object, **__: object) -> None:
        raise error

    wrong = {"missing": cell(classifier="file:blocks:/nowhere.safetensors"), "unknown": cell(score="digits_scoer")}
    measure(tmp_path / "r.sqlite", *wrong.values())
    monkeypatch.setattr("bench.run.measuring.evaluate", too_much)
    measure(tmp_path / "r.sqlite", cell())
    with Store(tmp_path / "r.sqlite") as store:
        remedies = [store.runs_of(c.key)[0]["remedy"] for c in (*wrong.values(), cell())]
    assert ["bench fetch" in remedies[0], "bench list" in remedies[1], "batch_size" in remedies[2]] == [True] * 3


def test_an_unknown_published_number_is_said_before_anything_runs(tmp_path: Path) -> None:
    watcher = Silent()
    with pytest.raises(LookupError, match="Unknown published number 'nope'"):
        measure(tmp_path / "r.sqlite", cell(), cell(seed=1, published="nope"), watcher=watcher)
    assert not watcher.outcomes


def test_gates_look_at_a_whole_batch_where_answers_depend_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "bench.run.gating.run_gates", lambda model, images, *_, **fields: seen.append(len(images)) or []
    )
    for defense in (DiffPureSDE(t=0.1, steps=4), Contrastive(t=0.1, steps=4), PER_IMAGE):
        check_gates(LOADER.prepare(cell(defense=defense, num_images=60, batch_size=48)), (), every=True)
    assert seen == [32, 48, 32]


def test_a_run_records_where_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    measure(path, cell())
    with Store(path) as store:
        run = store.latest_done(cell().key)
    assert len(run["weights"]["digits_cnn"]) == len(run["weights"]["digits_score"]) == 64
    assert "+" in run["packages"]["purification-bench"] and run["licences"]["digits_cnn"] == "Apache-2.0"
    # 12 images: (3 steps x 2 draws, forward and backward with at most one recomputation, + 3 x 3 judging
    # draws + 3 looks) x 4 evaluations
    assert 12 * 4 * (3 * 2 * 2 + 12) <= run["network_evaluations"] <= 12 * 4 * (3 * 2 * 3 + 12)


def test_new_weights_are_a_reason_to_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.sqlite"
    measure(path, cell())
    monkeypatch.setattr("bench.run.runner.weights_of", lambda cell: {"digits_cnn": "0" * 64})
    assert measure(path, cell()).outcomes[0][0] == "done"


def load_file(path: Path, name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


OWN = """
from dataclasses import dataclass
from typing import ClassVar
from beside_mine import factor
from defenses import Purifier

@dataclass(frozen=True, kw_only=True)
class Mine(Purifier):
    name: ClassVar[str] = "mine"
    title: ClassVar[str] = "mine"
    source: ClassVar[str] = "none"
    stochastic: ClassVar[bool] = False

    def build(self, *, classifier, score, gradient="exact"):
        return lambda images, noise: images * factor
"""


@pytest.mark.parametrize("changed", ["nothing", "mine.py", "beside_mine.py", "another folder"])
def test_ones_own_code_decides_whether_a_cell_is_done(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edited defense, an edited module beside it, and another file of the same name are other defenses."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "mine.py").write_text(OWN)
        (folder / "beside_mine.py").write_text("factor = 1.0\n")
    (folders[1] / "mine.py").write_text(OWN + "\n# another\n")
    monkeypatch.syspath_prepend(str(folders[0]))
    wanted = cell(defense=load_file(folders[0] / "mine.py", "mine").Mine(), score=None)
    measure(tmp_path / "r.sqlite", wanted)
    if changed == "another folder":
        wanted = cell(defense=load_file(folders[1] / "mine.py", "mine").Mine(), score=None)
    elif changed != "nothing":
        file = folders[0] / changed
        file.write_text(file.read_text() + "\n# edited\n")
    status = measure(tmp_path / "r.sqlite", wanted, force=False).outcomes[0][0]
    assert status == ("skipped" if changed == "nothing" else "done")
    for name in ("mine", "beside_mine"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("how", ["weights", "data", "buffer", "hook", "forward"])
def test_a_cell_that_changes_a_network_fails_and_the_next_gets_it_from_disk(how: str, tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Changes(Undefended):
        name: ClassVar[str] = "changes"

        def defend(
            self, classifier: torch.nn.Module, score: object = None, *, gradient: Gradient = "exact"
        ) -> Defended:
            first = next(classifier.parameters())
            last = [m for m in classifier.modules() if isinstance(m, torch.nn.Linear)][-1]
            with torch.no_grad():
                if how == "weights":
                    first.add_(1.0)
                elif how == "data":
                    first.data[0], first.data[1] = first.data[1].clone(), first.data[0].clone()
                elif how == "buffer":
                    last.register_buffer("seen", torch.ones(1))
                elif how == "hook":
                    last.register_forward_hook(lambda module, inputs, output: output.clamp(-2, 2))
                else:
                    last.forward = lambda x: x[:, :10]
            return super().defend(classifier, score, gradient=gradient)

    path, honest = tmp_path / "r.sqlite", cell(defense=Undefended(), score=None)
    expected = tmp_path / "alone.sqlite"
    measure(expected, honest)
    watcher, loader = Silent(), Loader(torch.device("cpu"))
    with Store(path) as store:
        outcome = run_cells([cell(defense=Changes(), score=None), honest], store, loader, watcher, grid="test")
        assert [c.defense.name for c in outcome.failed] == ["changes"] and not store.images(1)
        assert (
            "ChangedNetwork" in watcher.outcomes[0][1] and "copy" in store.runs_of(outcome.failed[0].key)[0]["remedy"]
        )
    assert outcomes(path, honest) == outcomes(expected, honest)


def test_a_run_goes_on_with_the_same_pictures_and_the_same_code_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one number would be of two data sets, or of two defenses."""
    path, statuses = tmp_path / "r.sqlite", []
    for changed in ("nothing", "pictures", "code"):
        with pytest.raises(KeyboardInterrupt):
            measure(path, cell(), watcher=Silent(stop_at=1))
        if changed == "pictures":
            monkeypatch.setattr("bench.datasets.ImageSet.fingerprint", lambda self: "other")
        elif changed == "code":
            monkeypatch.setattr("bench.run.runner.hash_own_code", lambda *things: {"mine.py": "123"})
        measure(path, cell(), force=False)
        with Store(path) as store:
            statuses.append([run["status"] for run in store.runs_of(cell().key)])
        path.unlink()
    assert statuses == [["done"], ["done", "running"], ["done", "running"]]


def test_ones_own_code_is_part_of_the_provenance(tmp_path: Path) -> None:
    file = tmp_path / "my_defense.py"
    file.write_text("class Mine:\n    pass\n")
    namespace = runpy.run_path(str(file), run_name="my_defense")
    module = types.ModuleType("my_defense")
    module.__file__, namespace["Mine"].__module__ = str(file), "my_defense"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "my_defense", module)
        found = hash_own_code(namespace["Mine"](), Undefended())
    assert found == {"my_defense.py": hashlib.sha256(file.read_bytes()).hexdigest()[:12]}


def test_notes_of_an_attack_are_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def noting(*arguments: object, trace: Trace, **options: object) -> list[ImageRecord]:
        trace.notes += ["AutoAttack: beware"]
        return evaluate(*arguments, trace=trace, **options)

    monkeypatch.setattr("bench.run.measuring.evaluate", noting)
    measure(tmp_path / "r.sqlite", cell())
    with Store(tmp_path / "r.sqlite") as store:
        assert store.results()[0]["notes"] == ["AutoAttack: beware"]  # of three batches


def test_networks_inside_a_chain_are_behind_the_cell() -> None:
    guided = Contrastive(guide="digits_cnn_at")
    for defense in (guided, Chain(members=(("contrastive", guided.params()), ("median_blur", {})))):
        assert names_of(cell(defense=defense)) == (["digits_cnn", "digits_cnn_at"], ["digits_score"])


@pytest.mark.parametrize("field", ["classifier", "guide"])
def test_a_classifier_of_other_pictures_is_refused(field: str) -> None:
    """Before its weights are looked for: an answer among other classes is no answer."""
    guided = (
        cell(defense=Contrastive(guide="gtsrb_resnet18")) if field == "guide" else cell(classifier="gtsrb_resnet18")
    )
    with pytest.raises(
        ValueError, match="Expected a classifier of digits, got 'gtsrb_resnet18', .* For digits: digits_"
    ):
        LOADER.prepare(guided)


def test_seeds_change_the_draws(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    other = dataclasses.replace(cell(), seed=1)
    measure(path, cell(), other)
    assert outcomes(path, cell()) != outcomes(path, other)


def test_a_defense_with_a_network_of_its_own_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    robust = cell(defense=AdversarialTraining(model="digits_cnn_at"), score=None)
    measure(path, robust)
    with Store(path) as store:
        run = store.latest_done(robust.key)
    # 12 images: 3 steps x 2 draws, forward and backward; clean, robust, robust at 8 bits (null and looks are those of
    # clean), and the two draws that must agree
    assert run["network_evaluations"] == 12 * (3 * 2 * 2 + 5)


@pytest.mark.parametrize("gradient", ["transfer", "straight_through", "exact"])
def test_a_run_costs_what_the_forecast_says(tmp_path: Path, gradient: Gradient) -> None:
    attack = PGDEOT(steps=3, step_size=0.05, eot=2, select="last")
    wanted = cell(attack=attack, threat=dataclasses.replace(THREAT, gradient=gradient))
    measure(tmp_path / "r.sqlite", wanted)
    with Store(tmp_path / "r.sqlite") as store:
        spent = store.latest_done(wanted.key)["network_evaluations"]
    *_, total = forecast([wanted], str(tmp_path / "none.sqlite"), Here(LOADER))
    assert f"{spent:.3g} network evaluations" in total


def test_gates_get_the_kept_images_or_the_attack_again() -> None:
    ids = torch.tensor([7, 3])
    kept = {image: torch.full((1, 2, 2), float(image)) for image in (3, 7, 9)}
    assert _kept_images(kept, ids)[:, 0, 0, 0].tolist() == [7.0, 3.0]
    assert _kept_images({3: kept[3]}, ids) is None and _kept_images({}, ids) is None
