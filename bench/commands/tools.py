"""The verbs around a run: `bench audit`, `bench train`, `bench fetch`, `bench doctor`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("defense")
@click.option("--dataset", default="digits", show_default=True, help="Data set of the test images.")
@click.option("--classifier", default="digits_cnn", show_default=True, help="Classifier behind the defense.")
@click.option(
    "--score", default="digits_score", show_default=True, help="Score network (diffusion model) of the defense."
)
@click.option(
    "--images", default=4, show_default=True, type=click.IntRange(min=1), metavar="N", help="Number of images."
)
@click.option("--set", "fields", multiple=True, metavar="FIELD=VALUE", help="Set a field of the defense. Repeatable.")
@click.option("--seed", default=0, show_default=True, type=int, metavar="N", help="Seed of every random draw.")
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE", help="As torch writes it.")
def audit(
    defense: str,
    dataset: str,
    classifier: str,
    score: str,
    images: int,
    fields: tuple[str, ...],
    seed: int,
    device: str,
) -> None:
    """Check the gradients of a defense, in float64. DEFENSE is a name, or a Python file that defines defenses.

    Each kind of gradient is compared with the exact one, and the exact one with finite differences, at the images and
    at a random start; a verdict in words ends it.

    \b
    bench audit contrastive --set t=0.05 --set steps=10
    bench audit my_defense.py
    """
    from bench.commands.audit import audit as verb

    click.echo(verb(defense, dataset, classifier, score, images, fields, seed, device))


@click.command()
@click.argument("name")
@click.option(
    "--dataset",
    default=None,
    help="For `score`, `classifier`, `velocity` and `adbm`. `score` also takes imagefolder:<folder>.",
)
@click.option(
    "--scale",
    default=None,
    metavar="small|full",
    help="Size of `score` and `velocity`: small is for a CPU (default), full is the paper's.",
)
@click.option("--device", default=None, metavar="DEVICE", help="For `score`. Default: cpu if small, cuda if full.")
@click.option(
    "--corruption",
    default=None,
    metavar="gaussian|pgd",
    help="What `velocity` learns to undo: Gaussian noise (default), or PGD on --classifier.",
)
@click.option("--classifier", default=None, metavar="NAME", help="Whose attacks `velocity` (pgd) and `adbm` undo.")
@click.option(
    "--score",
    default=None,
    metavar="NAME",
    help="Network that `score` trains further or `adbm` fine-tunes, of scale small.",
)
@click.option("--download", is_flag=True, help="Download a missing data set where torchvision can.")
@click.option(
    "--adversarial",
    default=None,
    metavar="NORM:EPSILON",
    help="Size of the attacks that `classifier` or `adbm` is trained against, e.g. Linf:8/255.",
)
@click.option(
    "--network",
    default=None,
    metavar="blocks|resnet20|cnn",
    help="What `classifier` trains: a ResNet on 2x2 blocks (default), ResNet-20, or a small CNN for grey pictures.",
)
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), default=None, help="Folder for the weights."
)
@click.option("--seed", default=0, show_default=True, type=int, metavar="N", help="Seed of every random draw.")
@click.option("--effort", default=1.0, show_default=True, help="Factor on the number of training steps.")
def train(
    name: str, dataset: str | None, output: Path | None, seed: int, effort: float, **options: str | bool | None
) -> None:
    """Train networks, and record how. A training that was interrupted continues from its checkpoint.

    \b
    bench train digits --output weights/digits
    bench train score --dataset cifar10
    bench train score --dataset cifar100 --scale full --download
    bench train classifier --dataset cifar10 --adversarial Linf:8/255
    bench train velocity --dataset cifar10 --corruption pgd --classifier cifar_resnet56
    bench train adbm --dataset cifar10 --score cifar10_small --classifier cifar_resnet56
    """
    from bench.commands.train import train as verb

    verb(name, output, dataset, seed, effort, {key: value for key, value in options.items() if value})


@click.command()
@click.argument("what", metavar="GRID")
def fetch(what: str) -> None:
    """Download what a grid needs into the cache folder (BENCH_CACHE_DIR). GRID may also be one network or data set.

    A download that was interrupted continues. The sha256 of each file is recorded on first use and checked afterwards.

    \b
    bench fetch paper_tables
    bench fetch robustbench:cifar10:Linf:Standard
    """
    from bench.commands.fetch import fetch as verb

    if not verb(what):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("what", metavar="[GRID]", required=False)
def doctor(what: str | None) -> None:
    """Show what this machine has, and what a grid (or the whole benchmark) misses and where to get it.

    \b
    bench doctor
    bench doctor paper_tables
    """
    from bench.commands.doctor import doctor as verb

    click.echo(verb(what))
