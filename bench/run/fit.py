"""Whether networks fit the pictures of a data set: asked once, of one picture, before an attack spends hours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.datasets import ImageSet
from defenses.memory import is_out_of_memory


def check_classifier(network: nn.Module, name: str, data: ImageSet, index: int, device: torch.device) -> None:
    """Ask a classifier about one picture.

    Args:
        network: images (batch, channels, height, width) in [0, 1] -> logits (batch, classes).
        name: of the classifier, for the message.
        data: the pictures.
        index: of the picture, in 0..N-1.
        device: where the network is.

    Raises:
        ValueError: it cannot take the picture, or answers with something else than one finite real logit a class.
    """
    out = _ask(network, f"classifier {name}", data, data.images([index]).to(device))
    wanted = (1, data.classes)
    if not isinstance(out, Tensor) or tuple(out.shape) != wanted:
        raise ValueError(
            f"Expected logits of shape {wanted} from classifier {name} for one picture of {data.name} ({data.classes} "
            f"classes), found {_words(out)}.{_remedy(out)}"
        )
    if not out.is_floating_point() or not bool(out.isfinite().all()):
        kind = "numbers that are not finite" if out.is_floating_point() else f"{out.dtype}: labels, no logits"
        raise ValueError(
            f"Expected finite real logits from classifier {name} for a picture of {data.name}, found {kind}."
        )


def check_score(score: Any, name: str, data: ImageSet, index: int, device: torch.device) -> None:
    """Ask a score network about one picture at its own size.

    Args:
        score: a `ScoreModel` or a `DataScore`.
        name: of the score network, for the message.
        data: the pictures; a defense resizes them to the network's size, but cannot change their channels.
        index: of the picture, in 0..N-1.
        device: where the network is.

    Raises:
        ValueError: it is of other channels, cannot take the picture, or answers with another shape.
    """
    pictures = data.images([index]).to(device)
    shape = getattr(score, "image_shape", data.image_shape)
    if shape[0] != data.image_shape[0]:
        raise ValueError(
            f"Expected a score network of pictures of {data.image_shape[0]} channels for {data.name}, found {name}, of "
            f"{shape[0]}. Choose one of such pictures: `bench list scores`."
        )
    if tuple(pictures.shape[1:]) != tuple(shape):
        pictures = nn.functional.interpolate(pictures, size=tuple(shape[1:]))
    if hasattr(score, "epsilon"):
        time = torch.full((1,), 0.5, device=device)
        out = _ask(lambda x: score.epsilon(2 * x - 1, time), f"score network {name}", data, pictures)
    else:
        out = _ask(score.score, f"score network {name}", data, pictures)
    if not isinstance(out, Tensor) or out.shape != pictures.shape:
        raise ValueError(
            f"Expected an answer of shape {tuple(pictures.shape)} from score network {name} for one picture of "
            f"{data.name}, found {_words(out)}."
        )


def _ask(network: Any, name: str, data: ImageSet, pictures: Tensor) -> Any:
    """The network's answer, with the global generators as they were before."""
    devices = [pictures.device] if pictures.is_cuda else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            return network(pictures.clone())
    except Exception as error:  # whatever a network says to pictures of another size
        if is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"Expected {name} to take a picture of {data.name}, {tuple(pictures.shape)} in [0, 1], found that it "
            f"cannot ({type(error).__name__}: {said}). Choose a network of such pictures."
        ) from error


def _words(out: Any) -> str:
    if isinstance(out, Tensor):
        return f"a tensor of shape {tuple(out.shape)}"
    length = f" of {len(out)}" if isinstance(out, (tuple, list)) else ""
    return f"a {type(out).__name__}{length}"


def _remedy(out: Any) -> str:
    wrong = isinstance(out, Tensor)
    return " Choose a network of these classes." if wrong else " Wrap the network so that it returns the logits alone."
