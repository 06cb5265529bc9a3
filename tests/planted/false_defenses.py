"""Planted false defenses: each does nothing against an attacker who knows it, and prints a robust number by a trick.

None is registered. Each names the trick's kind, the gates that must tell it, and an honest twin: the same computation
without the trick, which an adaptive attacker (who removes the trick) is left with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.datasets import load_dataset
from defenses.base import Defended, Defense, Gradient, Purifier, Purify
from defenses.diffpure_ode import DiffPureODE
from defenses.diffpure_sde import DiffPureSDE
from defenses.noise import role_seed
from defenses.undefended import Undefended


@cache
def pictures() -> Tensor:
    """The test images, in the order of their ids."""
    data = load_dataset("digits")
    return data.images(range(len(data)))


def nearest(x: Tensor) -> Tensor:
    """The test image next to each image."""
    return pictures()[torch.cdist(x.detach().flatten(1), pictures().flatten(1)).argmin(1)]


def straight(x: Tensor, value: Tensor) -> Tensor:
    """`value` with the gradient of the identity."""
    return x + (value - x).detach()


def restored(x: Tensor, rows: Tensor) -> Tensor:
    """The nearest test image in some rows, with an honest-looking gradient."""
    return torch.where(rows.view(-1, 1, 1, 1), straight(x, nearest(x)), x)


def is_off_grid(x: Tensor, levels: int, slack: float = 1e-4) -> Tensor:
    """(batch,) whether some pixel is no multiple of 1 / levels."""
    return ((x * levels - (x * levels).round()).abs() > slack * levels).flatten(1).any(1)


@dataclass(frozen=True, kw_only=True)
class Planted(Purifier):
    """A trick: `trick(images, noise, classifier)`.

    Class attributes:
        kind: which belief of the harness it uses.
        told_by: gates of which one at least must fail.
        twin: the honest twin.
        at: kind of gradient of the cell.
        cheap: whether the gates of every cell tell it, the quick tier's too.
    """

    source: ClassVar[str] = "A planted false defense."
    stochastic: ClassVar[bool] = False
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact",)
    kind: ClassVar[str]
    told_by: ClassVar[set[str]]
    twin: ClassVar[Callable[[], Defense]] = Undefended
    at: ClassVar[Gradient] = "exact"
    cheap: ClassVar[bool] = True

    def build(self, *, classifier: Any = None, score: Any = None, gradient: Gradient = "exact") -> Purify:
        return lambda images, noise: self.trick(images, noise)

    def trick(self, x: Tensor, noise: Any) -> Tensor:
        return x


def planted(
    kind: str, *told_by: str, stochastic: bool = False, at: Gradient = "exact", cheap: bool = True
) -> Callable[[Callable[[Tensor, Any], Tensor]], type[Planted]]:
    """A class of `Planted` from a function (images, noise) -> images."""

    def make(function: Callable[[Tensor, Any], Tensor]) -> type[Planted]:
        body = {
            "name": f"planted_{function.__name__}",
            "title": function.__name__.replace("_", " "),
            "kind": kind,
            "told_by": set(told_by),
            "stochastic": stochastic,
            "at": at,
            "cheap": cheap,
            "trick": lambda self, x, noise: function(x, noise),
            "__doc__": function.__doc__,
            "__module__": __name__,
        }
        cls = dataclass(frozen=True, kw_only=True)(type(function.__name__, (Planted,), body))
        PLANTED.append(cls)
        return cls

    return make


PLANTED: list[type[Planted]] = []

IDS = "reads ids, seed or role"
COPIES = "recognises copies and batches"
FLIPPED = "its gradient is honest beside clean images only"
SET = "knows the test set"
ROUNDING = "works off a grid of levels"
PLATEAU = "is piecewise constant"
STATE = "has a memory"
DRAWS = "draws, and says that it does not"


@planted(IDS, "outsider")
def bank_by_id(x: Tensor, noise: Any) -> Tensor:
    """Returns the clean picture of the id, except of the first 32 places of the cell."""
    ids = noise.image_ids
    return torch.where((ids % 16 != 0).view(-1, 1, 1, 1), straight(x, pictures()[ids % 500]), x)


@planted(IDS, "outsider")
def small_ids(x: Tensor, noise: Any) -> Tensor:
    """Restores pictures whose id could be the test set's."""
    return restored(x, noise.image_ids < 500)


@planted(IDS, "agrees_with_cell", "margin_transfer")
def judge_seed(x: Tensor, noise: Any) -> Tensor:
    """Restores where the seed is the judge's."""
    judges = {role_seed(0, f"judge:{role}") for role in ("clean", "robust", "null", "looks")}
    return restored(x, torch.full((len(x),), noise.seed in judges))


@planted(IDS, "agrees_with_cell", "margin_transfer")
def not_the_attackers_seed(x: Tensor, noise: Any) -> Tensor:
    """Restores where the seed is not of a role that chooses, nor of the gates."""
    roles = {role_seed(s, r) for s in (0, role_seed(0, "gates")) for r in ("selection", "judge:gates", "look")}
    return restored(x, torch.full((len(x),), noise.seed not in roles))


@planted(COPIES, "batch_independence", "agrees_with_cell", stochastic=True, cheap=False)
def many_rows(x: Tensor, noise: Any) -> Tensor:
    """Restores in batches of more than 320 rows: the judge's."""
    return restored(x, torch.full((len(x),), len(x) > 320))


@planted(COPIES, "batch_independence", stochastic=True, cheap=False)
def eight_copies(x: Tensor, noise: Any) -> Tensor:
    """Restores images of which the batch holds eight copies."""
    same = torch.cdist(x.detach().flatten(1), x.detach().flatten(1)) < 1e-3
    return restored(x, same.sum(1) >= 8)


@planted(FLIPPED, "gradient_audit")
def flipped_off_grid(x: Tensor, noise: Any) -> Tensor:
    """Its gradient has the wrong sign at images that are not a picture of 16 levels."""
    off = is_off_grid(x, 16).view(-1, 1, 1, 1)
    return torch.where(off, 2 * x.detach() - x, x)


@planted(FLIPPED, "gradient_audit")
def flipped_everywhere(x: Tensor, noise: Any) -> Tensor:
    """Its gradient has the wrong sign."""
    return 2 * x.detach() - x


@planted(FLIPPED, "gradient_nonzero", "gradient_audit")
def none_off_grid(x: Tensor, noise: Any) -> Tensor:
    """It has no gradient at images that are not a picture of 16 levels."""
    return torch.where(is_off_grid(x, 16).view(-1, 1, 1, 1), x.detach() + 0 * x, x)


@planted(SET, "unseen", cheap=False)
def contraction(x: Tensor, noise: Any) -> Tensor:
    """Moves to the test image that lies within the ball, with a true gradient."""
    target = nearest(x)
    near = (x.detach() - target).flatten(1).abs().amax(1) < 0.2
    return torch.where(near.view(-1, 1, 1, 1), 0.1 * x + 0.9 * target, x)


@planted(SET, "unseen", cheap=False)
def test_set_posterior(x: Tensor, noise: Any) -> Tensor:
    """The posterior mean of a test image behind noise: a denoiser that learned the test set by heart."""
    distance = torch.cdist(x.flatten(1), pictures().flatten(1)) ** 2
    mean = (torch.softmax(-distance / (2 * 0.2**2), 1) @ pictures().flatten(1)).view_as(x)
    weight = torch.sigmoid((3.0 - distance.amin(1)) * 8).view(-1, 1, 1, 1)  # far from all it knows, it lets things be
    return weight * mean + (1 - weight) * x


@planted(ROUNDING, "inside_ball", "agrees_with_cell", cheap=False)
def off_eight_bits(x: Tensor, noise: Any) -> Tensor:
    """Restores images that are neither pictures of 16 levels nor of 256."""
    return restored(x, is_off_grid(x, 16) & is_off_grid(x, 255, 1e-6))


@planted(ROUNDING, "inside_ball", "agrees_with_cell", cheap=False)
def mostly_off_eight_bits(x: Tensor, noise: Any) -> Tensor:
    """Restores images whose pixels are far from 256 levels on the average, if they are off 16 levels."""
    away = (x * 255 - (x * 255).round()).abs().flatten(1).mean(1)
    return restored(x, is_off_grid(x, 16) & (away > 0.01))


@planted(PLATEAU, "gradient_nonzero", "gradient_audit", "margin_transfer")
def three_levels(x: Tensor, noise: Any) -> Tensor:
    """Rounds to three levels: no gradient anywhere."""
    return (x * 2).round() / 2 + 0 * x


@planted(PLATEAU, "margin_transfer", "plateau", "beats_square", "unseen", at="straight_through", cheap=False)
def two_levels_detour(x: Tensor, noise: Any) -> Tensor:
    """Two levels of the inverted picture, inverted back: straight-through steps are coarse."""
    return 1 - ((1 - x) > 0.5).float() + 0 * x


CALLS = {"rows": 0}
SEEN: dict[int, Tensor] = {}


@planted(STATE, "remembers", "agrees_with_cell", "margin_transfer", "outsider", cheap=False)
def counts_calls(x: Tensor, noise: Any) -> Tensor:
    """Restores in every other thousand of its rows that ask for no gradient."""
    CALLS["rows"] += 0 if x.requires_grad else len(x)
    return restored(x, torch.full((len(x),), not x.requires_grad and CALLS["rows"] % 300 < 200))


@planted(STATE, "outsider", "unseen")
def first_picture(x: Tensor, noise: Any) -> Tensor:
    """Returns the first picture on 16 levels that it was shown under an id."""
    clean = ~is_off_grid(x, 16)
    for row, image in enumerate(noise.image_ids.tolist()):
        if clean[row]:
            SEEN.setdefault(image, x[row].detach().clone())
    known = [SEEN.get(image, x[row].detach()) for row, image in enumerate(noise.image_ids.tolist())]
    return straight(x, torch.stack(known))


@planted(DRAWS, "draws_agree", "repeatable")
def secretly_gaussian(x: Tensor, noise: Any) -> Tensor:
    """Adds Gaussian noise and says that it is deterministic."""
    return x + 0.2 * noise.normal(x, step=0)


@planted(DRAWS, "draws_agree", "repeatable")
def secretly_scaled(x: Tensor, noise: Any) -> Tensor:
    """Scales each answer at random and says that it is deterministic."""
    return x * (0.6 + 0.8 * noise.uniform(x[:, :, :1, :1], step=0))


class Head(nn.Module):
    """A classifier whose logits are changed."""

    def __init__(self, classifier: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.classifier, self.change = classifier, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.classifier(x))


@dataclass(frozen=True, kw_only=True)
class _Headed(Planted):
    kind: ClassVar[str] = "changes the logits"
    change: ClassVar[Callable[[Tensor], Tensor]]

    def defend(self, classifier: nn.Module, score: Any = None, *, gradient: Gradient = "exact") -> Defended:
        return super().defend(Head(classifier, type(self).change), score, gradient=gradient)


@dataclass(frozen=True, kw_only=True)
class Clamped(_Headed):
    """Logits held to +-2: the gradient vanishes wherever the classifier is sure."""

    name: ClassVar[str] = "planted_clamped"
    told_by: ClassVar[set[str]] = {"margin_transfer", "gradient_nonzero", "gradient_audit"}
    change = staticmethod(lambda logits: logits.clamp(-2, 2))


@dataclass(frozen=True, kw_only=True)
class Stepped(_Headed):
    """Logits in steps of 1/2."""

    name: ClassVar[str] = "planted_stepped"
    told_by: ClassVar[set[str]] = {"margin_transfer", "gradient_nonzero", "gradient_audit"}
    change = staticmethod(lambda logits: (2 * logits).round() / 2 + 0 * logits)


@dataclass(frozen=True, kw_only=True)
class Loud(_Headed):
    """Logits times 100: cross-entropy is flat."""

    name: ClassVar[str] = "planted_loud"
    kind: ClassVar[str] = "saturates the loss"
    told_by: ClassVar[set[str]] = {"saturated_loss"}
    change = staticmethod(lambda logits: 100 * logits)


@dataclass(frozen=True, kw_only=True)
class Louder(_Headed):
    """Logits times 1000."""

    name: ClassVar[str] = "planted_louder"
    kind: ClassVar[str] = "saturates the loss"
    told_by: ClassVar[set[str]] = {"saturated_loss"}
    change = staticmethod(lambda logits: 1000 * logits)


@dataclass(frozen=True, kw_only=True)
class SilentODE(DiffPureODE):
    """DiffPure that does not declare its gradient."""

    name: ClassVar[str] = "planted_silent_ode"
    gradients: ClassVar[tuple[Gradient, ...]] = ()
    kind: ClassVar[str] = "does not declare its gradient"
    told_by: ClassVar[set[str]] = {"undeclared_gradient"}
    twin: ClassVar[Callable[[], Defense]] = lambda: DiffPureODE(t=0.1, steps=4)
    at: ClassVar[Gradient] = "straight_through"
    cheap: ClassVar[bool] = False

    t: float = 0.1
    steps: int | None = 4


@dataclass(frozen=True, kw_only=True)
class SilentSDE(DiffPureSDE):
    """DiffPure that does not declare its gradient."""

    name: ClassVar[str] = "planted_silent_sde"
    gradients: ClassVar[tuple[Gradient, ...]] = ()
    kind: ClassVar[str] = "does not declare its gradient"
    told_by: ClassVar[set[str]] = {"undeclared_gradient"}
    twin: ClassVar[Callable[[], Defense]] = lambda: DiffPureSDE(t=0.1, steps=4)
    at: ClassVar[Gradient] = "straight_through"
    cheap: ClassVar[bool] = False

    t: float = 0.1
    steps: int | None = 4


PLANTED += [Clamped, Stepped, Loud, Louder]
SILENT: list[type[Defense]] = [SilentODE, SilentSDE]
