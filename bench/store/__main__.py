"""`python -m bench.store FILE`: make or refresh the database that ships with the repository."""

import sys
from pathlib import Path

from bench.store import default_url, make_database

make_database(Path(sys.argv[1] if len(sys.argv) > 1 else default_url()))
