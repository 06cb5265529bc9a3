"""What a table of a paper is made of: its rows, and the pictures behind them."""

from __future__ import annotations

from dataclasses import dataclass

from bench.attacks.base import Attack
from defenses.base import Defense, Gradient


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Which pictures, how often: every seed on every data seed.

    Attributes:
        seeds: of the noise; a deterministic defense takes the first only.
        data_seeds: each draws its own pictures.
        num_images: pictures of each data seed.
        batch_size: pictures of a batch.
    """

    seeds: tuple[int, ...]
    data_seeds: tuple[int, ...]
    num_images: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class DefenseRow:
    """A defense in a table of a paper.

    Attributes:
        defense: with the paper's settings.
        gradient: what the paper's attacker differentiates.
        published: key of the published number that the row measures again; None where there is none.
        attack: in place of the experiment's, for a defense that needs another (AutoAttack standard where nothing is
            random).
    """

    defense: Defense
    gradient: Gradient
    published: str | None = None
    attack: Attack | None = None
