"""Activations inside a classifier, by the names of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

_LAST_BLOCK = (10, 5, 3)  # in each group of a WideResNet of depth 70, 34, 28
FAMILIES: tuple[tuple[str, ...], ...] = (
    ("layer1", "layer2", "layer3", "layer4"),  # torchvision's ResNets
    *((*(f"block{group}.layer.{n}.relu2" for group in (1, 2, 3)), "relu") for n in _LAST_BLOCK),  # RobustBench's
    *((*(f"layer.{group}.block.{n}.relu_1" for group in (0, 1, 2)), "relu") for n in _LAST_BLOCK),  # DeepMind's
)
"""Layers of architectures that are not ours, and so cannot declare a `feature_layers` of their own."""


def features(classifier: nn.Module, images: Tensor) -> list[Tensor]:
    """Activations of the classifier's feature layers. No hook outlives the call.

    The layers are those that the classifier, or the network that it wraps, names in its attribute `feature_layers`;
    else those of a known architecture (`FAMILIES`).

    Args:
        classifier: any network.
        images: its input.

    Returns:
        [(batch, channels, height, width), ...], from the input on.

    Raises:
        ValueError: the classifier has no known feature layers.
    """
    names = feature_layers(classifier)
    seen: dict[str, Tensor] = {}
    with _recorded(classifier, names, seen):
        classifier(images)
    return [seen[name] for name in names]


def feature_layers(classifier: nn.Module) -> tuple[str, ...]:
    """Names of the classifier's feature layers, from the input on. Raises ValueError where there are none."""
    known = dict(classifier.named_modules())
    for prefix, module in known.items():
        dot = f"{prefix}." if prefix else ""
        for family in (getattr(module, "feature_layers", ()), *FAMILIES):
            names = tuple(dot + name for name in family)
            if names and all(name in known for name in names):
                return names
    raise ValueError(
        f"Expected a classifier whose inner layers are known, got {type(classifier).__name__}. Give it an attribute "
        "feature_layers, the names (as in named_modules) of about four layers from its input on."
    )


@contextmanager
def _recorded(classifier: nn.Module, names: tuple[str, ...], seen: dict[str, Tensor]) -> Iterator[None]:
    def keep(name: str) -> object:
        return classifier.get_submodule(name).register_forward_hook(
            lambda module, inputs, output: seen.__setitem__(name, output)
        )

    handles = []
    try:
        handles += [keep(name) for name in names]
        yield
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]
