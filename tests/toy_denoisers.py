"""The toy networks of the denoising fixtures, as score models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.diffusion.schedule import VPSchedule
from defenses.models.score_models import NetworkScore


def column(t: Tensor) -> Tensor:
    return t.view(-1, 1, 1, 1)


def edm_toy(g: dict[str, Tensor]) -> NetworkScore:
    """D(x, s) = 0.25 / q x + 0.5 s / sqrt(q) (c0 + c1 ln(s) / 4) tanh(conv(x / sqrt(q))), q = s^2 + 0.25, through the
    inverse of `denoise`: eps = (y - D(y, s)) / s at y = x_t / sqrt(alpha_bar)."""

    def network(x_t: Tensor, label: Tensor) -> Tensor:
        signal = column(VPSchedule().alpha_bar(label / 999)).sqrt()
        s = column(VPSchedule().sigma(label / 999)) / signal
        y, q = x_t / signal, s**2 + 0.25
        bent = torch.tanh(F.conv2d(y / q.sqrt(), g["net_W"], g["net_b"], padding=1))
        denoised = 0.25 / q * y + 0.5 * s / q.sqrt() * (g["net_c"][0] + g["net_c"][1] * s.log() / 4) * bent
        return (y - denoised) / s

    return NetworkScore(network, (3, 8, 8))


def vp_toy(g: dict[str, Tensor]) -> NetworkScore:
    """eps(x, t) = sqrt(1 - a) / (0.25 a + 1 - a) x + 0.1 (c0 + c1 t) tanh(conv(x)), a = alpha_bar(t)."""

    def network(x_t: Tensor, label: Tensor) -> Tensor:
        t = column(label / 999)
        a = VPSchedule().alpha_bar(t)
        bent = torch.tanh(F.conv2d(x_t, g["net_W"], g["net_b"], padding=1))
        return (1 - a).sqrt() / (0.25 * a + 1 - a) * x_t + 0.1 * (g["net_c"][0] + g["net_c"][1] * t) * bent

    return NetworkScore(network, (3, 8, 8))


def gaussian_score(mean: float, std: float) -> NetworkScore:
    """The exact noise prediction for pixels N(mean, std^2) in the [-1, 1] space."""

    def network(x_t: Tensor, label: Tensor) -> Tensor:
        a = column(VPSchedule().alpha_bar(label / 999))
        s = column(VPSchedule().sigma(label / 999))
        return s * (x_t - a.sqrt() * mean) / (a * std**2 + s**2)

    return NetworkScore(network, (1, 1, 1))


def prior_toy(g: dict[str, Tensor]) -> NetworkScore:
    """eps(x, i) = sqrt(1 - A_i) / (0.25 A_i + 1 - A_i) x + 0.1 (c0 + c1 i / 1000) tanh(conv(x)) at level index i."""
    table = torch.tensor([VPSchedule().alpha_bar_at(i) for i in range(1000)], dtype=torch.float64)

    def network(x_t: Tensor, label: Tensor) -> Tensor:
        a = column(table[label.long()])
        bent = torch.tanh(F.conv2d(x_t, g["net_W"], g["net_b"], padding=1))
        scale = g["net_c"][0] + g["net_c"][1] * column(label) / 1000
        return (1 - a).sqrt() / (0.25 * a + 1 - a) * x_t + 0.1 * scale * bent

    return NetworkScore(network, (3, 8, 8))
