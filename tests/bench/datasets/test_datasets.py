"""Data sets: fixed splits and samples, only the wanted pictures decoded, real files read exactly, clear refusals."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.datasets import (
    DATASETS,
    DatasetInfo,
    ImageSet,
    MissingData,
    load_dataset,
    register_dataset,
    shuffled,
    subset,
)
from bench.datasets.imagenet import resize_and_crop
from bench.datasets.names import CIFAR10, CIFAR100


@pytest.fixture
def data(shared: Path) -> Path:
    return shared / "data"


def test_digits_split_is_fixed_disjoint_and_complete() -> None:
    test, train = load_dataset("digits"), load_dataset("digits", split="train")
    assert (len(test), len(train), test.classes, test.image_shape) == (500, 1297, 10, (1, 8, 8))
    assert test.labels[:8].tolist() == [
        0,
        6,
        9,
        8,
        4,
        4,
        4,
        8,
    ]  # the split must never move: weights were trained on the rest
    images = [data.images(range(len(data))) for data in (test, train)]
    flat = torch.cat(images).flatten(1)
    from sklearn.datasets import load_digits

    whole = torch.from_numpy(load_digits().data).float() / 16
    assert torch.equal(flat[torch.argsort(torch.tensor(shuffled(1797, 0)))], whole)
    assert flat.dtype == torch.float32 and flat.min() == 0 and flat.max() == 1


def test_shuffled_is_a_permutation_pinned_for_ever() -> None:
    assert shuffled(10, 0) == [7, 4, 9, 3, 8, 2, 6, 0, 5, 1]
    assert sorted(shuffled(1000, 7)) == list(range(1000))
    assert shuffled(1000, 7) != shuffled(1000, 8)


def test_subset_has_no_repeats_and_larger_contains_smaller() -> None:
    labels = torch.arange(300) % 7
    small, large = subset(labels, 50, data_seed=3), subset(labels, 300, data_seed=3)
    assert large[:50].equal(small) and len(set(large.tolist())) == 300
    assert small.dtype == torch.int64


@pytest.mark.parametrize(("num_images", "counts"), [(30, {3}), (32, {3, 4}), (100, {10})])
def test_balanced_subset(num_images: int, counts: set[int]) -> None:
    labels = torch.tensor([0] * 500 + [c for c in range(1, 10) for _ in range(20)])  # one class dominates
    rows = subset(labels, num_images, data_seed=0, balanced=True)
    assert set(torch.bincount(labels[rows]).tolist()) == counts
    assert len(set(rows.tolist())) == num_images


def test_balanced_subset_when_a_class_runs_out() -> None:
    labels = torch.tensor([0] * 10 + [1] * 2)
    assert torch.bincount(labels[subset(labels, 8, 0, balanced=True)]).tolist() == [6, 2]


@pytest.mark.parametrize("num_images", [0, 11, -1])
def test_subset_refuses_a_size_that_is_not_there(num_images: int) -> None:
    with pytest.raises(ValueError, match=r"num_images in 1\.\.10, got"):
        subset(torch.zeros(10), num_images, 0)


def image_set(images: torch.Tensor) -> ImageSet:
    labels, shape = torch.zeros(len(images), dtype=torch.int64), tuple(images.shape[1:])
    return ImageSet(name="toy", labels=labels, class_names=("a",), image_shape=shape, read=lambda rows: images[rows])  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [1.5, -0.1, float("nan")])
def test_images_outside_the_unit_range_are_refused(bad: float) -> None:
    images = torch.full((6, 1, 2, 2), 0.5)
    images[3, 0, 1, 1] = images[5, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="2 of 4 are not, the first at index 3 "):
        image_set(images).images([1, 2, 3, 5])
    assert image_set(images).images([0, 1]).shape == (2, 1, 2, 2)


def test_uint8_is_scaled_and_wrong_indices_are_refused() -> None:
    data = image_set(torch.full((2, 1, 2, 2), 255, dtype=torch.uint8))
    assert data.images([1]).eq(1).all()
    with pytest.raises(ValueError, match=r"indices in 0\.\.1 of toy, got 2"):
        data.images([0, 2])


def test_unknown_name_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="Did you mean 'cifar10'"):
        load_dataset("cifar-10")
    for name in sorted(set(DATASETS) - {"digits"}):
        with pytest.raises(MissingData) as error:
            load_dataset(name, data_dir=tmp_path)
        assert str(tmp_path) in str(error.value) and DATASETS[name].source in str(error.value)


def test_a_data_set_of_ones_own_joins_by_its_record() -> None:
    def load(folder: Path, split: str, download: bool) -> ImageSet | None:
        return image_set(torch.zeros(3, 1, 2, 2)) if split == "test" else None

    info = DatasetInfo(
        name="mine", classes=2, image_shape=(1, 2, 2), source="here", place="nothing", licence="MIT", load=load
    )
    assert info.title == "mine"
    register_dataset(info)
    try:
        assert len(load_dataset("mine")) == 3
        with pytest.raises(MissingData, match="the train pictures of mine"):
            load_dataset("mine", split="train")
        with pytest.raises(ValueError, match="Expected a new data set name, got 'mine'"):
            register_dataset(info)
    finally:
        del DATASETS["mine"]


def test_data_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "here"))
    with pytest.raises(MissingData, match="here"):
        load_dataset("cifar10")


def test_class_names() -> None:
    assert len(CIFAR10) == 10 and len(set(CIFAR100)) == 100 and list(CIFAR100) == sorted(CIFAR100)


def test_cifar10_in_torchvision_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten pictures in the original pickle format; the md5 check is off because they are not the original ones."""
    import torchvision.datasets

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.arange(10 * 3072, dtype=np.uint32).astype(np.uint8).reshape(10, 3072)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": pixels, "labels": list(range(10))}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CIFAR10)}))
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    data = load_dataset("cifar10", data_dir=tmp_path)
    assert data.labels.tolist() == list(range(10)) and data.note == "test, original order"
    assert data.images([4])[0].flatten().mul(255).round().to(torch.uint8).equal(torch.from_numpy(pixels[4]))


def test_gtsrb_in_torchvision_layout_is_resized(tmp_path: Path) -> None:
    folder = tmp_path / "gtsrb" / "GTSRB" / "Final_Test" / "Images"
    folder.mkdir(parents=True)
    Image.new("RGB", (50, 70), (255, 0, 51)).save(folder / "00000.ppm")
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("Filename;Width;ClassId\n00000.ppm;50;17\n")
    data = load_dataset("gtsrb", data_dir=tmp_path)
    assert data.labels.tolist() == [17]
    assert data.images([0])[0, :, 16, 16].tolist() == pytest.approx([1, 0, 0.2])


LAYOUTS = {
    "torchvision": ("GT-final_test.csv", "GTSRB/Final_Test/Images", "Filename;Width;Roi.X1;ClassId", "{0}.ppm;9;1;{1}"),
    "official": (
        "GTSRB/Final_Test/Images/GT-final_test.csv", "GTSRB/Final_Test/Images", "Filename;ClassId", "{0}.ppm;{1}"
    ),
    "Kaggle": ("Test.csv", "Test", "Width,Height,ClassId,Path", "9,9,{1},Test/{0}.png"),
    "official, beside": ("GT-final_test.csv", "Final_Test/Images", "Filename;ClassId", "{0}.ppm;{1}"),
}  # fmt: skip


def lay_out(root: Path, layout: str) -> Path:
    table, pictures, head, row = LAYOUTS[layout]
    (root / pictures).mkdir(parents=True)
    suffix = ".png" if layout == "Kaggle" else ".ppm"
    for number in range(3):
        Image.new("RGB", (50, 70), (255, 0, 51 * number)).save(root / pictures / f"0000{number}{suffix}")
    lines = [head, *(row.format(f"0000{number}", 17 + number) for number in range(3))]
    (root / table).write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig")
    return root / table


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gtsrb_in_the_layouts_that_people_have(layout: str, tmp_path: Path) -> None:
    lay_out(tmp_path / "gtsrb", layout)
    data = load_dataset("gtsrb", data_dir=tmp_path)
    assert data.labels.tolist() == [17, 18, 19] and data.note == "test, 32x32"
    assert data.images([2])[0, :, 16, 16].tolist() == pytest.approx([1, 0, 0.4])


def test_gtsrb_in_part_is_said(tmp_path: Path) -> None:
    table = lay_out(tmp_path / "gtsrb", "Kaggle")
    (tmp_path / "gtsrb" / "Test" / "00001.png").unlink()
    with pytest.raises(MissingData, match="Expected the 3 pictures that .*Test.csv lists, found 2 .*00001.png is not"):
        load_dataset("gtsrb", data_dir=tmp_path)
    table.write_text("Filename;Width\n00000.ppm;9\n")
    with pytest.raises(ValueError, match="Expected a column classid in .*, found filename, width. The labels"):
        load_dataset("gtsrb", data_dir=tmp_path)
    table.write_text("Path,ClassId\nTest/00000.png,43\n")
    with pytest.raises(ValueError, match="Expected classes 0..42 in .*, found '43'"):
        load_dataset("gtsrb", data_dir=tmp_path)
    table.unlink()
    with pytest.raises(MissingData, match="found none in gtsrb/, where there is Test/. Put there"):
        load_dataset("gtsrb", data_dir=tmp_path)


@pytest.mark.parametrize("place", ["GTSRB/Training", "GTSRB/Final_Training/Images", "Train"])
def test_gtsrb_training_pictures(place: str, tmp_path: Path) -> None:
    for label in range(43):
        folder = tmp_path / "gtsrb" / place / (str(label) if place == "Train" else f"{label:05}")
        folder.mkdir(parents=True)
        Image.new("RGB", (20, 20), (label, 0, 0)).save(folder / "0.png")
    data = load_dataset("gtsrb", data_dir=tmp_path, split="train")
    assert data.labels.tolist() == list(range(43)) and data.images([40])[0, 0, 5, 5] == pytest.approx(40 / 255)
    (folder / "0.png").unlink()
    folder.rmdir()
    with pytest.raises(MissingData, match="class folders 0..42 in .*, found 42"):
        load_dataset("gtsrb", data_dir=tmp_path, split="train")


def repack(path: Path, count: int = 10_000, **changes: object) -> np.ndarray:
    """A test batch as other tools write it: another protocol, keys as text."""
    pixels = np.arange(count * 3072, dtype=np.uint32).astype(np.uint8).reshape(count, 3072)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps({"data": pixels, "labels": [n % 10 for n in range(count)], **changes}, protocol=4))
    return pixels


@pytest.mark.parametrize(
    ("name", "place"), [("cifar10", "cifar-10-batches-py/test_batch"), ("cifar100", "cifar-100-python/test")]
)
@pytest.mark.parametrize("shape", [None, (10_000, 3, 32, 32), (10_000, 32, 32, 3)])
def test_repacked_cifar_pickles_are_found(name: str, place: str, shape: tuple[int, ...] | None, tmp_path: Path) -> None:
    pixels = repack(tmp_path / place)
    if shape:
        planes = pixels.reshape(-1, 3, 32, 32)
        repack(tmp_path / place, data=planes if shape[1] == 3 else planes.transpose(0, 2, 3, 1))
    data = load_dataset(name, data_dir=tmp_path)
    assert len(data) == 10_000 and data.labels[:12].tolist() == [*range(10), 0, 1]
    assert data.images([7])[0].flatten().mul(255).round().to(torch.uint8).equal(torch.from_numpy(pixels[7]))


class _Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code in a pickle ran",))


def test_partial_or_foreign_cifar_pickles_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = tmp_path / "cifar-10-batches-py" / "test_batch"
    for changes, message in (
        ({"count": 5000}, "Expected 10,000 test pictures of CIFAR10 in .*, found 5,000"),
        ({"labels": [11] * 10_000}, "Expected labels 0..9 in .*test_batch, found 11..11"),
        ({"data": np.zeros((10_000, 9), np.uint8)}, r"found uint8 \(10000, 9\)"),
        ({"extra": _Runs()}, "could not read it .it names builtins.print"),
    ):
        repack(batch, **changes)  # type: ignore[arg-type]
        with pytest.raises((MissingData, ValueError), match=message):
            load_dataset("cifar10", data_dir=tmp_path)
    assert "ran" not in capsys.readouterr().out
    batch.rename(batch.with_name("data_batch_3"))
    with pytest.raises(MissingData, match="Expected test_batch in .*, found data_batch_3: test_batch not there"):
        load_dataset("cifar10", data_dir=tmp_path)
    with pytest.raises(
        MissingData, match="data_batch_1, .*, found data_batch_3: data_batch_1, data_batch_2, data_batch_4"
    ):
        load_dataset("cifar10", data_dir=tmp_path, split="train")


def test_what_is_there_instead_is_said(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    with pytest.raises(MissingData, match="found none; there is cifar-10-python.tar.gz. Put there cifar-10-batches-py"):
        load_dataset("cifar10", data_dir=tmp_path)
    with pytest.raises(MissingData, match="there is no such folder"):
        load_dataset("cifar10", data_dir=tmp_path / "no")


def test_the_fingerprint_covers_every_picture_of_a_run() -> None:
    images = torch.rand(200, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    before = image_set(images.clone())
    images[150, 0, 1, 1] = 0.25
    after = image_set(images)
    assert before.fingerprint() == after.fingerprint()  # the same copy, as far as its first picture tells
    assert before.fingerprint_of([3, 150]) != after.fingerprint_of([3, 150])
    assert before.fingerprint_of([3, 5]) == after.fingerprint_of([3, 5]) != after.fingerprint_of([5, 3])
    assert after.fingerprint_of(torch.tensor([3, 5])) == after.fingerprint_of([3, 5])


def jpeg(color: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (300, 260), color).save(stream, "JPEG", quality=100)
    return stream.getvalue()


def test_imagenet_in_class_folders(tmp_path: Path) -> None:
    folders = [tmp_path / "imagenet" / "val" / f"n{index:08d}" for index in range(1000)]
    for folder in folders:
        folder.mkdir(parents=True)
    (folders[7] / "a.JPEG").write_bytes(jpeg((255, 0, 0)))
    (folders[999] / "b.JPEG").write_bytes(jpeg((0, 0, 255)))
    (folders[3] / ".DS_Store").write_bytes(b"Bud1")
    (tmp_path / "imagenet" / "val" / ".ipynb_checkpoints").mkdir()
    data = load_dataset("imagenet", data_dir=tmp_path)
    assert data.labels.tolist() == [7, 999] and data.classes == 1000
    assert data.images([1])[0, :, 100, 100].tolist() == pytest.approx([0, 0, 1], abs=0.02)
    assert data.note == "val, class folders, 2 of 50,000 pictures, of 2 of 1,000 classes"
    (folders[7] / "a.JPEG").write_bytes(jpeg((255, 0, 0))[:300])
    with pytest.raises(ValueError, match="picture in .*n00000007/a.JPEG, could not read it"):
        data.images([0])
    folders[500].rmdir()
    with pytest.raises(ValueError, match="1000 class folders in .*, found 999"):
        load_dataset("imagenet", data_dir=tmp_path)


def test_imagenet_official_tar_with_development_kit(tmp_path: Path) -> None:
    """Three classes whose ILSVRC ids are not in wnid order: the labels must be positions among the sorted wnids."""
    from scipy.io import savemat

    root = tmp_path / "imagenet"
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    rows = [(1, "n30", 0), (2, "n10", 0), (3, "n20", 0), (4, "n99", 3)]  # the last is no leaf
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    savemat(kit / "meta.mat", {"synsets": np.array(rows, dtype=fields)})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n3\n")
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for number, color in ((2, (0, 255, 0)), (1, (255, 0, 0)), (3, (0, 0, 255))):  # not in order either
            info, content = tarfile.TarInfo(f"ILSVRC2012_val_{number:08d}.JPEG"), jpeg(color)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    data = load_dataset("imagenet", data_dir=tmp_path)
    assert data.labels.tolist() == [2, 0, 1] and data.class_names == ("n10", "n20", "n30")
    assert data.images([0, 2])[:, :, 100, 100].round().tolist() == [[1, 0, 0], [0, 0, 1]]
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n3\n1\n")
    with pytest.raises(ValueError, match="Expected 4 pictures"):
        load_dataset("imagenet", data_dir=tmp_path)


def test_resize_and_crop_equals_torchvision_transform() -> None:
    from torchvision import transforms

    pixels = np.random.default_rng(0).integers(0, 256, (280, 400, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    expected = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()])(
        picture
    )
    assert resize_and_crop(picture).equal(expected)


def test_real_gtsrb_tiles(data: Path) -> None:
    images = load_dataset("gtsrb", data_dir=data)
    assert len(images) == 4210 and images.classes == 43 and len(set(images.labels.tolist())) == 43
    assert images.images([4209]).max() > 0  # the last tile before the padding


def test_real_cifar100_tiles(data: Path) -> None:
    images = load_dataset("cifar100", data_dir=data)
    assert torch.bincount(images.labels).tolist() == [100] * 100
    assert images.images([0]).shape == (1, 3, 32, 32)


def test_real_imagenet_sample(data: Path) -> None:
    images = load_dataset("imagenet_sample", data_dir=data)
    assert images.labels.tolist() == list(range(0, 1000, 10))
    assert images.images([3, 99]).shape == (2, 3, 224, 224)
