"""What the judge hands to the store: plain frozen records, one an image and one a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Votes = Mapping[int, int]
"""Predicted label -> number of judging draws that answered it."""
NOT_CONVERGED = "Not converged: "
"""How a note begins that says that a longer attack would find more; tables mark the number."""
WEAK_ATTACK = "Weak attack: "
"""How a note begins that says that another attack is known to find more; tables mark the number."""
VOTES = ("clean_votes", "robust_votes", "null_votes")
ROUNDED = "rounded_votes"  # unknown in runs of older versions


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """One image under one cell: what the defended classifier answered, draw by draw.

    Attributes:
        index: place in the data set's test split.
        label: the true class.
        clean_votes: predicted label -> judging draws, on the clean image.
        robust_votes: the same on the adversarial image.
        null_votes: the same on the clean image, with other draws; all three sum to `draws`.
        distance: norm of the perturbation, in the threat's norm and in image units.
        rounded_votes: the votes of the same draws on the adversarial image rounded to an 8-bit picture; None where that
            was not asked.
        broken_by: the member of the attack whose image is scored; None where the attack has one member.
        first_success: whether every look that the attack took on its way was classified right, which the literature
            calls robust; None where no looks were kept.
        null_first_success: the same for as many looks at the clean image.

    Raises:
        ValueError: the three kinds of votes have different sums, or none.
    """

    index: int
    label: int
    clean_votes: Votes
    robust_votes: Votes
    null_votes: Votes
    distance: float
    rounded_votes: Votes | None = None
    broken_by: str | None = None
    first_success: bool | None = None
    null_first_success: bool | None = None

    def __post_init__(self) -> None:
        sums = {name: sum(getattr(self, f"{name}_votes").values()) for name in ("clean", "robust", "null")}
        if self.rounded_votes is not None:
            sums["rounded"] = sum(self.rounded_votes.values())
        if len(set(sums.values())) != 1 or self.draws < 1:
            raise ValueError(
                f"Expected as many votes on the clean, adversarial and null image, at least one; "
                f"got {sums} for image {self.index}."
            )

    @property
    def draws(self) -> int:
        """Judging draws on each of the three images."""
        return sum(self.robust_votes.values())

    @property
    def clean_correct(self) -> int:
        """Draws that gave the clean image its label."""
        return self.clean_votes.get(self.label, 0)

    @property
    def robust_correct(self) -> int:
        """Draws that gave the adversarial image its label."""
        return self.robust_votes.get(self.label, 0)

    @property
    def rounded_correct(self) -> int | None:
        """Draws that gave the adversarial image its label once it was rounded to 8 bits; None where unknown."""
        return None if self.rounded_votes is None else self.rounded_votes.get(self.label, 0)

    @property
    def null_correct(self) -> int:
        """Draws that gave the null image (epsilon 0) its label."""
        return self.null_votes.get(self.label, 0)


@dataclass(frozen=True, kw_only=True)
class BatchRecord:
    """One batch of a run: what it cost and how its attack converged.

    Attributes:
        number: place in the run, from 0.
        seconds: wall time.
        network_evaluations: images through the largest network, backward passes included.
        curve: one entry a step, `{attack, step, loss, accuracy, images}`; accuracy in [0, 1].
        device: where it was measured; None where that is the run's device.
        evidence: where its adversarial images are kept: a place below the database's own folder, a path or a URL; None
            where they are not.
        evidence_sha256: of that file.
        peak_bytes: most memory that was taken: on a GPU by torch, on a CPU by the process since it began; None where
            nobody can tell.
        device_bytes: memory of the device, or of the machine.
        operations: floating-point operations of the network that is counted, a multiplication and its addition two.
    """

    number: int
    seconds: float
    network_evaluations: int
    curve: list[dict[str, Any]] = field(default_factory=list)
    device: str | None = None
    evidence: str | None = None
    evidence_sha256: str | None = None
    peak_bytes: int | None = None
    device_bytes: int | None = None
    operations: float | None = None
