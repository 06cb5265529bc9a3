"""Strips for the pages of `bench view`: drawn when a cell's page is first asked for, where its images are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from bench.evidence import Vault, vault_beside
from bench.store import Store

SHOWN = 6  # images of a strip


def find_strips(store: Store, db: str, folder: Path) -> Callable[[str], Sequence[Path]]:
    """A function from a cell's key to its strip, none where there are no images or no way to draw them.

    Args:
        store: the results.
        db: their path or URL.
        folder: where strips are written.
    """

    vault = vault_beside(db)
    kept = {key for key, place in store.evidence_places().items() if vault.may_have(place)}

    @cache
    def find(key: str) -> Sequence[Path]:
        path = folder / key / "strip.png"
        return (path,) if key in kept and _draw(db, key, path, vault) else ()

    return find


def _draw(db: str, key: str, path: Path, vault: Vault) -> bool:
    try:
        import torch

        from bench.commands.draw import draw
        from bench.run.prepare import Loader

        path.parent.mkdir(parents=True, exist_ok=True)
        draw(db, key, path, Loader(torch.device("cpu")), vault, images=SHOWN)
    except (LookupError, ValueError, OSError, ImportError):  # a page without pictures is a page
        return False
    return path.exists()
