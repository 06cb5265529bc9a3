"""Where adversarial images lie: a folder beside the database, another one, or a URL of any kind that fsspec knows."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.evidence.batch_file import EvidenceBatch, pack_batch, unpack_batch
from bench.evidence.files import is_url, put_file, read_file, remove_file, write_file
from bench.records import ImageRecord
from bench.store.database import parse_url, sqlite_path

SUFFIX = ".evidence"


class EvidenceError(OSError):
    """Adversarial images cannot be kept, or what was kept cannot be read. The message says what to do.

    Class attributes:
        remedy: what to do, for the command line.
    """

    remedy = "Free space, or give --evidence another folder; --no-evidence keeps no images. The same command continues."


@dataclass(frozen=True)
class Kept:
    """Where the images of a batch lie.

    Attributes:
        place: as `batches.evidence` has it.
        sha256: of the file.
        size: bytes.
    """

    place: str
    sha256: str
    size: int


class Vault:
    """A place for evidence files, one folder a cell. A file that is there is never written over.

    Attributes:
        root: folder or URL.
        beside: whether the root lies beside the database, so that it may move with it.
    """

    def __init__(self, root: str | os.PathLike[str], *, beside: bool = False) -> None:
        """Name a place; nothing is written yet.

        Args:
            root: folder or URL, such as s3://bucket/folder.
            beside: whether places are stored relative to it.
        """
        self.beside = beside
        address = os.fspath(root)
        self.root = address.rstrip("/") if is_url(address) else str(Path(address).expanduser().absolute())

    def check(self) -> None:
        """Raise EvidenceError where nothing can be written; asked before an attack is paid for."""
        name = f".check-{secrets.token_hex(4)}"
        try:
            write_file(self.root, name, b"")
            remove_file(self.root, name)
        except Exception as error:  # every kind of file system has its own errors
            raise EvidenceError(
                f"{self.root}: nothing can be written there: {error}. {EvidenceError.remedy}"
            ) from error

    def keep(
        self,
        cell: str,
        batch: int,
        images: NDArray[np.float32],
        records: Sequence[ImageRecord],
        about: Mapping[str, str],
    ) -> Kept:
        """Keep a batch; it is whole on the disk when this returns.

        Args:
            cell: the cell's key.
            batch: its number.
            images: (batch, channels, height, width) float32 in [0, 1].
            records: of the same images.
            about: what else the file says of itself.
        """
        return self.keep_bytes(f"{cell}/{batch}.safetensors", pack_batch(images, records, about))

    def keep_bytes(self, name: str, data: bytes) -> Kept:
        """Keep a file under a name, or, where another is there, under one that also names its content."""
        digest = hashlib.sha256(data).hexdigest()
        stem, _, ending = name.rpartition(".")
        try:
            for candidate in (name, f"{stem}-{digest[:12]}.{ending}"):
                if put_file(self.root, candidate, data):
                    return Kept(self._place(candidate), digest, len(data))
        except Exception as error:  # every kind of file system has its own errors
            raise EvidenceError(f"{self.root}/{name} cannot be written: {error}.") from error
        raise EvidenceError(f"{self.root}/{stem}-{digest[:12]}.{ending} holds something else than its name says.")

    def may_have(self, place: str) -> bool:
        """Whether a file is there; a URL is not asked."""
        return any(is_url(address) or Path(address).is_file() for address in self._addresses(place))

    def read(self, place: str) -> bytes:
        """The bytes of a file.

        Args:
            place: as `batches.evidence` has it.

        Raises:
            EvidenceError: it is not there, or cannot be read.
        """
        tried = []
        for address in self._addresses(place):
            tried.append(address)
            with suppress(FileNotFoundError, NotADirectoryError):
                try:
                    return read_file(address)
                except (FileNotFoundError, NotADirectoryError):
                    raise
                except Exception as error:  # every kind of file system has its own errors
                    raise EvidenceError(f"{address} cannot be read: {error}.") from error
        raise EvidenceError(
            f"The adversarial images are not at {' or '.join(tried)}. Copy them there from where the cell was run, "
            "or say with --evidence where they are."
        )

    def read_batch(self, place: str, sha256: str | None = None) -> EvidenceBatch:
        """A batch, checked against its sum where one is given.

        Args:
            place: as `batches.evidence` has it.
            sha256: of the file.

        Raises:
            EvidenceError: it is not there.
            ValueError: it is damaged, or another file than the one that was stored.
        """
        data = self.read(place)
        found = hashlib.sha256(data).hexdigest()
        if sha256 is not None and found != sha256:
            raise ValueError(f"{place}: expected sha256 {sha256}, found {found}: the file was changed or damaged.")
        return unpack_batch(data)

    def _place(self, name: str) -> str:
        return name if self.beside else f"{self.root}/{name}"

    def _addresses(self, place: str) -> list[str]:
        """Where a file may lie: as stored, and, if that was elsewhere, in this vault."""
        absolute = is_url(place) or Path(place).is_absolute()
        here = f"{self.root}/{'/'.join(place.split('/')[-2:])}"
        return list(dict.fromkeys([here, place])) if absolute else [here]


def vault_beside(db: str | os.PathLike[str]) -> Vault:
    """The vault of a database: `results.evidence` beside `results.sqlite`.

    Of a server's database, a folder of its name in the working directory, whose whole path the database keeps.

    Args:
        db: path or URL of the database.
    """
    url = parse_url(db)
    path = sqlite_path(url)
    if path is not None:
        return Vault(path.with_suffix(SUFFIX), beside=True)
    return Vault(Path(Path(url.database or "results").name + SUFFIX))
