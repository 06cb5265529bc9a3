"""`bench purify`: the user's own pictures through a defense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.commands.audit import make_defense
from bench.commands.own_pictures import name_files, read_picture, write_picture
from bench.commands.strip import answer_tiles, name_of, purify_draws
from bench.datasets import DatasetInfo, dataset_info, load_dataset
from bench.draw import Tile, draw_strip
from bench.draw.style import MissingMatplotlib
from defenses.models.classifiers import CLASSIFIERS, load_classifier
from defenses.models.info import NetworkInfo
from defenses.models.scores import SCORES, load_score

STRIP = "strip.png"


@dataclass(frozen=True, kw_only=True)
class Names:
    """What purifies, by name.

    Attributes:
        defense: registered name.
        fields: FIELD=VALUE texts, fields of the defense.
        dataset: whose size of pictures and whose classes.
        classifier: registered name; None takes the first of the data set that is on this machine.
        score: registered name of the score network; None likewise.
    """

    defense: str
    fields: tuple[str, ...]
    dataset: str
    classifier: str | None
    score: str | None


def purify(
    pictures: Sequence[Path], names: Names, folder: Path, *, draws: int, seed: int, device: str, data_dir: Path | None
) -> str:
    """Purify pictures, write them into a folder, and say what the classifier answered before and after.

    Args:
        pictures: files.
        names: what purifies.
        folder: where the purified pictures and a strip of all go.
        draws: purifications of each picture.
        seed: of the draws.
        device: as torch writes it.
        data_dir: folder of data sets, where the names of the classes are read.
    """
    info = dataset_info(names.dataset)
    defense = make_defense(names.defense, names.fields)
    remarks: list[str] = []
    images = torch.stack([read_picture(path, info, remarks) for path in pictures])
    classifier = _choose("classifier", names.classifier, CLASSIFIERS, names.dataset, remarks)
    score = _choose("score network", names.score, SCORES, names.dataset, remarks) if defense.needs_score else None
    network = load_classifier(classifier, names.dataset).to(device).eval()
    prior: Any = load_score(score) if score else None
    if isinstance(prior, torch.nn.Module):
        prior = prior.to(device)
    model = defense.defend(network, prior, gradient="none").eval()
    given, ids = images.to(device), torch.arange(len(images), device=device)
    with torch.no_grad():
        before = network(given).argmax(1).tolist()
    purified = purify_draws(model, given, ids, draws=draws if defense.stochastic else 1, seed=seed)
    classes = _class_names(info, data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lines, rows = [*remarks, f"{defense!r}"], []
    stems = name_files(pictures)
    for place, (path, stem) in enumerate(zip(pictures, stems, strict=True)):
        after = [name_of(classes, int(draw.labels[place])) for draw in purified]
        lines.append(f"{path}: before {name_of(classes, before[place])}; after {', '.join(after)}")
        for number, draw in enumerate(purified, 1):
            write_picture(draw.images[place], folder / f"{stem}_purified_{number}.png")
        shown = [Tile(images[place].numpy(), name_of(classes, before[place]))]
        rows.append(shown + answer_tiles(purified, place, -1, classes))
    lines.append(_write_strip(rows, names, folder))
    return "\n".join(lines)


def _write_strip(rows: list[list[Tile]], names: Names, folder: Path) -> str:
    heads = ["picture", *(f"draw {number}" for number in range(1, len(rows[0])))]
    remark = "Under the picture the bare classifier's answer, under each draw the defended one's."
    written = f"Wrote {len(rows) * (len(rows[0]) - 1)} pictures"
    try:
        (folder / STRIP).write_bytes(draw_strip(rows, heads, title=f"{names.dataset}, {names.defense}", remark=remark))
    except MissingMatplotlib as error:
        return f"{written} to {folder}, and no {STRIP}: {error}"
    return f"{written} and {STRIP} to {folder}."


def _choose(kind: str, name: str | None, known: Any, dataset: str, remarks: list[str]) -> str:
    """The network of that name, else the first of the data set whose weights are on this machine."""
    if name is not None:
        return name
    fitting: list[NetworkInfo] = [info for info in known.values() if dataset in info.datasets]
    for info in fitting:
        if _is_here(info.find):
            remarks.append(f"{kind}: {info.name} (the first of {dataset} that is on this machine)")
            return info.name
    names = ", ".join(info.name for info in fitting) or "none"
    raise LookupError(f"No {kind} of {dataset} is on this machine. Known: {names}. `bench fetch NAME` gets one.")


def _is_here(find: Callable[[], Path]) -> bool:
    try:
        find()
    except LookupError:
        return False
    return True


def _class_names(info: DatasetInfo, data_dir: Path | None) -> Sequence[str]:
    """Names of the classes; numbers where the data set is not on this machine."""
    try:
        return load_dataset(info.name, data_dir=data_dir).class_names
    except (LookupError, OSError, ValueError):
        return ()
