"""Eleven honest defenses, which no gate may mark."""

from __future__ import annotations

from defenses.adversarial_training import AdversarialTraining
from defenses.base import Defense, Gradient
from defenses.bit_depth import BitDepth
from defenses.contrastive import Contrastive
from defenses.ddpm import DDPM
from defenses.diffpure_ode import DiffPureODE
from defenses.diffpure_sde import DiffPureSDE
from defenses.gaussian_noise import GaussianNoise
from defenses.gdmp import GDMP
from defenses.jpeg import JPEG
from defenses.likelihood_maximization import LikelihoodMaximization
from defenses.undefended import Undefended

HONEST: list[tuple[Defense, Gradient]] = [
    (Undefended(), "exact"),
    (AdversarialTraining(model="digits_cnn_at"), "exact"),
    (JPEG(), "straight_through"),
    (BitDepth(), "straight_through"),
    (GaussianNoise(), "exact"),
    (DiffPureSDE(t=0.1, steps=4), "exact"),
    (DiffPureODE(t=0.1, steps=4), "exact"),
    (DDPM(t=0.1, steps=4), "exact"),
    (GDMP(t=0.036, steps=3, rounds=1, runs=1, guidance_scale=1250.0), "exact"),
    (LikelihoodMaximization(), "exact"),
    (Contrastive(t=0.1, steps=4, per_image=True, guidance_scale=500 / 64, guide_from=None), "exact"),
]
