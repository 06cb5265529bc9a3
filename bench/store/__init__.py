"""The result database: cells, their runs, and per-image outcomes, through SQLAlchemy (docs/schema.md).

No other room knows SQLAlchemy. `python -m bench.store results.sqlite` makes or refreshes the database that ships with
the repository.
"""

from bench.store.claims import Claim, LostClaim
from bench.store.database import StoreAway, StoreError, default_url
from bench.store.store import Store, make_database

__all__ = ["Claim", "LostClaim", "Store", "StoreAway", "StoreError", "default_url", "make_database"]
