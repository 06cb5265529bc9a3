"""Adam over an attack's variables, whose state a journal can keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Adam:
    """torch.optim.Adam as a state of a loop (see `bench.attacks._journal.resumable`).

    Args:
        groups: (leaf tensors, learning rate) of each group.
    """

    def __init__(self, *groups: tuple[Sequence[Tensor], float]) -> None:
        self.variables = [variable for variables, _ in groups for variable in variables]
        self._optimizer = torch.optim.Adam([{"params": list(variables), "lr": rate} for variables, rate in groups])

    def step(self) -> None:
        """Move the variables along their gradients."""
        self._optimizer.step()

    def pack(self) -> dict[str, Tensor | float]:
        """The variables, their two moments, and the steps so far."""
        packed: dict[str, Tensor | float] = {}
        for place, variable in enumerate(self.variables):
            packed[f"{place}"] = variable.detach()
            for name, value in self._optimizer.state[variable].items():
                packed[f"{place}.{name}"] = float(value) if name == "step" else value
        return packed

    def restore(self, values: dict[str, Any]) -> None:
        """Put back what `pack` gave."""
        for place, variable in enumerate(self.variables):
            with torch.no_grad():
                variable.copy_(values[f"{place}"])
            begin = f"{place}."
            self._optimizer.state[variable] = {
                name.removeprefix(begin): torch.tensor(value) if isinstance(value, float) else value
                for name, value in values.items()
                if name.startswith(begin)
            }
