"""What steers a purifier, each guidance a gradient that can itself be differentiated.

Contrastive losses, with the small network that the paper's authors train inside the purifier, and the pull towards
the input of reconstruction guidance (GDMP). Contrastive features come in groups, (groups, batch, features): one group
of the whole batch where images are contrasted with each other, or one group an image where each is purified on its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Reconstruction = Literal["mse", "ssim"]
ContrastiveLoss = Literal["released_hard", "released_soft", "infonce", "ntxent", "hard_negatives"]
NEEDS_NEGATIVES = ("infonce", "ntxent", "hard_negatives")  # constant for a group of one image
BLOCKS = 3
ADAM_FLOOR = 1e-8  # what Adam adds to the root of its second moment


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarities (groups, rows of a, rows of b), norms floored at 1e-8."""
    a, b = (v / v.norm(dim=-1, keepdim=True).clamp_min(1e-8) for v in (a, b))
    return a @ b.transpose(-1, -2)


def contrastive_loss(
    previous: Tensor,
    current: Tensor,
    *,
    kind: ContrastiveLoss,
    temperature: float = 1.0,
    tau_plus: float = 0.1,
    beta: float = 1.0,
) -> Tensor:
    """Loss (groups,) between two feature batches (groups, batch, features).

    "infonce": van den Oord et al. 2018 (arXiv:1807.03748, Eq. 4); "ntxent": Chen et al., SimCLR, ICML 2020, Eq. 1;
    "hard_negatives": Robinson et al., ICLR 2021, Eq. 4, one positive a row, with debiasing tau_plus in [0, 1) and
    concentration beta >= 0. "released_hard" and "released_soft" are what the code of Bai et al. (ICML 2024) computes:
    every pair of the batch counts as a positive, and off-diagonal pairs stay among the negatives (METHODS.md 4.2, 4.3;
    the soft one there fails for more than one image and is given its evident meaning).
    """
    if kind == "infonce":
        similar = cosine(previous, current) / temperature
        return -similar.log_softmax(-1).diagonal(dim1=-2, dim2=-1).mean(-1)
    both = torch.cat((previous, current), dim=-2)
    batch = previous.shape[-2]
    if kind == "ntxent":
        return _ntxent(both, batch, temperature)
    positive = (cosine(previous, current) / temperature).exp()
    if kind == "hard_negatives":
        positive = positive.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    positive = torch.cat((positive, positive), dim=-2)
    negatives = _negatives((cosine(both, both) / temperature).exp(), batch)
    if kind == "released_soft":
        negative = negatives.sum(-1, keepdim=True)
    elif kind in ("released_hard", "hard_negatives"):
        count = max(2 * batch - 2, 2)
        clamped = negatives.clamp_min(1e-6)
        weights = clamped**beta
        reweighted = (weights * clamped).sum(-1, keepdim=True) / weights.mean(-1, keepdim=True)
        negative = (reweighted - tau_plus * count * positive) / (1 - tau_plus)
        negative = negative.clamp_min(count * math.exp(-1 / temperature))
    else:
        raise ValueError(f"Expected a contrastive loss among {', '.join(get_args(ContrastiveLoss))}, got {kind!r}.")
    return -(positive / (positive + negative)).clamp_min(1e-6).log().mean((-2, -1))


def _negatives(similarity: Tensor, batch: int) -> Tensor:
    """(groups, 2 batch, 2 batch) -> (groups, 2 batch, kept): columns of other images; of one image, the second
    column."""
    if batch == 1:
        return similarity[..., 1:]
    image = torch.arange(2 * batch, device=similarity.device) % batch
    keep = image.unsqueeze(1) != image
    return similarity[:, keep].reshape(len(similarity), 2 * batch, 2 * batch - 2)


def _ntxent(both: Tensor, batch: int, temperature: float) -> Tensor:
    rows = torch.arange(2 * batch, device=both.device)
    similar = cosine(both, both) / temperature
    similar = similar.masked_fill(torch.eye(2 * batch, dtype=torch.bool, device=both.device), -torch.inf)
    partner = (rows + batch) % (2 * batch)
    return -similar.log_softmax(-1)[:, rows, partner].mean(-1)


def embedding_bounds(features: int) -> Tensor:
    """(18 features**2,) bound of the uniform initialisation of every weight: 1 / sqrt(fan in), in the order of
    `embed`."""
    width = 2 * features
    block = [features**-0.5] * (2 * width * features) + [width**-0.5] * (width * features)
    return torch.tensor(block * BLOCKS, dtype=torch.float64)


def embed(x: Tensor, weights: Tensor) -> Tensor:
    """The authors' embedding network: three residual blocks h + W3 (silu(W1 h) * W2 h), no biases, width n -> 2n -> n.

    x: (groups, batch, n). weights: (groups, 18 n**2), block by block W1 (2n, n), W2 (2n, n), W3 (n, 2n), each
    row-major.
    """
    groups, _, n = x.shape
    for block in weights.unflatten(-1, (BLOCKS, 3, 2 * n * n)).unbind(1):
        w1, w2 = (block[:, i].reshape(groups, 2 * n, n).transpose(1, 2) for i in (0, 1))
        w3 = block[:, 2].reshape(groups, n, 2 * n).transpose(1, 2)
        x = x + (torch.nn.functional.silu(x @ w1) * (x @ w2)) @ w3
    return x


def safe_sqrt(v: Tensor) -> Tensor:
    """Square root whose derivative is 0 at 0, where the true one is infinite (a weight that never had a gradient)."""
    positive = v > 0
    return torch.where(positive, v, 1.0).sqrt() * positive


def adam(
    w: Tensor,
    m: Tensor,
    v: Tensor,
    gradient: Tensor,
    n: int,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    floor: float = ADAM_FLOOR,
) -> tuple[Tensor, Tensor, Tensor]:
    """The n-th (from 1) Adam step (Kingma & Ba, ICLR 2015, Algorithm 1), pure and twice differentiable."""
    m = betas[0] * m + (1 - betas[0]) * gradient
    v = betas[1] * v + (1 - betas[1]) * gradient**2
    mean, root = m / (1 - betas[0] ** n), safe_sqrt(v / (1 - betas[1] ** n))
    return w - lr * mean / (root + floor), m, v


def input_gradient(value: Callable[[Tensor], Tensor], x: Tensor, *, differentiated: bool) -> Tensor:
    """Gradient of the sum of value(x) with respect to x, inside `no_grad` too.

    differentiated: the result depends on x in the caller's graph (second order); else it is a constant there. x is
    made a node of its own, so that what value captured of x does not count.
    """
    exact = differentiated and torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        x = x.view_as(x) if exact else x.detach().requires_grad_()
        return torch.autograd.grad(value(x).sum(), x, create_graph=exact)[0]


def reconstruction_guide(
    x: Tensor, reference: Tensor, *, kind: Reconstruction = "mse", differentiated: bool = True
) -> Tensor:
    """Direction in which x comes to resemble the reference: gradient of minus the mean squared error, or of SSIM.

    x, reference: (batch, channels, height, width). The mean is over each image's own elements. Wang et al., "Guided
    diffusion model for adversarial purification", 2022 (arXiv:2205.14969).
    """
    if kind == "ssim":
        return input_gradient(lambda state: ssim(state, reference), x, differentiated=differentiated)
    pull = 2 * (reference - x) / x[0].numel()
    return pull if differentiated else pull.detach()


def reconstruction_scale(alpha_bar: float, *, guidance_scale: float, epsilon: float) -> float:
    """GDMP's weight of the guidance: large where the noise drowns a perturbation of size epsilon (image units)."""
    return math.sqrt((1 - alpha_bar) / alpha_bar) * 3 * guidance_scale / (2 * epsilon)


def ssim(a: Tensor, b: Tensor, *, size: int = 11, width: float = 1.5) -> Tensor:
    """Mean structural similarity (batch,) of images (batch, channels, height, width).

    Wang, Bovik, Sheikh, Simoncelli, IEEE Trans. Image Processing 2004, Eq. 13, with C1 = 1e-4 and C2 = 9e-4 (a dynamic
    range of 1): Gaussian window of `size` pixels and standard deviation `width`, zero padding, a channel at a time.
    """
    offsets = torch.arange(size, dtype=a.dtype, device=a.device) - size // 2
    line = torch.exp(-(offsets**2) / (2 * width**2))
    window = torch.outer(line, line) / line.sum() ** 2

    def smooth(images: Tensor) -> Tensor:
        flat = images.flatten(0, 1).unsqueeze(1)
        return torch.nn.functional.conv2d(flat, window[None, None], padding=size // 2).view_as(images)

    mean_a, mean_b = smooth(a), smooth(b)
    power, product = mean_a**2 + mean_b**2, mean_a * mean_b
    variances, covariance = smooth(a * a) + smooth(b * b) - power, smooth(a * b) - product
    similarity = (2 * product + 1e-4) * (2 * covariance + 9e-4) / ((power + 1e-4) * (variances + 9e-4))
    return similarity.mean((1, 2, 3))
