"""robustbench and pyautoattack import in a fresh process, and as one copy."""

from __future__ import annotations

import subprocess
import sys

import pytest

ROBUSTBENCH = """
from defenses.compat import import_robustbench
robustbench = import_robustbench()
import autoattack, autoattack.state, pyautoattack.state, robustbench.eval
assert robustbench.eval.AutoAttack is autoattack.AutoAttack
assert autoattack.state.EvaluationState is pyautoattack.state.EvaluationState
print("both")
"""
AUTOATTACK = """
import sys
from defenses.compat import import_autoattack
first, second = import_autoattack(), import_autoattack()
assert first is second and "robustbench" not in sys.modules
from autoattack.autopgd_base import APGDAttack
assert APGDAttack is sys.modules["pyautoattack.autopgd_base"].APGDAttack
print("both")
"""


@pytest.mark.parametrize("program", [ROBUSTBENCH, AUTOATTACK], ids=["robustbench", "autoattack"])
def test_fresh_process_imports_one_copy(program: str, pytestconfig: pytest.Config) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=pytestconfig.rootpath, timeout=120
    )
    assert done.stdout.strip().endswith("both"), done.stderr
