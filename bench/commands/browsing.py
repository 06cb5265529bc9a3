"""The verb `bench view`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from bench.commands.sharing import with_db


@click.command()
@click.option(
    "--bundle", type=click.Path(path_type=Path, file_okay=False), help="Write a site to this folder and do not serve."
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="Default: a free one.")
@with_db
def view(bundle: Path | None, port: int, db: str) -> None:
    """Browse results: a table, a page for each cell, comparisons image by image, the literature.

    It serves this machine alone, until Ctrl-C. --bundle writes a folder that works without a server and without
    network. Needs the extra `view`.

    \b
    bench view
    bench view --bundle site
    """
    from bench.commands.page_pictures import find_strips
    from bench.commands.view import make_pages
    from bench.store import Store
    from bench.view import make_server, write_bundle

    with Store(db, readonly=True) as store, tempfile.TemporaryDirectory() as folder:
        pages = make_pages(store, find_strips(store, db, Path(folder)))
        if bundle is not None:
            count = write_bundle(pages, bundle)
            click.echo(f"Wrote {count} files. Open {bundle / 'index.html'} in a browser.")
            return
        with make_server(pages, port) as server:
            click.echo(f"{len(pages.by_key)} cells at http://127.0.0.1:{server.server_address[1]}/ until Ctrl-C.")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                click.echo()
