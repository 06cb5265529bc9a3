"""The table `published`: filled from bench/published.csv."""

from __future__ import annotations

from sqlalchemy import Connection, func, insert, select, update

from bench.literature.publish import read_published
from bench.store.schema import PublishedRow


def fill_published(connection: Connection, *, refresh: bool = False) -> None:
    """Fill an empty table `published`; with `refresh`, also add new rows and correct changed ones. Deletes nothing."""
    stored = connection.execute(select(func.count()).select_from(PublishedRow)).scalar_one()
    if not stored:
        connection.execute(insert(PublishedRow), read_published())
    elif refresh:
        known = set(connection.execute(select(PublishedRow.key)).scalars())
        for row in read_published():
            change = update(PublishedRow).where(PublishedRow.key == row["key"])
            connection.execute((change if row["key"] in known else insert(PublishedRow)).values(**row))
