"""A score network in bfloat16: what autocast computes, wherever it is called, and nothing of the original changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from defenses.diffpure_sde import DiffPureSDE
from defenses.diffusion.denoise import FixedTimeScore
from defenses.diffusion.schedule import VPSchedule
from defenses.models.energy import EnergyScore
from defenses.models.low_precision import Bfloat16Network, in_bfloat16
from defenses.models.networks.unet import Layout, ddpmpp_unet, guided_unet
from defenses.models.score_models import NetworkScore
from defenses.noise import Noise

SHAPE = (3, 16, 16)
SMALL = Layout(channels=(32, 32), blocks=1, attention=(False, True))


def unet(*, guided: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = guided_unet(SMALL, head=16) if guided else ddpmpp_unet(SMALL)
        for parameter in network.parameters():  # layers that begin at zero would hide everything behind them
            nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


def states() -> tuple[Tensor, Tensor]:
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0.1, 0.03])


@pytest.mark.parametrize("guided", [False, True])
def test_it_computes_what_autocast_does(guided: bool) -> None:
    network, (x, t) = unet(guided=guided), states()
    score = NetworkScore(network, SHAPE, labels="index" if guided else "continuous")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    low = in_bfloat16(score)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = score.epsilon(x, t)
    found, real = low.epsilon(x, t), score.epsilon(x, t)
    assert found.dtype == torch.float32 and torch.equal(found, wanted.float())
    assert not torch.equal(found, real) and (found - real).norm() < 0.05 * real.norm()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert score.network is network and low.schedule is score.schedule


def test_the_copy_holds_no_second_norm_and_half_the_weights() -> None:
    network = unet()
    low = Bfloat16Network(network)
    mine = {tensor.data_ptr() for tensor in network.parameters()}
    own = [tensor for tensor in low.parameters() if tensor.data_ptr() not in mine]
    layers = [module for module in network.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    assert own and all(tensor.dtype == torch.bfloat16 for tensor in own)
    assert len(own) == sum(len(list(layer.parameters())) for layer in layers)


def test_recomputed_steps_are_in_bfloat16_too() -> None:
    """The backward pass replays steps in a thread of its own, where the caller's autocast would be off."""
    seen: list[torch.dtype] = []
    network = unet()
    low = in_bfloat16(NetworkScore(network, SHAPE))
    layer = next(module for module in low.network.modules() if isinstance(module, nn.Conv2d))
    layer.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    defense = DiffPureSDE(t=0.05, steps=4)
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1)).requires_grad_()
    purified = defense.build(classifier=None, score=low)(x, Noise(0, torch.arange(2)))
    forward = len(seen)
    torch.autograd.grad(purified.sum(), x)
    assert len(seen) > forward >= 4 and set(seen) == {torch.bfloat16}


class Own:
    """A `ScoreModel` of a user's that keeps its network under a name of its own."""

    schedule, image_shape = VPSchedule(), SHAPE

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def epsilon(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.net(x_t, 999 * t)

    def epsilon_at(self, x_t: Tensor, index: Tensor) -> Tensor:
        return self.epsilon(x_t, index / 999)

    def epsilon_and_log_variance(self, x_t: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.epsilon_at(x_t, index), None


class OwnModule(Own, nn.Module):
    def __init__(self, net: nn.Module) -> None:
        nn.Module.__init__(self)
        self.net = net


@pytest.mark.parametrize("kind", [Own, OwnModule])
def test_a_score_of_a_class_of_the_user_s(kind: Any) -> None:
    score, (x, t) = kind(unet()), states()
    low = in_bfloat16(score)
    wanted = in_bfloat16(NetworkScore(score.net, SHAPE)).epsilon(x, t)
    assert torch.equal(low.epsilon(x, t), wanted)
    assert torch.equal(low.epsilon_at(x, (999 * t)), wanted)
    assert low.epsilon_and_log_variance(x, 999 * t)[0].dtype == torch.float32
    assert not torch.equal(score.epsilon(x, t), wanted)


def test_scores_of_the_data() -> None:
    network, (x, _) = unet(), states()
    held = FixedTimeScore(NetworkScore(network, SHAPE), 0.05)
    assert not torch.equal(in_bfloat16(held).score(x), held.score(x))
    weights = nn.Linear(x[0].numel(), 8)
    energy = EnergyScore(lambda y: torch.tanh(weights(y.flatten(1))).square().sum(1), SHAPE)
    low = in_bfloat16(energy)
    found = low.score(x)
    assert found.dtype == torch.float32 and not torch.equal(found, energy.score(x))
    torch.testing.assert_close(found, energy.score(x), rtol=0.1, atol=1e-6)
    assert callable(energy.energy) and not isinstance(energy.energy, nn.Module)


def test_a_score_that_cannot_be_copied_is_told() -> None:
    class Slots:
        __slots__ = ("net",)

        def epsilon(self, x_t: Tensor, t: Tensor) -> Tensor:
            return x_t

    with pytest.raises(ValueError, match="attack in float32"):
        in_bfloat16(Slots())
