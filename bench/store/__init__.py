"""The result database: cells, their runs, and per-image outcomes, through SQLAlchemy (docs/schema.md).

No other room knows SQLAlchemy. `python -m bench.store results.sqlite` makes or refreshes the database that ships with
the repository.
"""

from bench.store.database import StoreError, default_url
from bench.store.open_database import is_alive
from bench.store.store import Store, make_database

__all__ = ["Store", "StoreError", "default_url", "is_alive", "make_database"]
