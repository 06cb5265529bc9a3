"""From a cell to what can be run: pictures, networks, the defended classifier; loaded once, shared by cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.cell import Cell
from bench.datasets import ImageSet, dataset_info, load_dataset, subset
from bench.run.fit import check_classifier, check_score
from bench.run.intact import ChangedNetwork, check_intact, fingerprint
from defenses.attacked import AttackedDefense
from defenses.base import Defended, Gradient
from defenses.known_noise import know_noise
from defenses.models.classifiers import check_dataset, classifier_info, load_classifier
from defenses.models.compiled import (
    NEAR_LOW,
    Compiling,
    compile_classifier,
    compile_score,
    compiled_networks,
)
from defenses.models.low_precision import in_bfloat16
from defenses.models.score_models import DataScore, ScoreModel
from defenses.models.scores import load_score, score_info
from defenses.precision import check_device


@dataclass
class Prepared:
    """A cell that is ready to run.

    Attributes:
        cell: what is to be measured.
        data: the test split of its data set.
        indices: (num_images,) places in the test split, in the order of evaluation.
        classifier: the network behind the defense.
        score: the defense's score network; None where it needs none.
        weights: name of each network -> sha256 of its file; None where it has no file.
        licences: name of the data set and of each network -> its licence.
        device: where the networks are.
        low: the score network in bfloat16, where the cell is attacked in that.
        fast: classifier and score network behind torch.compile, in the attack's precision; None where nothing is.
    """

    cell: Cell
    data: ImageSet
    indices: Tensor
    classifier: nn.Module
    score: ScoreModel | DataScore | None
    weights: dict[str, str | None]
    licences: dict[str, str]
    device: torch.device
    low: ScoreModel | DataScore | None = None
    fast: tuple[nn.Module, ScoreModel | DataScore | None] | None = None

    def model(self, gradient: Gradient | None = None) -> Defended:
        """The defended classifier with the cell's kind of gradient or another; on the recorded draws that it knows."""
        return self.seen(self.drawn(gradient))

    def seen(self, model: Defended) -> Defended:
        """The model as this cell's attack and judge see it: with its recorded draws where the noise is known."""
        return model if self.cell.threat.noise == "fresh" else know_noise(model, self.cell.seed)

    def drawn(self, gradient: Gradient | None = None) -> Defended:
        """As `model`, on fresh draws whatever the attacker knows."""
        kind = gradient or self.cell.threat.gradient
        return self.cell.defense.defend(self.classifier, self.score, gradient=kind).sealed().eval()

    def attacked(self, gradient: Gradient | None = None) -> Defended:
        """As `model`, as the cell's attack sees it: in the attack's precision where it records gradients."""
        cell, real = self.cell, self.drawn(gradient)
        if cell.attack_precision == "float32":
            return self.seen(real)
        score = self.low if cell.attack_precision == "bfloat16" else self.score
        low = cell.defense.defend(self.classifier, score, gradient=real.gradient).sealed()
        return self.seen(AttackedDefense(real, low, cell.attack_precision).eval())

    def attacking(self, gradient: Gradient | None = None) -> Defended:
        """As `attacked`, by compiled networks where there are some: what a batch is attacked with."""
        if self.fast is None:
            return self.attacked(gradient)
        real = self.drawn(gradient)
        low = self.cell.defense.defend(*self.fast, gradient=real.gradient).sealed()
        return self.seen(AttackedDefense(real, low, self.cell.attack_precision).eval())

    def notes(self) -> list[str]:
        """What a run is to say of its compiled networks."""
        told = [network.note() for network in compiled_networks(*(self.fast or ()))]
        for what, part in zip(("the classifier", "the score network"), self.fast or (), strict=False):
            if part is not None and not compiled_networks(part):
                told.append(f"--compile: {what} ran eagerly (a {type(part).__name__} cannot be compiled).")
        return [note for note in told if note is not None]

    def batch(self, rows: slice | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(images, labels, image ids) of some places of `indices`, on the device."""
        picked = self.indices[rows]
        return (
            self.data.images(picked).to(self.device),
            torch.as_tensor(self.data.labels)[picked].to(self.device),
            picked.to(self.device),
        )

    def counted(self, model: Defended) -> list[nn.Module]:
        """The networks whose evaluations are counted: the score network in each precision, else the classifier."""
        fast = None if self.fast is None else self.fast[1]
        found = [getattr(score, "network", score) for score in (self.score, self.low, fast)]
        networks = {id(network): network for network in found if isinstance(network, nn.Module)}
        return list(networks.values()) or [model.classifier, *compiled_networks(*(self.fast or ()))]


@dataclass
class Loader:
    """Loads data sets and networks by name, and keeps them for the next cell.

    Attributes:
        device: where the networks go.
        data_dir: folder of data sets; None is the default one (see `load_dataset`).
        download: whether torchvision may download a missing data set.
        compiling: how networks are compiled for the passes of attacks; None compiles none.
    """

    device: torch.device
    data_dir: Path | None = None
    download: bool = False
    compiling: Compiling | None = None
    _kept: dict[tuple[str, str], Any] = field(default_factory=dict)
    _marks: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    _fitting: set[tuple[str, str, str]] = field(default_factory=set)

    def prepare(self, cell: Cell) -> Prepared:
        """Load what a cell needs.

        Raises:
            LookupError: a data set or the weights of a network are not on this machine.
            ValueError: the parts do not fit together, such as a classifier and the data set of another.
        """
        check_device(cell.attack_precision, self.device)
        data = self.pictures(cell)
        for name in names_of(cell)[0]:
            check_dataset(name, cell.dataset)
        classifier = self._once("classifier", cell.classifier)
        score = self._once("score", cell.score) if cell.score else None
        indices = self.indices(cell)
        self._check_fit("classifier", cell.classifier, data, int(indices[0]))
        if cell.score:
            self._check_fit("score", cell.score, data, int(indices[0]))
        return Prepared(
            cell=cell,
            data=data,
            indices=indices,
            classifier=classifier,
            score=score,
            weights=weights_of(cell),
            licences=licences_of(cell),
            device=self.device,
            low=self._once("bfloat16", cell.score) if cell.score and cell.attack_precision == "bfloat16" else None,
            fast=None if self.compiling is None else self._compile(cell),
        )

    @property
    def backend(self) -> str | None:
        """What networks are compiled by; None compiles none."""
        return None if self.compiling is None else self.compiling.backend

    def tell(self, show_step: Callable[[str, int], None]) -> None:
        """Show from now on what is being compiled."""
        if self.compiling is not None:
            self.compiling.tell = lambda what: show_step(what, 0)

    def _compile(self, cell: Cell) -> tuple[nn.Module, ScoreModel | DataScore | None]:
        """Networks of a precision are compiled apart: kernels are chosen by it."""
        kind = f"compiled {cell.attack_precision}"
        score = self._once(f"{kind} score", cell.score) if cell.score else None
        return self._once(f"{kind} classifier", cell.classifier), score

    def pictures(self, cell: Cell) -> ImageSet:
        """Load the test split of a cell's data set.

        Raises:
            LookupError: it is not on this machine.
            ValueError: it has fewer images than the cell asks for.
        """
        data = self._once("dataset", cell.dataset)
        if cell.num_images > len(data):
            raise ValueError(
                f"Expected num_images <= {len(data)}, the test images of {cell.dataset}, got {cell.num_images}."
            )
        return data

    def indices(self, cell: Cell) -> Tensor:
        """(num_images,) places in the test split that a cell is measured on, in the order of evaluation."""
        return subset(self.pictures(cell).labels, cell.num_images, cell.data_seed, cell.balanced)

    def check_intact(self) -> None:
        """Compare every network with what was loaded; forget one that differs, so that the next cell loads it again.

        Raises:
            ChangedNetwork: a network differs.
        """
        for kind, name in list(self._marks):
            try:
                check_intact(name, self._kept[kind, name], self._marks[kind, name])
            except ChangedNetwork:
                for other, named in list(self._marks):  # networks of a name share tensors
                    if named == name:
                        self._kept.pop((other, name), None)
                        self._marks.pop((other, name), None)
                raise

    def _once(self, kind: str, name: str) -> Any:
        if (kind, name) not in self._kept:
            self._kept[kind, name] = self._load(kind, name)
            if kind != "dataset":
                self._marks[kind, name] = fingerprint(self._kept[kind, name])
        return self._kept[kind, name]

    def _check_fit(self, kind: str, name: str, data: ImageSet, index: int) -> None:
        """Ask a network about one picture, once for each data set."""
        if (kind, name, data.name) not in self._fitting:
            check = check_classifier if kind == "classifier" else check_score
            check(self._kept[kind, name], name, data, index, self.device)
            self._fitting.add((kind, name, data.name))

    def _load(self, kind: str, name: str) -> Any:
        if kind == "dataset":
            return load_dataset(name, data_dir=self.data_dir, download=self.download)
        if kind == "bfloat16":
            return in_bfloat16(self._once("score", name))
        if kind.startswith("compiled "):
            return self._load_compiled(kind, name)
        network = load_classifier(name) if kind == "classifier" else load_score(name)
        if isinstance(network, nn.Module):
            network.to(self.device).eval().requires_grad_(False)
        return network

    def _load_compiled(self, kind: str, name: str) -> Any:
        assert self.compiling is not None
        if kind.endswith(" classifier"):
            return compile_classifier(self._once("classifier", name), self.compiling)
        low = "bfloat16" in kind
        network = self._once("bfloat16" if low else "score", name)
        return compile_score(network, self.compiling, near=NEAR_LOW if low or "tf32" in kind else None)


def names_of(cell: Cell) -> tuple[list[str], list[str]]:
    """Names of the classifiers and of the score networks behind a cell, the defense's own included."""
    own = cell.defense.networks()
    return [cell.classifier, *own.classifiers], [*([cell.score] if cell.score else []), *own.scores]


def weights_of(cell: Cell) -> dict[str, str | None]:
    """Name -> sha256 of every weight file behind a cell, the defense's own networks included, and of own pictures.

    Raises:
        MissingWeights: a file is not on this machine.
    """
    classifiers, scores = names_of(cell)
    found: dict[str, str | None] = {name: classifier_info(name).weights_sha256() for name in classifiers}
    found |= {name: score_info(name).weights_sha256() for name in scores}
    content = dataset_info(cell.dataset).content
    return found if content is None else found | {cell.dataset: content()}


def licences_of(cell: Cell) -> dict[str, str]:
    """Name -> licence of the data set and of every network behind a cell."""
    classifiers, scores = names_of(cell)
    return (
        {cell.dataset: dataset_info(cell.dataset).licence}
        | {name: classifier_info(name).licence for name in classifiers}
        | {name: score_info(name).licence for name in scores}
    )
