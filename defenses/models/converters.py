"""State dicts of score_sde and guided-diffusion under the names of diffusers' `UNet2DModel`.

The size of the network is read off the state dict itself; a network of that size must then consume every entry. The
layouts are those of https://github.com/yang-song/score_sde_pytorch and https://github.com/openai/guided-diffusion;
docs/methods.md, section Networks, has them in words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from defenses.models.networks.unet import HEAD, EpsilonUNet, Layout, ddpmpp_unet, guided_unet

State = Mapping[str, Tensor]
Entries = Iterator[tuple[str, Tensor]]

UNUSED = ("sigmas",)  # entries of a score_sde file that do not enter the network's value
_DDPMPP_BLOCK = {
    "GroupNorm_0": "norm1", "Conv_0": "conv1", "Dense_0": "time_emb_proj", "GroupNorm_1": "norm2", "Conv_1": "conv2",
    "Conv_2": "conv_shortcut",
}  # fmt: skip
_DDPMPP_ATTENTION = {
    "GroupNorm_0": "group_norm", "NIN_0": "to_q", "NIN_1": "to_k", "NIN_2": "to_v", "NIN_3": "to_out.0",
}  # fmt: skip
_GUIDED = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut", "norm": "group_norm", "proj_out": "to_out.0",
}  # fmt: skip


def load_ddpmpp(state: State, expected: Layout | None = None) -> EpsilonUNet:
    """The DDPM++ network of a score_sde state dict, float32, in eval mode.

    Args:
        state: `all_modules.<i>...`, with or without score_sde's buffer `sigmas`.
        expected: refuse another size.

    Raises:
        ValueError: another network's state, naming what is missing or left over.
    """
    layout = _layout(_ddpmpp_layout, "score_sde (DDPM++)", state, expected)
    network = _filled(lambda: ddpmpp_unet(layout), _ddpmpp_entries(state, layout))
    network.unused = {name: state[name] for name in UNUSED if name in state}
    return network


def ddpmpp_state(network: EpsilonUNet, layout: Layout | None = None) -> dict[str, Tensor]:
    """score_sde's state dict of a DDPM++ network: undoes `load_ddpmpp`, entry for entry and in score_sde's order.

    Args:
        network: of `ddpmpp_unet` or `load_ddpmpp`.
        layout: its size; read off the network where None.

    Returns:
        `sigmas` (unless the network comes from a file without it) and `all_modules.<i>...`, float32, on the CPU.

    Raises:
        ValueError: the network has entries that DDPM++ of this size does not have.
    """
    layout = layout or _unet_layout(network)
    left, state = network.unet.state_dict(), dict(network.unused)
    for i, place in enumerate(_ddpmpp_places(layout)):
        parts = _ddpmpp_parts(place) if f"{place}.weight" not in left else {"": ""}
        for old, new in parts.items():
            for leaf in ("weight", "bias"):
                tensor = left.pop(_joined(place, new, leaf), None)
                if tensor is None:  # a block without a shortcut
                    continue
                if old.startswith("NIN"):
                    tensor, leaf = (tensor.T, "W") if leaf == "weight" else (tensor, "b")
                state[_joined(f"all_modules.{i}", old, leaf)] = _stored(tensor)
    if left:
        raise ValueError(
            f"Expected a DDPM++ network of {layout}, found further entries: {', '.join(left)}. Pass the network's own "
            "layout."
        )
    return state


def _stored(tensor: Tensor) -> Tensor:
    """float32 on the CPU; a tensor without memory (device "meta") stays one."""
    tensor = tensor.float().contiguous()
    return tensor if tensor.is_meta else tensor.cpu()


def load_guided(state: State, expected: Layout | None = None, head: int = HEAD) -> EpsilonUNet:
    """The network of a guided-diffusion state dict, float32, in eval mode.

    Args:
        state: `input_blocks.<n>...`.
        expected: refuse another size.
        head: channels of an attention head, which the state does not tell.

    Raises:
        ValueError: another network's state, naming what is missing or left over.
    """
    layout = _layout(_guided_layout, "guided-diffusion", state, expected)
    return _filled(lambda: guided_unet(layout, head), _guided_entries(state, layout, head))


def _layout(read: Callable[[State], Layout], kind: str, state: State, expected: Layout | None) -> Layout:
    try:
        found = read(state)
    except (KeyError, IndexError, ValueError) as error:
        names = ", ".join(list(state)[:3])
        raise ValueError(f"Expected a state dict of {kind}, found one that begins with {names} ({error}).") from error
    if expected is not None and found != expected:
        raise ValueError(f"Expected a {kind} network of {expected}, found {found}. It is another network's file.")
    return found


def _filled(make: Callable[[], EpsilonUNet], entries: Entries) -> EpsilonUNet:
    """The network that `make` makes, its weights the entries themselves: no second copy is held."""
    with torch.device("meta"):
        network = make()
    weights = {name: tensor.float().contiguous() for name, tensor in entries}
    try:
        network.unet.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"The state dict does not fit the network: {error}") from error
    return network.eval()


def _ddpmpp_layout(state: State) -> Layout:
    """Blocks that change the resolution are those with a 1x1 convolution between equal numbers of channels."""
    total = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("all_modules."))
    blocks = [i for i in range(total) if f"all_modules.{i}.Conv_0.weight" in state]
    shortcuts = {i: state.get(f"all_modules.{i}.Conv_2.weight") for i in blocks}
    resampling = [n for n, i in enumerate(blocks) if (s := shortcuts[i]) is not None and s.shape[0] == s.shape[1]]
    per_level = resampling[0] + 1
    firsts = [blocks[level * per_level] for level in range(len(resampling) // 2 + 1)]
    return Layout(
        channels=tuple(len(state[f"all_modules.{i}.Conv_0.bias"]) for i in firsts),
        blocks=per_level - 1,
        attention=tuple(f"all_modules.{i + 1}.NIN_0.W" in state for i in firsts),
    )


def _ddpmpp_places(layout: Layout) -> list[str]:
    """diffusers' names of `all_modules`, in its order."""
    blocks, places = layout.blocks, ["time_embedding.linear_1", "time_embedding.linear_2", "conv_in"]
    last = len(layout.channels) - 1
    for i, attends in enumerate(layout.attention):
        for j in range(blocks):
            places += [f"down_blocks.{i}.resnets.{j}"] + [f"down_blocks.{i}.attentions.{j}"] * attends
        places += [f"down_blocks.{i}.downsamplers.0"] * (i < last)
    places += ["mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"]
    for u, attends in enumerate(reversed(layout.attention)):
        places += [f"up_blocks.{u}.resnets.{j}" for j in range(blocks + 1)]
        places += [f"up_blocks.{u}.attentions.{blocks}"] * attends + [f"up_blocks.{u}.upsamplers.0"] * (u < last)
    return [*places, "conv_norm_out", "conv_out"]


def _ddpmpp_parts(place: str) -> dict[str, str]:
    """score_sde's names of a block's parts, in its order -> diffusers'. Both kinds of block have a `GroupNorm_0`."""
    return _DDPMPP_ATTENTION if ".attentions." in place else _DDPMPP_BLOCK


def _unet_layout(network: EpsilonUNet) -> Layout:
    """The size of a network made here, from the arguments that diffusers keeps of it."""
    config: Any = network.unet.config
    return Layout(
        channels=tuple(config["block_out_channels"]),
        blocks=config["layers_per_block"],
        attention=tuple(kind == "AttnDownBlock2D" for kind in config["down_block_types"]),
    )


def _ddpmpp_entries(state: State, layout: Layout) -> Entries:
    places = {f"all_modules.{i}": place for i, place in enumerate(_ddpmpp_places(layout))}
    for name, tensor in state.items():
        if name in UNUSED:
            continue
        place, part, leaf = _split(name, places)
        part = _ddpmpp_parts(place).get(part, part)
        if leaf == "W":  # (in, out), where a linear map's weight is (out, in)
            tensor = tensor.T
        yield _joined(place, part, {"W": "weight", "b": "bias"}.get(leaf, leaf)), tensor


def _guided_layout(state: State) -> Layout:
    """Blocks that raise the resolution stand behind another block of the same entry, one a level but the last."""
    inputs = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("input_blocks."))
    rising = [name for name in state if re.fullmatch(r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight", name)]
    per_level = inputs // (len(rising) + 1)
    firsts = [f"input_blocks.{1 + level * per_level}" for level in range(len(rising) + 1)]
    return Layout(
        channels=tuple(len(state[f"{first}.0.out_layers.3.bias"]) for first in firsts),
        blocks=per_level - 1,
        attention=tuple(f"{first}.1.norm.weight" in state for first in firsts),
    )


def _guided_places(layout: Layout) -> dict[str, str]:
    """guided-diffusion's names of the blocks -> diffusers'."""
    places = {
        "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in", "middle_block.0": "mid_block.resnets.0",
        "middle_block.1": "mid_block.attentions.0", "middle_block.2": "mid_block.resnets.1",
        "out.0": "conv_norm_out", "out.2": "conv_out",
    }  # fmt: skip
    per_level, last = layout.blocks + 1, len(layout.channels) - 1
    for i, attends in enumerate(layout.attention):
        for j in range(layout.blocks):
            source = f"input_blocks.{1 + i * per_level + j}"
            places |= {f"{source}.0": f"down_blocks.{i}.resnets.{j}", f"{source}.1": f"down_blocks.{i}.attentions.{j}"}
        places[f"input_blocks.{(i + 1) * per_level}.0"] = f"down_blocks.{i}.downsamplers.0"
        u = last - i
        for j in range(per_level):
            source = f"output_blocks.{u * per_level + j}"
            places |= {f"{source}.0": f"up_blocks.{u}.resnets.{j}", f"{source}.1": f"up_blocks.{u}.attentions.{j}"}
        if u < last:
            places[f"{source}.{1 + attends}"] = f"up_blocks.{u}.upsamplers.0"
    return places


def _guided_entries(state: State, layout: Layout, head: int) -> Entries:
    places = _guided_places(layout)
    for name, tensor in state.items():
        place, part, leaf = _split(name, places)
        if part == "qkv":  # head by head: its queries, keys, values
            split = tensor.squeeze(-1).unflatten(0, (-1, 3, head)) if leaf == "weight" else tensor.view(-1, 3, head)
            for side, values in zip("qkv", split.unbind(1), strict=True):
                yield f"{place}.to_{side}.{leaf}", values.flatten(0, 1)
        else:
            values = tensor.squeeze(-1) if part == "proj_out" else tensor  # a 1-D convolution as a linear map
            yield _joined(place, _GUIDED.get(part, part), leaf), values


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))


def _split(name: str, places: Mapping[str, str]) -> tuple[str, str, str]:
    """(diffusers' block, part of it, leaf) of an entry; what belongs nowhere keeps its name, to be refused later."""
    block, _, leaf = name.rpartition(".")
    prefix = block
    while prefix and prefix not in places:
        prefix = prefix.rpartition(".")[0]
    return (places[prefix], block[len(prefix) + 1 :], leaf) if prefix else ("", block, leaf)
