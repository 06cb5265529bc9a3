"""Networks that do not fit the data are told before an attack: one sentence, expected and found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.datasets import load_dataset
from bench.run.fit import check_classifier, check_score
from bench.run.prepare import Loader
from defenses.models.score_models import NetworkScore

DIGITS, CPU = load_dataset("digits"), torch.device("cpu")


class Answers(nn.Module):
    """A network that answers with a function of its images."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Any:
        return self.answer(images)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: torch.zeros(len(x), 43), r"shape \(1, 10\) .* digits \(10 classes\), found a tensor .*\(1, 43\)"),
        (lambda x: torch.zeros(len(x)), r"found a tensor of shape \(1,\)"),
        (lambda x: (torch.zeros(len(x), 10), None), "found a tuple of 2. Wrap the network"),
        (lambda x: {"logits": torch.zeros(len(x), 10)}, "found a dict. Wrap the network"),
        (lambda x: torch.zeros(len(x), 10, dtype=torch.int64), "found torch.int64: labels, no logits"),
        (lambda x: torch.full((len(x), 10), float("nan")), "found numbers that are not finite"),
        (nn.Conv2d(3, 10, 3), r"take a picture of digits, \(1, 1, 8, 8\) .*RuntimeError.*3 channels"),
        (nn.Linear(784, 10), "found that it cannot"),
    ],
)  # fmt: skip
def test_a_classifier_that_does_not_fit(answer: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_classifier(Answers(answer), "mine", DIGITS, 3, CPU)


def test_a_classifier_that_fits_is_asked_without_a_trace() -> None:
    state = torch.get_rng_state()
    check_classifier(Answers(lambda x: torch.randn(len(x), 10)), "mine", DIGITS, 0, CPU)
    assert torch.equal(state, torch.get_rng_state())


def score(answer: Callable[..., Any], shape: tuple[int, int, int] = (1, 8, 8)) -> NetworkScore:
    return NetworkScore(Answers2(answer), shape)


class Answers2(Answers):
    def forward(self, images: Tensor, label: Tensor) -> Any:  # type: ignore[override]
        return self.answer(images)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (score(lambda x: x, (3, 32, 32)), "pictures of 1 channels for digits, found mine, of 3"),
        (score(lambda x: x[..., :4]), r"answer of shape \(1, 1, 8, 8\) from .* mine .*found a tensor of shape"),
        (score(lambda x: 1 / 0), "score network mine to take a picture .*ZeroDivisionError"),
    ],
)  # fmt: skip
def test_a_score_network_that_does_not_fit(network: NetworkScore, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_score(network, "mine", DIGITS, 0, CPU)


def test_score_networks_of_another_size_fit() -> None:
    check_score(score(lambda x: x, (1, 16, 16)), "mine", DIGITS, 0, CPU)


def test_a_cell_is_prepared_with_networks_that_fit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.attacks.clean import Clean
    from bench.cell import Cell
    from bench.threat import ThreatModel
    from defenses.undefended import Undefended

    cell = Cell(
        dataset="digits", classifier="digits_cnn", defense=Undefended(), attack=Clean(),
        threat=ThreatModel(norm="Linf", epsilon=0.1, gradient="none"), num_images=4,
    )  # fmt: skip
    Loader(CPU).prepare(cell)
    monkeypatch.setattr("bench.run.prepare.load_classifier", lambda name: Answers(lambda x: torch.zeros(len(x), 7)))
    with pytest.raises(ValueError, match=r"found a tensor of shape \(1, 7\)"):
        Loader(CPU).prepare(cell)
