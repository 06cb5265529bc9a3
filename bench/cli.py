"""The command line: parse, call, print. What can be put right by the user ends in one sentence and exit code 2."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import click

from bench import terminal
from bench.commands.browsing import view
from bench.commands.budgeting import take_budget, with_budget
from bench.commands.drawing import draw, plot, purify
from bench.commands.launching import take_launching, with_launching
from bench.commands.looking import export, verify
from bench.commands.options import UserError, WithVariables, complete_options, show_warning
from bench.commands.sharing import (
    exit_with,
    make_sharing,
    make_vault,
    merge,
    status,
    with_db,
    with_device,
    with_evidence,
    with_precision,
    with_sharing,
    worker,
)
from bench.commands.showing import take_showing, with_limits, with_showing
from bench.commands.tools import audit, doctor, fetch, train
from bench.printable import printable

FORMATS = ("text", "latex", "markdown", "html", "csv", "json", "svg")
PROTOCOLS = click.Choice(("paper", "strong", "gold", "both", "quick"))
FILTER_HELP = "Only cells with this value, e.g. tier=paper (the tier says how strong the attack is). Repeatable."
PROTOCOL_HELP = (
    "Of grids that repeat a paper. paper: the paper's own attack. strong: our strongest attack that can be afforded. "
    "Default: these two. gold: the long control of strong. both: paper and gold. "
    "quick: small networks and short attacks, no robustness claim."
)


@contextmanager
def _importing() -> Iterator[None]:
    """Looks for no garbage among the modules that are imported, now or later: a quarter of the time of a report."""
    enabled, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
    if len(sys.modules) > known:
        gc.freeze()


class _Sentences(WithVariables):
    """Turns the library's errors into sentences; anything else is a bug and keeps its traceback."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        terminal.be_tolerant()
        return super().main(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        warnings.showwarning = show_warning
        try:
            return super().invoke(ctx)
        except (KeyError, BrokenPipeError):
            raise
        except (ValueError, LookupError, OSError) as error:
            if os.environ.get("BENCH_DEBUG"):
                raise
            raise UserError(printable(str(error))) from error
        except KeyboardInterrupt:
            click.echo("Stopped. What is finished is stored; the same command continues from there.", err=True)
            ctx.exit(130)


@click.group(cls=_Sentences, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="purification-bench")
def main() -> None:
    """Measure how much robustness an adversarial-purification defense really gives.

    A cell is one measurement: a defense, an attack, a data set and a threat model. A grid is a list of cells, by the
    name of a shipped one (`bench list grids`) or in a Python file of your own. Results go to a database.
    """


main.add_command(worker)
main.add_command(status)
main.add_command(merge)
main.add_command(verify)
main.add_command(plot)
main.add_command(draw)
main.add_command(purify)
main.add_command(export)
main.add_command(view)
for tool in (audit, train, fetch, doctor):
    main.add_command(tool)


@main.command()
@click.option(
    "--grid",
    default="quickstart",
    show_default=True,
    metavar="NAME|FILE",
    help="The cells to run: a shipped grid, or a file (.py or .toml).",
)
@click.option(
    "--config", type=click.Path(), metavar="FILE.toml", help="The cells to run, without code. As --grid FILE."
)
@with_db
@with_device
@with_precision
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed of every cell, instead of the grid's.")
@click.option(
    "--num-images",
    type=click.IntRange(min=1),
    metavar="N",
    help="Test images of every cell, instead of the grid's.",
)
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="COLUMN=VALUE",
    help=FILTER_HELP,
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N cells.")
@click.option("--force", is_flag=True, help="Run again what is done; the old results stay.")
@with_launching
@with_sharing
@with_evidence
@with_showing
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="BENCH_DATA_DIR", help="Folder of data sets.")
@click.option("--download", is_flag=True, help="Download a missing data set where torchvision can.")
@with_budget
@click.option("--dry-run", is_flag=True, help="Run nothing: list the cells, what is missing, and the cost.")
@click.option("--protocol", type=PROTOCOLS, help=PROTOCOL_HELP)
@click.option(
    "--smoke", is_flag=True, help="Try the code on toy networks with random weights; results go to smoke.sqlite."
)
def run(
    grid: str,
    config: str | None,
    db: str,
    device: str | None,
    attack_precision: str | None,
    compiled: bool,
    seed: int | None,
    num_images: int | None,
    filters: tuple[str, ...],
    limit: int | None,
    force: bool,
    data_dir: Path | None,
    download: bool,
    dry_run: bool,
    protocol: str | None,
    smoke: bool,
    evidence: str | None,
    no_evidence: bool,
    **sharing: Any,
) -> None:
    """Run the cells of a grid that have not run yet, and print the table.

    \b
    bench run
    bench run --grid quickstart --filter defense=contrastive --num-images 16
    """
    from bench.commands import run as verb
    from bench.commands.choose import chosen

    launching, budget = take_launching(sharing), take_budget(sharing)
    budget.check(dry_run=dry_run, limit=limit)
    given_showing = {"verbose": sharing["verbose"], "log": sharing["log"]}
    showing = take_showing(sharing)
    if config is not None:
        if click.get_current_context().get_parameter_source("grid") is not click.core.ParameterSource.DEFAULT:
            raise ValueError("--config and --grid both say which cells to run. Leave one of them out.")
        if not config.endswith(".toml"):
            raise ValueError(f"Expected --config FILE.toml, got {config!r}. Other grids are given as --grid.")
        grid = config
    if smoke and dry_run:
        raise ValueError("--smoke runs toy cells, --dry-run none. Leave one of them out.")
    rates = cache(partial(budget.rates, device, data_dir, download, compiled=compiled))
    make = partial(
        chosen,
        grid,
        filters=filters,
        limit=None if smoke else limit,
        attack_precision=attack_precision,
        seed=seed,
        num_images=num_images,
    )
    cells, protocol, part = budget.choose(make, protocol, grid=grid, db=db, rates=rates)
    if smoke:
        source = click.get_current_context().get_parameter_source("db")
        db = "smoke.sqlite" if source is click.core.ParameterSource.DEFAULT else db
        if verb.smoke(cells, db, device, grid=grid, limit=limit, data_dir=data_dir, showing=showing).failed:
            raise click.exceptions.Exit(1)
        return
    if not dry_run:
        from bench.commands import workers as several

        launching.check(db)
        if launching.launcher != "local" or several.count_workers(launching, device) > 1:
            given: dict[str, Any] = {"seed": seed, "num_images": num_images, "filter": filters, "limit": limit}
            given |= {"data_dir": data_dir, "download": download, "protocol": protocol, **sharing, **given_showing}
            given |= {"evidence": evidence, "no_evidence": no_evidence, "attack_precision": attack_precision}
            given |= {"part": part, "compile": compiled}
            exit_with(several.execute_with_workers(cells, db, given, launching, grid=grid, device=device, force=force))
            return
    if dry_run:
        verb.dry_run(cells, db, rates(), grid=grid)
        return
    loader = verb.loader(device, data_dir, download, compiled=compiled)
    rules, patience = make_sharing(**sharing)
    vault = make_vault(db, evidence, no_evidence)
    exit_with(
        verb.execute(
            *(cells, db, loader),
            grid=grid,
            force=force,
            sharing=rules,
            patience=patience,
            showing=showing,
            vault=vault,
        )
    )


@main.command()
@click.option(
    "--grid", default=None, metavar="NAME|FILE.py", help="This grid's cells, in its tables. Default: the last that ran."
)
@click.option("--all", "every", is_flag=True, help="Every cell of the database.")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="How to write the tables."
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@click.option("--fragment", is_flag=True, help="LaTeX for \\input, instead of a whole document.")
@click.option("--table", metavar="NAME", help="Only the grid's table of this name.")
@click.option("--protocol", type=PROTOCOLS, help="Only these cells of the grid; see `bench run --help`.")
@click.option("--num-images", type=click.IntRange(min=1), metavar="N", help="The number that was given to `bench run`.")
@click.option("--attack-precision", metavar="NAME", help="As it was given to `bench run`.")
@with_db
def report(
    grid: str | None,
    form: str,
    output: Path | None,
    fragment: bool,
    table: str | None,
    protocol: str | None,
    num_images: int | None,
    attack_precision: str | None,
    every: bool,
    db: str,
) -> None:
    """Print tables of what has been measured. --format svg draws the curve of a grid that has one (noise_level).

    \b
    bench report
    bench report --format latex --output table.tex
    """
    with _importing():
        from bench.commands.report import report as verb

    chosen: dict[str, Any] = {"table": table, "protocol": protocol, "num_images": num_images, "every": every}
    chosen["attack_precision"] = attack_precision
    text, told = verb(db, grid, form, fragment=fragment, **chosen)
    if told:
        click.echo(told, err=True)
    if output is None:
        click.echo(text)
    else:
        output.write_text(text + "\n", encoding="utf-8")
        click.echo(f"Wrote {output}.")


@main.command()
@click.argument("cell", metavar="CELL")
@with_db
def show(cell: str, db: str) -> None:
    """Show all that is known of one cell. CELL is its key, or the beginning of its key.

    \b
    bench query "SELECT cell_key, defense, attack FROM results"
    bench show 3f2a
    """
    from bench.commands.show import show as verb

    click.echo(printable(verb(db, cell)))


@main.command("list")
@click.argument("kind", type=click.Choice(("defenses", "attacks", "datasets", "classifiers", "scores", "grids")))
@click.argument("name", required=False)
def list_(kind: str, name: str | None) -> None:
    """List the names that a grid can use, with their sources. With NAME, describe one in full.

    \b
    bench list defenses
    bench list attacks pgd_eot
    """
    from bench.commands.list import describe, listing

    click.echo(printable(describe(kind, name) if name else listing(kind)))


@main.command()
@click.argument("sql")
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "csv", "json")),
    default="text",
    show_default=True,
    help="How to write the rows.",
)
@with_limits
@with_db
def query(sql: str, form: str, limit: int, timeout: float, db: str) -> None:
    """Ask the database in SQL; nothing can be changed (docs/schema.md describes the tables).

    \b
    bench query "SELECT defense, attack, robust_accuracy FROM results"
    """
    from bench.commands.show import query as verb

    text, told = verb(db, sql, form, limit=limit, seconds=timeout)
    click.echo(printable(text))
    if told:
        click.echo(told, err=True)


@main.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@with_db
def compare(a: str, b: str, db: str) -> None:
    """Compare two cells, paired on the images that both saw: difference, interval, McNemar's test.

    A and B are keys of cells, or the beginnings of keys.

    \b
    bench compare 3f2a 91bc
    """
    from bench.commands.show import compare as verb

    click.echo(printable(verb(db, a, b)))


complete_options(main)


if __name__ == "__main__":
    main()
