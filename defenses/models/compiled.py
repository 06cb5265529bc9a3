"""Networks behind torch.compile, for the passes of an attack: the same function by other kernels.

Shapes are few and fixed: rows are cut into parts of so many, the last one padded, so that nothing is compiled again.
What compiled kernels cannot do is done eagerly: a derivative of a gradient (guidance), a layer that somebody listens
to, whatever does not compile. The first answer and the first gradient of each shape are held against the eager ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from defenses.again import again_with_graph
from defenses.memory import is_out_of_memory
from defenses.models.around import Around, copy_score, put

SIZES = (1, 4, 16, 64, 256)  # rows of a part
LIMIT = 64  # torch gives up compiling after so many shapes; there are two kinds of pass for each of `SIZES`
NEAR = {torch.float32: 1e-3, torch.float64: 1e-3}  # relative distance that another order of sums explains
FEW = 2  # rows that are compared
NEAR_LOW = 0.1  # as `NEAR`, of a network that computes in a lower precision


@dataclass
class Compiling:
    """How networks are compiled, and who is told.

    Attributes:
        backend: of torch.compile.
        tell: is told what is being compiled; each text begins with "compiling".
    """

    backend: str = "inductor"
    tell: Callable[[str], None] = lambda what: None


class CompiledNetwork(Around):
    """A network for attacks: compiled where that works, eager elsewhere.

    Attributes:
        network: a copy that shares the tensors, so that who counts or watches the original does not enter the kernels.
        failed: why it runs eagerly for good; None while it does not.
        used: whether a compiled answer was given.
    """

    def __init__(self, network: nn.Module, what: str, compiling: Compiling, near: float | None = None) -> None:
        """Compile nothing yet: the first pass of each shape does.

        Args:
            network: answers for each row alone.
            what: it is, in words.
            compiling: how.
            near: relative distance from the eager answer that is no error; None follows from the answer's dtype.
        """
        super().__init__()
        known: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        self.network = copy.deepcopy(network, known)
        self.train(network.training)
        self.failed: str | None = None
        self.what, self.used = what, False
        self._compiling, self._near = compiling, near
        self._largest = SIZES[-1]
        self._checked: set[tuple[Any, ...]] = set()
        compiled = torch.compile(self.network, dynamic=False, backend=compiling.backend)
        vars(self).update(_compiled=compiled, _layers=list(self.network.modules()))  # no submodules beside the network

    def note(self) -> str | None:
        """What a run says of it; None where it was not asked."""
        if self.failed is not None:
            return f"--compile: {self.what} ran eagerly ({self.failed})."
        if not self.used:
            return None
        return f"--compile: {self.what} compiled by torch.compile ({self._compiling.backend}) in the attack's passes."

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Any:
        """The network's answer."""
        if self.failed is not None or named or not len(x) or self._is_beyond(more):
            return self.network(x, *more, **named)
        parts = [self._part(x[rows], _rows_of(more, rows, len(x)), size) for rows, size in cut(len(x), self._largest)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _is_beyond(self, more: tuple[Any, ...]) -> bool:
        """Whether somebody listens to a layer, or differentiates by another argument."""
        if torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in more):
            return True
        if module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks:  # to every layer there is
            return True
        return any(module._forward_hooks or module._forward_pre_hooks for module in self._layers)

    def _part(self, x: Tensor, more: tuple[Any, ...], size: int) -> Tensor:
        rows = len(x)
        x, more = _pad(x, size), tuple(_pad(each, size) if _has_rows(each, rows) else each for each in more)
        if torch.is_grad_enabled() and x.requires_grad:
            found: Tensor = _Compiled.apply(self, x, *more)
        else:
            with torch.no_grad():
                found = self.answer(x.detach(), more)
        return found[:rows]

    def answer(self, x: Tensor, more: tuple[Any, ...]) -> Tensor:
        """The compiled answer, with a graph where x asks for one; the eager one where that fails."""

        def eagerly(few: slice) -> Tensor:
            found: Tensor = self.network(x[few], *_rows_of(more, few, len(x)))
            return found

        if self.failed is not None:  # since the part before
            return eagerly(slice(None))
        try:
            return self._check("answer", x, lambda: self._compiled(x, *more), eagerly)
        except Exception as error:
            self._fail(error, len(x))
            return eagerly(slice(None))

    def gradient(self, out: Tensor, leaf: Tensor, along: Tensor, more: tuple[Any, ...]) -> Tensor:
        """The compiled gradient of an `answer`; the eager one where that fails."""

        def eagerly(few: slice) -> Tensor:
            with torch.enable_grad():
                x = leaf[few].detach().requires_grad_()
                answer = self.network(x, *_rows_of(more, few, len(leaf)))
                return torch.autograd.grad(answer, x, along[few])[0]

        if self.failed is not None:  # since the answer
            return torch.autograd.grad(out, leaf, along)[0]
        try:
            return self._check("gradient", leaf, lambda: torch.autograd.grad(out, leaf, along)[0], eagerly)
        except Exception as error:
            self._fail(error, len(leaf))
            return eagerly(slice(None))

    def _check(self, kind: str, x: Tensor, ask: Callable[[], Tensor], eagerly: Callable[[slice], Tensor]) -> Tensor:
        """What is asked; the first time that a shape is, it is told, and held against the eager one."""
        key = (kind, tuple(x.shape), x.dtype, torch.is_grad_enabled())
        if key in self._checked:
            return ask()
        graph = " with its graph" if torch.is_grad_enabled() else ""
        self._compiling.tell(f"compiling {self.what}, {kind} of {len(x)} rows{graph}")
        with torch._dynamo.config.patch(recompile_limit=LIMIT):
            found = ask()
        few = slice(0, FEW)
        with torch.no_grad():
            wanted = eagerly(few).detach()
        if not isinstance(found, Tensor):
            raise TypeError(f"it answers with a {type(found).__name__}")
        near = self._near or NEAR.get(found.dtype, NEAR_LOW)
        if not (found.detach()[few] - wanted).norm() <= near * wanted.norm() + 1e-12:
            raise ArithmeticError(f"the compiled {kind} differs from the eager one")
        self._checked.add(key)
        self.used = True
        return found

    def _fail(self, error: Exception, size: int) -> None:
        """Eagerly from now on; with a lack of memory smaller parts instead, as whoever asks asks about fewer rows."""
        if is_out_of_memory(error):
            self._largest = max(each for each in SIZES if each == 1 or each < size)
            raise error
        words = " ".join(str(error).split("Set TORCHDYNAMO_VERBOSE")[0].split())[:200]
        self.failed = f"{type(error).__name__}: {words}" if words else type(error).__name__
        self._compiling.tell(f"compiling {self.what} failed: {self.failed}")


class _Compiled(torch.autograd.Function):
    """A compiled pass whose gradient is compiled too, or eager where somebody differentiates it again."""

    @staticmethod
    def forward(ctx: Any, owner: CompiledNetwork, x: Tensor, *more: Any) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            out = owner.answer(leaf, more)
        ctx.owner, ctx.more = owner, more
        ctx.save_for_backward(x)
        if not out.requires_grad:
            ctx.mark_non_differentiable(found := out.detach())
            return found
        ctx.kept = out, leaf
        return out.detach()

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled() or ctx.kept is None:  # differentiated again, or asked a second time
            return (None, again_with_graph(ctx.owner.network, x, ctx.more, along), *[None] * len(ctx.more))
        (out, leaf), ctx.kept = ctx.kept, None
        return (None, ctx.owner.gradient(out, leaf, along, ctx.more), *[None] * len(ctx.more))


def compile_classifier(classifier: nn.Module, compiling: Compiling) -> nn.Module:
    """The classifier for the passes of an attack; itself where it cannot be copied.

    Args:
        classifier: left as it is.
        compiling: how.
    """
    return _compiled(classifier, "the classifier", compiling)


def compile_score(score: Any, compiling: Compiling, *, near: float | None = None) -> Any:
    """A `ScoreModel` or `DataScore` for the passes of an attack, around the compiled network.

    A score that holds no module `network` stays as it is; so does an energy, whose gradient is the score: an attack
    differentiates that again.

    Args:
        score: left as it is; its other attributes are shared.
        compiling: how.
        near: see `CompiledNetwork`.
    """
    network = getattr(score, "network", None)
    if hasattr(network, "epsilon"):  # a score around another one, as `FixedTimeScore`
        inner = compile_score(network, compiling, near=near)
    elif isinstance(network, nn.Module):
        inner = _compiled(network, "the score network", compiling, near)
    else:
        return score
    try:
        other = copy_score(score)
        put(other, "network", inner)
    except (AttributeError, TypeError):
        return score
    return other


def compiled_networks(*parts: Any) -> list[CompiledNetwork]:
    """The compiled ones among classifiers and scores."""
    found = []
    for part in parts:
        while part is not None and not isinstance(part, CompiledNetwork):
            part = getattr(part, "network", None)
        if part is not None:
            found.append(part)
    return found


def cut(rows: int, largest: int = SIZES[-1]) -> Iterator[tuple[slice, int]]:
    """Parts of `rows`, each with the size that it is padded to: whole sizes first, less than twice as many in all.

    Args:
        rows: at least 1.
        largest: size of a part, at most.
    """
    sizes, start = [size for size in SIZES if size <= largest], 0
    while start < rows:
        left = rows - start
        size = next((size for size in sizes if size >= left), sizes[-1])
        if left <= size // 2:
            size = max(each for each in sizes if each <= left)
        yield slice(start, min(start + size, rows)), size
        start += size


def _compiled(network: nn.Module, what: str, compiling: Compiling, near: float | None = None) -> nn.Module:
    try:
        return CompiledNetwork(network, what, compiling, near)
    except Exception as error:  # a network that cannot be copied, a Python that torch.compile does not know
        compiling.tell(f"compiling {what} failed: {type(error).__name__}: {error}")
        return network


def _has_rows(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows


def _rows_of(more: tuple[Any, ...], rows: slice, count: int) -> tuple[Any, ...]:
    return tuple(value[rows] if _has_rows(value, count) else value for value in more)


def _pad(x: Tensor, size: int) -> Tensor:
    """Up to `size` rows, in one memory format: the last one again, of which nobody takes the answer."""
    missing = size - len(x)
    return x.contiguous() if not missing else torch.cat([x, x[-1:].detach().expand(missing, *x.shape[1:])]).contiguous()
