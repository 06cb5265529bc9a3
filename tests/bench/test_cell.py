"""A cell's key covers what decides its number, and nothing else."""

import dataclasses
import hashlib
import json

import pytest

from bench.attacks.gold import Gold
from bench.attacks.pgd_eot import PGDEOT
from bench.attacks.square_eot import SquareEOT
from bench.cell import Cell
from bench.threat import ThreatModel
from defenses.contrastive import Contrastive
from defenses.diffpure_sde import DiffPureSDE
from defenses.registry import plain_fields
from defenses.undefended import Undefended


def cell(**changes: object) -> Cell:
    fields = {
        "dataset": "digits",
        "classifier": "digits_cnn",
        "score": "digits_score",
        "defense": DiffPureSDE(t=0.1),
        "attack": PGDEOT(steps=5),
        "threat": ThreatModel(epsilon=0.1),
    }
    return Cell(**(fields | changes))


def test_key_is_the_hash_of_the_canonical_json() -> None:
    text = json.dumps(cell().resolved(), sort_keys=True, separators=(",", ":"))
    assert cell().key == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert '"step_size":0.007' in text  # defaults are resolved


@pytest.mark.parametrize(
    "changes",
    [
        {"defense": DiffPureSDE(t=0.2)},
        {"attack": PGDEOT(steps=6)},
        {"threat": ThreatModel(epsilon=0.1, gradient="straight_through")},
        {"threat": ThreatModel(epsilon=0.1, norm="L2")},
        {"num_images": 7},
        {"data_seed": 1},
        {"draws": 11},
        {"seed": 1},
        {"classifier": "digits_cnn_at"},
        {"balanced": True},
    ],
)
def test_what_decides_the_number_is_in_the_key(changes: dict) -> None:
    assert cell(**changes).key != cell().key


def test_a_whole_number_is_the_same_number() -> None:
    whole = cell(threat=ThreatModel(epsilon=1), defense=DiffPureSDE(t=1), attack=PGDEOT(step_size=1))
    assert (
        whole.key == cell(threat=ThreatModel(epsilon=1.0), defense=DiffPureSDE(t=1.0), attack=PGDEOT(step_size=1.0)).key
    )
    assert Cell.from_row(json.loads(json.dumps(whole.row()))).key == whole.key
    assert isinstance(PGDEOT(steps=5).params()["steps"], int)
    fields = [("a", float, 0.0), ("b", float | None, None), ("c", int, 0), ("d", "float | None", None)]
    made = dataclasses.make_dataclass("Made", fields)(
        a=1, b=2, c=3, d=4
    )  # types as classes, without postponed annotations
    assert [type(value) for value in plain_fields(made).values()] == [float, float, int, float]


def test_a_line_about_a_cell_writes_the_budget_as_people_do() -> None:
    assert "(Linf 8/255 exact)" in str(cell(threat=ThreatModel(epsilon=8 / 255)))


def test_batch_size_counts_only_where_batches_matter() -> None:
    assert cell(batch_size=7).key == cell().key
    coupled = {"defense": Contrastive(t=0.1)}
    assert cell(**coupled, batch_size=7).key != cell(**coupled).key
    alone = {"defense": Contrastive(t=0.1, per_image=True)}
    assert cell(**alone, batch_size=7).key == cell(**alone).key


def test_labels_do_not_count() -> None:
    assert cell(published="bai2024contrastive-1").key == cell().key


def test_a_new_version_is_a_new_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cell().key
    monkeypatch.setattr(DiffPureSDE, "version", 2)
    assert cell().key != before


def test_a_deterministic_defense_is_judged_once() -> None:
    assert cell(defense=Undefended(), draws=10).key == cell(defense=Undefended(), draws=1).key


def test_row_round_trip() -> None:
    for original in (cell(), cell(defense=Contrastive(), seed=3, batch_size=5)):
        row = json.loads(json.dumps(original.row()))
        assert Cell.from_row(row).key == original.key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": 0}, "num_images >= 1"),
        ({"tier": "silver"}, "tier among"),
        ({"threat": ThreatModel(epsilon=0.1, gradient="guidance_detached")}, "has no 'guidance_detached' gradient"),
    ],
)
def test_bad_cells_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cell(**changes)


def test_epsilon_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"epsilon in \[0, 1\]"):
        ThreatModel(epsilon=8)
    assert dataclasses.replace(ThreatModel(epsilon=0.5, norm="L2"), epsilon=3.0).epsilon == 3.0


def test_the_words_of_a_cell_name_the_adversarially_trained_model() -> None:
    from bench.run.display import name_cells
    from defenses.adversarial_training import AdversarialTraining

    one = Cell(
        dataset="digits", classifier="digits_cnn", defense=AdversarialTraining(model="digits_cnn_at"),
        attack=PGDEOT(steps=1), threat=ThreatModel(epsilon=0.1),
    )  # fmt: skip
    assert "(digits_cnn_at)" in str(one) and "(digits_cnn_at)" in name_cells([one])[one.key]


def test_the_precision_of_an_attack_is_part_of_the_key_where_it_is_not_float32() -> None:
    usual, low = cell(), cell(attack_precision="bfloat16")
    assert "attack_precision" not in usual.resolved() and low.key != usual.key
    assert cell(attack_precision="tf32").key not in (usual.key, low.key)
    for one in (usual, low):
        assert one.planned().key == one.key == Cell.from_row(one.row()).key
    older = {name: value for name, value in usual.row().items() if name != "attack_precision"}
    assert Cell.from_row(older).key == usual.key


@pytest.mark.parametrize(
    "changes",
    [
        {"defense": Undefended(), "score": None},
        {"attack": SquareEOT()},
        {"threat": ThreatModel(epsilon=0.1, gradient="transfer")},
        {"threat": ThreatModel(epsilon=0.1, gradient="none")},
    ],
)
def test_a_precision_that_nothing_would_compute_in_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Leave it out"):
        cell(attack_precision="bfloat16", **changes)
    assert cell(**changes).attacked_in("bfloat16") == cell(**changes)


def test_members_of_an_attack_may_have_a_gradient_that_the_threat_has_not() -> None:
    assert cell(attack=Gold(), threat=ThreatModel(epsilon=0.1, gradient="transfer")).can_be_attacked_in("bfloat16")
    assert cell(defense=Undefended(), score=None).can_be_attacked_in("tf32")
    with pytest.raises(ValueError, match="attack_precision among float32, tf32, bfloat16, got 'float16'"):
        cell(attack_precision="float16")
