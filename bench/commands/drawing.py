"""The verbs that draw: `bench plot`, `bench draw`, `bench purify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands.places import with_place
from bench.commands.sharing import with_db


@click.command()
@click.argument("cells", nargs=-1, metavar="[CELL ...]")
@click.option("--grid", metavar="NAME|FILE.py", help="All cells of a grid that have run.")
@click.option("--protocol", metavar="NAME", help="Only these cells of the grid; see `bench run --help`.")
@click.option(
    "--kind",
    type=click.Choice(("curve", "convergence", "votes", "worst", "published")),
    default="curve",
    show_default=True,
    help="curve: --y against --x. convergence: of the attack. votes: images by right draws. worst: worst-of-k against "
    "k. published: measured beside the literature.",
)
@click.option("--x", metavar="NUMBER", help="epsilon, t, steps, eot, evaluations, draws, or any field of a cell.")
@click.option(
    "--y", default="robust", show_default=True, metavar="NUMBER", help="robust, clean, null, vote, rounded ..."
)
@click.option("--by", default="defense,gradient", show_default=True, metavar="COLUMNS", help="What makes a line.")
@click.option("--width", type=click.Choice(("column", "page")), default="column", show_default=True, help="Of a paper.")
@click.option("--log", is_flag=True, help="Logarithmic x.")
@click.option("--title", metavar="TEXT", help="Heading. Default: the grid's.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default="my_plot.svg", show_default=True,
    help="The file: .svg, .png or .pdf.",
)  # fmt: skip
@with_db
def plot(cells: tuple[str, ...], grid: str | None, by: str, output: Path, db: str, **shown: Any) -> None:
    """Draw numbers of the database: a curve with its intervals, an attack's convergence, votes, published numbers.

    \b
    bench plot --grid cifar10_noise_level --x t --y robust --by defense -o curve.pdf
    bench plot 3f2a --kind votes -o my_votes.svg
    """
    from bench.commands.plot import plot as verb

    columns = [name.strip() for name in by.split(",") if name.strip()]
    click.echo(verb(db, cells, grid, output, by=columns, **shown))


@click.command()
@click.argument("cell", metavar="CELL")
@click.option("--grid", metavar="FILE.py", help="A file that defines what the cell names.")
@with_db
@with_place
@click.option("--images", type=click.IntRange(min=1), default=8, show_default=True, help="How many: the first ones.")
@click.option("--index", metavar="I,J,...", help="These images of the data set instead.")
@click.option("--draws", type=click.IntRange(min=1), default=3, show_default=True, help="Purifications of each.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of these draws.")
@click.option("--width", type=click.Choice(("column", "page")), default="page", show_default=True, help="Of a paper.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default="strip.png", show_default=True,
    help="The file: .svg, .png or .pdf.",
)  # fmt: skip
def draw(
    cell: str, grid: str | None, db: str, data_dir: Path | None, device: str | None, evidence: str | None,
    index: str | None, output: Path, **shown: Any,
) -> None:  # fmt: skip
    """Draw images of a cell: clean, adversarial, their difference, and what the defense makes of them.

    \b
    bench draw 3f2a --images 8
    """
    from bench.commands.draw import draw as verb
    from bench.commands.run import loader
    from bench.commands.sharing import make_vault

    vault, loads = make_vault(db, evidence, False), loader(device, data_dir, False)
    click.echo(verb(db, cell, output, loads, vault, grid=grid, index=_parse_index(index), **shown))


def _parse_index(text: str | None) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError as error:
        raise ValueError(f"Expected --index as whole numbers such as 5,17, got {text!r}.") from error


@click.command()
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PICTURE ...")
@click.option("--defense", default="diffpure_sde", show_default=True, metavar="NAME", help="What purifies.")
@click.option("--set", "fields", multiple=True, metavar="FIELD=VALUE", help="Set a field of the defense. Repeatable.")
@click.option("--dataset", default="cifar10", show_default=True, metavar="NAME", help="Size of pictures, and classes.")
@click.option("--classifier", metavar="NAME", help="Default: the first of the data set that is on this machine.")
@click.option("--score", metavar="NAME", help="Score network. Default: likewise.")
@click.option(
    "--draws", type=click.IntRange(min=1), default=3, show_default=True, help="Purifications of each picture."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws.")
@click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:1. Default: a GPU if there is one.")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="BENCH_DATA_DIR", help="Folder of data sets.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), default="purified", show_default=True,
    help="Folder for the pictures.",
)  # fmt: skip
def purify(
    pictures: tuple[Path, ...],
    device: str | None,
    data_dir: Path | None,
    output: Path,
    draws: int,
    seed: int,
    **named: Any,
) -> None:
    """Purify your own pictures: labels before and after are printed, the purified pictures and a strip are written.

    \b
    bench purify cat.png dog.jpg --defense diffpure_sde --dataset cifar10
    """
    from bench.commands.purify import Names
    from bench.commands.purify import purify as verb
    from bench.commands.run import loader

    place = str(loader(device, data_dir, False).device)
    click.echo(verb(pictures, Names(**named), output, draws=draws, seed=seed, device=place, data_dir=data_dir))
