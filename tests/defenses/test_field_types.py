"""Fields of the wrong kind are answered where the object is made, each in one sentence that names the field."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch

from bench.attacks.base import Attack, attacks
from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.threat import ThreatModel
from defenses.base import Defense, Purifier, defenses
from defenses.diffpure_sde import DiffPureSDE
from defenses.field_types import check_fields
from defenses.gaussian_noise import GaussianNoise
from defenses.gradual_noise import GradualNoise

WRONG: dict[str, tuple[Any, ...]] = {
    "int": (2.5, True, "3", "", math.inf, math.nan, 2**70, np.float64(2.5), [1], torch.ones(2)),
    "float": (math.inf, -math.inf, math.nan, True, "8/255", "", 1e300, np.float32("nan"), [0.1], torch.ones(2)),
    "bool": (1, 0, "yes", "", 1.0),
    "str": ("", "  ", 3, 2.5, True, "a\x1b[31m"),
}
"""Type of a field -> values that are not of it."""


def fields_of(kind: str) -> Iterator[tuple[type, str]]:
    for registry in (defenses, attacks):
        for name in registry:
            for field in dataclasses.fields(registry[name]):  # type: ignore[arg-type]
                if str(field.type).split(" | ")[0] == kind:
                    yield registry[name], field.name  # type: ignore[misc]


@pytest.mark.parametrize("kind", list(WRONG))
def test_every_field_of_every_defense_and_attack(kind: str) -> None:
    seen = 0
    for cls, name in fields_of(kind):
        for value in WRONG[kind]:
            with pytest.raises(ValueError, match=rf"^Expected {name} of {cls.__name__} to be .*, got "):
                cls(**{name: value})
            seen += 1
    assert seen > 10


def test_counts_are_not_negative() -> None:
    for cls, name in fields_of("int"):
        with pytest.raises(ValueError, match=name):
            cls(**{name: -1})


def cell(**changes: Any) -> Cell:
    fields = {
        "dataset": "digits", "classifier": "digits_cnn", "defense": GaussianNoise(sigma=0.1), "attack": PGDEOT(steps=3),
        "threat": ThreatModel(epsilon=0.1), "num_images": 4,
    }  # fmt: skip
    return Cell(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": "a"}, {"seed": 2**70}, {"seed": 2**31}, {"seed": -1}, {"seed": 1.5}, {"seed": True}, {"seed": None},
        {"data_seed": "a"}, {"data_seed": -1}, {"batch_size": 2.5}, {"batch_size": 0}, {"batch_size": True},
        {"draws": 0}, {"draws": 2.5}, {"num_images": 0}, {"num_images": "64"}, {"num_images": -3}, {"balanced": 1},
        {"dataset": ""}, {"dataset": None}, {"classifier": ""}, {"score": ""}, {"score": 3}, {"published": ""},
        {"tier": "fast"}, {"tier": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_cell(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=rf"^Expected {name} .*got "):
        cell(**changes)


@pytest.mark.parametrize("epsilon", ["8/255", "", None, True, math.nan, math.inf, -0.1, 8, [0.1], torch.ones(2)])
def test_a_threat(epsilon: Any) -> None:
    with pytest.raises(ValueError, match=r"^Expected epsilon .*got "):
        ThreatModel(epsilon=epsilon)


@pytest.mark.parametrize("t", [1e-6, 0.0004, 0, -0.1, 1.5])
def test_a_time_without_noise(t: float) -> None:
    for name in defenses:
        if "t" in (fields := {field.name for field in dataclasses.fields(defenses[name])}):
            assert fields
            with pytest.raises(ValueError, match=r"Expected .*\bt\b.*"):
                defenses.make(name, {"t": t})


def test_numpy_scalars_equal_plain_ones() -> None:
    """The same key and the same row, whatever a sweep is made with."""
    plain = cell(
        defense=DiffPureSDE(t=0.1, steps=4), attack=PGDEOT(steps=3, step_size=0.007, resample=True),
        threat=ThreatModel(epsilon=8 / 255), num_images=4, seed=3, batch_size=2,
    )  # fmt: skip
    for real in (np.float64, np.float32, lambda x: torch.tensor(x, dtype=torch.float64), torch.tensor, np.array):
        for whole in (np.int64, np.int8, np.uint16, torch.tensor, np.array, float):
            other = cell(
                defense=DiffPureSDE(t=real(0.1), steps=whole(4)),
                attack=PGDEOT(steps=whole(3), step_size=real(0.007), resample=np.bool_(True)),
                threat=ThreatModel(epsilon=real(8 / 255)),
                dataset=np.str_("digits"), num_images=whole(4), seed=whole(3), batch_size=whole(2),
            )  # fmt: skip
            assert (other.key, other.row()) == (plain.key, plain.row()) and other == plain
            assert repr(other) == repr(plain)


def test_whole_numbers_and_fractions_in_fields_of_floats() -> None:
    assert repr(GaussianNoise(sigma=1)) == repr(GaussianNoise(sigma=1.0))
    assert GaussianNoise(sigma=Fraction(1, 4)) == GaussianNoise(sigma=0.25)


def test_tuples() -> None:
    assert GradualNoise(levels=np.array([30, 30])) == GradualNoise(levels=[30, np.int64(30)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="levels of GradualNoise to be several values in brackets, each a whole"):
        GradualNoise(levels=(30, 2.5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="several values in brackets, got 30"):
        GradualNoise(levels=30)  # type: ignore[arg-type]


def test_a_users_own_class_is_checked_too() -> None:
    """With a __post_init__ that calls no other one, with names that only a type checker knows, with nested data."""

    @dataclass(frozen=True, kw_only=True)
    class Mine(Purifier):
        source: ClassVar[str] = "here"
        sigma: float = 0.1
        mode: Literal["a", "b"] = "a"
        table: Mapping[str, Any] = dataclasses.field(default_factory=dict)
        anything: Unknown = None  # type: ignore[name-defined]  # noqa: F821

        def __post_init__(self) -> None:
            assert isinstance(self.sigma, float)

        def build(self, **_: Any) -> Any: ...

    assert type(Mine(sigma=np.float64(0.5)).sigma) is float
    assert Mine(table={"x": np.int64(3), "y": [np.float64(1.5)]}).params()["table"] == {"x": 3, "y": [1.5]}
    for wrong in (
        {"sigma": math.nan}, {"mode": "c"}, {"table": {"x": math.inf}}, {"table": {1: 2}}, {"anything": [2**60]},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"Expected {next(iter(wrong))} "):
            Mine(**wrong)
    for stranger in ({"anything": object()}, {"anything": [torch.nn.ReLU()]}, {"anything": {1, 2}}, {"sigma": print}):
        with pytest.raises(
            ValueError, match=f"Expected plain data .* in the field {next(iter(stranger))} of Mine, found"
        ):
            Mine(**stranger)


def test_shipped_defaults_are_of_their_types() -> None:
    for registry in (defenses, attacks):
        for name in registry:
            assert isinstance(registry.make(name), (Defense, Attack))


def test_fields_that_are_computed_are_left_alone() -> None:
    @dataclass
    class Record:
        given: int = 1
        found: object = dataclasses.field(init=False, default=torch)

    check_fields(Record())
    assert typing.get_type_hints(Record)["given"] is int
