"""Every table of Bai et al., "Diffusion Models Demand Contrastive Guidance for Adversarial Purification to Advance",
ICML 2024 (PMLR 235:2375-2391), in the authors' settings (tier paper) and under our own (tiers strong and gold).

The settings are those of the authors' released scripts; which script made which table is an inference, and what no
source at hand states is called unknown in the captions. Three seeds on eight data seeds of 64 pictures, as the authors'
job queue has it (ImageNet: two on 32 of 16). The paper tier takes the gradient that the released code has, the
identity through the purifier; DiffPure is also run with its own authors' adjoint gradient, to which its published
numbers belong.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from bench.attacks.autoattack_rand import AutoAttackRand
from bench.attacks.autoattack_standard import AutoAttackStandard
from bench.attacks.base import Attack
from bench.attacks.bpda_eot import BPDAEOT
from bench.attacks.eotpgd_10 import EOTPGD10
from bench.attacks.stadv import StAdv
from bench.cell import Cell
from bench.grids._experiment import Experiment, cells_of, members_of
from bench.grids._rows import DefenseRow, Sample
from bench.grids._small import Small
from bench.grids.grid import Grid
from bench.report import Table
from defenses import Defense
from defenses.adversarial_training import AdversarialTraining
from defenses.contrastive import Contrastive
from defenses.diffpure_ode import DiffPureODE
from defenses.diffpure_sde import DiffPureSDE
from defenses.diffusion.guidance import ContrastiveLoss
from defenses.gdmp import GDMP
from defenses.models.classifiers import classifier_info
from defenses.sde_gdmp import SDEGDMP

CIFAR = Sample(seeds=(121, 122, 123), data_seeds=tuple(range(8)), num_images=64, batch_size=64)
CIFAR_BPDA = Sample(seeds=(121, 122, 123), data_seeds=tuple(range(8)), num_images=200, batch_size=10)
GTSRB_BPDA = Sample(seeds=(121, 122, 123), data_seeds=tuple(range(8)), num_images=10, batch_size=10)
IMAGENET = Sample(seeds=(121, 122), data_seeds=tuple(range(32)), num_images=16, batch_size=16)
IMAGENET_AUTOATTACK = Sample(seeds=(121, 122), data_seeds=tuple(range(32)), num_images=16, batch_size=4)

LINF, LINF_IMAGENET = 0.031373, 0.0157  # as the scripts write 8/255 and 4/255
WRN28, WRN70, RN50 = "robustbench:cifar10:Linf:Standard", "diffpure_wrn70_16_dropout", "diffpure_resnet50"
RN18 = "imagenet_resnet18"  # the guide on ImageNet
RAND, STANDARD = AutoAttackRand(), AutoAttackStandard()
BPDA = BPDAEOT(steps=50, step_size=2 / 255, eot=15, defense_replicates=150)
PGD = EOTPGD10(steps=10, step_size=2 / 255, eot=20)
STADV = StAdv(steps=100, bound=0.05, eot=20)

SMALL = Small(classifier="cifar_resnet56", score="cifar10_small", trained="cifar10_small_at")

CIFAR10: dict[str, Any] = {"dataset": "cifar10", "score": "ddpmpp_cifar10", "sample": CIFAR}
CIFAR100: dict[str, Any] = {
    "dataset": "cifar100", "score": "ddpmpp_cifar100", "sample": CIFAR, "classifier": "cifar100_wrn28_10",
    "norm": "Linf", "epsilon": LINF,
}  # fmt: skip
GTSRB: dict[str, Any] = {"dataset": "gtsrb", "score": "ddpmpp_gtsrb", "sample": CIFAR, "classifier": "gtsrb_resnet18"}
IMAGENET_LINF: dict[str, Any] = {"dataset": "imagenet", "score": "guided256", "norm": "Linf", "epsilon": LINF_IMAGENET}


def guided_a(t: float, **changes: Any) -> Contrastive:
    """Guidance set A: CIFAR-10 under AutoAttack and PGD+EOT, CIFAR-100 and ImageNet under PGD+EOT."""
    return _guided(t, {"guide_from": 0, "guidance_scale": 500.0, "temperature": 1.0, **changes})


def guided_b(t: float, **changes: Any) -> Contrastive:
    """Guidance set B: every BPDA+EOT script."""
    return _guided(t, {"guide_from": 40, "guidance_scale": 5000.0, "temperature": 10.0, **changes})


def guided_c(t: float, **changes: Any) -> Contrastive:
    """Guidance set C: CIFAR-100, GTSRB and ImageNet under AutoAttack; the sweep over t."""
    return _guided(t, {"guide_from": 40, "guidance_scale": 500.0, "temperature": 1.0, **changes})


def _guided(t: float, fields: dict[str, Any]) -> Contrastive:
    common = {"guide_until": 100_000, "loss": "released_hard", "tau_plus": 0.1, "beta": 1.0}
    return Contrastive(t=t, **{**common, **fields})


def released(defense: Defense, number: int | None = None) -> DefenseRow:
    """A defense under the gradient of the released code.

    Args:
        defense: with the settings of the released scripts.
        number: of the published row of this paper; None where it has none.
    """
    key = f"bai2024contrastive-{number}" if number else None
    return DefenseRow(defense=defense, gradient="straight_through", published=key)


def diffpure(t: float, *, adjoint: str | None = None, number: int | None = None) -> tuple[DefenseRow, DefenseRow]:
    """DiffPure under the gradient of the released code, and under the adjoint of its own authors."""
    defense = DiffPureSDE(t=t)
    return released(defense, number), DefenseRow(defense=defense, gradient="adjoint", published=adjoint)


def trained(threat: str, *models: str, attack: Attack = STANDARD, published: bool = True) -> tuple[DefenseRow, ...]:
    """Adversarially trained models of RobustBench.

    Args:
        threat: "<dataset>:<norm>" there.
        models: keys of their published numbers, "<name there>-<number>".
        attack: that the table runs on them.
        published: whether the published number belongs to this threat.
    """
    return tuple(
        DefenseRow(
            defense=AdversarialTraining(model=f"robustbench:{threat}:{key.rpartition('-')[0]}"),
            gradient="exact",
            attack=attack,
            published=key if published else None,
        )
        for key in models
    )


def gdmp(t: float) -> DefenseRow:
    """GDMP as the authors ran it, on the VP-SDE."""
    return released(SDEGDMP(t=t))


EXPERIMENTS = (
    Experiment(
        table="autoattack-linf", **CIFAR10, classifier=WRN28, small=SMALL, attack=RAND, norm="Linf", epsilon=LINF,
        rows=(
            *trained(
                "cifar10:Linf", "Gowal2020Uncovering_28_10_extra-1", "Rebuffi2021Fixing_28_10_cutmix_ddpm-1",
                "Gowal2021Improving_28_10_ddpm_100m-1", "Pang2022Robustness_WRN28_10-1", "Xu2023Exploring_WRN-28-10-1",
            ),
            gdmp(0.1), *diffpure(0.1, adjoint="nie2022diffpure-1"), released(guided_a(0.1), 12),
        ),
    ),
    Experiment(
        table="autoattack-linf", **CIFAR10, classifier=WRN70, attack=RAND, norm="Linf", epsilon=LINF,
        rows=(
            *trained(
                "cifar10:Linf", "Gowal2020Uncovering_70_16_extra-1", "Rebuffi2021Fixing_70_16_cutmix_extra-1",
                "Gowal2021Improving_70_16_ddpm_100m-1", "Pang2022Robustness_WRN70_16-1", "Wang2023Better_WRN-70-16-1",
            ),
            gdmp(0.1), *diffpure(0.1, adjoint="nie2022diffpure-3"), released(guided_a(0.1, guide=WRN28), 3),
        ),
    ),
    Experiment(
        table="autoattack-l2", **CIFAR10, classifier=WRN28, small=SMALL, attack=RAND, norm="L2", epsilon=0.5,
        rows=(
            *trained("cifar10:L2", "Rebuffi2021Fixing_28_10_cutmix_ddpm-3", "Augustin2020Adversarial_34_10_extra-1"),
            gdmp(0.075), *diffpure(0.075, adjoint="nie2022diffpure-2"), released(guided_a(0.075), 4),
        ),
    ),
    Experiment(
        table="autoattack-l2", **CIFAR10, classifier=WRN70, attack=RAND, norm="L2", epsilon=0.5,
        rows=(
            *trained("cifar10:L2", "Gowal2020Uncovering_extra-1", "Rebuffi2021Fixing_70_16_cutmix_extra-3"),
            gdmp(0.075), *diffpure(0.075, adjoint="nie2022diffpure-4"), released(guided_a(0.075, guide=WRN28)),
        ),
    ),
    Experiment(
        table="unseen", **CIFAR10, classifier=RN50, attack=RAND, norm="Linf", epsilon=LINF,
        rows=(
            *trained("cifar10:Linf", "Engstrom2019Robustness-1"),
            *trained("cifar10:L2", "Engstrom2019Robustness-2", published=False),
            *diffpure(0.125, number=7), released(guided_a(0.125, guide=WRN28), 5),
        ),
    ),
    Experiment(
        table="unseen", **CIFAR10, classifier=RN50, attack=RAND, norm="L2", epsilon=1.0,
        rows=(
            *trained("cifar10:Linf", "Engstrom2019Robustness-1", published=False),
            *trained("cifar10:L2", "Engstrom2019Robustness-2", published=False),
            *diffpure(0.125, number=8), released(guided_a(0.125, guide=WRN28), 6),
        ),
    ),
    Experiment(
        table="unseen", **CIFAR10, classifier=RN50, attack=STADV, norm="Linf", epsilon=STADV.bound,
        rows=(
            *trained("cifar10:Linf", "Engstrom2019Robustness-1", attack=STADV, published=False),
            *trained("cifar10:L2", "Engstrom2019Robustness-2", attack=STADV, published=False),
            *diffpure(0.125), released(guided_a(0.125, guide=WRN28)),
        ),
    ),
    Experiment(
        table="bpda", **CIFAR10 | {"sample": CIFAR_BPDA, "gold_sample": CIFAR}, classifier=WRN28, attack=BPDA,
        norm="Linf", epsilon=LINF,
        rows=(
            *(replace(row, gradient="straight_through", published=key) for row, key in zip(
                trained("cifar10:Linf", "Carmon2019Unlabeled-1", "Gowal2020Uncovering_28_10_extra-1", attack=BPDA),
                ("aaopt2025-38", "aaopt2025-39"), strict=True,
            )),
            DefenseRow(defense=GDMP(), gradient="straight_through", published="aaopt2025-40"),
            DefenseRow(defense=DiffPureSDE(t=0.1), gradient="straight_through", published="nie2022diffpure-8"),
            released(guided_b(0.1), 16),
        ),
    ),
    Experiment(
        table="gtsrb", **GTSRB, attack=RAND, norm="Linf", epsilon=LINF,
        rows=(*diffpure(0.1), released(guided_c(0.1), 9)),
    ),
    Experiment(
        table="gtsrb", **GTSRB, attack=RAND, norm="L2", epsilon=0.5,
        rows=(*diffpure(0.075), released(guided_c(0.075), 10)),
    ),
    Experiment(
        table="gtsrb", **GTSRB | {"sample": GTSRB_BPDA, "gold_sample": CIFAR}, attack=BPDA, norm="Linf", epsilon=LINF,
        rows=(released(DiffPureSDE(t=0.1)), released(guided_b(0.1), 11)),
    ),
    Experiment(
        table="sampler", **CIFAR10, classifier=WRN28, small=SMALL, attack=RAND, norm="Linf", epsilon=LINF,
        rows=(
            released(DiffPureSDE(t=0.1)), released(DiffPureODE(t=0.1)),
            released(guided_a(0.1), 12), released(guided_a(0.1, solver="ode"), 13),
        ),
    ),
    Experiment(
        table="guidance", **CIFAR100, attack=RAND,
        rows=(released(DiffPureSDE(t=0.1), 15), released(guided_c(0.1), 14)),
    ),
    Experiment(
        table="gradient", **CIFAR10, classifier=WRN28, small=SMALL, attack=PGD, norm="Linf", epsilon=LINF,
        rows=(
            released(DiffPureSDE(t=0.1), 18),
            DefenseRow(defense=DiffPureSDE(t=0.1), gradient="exact", published="bai2024contrastive-17"),
            released(guided_a(0.1)), DefenseRow(defense=guided_a(0.1), gradient="exact"),
        ),
    ),
    Experiment(
        table="pgd-cifar100", **CIFAR100, attack=PGD,
        rows=(released(DiffPureSDE(t=0.1), 19), released(SDEGDMP(t=0.1), 20), released(guided_a(0.1), 21)),
    ),
    *(
        Experiment(
            table="pgd-imagenet", **IMAGENET_LINF, classifier=classifier, sample=IMAGENET, attack=PGD,
            rows=(released(DiffPureSDE(t=0.1), first), released(guided_a(0.1, guide=RN18), first + 1)),
        )
        for classifier, first in (("imagenet_resnet50", 22), ("imagenet_xcit_s24", 24))
    ),
    *(
        Experiment(
            table="autoattack-imagenet", **IMAGENET_LINF, classifier=classifier, sample=IMAGENET_AUTOATTACK,
            attack=RAND,
            rows=(
                *trained("imagenet:Linf", *models), *diffpure(0.15, adjoint=f"nie2022diffpure-{number}"),
                released(guided_c(0.15, guide=RN18)),
            ),
        )
        for classifier, number, models in (
            ("imagenet_resnet50", 5, ("Engstrom2019Robustness-3", "Wong2020Fast-1", "Salman2020Do_R50-1")),
            ("imagenet_wrn50_2", 6, ("Salman2020Do_50_2-1",)),
            ("imagenet_deit_s", 7, ()),
        )
    ),
    Experiment(
        table="losses", **CIFAR10, classifier=WRN28, small=SMALL, attack=RAND, norm="Linf", epsilon=LINF,
        rows=(
            released(DiffPureSDE(t=0.1)),
            *(released(guided_a(0.1, loss=loss), 12 if loss == "released_hard" else None)
              for loss in get_args(ContrastiveLoss)),
        ),
    ),
)  # fmt: skip
"""The lines of the authors' table of settings, and the ablations, in the order of our tables."""


def cells(protocol: str = "default") -> list[Cell]:
    """Every cell of every table, each once.

    Args:
        protocol: "default" (paper and strong), "paper", "strong", "gold", "both" (paper and gold), or "quick" (CIFAR-10
            on small networks).
    """
    return cells_of(EXPERIMENTS, protocol)


QUICK_NOTE = (
    "Quick protocol: ours on small networks, under PGD+EOT in ten steps of one draw whatever the table's attack; "
    "nothing here is comparable with the paper."
)
UNKNOWN_NUMBER = "The number of this table in the paper is unknown."


def _table(name: str, title: str, caption: str, *, classifier: str | None = None) -> Table:
    classifiers = (classifier, SMALL.classifier) if classifier == WRN28 else (classifier,)
    members = members_of(EXPERIMENTS, name)
    return Table(
        name=f"{name}-{classifier_info(classifier).title}".lower() if classifier else name,
        where={"classifier": classifiers} if classifier else {},
        title=title,
        caption=caption,
        rows=("defense",),
        columns=("tier",),
        values=("attack", "gradient", "num_images", "robust", "published_clean", "published"),
        only=members.holds,
        overrides=members.compare,
    )


TABLES = (
    _table(
        "autoattack-linf", "AutoAttack, Linf",
        "Table 1 of the paper. Its robust accuracy is quoted nowhere at hand; the one shown is that of Table 6a. "
        "Table 1 states 91.41 standard and 12.17 points above the best baseline: the same 82.81, if that is DiffPure's "
        "70.64 (derived). Another paper cites 77.08.",
        classifier=WRN28,
    ),
    _table(
        "autoattack-linf", "AutoAttack, Linf",
        "Table 1 of the paper. Its robust accuracy is quoted nowhere at hand. It states 11.52 points above the best "
        "baseline: 82.81, if that is DiffPure's 71.29 (derived). Another paper cites 79.10.",
        classifier=WRN70,
    ),
    _table(
        "autoattack-l2", "AutoAttack, L2",
        "Table 2 of the paper. Only a margin is quoted: 0.7 points above the best baseline.",
        classifier=WRN28,
    ),
    _table(
        "autoattack-l2", "AutoAttack, L2",
        "Table 2 of the paper. That it has this classifier is inferred from a released script.",
        classifier=WRN70,
    ),
    _table(
        "unseen", "Unseen threats",
        "Table 3 of the paper. StAdv's radius is its bound on the flow; guidance under StAdv has no released script "
        "and takes the settings of the two others (inferred).",
    ),
    _table(
        "bpda", "BPDA+EOT",
        f"{UNKNOWN_NUMBER} The number beside contrastive guidance is as another paper cites it. As released, the "
        "guided script stops with an error.",
    ),
    _table(
        "gtsrb", "AutoAttack and BPDA+EOT",
        f"{UNKNOWN_NUMBER} Only differences to DiffPure are quoted. Classifier and score network are the authors' own "
        "and not public. BPDA+EOT: 200 pictures are requested, the released loader gives 10. As released, the guided "
        "scripts stop with an error.",
    ),
    _table(
        "sampler", "Reverse SDE against ODE, without and with guidance",
        "Table 6a of the paper (guided rows). Its numbers and the sentence about them disagree on which sampler has "
        "the higher robust accuracy.",
    ),
    _table(
        "guidance", "Without and with guidance",
        "Table 6b of the paper. No script for the unguided row is released (its settings are inferred). The networks "
        "are the authors' own and not public.",
    ),
    _table(
        "gradient", "PGD+EOT with the purifier's gradient off and on",
        f"{UNKNOWN_NUMBER} The released code has no switch for the gradient; how \"on\" was made is unknown, and the "
        "exact gradient stands for it here (inferred).",
    ),
    _table(
        "pgd-cifar100", "PGD+EOT without the purifier's gradient",
        "Table 9 of the paper. The networks are the authors' own and not public.",
    ),
    _table(
        "pgd-imagenet", "PGD+EOT without the purifier's gradient",
        "Table 10 of the paper. The attack's steps are 2/255 here too, as released.",
    ),
    _table(
        "autoattack-imagenet", "AutoAttack, t = 0.15",
        "From released scripts; no table of the paper is known to hold the guided rows. DiffPure's numbers are as "
        "another paper cites them.",
    ),
    _table(
        "losses", "Guidance losses",
        "Ours: no published table compares them. Which loss made which table of the paper is unknown; its scripts "
        "select released_hard.",
    ),
)  # fmt: skip
GRID = Grid(
    title="Contrastive-guided purification (Bai et al., ICML 2024)", cells=cells, tables=TABLES, quick_note=QUICK_NOTE
)
