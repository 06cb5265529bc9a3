"""MNIST and Fashion-MNIST in the places and packings that people have; a fifth of CIFAR-100's test pictures."""

from __future__ import annotations

import gzip
import lzma
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.datasets import ImageSet, MissingData, idx, load_dataset
from bench.datasets.fifth import take_fifth
from bench.datasets.names import FASHION_MNIST

COUNT = 12
PACKED = {"": lambda data: data, ".gz": gzip.compress, ".xz": lzma.compress}


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "COUNTS", {"test": COUNT, "train": COUNT})


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def put(place: Path, split: str = "t10k", end: str = "", mark: str = "-", largest: int = 9) -> np.ndarray:
    place.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(end) + len(split)).integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)
    labels = np.arange(COUNT, dtype=np.uint8) % (largest + 1)
    for part, array in (("images", pixels), ("labels", labels)):
        data = PACKED[end](idx_bytes(array))
        (place / f"{split}-{part}{mark}idx{array.ndim}-ubyte{end}").write_bytes(data)
    return pixels


@pytest.mark.parametrize("end", PACKED)
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        *(("fashion_mnist", p) for p in ("FashionMNIST/raw", "fashion_mnist")),
    ],
)
def test_every_place_and_packing(name: str, place: str, end: str, tmp_path: Path) -> None:
    pixels, train = put(tmp_path / place, end=end), put(tmp_path / place, "train", end, mark=".")
    data = load_dataset(name, data_dir=tmp_path)
    assert data.labels.tolist() == [*range(10), 0, 1] and data.image_shape == (1, 28, 28) and data.classes == 10
    assert data.images([3, 1]).mul(255).round().to(torch.uint8)[:, 0].equal(torch.from_numpy(pixels[[3, 1]]))
    found = load_dataset(name, data_dir=tmp_path, split="train")
    assert found.images([7]).mul(255).round().to(torch.uint8)[0, 0].equal(torch.from_numpy(train[7]))
    assert (data.note, found.note) == ("test, original order", "train, original order")


def test_the_two_are_not_taken_for_each_other(tmp_path: Path) -> None:
    put(tmp_path / "mnist")
    with pytest.raises(MissingData, match="pictures of fashion_mnist in .*there is mnist/. Put there FashionMNIST/raw"):
        load_dataset("fashion_mnist", data_dir=tmp_path)
    assert FASHION_MNIST[9] == "Ankle boot" and len(set(FASHION_MNIST)) == 10


def test_what_is_wrong_with_an_idx_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "mnist"
    put(place, end=".gz")
    images, labels = place / "t10k-images-idx3-ubyte.gz", place / "t10k-labels-idx1-ubyte.gz"
    whole = images.read_bytes()
    for content, message in (
        (whole[:200], "Expected an idx file in .*images.*could not read it"),
        (gzip.compress(gzip.decompress(whole)[:-9]), "found 9,415 bytes that begin with .* and do not fit"),
        (gzip.compress(b"<html>"), "and do not fit"),
        (gzip.compress(b""), "found 0 bytes"),
    ):
        images.write_bytes(content)
        idx.read_idx.cache_clear()  # a file system may count time in steps
        with pytest.raises(ValueError, match=message):
            load_dataset("mnist", data_dir=tmp_path)
    images.unlink()
    with pytest.raises(
        MissingData, match="Expected t10k-images-idx3-ubyte .or .gz, .xz. in .*mnist, found t10k-labels"
    ):
        load_dataset("mnist", data_dir=tmp_path)
    images.write_bytes(whole)
    labels.write_bytes(gzip.compress(idx_bytes(np.full(COUNT, 10, np.uint8))))
    idx.read_idx.cache_clear()
    with pytest.raises(ValueError, match=r"labels 0\.\.9 in .*, found 10"):
        load_dataset("mnist", data_dir=tmp_path)
    monkeypatch.setattr(idx, "COUNTS", {"test": 10_000})
    with pytest.raises(MissingData, match=r"Expected 10,000 test pictures of mnist, 28x28, .* found \(12, 28, 28\)"):
        load_dataset("mnist", data_dir=tmp_path)


def test_a_download_is_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    asked: list[tuple[object, ...]] = []

    def fetch(folder: Path, download: bool, train: bool) -> None:
        asked.append((folder, download))
        put(folder / "FashionMNIST" / "raw")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fetch)
    assert len(load_dataset("fashion_mnist", data_dir=tmp_path, download=True)) == COUNT
    assert asked == [(tmp_path, True)]
    load_dataset("fashion_mnist", data_dir=tmp_path, download=True)
    assert len(asked) == 1  # it is there


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_real_files(name: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "COUNTS", {"test": 10_000})
    data = load_dataset(name, data_dir=shared / "data")
    assert len(data) == 10_000 and len(data.labels.unique()) == 10
    assert data.labels[:10].tolist() == {
        "mnist": [7, 2, 1, 0, 4, 1, 4, 9, 5, 9], "fashion_mnist": [9, 2, 1, 1, 6, 1, 4, 6, 5, 7],
    }[name]  # fmt: skip


def toy(labels: list[int], order: list[int]) -> ImageSet:
    """A picture of one pixel, which is its number, in some order."""
    pixels = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)[order]
    return ImageSet(
        name="whole", labels=torch.tensor(labels)[order], class_names=("a", "b"), image_shape=(1, 1, 1),
        read=lambda rows: pixels[rows],
    )  # fmt: skip


def numbers(data: ImageSet) -> list[int]:
    return data.images(range(len(data))).mul(255).round().int().flatten().tolist()


def test_a_fifth_is_the_same_pictures_whatever_the_order_of_the_classes() -> None:
    labels = [0, 1, 1, 0, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    mixed = toy(labels, list(range(16)))
    ordered = toy(labels, sorted(range(16), key=lambda k: labels[k]))
    test, train = (take_fifth(mixed, "fifth", split) for split in ("test", "train"))
    assert numbers(test) == [7, 15, 9] and test.labels.tolist() == [0, 0, 1]  # the fifth and tenth 0, the fifth 1
    assert sorted(numbers(test) + numbers(train)) == list(range(16))
    again = take_fifth(ordered, "fifth", "test")
    assert numbers(again) == numbers(test) and again.fingerprint() == test.fingerprint()
    assert take_fifth(ordered, "fifth", "train").fingerprint() == train.fingerprint()
    assert test.images([1, 0]).mul(255).flatten().round().tolist() == [15, 7]


def test_a_fifth_of_cifar100_from_the_official_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "cifar-100-python" / "test"
    place.parent.mkdir()
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 100))
    pixels = np.zeros((10_000, 3072), np.uint8)
    pixels[:, 0], pixels[:, 1] = np.divmod(np.arange(10_000), 256)
    place.write_bytes(pickle.dumps({"data": pixels, "fine_labels": labels.tolist()}))
    test, train = (load_dataset("cifar100_fifth", data_dir=tmp_path, split=s) for s in ("test", "train"))  # type: ignore[arg-type]
    assert torch.bincount(test.labels).tolist() == [20] * 100 and torch.bincount(train.labels).tolist() == [80] * 100
    rows = [
        (data.images(range(len(data))).mul(255).round().long()[:, 0, 0, :2] * torch.tensor([256, 1])).sum(1)
        for data in (test, train)
    ]
    assert torch.cat(rows).sort().values.tolist() == list(range(10_000))  # no picture is in both
    assert rows[0][:20].tolist() == np.flatnonzero(labels == 0)[4::5].tolist()


def test_the_real_fifth(shared: Path) -> None:
    data = load_dataset("cifar100_fifth", data_dir=shared / "data")
    whole = load_dataset("cifar100", data_dir=shared / "data")
    assert len(data) == 2000 and data.images([0, 21]).equal(whole.images([4, 109]))
