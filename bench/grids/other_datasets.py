"""The paper's other small data sets, and the two MNISTs, on small networks: a first look, so that none is untouched.

Quick tier, as `cifar10_small`: 64 test pictures, PGD-10 of one fresh draw a step, three judging draws. MNIST and
Fashion-MNIST have public score networks of their own, weak ones. GTSRB and CIFAR-100 borrow the CIFAR-10 score network
of this package, which never saw their pictures. The classifier of CIFAR-100 was trained on four fifths of its *test*
split and is attacked on the other fifth (data set `cifar100_fifth`). Nothing published is comparable.

Radii and noise levels were chosen by a look at other test pictures (benchmarks/other_datasets.py, docs/assets.md). For
grey pictures a radius that takes the bare classifier to nothing; in colour the usual 8/255. The noise level is the
largest of those looked at (0.05, 0.1; 0.2 for grey pictures) that costs at most a fifth of the clean accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.cell import Cell
from bench.grids.grid import Grid
from bench.grids.paper_tables import SMALL
from bench.report import Table
from bench.threat import ThreatModel
from defenses import Defense, Gradient
from defenses.contrastive import Contrastive
from defenses.diffpure_ode import DiffPureODE
from defenses.undefended import Undefended

IMAGES = 64
KINDS: tuple[Gradient, ...] = ("straight_through", "guidance_detached", "exact")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A data set with its networks.

    Attributes:
        dataset: name.
        classifier: name.
        score: name of the purifiers' network.
        epsilon: Linf radius, image units.
        t: diffusion time of the purifiers.
    """

    dataset: str
    classifier: str
    score: str
    epsilon: float
    t: float

    def defenses(self) -> Iterator[Defense]:
        """Undefended, DiffPure's ODE, and contrastive guidance on it."""
        yield Undefended()
        yield DiffPureODE(t=self.t, steps=SMALL.ode_steps)
        yield Contrastive(t=self.t, steps=SMALL.ode_steps, solver="ode")

    def cell(self, defense: Defense, gradient: Gradient) -> Cell:
        """A cell of the quick tier; the pictures are the same for every defense."""
        return Cell(
            dataset=self.dataset,
            classifier=self.classifier,
            score=self.score if defense.needs_score else None,
            defense=defense,
            attack=SMALL.attack(self.epsilon),
            threat=ThreatModel(norm="Linf", epsilon=self.epsilon, gradient=gradient),
            num_images=IMAGES,
            draws=SMALL.draws,
        )

    def cells(self) -> Iterator[Cell]:
        """Each defense under each kind of gradient that tells something about it."""
        for defense in self.defenses():
            for kind in KINDS if defense.stochastic else ("exact",):
                if kind in ("straight_through", *defense.gradients):
                    yield self.cell(defense, kind)


SETTINGS = (
    Setting(dataset="mnist", classifier="mnist_cnn", score="ddpm_mnist", epsilon=0.15, t=0.2),
    Setting(dataset="fashion_mnist", classifier="fashion_cnn", score="ddpm_fashion", epsilon=0.1, t=0.2),
    Setting(dataset="gtsrb", classifier="gtsrb_resnet20", score="cifar10_small", epsilon=8 / 255, t=0.05),
    Setting(dataset="cifar100_fifth", classifier="cifar100_resnet20", score="cifar10_small", epsilon=8 / 255, t=0.1),
)


def cells() -> Iterator[Cell]:
    """Data set by data set."""
    for setting in SETTINGS:
        yield from setting.cells()


CAPTION = (
    "PGD takes ten steps of one draw: less than the quick tier's usual 20 of four. A longer attack may leave less. "
    "Radius and noise level were chosen for these networks by a look at other pictures."
)
BORROWED = "The score network is that of CIFAR-10 (cifar10_small): it never saw a picture of this data set."
NOTES = {
    "gtsrb": BORROWED,
    "cifar100_fifth": f"{BORROWED} The classifier was trained on the other four fifths of the test split.",
}
TABLES = tuple(
    Table(
        name=setting.dataset,
        title="Other data sets",
        caption=" ".join(filter(None, (CAPTION, NOTES.get(setting.dataset)))),
        rows=("defense",),
        columns=("gradient",),
        values=("robust",),
        where={"dataset": setting.dataset},
    )
    for setting in SETTINGS
)
GRID = Grid(title="Other data sets, small networks", cells=cells, caption=CAPTION, tables=TABLES)
