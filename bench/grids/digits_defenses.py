"""Every registered defense on digits, under the transfer, straight-through and exact gradient of one attack.

Quick tier: PGD-20 with EOT 4 on 256 images. The settings are those of the sources, shortened to ten or so
network evaluations where they take hundreds, and scaled to 8x8 pixels where they count pixels; the code says
which. docs/defenses.md reads the table.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.grids.grid import Grid
from bench.threat import ThreatModel
from defenses import Defense, Gradient, defenses

EPSILON = 3 / 16
ATTACK = PGDEOT(steps=20, step_size=EPSILON / 8, eot=4)
SHORT = {"t": 0.1, "steps": 10}
SETTINGS: dict[str, dict] = {
    "adp": {"runs": 1},
    "contrastive": SHORT,
    "ddim": SHORT,
    "ddpm": SHORT,
    "denoised_smoothing": {"runs": 10},
    "diffap": {"reference_batch_size": 32},  # at 16, the published setting, the purifier returns its input
    "diffpure_ldsde": {"steps": 10},
    "diffpure_ode": SHORT,
    "diffpure_sde": SHORT,
    "diffusion_classifier": {"levels": 10},
    "freqpure": {"radius": 2.5, "steps": 10, "runs": 1},  # a quarter of the radius on a quarter of the pixels a side
    "gdmp": {"t": 0.036, "steps": 6, "rounds": 2, "runs": 1, "guidance_scale": 1250.0},  # CIFAR's guidance a pixel
    "gradual_noise": {"levels": (50, 100), "steps": (5, 5), "runs": 1},
    "heterogeneous_noise": {"steps": 20, "runs": 1},
    "langevin": {"steps": 100, "noise_scale": 0.01, "temperature": 5e-6},  # a colder, shorter chain (docs/assets.md)
    "mimic": {"steps": 20},
    "randomized_smoothing": {"runs": 10},
    "scoreopt_n": {"steps": 5},
    "sde_gdmp": {**SHORT, "guidance_scale": 20.0},  # CIFAR's guidance a pixel
    "ssni": {"norm_low": 86.8, "norm_high": 315.5, "score_levels": 10},  # extremes over test images 200..499
}
SCORES = {"diffusion_classifier": "digits_conditional", "langevin": "digits_energy"}
KINDS: tuple[Gradient, ...] = ("transfer", "straight_through", "guidance_detached", "exact")


def cell(defense: Defense, gradient: Gradient) -> Cell:
    """A digits cell of 256 images."""
    return Cell(
        dataset="digits",
        classifier="digits_cnn",
        score=SCORES.get(defense.name, "digits_score") if defense.needs_score else None,
        defense=defense,
        attack=ATTACK,
        threat=ThreatModel(norm="Linf", epsilon=EPSILON, gradient=gradient),
        num_images=256,
        draws=10,
    )


def cells() -> Iterator[Cell]:
    """Defense by defense, in the order of their names; gradients that a defense lacks are left out."""
    for name in defenses:
        defense = defenses.make(name, SETTINGS.get(name))
        for gradient in KINDS:
            if gradient in (*defense.gradients, "transfer", "straight_through"):
                yield cell(defense, gradient)


GRID = Grid(title="Defenses on digits, Linf 3/16", cells=cells)
