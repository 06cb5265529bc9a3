"""Adversarial images go with the rows that name them when databases are joined."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.evidence.files import is_url
from bench.evidence.vault import EvidenceError, vault_beside


class Carrier:
    """Copies evidence files from the folders of some databases to that of another.

    Attributes:
        carried: files that are now beside the new database.
        lost: places of files that were missing or changed; their rows still name them.
    """

    def __init__(self, output: Path) -> None:
        """Name the new database.

        Args:
            output: its file.
        """
        self._vault = vault_beside(output)
        self.carried = 0
        self.lost: list[str] = []

    def carry(self, database: Path, row: Mapping[str, Any]) -> str:
        """Where the images of a batch lie for the new database; a file beside an old one is copied.

        Args:
            database: the file that holds the row.
            row: of `batches`.
        """
        place, source = str(row["evidence"]), vault_beside(database)
        if is_url(place) or Path(place).is_absolute():  # stays where it is
            return place
        try:
            data = source.read(place)
        except EvidenceError:
            self.lost.append(place)
            return place
        if hashlib.sha256(data).hexdigest() != row["evidence_sha256"]:
            self.lost.append(place)
            return place
        self.carried += 1
        return self._vault.keep_bytes(place, data).place

    @property
    def told(self) -> str:
        """A sentence about the files, which begins with a space; empty where there are none."""
        told = f" {self.carried} files of adversarial images are in {self._vault.root}." if self.carried else ""
        if self.lost:
            told += (
                f" {len(self.lost)} files of adversarial images were missing or changed and could not come along, the "
                f"first is {self.lost[0]}: copy them to {self._vault.root}."
            )
        return told
