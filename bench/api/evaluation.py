"""`bench.evaluate`: one measurement of networks, pictures and a defense that are at hand in Python."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from bench.api.given_networks import (
    device_of,
    given_classifier,
    given_score,
    left_as_found,
    named_classifier,
    try_classifier,
)
from bench.api.given_pictures import FORMS, GivenPictures, take_pictures
from bench.api.result import Result, frame_of
from bench.attacks.apgd_eot import APGDEOT
from bench.attacks.base import Attack, attacks
from bench.attacks.clean import Clean
from bench.attacks.gold import Gold
from bench.attacks.pgd_eot import PGDEOT
from bench.attacks.strong import Strong
from bench.cell import Cell, Tier
from bench.commands.report import tables
from bench.commands.run import loader, open_store
from bench.datasets import DATASETS, DatasetInfo, dataset_info
from bench.evidence import Vault, vault_beside
from bench.report.frames import cells_of
from bench.run.display import make_watcher
from bench.run.prepare import Loader
from bench.run.runner import run_cells
from bench.store import Store
from bench.threat import Knowledge, Norm, ThreatModel
from defenses.base import Defense, Gradient, defenses
from defenses.models.classifiers import CLASSIFIERS, classifier_info, load_classifier
from defenses.models.info import ClassifierInfo, ScoreInfo
from defenses.models.scores import SCORES
from defenses.precision import Precision
from defenses.undefended import Undefended

OF_A_DATASET = 64  # images of a data set by name, where no number is given
DRAWS = {"quick": 10, "paper": 10, "strong": 100, "gold": 100}  # as the grids judge an image
USUAL = {"L2": 0.5, "L1": 12}  # radii on CIFAR-10
GRID = "evaluate"  # what the database calls the grid of these cells
_TURN = threading.RLock()  # networks are registered while they are measured


class EvaluationFailed(RuntimeError):
    """A measurement ended by an error. The message says which and what to do; the note holds the traceback."""


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a cell names, with the records of what only this session knows."""

    defense: Defense
    dataset: str
    classifier: str
    score: str | None
    num_images: int
    datasets: tuple[DatasetInfo, ...] = ()
    classifiers: tuple[ClassifierInfo, ...] = ()
    scores: tuple[ScoreInfo, ...] = ()

    @property
    def are_given(self) -> bool:
        return bool(self.datasets or self.classifiers or self.scores)


def evaluate(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    defense: Defense | str | None = None,
    score: Any = None,
    norm: Norm = "Linf",
    epsilon: float | None = None,
    gradient: Gradient = "exact",
    noise: Knowledge = "fresh",
    attack_precision: Precision = "float32",
    compiled: bool = False,
    attack: Attack | str | None = None,
    tier: Tier = "quick",
    num_images: int | None = None,
    draws: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    data_seed: int = 0,
    db: str | os.PathLike[str] | None = None,
    device: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    progress: bool = False,
) -> Result:
    """Measure how robust a classifier is behind a defense, by the protocol of docs/protocol.md.

    A cell like every other: attacked, projected, judged on fresh draws. Networks that are given as objects are left as
    they were found, and are always measured anew, as are defenses and attacks that a notebook defines: nobody can see
    all that decides their answers. Names alone are taken from `db` where they have been measured.

    Args:
        model: the classifier: an `nn.Module` from images (batch, channels, height, width) in [0, 1] to logits, or the
            name of one.
        x: pictures: an array or a tensor (n, channels, height, width), floats in [0, 1] or 8-bit integers; a torch data
            set or loader of (picture, label); or the name of a data set.
        y: (n,) labels of an array; None where x holds them.
        defense: an instance such as DiffPureSDE(t=0.1), or the name of one with its default fields; None is undefended.
        score: the score network (diffusion model) of the defense: its name, or a `ScoreModel` such as `NetworkScore`.
        norm: "Linf", "L2" or "L1".
        epsilon: radius in image units, >= 0; None is 8/255 in Linf, the other norms need one.
        gradient: what the attacker differentiates, see `Defended`.
        noise: "fresh", or "known": attack and judge use the same recorded draw of each image (DW-box); a number of
            that fixed function, never to be compared with one of fresh draws.
        attack_precision: what the attacker's gradients compute in: "float32", "tf32" (a GPU) or "bfloat16" (the score
            network); the judge stays in float32.
        compiled: whether the networks are compiled for these gradients (torch.compile); the judge stays eager.
        attack: an instance or a name; None is PGD+EOT of 20 steps (in L1 APGD+EOT) in the tier "quick", and `Strong()`
            or `Gold()` in the tiers of these names.
        tier: "quick" (no robustness claim), "paper", "strong" or "gold"; all but the first check every validity gate.
        num_images: how many; None is all that are given, or 64 of a data set by name. Of a loader the first ones, else
            a sample.
        draws: judging draws an image; None is 10, or 100 in the tiers "strong" and "gold".
        batch_size: images a batch.
        seed: of every random draw.
        data_seed: which sample of the pictures.
        db: database that keeps the result, with the adversarial images beside it; None keeps it in the returned object
            alone.
        device: as torch writes it; None is where the given networks lie, else a GPU where there is one.
        data_dir: folder of the data sets.
        download: whether torchvision may download a missing data set.
        progress: whether to show how far it is.

    Raises:
        ValueError: something has another form than expected; nothing has run then.
        LookupError: an unknown name, or weights or data that are not on this machine.
        EvaluationFailed: the measurement itself ended by an error.
    """
    own = _make_defense(defense)
    used = score if own.needs_score else None
    threat = _make_threat(norm, epsilon, gradient, noise)
    Cell(  # values are answered for before anything is loaded
        dataset="pictures", classifier="model", defense=own, attack=Clean(), threat=threat, batch_size=batch_size,
        num_images=1 if num_images is None else num_images, draws=1 if draws is None else draws, seed=seed,
        data_seed=data_seed, tier=tier,
    )  # fmt: skip
    if own.needs_score and score is None:
        raise ValueError(f"{type(own).__name__} needs a score network, got none. Give score=; `bench list scores`.")
    with _TURN, left_as_found(model, used):
        parts = _name_parts(model, x, y, own, used, num_images, data_seed)
        cell = Cell(
            dataset=parts.dataset, classifier=parts.classifier, score=parts.score,
            defense=parts.defense,
            attack=_make_attack(attack, tier, threat, own), threat=threat, num_images=parts.num_images,
            data_seed=data_seed, batch_size=batch_size, draws=DRAWS[tier] if draws is None else draws, seed=seed,
            tier=tier,
        )  # fmt: skip
        place = device or device_of(model, used)
        cell = replace(cell, attack_precision=attack_precision)
        loads = loader(
            None if place is None else str(place), Path(data_dir) if data_dir else None, download, compiled=compiled
        )
        with _registered(parts), _database(db) as address:
            vault = vault_beside(address) if db is not None else None
            return _measure(cell, parts, loads, address, progress, vault)


def _make_defense(defense: Defense | str | None) -> Defense:
    made = Undefended() if defense is None else defenses.make(defense) if isinstance(defense, str) else defense
    if not isinstance(made, Defense):
        raise ValueError(f"Expected a defense such as DiffPureSDE(t=0.1) or the name of one, got {made!r}.")
    return made


def _make_threat(norm: Norm, epsilon: float | None, gradient: Gradient, noise: Knowledge) -> ThreatModel:
    if epsilon is None and norm in ("L2", "L1"):
        raise ValueError(
            f"Expected epsilon for norm {norm}, got none: 8/255 is a radius for Linf. Give it, such as epsilon="
            f"{USUAL[norm]} on CIFAR-10."
        )
    return ThreatModel(norm=norm, epsilon=8 / 255 if epsilon is None else epsilon, gradient=gradient, noise=noise)


def _make_attack(attack: Attack | str | None, tier: str, threat: ThreatModel, defense: Defense) -> Attack:
    made = attacks.make(attack) if isinstance(attack, str) else attack
    if made is None and tier in ("strong", "gold"):
        return Strong() if tier == "strong" else Gold()
    if made is None and tier == "paper":
        raise ValueError("Expected the paper's own attack for tier='paper', got none. Give attack=, or another tier.")
    if made is None:
        eot = 4 if defense.stochastic else 1
        if threat.norm == "L1":  # where PGD is weak
            return APGDEOT(steps=20, eot=eot)
        return PGDEOT(steps=20, step_size=max(threat.epsilon, 1e-6) / 8, eot=eot)
    if not isinstance(made, Attack):
        raise ValueError(f"Expected an attack such as PGDEOT(steps=20) or the name of one, got {made!r}.")
    return made


def _name_parts(
    model: Any, x: Any, y: Any, defense: Defense, score: Any, num_images: int | None, data_seed: int
) -> _Parts:
    """Names for everything, and records of what has none."""
    scores = () if score is None or isinstance(score, str) else (given_score(score),)
    score_name = scores[0].name if scores else score
    if isinstance(x, str):
        if y is not None:
            raise ValueError(f"Expected no y beside the name of a data set, got {type(y).__name__}. Leave it out.")
        dataset_info(x)
        classifiers = () if isinstance(model, str) else (given_classifier(model, x),)
        return _Parts(
            defense=defense, dataset=x, classifier=classifiers[0].name if classifiers else model, score=score_name,
            num_images=num_images or OF_A_DATASET, classifiers=classifiers, scores=scores,
        )  # fmt: skip
    if x is None:
        raise ValueError(f"Expected pictures, got none. Give {FORMS}.")
    pictures = take_pictures(x, y, num_images, data_seed)
    classifier = _classifier_of(model, pictures)
    network = classifier.load().eval()
    info = pictures.dataset(try_classifier(network, pictures.sample(2)))
    brought = {  # the networks of a defense are asked about these pictures too
        name: named_classifier(classifier_info(name), load_classifier(name), info.name)
        for name in defense.networks().classifiers
    }
    renamed = defense.with_networks({name: record.name for name, record in brought.items()})
    records = {record.name: record for record in (classifier, *brought.values())}
    return _Parts(
        defense=renamed, dataset=info.name, classifier=classifier.name, score=score_name,
        num_images=len(pictures.pictures), datasets=(info,), classifiers=tuple(records.values()), scores=scores,
    )  # fmt: skip


def _classifier_of(model: Any, pictures: GivenPictures) -> ClassifierInfo:
    if isinstance(model, str):
        return named_classifier(classifier_info(model), load_classifier(model), pictures.name)
    return given_classifier(model, pictures.name)


@contextmanager
def _registered(parts: _Parts) -> Iterator[None]:
    with (
        DATASETS.temporarily(parts.datasets),
        CLASSIFIERS.temporarily(parts.classifiers),
        SCORES.temporarily(parts.scores),
    ):
        yield


@contextmanager
def _database(db: str | os.PathLike[str] | None) -> Iterator[str]:
    """The address of the database, or of one that is gone afterwards."""
    with ExitStack() as stack:
        if db is None:
            folder = stack.enter_context(TemporaryDirectory(prefix="bench-"))
            yield str(Path(folder) / "results.sqlite")
        else:
            yield os.fspath(db)


def _measure(cell: Cell, parts: _Parts, loads: Loader, address: str, progress: bool, vault: Vault | None) -> Result:
    console = None if progress else Console(quiet=True, force_terminal=False)
    with open_store(address) as store:
        with make_watcher(console, [cell]) as shown:
            force = parts.are_given or any(type(part).__module__ == "__main__" for part in (cell.defense, cell.attack))
            outcome = run_cells([cell], store, loads, shown, grid=GRID, force=force, vault=vault)
        if outcome.failed:
            raise _failure(store, cell)
        if outcome.busy:
            raise EvaluationFailed(f"Another process is measuring this in {store.where}. Wait for it.")
        frame = store.frame()
        row = next(row for row in cells_of(frame) if row["cell_key"] == cell.key)
        return Result(
            cell=cell,
            row=row,
            images=frame_of(store.images(row["run_id"])),
            _text=tables(store, None, [cell], "text"),
            _html=tables(store, None, [cell], "html", fragment=True),
        )


def _failure(store: Store, cell: Cell) -> EvaluationFailed:
    run = store.runs_of(cell.key)[0]
    remedy = f" {run['remedy']}" if run["remedy"] else ""
    error = EvaluationFailed(f"{run['error_class']}: {run['error_message']}{remedy}")
    error.add_note(run["error_traceback"])
    return error
