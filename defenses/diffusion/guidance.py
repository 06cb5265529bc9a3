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
    """Cosine similarities, norms floored at 1e-8.

    Args:
        a: (groups, rows of a, features).
        b: (groups, rows of b, features).

    Returns:
        (groups, rows of a, rows of b).
    """
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
    """Contrastive loss between two batches of features.

    "infonce": van den Oord et al. 2018 (arXiv:1807.03748, Eq. 4); "ntxent": Chen et al., SimCLR, ICML 2020, Eq. 1;
    "hard_negatives": Robinson et al., ICLR 2021, Eq. 4, one positive a row. "released_hard" and "released_soft" are
    what the released code of Bai et al. (ICML 2024) computes: every pair of the batch counts as a positive, and
    off-diagonal pairs stay among the negatives. The code of the soft one fails for more than one image and is given its
    evident meaning (docs/methods.md, contrastive guidance).

    Args:
        previous: (groups, batch, features).
        current: same shape; row i of a group is the positive of row i in `previous`.
        kind: which loss.
        temperature: > 0.
        tau_plus: debiasing, in [0, 1), of "released_hard" and "hard_negatives".
        beta: concentration on hard negatives, >= 0, of the same losses.

    Returns:
        (groups,).
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
    own = (torch.arange(2 * batch, device=similarity.device) % batch).view(-1, 1, 1)
    others = torch.arange(batch - 1, device=similarity.device)
    others = others + (others >= own)  # (2 batch, 1, batch - 1): a mask would make the host wait for its count
    columns = torch.cat((others, others + batch), 1).flatten(1)
    return similarity.gather(-1, columns.expand(len(similarity), -1, -1))


def _ntxent(both: Tensor, batch: int, temperature: float) -> Tensor:
    rows = torch.arange(2 * batch, device=both.device)
    similar = cosine(both, both) / temperature
    similar = similar.masked_fill(torch.eye(2 * batch, dtype=torch.bool, device=both.device), -torch.inf)
    partner = (rows + batch) % (2 * batch)
    return -similar.log_softmax(-1)[:, rows, partner].mean(-1)


def embedding_bounds(
    features: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> Tensor:
    """Bound of the uniform initialisation of every weight, 1 / sqrt(fan in): (18 features**2,), in `embed`'s order."""
    width = 2 * features
    bounds = torch.full((BLOCKS, 3 * width * features), width**-0.5, dtype=dtype, device=device)
    bounds[:, : 2 * width * features].fill_(features**-0.5)
    return bounds.flatten()


def embed(x: Tensor, weights: Tensor) -> Tensor:
    """The authors' embedding network: three residual blocks h + W3 (silu(W1 h) * W2 h), no biases, width n -> 2n -> n.

    Args:
        x: (groups, batch, n).
        weights: (groups, 18 n**2), block by block W1 (2n, n), W2 (2n, n), W3 (n, 2n), each row-major.

    Returns:
        Shape of x.
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
    """One Adam step (Kingma & Ba, ICLR 2015, Algorithm 1), pure and twice differentiable.

    Args:
        w: what is minimised over, any shape.
        m: running mean of the gradient, same shape, 0 at first.
        v: running mean of its square, same shape, 0 at first.
        gradient: at w.
        n: number of the step, from 1.
        lr: step size, > 0.
        betas: decay rates of m and v, in [0, 1).
        floor: what is added to the root of the second moment, > 0.

    Returns:
        The next (w, m, v).
    """
    m = betas[0] * m + (1 - betas[0]) * gradient
    v = betas[1] * v + (1 - betas[1]) * gradient**2
    mean, root = m / (1 - betas[0] ** n), safe_sqrt(v / (1 - betas[1] ** n))
    return w - lr * mean / (root + floor), m, v


def input_gradient(value: Callable[[Tensor], Tensor], x: Tensor, *, differentiated: bool) -> Tensor:
    """Gradient of the sum of value(x) with respect to x, inside `no_grad` too.

    x is made a node of its own, so that what `value` captured of x does not count.

    Args:
        value: x -> any shape.
        x: any shape.
        differentiated: whether the result depends on x in the caller's graph (second order); else it is a constant
            there.

    Returns:
        Shape of x.
    """
    exact = differentiated and torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        x = x.view_as(x) if exact else x.detach().requires_grad_()
        return torch.autograd.grad(value(x).sum(), x, create_graph=exact)[0]


def reconstruction_guide(
    x: Tensor, reference: Tensor, *, kind: Reconstruction = "mse", differentiated: bool = True
) -> Tensor:
    """Direction in which x comes to resemble the reference: gradient of minus the mean squared error, or of SSIM.

    Wang et al., "Guided diffusion model for adversarial purification", 2022 (arXiv:2205.14969).

    Args:
        x: (batch, channels, height, width).
        reference: same shape.
        kind: "mse", whose mean is over each image's own elements, or "ssim".
        differentiated: see `input_gradient`.

    Returns:
        Shape of x.
    """
    if kind == "ssim":
        return input_gradient(lambda state: ssim(state, reference), x, differentiated=differentiated)
    pull = 2 * (reference - x) / x[0].numel()
    return pull if differentiated else pull.detach()


def reconstruction_scale(alpha_bar: float, *, guidance_scale: float, epsilon: float) -> float:
    """GDMP's weight of the guidance: large where the noise drowns a perturbation of size epsilon.

    Args:
        alpha_bar: squared signal scale at this step, in (0, 1).
        guidance_scale: >= 0.
        epsilon: size of the perturbation in image units, > 0.
    """
    return math.sqrt((1 - alpha_bar) / alpha_bar) * 3 * guidance_scale / (2 * epsilon)


def ssim(a: Tensor, b: Tensor, *, size: int = 11, width: float = 1.5) -> Tensor:
    """Mean structural similarity of images, one channel at a time, with zero padding.

    Wang, Bovik, Sheikh, Simoncelli, IEEE Trans. Image Processing 2004, Eq. 13, with C1 = 1e-4 and C2 = 9e-4 (a dynamic
    range of 1) and a Gaussian window.

    Args:
        a: (batch, channels, height, width).
        b: same shape.
        size: of the window, pixels.
        width: standard deviation of the window, pixels.

    Returns:
        (batch,), 1 for equal images.
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
