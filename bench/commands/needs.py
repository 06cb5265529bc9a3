"""What the cells of a grid need on this machine: data sets, and networks with public files."""

from __future__ import annotations

from defenses.models.sources import SOURCES, Source, source_of
from defenses.registry import unknown_name


def needs(what: str | None) -> tuple[list[str], dict[str, Source]]:
    """The data sets and network files that something needs.

    Args:
        what: a grid, a network or a data set by name, the grid where several have it; everything there is where None.

    Returns:
        (names of data sets, network -> its public file). Networks that ship with the package, or are files of the
        user's, have no entry.

    Raises:
        LookupError: nothing has this name.
    """
    from bench.datasets import DATASETS
    from bench.grids import grid_names, is_file
    from defenses.models.classifiers import CLASSIFIERS
    from defenses.models.scores import SCORES

    if what is None:
        return list(DATASETS), dict(SOURCES)
    if is_file(what) or what in (grids := grid_names()):
        return _grid(what)
    if what in DATASETS:
        return [what], {}
    if what.startswith(("robustbench:", "timm:")) or source_of(what) is not None:
        return [], _files([what])
    if what in (*CLASSIFIERS, *SCORES):  # ships with the package
        return [], {}
    raise unknown_name("grid, network or data set", what, [*grids, *DATASETS, *CLASSIFIERS, *SCORES])


def _grid(name: str) -> tuple[list[str], dict[str, Source]]:
    from bench.grids import grid_cells
    from bench.run.prepare import names_of

    cells = grid_cells(name)
    names = [names_of(cell) for cell in cells]
    networks = [name for classifiers, scores in names for name in (*classifiers, *scores)]
    return list(dict.fromkeys(cell.dataset for cell in cells)), _files(networks)


def _files(names: list[str]) -> dict[str, Source]:
    found = {name: source_of(name) for name in dict.fromkeys(names)}
    return {name: source for name, source in found.items() if source is not None}
