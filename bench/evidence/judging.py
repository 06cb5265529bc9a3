"""Asking a defense about kept images once more: fresh draws, or the very draws of the run."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from bench.attacks.base import JUDGE_ROWS, Oracle
from bench.evidence.batch_file import EvidenceBatch
from defenses.base import Defended

RUN = "judge:robust"  # the role of the draws behind `robust_votes`


def judge_again(
    model: Defended, batch: EvidenceBatch, labels: Tensor, *, draws: int, seed: int, role: str, first: int = 0
) -> Tensor:
    """Predicted labels, (draws, batch).

    Args:
        model: the defended classifier.
        batch: the adversarial images.
        labels: (batch,) true classes, on the model's device.
        draws: an image.
        seed: of the draws.
        role: RUN asks the draws of the run, every other name fresh ones.
        first: number of the first draw.
    """
    images = torch.from_numpy(np.array(batch.images)).to(labels.device)
    ids = torch.tensor(batch.index, device=labels.device)
    oracle = Oracle(model, labels, ids, seed, eot=draws, role=role, rows=JUDGE_ROWS)
    return oracle.evaluate(images, first).predictions


def doubt_replay(batch: EvidenceBatch, predictions: Tensor) -> list[str]:
    """Images whose stored votes are not what the very draws of the run say now.

    Args:
        batch: the adversarial images with their stored votes.
        predictions: (draws, batch) of the same draws.
    """
    found = []
    for place, kept in enumerate(batch.outcomes):
        now = {str(label): count for label, count in sorted(Counter(predictions[:, place].tolist()).items())}
        if now != kept["robust_votes"]:
            found.append(
                f"image {batch.index[place]}: the draws of the run say {now}, {kept['robust_votes']} is stored"
            )
    return found
