"""The mark of a smoke run: nothing that random toy networks did may stand among results."""

from __future__ import annotations

from bench.store import Store, StoreError

SMOKE = "smoke_"  # how the data sets and networks of `bench run --smoke` begin


def check_database(store: Store, *, smoke: bool) -> None:
    """Check that a database holds smoke runs only (`smoke`), or none at all.

    The mark is in the cells themselves, so that it survives a copy or a merge of databases.

    Raises:
        StoreError: it holds the other kind.
    """
    _, ((cells, marked),) = store.query(
        f"SELECT COUNT(*), COUNT(CASE WHEN substr(dataset, 1, {len(SMOKE)}) = '{SMOKE}' THEN 1 END) FROM cells"
    )
    if smoke and cells > marked:
        raise StoreError(f"{store.where} holds results, a smoke run makes none. Give it a file of its own with --db.")
    if not smoke and marked:
        raise StoreError(
            f"{store.where} holds a smoke run, whose toy networks with random weights give no results. "
            "Use another file with --db; `bench query` still reads this one."
        )
