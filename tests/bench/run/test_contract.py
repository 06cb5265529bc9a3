"""A defense of the user's is checked on two images before its first cell: a lie is a sentence, and others go on."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from bench.attacks.clean import Clean
from bench.cell import Cell
from bench.run import contract
from bench.run.prepare import Loader
from bench.run.runner import run_cells
from bench.store import Store
from bench.threat import ThreatModel
from defenses import Purifier
from defenses.undefended import Undefended


class Silent:
    def begin_cell(self, *args: Any) -> None: ...
    def show_images(self, *args: Any) -> None: ...
    def show_step(self, *args: Any) -> None: ...
    def end_cell(self, *args: Any) -> None: ...


CALLS: list[int] = []


def remembers(images: Tensor, noise: Any) -> Tensor:
    CALLS.append(1)
    return images + 0.01 * len(CALLS)


def in_place(images: Tensor, noise: Any) -> Tensor:
    images += 0.1
    return images


def two_faced(images: Tensor, noise: Any) -> Tensor:
    return images * (0.5 if torch.is_grad_enabled() else 0.9)


LIES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "torch.rand": (lambda x, n: x + 0.1 * torch.rand_like(x), {}, "is not pure: .*Draw from `noise` alone"),
    "memory": (remembers, {}, "keep nothing between calls"),
    "in place": (in_place, {}, "changes the images that it is given"),
    "batch": (lambda x, n: x - x.mean(0), {}, "depends on the images beside it.*declare batch_coupled = True"),
    "draws": (lambda x, n: x + 0.1 * n.normal(x, step=0), {"stochastic": False}, "Declare stochastic = True"),
    "no graph": (lambda x, n: x.detach() * 1.0, {}, r"declares the gradient 'exact', but its answer has none"),
    "rounding": (lambda x, n: x.round(), {}, r"declare gradients = \(\): it is then attacked straight through"),
    "numpy inside": (lambda x, n: torch.from_numpy(x.numpy()), {}, "but its answer has none .*numpy"),
    "two faces": (two_faced, {}, "computes something else while a gradient is recorded"),
    "shape": (lambda x, n: x.mean(1), {}, r"to return images \(2, 1, 8, 8\), found a tensor \(2, 8, 8\)"),
    "nothing": (lambda x, n: None, {}, "found nothing: write `return`"),
    "numpy": (lambda x, n: x.numpy(), {}, "found a ndarray"),
    "arguments": (lambda x: x, {}, r"`build` must return a function of \(images, noise\)"),
    "no function": (None, {}, r"NoneType.*`build` must return a function"),
    "nan": (lambda x, n: x / 0, {}, "Expected finite numbers"),
    "dtype": (lambda x, n: x.double(), {}, "to return torch.float32, found torch.float64"),
}
HONEST: dict[str, tuple[Any, dict[str, Any]]] = {
    "constant": (lambda x, n: x * 0.0, {"stochastic": False}),
    "grey": (lambda x, n: torch.full_like(x, 0.5), {"stochastic": False}),
    "plain": (lambda x, n: x * 0.9, {"stochastic": False}),
    "noise": (lambda x, n: x + 0.1 * n.normal(x, step=0), {}),
    "coupled": (lambda x, n: x - 0.1 * x.mean(0), {"batch_coupled": True}),
    "rounds": (lambda x, n: x.round(), {"gradients": (), "stochastic": False}),
}


def cell(purify: Any, declared: dict[str, Any], **fields: Any) -> Cell:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mine(Purifier):
        name: ClassVar[str] = "mine"
        title: ClassVar[str] = "mine"
        source: ClassVar[str] = "none"
        stochastic: ClassVar[bool] = True

        def build(self, *, classifier: Any, score: Any, gradient: Any = "exact") -> Any:
            return purify

    for name, value in declared.items():
        setattr(Mine, name, value)
    kind = "exact" if "exact" in Mine.gradients else "straight_through"
    return Cell(
        dataset="digits", classifier="digits_cnn", defense=Mine(), attack=Clean(), num_images=4, draws=2,
        threat=ThreatModel(norm="Linf", epsilon=0.1, gradient=kind), **fields,
    )  # fmt: skip


def run(path: Path, *cells: Cell) -> tuple[int, list[str]]:
    """How many ended well, and what the others said."""
    with Store(path) as store:
        outcome = run_cells(cells, store, Loader(torch.device("cpu")), Silent(), grid="test")
        return len(outcome.done), [store.runs_of(found.key)[0]["error_message"] for found in outcome.failed]


@pytest.mark.parametrize("lie", list(LIES))
def test_a_lie_fails_the_cells_of_its_defense_and_no_others(lie: str, tmp_path: Path) -> None:
    purify, declared, said = LIES[lie]
    honest = dataclasses.replace(cell(None, {}), defense=Undefended())
    lying = [cell(purify, declared, seed=seed) for seed in (0, 1)]
    done, errors = run(tmp_path / "r.sqlite", *lying, honest)
    assert done == 1 and len(errors) == 2 and len(set(errors)) == 1
    assert re.search(said, errors[0]), errors[0]


@pytest.mark.parametrize("kind", list(HONEST))
def test_what_is_declared_passes(kind: str, tmp_path: Path) -> None:
    assert run(tmp_path / "r.sqlite", cell(*HONEST[kind])) == (1, [])


def test_it_is_asked_once_for_each_defense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = contract.check_contract
    monkeypatch.setattr("bench.run.runner.check_contract", lambda prepared: (asked.append("x"), real(prepared)))
    cells = [cell(*HONEST["plain"], seed=seed) for seed in (0, 1, 2)]
    assert run(tmp_path / "r.sqlite", *cells) == (3, []) and len(asked) == 1
