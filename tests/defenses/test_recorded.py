"""Recorded noise: an object that can only draw answers like any other source, or says what it cannot."""

from __future__ import annotations

import pytest
import torch
from golden import RecordedNoise as Replayed
from torch import Tensor

from defenses.noise import Noise, NoiseSource, role_seed
from defenses.recorded import RecordedNoise, as_source

NOISE = Noise(3, torch.arange(4))
LIKE = torch.zeros(4, 2)


class Repeatable(Replayed):
    """Recorded noise that repeats its numbers."""

    def repeat(self, draws: int) -> Replayed:
        return Replayed({key: values.repeat(draws, 1) for key, values in self.normals.items()})


def recorded() -> Repeatable:
    return Repeatable({(0, 0): NOISE.normal(LIKE, step=0)}, {(0, 0): NOISE.uniform(LIKE, step=0)})


def same(a: NoiseSource, b: NoiseSource, like: Tensor = LIKE) -> bool:
    return torch.equal(a.normal(like, step=0), b.normal(like, step=0))


def test_a_whole_source_stays_what_it_is() -> None:
    assert as_source(NOISE, 4) is NOISE
    source = as_source(recorded(), 4)
    assert isinstance(source, RecordedNoise) and isinstance(source, NoiseSource) and as_source(source, 4) is source


def test_draws_what_was_recorded() -> None:
    source = as_source(recorded(), 4)
    assert len(source) == 4 and same(source, NOISE)
    assert torch.equal(source.uniform(LIKE, step=0), NOISE.uniform(LIKE, step=0))
    assert torch.equal(source.shared((8,), step=0), NOISE.normal(LIKE, step=0).flatten())
    assert torch.equal(source.shared_uniform((8,), step=0), NOISE.uniform(LIKE, step=0).flatten())


def test_rows_can_be_cut_out_again_and_again() -> None:
    part = as_source(recorded(), 4)[1:][torch.tensor([2, 0])]
    assert len(part) == 2 and same(part, NOISE[torch.tensor([3, 1])], LIKE[:2])


def test_all_rows_are_one_draw_and_one_stream() -> None:
    source = as_source(recorded(), 4)
    assert [rows.tolist() for rows in source.rows_by_draw()] == [[0, 1, 2, 3]]
    assert same(source.derive("other"), NOISE) and same(source.unsplit(2), NOISE)


def test_runs_repeat_the_record_and_cannot_be_told_apart() -> None:
    two = as_source(recorded(), 4).split(2)
    assert len(two) == 8 and torch.equal(two.normal(LIKE.repeat(2, 1), step=0), NOISE.normal(LIKE, step=0).repeat(2, 1))
    for ask in (two.rows_by_draw, lambda: as_source(object(), 4).split(2)):
        with pytest.raises(ValueError, match="tell the 2 runs of a batch apart; got .*. Set runs=1"):
            ask()


def test_the_harness_noise_by_draw_and_by_stream() -> None:
    three = NOISE.split(3)
    assert [rows.tolist() for rows in three.rows_by_draw()] == [list(range(4 * r, 4 * r + 4)) for r in range(3)]
    assert torch.equal(three.unsplit(3).normal(LIKE.repeat(3, 1), step=0), NOISE.normal(LIKE, step=0).repeat(3, 1))
    assert same(NOISE.derive("a"), Noise(role_seed(3, "a"), NOISE.image_ids)) and not same(NOISE.derive("a"), NOISE)
