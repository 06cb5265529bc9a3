"""FreqPure: denoising whose low frequencies are those of the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from defenses.base import Combine, Gradient, Purify, register
from defenses.diffusion import clip, scan, to_image_space, to_model_space
from defenses.diffusion.purifier import DiffusionPurifier
from defenses.diffusion.scan import State
from defenses.diffusion.solvers import predict_x0, reverse_ddim
from defenses.diffusion.subsequence import sub_sequence
from defenses.models.score_models import ScoreModel, indices
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class FreqPure(DiffusionPurifier):
    """FreqPure (Pei et al., "Diffusion-based Adversarial Purification from the Perspective of the Frequency Domain").

    Noise to the level of t, then steps down to the clean image; in each, the low frequencies of the predicted clean
    image are replaced by those of the input, itself noised slightly and denoised in one call. There is one stage of
    noising and denoising, where the authors' ImageNet setting has eight (of 50 levels in 5 steps each). The surrogate
    is their attack's: one step from level 1000.

    Attributes:
        t: diffusion time of the forward noise, in (0, 1]; the authors' CIFAR-10 setting starts from 1.
        steps: reverse steps, in 1 .. levels of t; the authors' 100.
        runs: purifications behind one answer, >= 1; the authors vote over 10.
        combine: how the runs' answers are joined; a "vote" in the source.
        eta: noise of a step, in [0, 1]; 1 is DDPM, 0 is DDIM.
        radius: frequencies (u, v) with sqrt(u^2 + v^2) <= radius are low, in cycles an image, >= 0; 10 of 16 on 32x32
            (8 in the authors' BPDA script). 10 covers all of 8x8, where 2.5 is the same share.
        exchange_level: level index, in 0..999, to which the input is noised before its frequencies are taken.
        phase_band: how far the low frequencies' phase may stay from the input's, radians, >= 0; 0 takes the input's
            phase, as the released code does whatever its delta; the paper projects the phase into a band.
    """

    version: ClassVar[int] = 2  # 1 held pixels at 0 and 1 fast from torch 2.14 on
    title: ClassVar[str] = "FreqPure"
    source: ClassVar[str] = "Pei et al., ICML 2025, arXiv:2505.01267; released code"
    published_caveat: ClassVar[str] = (
        "The released attack differentiates one step from pure noise in place of 100 (cosine to the exact gradient of "
        "4 steps: 0.65 on a toy); the released scripts do not run as shipped."
    )

    t: float = 1.0
    steps: int | None = 100
    runs: int = 10
    combine: Combine = "vote"
    eta: float = 1.0
    radius: float = 10.0
    exchange_level: int = 50
    phase_band: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        sub_sequence(self.levels, self.reverse_steps)
        if not (0 <= self.eta <= 1 and self.radius >= 0 and self.phase_band >= 0 and 0 <= self.exchange_level < 1000):
            raise ValueError(
                "Expected eta in [0, 1], radius >= 0, phase_band >= 0 and exchange_level in 0..999, got "
                f"{self.eta}, {self.radius}, {self.phase_band} and {self.exchange_level}."
            )

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image: two a step."""
        return 2 * super().network_evaluations

    def surrogate(self) -> Self:
        """The process that the authors' attack differentiates; a single run."""
        return replace(self, t=1.0, steps=1, runs=1)

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images clipped to [0, 1]; images (batch, channels, height, width)."""
        schedule, walk = score.schedule, sub_sequence(self.levels, self.reverse_steps)

        def predict(x: Tensor, index: int) -> tuple[Tensor, Tensor]:
            eps = score.epsilon_at(x, indices(x, index))
            return eps, predict_x0(x, eps, schedule.alpha_bar_at(index))

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            def step(state: State, k: int) -> State:
                x, given = state
                index, following = walk[k]
                eps, x0 = predict(x, index)
                noised = schedule.diffuse_at(given, self.exchange_level, noise.normal(x, step=k + 1, stream=1))
                _, y0 = predict(noised, self.exchange_level)
                x0 = self.exchanged(x0, y0)
                z = noise.normal(x, step=k + 1)
                x = reverse_ddim(x0, eps, z, schedule=schedule, index=index, next_index=following, eta=self.eta)
                return x, given

            given = clip(to_model_space(images), -1, 1)
            x = schedule.diffuse_at(given, self.levels - 1, noise.normal(images, step=0))
            x, _ = scan(step, (x, given), len(walk), checkpoint_every=self.checkpoint_every)
            return to_image_space(x).clamp(0, 1)

        return purify

    def exchanged(self, x0: Tensor, y0: Tensor) -> Tensor:
        """x0 with the low frequencies of y0, both (batch, channels, height, width) in [-1, 1] space, clipped.

        The modulus of the inverse transform is taken, as in the source: pixels that come out negative are reflected.
        """
        high, low = (torch.fft.fft2(to_image_space(x).clamp(0, 1)) for x in (x0, y0))
        if self.phase_band:
            turn = (high * low.conj()).angle().clamp(-self.phase_band, self.phase_band)
            low = low * torch.polar(torch.ones_like(turn), turn)
        mixed = torch.where(low_frequencies(x0, self.radius), low, high)
        return to_model_space(torch.fft.ifft2(mixed).abs().clamp(0, 1))


def low_frequencies(images: Tensor, radius: float) -> Tensor:
    """(height, width) bool: which coefficients of `torch.fft.fft2` lie within `radius` cycles an image of the mean."""
    height, width = images.shape[-2:]
    u, v = (torch.fft.fftfreq(size, 1 / size, device=images.device).round() for size in (height, width))
    return u.unsqueeze(1) ** 2 + v**2 <= radius**2
