"""A run's adversarial images: what their files say of themselves, and the images again for the gates."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from bench.cell import Cell
from bench.evidence import EvidenceError, Vault
from bench.store import Store


def describe_evidence(cell: Cell, number: int) -> dict[str, str]:
    """What a file of adversarial images says of itself."""
    low = {} if cell.attack_precision == "float32" else {"attack_precision": cell.attack_precision}
    return low | {
        "cell": cell.key, "batch": str(number), "dataset": cell.dataset, "classifier": cell.classifier,
        "defense": repr(cell.defense), "attack": repr(cell.attack), "threat": repr(cell.threat), "seed": str(cell.seed),
    }  # fmt: skip


def kept_images(store: Store, vault: Vault | None, run_id: int) -> dict[int, Tensor]:
    """Image id -> its adversarial image, of all of a run that were kept and can be read here."""
    found: dict[int, Tensor] = {}
    if vault is None:
        return found
    for batch in store.batches(run_id):
        with suppress(EvidenceError, ValueError):  # the attack is run again for the gates
            if batch.evidence:
                file = vault.read_batch(batch.evidence, batch.evidence_sha256)
                found |= zip(file.index, torch.from_numpy(np.array(file.images)), strict=True)
    return found
