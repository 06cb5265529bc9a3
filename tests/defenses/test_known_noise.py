"""DW-box: golden numbers of an attack that knows the noise, and a judge that draws what the attack knew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from golden import load
from golden_attacks import Toy
from linear_problem import defended, problem
from torch import Tensor

from bench.attacks.apgd_eot import APGDEOT
from bench.attacks.autoattack_rand import AutoAttackRand
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.cli import main
from bench.evaluate import evaluate
from bench.gates import run_gates
from bench.gates.base import Evidence
from bench.gates.strength import known_noise
from bench.report.compare import compare_text
from bench.threat import ThreatModel
from defenses.base import Defended
from defenses.diffpure_sde import DiffPureSDE
from defenses.known_noise import KnownNoise, know_noise
from defenses.noise import Noise
from defenses.undefended import Undefended

G, META = load("dw_box")
IDS = torch.tensor([7, 3, 900])
THREAT = ThreatModel(epsilon=8 / 255, noise="known")
PGD = PGDEOT(steps=5, step_size=2 / 255, eot=1, start="zero")


class Ancestral:
    """The fixture's DDPM on images in [0, 1]. A draw of its noise is the recorded one where the draw is 0, by image."""

    def __init__(self) -> None:
        self.schedule = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), 0)

    def eps(self, x: Tensor, i: int) -> Tensor:
        a = self.schedule[i]
        scale = 0.25 * (G["net_c"][0] + G["net_c"][1] * i / 1000)
        bent = scale * torch.tanh(F.conv2d(x, G["net_W"], G["net_b"], padding=1))
        return torch.sqrt(1 - a) / (0.25 * a + 1 - a) * x + bent

    def __call__(self, x01: Tensor, noise: Any) -> Tensor:
        rows = [IDS.tolist().index(image) for image in noise.image_ids.tolist()]
        other = noise.draws.view(-1, 1, 1, 1) * torch.ones(3, 8, 8, dtype=torch.float64)
        one = torch.ones((), dtype=torch.float64)
        times = META["meta"]["timesteps"]
        a = self.schedule[times[0]]
        h = torch.sqrt(a) * (2 * x01 - 1) + torch.sqrt(1 - a) * (G["noise_forward"][rows] + other)
        for k, i in enumerate(times):
            a_i, a_j = self.schedule[i], self.schedule[i - 10] if i >= 10 else one
            x0 = ((h - torch.sqrt(1 - a_i) * self.eps(h, i)) / torch.sqrt(a_i)).clamp(-1, 1)
            a = a_i / a_j
            h = torch.sqrt(a_j) * (1 - a) / (1 - a_i) * x0 + torch.sqrt(a) * (1 - a_j) / (1 - a_i) * h
            if i:
                h = h + torch.sqrt(1 - a) * (G["noise_reverse"][k][rows] + other)
        return (h / 2 + 0.5).clamp(0, 1)


def close(found: Tensor, name: str) -> None:
    error = float((found - G[name]).abs().max())
    print(f"dw_box {name}: {error:.1e}")
    assert error < META["arrays"][name]["tolerance"]


def test_no_view_of_it_changes_the_mode_of_the_network() -> None:
    """A member of `strong` asks for another gradient; the classifier that cells share stays in evaluation mode."""
    classifier = problem()[0].eval()
    model = know_noise(defended(classifier).eval(), 0)
    for view in (model, model.with_gradient("transfer"), model.sealed(), model.with_purify(lambda purify: purify)):
        assert isinstance(view, KnownNoise) and not view.training and not classifier.training


def test_golden_path() -> None:
    """Whatever draws the attack asks for, it is answered on the recorded one; the judge as well."""
    model = know_noise(Defended(Ancestral(), Toy(G)), 0)
    x = G["x01"].clone().requires_grad_()
    anything = Noise(12345, IDS, 77)
    output = model.purify(x, anything)
    close(output.detach(), "output")
    (gradient,) = torch.autograd.grad((output * G["readout"]).sum(), x)
    close(gradient, "grad_exact")
    loss = F.cross_entropy(model(x, anything), G["labels"])
    (first,) = torch.autograd.grad(loss, x)
    close(first / 2, "grad_first")
    for steps in range(1, 6):
        attack = PGDEOT(steps=steps, step_size=2 / 255, eot=1, start="zero")
        found = attack.perturb(model, G["x01"], G["labels"], IDS, THREAT, steps)
        assert (found - G["x01"] - G["delta_path"][steps - 1]).abs().max() < 1e-9
    close(found, "adv01")
    close(model.purify(found, anything), "output_adv")
    close(model(G["x01"], anything), "logits_clean")
    close(model(found, anything), "logits_adv")


def test_golden_judge() -> None:
    model = Defended(Ancestral(), Toy(G))
    given = model, PGD, G["x01"], G["labels"], IDS
    records = evaluate(*given, THREAT, draws=9, seed=3)
    assert [sum(r.robust_votes.values()) for r in records] == [1, 1, 1]  # asked once: there is no other draw
    assert [r.clean_correct for r in records] == [1, 1, 1] and [r.robust_correct for r in records] == [0, 0, 0]


def test_more_draws_give_the_same_gradient_and_answers_repeat() -> None:
    classifier, images, labels, ids = problem(20)
    kept: list[Tensor] = []
    for eot in (1, 6):
        attack = PGDEOT(steps=6, step_size=0.005, eot=eot, start="zero")
        evaluate(
            defended(classifier, 0.3), attack, images, labels, ids, ThreatModel(epsilon=0.02, noise="known"), draws=3,
            seed=0, keep=kept.append,
        )  # fmt: skip
    assert torch.equal(kept[0], kept[1])
    model = know_noise(defended(classifier, 0.3), 0)
    assert torch.equal(model(images, Noise(1, ids, 4)), model(images, Noise(2, ids, 9)))
    whole = model(images, Noise(1, ids))
    parts = [model(images[rows], Noise(1, ids[rows])) for rows in (slice(0, 7), slice(7, 20))]
    assert torch.equal(whole, torch.cat(parts)) and not torch.equal(
        whole, know_noise(model.real, 1)(images, Noise(1, ids))
    )
    for view in (model.sealed(), model.with_gradient("straight_through"), model.with_purify(lambda purify: purify)):
        assert isinstance(view, KnownNoise) and torch.equal(view(images, Noise(5, ids, 3)), whole)
    with pytest.raises(ValueError, match="Expected the noise"):
        model(images)


def test_exact_shares_of_a_linear_classifier() -> None:
    """With w.x + sigma w.n known, an image falls exactly where |w.x + sigma w.n| <= epsilon |w|_1."""
    classifier, images, labels, ids = problem(200)
    model, threat = know_noise(defended(classifier, 0.05), 0), ThreatModel(epsilon=0.02, noise="known")
    attack = PGDEOT(steps=12, step_size=0.004, eot=1, start="zero")
    records = evaluate(model, attack, images, labels, ids, threat, draws=1, seed=0)
    logits = model(images, Noise(0, ids))
    signed = (logits[:, 1] - logits[:, 0]) * (2 * labels - 1)
    expected = signed > threat.epsilon * classifier.w.abs().sum()
    assert [bool(r.robust_correct) for r in records] == expected.tolist()


def cell(**changes: Any) -> Cell:
    given = {
        "dataset": "digits", "classifier": "digits_cnn", "score": "digits_score",
        "defense": DiffPureSDE(t=0.1, steps=2), "attack": PGDEOT(steps=2, eot=1), "draws": 5,
        "threat": ThreatModel(epsilon=0.1), "num_images": 4,
    }  # fmt: skip
    return Cell(**(given | changes))


def test_only_a_known_noise_enters_the_key() -> None:
    fresh, known = cell(), cell(threat=ThreatModel(epsilon=0.1, noise="known"))
    assert "noise" not in fresh.resolved()["threat"] and known.resolved()["threat"]["noise"] == "known"
    assert fresh.key != known.key and known.judging_draws == 1 and fresh.judging_draws == 5
    for some in (fresh, known):
        assert some.planned().key == some.key == Cell.from_row(some.row()).key
    older = {name: value for name, value in fresh.row().items() if name != "noise"}
    assert Cell.from_row(older) == fresh and "known noise" in str(known) and "noise" not in str(fresh)


@pytest.mark.parametrize("gradient", ["surrogate", "transfer"])
def test_what_cannot_know_the_noise_is_refused(gradient: Any) -> None:
    with pytest.raises(ValueError, match="Take 'exact'"):
        cell(threat=ThreatModel(epsilon=0.1, noise="known", gradient=gradient))
    with pytest.raises(ValueError, match="draws none"):
        cell(defense=Undefended(), score=None, threat=ThreatModel(epsilon=0.1, noise="known"))
    with pytest.raises(ValueError, match="fresh, known"):
        ThreatModel(epsilon=0.1, noise="some")  # type: ignore[arg-type]
    classifier, images, labels, ids = problem(3)
    with pytest.raises(ValueError, match="Use apgd_eot"):
        AutoAttackRand().perturb(
            know_noise(defended(classifier, 0.1), 0), images, labels, ids, ThreatModel(epsilon=0.1, noise="known"), 0
        )


def test_gate_holds_the_number_to_fresh_draws() -> None:
    classifier, images, labels, ids = problem(60)
    threat, model = ThreatModel(epsilon=0.03, noise="known"), defended(classifier, 0.1)

    def gate(known: Defended) -> Any:
        evidence = Evidence(stochastic=False, unknown=lambda kind: model)
        attack = APGDEOT(steps=5, eot=1)
        (found,) = run_gates(
            lambda kind: known,
            images,
            labels,
            ids,
            threat,
            attack,
            seed=0,
            classes=3,
            evidence=evidence,
            gates=(known_noise,),
        )
        return found

    honest = gate(know_noise(model, 0))  # of a linear classifier no knowledge is of use: passed, either way
    assert honest.passed and "fresh draws the same 60 images leave" in honest.reason
    lying = Defended(lambda x, n: x + 5 * (2 * labels - 1).view(-1, 1, 1, 1) * classifier.w, classifier)
    assert gate(know_noise(lying, 0)).passed is False


def test_no_conclusion_across_kinds_of_noise() -> None:
    rows = [some.row() for some in (cell(), cell(threat=ThreatModel(epsilon=0.1, noise="known")))]
    numbers = {"images": 4, "a_accuracy": 90.0, "b_accuracy": 10.0, "difference": 80.0, "low": 70.0, "high": 90.0,
               "only_a": 4, "only_b": 0, "p_value": 1e-9}  # fmt: skip
    text = compare_text(*rows, numbers)
    assert "No conclusion" in text and "more robust" not in text and "not the same noise: A fresh, B known" in text
    assert "A is more robust" in compare_text(rows[0], rows[0], numbers)


def test_a_row_has_its_own_column_mark_and_gate(tmp_path: Path) -> None:
    grid = tmp_path / "box.py"
    grid.write_text(GRID)
    runner, db = CliRunner(), f"--db={tmp_path / 'r.sqlite'}"
    ran = runner.invoke(main, ["run", f"--grid={grid}", "--device=cpu", db])
    assert ran.exit_code == 0, ran.output
    said = runner.invoke(main, ["query", db, "SELECT noise, draws, gates FROM results ORDER BY noise", "--format=json"])
    fresh, known = json.loads(said.output)
    assert (fresh["noise"], fresh["draws"], known["noise"], known["draws"]) == ("fresh", 3, "known", 1)
    gates = [json.loads(row["gates"]) if isinstance(row["gates"], str) else row["gates"] for row in (fresh, known)]
    said = [next(gate for gate in some if gate["gate"] == "known_noise") for some in gates]
    assert said[0]["passed"] is None and said[1]["passed"] is True and said[1]["value"] < 0
    assert next(gate for gate in gates[1] if gate["gate"] == "outsider")["passed"] is None  # foreign ids, other draws
    shown = runner.invoke(main, ["report", f"--grid={grid}", db, "--format=markdown"]).output
    assert (
        "(known noise)" in shown
        and "(fresh noise)" in shown
        and "**" not in shown.split("| :--", 1)[1].split("Accuracies")[0]
    )


GRID = """
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.threat import ThreatModel
from defenses.diffpure_sde import DiffPureSDE


def cells():
    for noise in ("fresh", "known"):
        yield Cell(
            dataset="digits", classifier="digits_cnn", score="digits_score", defense=DiffPureSDE(t=0.1, steps=2),
            attack=PGDEOT(steps=3, step_size=0.1, eot=1), threat=ThreatModel(epsilon=0.1875, noise=noise),
            num_images=6, draws=3,
        )
"""
