"""The verbs that look behind a number: `bench verify`, `bench export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands.places import with_place
from bench.commands.sharing import with_db

INCOMPLETE = 3  # exit code: nothing is wrong, but something could not be judged


@click.command()
@click.argument("cells", nargs=-1, metavar="[CELL ...]")
@click.option("--grid", metavar="NAME|FILE.py", help="All cells of a grid; a file may define what a cell names.")
@with_db
@with_place
@click.option(
    "--draws", type=click.IntRange(min=1), metavar="N", help="Fresh draws. Default: what 1 % of the cost buys."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the fresh draws.")
@click.option("--replay", is_flag=True, help="Also ask the very draws of the run: every vote has to come again.")
@click.option("--images", type=click.Path(path_type=Path), metavar="X.npz", help="Judge images that others made.")
@click.option("--by", metavar="WHO", help="With --images: who made them.")
@click.option("--dataset", metavar="NAME", help="With --images: the data set.")
@click.option("--classifier", metavar="NAME", help="With --images: the classifier.")
@click.option("--defense", metavar="NAME|FILE.py", default="undefended", help="With --images: the defense.")
@click.option("--score", metavar="NAME", help="With --images: the score network of the defense.")
@click.option("--set", "fields", multiple=True, metavar="FIELD=VALUE", help="With --images: a field of the defense.")
@click.option("--norm", type=click.Choice(("Linf", "L2", "L1")), default="Linf", help="With --images: the ball.")
@click.option("--epsilon", default="8/255", show_default=True, metavar="E", help="With --images: its radius.")
@click.option("--gradient", default="none", show_default=True, help="With --images: what the attacker differentiated.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="With --images.")
@click.option("--no-evidence", is_flag=True, help="With --images: keep no copy of them.")
def verify(
    cells: tuple[str, ...],
    grid: str | None,
    db: str,
    data_dir: Path | None,
    device: str | None,
    evidence: str | None,
    draws: int | None,
    seed: int,
    replay: bool,
    images: Path | None,
    by: str | None,
    no_evidence: bool,
    batch_size: int,
    **claimed: Any,
) -> None:
    """Check a stored number: sums, ball, labels, votes; then judge its images again, on draws that nobody has seen.

    CELL is a key or the beginning of one. Exit code 1 where something is wrong, 3 where a cell has no images to judge.
    With --images, judge adversarial images from elsewhere, arrays x_adv, y and index, and store what came of it.

    \b
    bench verify 3f2a
    bench verify --grid quickstart
    bench verify --images theirs.npz --by "A. Author" --dataset cifar10 --classifier cifar10_small
    """
    from bench.commands.run import loader
    from bench.commands.sharing import make_vault

    vault = make_vault(db, evidence, no_evidence)
    loads = loader(device, data_dir, False)
    if images is not None:
        _verify_images(images, by, claimed, cells, grid, db, loads, vault, draws or 10, seed, batch_size)
        return
    from bench.commands.verify import verify as verb
    from bench.commands.verify_judging import Judging

    wrong = incomplete = total = 0
    for text, verdict in verb(db, cells, grid, loads, vault, Judging(draws=draws, seed=seed, replay=replay)):
        click.echo(text)
        total, wrong, incomplete = total + 1, wrong + bool(verdict.doubts), incomplete + (not verdict.complete)
    if not total:
        raise LookupError(f"No cell of {grid} has run in {db}. Run it with `bench run`.")
    if total > 1:
        click.echo(f"{total} cells: {total - incomplete - wrong} verified, {incomplete} incomplete, {wrong} wrong.")
    if wrong or incomplete:
        raise click.exceptions.Exit(1 if wrong else INCOMPLETE)


def _verify_images(
    images: Path, by: str | None, claimed: dict[str, Any], cells: tuple[str, ...], grid: str | None, db: str,
    loads: Any, vault: Any, draws: int, seed: int, batch_size: int,
) -> None:  # fmt: skip
    if cells or grid:
        raise ValueError("--images judges the images of a file, CELL and --grid those of the database. Choose one.")
    missing = [f"--{name}" for name in ("dataset", "classifier") if not claimed[name]] + ([] if by else ["--by"])
    if missing:
        raise ValueError(f"--images needs {', '.join(missing)} too: who made the images, and what they are to fool.")
    from bench.commands.verify_images import Claimed, verify_images

    told = Claimed(images=images, by=str(by), **claimed)
    verify_images(db, told, loads, vault, draws=draws, seed=seed, batch_size=batch_size)


@click.command()
@click.argument("cell", metavar="CELL")
@click.option(
    "--format",
    "form",
    type=click.Choice(("npz", "png", "parquet", "hf", "croissant")),
    default="npz",
    show_default=True,
    help="npz, parquet: images, votes, outcomes. png: 8-bit pictures and a csv. hf: a card with the results. "
    "croissant: parquet with JSON-LD about it.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File or folder. Default: named after the cell.")
@with_db
@click.option("--evidence", metavar="DIR|URL", help="Where the adversarial images are. Default: beside the database.")
def export(cell: str, form: str, output: Path | None, db: str, evidence: str | None) -> None:
    """Write the adversarial images of a cell, with votes and outcomes of each, for other programs.

    \b
    bench export 3f2a --format npz
    """
    from bench.commands.export import export as verb
    from bench.commands.sharing import make_vault

    click.echo(verb(db, cell, form, output, make_vault(db, evidence, False)))
