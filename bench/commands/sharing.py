"""The verbs for several processes: `bench worker`, `bench status`, `bench merge`; and the options that share work."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bench.commands.budgeting import with_part
from bench.commands.showing import take_showing, with_showing

Command = Callable[..., Any]
BUSY = 3  # the exit code of --no-wait where others still run cells


def with_db(command: Command) -> Command:
    """Add the option --db."""
    return click.option(
        "--db",
        metavar="FILE|URL",
        envvar="BENCH_DB",
        default="results.sqlite",
        show_default=True,
        show_envvar=True,
        help="Result database: a SQLite file or any SQLAlchemy URL.",
    )(command)


def with_device(command: Command) -> Command:
    """Add the option --device."""
    return click.option(
        "--device",
        default=None,
        metavar="DEVICE",
        envvar="BENCH_DEVICE",
        help="cpu, cuda or cuda:1. Default: a GPU if there is one.",
    )(command)


def with_precision(command: Command) -> Command:
    """Add the options --attack-precision and --compile."""
    command = click.option(
        "--compile",
        "compiled",
        is_flag=True,
        help="Compile the networks for the gradients of the attacks (torch.compile): worth its minutes for a long "
        "attack on a GPU. Judges and checks stay eager, and the cells are the same ones.",
    )(command)
    return click.option(
        "--attack-precision",
        type=click.Choice(("float32", "tf32", "bfloat16")),
        help="What the gradients of the attacks compute in; judges and checks stay in float32. Another precision is "
        "another cell. Attacks without such a gradient stay as they are. Default: the grid's, float32.",
    )(command)


def with_evidence(command: Command) -> Command:
    """Add the options that say where adversarial images are kept."""
    command = click.option(
        "--no-evidence", is_flag=True, help="Keep no adversarial images: nobody can then check the numbers."
    )(command)
    return click.option(
        "--evidence",
        metavar="DIR|URL",
        help="Where adversarial images are kept. Default: beside the database, in results.evidence.",
    )(command)


def make_vault(db: str, evidence: str | None, no_evidence: bool) -> Any:
    """Where the adversarial images of a run are kept; None keeps none."""
    from bench.evidence import Vault, vault_beside

    if no_evidence and evidence:
        raise ValueError("--evidence says where images are kept, --no-evidence keeps none. Leave one of them out.")
    if no_evidence:
        return None
    return Vault(evidence) if evidence else vault_beside(db)


def with_sharing(command: Command) -> Command:
    """Add the options that say how a process shares the work with others."""
    for option in reversed(
        (
            click.option(
                "--retries",
                type=click.IntRange(min=0),
                default=1,
                show_default=True,
                metavar="N",
                help="Try a cell that failed N times again.",
            ),
            click.option(
                "--no-wait",
                is_flag=True,
                help=f"Do not wait for cells that other processes run: leave them and exit with code {BUSY}.",
            ),
            click.option(
                "--take-over",
                is_flag=True,
                help="Do not wait for the lease of a process that has stopped to end. One that beats keeps its lease.",
            ),
            click.option(
                "--lease",
                type=click.FloatRange(min=0.5),
                default=120.0,
                show_default=True,
                metavar="SECONDS",
                help="A process that says nothing for so long loses the batch that it works on.",
            ),
            click.option(
                "--cell-timeout",
                type=click.FloatRange(min=0, min_open=True),
                metavar="MINUTES",
                help="A cell whose code runs longer fails, and the others go on. Its finished batches stay.",
            ),
            click.option(
                "--save-every",
                type=click.FloatRange(min=0),
                default=10.0,
                show_default=True,
                metavar="MINUTES",
                help="Time between two savings of a long attack, which goes on from the last one after a kill.",
            ),
            click.option(
                "--patience",
                type=click.FloatRange(min=0),
                default=900.0,
                show_default=True,
                metavar="SECONDS",
                help="Go on asking a database that is locked or away, with the finished batch in memory.",
            ),
        )
    ):
        command = option(command)
    return command


@click.command()
@click.option("--grid", default="quickstart", show_default=True, metavar="NAME|FILE.py", help="The cells to run.")
@with_db
@with_device
@with_precision
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="As for `bench run`.")
@click.option("--num-images", type=click.IntRange(min=1), metavar="N", help="As for `bench run`.")
@click.option("--filter", "filters", multiple=True, metavar="COLUMN=VALUE", help="As for `bench run`. Repeatable.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N cells.")
@click.option("--protocol", metavar="NAME", help="As for `bench run`.")
@with_part
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="BENCH_DATA_DIR", help="Folder of data sets.")
@click.option("--download", is_flag=True, help="Download a missing data set where torchvision can.")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="RUN", help="Measure again what is no newer.")
@click.option("--one-host", is_flag=True, help="All workers are on this host: SQLite on a network file system is fine.")
@click.option("--with-parent", is_flag=True, hidden=True, help="End when the process that started this one ends.")
@with_sharing
@with_evidence
@with_showing
def worker(
    grid: str,
    db: str,
    device: str | None,
    attack_precision: str | None,
    compiled: bool,
    seed: int | None,
    num_images: int | None,
    filters: tuple[str, ...],
    limit: int | None,
    protocol: str | None,
    part: str | None,
    data_dir: Path | None,
    download: bool,
    one_host: bool,
    with_parent: bool,
    evidence: str | None,
    no_evidence: bool,
    **sharing: Any,
) -> None:
    """Work on a grid together with any number of other workers, on this host and on others.

    It ends when the whole grid is done. Start it as often as there are GPUs, with the same options everywhere.

    \b
    bench worker --grid paper_tables --db postgresql://user@host/bench
    """
    from bench.commands import run as verb
    from bench.commands.choose import chosen
    from bench.store.network_files import check_shareable

    if with_parent:
        _end_with_parent(os.getppid())
    if not one_host:
        check_shareable(db)
    cells = chosen(
        grid,
        protocol=protocol,
        filters=filters,
        limit=limit,
        attack_precision=attack_precision,
        seed=seed,
        num_images=num_images,
        part=part,
    )
    showing = take_showing(sharing)
    rules, patience = make_sharing(**sharing)
    loader = verb.loader(device, data_dir, download, compiled=compiled)
    vault = make_vault(db, evidence, no_evidence)
    outcome = verb.execute(
        *(cells, db, loader),
        grid=grid,
        sharing=rules,
        patience=patience,
        table=False,
        showing=showing,
        vault=vault,
    )
    exit_with(outcome)


@click.command()
@click.option("--grid", default=None, metavar="NAME|FILE.py", help="Only this grid's cells, those not begun too.")
@click.option("--protocol", metavar="NAME", help="As for `bench run`.")
@click.option("--watch", is_flag=True, help="Show it again every few seconds, until all is done.")
@with_db
def status(grid: str | None, protocol: str | None, watch: bool, db: str) -> None:
    """Show what is done, running, failed and waiting in each grid, who works on what, and the time left.

    Broken off is a cell that was begun and that nobody works on now: any worker goes on. The time left takes all images
    as equal.

    \b
    bench status --grid quickstart
    """
    from bench.commands.status import describe_status

    while True:
        text, left = describe_status(db, grid, protocol, patience=900.0 if watch else 0.0)
        click.echo(text)
        if not watch or not left:
            return
        time.sleep(5.0)
        click.echo()


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="A B ...")
@click.option("-o", "--output", required=True, metavar="C", help="The file to write; it may be one of the others.")
def merge(files: tuple[str, ...], output: str) -> None:
    """Join result databases: every run once, by its content. Adversarial images go with them.

    Two different measurements under one run are refused, and nothing is written.

    \b
    bench merge A.sqlite B.sqlite -o C.sqlite
    """
    from bench.evidence.carrying import Carrier
    from bench.store.merge import merge_databases

    carrier = Carrier(Path(output))
    runs = merge_databases([Path(file) for file in files], Path(output), carrier.carry)
    click.echo(f"Wrote {output}: {runs} runs.{carrier.told}")


def _end_with_parent(parent: int) -> None:
    """Interrupt this process, as SIGTERM does, once the process that started it is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def make_sharing(
    retries: int,
    no_wait: bool,
    take_over: bool,
    lease: float,
    patience: float,
    after: int = 0,
    cell_timeout: float | None = None,
    save_every: float = 10.0,
) -> tuple[Any, float]:
    """The rules of sharing from their options, and the patience with the database in seconds."""
    from bench.run.work import Sharing

    rules = Sharing(
        retries=retries,
        wait=not no_wait,
        take_over=take_over,
        lease=lease,
        after=after,
        cell_timeout=cell_timeout,
        save_every=save_every,
    )
    return rules, patience


def exit_with(outcome: Any) -> None:
    """Exit code 1 where a cell failed, 3 where other processes still run some; None is a run that goes on elsewhere."""
    if outcome is None:
        return
    if outcome.failed:
        raise click.exceptions.Exit(1)
    if outcome.busy:
        raise click.exceptions.Exit(BUSY)
