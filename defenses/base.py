"""What a defense is: a frozen record of hyperparameters that builds a `Defended` classifier.

Images at every public door are float32 (batch, channels, height, width) in [0, 1]. A purifier's output is not clipped
unless its source clips it: a classifier behind DiffPure sees values slightly outside [0, 1], as in the authors' code.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from defenses.models.score_models import DataScore, ScoreModel
from defenses.noise import Noise
from defenses.registry import Registry, plain_fields
from defenses.resize import at_size

Purify = Callable[[Tensor, Noise], Tensor]
Gradient = Literal["exact", "guidance_detached", "adjoint", "surrogate", "straight_through", "transfer", "none"]
Combine = Literal["logits", "softmax", "vote"]
GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)
ROWS = 1024  # rows of several runs that are purified together; memory, not numbers
_ALWAYS: tuple[Gradient, ...] = ("straight_through", "transfer", "none")

defenses: Registry[Defense] = Registry("defense", "defenses")


def register(cls: type[Defense]) -> type[Defense]:
    """Class decorator: put a defense into the registry under the stem of its file."""
    return defenses.register(cls)


@dataclass(frozen=True, kw_only=True)
class Defense(ABC):
    """A defense and its hyperparameters (its fields). Abstract: concrete defenses are final frozen dataclasses.

    Class attributes:
        name: registered name; `@register` sets it.
        title: what tables call it; the name with spaces where nothing is given.
        words: value of a field -> how tables write it, where its letters alone would not do ("ode": "ODE").
        always_shown: fields that tables show behind the title, whether they differ between the rows or not.
        source: citation, with equation or algorithm.
        stochastic: whether two answers for one image may differ.
        batch_coupled: whether the output for an image depends on its batch-mates.
        groups_draws: whether a batch-coupled purifier tells the draws of its rows apart by itself.
        gradients: kinds of gradient an attacker can have beyond straight-through, transfer and none.
        version: raised when a change of code moves its numbers.
        needs_score: whether `defend` must be given a score network.
        takes_data_score: whether that may be a `DataScore`, the score of the images alone.
        needs_classifier: whether `build` must be given the classifier.
        published_caveat: why the robustness that its source reports may not be comparable with ours; "" where nothing
            is known against it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    words: ClassVar[Mapping[str, str]] = {}
    always_shown: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str]
    stochastic: ClassVar[bool]
    batch_coupled: ClassVar[bool] = False
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact",)
    version: ClassVar[int] = 1
    groups_draws: ClassVar[bool] = False
    needs_score: ClassVar[bool] = False
    takes_data_score: ClassVar[bool] = False
    needs_classifier: ClassVar[bool] = False
    published_caveat: ClassVar[str] = ""

    def params(self) -> dict[str, Any]:
        """The fields as plain data, defaults included; `defenses.make(name, params)` is the inverse."""
        return plain_fields(self)

    @property
    def network_evaluations(self) -> int:
        """Score-network evaluations behind one answer for one image."""
        return 0

    def check_gradient(self, gradient: Gradient) -> None:
        """Refuse a kind of gradient that this defense does not have, with what it has instead."""
        if gradient not in GRADIENTS:
            raise ValueError(f"Expected a gradient kind among {', '.join(GRADIENTS)}, got {gradient!r}.")
        if gradient not in (*self.gradients, *_ALWAYS):
            raise ValueError(
                f"{type(self).__name__} has no {gradient!r} gradient. It has: {', '.join((*self.gradients, *_ALWAYS))}."
            )

    @abstractmethod
    def defend(
        self, classifier: nn.Module, score: ScoreModel | DataScore | None = None, *, gradient: Gradient = "exact"
    ) -> Defended:
        """The defended classifier, whose gradient is of the given kind. Raises ValueError where something needed is
        missing."""


@dataclass(frozen=True, kw_only=True)
class Purifier(Defense):
    """A defense that maps images to images before the classifier sees them.

    runs: purifications behind one answer (>= 1). combine: how the runs' answers are joined: "logits" averaged,
    "softmax" averaged, or "vote" (each run votes its label; ties go to the smallest label).
    """

    runs: int = 1
    combine: Combine = "logits"

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise ValueError(f"Expected runs >= 1, got {self.runs}.")
        if self.combine not in get_args(Combine):
            raise ValueError(f"Expected combine among {', '.join(get_args(Combine))}, got {self.combine!r}.")

    @abstractmethod
    def build(self, *, classifier: Any, score: Any, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images.

        A purifier states the types that it needs: `score: ScoreModel`, say, or `classifier: nn.Module`.

        Args:
            classifier: images (batch, channels, height, width) in [0, 1] -> logits; None where there is none.
            score: a `ScoreModel` or a `DataScore`; None where there is none.
            gradient: the kind of gradient that an attacker will ask for.
        """

    def fitted(
        self,
        *,
        classifier: nn.Module | None = None,
        score: ScoreModel | DataScore | None = None,
        gradient: Gradient = "exact",
    ) -> Purify:
        """`build`, purifying at the size of the score network's images: others are resized there and back."""
        timeless = isinstance(score, DataScore) and not hasattr(score, "epsilon")
        if self.needs_score and not self.takes_data_score and timeless:
            raise ValueError(
                f"{type(self).__name__} needs a network that knows diffusion times, got {type(score).__name__}, the "
                "score of the images alone. Give the cell another `score`; `bench list scores` names them."
            )
        purify = self.build(classifier=classifier, score=score, gradient=gradient)
        shape = getattr(score, "image_shape", None) if self.needs_score else None
        return purify if shape is None else at_size(purify, tuple(shape[-2:]))

    def surrogate(self) -> Purifier:
        """The cheaper copy that gradient="surrogate" differentiates."""
        raise ValueError(f"{type(self).__name__} has no surrogate. Use another gradient kind.")

    def defend(
        self, classifier: nn.Module, score: ScoreModel | DataScore | None = None, *, gradient: Gradient = "exact"
    ) -> Defended:
        """A `Defended` classifier with this purifier in front."""
        self.check_gradient(gradient)
        if self.needs_score and score is None:
            raise ValueError(f"{type(self).__name__} needs a score network, got none. Give the cell a `score`.")
        purify = self.fitted(classifier=classifier, score=score, gradient=gradient)
        cheap = None
        if gradient == "surrogate":
            cheap = self.surrogate().fitted(classifier=classifier, score=score, gradient="exact")
        defended = Defended(
            purify,
            classifier,
            gradient=gradient,
            surrogate=cheap,
            runs=self.runs,
            combine=self.combine,
            batch_coupled=self.batch_coupled,
            split_draws=self.batch_coupled and not self.groups_draws,
            rebuild=lambda kind: self.defend(classifier, score, gradient=kind),
            kinds=self.gradients,
        )
        if score is not None:
            defended.with_score = lambda wrap: self.fitted(classifier=classifier, score=wrap(score), gradient=gradient)
        return defended


class Defended(nn.Module):
    """A classifier behind a purifier: what an attack and the judge see.

    Without gradients it is always the real defense. Where gradients are recorded, its `gradient` kind says
    what an attacker differentiates: "exact", "guidance_detached" and "adjoint" the purifier itself; "straight_through"
    the identity (BPDA; Athalye et al., ICML 2018); "surrogate" a cheaper purifier, run in place of the real one as in
    Lee & Kim (ICCV 2023); "transfer" the bare classifier; "none" nothing: the logits carry no graph.
    with_score: builds the same purifier around a wrapped score network, for attacks that watch its states; None where
    there is none. votes: purifications behind each run, which answers with their majority.
    """

    with_score: Callable[[Callable[[Any], Any]], Purify] | None = None
    votes: int = 1

    def __init__(
        self,
        purify: Purify,
        classifier: nn.Module,
        *,
        gradient: Gradient = "exact",
        surrogate: Purify | None = None,
        runs: int = 1,
        combine: Combine = "logits",
        batch_coupled: bool = False,
        split_draws: bool | None = None,
        rebuild: Callable[[Gradient], Defended] | None = None,
        kinds: tuple[Gradient, ...] = (),
    ) -> None:
        super().__init__()
        self._purify, self.classifier, self._surrogate = purify, classifier, surrogate
        self.gradient, self.runs, self.combine, self.batch_coupled = gradient, runs, combine, batch_coupled
        self._split_draws = batch_coupled if split_draws is None else split_draws
        self._rebuild = rebuild
        self._built = gradient
        self.kinds = tuple(dict.fromkeys((gradient, *_ALWAYS, *kinds)))

    def with_gradient(self, gradient: Gradient) -> Defended:
        """The same defense, networks shared, seen through another of its `kinds` of gradient."""
        if gradient not in self.kinds:
            raise ValueError(f"Expected a gradient kind among {', '.join(self.kinds)}, got {gradient!r}.")
        if gradient not in (self._built, *_ALWAYS) and self._rebuild is not None:
            return self._rebuild(gradient)
        other = copy.copy(self)
        other.gradient = gradient
        return other

    def forward(self, images: Tensor, noise: Noise) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width) in [0, 1].

        noise: of these images. Recorded noise, an object with the methods `normal` to `repeat` of `Noise`, is a batch.
        """
        recorded = torch.is_grad_enabled() and images.requires_grad
        if recorded and self.gradient == "transfer":
            return self.classifier(images)
        if recorded and self.gradient == "surrogate":
            assert self._surrogate is not None
            return self.classifier(self._by_draw(self._surrogate, images, noise))
        total = self.runs * self.votes
        if total == 1:
            return self.classifier(self.purify(images, noise))
        ours = isinstance(noise, Noise)  # recorded noise can `repeat`, and no more
        if self.batch_coupled and not ours:
            raise ValueError(
                f"Expected `Noise`, to tell the {total} runs of a batch apart; got {type(noise).__name__}. Set runs=1."
            )
        noise, together = (noise.split(total), max(1, ROWS // len(images))) if ours else (noise.repeat(total), total)
        logits = []
        for run in range(0, total, together):
            count = min(together, total - run)
            rows = noise[run * len(images) : (run + count) * len(images)] if ours else noise
            logits.append(self.classifier(self.purify(images.repeat(count, 1, 1, 1), rows)))
        answers = torch.cat(logits).unflatten(0, (self.runs, self.votes, len(images))).transpose(0, 1)
        return combine_runs(answers[0] if self.votes == 1 else combine_runs(answers, "vote"), self.combine)

    def purify(self, images: Tensor, noise: Noise) -> Tensor:
        """One purification: images in, images of the same shape out, with the gradient of this defense's kind."""
        recorded = torch.is_grad_enabled() and images.requires_grad
        if not recorded or self.gradient in ("exact", "guidance_detached", "adjoint", "surrogate"):
            return self._by_draw(self._purify, images, noise)
        with torch.no_grad():
            purified = self._by_draw(self._purify, images, noise)
        return images + (purified - images).detach() if self.gradient == "straight_through" else purified.detach()

    def _by_draw(self, purify: Purify, images: Tensor, noise: Noise) -> Tensor:
        """A batch-coupled purifier sees each draw as a batch of its own, unless it groups its rows by draw itself."""
        draws = getattr(noise, "draws", None) if self._split_draws else None
        if not isinstance(draws, Tensor) or bool((draws == draws[:1]).all()):
            return purify(images, noise)
        purified = torch.empty_like(images)
        for draw in draws.unique():
            rows = (draws == draw).nonzero().squeeze(1)
            purified = purified.index_copy(0, rows.to(images.device), purify(images[rows], noise[rows]))
        return purified


def combine_runs(logits: Tensor, combine: Combine) -> Tensor:
    """(runs, batch, classes) logits -> (batch, classes).

    "softmax" and "vote" return log-probabilities (vote shares floored at 1e-6); a vote's gradient is that of
    the mean softmax, as the vote itself has none.
    """
    if combine == "logits":
        return logits.mean(0)
    mean = logits.softmax(-1).mean(0).clamp_min(1e-12).log()
    if combine == "softmax":
        return mean
    votes = nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype).mean(0)
    return mean + (votes.clamp_min(1e-6).log() - mean).detach()
