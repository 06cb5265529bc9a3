"""A classifier behind a purifier: the one object that an attack and the judge see."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from defenses.inner_rows import find_networks, in_chunks
from defenses.noise import Noise, NoiseSource
from defenses.precision import Precision
from defenses.recorded import as_source
from defenses.rows import FEW, MANY, Rows, in_parts, retried
from defenses.sealed import seal

T = TypeVar("T")
Purify = Callable[[Tensor, NoiseSource], Tensor]
Gradient = Literal["exact", "guidance_detached", "adjoint", "surrogate", "straight_through", "transfer", "none"]
Combine = Literal["logits", "softmax", "vote"]
GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)
ALWAYS: tuple[Gradient, ...] = ("straight_through", "transfer", "none")  # kinds that every defense has
ROWS = 1024  # rows of several runs that are purified together; memory, not numbers


class Defended(nn.Module):
    """A classifier behind a purifier: what an attack and the judge see.

    Without gradients it is always the real defense. Where gradients are recorded, its `gradient` kind says what an
    attacker differentiates: "exact", "guidance_detached" and "adjoint" the purifier itself; "straight_through" the
    identity (BPDA; Athalye et al., ICML 2018); "surrogate" a cheaper purifier, run in place of the real one as in Lee &
    Kim (ICCV 2023); "transfer" the bare classifier; "none" nothing: the logits carry no graph.

    Attributes:
        classifier: purified images -> logits.
        gradient: the kind of gradient that an attacker has.
        kinds: the kinds that `with_gradient` reaches.
        runs: purifications behind one answer.
        combine: how the answers of the runs are joined, see `combine_runs`.
        votes: purifications behind each run, which answers with their majority.
        batch_coupled: whether the output for an image depends on its batch-mates.
        stochastic: whether two answers for one image may differ, as the defense declares; the judge holds it to that.
        with_score: (score network -> score network) -> the same purifier around the wrapped score network, for attacks
            that watch its states; None where there is none.
        attack_precision: what the passes of an attack compute in, see `defenses.attacked`.
        as_judged: whether these passes compute as a judge's do, by the same kernels too.
        rows_at_once: how many rows go through it at once; shared by its copies.
        is_sealed: whether purifier and classifier get noise that hands out draws and nothing else, see `sealed`.
    """

    attack_precision: Precision = "float32"
    as_judged: bool = True

    def __init__(
        self,
        purify: Purify,
        classifier: nn.Module,
        *,
        gradient: Gradient = "exact",
        surrogate: Purify | None = None,
        runs: int = 1,
        combine: Combine = "logits",
        votes: int = 1,
        batch_coupled: bool = False,
        split_draws: bool | None = None,
        stochastic: bool = True,
        rebuild: Callable[[Gradient], Defended] | None = None,
        kinds: tuple[Gradient, ...] = (),
        with_score: Callable[[Callable[[Any], Any]], Purify] | None = None,
    ) -> None:
        """Put a purifier before a classifier.

        Args:
            purify: pure function (images, noise) -> images.
            classifier: images (batch, channels, height, width) in [0, 1] -> logits.
            gradient: the kind of gradient that an attacker has; `purify` is built for it.
            surrogate: the cheaper purifier that gradient="surrogate" runs.
            runs: purifications behind one answer, >= 1.
            combine: how the runs are joined, see `combine_runs`.
            votes: purifications behind each run, >= 1.
            batch_coupled: whether the output for an image depends on its batch-mates.
            split_draws: whether rows of different draws are purified apart; None is as `batch_coupled`.
            stochastic: see the attribute.
            rebuild: kind of gradient -> the same defense, built for that kind.
            kinds: kinds of gradient that `rebuild` makes.
            with_score: see the attribute.
        """
        super().__init__()
        self._purify, self.classifier, self._surrogate = purify, classifier, surrogate
        self.gradient, self.runs, self.combine, self.batch_coupled = gradient, runs, combine, batch_coupled
        self.votes, self.with_score, self.stochastic, self.is_sealed = votes, with_score, stochastic, False
        self._split_draws = batch_coupled if split_draws is None else split_draws
        self._rebuild, self.rows_at_once = rebuild, Rows()
        self._built, self._rows_by_kind = gradient, {gradient: self.rows_at_once}
        self._networks: list[nn.Module] = []
        self.kinds = tuple(dict.fromkeys((gradient, *ALWAYS, *kinds)))

    def with_gradient(self, gradient: Gradient) -> Defended:
        """The same defense, networks shared, seen through another of its `kinds` of gradient."""
        if gradient not in self.kinds:
            raise ValueError(f"Expected a gradient kind among {', '.join(self.kinds)}, got {gradient!r}.")
        if gradient not in (self._built, *ALWAYS) and self._rebuild is not None:
            other = self._rebuild(gradient)
            other.is_sealed = self.is_sealed
            other._rows_by_kind = self._rows_by_kind
            other.rows_at_once = self._rows_by_kind.setdefault(gradient, other.rows_at_once)
            return other
        other = copy.copy(self)
        other.gradient = gradient
        return other

    def sealed(self) -> Defended:
        """The same defense, networks shared, whose purifier cannot read seed, image ids or draw numbers of its noise.

        A run's cells are measured so: a defense that knows who asks can answer the judge in another way.
        """
        other = copy.copy(self)
        other.is_sealed = True
        return other

    def __call__(self, images: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """See `forward`; in as many passes as memory asks for, and sealed before a subclass's own forward."""
        if noise is None:
            noise = fresh_noise(images)
        source = as_source(noise, len(images))
        if torch.is_grad_enabled() and images.requires_grad:  # who asks for a gradient asks again, see `retried`
            most = None if self.batch_coupled else self.rows_at_once.most(gradient=True)
            return in_parts(lambda x, rows: self._answer(x, _cut(source, rows)), images, most)
        return self._answer_plainly(images, source)

    def _answer(self, images: Tensor, noise: NoiseSource) -> Tensor:
        if self.is_sealed:
            noise = seal(noise)
        found: Tensor = super().__call__(images, noise)
        return found

    def _answer_plainly(self, images: Tensor, source: NoiseSource) -> Tensor:
        """Fewer rows at once where memory runs out; inside the networks where a batch stays whole."""
        known, size = self.rows_at_once, len(images)

        def ask() -> Tensor:
            most = None if self.batch_coupled else known.most(gradient=False)
            with self.in_chunks(images, lambda: source):
                return in_parts(lambda x, rows: self._answer(x, _cut(source, rows)), images, most)

        return retried(ask, lambda: self.back_off(size, size, gradient=False))

    def back_off(self, rows: int, batch: int, *, gradient: bool) -> bool:
        """Take half as much at once from now on, see `Rows.back_off`; whether that was possible.

        Args:
            rows: of the pass that did not fit, where no fewer are known to be the most.
            batch: rows that stay together in a batch-coupled defense.
            gradient: whether the pass had one.
        """
        known = self.rows_at_once
        rows, whole = min(rows, known.most(gradient=gradient) or rows), batch if self.batch_coupled else 0
        return known.back_off(rows, whole=whole, runs=self.runs * self.votes, gradient=gradient)

    @contextmanager
    def in_chunks(self, images: Tensor, noise: Callable[[], NoiseSource | None] = lambda: None) -> Iterator[None]:
        """While it lasts, the networks get at most `rows_at_once.inner` rows at once, in a backward pass too.

        Args:
            images: the first one is asked about, once, to see which networks there are.
            noise: gives theirs.
        """
        rows = self.rows_at_once.inner
        if rows is None:
            yield
            return
        if not self._networks:
            given = noise()
            one = None if given is None else given[slice(0, 1)]
            self._networks = find_networks(lambda: self.look(images[:1], one))
        with in_chunks(self._networks, rows):
            yield

    def look(self, images: Tensor, noise: NoiseSource | None = None) -> None:
        """Ask about a few images without a gradient, of which nobody needs the answer."""
        with torch.no_grad():
            self._answer(images.detach(), noise or fresh_noise(images))

    def with_purify(self, wrap: Callable[[Purify], Purify]) -> Defended:
        """The same defense, networks shared, with `wrap(purify)` in place of its purifier.

        For attacks and tests that watch or change what is purified. Other kinds of gradient, and purifiers around
        another score network, are wrapped too; the surrogate is not.
        """
        other, rebuild, with_score = copy.copy(self), self._rebuild, self.with_score
        other._modules = {name: module for name, module in self._modules.items() if name != "_purify"}
        other._purify, other._networks = wrap(self._purify), []
        if rebuild is not None:
            other._rebuild = lambda kind: rebuild(kind).with_purify(wrap)
        if with_score is not None:
            other.with_score = lambda change: wrap(with_score(change))
        return other

    def forward(self, images: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """The defended classifier's answer.

        Args:
            images: (batch, channels, height, width) in [0, 1].
            noise: of these images; recorded noise, see `as_source`, is a batch. None draws it afresh at every call, as
                attack libraries expect of a model.

        Returns:
            Logits (batch, classes).

        Raises:
            ValueError: the noise cannot tell the runs of an answer apart.
        """
        if noise is None:
            noise = fresh_noise(images)
        recorded = torch.is_grad_enabled() and images.requires_grad
        if recorded and self.gradient == "transfer":
            return self.classifier(images)
        if recorded and self.gradient == "surrogate":
            assert self._surrogate is not None
            return self.classifier(self._by_draw(self._surrogate, images, noise))
        total = self.runs * self.votes
        if total == 1:
            return self.classifier(self.purify(images, noise))
        runs = as_source(noise, len(images)).split(total)
        together = min(total, max(1, ROWS // len(images)), self.rows_at_once.runs or total)
        logits = []
        for run in range(0, total, together):
            count = min(together, total - run)
            rows = runs if count == total else runs[run * len(images) : (run + count) * len(images)]
            logits.append(self.classifier(self.purify(images.repeat(count, 1, 1, 1), rows)))
        answers = torch.cat(logits).unflatten(0, (self.runs, self.votes, len(images))).transpose(0, 1)
        return combine_runs(answers[0] if self.votes == 1 else combine_runs(answers, "vote"), self.combine)

    def purify(self, images: Tensor, noise: NoiseSource) -> Tensor:
        """One purification: images in, images of the same shape out, with the gradient of this defense's kind."""
        if self.is_sealed:
            noise = seal(noise)
        recorded = torch.is_grad_enabled() and images.requires_grad
        if not recorded or self.gradient in ("exact", "guidance_detached", "adjoint", "surrogate"):
            return self._by_draw(self._purify, images, noise)
        with torch.no_grad():
            purified = self._by_draw(self._purify, images, noise)
        return images + (purified - images).detach() if self.gradient == "straight_through" else purified.detach()

    def _by_draw(self, purify: Purify, images: Tensor, noise: NoiseSource) -> Tensor:
        """A batch-coupled purifier sees each draw as a batch of its own, unless it groups its rows by draw itself."""
        groups = as_source(noise, len(images)).rows_by_draw() if self._split_draws else []
        if len(groups) <= 1:
            return purify(images, noise)
        if all(int(rows[-1] - rows[0]) + 1 == len(rows) for rows in groups):  # sorted: each draw is one slice
            slices = sorted((int(rows[0]), int(rows[-1]) + 1) for rows in groups)
            return torch.cat([purify(images[a:b], noise[a:b]) for a, b in slices])
        purified = torch.empty_like(images)
        for rows in groups:
            purified = purified.index_copy(0, rows.to(images.device), purify(images[rows], noise[rows]))
        return purified


def with_gradient_retried(model: Defended, work: Callable[[], T], images: Tensor, rows: int) -> T:
    """The answer of work that asks a defense for gradients by itself, done again with fewer rows where memory runs out.

    For attacks that build a graph over several answers, or are a library's. Parts of a batch are computed again in the
    backward pass, one at a time; where a batch stays whole, the parts lie inside of the networks.

    Args:
        model: the defense.
        work: begins anew at every call.
        images: that it is asked about.
        rows: of its largest pass.
    """
    few = images[:FEW]
    if not model.batch_coupled and rows > MANY:
        known = model.rows_at_once
        known.measure(images.device, lambda: _differentiate(model, few), len(few), gradient=True)

    def ask() -> T:
        with model.in_chunks(images):
            return work()

    return retried(ask, lambda: model.back_off(rows, rows, gradient=True))


@torch.no_grad()
def purify_retried(model: Defended, images: Tensor, noise: NoiseSource) -> Tensor:
    """What the purifier of a defense makes of images, fewer at once where memory runs out."""
    size = len(images)

    def ask() -> Tensor:
        most = None if model.batch_coupled else model.rows_at_once.most(gradient=False)
        with model.in_chunks(images, lambda: noise):
            return in_parts(lambda x, rows: model.purify(x, _cut(noise, rows)), images, most)

    return retried(ask, lambda: model.back_off(size, size, gradient=False))


def _differentiate(model: Defended, images: Tensor) -> None:
    """Ask for a gradient that nobody needs."""
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        logits = model(x, fresh_noise(x))
        if logits.requires_grad:
            torch.autograd.grad(logits.sum(), x)


def _cut(noise: NoiseSource, rows: slice) -> NoiseSource:
    """The noise of some rows, itself where that is all of them."""
    return noise if rows == slice(0, len(noise)) else noise[rows]


def fresh_noise(images: Tensor) -> Noise:
    """Noise of a batch of images that nothing repeats.

    Not from torch's global seed: attack libraries reset it, and would meet the same draws again.
    """
    return Noise(secrets.randbits(64), torch.arange(len(images)))


def combine_runs(logits: Tensor, combine: Combine) -> Tensor:
    """One answer of several runs.

    Args:
        logits: (runs, batch, classes).
        combine: "logits" averages them; "softmax" averages probabilities; in "vote" each run votes its label, ties go
            to the smallest one. A vote's gradient is that of the mean softmax, as the vote itself has none.

    Returns:
        (batch, classes); log-probabilities for "softmax" and "vote", vote shares floored at 1e-6.
    """
    if combine == "logits":
        return logits.mean(0)
    mean = logits.softmax(-1).mean(0).clamp_min(1e-12).log()
    if combine == "softmax":
        return mean
    classes = torch.arange(logits.shape[-1], device=logits.device)
    votes = (logits.argmax(-1, keepdim=True) == classes).to(logits.dtype).mean(0)  # one_hot makes the host wait
    return mean + (votes.clamp_min(1e-6).log() - mean).detach()
