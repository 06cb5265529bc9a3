"""Heterogeneous noise: strong noise where the classifier looks, weak noise elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from defenses.base import Combine, Gradient, Purify, register
from defenses.diffusion import clip, scan, to_image_space, to_model_space
from defenses.diffusion.purifier import LITERATURE, DiffusionPurifier
from defenses.diffusion.scan import State
from defenses.diffusion.solvers import predict_x0, reverse_ddim
from defenses.models.features import features
from defenses.models.networks.normalized import IMAGENET_MEAN, IMAGENET_STD
from defenses.models.score_models import ScoreModel, indices
from defenses.noise import NoiseSource


@register
@dataclass(frozen=True, kw_only=True)
class HeterogeneousNoise(DiffusionPurifier):
    """Heterogeneous noise (Pei et al., "Divide and Conquer: Heterogeneous Noise Integration ...", CVPR 2025).

    Noise to the level of t, then deterministic DDIM steps. Down to the level of t_weak, the pixels outside the mask of
    the classifier's attention are noised again from the input before every step, and the whole state takes `harmonize`
    forward steps that the next step walks back with the rest: pixels outside the mask end up with noise of t_weak only.

    The attention is the largest, over the classifier's feature layers (`features`), of its activations' energy scaled
    to [0, 1]; the mask is a threshold and passes no gradient, so "exact" holds it constant. The surrogate is the
    authors' attack's: a fiftieth of the steps. Their hooks stay on the classifier and multiply with every call.

    Attributes:
        t: diffusion time of the noise inside the mask, in (0, 1); the levels in use start at index 1000 t itself.
        steps: reverse steps; the source's 500 sampling steps over [0, 1] are 100 of them for t = 0.2.
        runs: purifications behind one answer, >= 1; the authors vote over 20.
        combine: how the runs' answers are joined; a "vote" in the source.
        t_weak: diffusion time of the noise outside the mask, in [0, t].
        harmonize: forward steps a reverse step, >= 0; the source's U.
        threshold: the mask is where the attention is at least this, in [0, 1].
        share: where given, the mask is this share of the pixels, those of largest attention, in (0, 1] (ImageNet: 0.15,
            with t = 0.4, t_weak = 0.2), and threshold is not used.
        imagenet_input: whether the attention is read, as released, at the [-1, 1] image normalised with ImageNet's mean
            and standard deviation, whatever the classifier expects; off, it is read at the image itself.
    """

    version: ClassVar[int] = 2  # 1 held pixels at 0 and 1 fast from torch 2.14 on
    title: ClassVar[str] = "heterogeneous noise"
    source: ClassVar[str] = "Pei et al., CVPR 2025, arXiv:2503.01407; released code"
    needs_classifier: ClassVar[bool] = True
    published_caveat: ClassVar[str] = (
        "The released attack differentiates 10 sampling steps in place of 500 (2 network calls; cosine 0.75 on a toy) "
        "and never tries to move the mask."
    )

    t: float = 0.2
    steps: int | None = 100
    runs: int = 20
    combine: Combine = "vote"
    t_weak: float = 0.1
    harmonize: int = 3
    threshold: float = 0.9
    share: float | None = None
    imagenet_input: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.t_weak <= self.t and self.harmonize >= 0 and 0 <= self.threshold <= 1):
            raise ValueError(
                "Expected t_weak in [0, t], harmonize >= 0 and threshold in [0, 1], got "
                f"{self.t_weak}, {self.harmonize} and {self.threshold}."
            )
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"Expected share in (0, 1] or None, got {self.share}.")
        if self.levels + self.harmonize >= LITERATURE.levels or self.reverse_steps > self.levels:
            raise ValueError(
                f"Expected 1000 t + harmonize < 1000 and at most {self.levels} steps, got t = {self.t}, "
                f"harmonize = {self.harmonize} and {self.reverse_steps} steps."
            )

    def surrogate(self) -> Self:
        """The process that the authors' attack differentiates; a single run."""
        return replace(self, steps=max(1, self.reverse_steps // 50), runs=1)

    def build(self, *, classifier: nn.Module | None = None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images clipped to [0, 1]; images (batch, channels, height, width).

        Noise streams: 0 the first noising, 1 that outside the mask, 2 and on the forward steps.
        """
        if classifier is None:
            raise ValueError("HeterogeneousNoise needs a classifier, got none. It reads the mask from its layers.")
        network, schedule = classifier, score.schedule
        stops = [k * self.levels // self.reverse_steps for k in range(self.reverse_steps, -1, -1)]

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            given = clip(to_model_space(images), -1, 1)
            mask = self.mask(network, given)

            def step(state: State, k: int) -> State:
                x, given = state
                index, following = stops[k], stops[k + 1]
                if following >= LITERATURE.levels * self.t_weak:
                    weak = schedule.diffuse_at(given, index, noise.normal(x, step=k + 1, stream=1))
                    x = torch.where(mask, x, weak)
                    for i in range(self.harmonize):
                        index += 1
                        beta, z = schedule.beta_at(index), noise.normal(x, step=k + 1, stream=2 + i)
                        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * z
                eps = score.epsilon_at(x, indices(x, index))
                x0 = predict_x0(x, eps, schedule.alpha_bar_at(index))
                return reverse_ddim(x0, eps, eps, schedule=schedule, index=index, next_index=following, eta=0.0), given

            x = schedule.diffuse_at(given, stops[0], noise.normal(images, step=0))
            x, _ = scan(step, (x, given), self.reverse_steps, checkpoint_every=self.checkpoint_every)
            return to_image_space(x).clamp(0, 1)

        return purify

    def mask(self, classifier: nn.Module, x: Tensor) -> Tensor:
        """(batch, 1, height, width) bool: where noise is strong, for x in [-1, 1] space."""
        looked = attention(classifier, _imagenet_normalized(x) if self.imagenet_input else to_image_space(x))
        if self.share is None:
            return looked >= self.threshold
        flat = looked.flatten(1)
        largest = flat.topk(max(1, int(self.share * flat.shape[1])), dim=1).indices
        return torch.zeros_like(flat, dtype=torch.bool).scatter(1, largest, True).view_as(looked)


@torch.no_grad()
def attention(classifier: nn.Module, images: Tensor) -> Tensor:
    """(batch, 1, height, width) in [0, 1]: the largest over the feature layers of sum over channels of activation^2,
    enlarged to the images' size and scaled to [0, 1] for each image."""
    maps = []
    for activation in features(classifier, images):
        energy = activation.square().sum(1, keepdim=True)
        energy = nn.functional.interpolate(energy, images.shape[-2:], mode="bilinear", align_corners=False)
        low, high = energy.amin((1, 2, 3), keepdim=True), energy.amax((1, 2, 3), keepdim=True)
        maps.append((energy - low) / (high - low).clamp_min(torch.finfo(energy.dtype).tiny))
    return torch.stack(maps).amax(0)


def _imagenet_normalized(x: Tensor) -> Tensor:
    mean, std = (x.new_tensor(values).view(-1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (x - mean) / std
