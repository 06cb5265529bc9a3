"""`bench.results`: what a database holds, without torch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.store import Store
from bench.store.smoke_mark import check_database

if TYPE_CHECKING:
    import pandas as pd


def results(db: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """The view `results` of a database (docs/schema.md): one row a cell, its newest successful run.

    Args:
        db: the path of a SQLite file or any SQLAlchemy URL; None is $BENCH_DB, else results.sqlite.

    Returns:
        One row a cell; accuracies in percent.

    Raises:
        ValueError: no such database, another program's, or one of smoke runs.
    """
    with Store(db, readonly=True) as store:
        check_database(store, smoke=False)
        return store.frame()
