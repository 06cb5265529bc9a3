"""MEFA's loops against the released ones, replayed; its own judge."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden import load
from golden_attacks import Toy, wave
from torch import Tensor

from bench.attacks.base import Trace
from bench.attacks.mefa import MEFA, MeanLogits
from bench.threat import ThreatModel
from defenses.base import Defended

G, RECORD = load("mefa")
META = RECORD["meta"]
THREAT = ThreatModel(epsilon=2.5 / 255)  # 5/255 in [-1, 1]


class Langevin:
    """The fixture's purifier: its noise is a wave that counts the tensors asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def wave(self, like: Tensor) -> Tensor:
        self.asked += 1
        return META["amp"] * wave(like, self.asked - 1)

    def __call__(self, x01: Tensor, noise: object) -> Tensor:
        x, size = 2 * x01 - 1, META["langevin_eps"]
        z = self.wave(x.new_empty((META["langevin_steps"], *x.shape)))
        x = x + META["init_noise"] * self.wave(x)
        for k in range(META["langevin_steps"]):
            h = torch.tanh(F.conv2d(x, G["net_W"], G["net_b"], padding=1))
            slope = F.conv_transpose2d(h, G["net_W"], padding=1) + 0.1 * x
            x = x - size**2 / (2 * META["temperature"]) * slope + size * z[k]
        return (x + 1) / 2


def replay(row: int, method: str) -> tuple[Tensor, Trace]:
    """The released loop on one image: the wave counts from 0."""
    trace, some = Trace(), slice(row, row + 1)
    attack = MEFA(steps=META["pgd_steps"], step_size=0.5 / 255, eot=META["eot"], method=method)  # type: ignore[arg-type]
    model = Defended(Langevin(), Toy(G))
    ids = torch.tensor([row])
    return attack.perturb(model, G["x01"][some], G["labels"][some], ids, THREAT, 0, trace=trace), trace


def test_the_purifier_is_the_fixtures() -> None:
    torch.testing.assert_close(2 * Langevin()(G["x01"], None) - 1, G["output"], rtol=0, atol=1e-9)


def test_the_first_gradient() -> None:
    for row in range(3):
        some, ids = slice(row, row + 1), torch.tensor([row])
        oracle = MeanLogits(Defended(Langevin(), Toy(G)), G["labels"][some], ids, 0, eot=META["eot"])
        oracle.evaluate(G["x01"][some], 0)  # the first look at the clean image
        found = oracle.gradient(G["x01"][some], META["eot"]).gradient
        assert found is not None
        torch.testing.assert_close(found / 2, G["pgd_grad_first"][some], rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["pgd", "apgd"])
@pytest.mark.parametrize("row", range(3))
def test_the_loop_is_the_released_one(method: str, row: int) -> None:
    x, trace = replay(row, method)
    torch.testing.assert_close(2 * x - 1, G[f"{method}_final"][row : row + 1], rtol=0, atol=1e-9)
    losses = torch.tensor([point["loss"] for point in trace.curve()])
    if method == "pgd":
        torch.testing.assert_close(losses.double(), G["pgd_loss_path"][:, row], rtol=0, atol=1e-6)
    else:
        best = losses.double().cummax(0).values[1:]  # the released record begins with a zero
        torch.testing.assert_close(best, G["apgd_loss_best_path"][1:, row], rtol=0, atol=1e-6)


def test_its_own_judge_reads_mean_logits() -> None:
    for draws in META["judge_reps"]:
        for row in range(3):
            some, ids = slice(row, row + 1), torch.tensor([row])
            oracle = MeanLogits(Defended(Langevin(), Toy(G)), G["labels"][some], ids, 0, eot=draws)
            found = oracle.evaluate(G["pgd_final"][some] / 2 + 0.5, 0)
            logits = G[f"judge_logits_pgd_{draws}"][some]
            torch.testing.assert_close(
                found.loss, F.cross_entropy(logits, G["labels"][some]).view(1), rtol=0, atol=1e-9
            )
    _, trace = replay(0, "pgd")
    assert "mean logits over 1, 30, 50, 100 draws" in trace.notes[0] and "of 1 images: clean" in trace.notes[0]


def test_parts_of_a_batch_give_the_same_answer() -> None:
    """When memory runs out, images are asked about apart, draws never."""
    model = Defended(lambda x, noise: x + 0.1 * noise.normal(x, step=0), Toy(G))
    ids, oracles = torch.arange(3), []
    for rows in (None, 4):
        oracles.append(MeanLogits(model, G["labels"], ids, 0, eot=4, rows=rows).gradient(G["x01"], 0))
    torch.testing.assert_close(oracles[0].gradient, oracles[1].gradient)
    torch.testing.assert_close(oracles[0].loss, oracles[1].loss)


def test_apgd_moves_nothing_in_l2_as_released_and_is_refused() -> None:
    with pytest.raises(ValueError, match="norm Linf"):
        MEFA(method="apgd").perturb(
            Defended(Langevin(), Toy(G)), G["x01"], G["labels"], torch.arange(3), ThreatModel(epsilon=1.0, norm="L2"), 0
        )
