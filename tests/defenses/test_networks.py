"""Which networks a defense brings by itself: in `networks()`, in the result's row, and replaceable by name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest

from bench.attacks.clean import Clean
from bench.cell import Cell
from bench.run.prepare import licences_of, names_of, weights_of
from bench.threat import ThreatModel
from defenses.adversarial_training import AdversarialTraining
from defenses.base import Defense, Networks, Purifier, Purify, defenses
from defenses.chain import Chain
from defenses.contrastive import Contrastive

OTHER = {"classifiers": "digits_cnn_at", "scores": "digits_conditional"}
NAMES = [
    (name, field.name, kind)
    for name in defenses
    for field in dataclasses.fields(defenses[name])
    if "str" in str(field.type).split(" | ")
    for kind in OTHER
]


@dataclass(frozen=True, kw_only=True)
class Judged(Purifier):
    """A defense of somebody else, which says nothing of its networks but their names."""

    name: ClassVar[str] = "judged"
    source: ClassVar[str] = "this test"
    stochastic: ClassVar[bool] = False

    judge_network: str = "digits_cnn_at"
    critics: tuple[str, ...] = ("digits_conditional", "digits_energy")
    mood: str = "stern"

    def build(self, **given: object) -> Purify:
        return lambda images, noise: images


def cell(defense: Defense) -> Cell:
    return Cell(
        dataset="digits",
        classifier="digits_cnn",
        score="digits_score",
        defense=defense,
        attack=Clean(),
        threat=ThreatModel(epsilon=0.1),
        num_images=4,
    )


@pytest.mark.parametrize(("name", "field", "kind"), NAMES)
def test_a_field_that_names_a_network_is_told(name: str, field: str, kind: str) -> None:
    """Of the field's own kind of network; a field for classifiers tells the name of a score network as one of those."""
    try:
        own = defenses.make(name, {field: OTHER[kind]}).networks()
    except ValueError:
        pytest.skip("a field of choices, none of them a network")
    assert OTHER[kind] in (*own.classifiers, *own.scores)


def test_somebody_elses_networks_are_in_the_row() -> None:
    theirs = cell(Judged())
    assert theirs.defense.networks() == Networks(
        classifiers=("digits_cnn_at",), scores=("digits_conditional", "digits_energy")
    )
    assert names_of(theirs) == (
        ["digits_cnn", "digits_cnn_at"],
        ["digits_score", "digits_conditional", "digits_energy"],
    )
    weights = weights_of(theirs)
    assert all(len(weights[name] or "") == 64 for name in ("digits_cnn_at", "digits_conditional", "digits_energy"))
    assert licences_of(theirs)["digits_cnn_at"] == "Apache-2.0"


def test_a_pattern_is_a_name_too() -> None:
    zoo = "robustbench:cifar10:Linf:Wong2020Fast"
    assert Judged(judge_network=zoo).networks().classifiers == (zoo,)
    assert AdversarialTraining(model=zoo).networks().classifiers == (zoo,)


def test_networks_are_replaced_by_name() -> None:
    new = {"digits_cnn_at": "toy", "digits_energy": "toy_score", "stern": "mild"}
    assert Judged().with_networks(new) == Judged(judge_network="toy", critics=("digits_conditional", "toy_score"))
    guided = Contrastive(guide="digits_cnn_at")
    assert guided.with_networks(new) == Contrastive(guide="toy")
    chain = Chain(members=(("contrastive", guided.params()), ("median_blur", {})))
    assert chain.with_networks(new).networks() == Networks(classifiers=("toy",))
