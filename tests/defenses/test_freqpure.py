"""FreqPure: golden numbers of both samplers and of the surrogate, gradients, the phase band.

The fixture holds the first of the reference's two images.
"""

import pytest
import torch
from closed_forms import assert_exact_gradient
from golden import RecordedNoise, load
from torch import Tensor
from toy_denoisers import prior_toy

from defenses.freqpure import FreqPure, low_frequencies

G, META = load("freqpure")
NOISE = RecordedNoise(
    {(0, 0): G["noise"][0]}
    | {(1, k + 1): e for k, e in enumerate(G["noise"][1::2])}
    | {(0, k + 1): z for k, z in enumerate(G["noise"][2::2])}
)
CASES = {
    "output": {},
    "output_ddim": {"eta": 0.0},
    "output_surrogate_1step": {"steps": 1},
    "output_200": {"t": 0.2},
    "output_r8": {"radius": 8.0},
}


def run(x: Tensor, **fields: object) -> Tensor:
    return FreqPure(**{"steps": 4, **fields}).build(score=prior_toy(G))(x, NOISE)


@pytest.mark.parametrize("case", CASES)
def test_golden_output(case: str) -> None:
    assert (run(G["x01"], **CASES[case]) - G[case]).abs().max() < META["arrays"][case]["tolerance"]


def test_golden_mask() -> None:
    found = torch.fft.fftshift(low_frequencies(G["x01"], 10.0))
    assert torch.equal(found, G["low_pass_mask_r10"].bool())


@pytest.mark.parametrize(("name", "steps"), [("grad_exact", 4), ("grad_surrogate_1step", FreqPure().surrogate().steps)])
def test_golden_gradients(name: str, steps: int) -> None:
    x = G["x01"].clone().requires_grad_()
    (run(x, steps=steps) * G["readout"]).sum().backward()
    assert (x.grad - G[name]).abs().max() < META["arrays"][name]["tolerance"]


@pytest.mark.parametrize("band", [0.0, 0.5])
def test_exact_gradient_equals_finite_differences(band: float) -> None:
    assert_exact_gradient(lambda x: run(x, phase_band=band), G["x01"], h=1e-7)


def test_the_exchange_keeps_what_lies_inside_and_outside_the_disc() -> None:
    x0, y0 = 2 * torch.rand(2, 1, 3, 16, 16, dtype=torch.float64) - 1
    x0, y0 = x0 / 4, y0 / 4  # well inside: neither clipped nor negative after the exchange
    spectrum = torch.fft.fft2(FreqPure(radius=3.0).exchanged(x0, y0))
    low = low_frequencies(x0, 3.0)
    assert low.sum() == 29  # integer points of the disc of radius 3
    for source, kept in ((y0, low), (x0, ~low)):
        assert (spectrum - torch.fft.fft2(source))[..., kept].abs().max() < 1e-9


@pytest.mark.parametrize("band", [0.3, 4.0])
def test_the_phase_band_projects_the_phase(band: float) -> None:
    """Low frequencies have the input's amplitude and the prediction's phase where that is within the band; a band
    wider than pi keeps every phase, across the cut at pi too."""
    x0, y0 = (torch.rand(2, 1, 1, 8, 8, dtype=torch.float64) - 0.5) / 2
    mixed = torch.fft.fft2(FreqPure(radius=3.0, phase_band=band).exchanged(x0, y0) / 2 + 0.5)
    high, low = torch.fft.fft2(x0 / 2 + 0.5), torch.fft.fft2(y0 / 2 + 0.5)
    disc = low_frequencies(x0, 3.0)
    assert torch.allclose(mixed.abs()[..., disc], low.abs()[..., disc], atol=1e-9)
    turn = (mixed * low.conj()).angle()[..., disc]
    expected = (high * low.conj()).angle()[..., disc].clamp(-band, band)
    assert torch.allclose(turn, expected, atol=1e-9) and expected.abs().max() > 0.29


def test_ranges_are_named() -> None:
    for fields in ({"eta": 2.0}, {"radius": -1.0}, {"phase_band": -0.1}, {"exchange_level": 1000}):
        with pytest.raises(ValueError, match="Expected eta in"):
            FreqPure(**fields)
