"""Forecasts for cards that are not at hand: operations, calls of networks, and their product."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.attacks.base import Oracle
from bench.attacks.gold import Gold
from bench.attacks.pgd_eot import PGDEOT
from bench.attacks.strong import Strong
from bench.cell import Cell
from bench.run import flops
from bench.run.answers import count_attack, rows_of_attack
from bench.run.bill import price_cells
from bench.run.cards import CARDS, Card
from bench.run.meter import Meter
from bench.run.modelled import OnCard
from bench.run.prepare import Loader
from bench.run.rates import Here
from bench.run.standins import count_calls
from bench.threat import ThreatModel
from defenses.base import Defense, Gradient
from defenses.chain import Chain
from defenses.contrastive import Contrastive
from defenses.diffpure_sde import DiffPureSDE
from defenses.gdmp import GDMP
from defenses.precision import Precision
from defenses.undefended import Undefended

THREAT = ThreatModel(epsilon=3 / 16)
LOADER = Loader(torch.device("cpu"))


def cell(**changes: object) -> Cell:
    fields = {
        "dataset": "digits", "classifier": "digits_cnn", "score": "digits_score", "threat": THREAT, "num_images": 8,
        "defense": DiffPureSDE(t=0.1, steps=3), "attack": PGDEOT(steps=2, eot=4), "draws": 2,
    }  # fmt: skip
    return Cell(**{**fields, **changes})


def test_operations_of_known_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path))
    cifar = cell(dataset="cifar10", classifier="cifar_resnet20")
    found = flops.flops_of_classifier("cifar_resnet20", cifar)
    assert found.forward == pytest.approx(2 * 40.55e6, rel=0.01)  # 0.041 G multiplications (He et al., 2016)
    assert found.backward == pytest.approx(found.forward, rel=0.05)  # the gradient of the input alone
    assert json.loads((tmp_path / "flops.json").read_text()) == {
        "classifier cifar_resnet20 (3, 32, 32)": [found.forward, found.backward]
    }
    monkeypatch.setattr(flops, "_count_unmade", None)
    assert flops.flops_of_classifier("cifar_resnet20", cifar) == found  # from the file


def test_operations_of_a_network_of_ones_own() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 3))
    assert flops._count(network, (1, 8, 8)) == flops.Flops(2 * (640 + 30), 2 * (640 + 30))


@pytest.mark.parametrize(
    ("defense", "kind"),
    [
        (DiffPureSDE(t=0.1, steps=3), "exact"),
        (DiffPureSDE(t=0.1, steps=3), "straight_through"),
        (DiffPureSDE(t=0.1, steps=3), "transfer"),
        (DiffPureSDE(t=0.1, steps=4), "surrogate"),
        (GDMP(rounds=1, steps=4), "exact"),
        (Contrastive(t=0.1, steps=3, guide="digits_cnn_at", per_image=True), "exact"),
        (Contrastive(t=0.1, steps=3), "guidance_detached"),
        (Chain(members=(("diffpure_sde", {"t": 0.1, "steps": 2}),)), "exact"),
        (Undefended(), "exact"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_calls_of_stand_ins_are_those_of_the_networks(defense: Defense, kind: Gradient) -> None:
    wanted = cell(
        defense=defense,
        score="digits_score" if defense.needs_score else None,
        threat=ThreatModel(epsilon=3 / 16, gradient=kind),
    )
    prepared = LOADER.prepare(wanted)
    object.__setattr__(prepared.cell.defense, "checkpoint_every", 1)  # no graph is kept, as for a large network
    images, labels, ids = prepared.batch(slice(0, 2))
    for gradient in (False, True):
        called = count_calls(wanted, kind, gradient=gradient)
        oracle = Oracle(prepared.model(), labels, ids, 0)
        with Meter(*prepared.counted(oracle.model)) as meter:
            (oracle.gradient if gradient else oracle.evaluate)(images, 0)
            spent = meter.take() / 2
        counted = called.scores if wanted.score else called.classifiers
        assert sum(passes.forward + passes.backward for passes in counted.values()) == spent


def test_a_guide_is_counted_beside_the_classifier() -> None:
    guided = cell(defense=Contrastive(t=0.1, steps=3, guide="digits_cnn_at", per_image=True, guide_from=1))
    called = count_calls(guided, "exact", gradient=False)
    assert called.classifiers["digits_cnn"].forward == 1 and called.classifiers["digits_cnn_at"].forward >= 4


def test_seconds_are_operations_over_the_rate_of_their_precision() -> None:
    slow = Card(title="slow", sustained={"float32": 1.0, "tf32": 2.0, "bfloat16": 4.0})
    rates, score, classifier = (
        OnCard(slow),
        flops.flops_of_score("digits_score", cell()),
        flops.flops_of_classifier("digits_cnn", cell()),
    )

    def seconds(precision: Precision) -> tuple[float, float]:
        return rates.rate(cell(), "exact", precision).seconds

    plain = 3 * score.forward + classifier.forward
    purifying = 6 * score.forward + 3 * score.backward  # every step is replayed
    head = classifier.forward + classifier.backward
    assert seconds("float32") == pytest.approx((plain, purifying + head))
    assert seconds("tf32") == pytest.approx((plain, (purifying + head) / 2))  # the judge stays in float32
    assert seconds("bfloat16") == pytest.approx((plain, purifying / 4 + head))  # and so does the classifier
    assert CARDS["h100"].sustained["bfloat16"] > CARDS["a100"].sustained["bfloat16"]


def test_this_device_and_a_card_count_the_same_evaluations() -> None:
    straight = cell(threat=ThreatModel(epsilon=3 / 16, gradient="straight_through"))
    here, there = (price_cells(straight, 3, rates) for rates in (Here(LOADER), OnCard(CARDS["h100"])))
    assert (here.units, here.checks) == (there.units, there.checks) and here.seconds > there.seconds > 0


def test_members_of_a_cascade_are_priced_by_their_own_gradients() -> None:
    gold = cell(attack=Gold(steps=10, apgd_steps=5, eot=2), defense=GDMP(rounds=1, steps=4))
    asked = count_attack(gold)
    assert {kind: asked.graphs[kind] for kind in asked.graphs if kind != "exact"} == {
        "transfer": 10, "straight_through": 20, "guidance_detached": 20,
    }  # fmt: skip
    whole = gold.attack.cascade(3 / 16, guided=True)
    assert (asked.plain, sum(asked.graphs.values())) == whole.queries()
    assert rows_of_attack(gold) == 8 * 2


def test_strong_on_a_batch_that_stays_whole() -> None:
    whole, single = (
        count_attack(cell(attack=Strong(), defense=Contrastive(t=0.1, steps=3, per_image=each)))
        for each in (False, True)
    )
    assert whole.graphs["exact"] == whole.graphs["guidance_detached"] == 2 * (80 + 160 + 320)
    assert single.graphs["guidance_detached"] == 160 and single.graphs["exact"] == Strong().usual_queries()[1]


def test_rates_are_of_the_rows_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Counted(Oracle):
        def gradient(self, x: torch.Tensor, first: int) -> object:
            seen.append(len(x) * self.eot)
            return super().gradient(x, first)

    monkeypatch.setattr("bench.run.rates.Oracle", Counted)
    monkeypatch.setattr("bench.run.rates.MOST", 1e9)
    monkeypatch.setattr("bench.run.rates.BETTER", 1e9)
    many = cell(num_images=64, attack=PGDEOT(steps=2, eot=10), defense=Undefended(), score=None, batch_size=32)
    Here(LOADER).rate(many, "exact", "float32")
    assert seen == [8, 8, 32, 128, 320, 320]
