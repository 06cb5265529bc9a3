"""ADP: golden numbers of ten runs and of the stopping loop, the batch, exact gradients, VP networks as its score."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from golden import RecordedNoise, load
from torch import Tensor, nn

from defenses.adp import ADP, from_grid, to_grid
from defenses.base import combine_runs
from defenses.diffusion.schedule import VPSchedule
from defenses.noise import Noise

G, META = load("adp")
TOLERANCE = META["arrays"]["output_runs"]["tolerance"]
STOP = META["meta"]["stop_threshold"]
DIRECTION = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Toy:
    """gain (shift + 0.4 tanh(conv(2 x - 1)) - x (1 + x / 2))"""

    def score(self, x: Tensor) -> Tensor:
        bent = torch.tanh(F.conv2d(2 * x - 1, G["W"], G["b"], padding=1))
        return G["gain"] * (G["shift"] + 0.4 * bent - x * (1 + 0.5 * x))


def run(r: int = 0, rows: slice = slice(None), **fields: object) -> Tensor:
    return ADP(**fields).build(score=Toy())(G["x01"][rows], RecordedNoise({(0, 0): G["xi"][r][rows]}))


@pytest.mark.parametrize("stop", ["image", "batch"])
def test_golden_output_of_ten_runs(stop: str) -> None:
    assert G["iterations"].tolist() == [10] * 10  # no image stops: both readings agree
    for r, expected in enumerate(G["output_runs"]):
        assert (run(r, stop=stop) - expected).abs().max() < TOLERANCE


def test_golden_trajectory_and_step_lengths() -> None:
    start = ADP().noised(G["x01"], RecordedNoise({(0, 0): G["xi"][0]}))
    states = [start, *(run(steps=n) for n in range(1, 11))]
    for state, expected, lengths in zip(states, G["traj_run0"], [*G["steps_run0"], None], strict=True):
        assert (state - expected).abs().max() < TOLERANCE
        if lengths is not None:
            assert (ADP().stride(Toy(), state)[1].flatten() - lengths).abs().max() < TOLERANCE


def test_golden_sums_over_runs() -> None:
    logits = torch.stack([run(r).flatten(1) @ G["A"].T for r in range(10)])
    assert (10 * combine_runs(logits, "logits") - G["sum_logits"]).abs().max() < 1e-9
    assert (10 * combine_runs(logits, "softmax").exp() - G["sum_softmax"]).abs().max() < 1e-9
    shares = combine_runs(logits, "vote").exp()
    assert (10 * shares - G["votes"]).abs().max() < 1e-4  # a share of 0 is floored at 1e-6


def test_golden_stopping_of_the_batch() -> None:
    out = run(stop="batch", stop_below=STOP)
    assert (out - G["stop_output"]).abs().max() < TOLERANCE
    before = ADP().noised(G["x01"], RecordedNoise({(0, 0): G["xi"][0]}))
    going = torch.ones(4, dtype=torch.bool)
    for n, expected in enumerate(G["stop_steps"], start=1):
        length = ADP().stride(Toy(), before)[1].flatten()
        going &= length > STOP
        assert (length * going - expected).abs().max() < TOLERANCE
        before = run(stop="batch", stop_below=STOP, steps=n)
    assert 0 < going.sum() < 4  # some stop, some do not: the case that couples the batch


def test_per_image_is_the_batch_of_one() -> None:
    out = run(stop_below=STOP)
    for i in range(4):
        alone = run(rows=slice(i, i + 1), stop="batch", stop_below=STOP)
        assert (out[i] - alone[0]).abs().max() < 1e-12
    assert (out - G["stop_output"]).abs().max() > 1e-3
    assert ADP(stop="batch").batch_coupled and not ADP().batch_coupled


@pytest.mark.parametrize("fields", [{}, {"stop_below": STOP}, {"stop": "batch", "stop_below": STOP}])
def test_exact_gradient_equals_finite_differences(fields: dict) -> None:
    purify = ADP(**fields).build(score=Toy())
    noise, h = RecordedNoise({(0, 0): G["xi"][0]}), 1e-7

    def read_out(x: Tensor) -> Tensor:
        return (purify(x, noise) * DIRECTION.flip(-1)).sum()

    x = G["x01"].clone().requires_grad_()
    read_out(x).backward()
    numeric = (read_out(G["x01"] + h * DIRECTION) - read_out(G["x01"] - h * DIRECTION)) / (2 * h)
    assert abs(numeric - (x.grad * DIRECTION).sum()) < 1e-6 * abs(numeric)


def test_a_flat_score_gives_the_longest_step_and_a_finite_gradient() -> None:
    class Flat:
        def score(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x) + 0 * x

    x = G["x01"].clone().requires_grad_()
    ADP(steps=2).build(score=Flat())(x, RecordedNoise({(0, 0): G["xi"][0]})).sum().backward()
    assert x.grad.isfinite().all()
    assert (ADP().stride(Flat(), G["x01"])[1] == 0.1).all()


def test_binary_noise_has_the_mean_size_of_gaussian_noise() -> None:
    images = torch.full((200, 1, 4, 4), 0.5)
    start = ADP(sigma=0.1, injection="binary").noised(images, Noise(0, torch.arange(200)))
    moved = from_grid(start) - images
    assert torch.allclose(moved.abs(), torch.tensor(0.1 * (2 / torch.pi) ** 0.5), atol=1e-6)
    assert abs(moved.mean()) < 5 * 0.08 / 3200**0.5


def test_grid_scale_and_its_inverse() -> None:
    assert to_grid(torch.tensor([0.0, 1.0])).tolist() == [1 / 512, 511 / 512]
    assert torch.allclose(from_grid(to_grid(G["x01"])), G["x01"])


class _Counting(nn.Module):
    schedule = VPSchedule()
    image_shape = (3, 8, 8)
    calls = 0

    def epsilon(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += len(x_t)
        return 0.3 * x_t

    epsilon_at = epsilon_and_log_variance = epsilon


def test_cost_is_as_declared() -> None:
    score, defense = _Counting(), ADP(runs=2, steps=3)
    defended = defense.defend(nn.Flatten(), score)
    with torch.no_grad():
        defended(G["x01"], Noise(0, torch.arange(4)))
    assert score.calls == 4 * defense.network_evaluations


@pytest.mark.parametrize("fields", [{"steps": 0}, {"stop": "never"}, {"t": 0.0}, {"injection": "salt"}])
def test_ranges_are_named(fields: dict) -> None:
    with pytest.raises(ValueError, match="Expected"):
        ADP(**fields)
    assert dataclasses.asdict(ADP())["stop"] == "image"
