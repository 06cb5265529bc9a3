"""A defense attacked in low precision: an attacker's gradients are rounded, every other answer is float32's."""

from __future__ import annotations

import pytest
import torch
from contract import cases, tiny_classifier, tiny_images, tiny_noise, tiny_score
from torch import Tensor

from defenses.attacked import AttackedDefense
from defenses.base import Defended, Defense, Gradient
from defenses.diffpure_sde import DiffPureSDE
from defenses.models.low_precision import in_bfloat16
from defenses.noise import NoiseSource
from defenses.precision import arithmetic, check_device, stay_in_float32

WITH_SCORE = [defense for defense in cases() if defense.needs_score]
SWITCHES = torch.backends


def both(defense: Defense, gradient: Gradient = "exact") -> tuple[Defended, AttackedDefense]:
    classifier, score = tiny_classifier(torch.float32), tiny_score()
    try:
        real, low = (defense.defend(classifier, s, gradient=gradient) for s in (score, in_bfloat16(score)))
    except LookupError as missing:
        pytest.skip(str(missing))
    return real, AttackedDefense(real, low, "bfloat16")


def gradient_of(model: Defended, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x, tiny_noise())[:, 0].sum(), x)[0]


@pytest.mark.parametrize("defense", WITH_SCORE, ids=lambda defense: defense.name)
def test_answers_are_float32_s_and_gradients_nearly(defense: Defense) -> None:
    kind: Gradient = "exact" if "exact" in defense.gradients else "straight_through"
    try:
        real, low = both(defense, kind)
        x = tiny_images(torch.float32)
        with torch.no_grad():
            wanted = real(x, tiny_noise())
            assert torch.equal(low(x, tiny_noise()), wanted)
        assert torch.equal(low(x, tiny_noise()), wanted)  # no gradient is asked for: a check draw
        a, b = gradient_of(low, x), gradient_of(real, x)
    except ValueError as error:
        if "needs" not in str(error) and "found a" not in str(error):
            raise
        pytest.skip("it needs a score network of another kind")
    assert a.isfinite().all() and a.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.8


def test_other_kinds_of_gradient_and_watched_purifiers_stay_in_low_precision() -> None:
    real, low = both(DiffPureSDE(t=0.1, steps=3))
    x = tiny_images(torch.float32)
    for kind in ("surrogate", "straight_through", "transfer"):
        assert low.with_gradient(kind).attack_precision == "bfloat16"
        same = torch.equal(gradient_of(low.with_gradient(kind), x), gradient_of(real.with_gradient(kind), x))
        assert same == (kind == "transfer")  # which asks no score network
    seen: list[bool] = []

    def wrap(purify: object) -> object:
        def watched(images: Tensor, noise: NoiseSource) -> Tensor:
            seen.append(images.requires_grad)
            return purify(images, noise)  # type: ignore[operator]

        return watched

    other = low.with_purify(wrap)  # type: ignore[arg-type]
    assert torch.equal(gradient_of(other, x), gradient_of(low, x)) and not torch.equal(
        gradient_of(other, x), gradient_of(real, x)
    )
    assert torch.equal(other(x, tiny_noise()), real(x, tiny_noise())) and seen == [True, True, False]
    assert low.sealed().eval().training is False and low.sealed().real.is_sealed and low.sealed().low.is_sealed


@pytest.fixture(autouse=True)
def _switches_as_before() -> None:
    with arithmetic():
        yield


def test_the_switches_are_set_and_put_back() -> None:
    torch.set_float32_matmul_precision("medium")
    SWITCHES.cudnn.allow_tf32 = True
    with arithmetic():
        assert torch.get_float32_matmul_precision() == "highest" and not SWITCHES.cudnn.allow_tf32
        with arithmetic("tf32"):
            assert SWITCHES.cuda.matmul.allow_tf32 and SWITCHES.cudnn.allow_tf32
        assert not SWITCHES.cuda.matmul.allow_tf32 and not SWITCHES.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "medium" and SWITCHES.cudnn.allow_tf32
    stay_in_float32()
    assert torch.get_float32_matmul_precision() == "highest" and not SWITCHES.cudnn.allow_tf32


def test_switches_that_were_set_one_by_one_come_back() -> None:
    SWITCHES.cudnn.conv.fp32_precision = "tf32"
    SWITCHES.cudnn.rnn.fp32_precision = "ieee"
    with arithmetic():
        assert not SWITCHES.cudnn.allow_tf32
    assert (SWITCHES.cudnn.conv.fp32_precision, SWITCHES.cudnn.rnn.fp32_precision) == ("tf32", "ieee")


def test_check_draws_of_an_attack_in_tf32_are_not() -> None:
    real = DiffPureSDE(t=0.1, steps=2).defend(tiny_classifier(torch.float32), tiny_score())
    seen: list[bool] = []

    def wrap(purify: object) -> object:
        def watched(images: Tensor, noise: NoiseSource) -> Tensor:
            seen.append(SWITCHES.cudnn.allow_tf32)
            return purify(images, noise)  # type: ignore[operator]

        return watched

    watched = real.with_purify(wrap)  # type: ignore[arg-type]
    model = AttackedDefense(watched, watched, "tf32")
    x = tiny_images(torch.float32)
    with arithmetic("tf32"):
        model(x, tiny_noise())
        gradient_of(model, x)
    assert seen == [False, True]


def test_tf32_needs_a_gpu_that_has_it() -> None:
    check_device("bfloat16", torch.device("cpu"))
    with pytest.raises(ValueError, match="would compute in float32 under that name"):
        check_device("tf32", torch.device("cpu"))
