"""Rows that do not fit: fewer go through at once, and the numbers are those of all at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from defenses import rows as rows_module
from defenses.again import again_in_backward
from defenses.defended import Defended, with_gradient_retried
from defenses.inner_rows import find_networks, in_chunks
from defenses.memory import is_out_of_memory
from defenses.noise import Noise, NoiseSource
from defenses.rows import Rows, in_parts, is_frugal, retried

LACKS: list[Callable[[], BaseException]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory"),
    lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    lambda: MemoryError(),
]


class Small(nn.Module):
    """Smooth logits, row by row; out of memory above so many rows."""

    def __init__(self, most: int, lack: Callable[[], BaseException] = LACKS[0]) -> None:
        super().__init__()
        self.most, self.lack, self.seen = most, lack, []
        self.layer = nn.Linear(12, 5).double()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise self.lack()
        return torch.tanh(self.layer(x.flatten(1))).square()


def purify(images: Tensor, noise: NoiseSource) -> Tensor:
    return images + 0.1 * noise.normal(images, step=0)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(13, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("lack", LACKS)
def test_answers_without_a_gradient_need_nobody_to_ask_again(images: Tensor, lack: Callable[[], BaseException]) -> None:
    network, noise = Small(4, lack), Noise(0, torch.arange(13))
    model = Defended(purify, network)
    found = model(images, noise)
    assert network.seen == [13, 6, 3, 3, 3, 3, 1] and model.rows_at_once.most(gradient=False) == 3
    network.most = 99
    network.seen.clear()
    assert torch.allclose(found, Defended(purify, network)(images, noise), atol=1e-12)
    network.seen.clear()
    assert torch.equal(model.with_gradient("none")(images, noise), found) and max(network.seen) == 3  # remembered


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("kind", ["exact", "straight_through", "transfer"])
def test_gradients_in_parts_are_those_of_the_whole(images: Tensor, coupled: bool, kind: str) -> None:
    network, noise = Small(4), Noise(0, torch.arange(13))
    model = Defended(purify, network, batch_coupled=coupled, kinds=("exact",)).with_gradient(kind)

    def ask() -> tuple[Tensor, Tensor]:
        leaf = images.clone().requires_grad_()
        answer = model(leaf, noise)
        return answer.detach(), torch.autograd.grad(answer[:, 0].sum(), leaf)[0]

    found = with_gradient_retried(model, ask, images, len(images))
    network.most = 99
    model.rows_at_once.__init__()
    for one, other in zip(found, ask(), strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    assert (model.rows_at_once.inner is None) and max(network.seen[-1:]) == 13


def test_runs_of_a_single_image_that_do_not_fit(images: Tensor) -> None:
    network, noise = Small(3), Noise(0, torch.arange(2))
    model = Defended(purify, network, runs=8, votes=2)
    found = model(images[:2], noise)
    network.most = 99
    assert model.rows_at_once.runs == 2
    assert torch.allclose(found, Defended(purify, network, runs=8, votes=2)(images[:2], noise), atol=1e-12)


def test_networks_that_are_cut_already_are_cut_further(images: Tensor) -> None:
    network, noise = Small(2), Noise(0, torch.arange(13))
    model = Defended(purify, network, batch_coupled=True)
    model.rows_at_once.inner = 6
    with model.in_chunks(images, lambda: noise):  # as who asks for many answers holds it
        found = model(images, noise)
        assert network.seen[-1] <= 2 and model.rows_at_once.inner in (1, 2)
    network.most = 99
    assert "forward" not in vars(network)
    assert torch.allclose(found, Defended(purify, network)(images, noise), atol=1e-12)


def test_a_batch_smaller_than_what_fitted_is_halved_at_once(images: Tensor) -> None:
    network = Small(2)
    model = Defended(purify, network, batch_coupled=True)
    model.rows_at_once.inner = 512
    model(images[:4], Noise(0, torch.arange(4)))
    assert network.seen.count(4) == 1 and model.rows_at_once.inner == 2


def test_every_kind_of_gradient_remembers() -> None:
    def build(kind: str) -> Defended:
        return Defended(purify, network, gradient=kind, rebuild=build, kinds=("exact", "adjoint"))

    network = Small(4)
    model = build("exact")
    model.with_gradient("adjoint").rows_at_once.back_off(8, whole=0, runs=1, gradient=True)
    assert model.with_gradient("adjoint").rows_at_once.most(gradient=True) == 4
    assert model.rows_at_once.most(gradient=True) is None
    assert model.with_gradient("adjoint").with_gradient("exact").rows_at_once is model.rows_at_once


def test_what_no_smaller_pass_cures_is_told(images: Tensor) -> None:
    for coupled in (False, True):
        model = Defended(purify, Small(0), batch_coupled=coupled)
        with pytest.raises(torch.OutOfMemoryError):
            model(images, Noise(0, torch.arange(13)))
    with pytest.raises(RuntimeError, match="shapes"):  # another error is nobody's lack of memory
        retried(lambda: torch.zeros(2, 3) @ torch.zeros(2, 3), lambda: True)


def test_the_graph_is_released_before_the_next_try() -> None:
    kept: list[weakref.ref[object]] = []

    class Graph:
        """Stands for what the frames of a failed pass hold."""

    def work() -> bool:
        alive = [graph() is not None for graph in kept]
        graph = Graph()
        graph.itself = graph  # a cycle, as graphs have
        kept.append(weakref.ref(graph))
        if len(kept) < 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return any(alive)

    gc.disable()
    try:
        assert retried(work, lambda: True) is False
    finally:
        gc.enable()


def test_a_graph_that_is_built_again_can_be_differentiated_twice() -> None:
    layer = nn.Linear(3, 2).double()

    def ask(x: Tensor) -> Tensor:
        return torch.tanh(layer(x)) ** 2

    x = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: again_in_backward(ask, y), (x,))
    assert torch.autograd.gradgradcheck(lambda y: again_in_backward(ask, y), (x,))
    assert not again_in_backward(lambda y: y.detach(), x).requires_grad


def test_only_outermost_networks_are_cut_and_put_back() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4).double(), nn.Linear(4, 2).double())
    model = Defended(lambda x, noise: x, network)
    x = torch.rand(5, 3, 2, 2, dtype=torch.float64)
    found = find_networks(lambda: model(x))
    assert found == [network]
    whole = network(x)
    with in_chunks(found, 2):
        assert torch.allclose(network(x), whole, atol=1e-12)
        heard: list[int] = []
        hook = network[1].register_forward_hook(lambda module, inputs, output: heard.append(len(output)))
        network(x)
        hook.remove()
        assert heard == [5]  # who listens to a layer hears the whole batch
    assert "forward" not in vars(network)


def test_a_gpu_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frugal: list[bool] = []

    def peak(device: torch.device, work: Callable[[], object]) -> int:
        work()
        return 8 * 100

    monkeypatch.setattr(rows_module, "peak_bytes", peak)
    monkeypatch.setattr(rows_module, "free_bytes", lambda device: 4000)
    known, gpu = Rows(), torch.device("cuda")
    for _ in range(2):
        known.measure(gpu, lambda: frugal.append(is_frugal()), 8, gradient=True)
    assert known.most(gradient=True) == 20 and known.most(gradient=False) is None and frugal == [True]

    def lacks() -> None:
        raise LACKS[1]()

    known.measure(gpu, lacks, 8, gradient=False)
    assert known.most(gradient=False) is None  # not even these fit: halving will find what does
    known = Rows()
    known.measure(torch.device("cpu"), lambda: frugal.append(True), 8, gradient=False)
    assert len(frugal) == 1 and not is_frugal()


def test_who_asks_by_himself_is_measured_too(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def measure(self: Rows, device: torch.device, work: Callable[[], object], rows: int, *, gradient: bool) -> None:
        work()
        seen.append(rows)

    monkeypatch.setattr(Rows, "measure", measure)
    network = Small(99)
    for coupled, rows in ((False, 40), (False, 13), (True, 40)):
        with_gradient_retried(Defended(purify, network, batch_coupled=coupled), lambda: None, images, rows)
    assert seen == [8] and network.seen == [8]


def test_parts_know_their_places() -> None:
    x = torch.arange(5.0).view(5, 1, 1, 1)
    places: list[slice] = []
    assert torch.equal(in_parts(lambda part, rows: places.append(rows) or part, x, 2), x)
    assert places == [slice(0, 2), slice(2, 4), slice(4, 5)] and is_out_of_memory(LACKS[1]())
