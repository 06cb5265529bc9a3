"""The registry of defenses: what is evaluated. Knows nothing of `bench`.

One defense, one file; the registered name is the file's stem. `defenses.defenses` maps names to classes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from defenses.base import GRADIENTS, Defended, Defense, Gradient, Networks, Purifier, Purify, defenses, register
    from defenses.models.classifiers import register_classifier
    from defenses.models.scores import register_score
    from defenses.noise import Noise, NoiseSource

_DOOR = {
    "register_classifier": "defenses.models.classifiers",
    "register_score": "defenses.models.scores",
    **dict.fromkeys(("Noise", "NoiseSource"), "defenses.noise"),
    **dict.fromkeys(
        ("GRADIENTS", "Defended", "Defense", "Gradient", "Networks", "Purifier", "Purify", "defenses", "register"),
        "defenses.base",
    ),
}

__all__ = [
    "GRADIENTS",
    "Defended",
    "Defense",
    "Gradient",
    "Networks",
    "Noise",
    "NoiseSource",
    "Purifier",
    "Purify",
    "defenses",
    "register",
    "register_classifier",
    "register_score",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that a command that needs no torch starts at once."""
    if name not in _DOOR:
        raise AttributeError(f"module 'defenses' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_DOOR[name]), name)
