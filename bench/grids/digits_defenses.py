"""Every registered defense on digits, under every gradient that an attacker has of it.

Quick tier: `strong` with lengths of 20 to 80 steps on the whole test set, 500 images; on 256 or 128 for expensive
defenses. The settings are those of the sources, shortened to ten or so network evaluations where they take hundreds,
and scaled to 8x8 pixels where they count pixels; the code says which. docs/defenses.md reads the table.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.attacks.strong import Strong
from bench.cell import Cell
from bench.grids.grid import Grid
from bench.threat import ThreatModel
from defenses import Defense, Gradient, defenses

EPSILON = 3 / 16
ATTACK = Strong(first=20, longest=80, check_draws=10)
IMAGES = 500
FEWER_IMAGES: dict[str, int] = {
    **dict.fromkeys(("denoised_smoothing", "diffap", "diffpure_ldsde", "diffpure_ode", "diffpure_sde"), 256),
    **dict.fromkeys(("edm_multi_step", "flowpure", "gdmp", "gradual_noise", "likelihood_maximization"), 256),
    **dict.fromkeys(("randomized_smoothing", "scoreopt_n", "scoreopt_o", "sde_gdmp", "total_variation"), 256),
    **dict.fromkeys(("contrastive", "diffusion_classifier", "freqpure", "heterogeneous_noise"), 128),
    **dict.fromkeys(("langevin", "mimic", "ssni"), 128),
}
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
KINDS: tuple[Gradient, ...] = ("transfer", "straight_through", "surrogate", "guidance_detached", "adjoint", "exact")
ONE_GRADIENT = ("undefended", "adversarial_training")  # nothing stands before the classifier: all kinds are one


def cell(defense: Defense, gradient: Gradient) -> Cell:
    """A digits cell, in one batch unless the answers of the defense depend on it."""
    images = FEWER_IMAGES.get(defense.name, IMAGES)
    return Cell(
        dataset="digits",
        classifier="digits_cnn",
        score=SCORES.get(defense.name, "digits_score") if defense.needs_score else None,
        defense=defense,
        attack=ATTACK,
        threat=ThreatModel(norm="Linf", epsilon=EPSILON, gradient=gradient),
        num_images=images,
        batch_size=64 if defense.batch_coupled else images,
        draws=10,
    )


def kinds(defense: Defense) -> list[Gradient]:
    """The kinds of gradient that an attacker has of a defense, weakest first."""
    if defense.name in ONE_GRADIENT:
        return ["exact"]
    return [kind for kind in KINDS if kind in (*defense.gradients, "transfer", "straight_through")]


def cells() -> Iterator[Cell]:
    """Defense by defense, in the order of their names."""
    for name in defenses:
        defense = defenses.make(name, SETTINGS.get(name))
        yield from (cell(defense, kind) for kind in kinds(defense))


CAPTION = "Strong with lengths of 20 to 80 steps. A longer attack may leave less."
GRID = Grid(title="Defenses on digits, Linf 3/16", cells=cells, caption=CAPTION)
