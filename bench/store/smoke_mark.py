"""The mark of a smoke run: nothing that random toy networks did may stand among results."""

from __future__ import annotations

from bench.store import Store, StoreError

SMOKE = "smoke_"  # how the data sets and networks of `bench run --smoke` begin


def check_database(store: Store, *, smoke: bool) -> None:
    """Raise StoreError unless every cell of the database is a smoke run's (`smoke`), or none is.

    The mark is in the cells themselves, so that it survives a copy or a merge of databases.
    """
    _, ((cells, marked),) = store.query(
        f"SELECT COUNT(*), COUNT(CASE WHEN substr(dataset, 1, {len(SMOKE)}) = '{SMOKE}' THEN 1 END) FROM cells"
    )
    if smoke and cells > marked:
        raise StoreError(f"{store.where} holds results; a smoke run has none. Give it a file of its own with --db.")
    if not smoke and marked:
        raise StoreError(
            f"{store.where} holds a smoke run: toy networks with random weights on random pictures, no results. "
            "Use another file with --db; `bench query` still reads this one."
        )
