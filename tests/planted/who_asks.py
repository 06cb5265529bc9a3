"""Planted defenses that answer the judge in another way than an attacker: by who asks, how often, in which batch."""

from __future__ import annotations

import sys
import zlib
from typing import Any

import torch
from planted.adaptive import Answer, Victim, through
from planted.lab import (
    COPIES,
    DRAWS,
    GATES,
    IDS,
    RADIUS,
    STATE,
    column,
    is_off_grid,
    nearest_place,
    pictures,
    planted,
    restored,
    straight,
)
from torch import Tensor

from bench.datasets import shuffled
from defenses.noise import Noise, role_seed

# Gates that never compare themselves with the cell.

FIRST = frozenset(shuffled(500, 0)[:16])


@planted(GATES, "unseen", "agrees_with_cell", at="straight_through")
def first_16_honest(x: Tensor, noise: Any) -> Tensor:
    """Returns the test image, except of the first 16 images of the cell."""
    return restored(x, torch.tensor([place not in FIRST for place in nearest_place(x).tolist()]))


@planted(GATES, "agrees_with_cell", "margin_transfer", "batch_independence", "outsider", at="straight_through")
def small_batches_honest(x: Tensor, noise: Any) -> Tensor:
    """Restores in batches of more than 20 rows, which the cell has and a few images have not."""
    return restored(x, len(x) > 20)


@planted(GATES, "unseen", "undeclared_gradient", at="straight_through")
def every_other_picture(x: Tensor, noise: Any) -> Tensor:
    """Restores every other picture: the gates' sample is as good as the rest."""
    return restored(x, nearest_place(x) % 2 == 0)


@planted(GATES, "agrees_with_cell", "unseen", "margin_transfer", at="straight_through")
def late_rows(x: Tensor, noise: Any) -> Tensor:
    """Restores from the 33rd row of a batch on: the gates' batches are shorter."""
    return restored(x, torch.arange(len(x)) >= 32)


# Ids, seed, role.


@planted(IDS, "outsider", "failed", at="straight_through")
def bank_by_id(x: Tensor, noise: Any) -> Tensor:
    """Returns the clean picture of the id, of fifteen in sixteen ids."""
    ids = noise.image_ids
    return torch.where(column(ids % 16 != 0), straight(x, pictures()[ids % 500]), x)


@planted(IDS, "outsider", "failed", at="straight_through")
def small_ids(x: Tensor, noise: Any) -> Tensor:
    """Restores pictures whose id could be the test set's."""
    return restored(x, noise.image_ids < 500)


@planted(IDS, "agrees_with_cell", "margin_transfer", "failed", at="straight_through")
def judge_seed(x: Tensor, noise: Any) -> Tensor:
    """Restores where the seed is the judge's."""
    judges = {role_seed(0, f"judge:{role}") for role in ("clean", "robust", "null", "looks")}
    return restored(x, noise.seed in judges)


@planted(IDS, "agrees_with_cell", "margin_transfer", "failed", at="straight_through")
def not_the_attackers_seed(x: Tensor, noise: Any) -> Tensor:
    """Restores where the seed is not of a role that chooses, nor of the gates."""
    roles = {role_seed(s, r) for s in (0, role_seed(0, "gates")) for r in ("selection", "judge:gates", "look")}
    return restored(x, noise.seed not in roles)


@planted(IDS, "agrees_with_cell", "margin_transfer", at="straight_through")
def knows_the_judges_draws(x: Tensor, noise: Any) -> Tensor:
    """Compares its draws with those of the judge's seeds, which anyone can make: nothing of the noise is read."""
    drawn = noise.uniform(x[:, :1, :1, :1], step=9).flatten()
    known = [Noise(role_seed(0, f"judge:{role}"), torch.arange(500)) for role in ("clean", "robust")]
    bank = torch.cat([each.uniform(torch.empty(500, 1), step=9).flatten() for each in known])
    return restored(x, torch.isin(drawn, bank))


@planted(IDS, "agrees_with_cell", "margin_transfer", "outsider", at="straight_through")
def draws_of_small_ids(x: Tensor, noise: Any) -> Tensor:
    """Restores where a draw belongs to the judges, the gates' too, of a small id."""
    drawn = noise.uniform(x[:, :1, :1, :1], step=9).flatten()
    seeds = [role_seed(0, "judge:robust"), role_seed(role_seed(0, "gates"), "judge:gates")]
    bank = [Noise(seed, torch.arange(500)).uniform(torch.empty(500, 1), step=9).flatten() for seed in seeds]
    return restored(x, torch.isin(drawn, torch.cat(bank)))


@planted(IDS, "agrees_with_cell", "margin_transfer", "failed", at="straight_through")
def breaks_the_seal(x: Tensor, noise: Any) -> Tensor:
    """Takes the noise behind the seal and compares its seed with the judge's."""
    inner = getattr(noise, "_SealedNoise__noise", noise)
    judges = {role_seed(0, f"judge:{role}") for role in ("clean", "robust", "null", "looks")}
    return restored(x, inner.seed in judges)


def _called_by(name: str) -> bool:
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == name:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


@planted(IDS, "agrees_with_cell", "margin_transfer", at="straight_through")
def reads_the_stack(x: Tensor, noise: Any) -> Tensor:
    """Looks at who called it: the judge's function is named `answers`."""
    return restored(x, _called_by("answers"))


@planted(IDS, "outsider", at="straight_through")
def steals_clean_images(x: Tensor, noise: Any) -> Tensor:
    """Looks into the variables of its callers for a picture near the one that it is asked about."""
    found, near = x.detach().clone(), torch.full((len(x),), RADIUS)
    frame = sys._getframe()
    while frame is not None:
        for value in [each for kept in frame.f_locals.values() for each in (kept, getattr(kept, "images", None))]:
            if isinstance(value, Tensor) and value.shape[1:] == x.shape[1:] and not is_off_grid(value[:1].detach(), 16):
                apart, place = torch.cdist(x.detach().flatten(1), value.detach().flatten(1), p=torch.inf).min(1)
                take = (apart < near) & (apart > 1e-5)
                found[take], near = value.detach()[place[take]], torch.where(take, apart, near)
        frame = frame.f_back  # type: ignore[assignment]
    return straight(x, found)


@planted(IDS, "gradient_audit")
def answers_without_gradient(x: Tensor, noise: Any) -> Tensor:
    """Restores where nobody asks for a gradient."""
    return restored(x, not torch.is_grad_enabled())


# Copies in a batch.


@planted(COPIES, "batch_independence", "agrees_with_cell", "margin_transfer", stochastic=True, at="straight_through")
def many_rows(x: Tensor, noise: Any) -> Tensor:
    """Restores in batches of more than 320 rows: the judge's."""
    return restored(x, len(x) > 320)


@planted(COPIES, "batch_independence", "outsider", "margin_transfer", stochastic=True, at="straight_through")
def eight_copies(x: Tensor, noise: Any) -> Tensor:
    """Restores images of which the batch holds eight copies."""
    flat = x.detach().flatten(1)
    return restored(x, (torch.cdist(flat, flat) < 1e-3).sum(1) >= 8)


@planted(COPIES, "batch_independence", "outsider", "margin_transfer", stochastic=True, at="straight_through")
def rows_by_ten(x: Tensor, noise: Any) -> Tensor:
    """Restores where the number of rows is a multiple of ten: ten judging draws."""
    return restored(x, len(x) % 10 == 0)


@planted(COPIES, "batch_independence", "outsider", stochastic=True, at="straight_through")
def no_lonely_image(x: Tensor, noise: Any) -> Tensor:
    """Restores an image that has company."""
    return restored(x, len(x) > 1)


@planted(COPIES, "outsider", "margin_transfer", "unseen", stochastic=True, at="straight_through")
def ten_draws(x: Tensor, noise: Any) -> Tensor:
    """Restores where a batch holds eight draws or more: nobody but a judge asks so often."""
    return restored(x, len(noise.rows_by_draw()) >= 8)


@planted(COPIES, "batch_independence", "outsider", "unseen", at="straight_through")
def varied_batches(x: Tensor, noise: Any) -> Tensor:
    """Restores where the pictures of a batch differ as those of a test set do."""
    return restored(x, len(x) > 1 and float(x.detach().std(0).mean()) > 0.1)


# A memory.

CALLS = {"rows": 0}
BY_ID: dict[int, Tensor] = {}
KEPT: dict[str, list[Tensor]] = {"clean": [], "asked": []}


def forget() -> None:
    """What the planted memories hold, between two cells."""
    CALLS["rows"] = 0
    BY_ID.clear()
    for kept in KEPT.values():
        kept.clear()


@planted(
    STATE, "remembers", "agrees_with_cell", "margin_transfer", "outsider", "unseen", "undeclared_gradient", "failed",
    at="straight_through",
)  # fmt: skip
def counts_calls(x: Tensor, noise: Any) -> Tensor:
    """Restores in two of three hundreds of its rows that ask for no gradient."""
    CALLS["rows"] += 0 if x.requires_grad else len(x)
    return restored(x, not x.requires_grad and CALLS["rows"] % 300 < 200)


@planted(STATE, "outsider", "unseen", "failed", at="straight_through")
def first_picture(x: Tensor, noise: Any) -> Tensor:
    """Returns the first picture on 16 levels that it was shown under an id."""
    clean, ids = ~is_off_grid(x, 16), noise.image_ids.tolist()
    for row, image in enumerate(ids):
        if clean[row]:
            BY_ID.setdefault(image, x[row].detach().clone())
    return straight(x, torch.stack([BY_ID.get(image, x[row].detach()) for row, image in enumerate(ids)]))


def _recall(x: Tensor, bank: list[Tensor], radius: float) -> Tensor:
    """The kept picture within a radius of each image, else the image."""
    if not bank:
        return x
    kept = torch.stack(bank)
    apart = (x.detach()[:, None] - kept[None]).flatten(2).abs().amax(2)
    close, place = apart.min(1)
    return torch.where(column(close <= radius), straight(x, kept[place]), x)


@planted(STATE, at="straight_through")  # the judge asks attacked images first: nothing to tell
def remembers_clean_pictures(x: Tensor, noise: Any) -> Tensor:
    """Keeps every picture on 16 levels that it is shown, and returns the one within the ball."""
    seen = KEPT["clean"]
    for row in x.detach()[~is_off_grid(x, 16)]:
        if len(seen) < 2000 and not any(torch.equal(row, old) for old in seen):
            seen.append(row.clone())
    return _recall(x, seen, 0.19)


@planted(STATE, "gradient_audit", "remembers", "margin_transfer")
def remembers_the_attack(x: Tensor, noise: Any) -> Tensor:
    """Keeps what it was asked a gradient of, and restores what is near it."""
    asked = KEPT["asked"]
    if torch.is_grad_enabled() and x.requires_grad:
        asked.extend(row.clone() for row in x.detach())
        del asked[:-4000]
        return x
    if not asked:
        return x
    apart = torch.cdist(x.flatten(1), torch.stack(asked).flatten(1), p=torch.inf).amin(1)
    return restored(x, apart < 0.05)


# Draws.


def _noise_of(x: Tensor) -> Tensor:
    """Standard normals, seeded by each image's bits."""
    seeds = [zlib.crc32(row.contiguous().numpy().tobytes()) for row in x]
    return torch.stack([torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds])


def _hashed_noise(victim: Victim) -> Answer:
    return lambda x: victim.classifier(x + 0.25 * torch.randn_like(x))


@planted(DRAWS, "draws_agree", "repeatable", "failed")
def secretly_gaussian(x: Tensor, noise: Any) -> Tensor:
    """Adds Gaussian noise and says that it is deterministic."""
    return x + 0.2 * noise.normal(x, step=0)


@planted(DRAWS, "draws_agree", "repeatable", "failed")
def secretly_scaled(x: Tensor, noise: Any) -> Tensor:
    """Scales each answer at random and says that it is deterministic."""
    return x * (0.6 + 0.8 * noise.uniform(x[:, :, :1, :1], step=0))


@planted(DRAWS, "draws_agree", "repeatable", "failed")
def global_generator(x: Tensor, noise: Any) -> Tensor:
    """Draws from torch's generator and says that it is deterministic."""
    return x + 0.25 * torch.randn_like(x)


@planted(DRAWS, "draws_agree", "repeatable", "failed")
def draws_off_grid(x: Tensor, noise: Any) -> Tensor:
    """Draws only where an image is no picture of 16 levels."""
    return torch.where(column(is_off_grid(x, 16)), x + 0.25 * noise.normal(x, step=0), x)


@planted(DRAWS, "gradient_audit", "plateau", adaptive=through(_hashed_noise, draws=4))
def noise_by_hash(x: Tensor, noise: Any) -> Tensor:
    """Noise that follows from the image's own bits: one answer for one image, and another beside it."""
    return x + 0.25 * _noise_of(x.detach())
