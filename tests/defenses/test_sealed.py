"""Sealed noise: the same draws, and nothing that says who asks."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from defenses.base import Defended
from defenses.noise import Noise, NoiseSource
from defenses.sealed import SealedNoise, seal

NOISE = Noise(3, torch.arange(4), torch.tensor([0, 0, 1, 1]))
LIKE = torch.zeros(4, 2)


def drawn(noise: NoiseSource) -> Tensor:
    like = torch.zeros(len(noise), 2)
    return torch.stack((noise.normal(like, step=1, stream=2), noise.uniform(like, step=3)))


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n,
        lambda n: n[1:3],
        lambda n: n[torch.tensor([2, 0])],
        lambda n: n.repeat(3),
        lambda n: n.split(2),
        lambda n: n.split(2).unsplit(2),
        lambda n: n.derive("guide"),
    ],
)
def test_draws_are_those_of_the_noise(change) -> None:
    assert torch.equal(drawn(change(seal(NOISE))), drawn(change(NOISE))) and isinstance(
        change(seal(NOISE)), SealedNoise
    )


def test_it_is_a_whole_source_and_shares_draws() -> None:
    one = NOISE[:2]
    assert isinstance(seal(NOISE), NoiseSource) and len(seal(NOISE)) == 4 and seal(seal(NOISE)) is not NOISE
    assert torch.equal(seal(one).shared((3,), step=0), one.shared((3,), step=0))
    assert torch.equal(seal(one).shared_uniform((3,), step=0), one.shared_uniform((3,), step=0))
    assert [rows.tolist() for rows in seal(NOISE).rows_by_draw()] == [[0, 1], [2, 3]]


@pytest.mark.parametrize("name", ["seed", "image_ids", "draws", "_rows", "__dict__", "anything"])
def test_nothing_else_can_be_read(name: str) -> None:
    assert not hasattr(seal(NOISE), name) and "3" not in repr(seal(NOISE))
    with pytest.raises(AttributeError, match="has no seed, no image ids"):
        getattr(seal(NOISE), name)


@pytest.mark.parametrize("leak", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_cannot_be_taken_apart_by_copying(leak) -> None:
    with pytest.raises(TypeError, match="sealed noise"):
        leak(seal(NOISE))


class Reader(Defended):
    """Reads what it may not, in a forward of its own."""

    def forward(self, images: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return super().forward(images + noise.image_ids.sum(), noise)


@pytest.mark.parametrize("kind", ["exact", "adjoint", "straight_through"])
def test_a_sealed_defense_reads_no_ids_under_any_gradient(kind: str) -> None:
    def build(gradient: str) -> Defended:
        reads = lambda x, noise: x + noise.image_ids.view(-1, 1, 1, 1)  # noqa: E731
        return Defended(reads, nn.Flatten(), gradient=gradient, rebuild=build, kinds=("exact", "adjoint"))

    images, noise = torch.zeros(4, 1, 2, 2), Noise(0, torch.arange(4))
    for model in (build("exact").sealed().with_gradient(kind), Reader(lambda x, n: x, nn.Flatten()).sealed()):
        with pytest.raises(AttributeError, match="image_ids"):
            model(images, noise)
    with pytest.raises(AttributeError, match="image_ids"):
        build("exact").sealed().with_gradient(kind).purify(images, noise)
