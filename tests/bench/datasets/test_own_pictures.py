"""Data sets of the user's without code: arrays in a file, class folders, folders of `datasets`, a function."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.datasets import DATASETS, MissingData, dataset_info, load_dataset, register_dataset

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def saved(path: Path, **arrays: Any) -> str:
    np.savez(path / "pictures.npz", **arrays)
    return f"npz:{path / 'pictures.npz'}"


@pytest.mark.parametrize("form", ["nhwc", "nchw", "float", "grey", "column"])
def test_arrays_are_read_in_every_usual_form(form: str, tmp_path: Path) -> None:
    x, y = PIXELS, LABELS
    x = {"nchw": x.transpose(0, 3, 1, 2), "float": (x / 255).astype(np.float64), "grey": x[..., 0]}.get(form, x)
    found = load_dataset(saved(tmp_path, x=x, y=y[:, None] if form == "column" else y))
    expected = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy()).float() / 255
    expected = expected[:, :1] if form == "grey" else expected
    torch.testing.assert_close(found.images(range(6)), expected)
    assert found.labels.tolist() == LABELS.tolist() and found.classes == 3
    assert found.note == ("channels came last in the file" if form in ("nhwc", "float", "column") else "")


def test_classes_and_splits_of_a_file(tmp_path: Path) -> None:
    name = saved(tmp_path, x_test=PIXELS, y_test=LABELS + 1, x_train=PIXELS[:2], y_train=LABELS[:2], classes=10)
    assert load_dataset(name).classes == 10 and len(load_dataset(name, split="train")) == 2
    with pytest.raises(MissingData, match="has no arrays x_train and y_train"):
        load_dataset(saved(tmp_path, x=PIXELS, y=LABELS), split="train")


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "other names": ({"images": PIXELS}, r"Expected the arrays x and y in .*found images \(6, 8, 8, 3\). Write numpy"),
    "int64 pixels": ({"x": PIXELS.astype(np.int64), "y": LABELS}, r"found int64. Save x.astype\('uint8'\)"),
    "0 to 255 floats": ({"x": PIXELS.astype(np.float32), "y": LABELS}, r"in \[0, 1\], found \[0, 255\]. Save x / 255"),
    "normalised": ({"x": PIXELS / 50 - 2.5, "y": LABELS}, "Save pictures before normalisation"),
    "-1 to 1": ({"x": PIXELS / 127.5 - 1, "y": LABELS}, r"Save \(x \+ 1\) / 2"),
    "labels from 1": ({"x": PIXELS, "y": LABELS + 1}, r"labels of .* from 0, found 1..3. Subtract 1 if they count"),
    "labels from 1, classes": ({"x": PIXELS, "y": LABELS + 1, "classes": 3}, "Subtract 1: they count from 1"),
    "one-hot": ({"x": PIXELS, "y": np.eye(3)[LABELS]}, r"one-hot rows\? Save y.argmax\(1\)"),
    "float labels": ({"x": PIXELS, "y": LABELS / 1.0}, "as whole numbers, found float64"),
    "names as labels": ({"x": PIXELS, "y": LABELS.astype(str)}, "number the classes from 0"),
    "alpha": ({"x": RANDOM.random((6, 8, 8, 4)), "y": LABELS}, "Leave the alpha channel out"),
    "flat": ({"x": PIXELS.reshape(6, -1), "y": LABELS}, "Reshape them"),
    "ambiguous": ({"x": RANDOM.random((6, 3, 8, 3)), "y": LABELS}, "either could be the channels"),
    "too few labels": ({"x": PIXELS, "y": LABELS[:4]}, r"Expected 6 labels .*, one a picture, found \(4,\)"),
    "pickled": ({"x": np.array([None, 1], dtype=object), "y": LABELS}, "could not read it .*Write numpy.savez"),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_what_cannot_be_meant_is_a_sentence_with_a_remedy(mistake: str, tmp_path: Path) -> None:
    arrays, said = MISTAKES[mistake]
    with pytest.raises(ValueError, match=said):
        load_dataset(saved(tmp_path, **arrays))


@pytest.mark.parametrize("name", ["npz:none_mine.npz", "imagefolder:none_mine", "hf:none_mine"])
def test_a_path_that_is_not_there_is_said_in_full(name: str) -> None:
    with pytest.raises(MissingData, match=r"file or folder at /.*none_mine.*A relative path counts from"):
        dataset_info(name)


def test_class_folders(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(PIXELS[label]).save(tmp_path / split / name / f"{number}.png")
    found = load_dataset(f"imagefolder:{tmp_path}")
    assert (found.class_names, found.labels.tolist()) == (("cat", "dog"), [0, 0, 1, 1])
    torch.testing.assert_close(found.images([3])[0], torch.from_numpy(PIXELS[1].transpose(2, 0, 1).copy()) / 255)
    assert len(load_dataset(f"imagefolder:{tmp_path}", split="train")) == 6
    assert load_dataset(f"imagefolder:{tmp_path / 'val'}").labels.tolist() == [0, 0, 1, 1]
    Image.fromarray(PIXELS[0][:6]).save(tmp_path / "val" / "dog" / "9.png")
    (tmp_path / "val" / "dog" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"one size, found 8x8 in .* and 8x6 in .*imagefolder:<size>:<path>"):
        load_dataset(f"imagefolder:{tmp_path / 'val'}")
    assert load_dataset(f"imagefolder:16:{tmp_path / 'val'}").image_shape == (3, 16, 16)
    with pytest.raises(MissingData, match="Expected folders of pictures, one for each class, in .*found 0.png"):
        load_dataset(f"imagefolder:{tmp_path / 'val' / 'cat'}")


@pytest.fixture
def decorated() -> Iterator[str]:
    @register_dataset("pictures_mine", classes=("a", "b", "c"))
    def pictures() -> tuple[np.ndarray, np.ndarray]:
        return PIXELS, LABELS

    yield "pictures_mine"
    del DATASETS["pictures_mine"]


def test_functions_are_data_sets(decorated: str, tmp_path: Path) -> None:
    assert load_dataset(decorated).class_names == ("a", "b", "c") and dataset_info(decorated).image_shape == (3, 8, 8)
    with pytest.raises(MissingData, match="test pictures alone: its function takes no argument `split`"):
        load_dataset(decorated, split="train")
    file = tmp_path / "data_mine.py"
    file.write_text(
        "import numpy as np\ndef pictures(split):\n    return np.zeros((2, 8, 8)), np.arange(2)\ndef other():\n    "
        "pass\n"
    )
    found = load_dataset(f"{file}:pictures", split="train")
    assert found.image_shape == (1, 8, 8) and found.labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"to return \(pictures, labels\), got NoneType"):
        load_dataset(f"{file}:other")


def test_a_folder_of_the_library_datasets(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    if importlib.util.find_spec("datasets") is None:
        with pytest.raises(MissingData, match="library `datasets` .* not installed. pip install datasets"):
            load_dataset(f"hf:{tmp_path}")
        return
    (tmp_path / "state.json").unlink()
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.fromarray(PIXELS[label]).save(tmp_path / "test" / name / "0.png")
    found = load_dataset(f"hf:{tmp_path}")
    assert found.class_names == ("cat", "dog") and found.labels.tolist() == [0, 1]
    torch.testing.assert_close(found.images([1])[0], torch.from_numpy(PIXELS[1].transpose(2, 0, 1).copy()) / 255)
    with pytest.raises(MissingData, match="Expected a split train in .*, found test"):
        load_dataset(f"hf:{tmp_path}", split="train")
    (tmp_path / "script.py").write_text("")
    with pytest.raises(ValueError, match="found a script, which reading would run"):
        load_dataset(f"hf:{tmp_path}", split="train")
