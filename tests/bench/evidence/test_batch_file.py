"""A file of adversarial images gives back every bit, is the same file twice, and refuses what is none."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from store_data import image

from bench.evidence.batch_file import outcome_of, pack_batch, unpack_batch

RECORDS = [image(5, 7), replace(image(900, 0), rounded_votes={3: 1, 1: 9})]


def pixels() -> np.ndarray:
    found = np.random.default_rng(0).random((2, 3, 4, 5), dtype=np.float32)
    found[0, 0, 0] = [0.0, 1.0, 1e-45, np.nextafter(np.float32(1), np.float32(0)), 0.1]
    return found


def test_every_bit_comes_back() -> None:
    read = unpack_batch(pack_batch(pixels(), RECORDS, {"cell": "ab"}))
    assert read.images.dtype == np.float32 and read.images.tobytes() == pixels().tobytes()
    assert read.images.shape == (2, 3, 4, 5) and read.index == (5, 900) and read.labels == (3, 3)
    assert read.outcomes == tuple(outcome_of(record) for record in RECORDS) and read.about == {"cell": "ab"}


def test_pictures_in_another_memory_order_are_the_same_file() -> None:
    turned = np.ascontiguousarray(pixels().transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    first = pack_batch(pixels(), RECORDS, {"b": "1", "a": "2", "c": "3", "d": "4"})
    assert all(pack_batch(turned, RECORDS, {"d": "4", "c": "3", "b": "1", "a": "2"}) == first for _ in range(20))


def test_other_safetensors_programs_can_read_it() -> None:
    from safetensors.numpy import load

    tensors = load(pack_batch(pixels(), RECORDS, {}))
    assert tensors["index"].tolist() == [5, 900] and tensors["shape"].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("cut", [0, 7, 40, 300, -1])
def test_a_damaged_file_is_told(cut: int) -> None:
    with pytest.raises(ValueError, match="damaged"):
        unpack_batch(pack_batch(pixels(), RECORDS, {})[:cut])


def test_a_file_that_unpacks_to_more_than_it_says_is_refused() -> None:
    from safetensors.numpy import load, save

    data = pack_batch(pixels(), RECORDS, {})
    told = {**load(data), "shape": np.array([2, 3, 4, 4])}
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    with pytest.raises(ValueError, match="not of the shape"):
        unpack_batch(save(told, header))


def test_equal_pictures_take_little_room() -> None:
    zeros = np.zeros((64, 3, 32, 32), np.float32)
    assert len(pack_batch(zeros, [image(i) for i in range(64)], {})) < zeros.nbytes / 20
