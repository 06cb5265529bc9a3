"""Contrastive-guided diffusion purification, the method that this project implements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from defenses.base import Gradient, Networks, Purify, register
from defenses.diffusion import scan, to_image_space, to_model_space
from defenses.diffusion.guidance import (
    NEEDS_NEGATIVES,
    ContrastiveLoss,
    adam,
    contrastive_loss,
    embed,
    embedding_bounds,
)
from defenses.diffusion.purifier import DiffusionPurifier
from defenses.diffusion.scan import State
from defenses.diffusion.solvers import reverse_ode, reverse_sde, time_grid
from defenses.field_types import check_range
from defenses.models.score_models import ScoreModel, times
from defenses.noise import NoiseSource
from defenses.recorded import as_source
from defenses.traits import per_instance

GuideInput = Literal["state", "image"]
EMBEDDING_STREAM = 2
LEARNING_RATE = 0.01  # of the embedding network's Adam


@register
@dataclass(frozen=True, kw_only=True)
class Contrastive(DiffusionPurifier):
    """Contrastive-guided purification (Bai et al., ICML 2024, PMLR 235:2375-2391).

    A reverse VP-SDE (or ODE) whose noise prediction at every step gains guidance_scale times the gradient, with respect
    to the current state, of a contrastive loss between the features of this state and of the state before. Defaults
    are the released behaviour in the authors' main CIFAR-10 setting, as a pure function of its inputs: no state leaks
    from one purification into the next (`initial_cache` of `purifier` reproduces the leak). gradient="exact"
    differentiates the guidance and the online training too; "guidance_detached" holds the guidance constant. See
    docs/methods.md.

    Attributes:
        guidance_scale: weight of the guidance, >= 0; the authors use 500, or 5000 with temperature 10.
        loss: the contrastive loss, see `contrastive_loss`; "released_hard" is what the authors' code computes;
            "infonce", "ntxent" and "hard_negatives" are the losses as normally defined.
        temperature: what similarities are divided by, > 0.
        tau_plus: share of false negatives that the hard loss corrects for, in [0, 1).
        beta: concentration on hard negatives, >= 0.
        guide_from: first guided network call. The authors count the integrator's contract check as call 0, which is
            never guided here, so that 0 and 1 are the same with the SDE. None is 0, and 2 with per_image: call 1
            contrasts the state with itself, where the gradient of a single image is zero and Adam would blow rounding
            errors up to full steps.
        guide_until: first network call that is no longer guided.
        embedding: whether features pass through a three-block network trained by Adam inside every purification, as
            released; without it the logits are contrasted.
        guide_input: what the guide sees: "state" is the noisy state in [-1, 1] as it is, as released; "image" maps it
            to [0, 1] first.
        per_image: whether every image is guided as a batch of its own, with its own embedding network; only the
            released losses are defined there.
        solver: "sde" or "ode", the reverse process that is guided.
        guide: name of the guiding classifier; None is the attacked one.
    """

    title: ClassVar[str] = "contrastive guidance"
    words: ClassVar[Mapping[str, str]] = {"ode": "ODE", "sde": "SDE", "infonce": "InfoNCE", "ntxent": "NT-Xent"}
    source: ClassVar[str] = "Bai et al., ICML 2024, PMLR 235:2375-2391; released code"
    batch_coupled: ClassVar[bool] = per_instance(True, lambda self: not self.per_image)
    groups_draws: ClassVar[bool] = True
    needs_classifier: ClassVar[bool] = True
    gradients: ClassVar[tuple[Gradient, ...]] = ("exact", "guidance_detached", "surrogate")

    guidance_scale: float = 500.0
    loss: ContrastiveLoss = "released_hard"
    temperature: float = 1.0
    tau_plus: float = 0.1
    beta: float = 1.0
    guide_from: int | None = None
    guide_until: int = 100_000
    embedding: bool = True
    guide_input: GuideInput = "state"
    per_image: bool = False
    solver: Literal["sde", "ode"] = "sde"
    guide: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guide_from is None:
            object.__setattr__(self, "guide_from", 2 if self.per_image else 0)
        _check_choice("loss", self.loss, get_args(ContrastiveLoss))
        _check_choice("guide_input", self.guide_input, get_args(GuideInput))
        _check_choice("solver", self.solver, ("sde", "ode"))
        if not (self.guidance_scale >= 0 and self.temperature > 0 and 0 <= self.tau_plus < 1 and self.beta >= 0):
            raise ValueError(
                "Expected guidance_scale >= 0, temperature > 0, tau_plus in [0, 1) and beta >= 0, got "
                f"{self.guidance_scale}, {self.temperature}, {self.tau_plus} and {self.beta}."
            )
        check_range(self, 0, None, "guide_from", "guide_until")
        if self.per_image and self.loss in NEEDS_NEGATIVES:
            raise ValueError(
                f"The loss {self.loss!r} contrasts an image with its batch-mates and is constant for a single image. "
                'With per_image use "released_hard" or "released_soft".'
            )

    def build(self, *, classifier: nn.Module | None, score: ScoreModel, gradient: Gradient = "exact") -> Purify:
        """The pure function (images, noise) -> images; images (batch, channels, height, width) in [0, 1]."""
        return self.purifier(classifier=classifier, score=score, gradient=gradient)

    def purifier(
        self,
        *,
        classifier: nn.Module | None,
        score: ScoreModel,
        gradient: Gradient = "exact",
        initial_cache: Tensor | None = None,
    ) -> Callable[[Tensor, NoiseSource], Tensor]:
        """As `build`; `initial_cache` (batch, channels, height, width) in [-1, 1] is a state left by an earlier
        purification.

        The authors' wrapper keeps its cache between calls: the integrator's contract check then already
        trains the embedding once, against the leaked state.
        """
        guide = _Guide(self, self._guide_network(classifier), differentiated=gradient == "exact")
        schedule, guide_from = score.schedule, self.guide_from or 0

        def purify(images: Tensor, noise: NoiseSource) -> Tensor:
            x = schedule.diffuse_at(to_model_space(images), self.levels - 1, noise.normal(images, step=0))
            grid = time_grid(self.t, self.reverse_steps, dtype=images.dtype)
            groups = len(x) if self.per_image else draw_groups(noise, len(x))
            weights = guide.initial_weights(x, noise, groups)
            trained, unknown = 0, x.new_empty(0)
            if initial_cache is not None and guide_from == 0 and self.solver == "sde":
                _, weights, _ = guide(x, initial_cache, weights, 1, groups)
                trained = 1

            def step(state: State, k: int) -> State:
                x, cache, known, *weights = state
                seen = unknown
                t, dt = grid[k]
                eps = score.epsilon(x, times(x, t))
                call = k + 1 if self.solver == "sde" else k
                first = max(guide_from, 1)
                if first <= call < self.guide_until:
                    direction, weights, seen = guide(x, cache, weights, trained + call - first + 1, groups, known)
                    eps = eps + self.guidance_scale * direction
                if self.solver == "sde":
                    z = noise.normal(x, step=k + 1)
                    moved = reverse_sde(x, eps, z, schedule=schedule, t=t, dt=dt)
                else:
                    moved = reverse_ode(x, eps, schedule=schedule, t=t, dt=dt)
                return (moved, x, seen, *weights)

            x, *_ = scan(step, (x, x, unknown, *weights), len(grid), checkpoint_every=self.checkpoint_every)
            return to_image_space(x)

        return purify

    def networks(self) -> Networks:
        """The classifier `guide`, where one is named."""
        return Networks(classifiers=(self.guide,) if self.guide is not None else ())

    def _guide_network(self, classifier: nn.Module | None) -> nn.Module:
        if self.guide is not None:
            from defenses.models.classifiers import load_classifier

            guide = load_classifier(self.guide)
            like = next(classifier.parameters(), None) if classifier is not None else None
            return guide if like is None else guide.to(like)
        if classifier is None:
            raise ValueError("Contrastive guidance needs a classifier, got none. Pass one, or name a `guide`.")
        return classifier


class _Guide:
    """The guidance of one step: its direction, and the embedding network after one Adam step on the same loss."""

    def __init__(self, defense: Contrastive, classifier: nn.Module, *, differentiated: bool) -> None:
        self.defense, self.classifier, self.differentiated = defense, classifier, differentiated

    def initial_weights(self, x: Tensor, noise: NoiseSource, groups: int) -> list[Tensor]:
        """[w, m, v] of the embedding network: (groups, 18 n**2) uniform weights, zero moments; nothing without
        embedding."""
        if not self.defense.embedding:
            return []
        with torch.no_grad():
            features = self.classifier(x[:1]).shape[-1]
        bounds = embedding_bounds(features, dtype=x.dtype, device=x.device)
        if self.defense.per_image:
            uniform = noise.uniform(bounds.expand(len(x), -1), step=0, stream=EMBEDDING_STREAM)
        else:
            kind: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
            size = len(x) // groups
            draws = [noise] if groups == 1 else [noise[i : i + size] for i in range(0, len(x), size)]
            uniform = torch.stack(
                [d.shared_uniform(bounds.shape, step=0, stream=EMBEDDING_STREAM, **kind) for d in draws]
            )
        w = (2 * uniform - 1) * bounds
        return [w, torch.zeros_like(w), torch.zeros_like(w)]

    def __call__(
        self, x: Tensor, cache: Tensor, weights: list[Tensor], n: int, groups: int, known: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Gradient of the loss with respect to x, the weights after their n-th Adam step, and the features of x.

        x is made a node of its own: at the first call the cache is the same tensor, and must not receive the
        derivative. `known` are the features of the cache, empty where the step before computed none. They carry no
        derivative: where the gradient is exact, the classifier is asked again.
        """
        exact = self.differentiated and torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            x = x.view_as(x) if exact else x.detach().requires_grad_()
            if not exact:
                cache, weights = cache.detach(), [w.detach() for w in weights]
            inputs = [x]
            if weights:
                inputs.append(weights[0] if weights[0].requires_grad else weights[0].detach().requires_grad_())
            known = known if known is not None and len(known) and not exact else self._features(cache)
            features = self._features(x)
            loss = self._loss(known, features, inputs[1] if weights else None, groups)
            gradients = torch.autograd.grad(loss, inputs, create_graph=exact)
            if not weights:
                return gradients[0], [], features.detach()
            w, m, v = weights
            moved = adam(w, m, v, gradients[1], n, lr=LEARNING_RATE)
            return gradients[0], list(moved), features.detach()

    def _loss(self, before: Tensor, after: Tensor, w: Tensor | None, groups: int) -> Tensor:
        d = self.defense
        features = [f.unflatten(0, (groups, -1)) for f in (before, after)]
        if w is not None:
            features = [embed(f, w) for f in features]
        return contrastive_loss(
            *features, kind=d.loss, temperature=d.temperature, tau_plus=d.tau_plus, beta=d.beta
        ).sum()

    def _features(self, state: Tensor) -> Tensor:
        return self.classifier(state if self.defense.guide_input == "state" else to_image_space(state))


def draw_groups(noise: NoiseSource, rows: int) -> int:
    """Number of draws that the rows of a batch hold, laid draw by draw (`NoiseSource.repeat`); each is a batch of its
    own."""
    draws = as_source(noise, rows).rows_by_draw()
    groups = len(draws)
    if any(len(found) * groups != rows or int(found.max() - found.min()) + 1 != len(found) for found in draws):
        raise ValueError(
            "Expected the same images for each draw, draw by draw, got the draws in rows "
            f"{', '.join(str(found.tolist()) for found in draws)}."
        )
    return groups


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"Expected {name} among {', '.join(choices)}, got {value!r}.")
