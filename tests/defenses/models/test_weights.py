"""Weight files: found where promised, refused when altered, with a remedy in every message."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from defenses.models import weights


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def test_data_folder_comes_before_the_cache(folders: Path) -> None:
    for place in ("cache", "data"):
        (folders / place / "weights").mkdir(parents=True)
        (folders / place / "weights" / "net.pt").write_bytes(b"x")
        assert weights.find_weights("net.pt", source="somewhere").parts[-3] == place


def test_missing_weights_say_where_from_and_where_to(folders: Path) -> None:
    with pytest.raises(weights.MissingWeights) as error:
        weights.find_weights("net.pt", source="https://example.org/net.pt", sha256="ab12")
    for part in ("net.pt", str(folders / "data" / "weights"), str(folders / "cache"), "https://example.org", "ab12"):
        assert part in str(error.value)


def test_sha256_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"first", b"second, longer"):
        path.write_bytes(content)
        assert weights.sha256_of(path) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_round_trip_and_truncation(tmp_path: Path, suffix: str) -> None:
    path, state = tmp_path / f"net{suffix}", {"w": torch.arange(1000.0)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    digest = weights.sha256_of(path)
    assert torch.equal(weights.load_checkpoint(path, digest)["w"], state["w"])

    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"expected sha256 {digest}, found {weights.sha256_of(path)}"):
        weights.load_checkpoint(path, digest)
    with pytest.raises(ValueError, match="fetch it again"):
        weights.load_checkpoint(path)


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save({"net": torch.nn.Linear(2, 2)}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="checkpoint of tensors"):
        weights.load_checkpoint(tmp_path / "net.pt")


def test_a_web_page_is_refused_and_nobody_is_told_to_run_it(tmp_path: Path) -> None:
    for name, content in (
        ("page.pt", b"\n<html><title>Sign in</title>"),
        ("noise.pt", b"\x80<svg>nothing that torch knows"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="a web page titled 'Sign in'|could not read it") as caught:
            weights.load_checkpoint(tmp_path / name)
        assert "weights_only" not in str(caught.value)


class Net(torch.nn.Linear):
    """A class of the user's."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), r"state dict .* found a Tensor of shape \(3,\)"), ([1, 2], "found a list of 2 entries"),
        (7, "found an int. Save"), (Net(2, 2), "found pickled objects of .*Net.*would run as code"),
        ({"args": torch.nn.Linear(1, 1)}, r"pickled objects of .*torch\.nn\.modules\.linear\.Linear"),
        (b"", "found an empty file"),
        (b'{"error": "not found"}', "a text that begins with '{\"error\": \"not found\"}'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "a Git LFS pointer.*git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"), (b"\x1f\x8b\x08" + bytes(99), "a gzip archive: unpack"),
        ("Zugriff verweigert: zu viele Anfragen f\u00fcr diese Datei".encode(), "a text that begins with 'Zugriff"),
    ],
)  # fmt: skip
def test_what_is_no_state_dict_is_named(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        weights.load_checkpoint(path)


def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "net.pt")
    with pytest.raises(ValueError, match="found a TorchScript program"):
        weights.load_checkpoint(tmp_path / "net.pt")


def test_the_format_is_told_from_the_content(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "net.pt")
    torch.save({"w": torch.ones(2)}, tmp_path / "net.safetensors")
    for name in ("net.pt", "net.safetensors"):
        assert weights.load_checkpoint(tmp_path / name)["w"].eq(1).all()


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(weights.MissingWeights, match="found none"):
        weights.load_checkpoint(tmp_path / "absent.pt")


def test_score_sde_container_with_a_numpy_learning_rate(shared: Path) -> None:
    checkpoint = weights.load_checkpoint(shared / "reference" / "networks" / "tiny_checkpoint.pth")
    assert {"ema", "model", "optimizer", "step"} <= set(checkpoint)


def test_strip_prefix() -> None:
    assert weights.strip_prefix({"module.a": 1, "b.module.c": 2}) == {"a": 1, "b.module.c": 2}


def test_unknown_asset_suggests_the_nearest() -> None:
    with pytest.raises(LookupError, match="Did you mean 'digits/digits_cnn.safetensors'"):
        weights.asset_path("digits/digit_cnn.safetensors")
