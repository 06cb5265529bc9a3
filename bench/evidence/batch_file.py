"""One batch of adversarial images as a safetensors file: pixels bit for bit, and what the judge said of each.

The float32 pixels are one xz stream in a tensor of bytes. They are kept whole rather than as a difference to the clean
images: another copy of a data set, or another decoder of its pictures, must not change what was judged.
"""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.records import ROUNDED, VOTES, ImageRecord

FORMAT = "purification-bench evidence 1"
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 0, "lc": 0, "lp": 2, "pb": 2}]  # numbers of four bytes
KEPT = ("label", *VOTES, ROUNDED, "distance")


@dataclass(frozen=True, kw_only=True)
class EvidenceBatch:
    """The adversarial images of one batch, and the judge's record of each.

    Attributes:
        images: (batch, channels, height, width) float32 in [0, 1].
        index: (batch,) places in the data set's test split.
        outcomes: for each image `label`, `distance` and the votes, as in `ImageRecord`.
        about: what the file says of itself: cell, batch, attack and so on.
    """

    images: NDArray[np.float32] = field(repr=False)
    index: tuple[int, ...]
    outcomes: tuple[dict[str, Any], ...] = field(repr=False)
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[int, ...]:
        """(batch,) true classes."""
        return tuple(outcome["label"] for outcome in self.outcomes)


def outcome_of(record: ImageRecord) -> dict[str, Any]:
    """What a file keeps of a record: plain data, equal exactly where the records are."""
    values = {name: getattr(record, name) for name in KEPT}
    for name in (*VOTES, ROUNDED):
        votes = values[name]
        values[name] = None if votes is None else {str(int(k)): int(votes[k]) for k in sorted(votes)}
    return {**values, "label": int(record.label), "distance": float(record.distance)}


def pack_batch(images: NDArray[np.float32], records: Sequence[ImageRecord], about: Mapping[str, str]) -> bytes:
    """Write a batch as the bytes of a safetensors file; the same batch gives the same bytes.

    Args:
        images: (batch, channels, height, width) float32 in [0, 1].
        records: of the same images, in their order.
        about: what else the file says of itself.
    """
    from safetensors.numpy import save

    pixels = np.ascontiguousarray(images, dtype="<f4")
    squeezed = lzma.compress(pixels.tobytes(), format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=FILTERS)
    tensors: dict[str, NDArray[Any]] = {
        "images_xz": np.frombuffer(squeezed, dtype=np.uint8),
        "shape": np.array(pixels.shape, dtype=np.int64),
        "index": np.array([record.index for record in records], dtype=np.int64),
        "labels": np.array([record.label for record in records], dtype=np.int64),
    }
    told = {"outcomes": json.dumps([outcome_of(record) for record in records], sort_keys=True), "about": _text(about)}
    return _steady(save(tensors, {"format": FORMAT, **told}))


def _steady(data: bytes) -> bytes:
    """The same file with its header sorted: safetensors writes the metadata in an order that changes."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _text(about: Mapping[str, str]) -> str:
    return json.dumps(dict(about), sort_keys=True)


def unpack_batch(data: bytes) -> EvidenceBatch:
    """Undo `pack_batch`.

    Raises:
        ValueError: the bytes are no such file, or parts of it do not fit together.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors, told = load(data), _metadata(data)
        if told.get("format") != FORMAT:
            raise ValueError(f"its format is {told.get('format')!r}, this version reads {FORMAT!r}")
        shape = tuple(int(size) for size in tensors["shape"])
        pixels = np.frombuffer(_unsqueeze(tensors["images_xz"].tobytes(), shape), dtype="<f4").reshape(shape)
        outcomes = tuple(json.loads(told["outcomes"]))
        index = tuple(int(i) for i in tensors["index"])
        if not len(pixels) == len(index) == len(outcomes) == len(tensors["labels"]):
            raise ValueError("its images, indices, labels and outcomes are not equally many")
        if [outcome["label"] for outcome in outcomes] != tensors["labels"].tolist():
            raise ValueError("its two lists of labels differ")
        return EvidenceBatch(images=pixels, index=index, outcomes=outcomes, about=json.loads(told["about"]))
    except (SafetensorError, lzma.LZMAError, KeyError, ValueError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected a file of adversarial images, found another or a damaged one: {error}.") from error


def _unsqueeze(data: bytes, shape: tuple[int, ...]) -> bytes:
    """The pixels of a file, and never more memory than its shape says: the file may be a stranger's."""
    size = 4 * math.prod(shape)
    pixels = lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(data, max_length=size + 1)
    if len(pixels) != size:
        raise ValueError(f"its pixels are not of the shape {shape}")
    return pixels


def _metadata(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + size]).get("__metadata__") or {})
