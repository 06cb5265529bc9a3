"""Downloads from a server on this machine: resumed, truncated, web pages, other files than promised."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from file_server import FILE, QUOTA, SHA256, Server, serving

from defenses.models.download import CHUNK, fetch
from defenses.models.sources import Source, recorded_sha256
from defenses.models.weights import MissingWeights


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as running:
        yield running


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's weight folder, not made yet."""
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    return tmp_path / "weights"


def at(server: Server, path: str = "net.pt", **fields: str) -> Source:
    return Source(file="some/net.pt", at=f"http://127.0.0.1:{server.server_port}/{path}", **fields)  # type: ignore[arg-type]


def test_a_file_is_fetched_once_with_progress_and_recorded(server: Server, weights: Path) -> None:
    told: list[tuple[int, int | None]] = []
    path = fetch(at(server), lambda done, total: told.append((done, total)))
    assert path == weights / "some" / "net.pt" and path.read_bytes() == FILE
    assert told[-1] == (len(FILE), len(FILE)) and len(told) >= 3
    assert recorded_sha256() == {"some/net.pt": SHA256}
    assert fetch(at(server)) == path and server.ranges == [None]


def begin(weights: Path, content: bytes, offer: dict[str, object] | None) -> None:
    """A part file, and what the server said of the whole when it was begun."""
    (weights / "some").mkdir(parents=True)
    (weights / "some" / "net.pt.part").write_bytes(content)
    if offer is not None:
        (weights / "some" / "net.pt.part.json").write_text(json.dumps(offer))


@pytest.mark.parametrize("offer", [{"length": len(FILE)}, {"etag": '"a"'}, {"etag": '"a"', "length": len(FILE)}])
def test_a_download_continues_where_it_was_left(offer: dict[str, object], server: Server, weights: Path) -> None:
    server.etag = '"a"'
    begin(weights, FILE[:1000], offer)
    assert fetch(at(server)).read_bytes() == FILE
    assert server.ranges == ["bytes=1000-"]
    assert [path.name for path in (weights / "some").iterdir()] == ["net.pt"]


@pytest.mark.parametrize(
    "offer",
    [None, {}, {"etag": None, "length": None}, {"etag": '"b"', "length": len(FILE)}, {"length": 7}, {"etag": "b"}],
)
def test_a_part_of_another_file_is_thrown_away(offer: dict[str, object] | None, server: Server, weights: Path) -> None:
    """Its beginning and this file's end would make a file that nobody published."""
    server.etag = '"a"'
    begin(weights, b"x" * 1000, offer)
    assert fetch(at(server)).read_bytes() == FILE


def test_a_server_without_ranges_sends_all_of_it_again(server: Server, weights: Path) -> None:
    begin(weights, b"x" * 1000, {"length": len(FILE)})
    assert fetch(at(server, "whole")).read_bytes() == FILE


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, weights: Path) -> None:
    begin(weights, FILE + b"more", {"length": len(FILE) + 9})
    assert fetch(at(server)).read_bytes() == FILE
    assert server.ranges == [f"bytes={len(FILE) + 4}-", None]


@pytest.mark.parametrize(
    ("path", "message"), [("error", "a text that begins with '{\"error\"'"), ("empty", "an empty file")]
)
def test_an_error_body_is_never_pinned(path: str, message: str, server: Server, weights: Path) -> None:
    with pytest.raises(MissingWeights, match=f"server answered with {message.rstrip(chr(39))}"):
        fetch(at(server, path))
    assert recorded_sha256() == {} and not list((weights / "some").iterdir())
    assert fetch(at(server)).read_bytes() == FILE


def test_several_at_once_download_once(server: Server, weights: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: fetch(at(server)), range(4)))
    assert len(paths) == 1 and server.ranges == [None]


def test_a_cache_that_cannot_be_written_is_fine_where_the_file_is_here(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in place of the cache folder: nobody can write there, root neither."""
    (tmp_path / "cache").write_text("no folder")
    (tmp_path / "data" / "weights" / "some").mkdir(parents=True)
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(MissingWeights, match="cache folder cannot be written.*BENCH_CACHE_DIR names another"):
        fetch(at(server))
    (tmp_path / "data" / "weights" / "some" / "net.pt").write_bytes(FILE)
    assert fetch(at(server)).read_bytes() == FILE


def test_dropped_connections_are_taken_up_again(server: Server, weights: Path) -> None:
    server.cuts = 2
    assert fetch(at(server, "broken")).read_bytes() == FILE
    assert server.ranges == [None, f"bytes={CHUNK}-", f"bytes={2 * CHUNK}-"]


def test_a_truncated_download_is_kept_for_the_next_time(server: Server, weights: Path) -> None:
    (weights / "some").mkdir(parents=True)
    server.cuts = 1
    with pytest.MonkeyPatch.context() as once:
        once.setattr("defenses.models.download.TRIES", 1)
        with pytest.raises(MissingWeights, match=rf"ended after {CHUNK} of {len(FILE)} bytes.*same command continues"):
            fetch(at(server, "broken"))
    assert not (weights / "some" / "net.pt").exists() and recorded_sha256() == {}
    assert fetch(at(server, "broken")).read_bytes() == FILE
    assert server.ranges[-1] == f"bytes={CHUNK}-"


def test_a_web_page_is_no_weight_file(server: Server, weights: Path) -> None:
    with pytest.raises(MissingWeights, match="page titled 'Google Drive - Quota exceeded'.*again tomorrow.*By hand"):
        fetch(at(server, "page"))
    assert not list((weights / "some").iterdir()) and recorded_sha256() == {}


def test_another_file_than_promised_is_refused(server: Server, weights: Path) -> None:
    with pytest.raises(ValueError, match=f"sha256 {'0' * 8}.*found {SHA256}"):
        fetch(at(server, sha256="0" * 8))
    assert not list((weights / "some").iterdir())
    assert fetch(at(server, sha256=SHA256[:8])).is_file()


def test_a_file_replaced_since_its_first_use_is_refused(server: Server, weights: Path) -> None:
    path = fetch(at(server))
    path.unlink()
    (weights / "sha256.json").write_text('{"some/net.pt": "' + "1" * 64 + '"}')
    with pytest.raises(ValueError, match="if its owner has replaced it"):
        fetch(at(server))


def test_a_refusal_names_the_origin_and_the_place(server: Server, weights: Path) -> None:
    with pytest.raises(MissingWeights, match=rf"404 Not Found.*By hand: put it at {weights}.*origin: http://127"):
        fetch(at(server, "gone"))


def test_nobody_there(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(MissingWeights, match="refused.*By hand"):
        fetch(Source(file="net.pt", at="http://127.0.0.1:9/net.pt"))


def test_a_file_without_public_origin(weights: Path) -> None:
    with pytest.raises(MissingWeights, match="there is no public origin.*train one"):
        fetch(Source(file="net.pt", note="no public file; train one"))


def drive(monkeypatch: pytest.MonkeyPatch, content: bytes | Exception, listed: list[str] | None = None) -> list[str]:
    """gdown replaced: writes `content`, or raises it; a folder holds the paths `listed`. Returns the ids asked for."""
    asked: list[str] = []

    def download(id: str, output: str, resume: bool) -> str:
        asked.append(id)
        if isinstance(content, Exception):
            raise content
        Path(output).write_bytes(content)
        return output

    files = [SimpleNamespace(id=f"id-{path}", path=path) for path in listed or []]
    monkeypatch.setattr("gdown.download", download)
    monkeypatch.setattr("gdown.download_folder", lambda **options: files)
    return asked


def test_google_drive_by_file_and_by_folder(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = drive(monkeypatch, FILE, ["logs.txt", "weights.pt"])
    assert fetch(Source(file="a.pt", at="drive:abc")).read_bytes() == FILE
    assert fetch(Source(file="b.pt", at="drive-folder:folder/weights.pt")).read_bytes() == FILE
    assert asked == ["abc", "id-weights.pt"]
    with pytest.raises(MissingWeights, match="expected one file other.pt in the folder, found logs.txt, weights.pt"):
        fetch(Source(file="c.pt", at="drive-folder:folder/other.pt"))


@pytest.mark.parametrize("content", [QUOTA, RuntimeError("Too many users have viewed this file recently")])
def test_google_drives_quota_is_explained(
    content: bytes | Exception, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(monkeypatch, content)
    with pytest.raises(
        MissingWeights, match=r"quota of this file is used up.*https://drive\.google\.com/file/d/abc/view"
    ):
        fetch(Source(file="a.pt", at="drive:abc"))


def test_hugging_face_hub(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = tmp_path / "held"
    held.write_bytes(FILE)

    def one(repository: str, file: str, cache_dir: Path) -> str:
        assert (repository, file) == ("timm/net", "model.safetensors")
        return str(held)

    def snapshot(repository: str, local_dir: Path, allow_patterns: list[str]) -> None:
        (local_dir / "unet").mkdir(parents=True)
        (local_dir / "unet" / "diffusion_pytorch_model.bin").write_bytes(FILE)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", one)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert fetch(Source(file="a.safetensors", at="hub:timm/net/model.safetensors")).read_bytes() == FILE
    source = Source(file="diffusers/a/b", at="pipeline:a/b")
    assert fetch(source) == weights / "diffusers/a/b/unet/diffusion_pytorch_model.bin" == source.find()
    assert recorded_sha256() == {"a.safetensors": SHA256, "diffusers/a/b": SHA256}


def test_a_repository_without_a_network(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *names, **options: None)
    with pytest.raises(MissingWeights, match="expected a UNet2DModel in a/b"):
        fetch(Source(file="diffusers/a/b", at="pipeline:a/b"))
