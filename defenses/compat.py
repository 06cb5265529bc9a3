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
from types import ModuleType


def import_autoattack() -> ModuleType:
    """The AutoAttack library (Croce & Hein, ICML 2020), whichever name it is installed under.

    Afterwards `import autoattack` works everywhere.

    Raises:
        ModuleNotFoundError: neither package is installed.
    """
    if "autoattack" not in sys.modules and importlib.util.find_spec("autoattack") is None:
        importlib.import_module("pyautoattack")
        for name in [name for name in sys.modules if name.split(".")[0] == "pyautoattack"]:
            sys.modules["auto" + name.removeprefix("pyauto")] = sys.modules[name]
    return importlib.import_module("autoattack")


def import_robustbench() -> ModuleType:
    """robustbench (Croce et al., NeurIPS 2021 Datasets and Benchmarks), with the `autoattack` that it expects."""
    import_autoattack()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports pkg_resources, which setuptools deprecates; setuptools<81 has it
        return importlib.import_module("robustbench")
