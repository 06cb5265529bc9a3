"""Makes two PyPI packages importable that do not find each other.

robustbench 1.1.1 imports a module named `autoattack`; the package on PyPI, pyautoattack 0.2.0, installs it as
`pyautoattack`. The alias covers the submodules too: an alias of the package alone would import each of them a second
time under the other name, with classes that are not the first ones.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    Loader = object  # importlib.abc imports half the standard library, and `import bench` is quick


class _AliasFinder(Loader):
    """Answers for `autoattack` and its submodules with the modules of `pyautoattack`.

    First on `sys.meta_path`, so that no submodule is read a second time; a package that is really called autoattack
    wins nevertheless.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The alias of a module, None for other names and where pyautoattack is not installed."""
        top, dot, _ = fullname.partition(".")
        if top != "autoattack":
            return None
        if dot:
            is_alias = sys.modules.get("autoattack") is sys.modules.get("pyautoattack")
        else:
            others = (finder for finder in sys.meta_path if finder is not self)
            is_alias = not any(finder.find_spec(fullname, None) for finder in others)
        return ModuleSpec(fullname, self) if is_alias and importlib.util.find_spec("py" + fullname) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module under its own name, which stays the owner of its spec."""
        module = importlib.import_module("py" + spec.name)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back: it has run already."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


_FINDER = _AliasFinder()


def alias_autoattack() -> None:
    """Let `import autoattack` find pyautoattack, if nothing else has that name. Imports nothing by itself."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def import_autoattack() -> ModuleType:
    """The AutoAttack library (Croce & Hein, ICML 2020), whichever name it is installed under.

    Afterwards `import autoattack` works everywhere.

    Raises:
        ModuleNotFoundError: neither package is installed.
    """
    alias_autoattack()
    return importlib.import_module("autoattack")


def import_robustbench() -> ModuleType:
    """robustbench (Croce et al., NeurIPS 2021 Datasets and Benchmarks), with the `autoattack` that it expects."""
    alias_autoattack()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports pkg_resources, which setuptools deprecates; setuptools<81 has it
        return importlib.import_module("robustbench")
