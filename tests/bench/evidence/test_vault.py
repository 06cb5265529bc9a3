"""Where evidence lies: whole files, never one over another, folders and URLs, and a sentence where it is missing."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from bench.evidence import EvidenceError, Vault, vault_beside
from bench.evidence import files as module

NAME = "ab12/0.safetensors"


@pytest.fixture(params=["folder", "url"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    return Vault(tmp_path / "kept" if request.param == "folder" else f"memory://{uuid.uuid4().hex}/kept")


def test_what_is_kept_is_read(vault: Vault) -> None:
    vault.check()
    kept = vault.keep_bytes(NAME, b"one")
    assert vault.read(kept.place) == b"one" and kept.place == f"{vault.root}/{NAME}" and kept.size == 3


def test_another_file_of_the_same_name_is_kept_beside_it(vault: Vault) -> None:
    first, again, other = (vault.keep_bytes(NAME, data) for data in (b"one", b"one", b"two"))
    assert first == again and other.place != first.place
    assert (vault.read(first.place), vault.read(other.place)) == (b"one", b"two")
    assert vault.keep_bytes(NAME, b"two") == other


def test_no_half_file_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed while it writes leaves no file under the name."""
    vault = Vault(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        vault.keep_bytes(NAME, b"one")
    assert not (tmp_path / NAME).exists()
    monkeypatch.undo()
    assert vault.read(vault.keep_bytes(NAME, b"one").place) == b"one"


def test_a_faster_process_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault, link = Vault(tmp_path), os.link

    def late(fresh: Path, target: Path) -> None:
        Path(target).write_bytes(b"theirs") if Path(target).name == "0.safetensors" else None
        link(fresh, target)

    monkeypatch.setattr(module.os, "link", late)
    kept = vault.keep_bytes(NAME, b"ours")
    assert (tmp_path / NAME).read_bytes() == b"theirs" and vault.read(kept.place) == b"ours"
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_that_moved_with_its_database_is_found(tmp_path: Path) -> None:
    first = vault_beside(tmp_path / "results.sqlite")
    place = first.keep_bytes(NAME, b"one").place
    assert place == NAME and (tmp_path / "results.evidence" / NAME).exists()
    (tmp_path / "there").mkdir()
    os.rename(tmp_path / "results.evidence", tmp_path / "there" / "other.evidence")
    assert vault_beside(tmp_path / "there" / "other.sqlite").read(place) == b"one"


def test_a_folder_elsewhere_can_move_too(tmp_path: Path) -> None:
    place = Vault(tmp_path / "old").keep_bytes(NAME, b"one").place
    os.rename(tmp_path / "old", tmp_path / "new")
    assert Vault(tmp_path / "new").read(place) == b"one"


def test_a_missing_file_says_where_it_was_looked_for(vault: Vault) -> None:
    with pytest.raises(EvidenceError, match="not at .*0.safetensors.*--evidence"):
        vault.read(NAME)


def test_a_place_that_cannot_be_written_is_told_before_the_attack(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file" / "folder", "nosuchprotocol://bucket"):
        with pytest.raises(EvidenceError, match="--no-evidence"):
            Vault(root).check()


def test_a_changed_file_is_told(vault: Vault) -> None:
    kept = vault.keep_bytes(NAME, b"one")
    with pytest.raises(ValueError, match="changed or damaged"):
        vault.read_batch(kept.place, "00" * 32)
