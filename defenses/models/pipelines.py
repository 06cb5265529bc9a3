"""Score networks in folders of diffusers' layout: what the folder states is used, or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from defenses.diffusion.schedule import VPSchedule
from defenses.models.networks.unet import EpsilonUNet
from defenses.models.score_models import NetworkScore

VP_SCHEDULERS = {
    "DDPMScheduler", "DDIMScheduler", "DDIMInverseScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler",
    "PNDMScheduler", "IPNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler", "DEISMultistepScheduler",
    "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "DPMSolverSDEScheduler",
    "KDPM2AncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverMultistepInverseScheduler",
    "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "SASolverScheduler", "RePaintScheduler",
}  # fmt: skip
"""Samplers of networks that were trained on the VP diffusion of a list of betas."""
PROCESS = {
    "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": None,
    "rescale_betas_zero_snr": False,
}  # fmt: skip
"""The fields of a scheduler that say which betas, with diffusers' defaults."""
FOREIGN = {
    "shift", "base_shift", "max_shift", "use_dynamic_shifting", "sigma_data", "s_noise", "s_churn", "snr", "sigmas",
    "stochastic_sampling", "invert_sigmas", "rho", "num_vec_classes", "correct_steps", "scaler",
}  # fmt: skip
"""Fields of schedulers of other processes, for files that name no class."""
FLOWS = ("use_flow_sigmas", "use_flow_match")
TOLERANCE = 7e-5  # relative, of alpha_bar and of 1 - alpha_bar: a float32 product of 1000 factors


class PredictsOther(nn.Module):
    """A network that predicts v (Salimans & Ho, ICLR 2022, appendix D) or the clean image, as one that predicts noise.

    Attributes:
        network: (x_t, label (batch,)) -> its prediction, a learned variance range behind it.
        kind: "v_prediction", sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0; or "sample", x_0.
        bars: alpha_bar of every level.
    """

    def __init__(self, network: nn.Module, kind: str, schedule: VPSchedule) -> None:
        super().__init__()
        self.network, self.kind = network, kind
        self.bars = [schedule.alpha_bar_at(level) for level in range(schedule.levels)]

    def forward(self, x_t: Tensor, label: Tensor) -> Tensor:
        """Noise of x_t (batch, channels, height, width) at the levels `label` (batch,), which are whole numbers."""
        bars = torch.tensor(self.bars, dtype=torch.float64, device=label.device)[label.long()].view(-1, 1, 1, 1)
        signal, noise = bars.sqrt().to(x_t), (1 - bars).sqrt().to(x_t)
        out = self.network(x_t, label)
        said, rest = out[:, : x_t.shape[1]], out[:, x_t.shape[1] :]
        epsilon = signal * said + noise * x_t if self.kind == "v_prediction" else (x_t - signal * said) / noise
        return torch.cat([epsilon, rest], dim=1)


def load_pipeline(path: Path) -> NetworkScore:
    """The network of a weight file and the config.json beside it, on the schedule that the folder states.

    Where the folder states no scheduler at all, it is the linear one of 1000 levels, the network's output the noise.

    Raises:
        ValueError: another process, schedule or kind of network, or files that cannot be read.
    """
    folder, schedule = path.parent, VPSchedule()
    kind = _prediction(folder, schedule)
    config = _read_json(folder / "config.json")
    size = _checked(config, folder)
    weights = {"use_safetensors": path.suffix == ".safetensors"} | _variant(path)
    try:
        unet = UNet2DModel.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False, **weights)
    except Exception as error:  # the library's, pickle's and torch's own
        said = " ".join(str(error).split())[:300]
        raise ValueError(f"Expected a UNet2DModel in {folder}, could not load it: {said}") from error
    network: nn.Module = EpsilonUNet(unet).eval().requires_grad_(False)
    if kind != "epsilon":
        network = PredictsOther(network, kind, schedule)
    return NetworkScore(network, (unet.config.in_channels, *size), labels="index", schedule=schedule)


def _variant(path: Path) -> dict[str, str]:
    parts = path.name.split(".")
    return {"variant": parts[1]} if len(parts) == 3 else {}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"Expected {file}, which says how large the network is, found none. Copy it too.") from None
    except ValueError as error:
        raise ValueError(f"Expected JSON in {file}, could not read it ({error}). Fetch it again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"Expected a JSON object in {file}, found a {type(found).__name__}. Fetch it again.")
    return found


def _checked(config: dict[str, Any], folder: Path) -> tuple[int, int]:
    """(height, width) of an unconditional network's pictures. Raises ValueError for what is no such network."""
    if (name := config.get("_class_name", "UNet2DModel")) != "UNet2DModel":
        raise ValueError(
            f"Expected an unconditional UNet2DModel in {folder}, found a {name}. Another network is needed."
        )
    if (classes := config.get("num_class_embeds")) is not None:
        raise ValueError(f"Expected an unconditional network in {folder}, found one of {classes} classes.")
    if (embedded := config.get("class_embed_type")) is not None:
        raise ValueError(f"Expected an unconditional network in {folder}, found class_embed_type {embedded!r}.")
    if (times := config.get("time_embedding_type", "positional")) != "positional":
        raise ValueError(
            f"Expected a network of discrete levels (time_embedding_type 'positional') in {folder}, found {times!r}: a "
            "network of noise levels, of another process than the VP diffusion."
        )
    channels, out = config.get("in_channels", 3), config.get("out_channels", 3)
    if out not in (channels, 2 * channels):
        raise ValueError(
            f"Expected a network in {folder} of {channels} or {2 * channels} output channels for its {channels} input "
            f"channels, found {out}."
        )
    size = config.get("sample_size")
    pair: list[Any] = size if isinstance(size, list) else [size, size]
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ValueError(
            f"Expected the height and width of the network's pictures as sample_size in {folder / 'config.json'}, "
            f"found {json.dumps(size)}. Write what it was trained on there, e.g. 32."
        )
    return pair[0], pair[1]


def _prediction(folder: Path, schedule: VPSchedule) -> str:
    """What the network predicts, by the scheduler's file; "epsilon" where there is none.

    Raises:
        ValueError: the file states another process or schedule.
    """
    file = _scheduler_file(folder)
    if file is None:
        return "epsilon"
    stated = _read_json(file)
    _check_process(stated, file)
    _check_levels(stated, file, schedule)
    kind = stated.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(
            f"Expected prediction_type epsilon, v_prediction or sample in {file}, found {kind!r}. Another pipeline is "
            "needed."
        )
    return kind


def _scheduler_file(folder: Path) -> Path | None:
    places = (folder, folder / "scheduler", folder.parent / "scheduler", folder.parent)
    files = [place / "scheduler_config.json" for place in places]
    found = next((file for file in files if file.is_file()), None)
    index = folder.parent / "model_index.json"
    if found is None and index.is_file() and (named := _read_json(index).get("scheduler")):
        raise ValueError(
            f"Expected {files[2]}, as {index} names a scheduler ({named[-1]}), found none. Copy it too: it says which "
            "noise the network was trained on."
        )
    return found


def _check_process(stated: dict[str, Any], file: Path) -> None:
    name = stated.get("_class_name")
    foreign = sorted(FOREIGN & stated.keys()) if name is None else []
    flows = [field for field in FLOWS if stated.get(field)] or [field for field in foreign if field]
    if stated.get("timestep_type") == "continuous":
        flows.append("timestep_type continuous")
    if stated.get("prediction_type") == "flow_prediction":
        flows.append("prediction_type flow_prediction")
    if flows or (name is not None and name not in VP_SCHEDULERS):
        raise ValueError(
            f"Expected a scheduler of the variance-preserving (VP) diffusion in {file}, found {name or 'one'}"
            f"{' with ' + ', '.join(flows) if flows else ''}: flow matching, EDM, VE and distilled networks are of "
            "other processes. Another pipeline is needed."
        )


def _check_levels(stated: dict[str, Any], file: Path, schedule: VPSchedule) -> None:
    """Compare the alpha_bar of every stated level with the linear schedule's."""
    fields = {name: default if stated.get(name) is None else stated[name] for name, default in PROCESS.items()}
    odd = {name: value for name, value in fields.items() if value != PROCESS[name] and name != "trained_betas"}
    words = ", ".join(f"{name} {value}" for name, value in odd.items()) or "trained_betas"
    try:
        scheduler: Any = DDPMScheduler(**fields)
        found: Tensor = scheduler.alphas_cumprod.double()
    except Exception as error:  # the library's own, for a schedule that it does not know
        raise ValueError(f"Expected a noise schedule in {file}, found {words} ({error}).") from error
    wanted = torch.tensor([schedule.alpha_bar_at(i) for i in range(schedule.levels)], dtype=torch.float64)
    if len(found) != len(wanted):
        raise _other(file, words, f"{len(found)} levels")
    apart = (found - wanted).abs()
    off = torch.maximum(apart / wanted, apart / (1 - wanted)) > TOLERANCE + 1e-7 / (1 - wanted)
    if bool(off.any()):
        level = int(off.nonzero()[0])
        raise _other(file, words, f"alpha_bar {found[level]:.6g} at level {level} in place of {wanted[level]:.6g}")


def _other(file: Path, words: str, found: str) -> ValueError:
    return ValueError(
        f"Expected the linear schedule in {file} (beta_schedule linear, beta_start 0.0001, beta_end 0.02, "
        f"num_train_timesteps 1000), found {words}: {found}. Another pipeline is needed: the VP "
        "schedule here is that one."
    )
