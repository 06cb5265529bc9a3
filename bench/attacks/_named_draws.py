"""A trace that tells draws of the same number apart: for parts of an attack that see other selection draws."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from bench.attacks.base import Trace
from bench.attacks.cascade import Relabelled


class NamedDraws(Relabelled):
    """A part's trace whose draws have a name: a draw of the same number under another name is another draw."""

    def __init__(self, parent: Trace, label: str, draws: str, *, looks: bool) -> None:
        super().__init__(parent, label, looks=looks)
        self._draws_name = draws

    def look(self, image_ids: Tensor, correct: Tensor, draws: Sequence[Hashable]) -> None:
        """See `Trace.look`."""
        super().look(image_ids, correct, [(self._draws_name, draw) for draw in draws])
