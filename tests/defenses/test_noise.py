"""Philox against the published known answers; independence from the batch; moments."""

import pytest
import torch
from shadow_cuda import ShadowCuda

from defenses.noise import Noise, philox4x32, role_seed

# Random123's kat_vectors, philox4x32 with 10 rounds.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_known_answers(counter: tuple, key: tuple, answer: tuple) -> None:
    words = philox4x32(torch.tensor(counter).unsqueeze(1), key)
    assert tuple(words.squeeze(1).tolist()) == answer


@pytest.mark.parametrize("method", ["normal", "uniform"])
def test_a_row_does_not_depend_on_its_batch(method: str) -> None:
    ids, draws = torch.tensor([5, 0, 9, 5]), torch.tensor([0, 3, 1, 2])
    whole = getattr(Noise(7, ids, draws), method)(torch.empty(4, 3, 5, 5), step=11, stream=1)
    order = torch.tensor([2, 0, 3, 1])
    permuted = getattr(Noise(7, ids[order], draws[order]), method)(torch.empty(4, 3, 5, 5), step=11, stream=1)
    assert torch.equal(whole[order], permuted)
    for row in range(4):
        alone = getattr(Noise(7, ids[row : row + 1], draws[row : row + 1]), method)
        assert torch.equal(alone(torch.empty(1, 3, 5, 5), step=11, stream=1)[0], whole[row])


def test_every_coordinate_of_the_counter_matters() -> None:
    like = torch.empty(1, 64)
    base = Noise(1, torch.tensor([2]), 3).normal(like, step=4, stream=0)
    others = [
        Noise(9, torch.tensor([2]), 3).normal(like, step=4),
        Noise(1 + 2**32, torch.tensor([2]), 3).normal(like, step=4),
        Noise(1, torch.tensor([8]), 3).normal(like, step=4),
        Noise(1, torch.tensor([2]), 8).normal(like, step=4),
        Noise(1, torch.tensor([2]), 3).normal(like, step=8),
        Noise(1, torch.tensor([2]), 3).normal(like, step=4, stream=1),
        Noise(1, torch.tensor([2]), 3).shared((1, 64), step=4),
    ]
    for other in others:
        assert (base == other).sum() == 0


def test_moments_and_correlations() -> None:
    n = 2000
    x = Noise(0, torch.arange(n)).normal(torch.empty(n, 100, dtype=torch.float64), step=0)
    y = Noise(0, torch.arange(n)).normal(torch.empty(n, 100, dtype=torch.float64), step=1)
    size = x.numel() ** 0.5
    assert abs(x.mean()) < 4 / size
    assert abs(x.var() - 1) < 4 * 2**0.5 / size
    assert abs((x**3).mean()) < 4 * 15**0.5 / size
    assert abs((x**4).mean() - 3) < 4 * 96**0.5 / size
    assert abs((x * y).mean()) < 4 / size  # steps
    assert abs((x[:-1] * x[1:]).mean()) < 4 / size  # images
    assert abs((x[:, :-1] * x[:, 1:]).mean()) < 4 / size  # pixels
    u = Noise(0, torch.arange(n)).uniform(torch.empty(n, 100), step=0)
    assert u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 4 / (12**0.5 * size)
    assert torch.histc(u, 10).sub(20_000).abs().max() < 4 * (20_000 * 0.9) ** 0.5


def test_float32_is_the_rounded_float64() -> None:
    noise = Noise(3, torch.arange(4))
    double = noise.normal(torch.empty(4, 7, dtype=torch.float64), step=2)
    assert torch.equal(noise.normal(torch.empty(4, 7), step=2), double.float())


def test_repeat_and_split_lay_rows_draw_by_draw() -> None:
    noise = Noise(0, torch.tensor([4, 6]), 10)
    repeated = noise.repeat(3)
    assert repeated.image_ids.tolist() == [4, 6] * 3
    assert repeated.draws.tolist() == [10, 10, 11, 11, 12, 12]
    assert repeated.split(2).draws.tolist() == [20, 20, 22, 22, 24, 24, 21, 21, 23, 23, 25, 25]


def test_shared_noise_refuses_mixed_draws() -> None:
    with pytest.raises(ValueError, match="batch of its own"):
        Noise(0, torch.tensor([1, 2]), torch.tensor([0, 1])).shared((3,), step=0)
    same = Noise(0, torch.tensor([1, 2]), 5).shared((3,), step=0)
    assert torch.equal(same, Noise(0, torch.tensor([9]), 5).shared((3,), step=0))


@pytest.mark.parametrize("bad", [{"image_ids": torch.tensor([-1])}, {"image_ids": torch.tensor([1]), "draws": 2**32}])
def test_ranges_are_named(bad: dict) -> None:
    with pytest.raises(ValueError, match=r"in \[0, "):
        Noise(0, **bad)
    with pytest.raises(ValueError, match=r"step in \[0, 2\*\*24\)"):
        Noise(0, torch.tensor([0])).normal(torch.empty(1, 2), step=2**24)


def test_roles_have_seeds_of_their_own() -> None:
    assert len({role_seed(s, r) for s in range(3) for r in ("selection", "judge", "null")}) == 9


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("order", [range(40), range(39, -1, -1), [5, 6, 7, 8, 3, 2, 1, 9, 10, 11, 10, 9, 8, 2**24 - 1]])
def test_steps_drawn_in_one_pass_on_a_gpu_are_those_drawn_alone(kind: str, order: list[int]) -> None:
    noise, like = Noise(-5, torch.tensor([4, 9, 2**32 - 2]), 2**32 - 1), torch.empty(3, 3, 5, 5)
    on_cpu = [getattr(noise, kind)(like, step=step, stream=200) for step in order]
    shared = [noise.shared((7,), step=step, stream=200) for step in order]
    with ShadowCuda() as gpu:
        placed = like.cuda()
        for step, expected, common in zip(order, on_cpu, shared, strict=True):
            got = getattr(noise, kind)(placed, step=step, stream=200)
            assert got.is_cuda and torch.equal(got.cpu(), expected)
            assert torch.equal(noise.shared((7,), step=step, stream=200, device="cuda").cpu(), common)
            got.zero_()  # a tensor of the caller's own
        gpu.clear()
        for step in order:
            getattr(noise, kind)(placed, step=step, stream=200)
        assert not gpu.waits + gpu.uploads + gpu.downloads + gpu.mixed


def test_a_sampler_s_draw_is_ten_launches_at_most() -> None:
    noise = Noise(1, torch.arange(3))
    with ShadowCuda() as gpu:
        like = torch.empty(3, 1, 8, 8, device="cuda")
        gpu.clear()
        for step in range(101):
            noise.normal(like, step=step)
        assert sum(gpu.launches.values()) <= 10 * 101
        assert sum(gpu.uploads.values()) == 1 and not gpu.waits + gpu.downloads
