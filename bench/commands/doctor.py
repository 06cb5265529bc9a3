"""`bench doctor`: what this machine has, what is missing, and where to get it."""

from __future__ import annotations

import os
import shutil

import torch

from bench.commands.needs import needs
from bench.datasets import MissingData, data_folder, dataset_info, load_dataset
from bench.run.provenance import list_packages
from defenses.models.contents import disguise
from defenses.models.sources import Source
from defenses.models.weights import MissingWeights, cache_folder, sha256_of, weight_folders
from defenses.precision import check_device

GIB = 1 << 30


def doctor(what: str | None) -> str:
    """Report on the machine, and on what a grid, a network, a data set or (None) everything needs."""
    datasets, files = needs(what)
    data = [_describe_dataset(name) for name in datasets]
    weights = [_describe_weights(name, source) for name, source in files.items()]
    missing = sum(line.startswith("  -") for line in (*data, *weights))
    sections = {"Machine": _describe_machine(), "Folders": _describe_folders(), "Data": data, "Weights": weights}
    lines = [line for title, part in sections.items() if part for line in (title, *part, "")]
    if not missing:
        return "\n".join([*lines, "Nothing is missing."])
    remedy = f"bench fetch {what or 'GRID'} downloads what has a public address. Put the rest where its line says."
    return "\n".join([*lines, f"{missing} missing. {remedy}"])


def _describe_machine() -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in list_packages().items())
    return [f"  {versions}", *(f"  {line}" for line in _describe_devices()), f"  {_describe_memory()}"]


def _describe_devices() -> list[str]:
    if not torch.cuda.is_available():
        return [f"no GPU; CPU with {os.cpu_count()} cores, {torch.get_num_threads()} threads in use"]
    return [_describe_device(index) for index in range(torch.cuda.device_count())]


def _describe_device(index: int) -> str:
    free, total = torch.cuda.mem_get_info(index)
    try:
        check_device("tf32", torch.device("cuda", index))
        rounding = "TF32 off but for --attack-precision tf32"
    except ValueError:
        rounding = "no TF32"
    name = torch.cuda.get_device_name(index)
    return f"cuda:{index} {name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, CUDA {torch.version.cuda}, {rounding}"


def _describe_memory() -> str:
    """Free memory and disk; the memory is left out where the system does not tell."""
    try:
        memory = f"{os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.1f} GiB of memory free, "
    except (ValueError, OSError, AttributeError):
        memory = ""
    wanted = cache_folder().absolute()
    folder = next(path for path in (wanted, *wanted.parents) if path.exists())
    return f"{memory}{shutil.disk_usage(folder).free / GIB:.1f} GiB of disk free at {folder}"


def _describe_folders() -> list[str]:
    places = (("data", data_folder()), *(("weights", folder) for folder in weight_folders()))
    return [f"  {kind}: {path}{'' if path.is_dir() else ' (not there yet)'}" for kind, path in places]


def _describe_dataset(name: str) -> str:
    try:
        found = load_dataset(name)
    except (LookupError, ValueError, OSError) as error:
        info = dataset_info(name)
        how = f"bench fetch {name}" if info.downloads else info.source
        plain = isinstance(error, MissingData) and "found none;" in str(error)
        return f"  - {name}: {f'put there {info.place}; {how}' if plain else error}"
    return f"  + {name}: {len(found)} test pictures" + (f" ({found.note})" if found.note else "")


def _describe_weights(name: str, source: Source) -> str:
    try:
        path = source.find()
    except MissingWeights:
        size = f"about {source.gigabytes:g} GB, " if source.gigabytes else ""
        return f"  - {name}: {size}{source.where}; to {cache_folder() / 'weights' / source.file}"
    except ValueError as error:  # a folder with other files than were expected
        return f"  - {name}: {error}"
    if (found := disguise(path)) is not None:
        return f"  - {name}: {path} is {found}; delete it and fetch it again"
    digest = sha256_of(path)
    if not source.fits(digest):
        return f"  - {name}: {path} is truncated or altered (sha256 {digest}); delete it and fetch it again"
    return f"  + {name}: {path}, {path.stat().st_size / 1e6:.0f} MB, sha256 {digest[:12]}"
