"""`bench audit`: a name or a file, and a verdict in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.commands.audit import audit

FILE = '''
from dataclasses import dataclass
from typing import ClassVar

from defenses.base import Purifier


@dataclass(frozen=True, kw_only=True)
class AuditedFromFile(Purifier):
    """A test's defense."""

    name: ClassVar[str] = "audited_from_file"
    source: ClassVar[str] = "a test"
    gradients: ClassVar[tuple] = ("exact",)

    def build(self, *, classifier=None, score=None, gradient="exact"):
        return lambda images, noise: FORMULA
'''


def of_file(folder: Path, formula: str) -> str:
    path = folder / "audited.py"
    path.write_text(FILE.replace("FORMULA", formula))
    return audit(str(path), "digits", "digits_cnn", "digits_score", 3, (), 0)


@pytest.mark.parametrize(
    ("formula", "verdict"),
    [
        ("0.9 * images", "Verdict: confirmed"),
        ("images.round() + 0 * images", "NOT confirmed: it is zero for 3 of 3 images"),
        ("2 * images.detach() - images", "NOT confirmed: it differs"),
    ],
)
def test_a_file_gets_a_verdict(tmp_path: Path, formula: str, verdict: str) -> None:
    text = of_file(tmp_path, formula)
    assert verdict in text.splitlines()[-1] and "0.00e+00" not in text


def test_a_file_without_a_defense_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(LookupError, match="Expected a class of Defense"):
        audit(str(tmp_path / "empty.py"), "digits", "digits_cnn", "digits_score", 2, (), 0)
