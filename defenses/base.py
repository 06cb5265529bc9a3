"""What a defense is: a frozen record of hyperparameters that builds a `Defended` classifier.

Images at every public door are float32 (batch, channels, height, width) in [0, 1]. A purifier's output is not clipped
unless its source clips it: a classifier behind DiffPure sees values slightly outside [0, 1], as in the authors' code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self, TypeVar, get_args, overload

from torch import nn

from defenses.declared import check_class
from defenses.defended import ALWAYS, GRADIENTS, Combine, Defended, Gradient, Purify, combine_runs
from defenses.field_types import TypedFields
from defenses.models.score_models import DataScore, ScoreModel
from defenses.plugins import adopt_class, welcome
from defenses.registry import ClassRegistry, plain_fields, unknown_name
from defenses.resize import at_size

__all__ = [
    "GRADIENTS", "Combine", "Defended", "Defense", "Gradient", "Networks", "Purifier", "Purify", "combine_runs",
    "defenses", "register",
]  # fmt: skip

D = TypeVar("D", bound="Defense")
defenses: ClassRegistry[Defense] = ClassRegistry("defense", "defenses")


@overload
def register(cls: type[D], /) -> type[D]: ...


@overload
def register(cls: str | None = None, /) -> Callable[[type[D]], type[D]]: ...


def register(cls: type[D] | str | None = None, /) -> Any:
    """Class decorator: put a defense into the registry, under the stem of its file or a name: @register("my_name").

    Args:
        cls: the class, or the name.

    Raises:
        ValueError: the class is no complete frozen dataclass of `Defense`, or the name is taken or none.
    """
    if cls is None or isinstance(cls, str):
        return lambda named: _register(named, cls)
    return _register(cls, None)


def _register(cls: type[D], name: str | None) -> type[D]:
    check_class(cls, Defense, "defense")
    strangers = [kind for kind in cls.gradients if kind not in GRADIENTS]
    if strangers:
        raise ValueError(f"{cls.__name__}.gradients: {unknown_name('kind of gradient', str(strangers[0]), GRADIENTS)}")
    defenses.register(cls, name)
    return cls


welcome(defenses, "defenses", adopt_class(defenses, register))


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Names of the networks that a defense brings by itself, beside the cell's classifier and score network.

    Attributes:
        classifiers: registered names, as `load_classifier` takes them.
        scores: registered names, as `load_score` takes them.
    """

    classifiers: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Defense(TypedFields, ABC):
    """A defense and its hyperparameters (its fields). Abstract: concrete defenses are final frozen dataclasses.

    A field holds plain data of its annotated type: see `defenses.field_types`.

    What a class attribute says may depend on the fields: see `defenses.traits.per_instance`.

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

    def networks(self) -> Networks:
        """Names of the networks that this defense brings; their weights and licences are kept with its results.

        Found by value: every field that holds the name of a registered classifier or score network, or a pattern such
        as "robustbench:<dataset>:<threat>:<model>". A defense that loads a network which no field names overrides this.
        """
        from defenses.models.classifiers import CLASSIFIERS, classifier_info
        from defenses.models.scores import SCORES, score_info

        names = dict.fromkeys(_texts(self.params()))
        classifiers = tuple(name for name in names if _is_network(name, CLASSIFIERS, classifier_info))
        rest = [name for name in names if name not in classifiers]
        return Networks(
            classifiers=classifiers,
            scores=tuple(name for name in rest if _is_network(name, SCORES, score_info)),
        )

    def with_networks(self, names: Mapping[str, str]) -> Self:
        """The same defense with other networks in place of its own.

        Args:
            names: name of a network -> name of the one that takes its place; what is not in it stays.
        """
        own = self.networks()
        changed = {old: new for old, new in names.items() if old in (*own.classifiers, *own.scores)}
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.init}
        return replace(self, **{name: _renamed(value, changed) for name, value in values.items()})

    def check_gradient(self, gradient: Gradient) -> None:
        """Raise ValueError for a kind of gradient that this defense does not have; the message lists what it has."""
        if gradient not in GRADIENTS:
            raise ValueError(f"Expected a gradient kind among {', '.join(GRADIENTS)}, got {gradient!r}.")
        if gradient not in (*self.gradients, *ALWAYS):
            raise ValueError(
                f"{type(self).__name__} has no {gradient!r} gradient. It has: {', '.join((*self.gradients, *ALWAYS))}."
            )

    @abstractmethod
    def defend(
        self, classifier: nn.Module, score: ScoreModel | DataScore | None = None, *, gradient: Gradient = "exact"
    ) -> Defended:
        """The defended classifier.

        Args:
            classifier: images (batch, channels, height, width) in [0, 1] -> logits.
            score: the score network; None where there is none.
            gradient: the kind of gradient that an attacker has.

        Raises:
            ValueError: something that this defense needs is missing, or it has no such gradient.
        """


def _texts(value: Any) -> Iterator[str]:
    """The strings in plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _is_network(name: str, registered: Container[str], info: Callable[[str], Any]) -> bool:
    if ":" not in name:  # no pattern; to ask `info` would search for near matches
        return name in registered
    try:
        return bool(info(name))
    except LookupError:
        return False


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Plain data in which strings are renamed, keys of mappings excepted."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, Mapping):
        return {key: _renamed(inner, names) for key, inner in value.items()}
    return type(value)(_renamed(inner, names) for inner in value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True, kw_only=True)
class Purifier(Defense):
    """A defense that maps images to images before the classifier sees them.

    Attributes:
        runs: purifications behind one answer, >= 1.
        combine: how the runs' answers are joined: "logits" averaged, "softmax" averaged, or "vote" (each run votes its
            label; ties go to the smallest label).
    """

    runs: int = 1
    combine: Combine = "logits"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.runs < 1:
            raise ValueError(f"Expected runs >= 1, got {self.runs}.")
        if self.combine not in get_args(Combine):
            raise ValueError(f"Expected combine among {', '.join(get_args(Combine))}, got {self.combine!r}.")

    @abstractmethod
    def build(self, *, classifier: Any, score: Any, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images of the same shape.

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
        """`build`, purifying at the size of the score network's images: others are resized there and back.

        Args:
            classifier: as in `build`.
            score: as in `build`.
            gradient: as in `build`.

        Raises:
            ValueError: the score network does not know diffusion times and this purifier needs them.
        """
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
        """The classifier with this purifier in front; see `Defense.defend`."""
        self.check_gradient(gradient)
        if self.needs_score and score is None:
            raise ValueError(f"{type(self).__name__} needs a score network, got none. Give the cell a `score`.")
        purify = self.fitted(classifier=classifier, score=score, gradient=gradient)
        cheap = None
        if gradient == "surrogate":
            cheap = self.surrogate().fitted(classifier=classifier, score=score, gradient="exact")
        return Defended(
            purify,
            classifier,
            gradient=gradient,
            surrogate=cheap,
            runs=self.runs,
            combine=self.combine,
            batch_coupled=self.batch_coupled,
            split_draws=self.batch_coupled and not self.groups_draws,
            stochastic=getattr(self, "stochastic", True),  # a class that is not registered may not say it
            rebuild=lambda kind: self.defend(classifier, score, gradient=kind),
            kinds=self.gradients,
            with_score=None
            if score is None
            else lambda wrap: self.fitted(classifier=classifier, score=wrap(score), gradient=gradient),
        )
