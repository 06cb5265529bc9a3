"""The score networks of the literature as diffusers' `UNet2DModel`, exact to float32 rounding.

score_sde's DDPM++ (Song et al., ICLR 2021, appendix C) differs from it in a few attributes, which are edited after
construction; guided-diffusion's network (Dhariwal & Nichol, NeurIPS 2021) is one by its constructor's arguments alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import AttnUpBlock2D
from torch import Tensor, nn

HALF = 2**0.5  # divisor that keeps the variance of a sum of two


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Size of a U-Net; resolutions from the largest.

    Attributes:
        channels: of each resolution.
        blocks: residual blocks of each resolution on the way down; there is one more on the way up.
        attention: of each resolution, whether its blocks are followed by self-attention.
    """

    channels: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]


DDPMPP_DEEP = Layout(channels=(128, 256, 256, 256), blocks=8, attention=(False, True, False, False))
GUIDED_256 = Layout(channels=(256, 256, 512, 512, 1024, 1024), blocks=2, attention=(False,) * 3 + (True,) * 3)
HEAD = 64  # channels of an attention head of guided-diffusion's networks


class EpsilonUNet(nn.Module):
    """A `UNet2DModel` as network(x, label) -> noise.

    Its attention is the plain one, whose derivative can be differentiated again; the fused kernel's cannot.

    Attributes:
        unet: the `UNet2DModel`.
        unused: entries of a weight file that the network's value does not need, kept so that it can be written again.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.unused: dict[str, Tensor] = {}
        for module in unet.modules():
            if isinstance(module, Attention):
                module.set_processor(AttnProcessor())
                module.upcast_softmax = False  # to float32: it would round a float64 audit

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Noise, or noise and variance range, of x (batch, channels, height, width) at real labels (batch,).

        A label must be a tensor: diffusers cuts a Python float to an integer.
        """
        return self.unet(x, label, return_dict=False)[0]


def ddpmpp_unet(layout: Layout = DDPMPP_DEEP) -> EpsilonUNet:
    """score_sde's DDPM++ continuous with untrained weights: 3 channels in and out, labels 999 t unrounded."""
    width = layout.channels[0]
    unet = _unet(
        layout, out_channels=3, freq_shift=1, flip_sin_to_cos=False, mid_block_scale_factor=HALF, dropout=0.1,
        attention_head_dim=None, norm_num_groups=_groups(width), norm_eps=1e-6, resnet_time_scale_shift="default",
    )  # fmt: skip
    for module in list(unet.modules()):
        if isinstance(module, ResnetBlock2D):
            _as_biggan(module)
        elif isinstance(module, Attention):
            module.rescale_output_factor = HALF
        elif isinstance(module, AttnUpBlock2D):  # attention only after the last block on the way up
            for place in range(len(module.attentions) - 1):
                module.attentions[place] = nn.Identity()
        elif isinstance(module, nn.GroupNorm):
            module.num_groups = _groups(module.num_channels)
    unet.time_proj = _SineCosine(width)
    network = EpsilonUNet(unet)
    network.unused = {"sigmas": _sigmas()}
    return network


def guided_unet(layout: Layout = GUIDED_256, head: int = HEAD) -> EpsilonUNet:
    """guided-diffusion's unconditional network with untrained weights: 6 channels out, noise and a variance range.

    Args:
        layout: its size.
        head: channels of an attention head.
    """
    return EpsilonUNet(
        _unet(
            layout, out_channels=6, freq_shift=0, flip_sin_to_cos=True, attention_head_dim=head, norm_num_groups=32,
            attn_norm_num_groups=32, norm_eps=1e-5, resnet_time_scale_shift="scale_shift",
        )
    )  # fmt: skip


def _unet(layout: Layout, **arguments: Any) -> nn.Module:
    down = ["AttnDownBlock2D" if has else "ResnetDownsampleBlock2D" for has in layout.attention]
    up = ["AttnUpBlock2D" if has else "ResnetUpsampleBlock2D" for has in reversed(layout.attention)]
    unet: Any = UNet2DModel(
        in_channels=3, time_embedding_type="positional", block_out_channels=layout.channels,
        layers_per_block=layout.blocks, down_block_types=tuple(down), up_block_types=tuple(up),
        downsample_type="resnet", upsample_type="resnet", act_fn="silu", **arguments,
    )  # fmt: skip
    return unet


def _groups(channels: int) -> int:
    return min(channels // 4, 32)


def _as_biggan(block: ResnetBlock2D) -> None:
    """Sums divided by sqrt(2), and a 1x1 convolution beside every change of resolution."""
    block.output_scale_factor = HALF
    if (block.up or block.down) and block.conv_shortcut is None:
        block.conv_shortcut = nn.Conv2d(block.in_channels, block.out_channels, 1)
        block.use_in_shortcut = True


def _sigmas() -> Tensor:
    """score_sde's buffer of 1000 noise levels, 50 down to 0.01, which its VP networks own and do not use."""
    return torch.linspace(math.log(50), math.log(0.01), 1000, dtype=torch.float64, device="cpu").exp()


class _SineCosine(nn.Module):
    """score_sde's time embedding in float32. diffusers' rounds otherwise: up to 1e-5 in the network's output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rates = width // 2

    def forward(self, label: Tensor) -> Tensor:
        place = torch.arange(self.rates, dtype=torch.float32, device=label.device)
        angle = label.float()[:, None] * torch.exp(place * -(math.log(10_000) / (self.rates - 1)))
        return torch.cat([angle.sin(), angle.cos()], dim=1)
