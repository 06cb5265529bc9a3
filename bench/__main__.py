"""`python -m bench` is `bench`."""

import os
import sys

if sys.path[0] in ("", os.getcwd()):  # last, so that a grid that is called like a module shadows nothing
    sys.path.append(sys.path.pop(0))

from bench.cli import main  # noqa: E402

if __name__ == "__main__":
    main(prog_name="bench")
