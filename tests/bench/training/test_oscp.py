"""OSCP's distillation objective: golden numbers, and one descent on a small network of ours."""

import torch
import torch.nn.functional as F
from golden import load
from torch import Tensor, nn

from bench.training.oscp import Distillation, distillation_loss
from defenses.diffusion.schedule import VPSchedule
from defenses.models.scores import load_score

G, META = load("oscp_loss")
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
BATCH = Distillation(G["latents"], G["latents_adv"], G["noise"], G["index"], torch.cumprod(1 - BETAS, 0))


class Toy(nn.Module):
    """eps(z, t) = (c0 + c1 t / 1000) tanh(conv(z))."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(G["net_W"].clone())

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        scale = (G["net_c"][0] + G["net_c"][1] * level / 1000).view(-1, 1, 1, 1)
        return scale * torch.tanh(F.conv2d(x, self.weight, G["net_b"], padding=1))


def check(found: Tensor, name: str) -> None:
    error = (found - G[name]).abs().max()
    print(f"oscp_loss {name}: {error:.1e}")
    assert error < META["arrays"][name]["tolerance"]


def test_golden_numbers() -> None:
    network = Toy()
    check(BATCH.start, "start_time")
    check(BATCH.end, "end_time")
    check(BATCH.state(BATCH.start), "z_start")
    check(BATCH.state(BATCH.end), "z_end")
    check(BATCH.student(network, BATCH.start), "prediction")
    check(BATCH.student(network, BATCH.end), "target")
    loss = distillation_loss(BATCH, network)
    check(loss, "loss")
    loss.backward()
    check(network.weight.grad, "grad_net_W")


def test_it_can_be_descended_on_the_digits_network() -> None:
    generator, schedule = torch.Generator().manual_seed(0), VPSchedule()
    alpha_bar = torch.tensor([schedule.alpha_bar_at(i) for i in range(1000)])
    clean = 2 * torch.rand(16, 1, 8, 8, generator=generator) - 1
    attacked = clean + 0.1 * torch.randn(clean.shape, generator=generator).sign()
    index = torch.arange(16) % 10
    batch = Distillation(clean, attacked, torch.randn(clean.shape, generator=generator), index, alpha_bar)
    network = load_score("digits_score").network.requires_grad_()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        loss = distillation_loss(batch, lambda x, level: network(x, level.to(x.dtype)), pull=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
