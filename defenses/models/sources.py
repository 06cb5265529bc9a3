"""Where every public weight file comes from, and what it must be: the one table behind loading, fetching and doctor."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from defenses.models.weights import (
    cache_folder,
    check_inside,
    find_weights,
    refuse_disguise,
    sha256_of,
    weight_folders,
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A weight file and its origin.

    Attributes:
        file: path below a weight folder.
        at: "https://...", "drive:<file id>", "drive-folder:<folder id>/<path>", "hub:<owner>/<repository>/<path>" or
            "pipeline:<owner>/<repository>" (`file` is then a folder of diffusers' layout); "" where no public origin is
            known.
        note: for the reader, e.g. what to do where there is no public origin.
        gigabytes: about how large; None where unknown.
        sha256: hex digits that its sha256 begins with, all 64 or fewer; "" where nobody states them.
    """

    file: str
    at: str = ""
    note: str = ""
    gigabytes: float | None = None
    sha256: str = ""

    def __post_init__(self) -> None:
        check_inside(self.file)

    @property
    def where(self) -> str:
        """The origin as a person would open it."""
        scheme, _, rest = self.at.partition(":")
        owner, _, path = rest.partition("/")
        address = {
            "drive": f"https://drive.google.com/file/d/{rest}/view",
            "drive-folder": f"https://drive.google.com/drive/folders/{owner} ({path})",
            "hub": f"https://huggingface.co/{'/'.join(rest.split('/')[:2])} ({'/'.join(rest.split('/')[2:])})",
            "pipeline": f"https://huggingface.co/{rest} (all its files)",
            "": "",
        }.get(scheme, self.at)
        return "; ".join(filter(None, (address, self.note)))

    def find(self) -> Path:
        """The weight file on this machine. Raises MissingWeights."""
        file = self.file
        if self.at.startswith("pipeline:"):
            found = [path for folder in weight_folders() if (path := pipeline_file(folder / file)) is not None]
            if found:
                return found[0]
            file += "/diffusion_pytorch_model.safetensors"
        return find_weights(file, source=self.where, sha256=self.known_sha256())

    def known_sha256(self) -> str | None:
        """What the whole sha256 must be: as stated, else as recorded when the file was first used; None before that."""
        return self.sha256 if len(self.sha256) == 64 else recorded_sha256().get(self.file)

    def fits(self, sha256: str) -> bool:
        """Whether a file of this sha256 is the one stated and recorded, as far as that is known."""
        return sha256.startswith(self.sha256) and sha256 == (self.known_sha256() or sha256)

    def check(self, path: Path) -> None:
        """Compare a file with the sha256 that is stated or recorded; record it the first time.

        A cache folder that cannot be written records nothing.

        Raises:
            ValueError: another sha256, or a page, an error message, a pointer or nothing in place of weights.
        """
        refuse_disguise(path)
        digest, known = sha256_of(path), self.known_sha256()
        if not self.fits(digest):
            raise ValueError(
                f"Expected {self.file} to have sha256 {known or self.sha256 + '...'}, found {digest} in {path}. Fetch "
                f"it again; if its owner has replaced it and you trust that, remove its line from {_record_file()}."
            )
        if known is None:
            _record(self.file, digest)


def pipeline_file(folder: Path) -> Path | None:
    """The weights of the U-Net in a folder of diffusers' layout, pipeline or network alone.

    Averaged weights (`unet_ema`, as diffusers' training scripts write them) come before those beside them, safetensors
    before pickles, the plain file before a variant (`diffusion_pytorch_model.fp16.safetensors`).

    Returns:
        None where there is no such file.

    Raises:
        ValueError: the weights are in several files or several variants, or in one that is not the averaged one.
    """
    for place in (folder / "unet_ema", folder / "unet", folder):
        if (found := _network_file(place)) is not None:
            return found
    return None


def _network_file(place: Path) -> Path | None:
    stem, suffixes = "diffusion_pytorch_model", ("safetensors", "bin")
    plain = [place / f"{stem}.{suffix}" for suffix in suffixes if (place / f"{stem}.{suffix}").is_file()]
    if plain:
        return plain[0]
    if parts := sorted(place.glob(f"{stem}*-of-*")) or sorted(place.glob(f"{stem}*.index.*json")):
        raise ValueError(
            f"Expected one weight file in {place}, found the parts of a sharded one ({parts[0].name}, ...): a row "
            "names its weights by the sha256 of one file. Join them: UNet2DModel.from_pretrained(folder)"
            ".save_pretrained(folder, max_shard_size='100GB')."
        )
    variants = [path for suffix in suffixes for path in sorted(place.glob(f"{stem}.*.{suffix}"))]
    if len({path.name.split(".")[1] for path in variants}) > 1 or any("non_ema" in path.name for path in variants):
        names = ", ".join(path.name for path in variants)
        raise ValueError(
            f"Expected {stem}.safetensors or one variant of it in {place}, found {names}. Which is meant? Copy that "
            f"one to {stem}.{variants[0].name.rsplit('.', 1)[1]}."
        )
    return next(iter(variants), None)


def recorded_sha256() -> dict[str, str]:
    """File -> sha256, as recorded when each was first used on this machine."""
    try:
        return json.loads(_record_file().read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected the sha256 of downloaded files in {_record_file()}, could not read it ({error}). Repair it, or "
            "delete it if you trust the files that lie beside it."
        ) from error


def _record_file() -> Path:
    return cache_folder() / "weights" / "sha256.json"


def _record(file: str, digest: str) -> None:
    path = _record_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock("sha256.json"):  # another process may be recording its own
            text = json.dumps(recorded_sha256() | {file: digest}, indent=1, sort_keys=True) + "\n"
            written = path.with_suffix(f".{os.getpid()}")
            written.write_text(text, encoding="utf-8")
            written.replace(path)
    except OSError:  # a folder that cannot be written, a disk without room
        pass


def lock(file: str) -> FileLock:
    """A lock between processes on a file of the cache, by its name there. OSError where the cache cannot be written."""
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{file.replace('/', '_')}.lock")


def source_of(name: str) -> Source | None:
    """The public file behind a classifier or score network.

    Returns:
        None where there is nothing to fetch: the network ships with the package, or is a file of the user's.
    """
    if name.startswith("robustbench:"):
        return robustbench_source(name)
    if name.startswith("diffusers:"):
        repository = name.removeprefix("diffusers:")
        return None if Path(repository).expanduser().is_dir() else pipeline(repository)
    if name.startswith("timm:"):
        return timm_source(name)
    return SOURCES.get(name)


def timm_source(name: str) -> Source:
    """The public weight file of timm:<name>. Raises LookupError for a name that timm does not know."""
    from defenses.models.timm_names import timm_config

    hub = timm_config(name).hf_hub_id
    return Source(file=f"{hub}/model.safetensors", at=f"hub:{hub}/model.safetensors")


def pipeline(repository: str) -> Source:
    """A diffusers pipeline on the Hugging Face hub, e.g. "google/ddpm-cifar10-32".

    Raises:
        LookupError: the name is none of the hub's.
    """
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repository, re.ASCII) is None:
        raise LookupError(
            f"Expected diffusers:<folder> or diffusers:<owner>/<repository>, got {repository!r}, which is no folder "
            "here and no name of the Hugging Face hub."
        )
    return Source(file=f"diffusers/{repository}", at=f"pipeline:{repository}")


def robustbench_parts(name: str) -> list[str]:
    """The four parts of robustbench:<dataset>:<threat>:<model>. Raises LookupError for another number."""
    parts = name.split(":")
    if len(parts) != 4 or not all(parts):
        raise LookupError(
            f"Expected robustbench:<dataset>:<threat>:<model>, got {name!r}, e.g. robustbench:cifar10:Linf:Standard."
        )
    return parts


def robustbench_source(name: str) -> Source:
    """The file of robustbench:<dataset>:<threat>:<model>, with RobustBench's own Google Drive id."""
    from defenses.models.robustbench_zoo import drive_id

    _, dataset, threat, model = robustbench_parts(name)
    found = drive_id(model, dataset, threat)
    note = "" if found else "not a single file (an ensemble, or weights of timm or torchvision): no cell can use it"
    return Source(file=f"robustbench/{dataset}/{threat}/{model}.pt", at=f"drive:{found}" if found else "", note=note)


_IDELBAYEV = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"
# later commits hold pointers alone
_PULFER = "https://github.com/BrianPulfer/PapersReimplementations/raw/31ca7b8c7ff9ee93694dc74ab2f1cad9b0d0d85c/ddpm/"
_TORCHVISION = "https://download.pytorch.org/models/"
_UNPUBLISHED = "no public file; `bench train score --dataset ... --scale full` makes one"

SOURCES: dict[str, Source] = {
    "ddpmpp_cifar10": Source(
        file="score_sde/checkpoint_8.pth", at="drive:16_-Ahc6ImZV5ClUc0vM5Iivf8OJ1VSif", gigabytes=1.7,
        note="also in score_sde's folder vp/cifar10_ddpmpp_deep_continuous, 1ZMLBiu9j7-rpdTQu8M2LlHAEQq4xRYrj",
    ),
    "ddpmpp_cifar100": Source(file="cifar100/cifar100_score_sde.pt", note=_UNPUBLISHED, gigabytes=0.43),
    "ddpmpp_gtsrb": Source(file="gtsrb/gtsrb_score_sde.pt", note=_UNPUBLISHED, gigabytes=0.43),
    "guided256": Source(
        file="guided_diffusion/256x256_diffusion_uncond.pt", gigabytes=2.2,
        at="https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt",
    ),
    "ddpm_cifar10_32": pipeline("google/ddpm-cifar10-32"),
    **{
        name: Source(file=f"{name}.pt", at=f"{_PULFER}{name}.pt", gigabytes=0.0025, sha256=sha256)
        for name, sha256 in (
            ("ddpm_mnist", "384f86fd83b97f05d5c4d1c84e3470497164ea88c051e862bdfdd4bf7776546a"),
            ("ddpm_fashion", "2808c36abc1dd1634766078b611be363683ca7385deee8077944d9f7ce95c43b"),
        )
    },
    "diffpure_resnet50": Source(
        file="cifar10/resnet-50/weights.pt", at="drive-folder:1SEGilIEAnx9OC1JVhmOynreCF3oog7Fi/weights.pt",
        gigabytes=0.09,
    ),
    "diffpure_wrn70_16_dropout": Source(
        file="cifar10/wrn-70-16-dropout/weights.pt", gigabytes=1.07,
        at="drive-folder:1istqcnPNXJ-TQFdxRqNJuInzOtlYOG1b/weights.pt",
    ),
    "gtsrb_resnet18": Source(
        file="gtsrb/gtsrb_resnet18_standard.pt", gigabytes=0.04,
        note="no public file; train one",
    ),
    "cifar100_wrn28_10": Source(
        file="cifar100/cifar100_wrn_28-10_standard.pt", gigabytes=0.15,
        note="no public file; train one",
    ),
    "imagenet_resnet18": Source(
        file="torchvision/resnet18-f37072fd.pth", at=_TORCHVISION + "resnet18-f37072fd.pth", sha256="f37072fd",
        gigabytes=0.05,
    ),
    "imagenet_resnet50": Source(
        file="torchvision/resnet50-0676ba61.pth", at=_TORCHVISION + "resnet50-0676ba61.pth", sha256="0676ba61",
        gigabytes=0.1,
    ),
    "imagenet_wrn50_2": Source(
        file="torchvision/wide_resnet50_2-95faca4d.pth", at=_TORCHVISION + "wide_resnet50_2-95faca4d.pth",
        sha256="95faca4d", gigabytes=0.14,
    ),
    "imagenet_deit_s": Source(
        file="timm/deit_small_patch16_224.fb_in1k/model.safetensors", gigabytes=0.09,
        at="hub:timm/deit_small_patch16_224.fb_in1k/model.safetensors",
    ),
    "imagenet_xcit_s24": Source(
        file="timm/xcit_small_24_p16_224.fb_in1k/model.safetensors", gigabytes=0.19,
        at="hub:timm/xcit_small_24_p16_224.fb_in1k/model.safetensors",
    ),
    **{
        f"cifar_resnet{file[6:8]}": Source(file=file, at=_IDELBAYEV + file, sha256=sha256)
        for file, sha256 in (
            ("resnet20-12fca82f.th", "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8"),
            ("resnet32-d509ac18.th", "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850"),
            ("resnet44-014dd654.th", "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4"),
            ("resnet56-4bfd9763.th", "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367"),
        )
    },
}  # fmt: skip
