"""A cell: one number of a table, named by everything that decides it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from bench.attacks.base import Attack, attacks, check_norm
from bench.epsilon import epsilon_text
from bench.planned import PlannedCell, hash_resolved
from bench.threat import ThreatModel
from defenses.base import Defense, Gradient, defenses
from defenses.field_types import check_fields, check_range
from defenses.precision import Precision, check_name

LARGEST = 2**31 - 1  # what a column of whole numbers holds in every database
OTHER_NOISE: tuple[Gradient, ...] = ("surrogate", "transfer")  # kinds that differentiate no recorded draw
Tier = Literal["quick", "paper", "strong", "gold"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """dataset x classifier x defense x attack x threat model, and how many images and draws say so.

    Attributes:
        dataset: registered name.
        classifier: registered name.
        defense: with its hyperparameters.
        attack: with its settings.
        threat: ball and kind of gradient.
        score: registered name of the score network; None where the defense needs none.
        num_images: at least 1.
        data_seed: draws the images from the test split, in 0..2147483647.
        batch_size: images a batch; part of the key only where one image's result depends on its batch.
        draws: judging draws an image, at least 1; a deterministic defense is judged once.
        seed: of every random draw, in 0..2147483647.
        tier: "quick" (not a robustness claim), "paper", "strong" or "gold".
        balanced: whether each class gives equally many images.
        attack_precision: what the passes of the attack that record a gradient compute in: "float32", "tf32" or
            "bfloat16" (the score network alone); judge and check draws stay in float32. Part of the key where it is not
            float32.
        published: key of the published number that this cell measures again; a label, not part of the key.
    """

    dataset: str
    classifier: str
    defense: Defense
    attack: Attack
    threat: ThreatModel
    score: str | None = None
    num_images: int = 512
    data_seed: int = 0
    batch_size: int = 64
    draws: int = 10
    seed: int = 0
    tier: Tier = "quick"
    balanced: bool = False
    attack_precision: Precision = "float32"
    published: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, besides=("defense", "attack", "threat"))
        _check_part("defense", self.defense, Defense)
        _check_part("attack", self.attack, Attack)
        if not isinstance(self.threat, ThreatModel):
            raise ValueError(f"Expected threat=ThreatModel(...), got {self.threat!r}.")
        check_range(self, 1, LARGEST, "num_images", "batch_size", "draws")
        check_range(self, 0, LARGEST, "seed", "data_seed")
        if self.tier not in get_args(Tier):
            raise ValueError(f"Expected tier among {', '.join(get_args(Tier))}, got {self.tier!r}.")
        self.defense.check_gradient(self.threat.gradient)
        check_norm(self.attack, self.threat.norm)
        self._check_noise()
        check_name(self.attack_precision)
        if not self.can_be_attacked_in(self.attack_precision):
            raise ValueError(
                f"Expected attack_precision='float32' for {self.defense.name} under {self.attack.name} with the "
                f"{self.threat.gradient} gradient, got {self.attack_precision!r}: the attack differentiates no "
                f"{'score network' if self.attack_precision == 'bfloat16' else 'network'}. Leave it out."
            )

    def _check_noise(self) -> None:
        """Raise ValueError where the attacker cannot know the noise."""
        if self.threat.noise == "fresh":
            return
        if not self.defense.stochastic:
            raise ValueError(f"Expected noise='fresh' for {self.defense.name}, which draws none to know. Leave it out.")
        if self.threat.gradient in OTHER_NOISE:
            raise ValueError(
                f"Expected another gradient than {self.threat.gradient!r} with noise='known': what it differentiates "
                "does not use the recorded draws. Take 'exact', 'adjoint' or 'straight_through'."
            )
        if self.published:
            raise ValueError("Expected published=None with noise='known': published numbers are of fresh draws.")

    def can_be_attacked_in(self, precision: Precision) -> bool:
        """Whether the attack makes passes that a precision changes: else its name would stand for nothing."""
        if precision == "float32":
            return True
        kinds = {self.threat.gradient, *self.attack.tried()} - {"transfer", "none"}
        return not self.attack.gradient_free and (precision == "tf32" or (self.score is not None and bool(kinds)))

    def attacked_in(self, precision: Precision) -> Cell:
        """The cell with its attack in another precision, where there is something to compute in it, else in float32."""
        check_name(precision)
        return replace(self, attack_precision=precision if self.can_be_attacked_in(precision) else "float32")

    @property
    def batch_coupled(self) -> bool:
        """Whether an image's result depends on the batch that it was in."""
        return self.defense.batch_coupled or self.attack.batch_coupled

    @property
    def judging_draws(self) -> int:
        """Draws an image that the judge looks at."""
        return self.draws if self.stochastic else 1

    @property
    def stochastic(self) -> bool:
        """Whether two answers for one image may differ: not where the noise is known."""
        return self.defense.stochastic and self.threat.noise == "fresh"

    def resolved(self) -> dict[str, Any]:
        """Everything that decides the number, defaults included, as plain data."""
        named = {
            kind: {"name": part.name, "version": part.version, "params": part.params()}
            for kind, part in (("defense", self.defense), ("attack", self.attack))
        }
        return {
            "dataset": self.dataset,
            "classifier": self.classifier,
            "score": self.score,
            **named,
            "threat": {
                "norm": self.threat.norm,
                "epsilon": self.threat.epsilon,
                "gradient": self.threat.gradient,
                **({} if self.threat.noise == "fresh" else {"noise": self.threat.noise}),
            },
            "num_images": self.num_images,
            "data_seed": self.data_seed,
            "balanced": self.balanced,
            "batch_size": self.batch_size if self.batch_coupled else None,
            "draws": self.judging_draws,
            "seed": self.seed,
            "tier": self.tier,
            **({} if self.attack_precision == "float32" else {"attack_precision": self.attack_precision}),
        }

    @cached_property
    def key(self) -> str:
        """First 16 hex digits of the sha256 of the canonical JSON of `resolved`."""
        return hash_resolved(self.resolved())

    def planned(self) -> PlannedCell:
        """The cell as plain data."""
        columns = {name: value for name, value in self.row().items() if name != "key"}
        return PlannedCell(columns=columns, batch_coupled=self.batch_coupled)

    def row(self) -> dict[str, Any]:
        """The columns of table `cells`."""
        return {
            "key": self.key,
            "dataset": self.dataset,
            "classifier": self.classifier,
            "score": self.score,
            "defense": self.defense.name,
            "defense_version": self.defense.version,
            "defense_params": self.defense.params(),
            "attack": self.attack.name,
            "attack_version": self.attack.version,
            "attack_params": self.attack.params(),
            "norm": self.threat.norm,
            "epsilon": self.threat.epsilon,
            "gradient": self.threat.gradient,
            "tier": self.tier,
            "num_images": self.num_images,
            "data_seed": self.data_seed,
            "balanced": self.balanced,
            "batch_size": self.batch_size,
            "draws": self.judging_draws,
            "seed": self.seed,
            "published_key": self.published,
            "attack_precision": self.attack_precision,
            "noise": self.threat.noise,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Cell:
        """The cell that `row` describes: the inverse of `row`."""
        return cls(
            **{
                name: row[name]
                for name in (
                    "dataset",
                    "classifier",
                    "score",
                    "num_images",
                    "data_seed",
                    "balanced",
                    "batch_size",
                    "draws",
                    "seed",
                    "tier",
                )
            },
            defense=defenses.make(row["defense"], row["defense_params"]),
            attack=attacks.make(row["attack"], row["attack_params"]),
            threat=ThreatModel(
                norm=row["norm"],
                epsilon=row["epsilon"],
                gradient=row["gradient"],
                noise=row.get("noise") or "fresh",
            ),
            attack_precision=row.get("attack_precision") or "float32",
            published=row["published_key"],
        )

    def __str__(self) -> str:
        threat = f"{self.threat.norm} {epsilon_text(self.threat.epsilon)} {self.threat.gradient}"
        threat += "" if self.threat.noise == "fresh" else f", {self.threat.noise} noise"
        shown = [str(getattr(self.defense, name)) for name in self.defense.always_shown]
        defense = f"{self.defense.name} ({', '.join(shown)})" if shown else self.defense.name
        low = "" if self.attack_precision == "float32" else f" in {self.attack_precision}"
        return f"{self.dataset} {self.classifier} {defense} {self.attack.name}{low} ({threat})"


def _check_part(field: str, part: Any, base: type) -> None:
    """Raise ValueError where a cell's defense or attack is none, is a class, or is not registered."""
    if isinstance(part, type):
        raise ValueError(f"Expected {field}={part.__name__}(), got the class. Write the brackets.")
    if not isinstance(part, base):
        raise ValueError(f"Expected {field} to be a {base.__name__}, got {part!r}. See docs/adding-a-grid.md.")
    if not isinstance(getattr(part, "name", None), str):
        raise ValueError(
            f"Expected a registered {field}, got {type(part).__name__}, which has no name. Write @register above the "
            "class."
        )
