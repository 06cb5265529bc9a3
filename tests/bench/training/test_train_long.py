"""Long trainings: broken off and continued, their optimiser, the networks of `bench train score` and their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

from bench.cli import main
from bench.commands.train import _lines
from bench.datasets import MissingData, load_dataset
from bench.datasets.folder import picture_folder
from bench.training import score_recipe
from bench.training.long import Optimizer, Plan, fit_long, rows_of
from bench.training.pictures import bytes_of
from bench.training.progress import silent
from bench.training.recipes import train
from bench.training.score import losses_by_time
from bench.training.score_networks import make_ddpmpp
from bench.training.score_recipe import FULL, SMALL, Scale, fit_noise
from defenses.diffusion.schedule import VPSchedule
from defenses.models.classifiers import classifier_info
from defenses.models.converters import ddpmpp_state, load_ddpmpp
from defenses.models.networks.block_unet import BlockUNet
from defenses.models.networks.unet import DDPMPP_DEEP, EpsilonUNet, Layout, ddpmpp_unet
from defenses.models.score_models import NetworkScore
from defenses.models.scores import load_score
from defenses.models.weights import MissingWeights, load_checkpoint

NETWORK: dict[str, Any] = {"widths": [16, 64], "blocks": [1, 2, 1], "time_width": 16}
TINY = replace(SMALL, network=NETWORK, plan=Plan(steps=6, batch_size=32, warm_up=2))
TOY = Layout(channels=(16, 32), blocks=1, attention=(False, True))
TOY_FULL = replace(FULL, network=asdict(TOY), plan=replace(FULL.plan, steps=4, batch_size=16, warm_up=2))


def blocks(shape: tuple[int, int, int] = (1, 8, 8)) -> BlockUNet:
    torch.manual_seed(0)
    return BlockUNet(image_shape=shape, **NETWORK)


def stirred(network: nn.Module) -> nn.Module:
    """No weight at zero, where half of a fresh network is silent."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return network


def digits(count: int = 256) -> Tensor:
    data = load_dataset("digits", split="train")
    return bytes_of(replace(data, labels=data.labels[:count]))


def fitted(
    checkpoint: Path | None = None, setting: Scale = TINY, stop: int | None = None, losses: list[float] | None = None,
    network: nn.Module | None = None, images: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The weights after a training that stores its state at every step and is broken off in step `stop`."""

    def progress(what: str, done: int, total: int, loss: float) -> None:
        if losses is not None:
            losses.append(loss)
        if done == stop:
            raise KeyboardInterrupt

    images = digits() if images is None else images
    result, _ = fit_noise(
        network or blocks(), images, setting, seed=0, what="toy", checkpoint=checkpoint, progress=progress
    )
    return result.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def often(*arguments: Any, **options: Any) -> Any:
        return fit_long(*arguments, every=-1.0, **options)

    monkeypatch.setattr(score_recipe, "fit_long", often)


@pytest.mark.parametrize("kind", ["blocks", "ddpmpp"])
def test_a_continued_training_is_the_unbroken_one(kind: str, tmp_path: Path, every_step: None) -> None:
    """Dropout included, which only DDPM++ has."""

    def run(**options: Any) -> dict[str, Tensor]:
        if kind == "blocks":
            return fitted(**options)
        torch.manual_seed(0)
        network = make_ddpmpp((3, 8, 8), TOY_FULL.network, torch.empty(0))
        return fitted(network=network, setting=TOY_FULL, images=digits(64).expand(-1, 3, -1, -1), **options)

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path / "c.pt", stop=3)
    torch.rand(5)  # whatever else happens in the meantime
    losses: list[float] = []
    continued = run(checkpoint=tmp_path / "c.pt", losses=losses)
    steps = (TINY if kind == "blocks" else TOY_FULL).plan.steps
    assert len(losses) == steps - 2  # the state of step 2 was the last one stored
    assert same(continued, run())


def test_a_checkpoint_of_another_plan_is_refused_and_left_alone(tmp_path: Path, every_step: None) -> None:
    path = tmp_path / "c.pt"
    with pytest.raises(KeyboardInterrupt):
        fitted(path, stop=2)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"(?s)Expected .*'steps': 9.*found one of .*'steps': 6.*Delete it"):
        fitted(path, replace(TINY, plan=replace(TINY.plan, steps=9)))
    with pytest.raises(ValueError, match=r"(?s)Expected .* to be a checkpoint of .*Delete it"):
        fitted(path, images=digits(200))
    assert path.read_bytes() == before
    for damage in (b"", before[: len(before) // 2]):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=r"c.pt to be a checkpoint of .*, could not read it. Delete it"):
            fitted(path)


def test_a_folder_holds_one_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose checkpoint goes when it is done; a record is never written over by that of another."""
    monkeypatch.setitem(score_recipe.SCALES, "small", replace(TINY, plan=replace(TINY.plan, steps=1)))
    monkeypatch.setattr(score_recipe, "TIMES", (0.1,))
    for _ in range(2):
        train("score", dataset="digits", output=tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"digits_score.safetensors", "purified.png", "record.json"}
    monkeypatch.setitem(score_recipe.SCALES, "small", replace(TINY, file="_other.safetensors"))
    with pytest.raises(ValueError, match=r"digits_other.safetensors alone, found digits_score.safetensors in .*Choose"):
        train("score", dataset="digits", output=tmp_path)
    with pytest.raises(ValueError, match="Expected what `bench train classifier` made at scale small in .*says otherw"):
        classifier_info(f"file:blocks:{tmp_path / 'digits_score.safetensors'}")


def test_a_tenth_of_a_scaled_plan_rises_at_most() -> None:
    assert FULL.plan.scaled(1) == FULL.plan and SMALL.plan.scaled(1) == SMALL.plan
    short = FULL.plan.scaled(0.01)
    assert (short.steps, short.warm_up) == (4000, 400)
    assert SMALL.plan.scaled(1e-9).steps == SMALL.plan.scaled(1e-9).warm_up == 1


def test_a_refused_training_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        train("score", dataset="cifar1", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_says_where_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.training.recipes.train", stop)
    command = ["train", "score", "--dataset", "digits", "--output", str(tmp_path)]
    for words in ("starts again", "goes on from"):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 130 and f"Stopped. The same command {words}" in result.output
        (tmp_path / "checkpoint.pt").touch()


def test_the_loss_falls_on_real_pictures() -> None:
    """On pictures and noise that are fixed, and not trained on."""
    setting = replace(TINY, plan=Plan(steps=60, batch_size=64, warm_up=5))
    network, images = blocks(), load_dataset("digits").images(range(200))
    before = losses_by_time(network, images, (0.1, 0.25))
    network.load_state_dict(fitted(setting=setting))
    for time, loss in losses_by_time(network, images, (0.1, 0.25)).items():
        assert loss < 0.75 * before[time]


def test_too_few_pictures_for_a_batch() -> None:
    with pytest.raises(ValueError, match="at least 32 pictures to train on, a batch, got 31"):
        fitted(images=digits(31))


def test_rows_of_visits_each_row_once_an_epoch() -> None:
    epochs = [torch.cat([rows_of(epoch * 3 + k, 4, 14, seed=1) for k in range(3)]) for epoch in range(3)]
    for rows in epochs:
        assert rows.shape == (12,) and len(set(rows.tolist())) == 12 and rows.max() < 14
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(rows_of(4, 4, 14, seed=1), rows_of(4, 4, 14, seed=1))


def test_muon_moves_the_convolutions_themselves_and_adamw_the_rest() -> None:
    network = stirred(blocks()).to(memory_format=torch.channels_last)
    optimizer = Optimizer(network, TINY.plan, ("time", "input", "output"))
    names = {id(p): name for name, p in network.named_parameters()}
    hidden = {names[id(p)] for p in optimizer.hidden}
    assert {"before.0.conv1.weight", "attention.qkv.weight", "before.0.time.weight"} <= hidden
    assert not {name for name in hidden if name.startswith(("time", "input", "output")) or "bias" in name}
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    network(torch.randn(4, 1, 8, 8), torch.full((4,), 100.0)).square().mean().backward()
    optimizer.step(1)
    assert all(not torch.equal(p, before[name]) for name, p in network.named_parameters())
    only = Optimizer(blocks(), replace(TINY.plan, learning_rate=None), ())
    assert not only.hidden and len(only.parts) == 1


def test_full_is_the_papers_network_at_the_papers_settings() -> None:
    assert Layout(**FULL.network) == DDPMPP_DEEP
    rates = [FULL.plan.rate(step) * FULL.plan.other_rate for step in (0, 4999, FULL.plan.steps - 1)]
    assert rates == pytest.approx([2e-4 / 5000, 2e-4, 0], rel=0.02, abs=1e-9)
    t = score_recipe._times(torch.rand(100_000), torch.rand(100_000), None)
    assert 1e-5 < t.min() < 1e-3 and 0.999 < t.max() <= 1 and t.mean().item() == pytest.approx(0.5, abs=0.01)


def test_a_silent_block_network_is_the_epsilon_of_a_gaussian() -> None:
    """x_0 ~ N(mean, std^2): E[eps | x_t] = sigma (x_t - a mean) / (a^2 std^2 + sigma^2), a^2 = alpha_bar."""
    network, schedule = blocks().double(), VPSchedule()
    network.fit_scale(2 * torch.rand(50, 1, 8, 8, dtype=torch.float64) - 1)
    for p in network.output[2].parameters():
        nn.init.zeros_(p)
    x, t = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([0.01, 0.2, 0.9], dtype=torch.float64)
    sigma, a = (v.view(-1, 1, 1, 1) for v in (schedule.sigma(t), schedule.alpha_bar(t).sqrt()))
    exact = sigma * (x - a * network.mean) / (a**2 * network.std**2 + sigma**2)
    torch.testing.assert_close(network(x, 999 * t), exact, rtol=1e-10, atol=1e-10)


def test_block_network_gradients_of_both_orders_agree_with_differences() -> None:
    network = stirred(blocks((1, 4, 4))).double().requires_grad_(False)
    x, label = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True), torch.tensor([40.0, 200.0])

    def epsilon(x: Tensor) -> Tensor:
        return network(x, label.double())

    assert torch.autograd.gradcheck(epsilon, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(epsilon, (x,), fast_mode=True)


def test_ddpmpp_goes_to_score_sdes_layout_and_back() -> None:
    network = stirred(ddpmpp_unet(TOY)).eval()
    state = ddpmpp_state(network, TOY)  # type: ignore[arg-type]
    assert {name.split(".")[0] for name in state} == {"all_modules", "sigmas"}
    assert {value.dtype for name, value in state.items() if name != "sigmas"} == {torch.float32}
    again = load_ddpmpp(state, TOY)
    assert same(again.state_dict(), network.state_dict()) and same(ddpmpp_state(again, TOY), state)


def test_a_fresh_ddpmpp_predicts_nothing_and_all_of_its_blocks_are_silent() -> None:
    network: EpsilonUNet = make_ddpmpp((3, 8, 8), asdict(TOY), torch.empty(0))  # type: ignore[assignment]
    x, label = torch.randn(2, 3, 8, 8), torch.tensor([10.0, 500.0])
    assert not network.eval()(x, label).any()
    silent = [name for name, p in network.named_parameters() if p.ndim > 1 and not p.any()]
    assert len(silent) == 10 + 3 + 1  # residual blocks, attentions, the output
    with pytest.raises(ValueError, match="sides that 2 divides, for DDPM.., got 1 x 8 x 8. Use --scale small"):
        make_ddpmpp((1, 8, 8), asdict(TOY), torch.empty(0))


def test_small_writes_what_file_blocks_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(score_recipe.SCALES, "small", TINY)
    monkeypatch.setattr(score_recipe, "TIMES", (0.1,))
    record = train("score", dataset="digits", output=tmp_path)
    assert json.loads((tmp_path / "record.json").read_text()) == record
    assert (record["scale"], record["device"]) == ("small", "cpu")
    with Image.open(tmp_path / "purified.png") as picture:  # 8 rows of 1 + 3 x 2 pictures, a pixel around each
        assert picture.size == (7 * 9 + 1, 8 * 9 + 1)
        assert np.asarray(picture).std() > 10
    path = tmp_path / "digits_score.safetensors"
    assert record["files"][path.name]["bytes"] == path.stat().st_size
    held = load_checkpoint(path)
    assert {value.dtype for value in held.values()} == {torch.bfloat16}
    score = load_score(f"file:blocks8:{path}")
    assert isinstance(score, NetworkScore) and score.image_shape == (1, 8, 8)
    expected = blocks().eval()
    expected.load_state_dict(held)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.05, 0.3])
    eps = score.epsilon(x, t)
    torch.testing.assert_close(eps, expected(x, 999 * t))
    assert eps.dtype == torch.float32 and not eps.requires_grad
    images = load_dataset("digits").images(range(500))
    recorded = record["files"][path.name]["loss_test"]["0.1"]
    assert losses_by_time(expected, images, (0.1,))["0.1"] == pytest.approx(recorded, rel=1e-4)


def test_a_trained_network_is_trained_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(score_recipe.SCALES, "small", TINY)
    monkeypatch.setattr(score_recipe, "TIMES", (0.1,))
    first = train("score", dataset="digits", output=tmp_path / "first")
    path = tmp_path / "first/digits_score.safetensors"
    started = deepcopy(load_score(f"file:blocks8:{path}").network).requires_grad_(True)  # type: ignore[union-attr]
    halved = replace(TINY.plan.scaled(1), learning_rate=1e-3, other_rate=1e-3)
    images = bytes_of(load_dataset("digits", split="train"))
    expected, _ = fit_noise(
        started, images, replace(TINY, plan=halved), seed=0, what="toy", checkpoint=None, progress=silent, mirror=False
    )  # fmt: skip
    more = train("score", dataset="digits", output=tmp_path / "more", score=f"file:blocks8:{path}")
    held = load_checkpoint(tmp_path / "more/digits_score.safetensors")
    assert not same(held, load_checkpoint(path))
    assert same(held, {name: value.bfloat16() for name, value in expected.state_dict().items()})
    (was,), (now,) = (record["files"].values() for record in (first, more))
    assert more["score_sha256"] == was["sha256"] and now["network"] == was["network"]
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"score": "digits_score"}, "made at scale small, digits_score is another"),
        ({"score": "cifar10_small"}, r"pictures of \(1, 8, 8\), cifar10_small is for \(3, 32, 32\)"),
        ({"score": f"file:blocks8:{path}", "scale": "full", "device": "cpu"}, "Expected --scale small with --score"),
    )
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            train("score", dataset="digits", output=tmp_path / "refused", **options)
    assert not (tmp_path / "refused").exists()


def test_file_blocks_needs_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(score_recipe.SCALES, "small", replace(TINY, plan=replace(TINY.plan, steps=1)))
    monkeypatch.setattr(score_recipe, "TIMES", (0.1,))
    train("score", dataset="digits", output=tmp_path)
    path, record = tmp_path / "digits_score.safetensors", tmp_path / "record.json"
    with pytest.raises(ValueError, match="a network for 32 x 32 pictures"):
        load_score(f"file:blocks32:{path}")
    path.rename(tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match="record.json to describe mine.safetensors"):
        load_score(f"file:blocks8:{tmp_path / 'mine.safetensors'}")
    record.unlink()
    with pytest.raises(MissingWeights, match="record.json, which `bench train score` writes beside mine"):
        load_score(f"file:blocks8:{tmp_path / 'mine.safetensors'}")


def test_full_writes_what_the_ddpmpp_names_load(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(score_recipe.SCALES, "full", TOY_FULL)
    monkeypatch.setattr(score_recipe, "TIMES", (0.1,))
    output = tmp_path / "out"
    record = train("score", dataset=f"imagefolder:{photographs}", output=output, scale="full", device="cpu")
    path = output / "photographs_score_sde.pt"
    assert list(record["files"]) == [path.name] and record["scale"] == "full"
    score = load_score(f"file:ddpmpp32:{path}")
    assert isinstance(score, NetworkScore) and isinstance(score.network, EpsilonUNet)
    assert same(ddpmpp_state(score.network, TOY), torch.load(path, weights_only=True))
    seen = picture_folder(f"imagefolder:{photographs}", "test").images(range(3))
    found = losses_by_time(score.network, seen, (0.1,))["0.1"]
    assert found == pytest.approx(record["files"][path.name]["loss_test"]["0.1"], rel=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_full_asks_for_a_gpu(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the GPU cuda to train at scale full.*--device cpu"):
        train("score", dataset=f"imagefolder:{photographs}", output=tmp_path / "out", scale="full")


def test_gtsrb_trains_on_its_own_pictures_and_cifar100_says_what_is_missing(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(shared / "data"))
    plan = replace(TINY.plan, steps=1)
    monkeypatch.setitem(score_recipe.SCALES, "small", replace(TINY, plan=plan))
    monkeypatch.setattr(score_recipe, "TIMES", (0.1,))
    assert train("score", dataset="gtsrb", output=tmp_path)["dataset"]["name"] == "gtsrb"
    with pytest.raises(MissingData, match="the train pictures of cifar100 in .*cifar-100-python/ .*test alone"):
        train("score", dataset="cifar100", output=tmp_path)


def test_traffic_signs_and_digits_are_not_mirrored() -> None:
    """A loss that sees its pictures: with `mirror` some are flipped, without none."""
    images = torch.zeros(32, 1, 8, 8, dtype=torch.uint8)
    images[..., 0] = 255  # bright at the left edge

    class Spy(BlockUNet):
        left: list[float] = []

        def forward(self, x_t: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
            Spy.left.append((x_t[..., 0].mean() - x_t[..., -1].mean()).item())
            return super().forward(x_t, label)

    setting = replace(TINY, plan=Plan(steps=1, batch_size=32))
    for mirror in (False, True):
        fit_noise(
            Spy((1, 8, 8), **NETWORK), images, setting, seed=0, what="toy", checkpoint=None, mirror=mirror,
            progress=lambda *_: None,
        )  # fmt: skip
    plain, mirrored = Spy.left
    assert plain > 1.5 and abs(mirrored) < 0.8
    assert "gtsrb" in score_recipe.HANDED and "digits" in score_recipe.HANDED


def test_a_log_file_gets_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = iter(range(0, 10_000, 10))  # ten seconds a step
    clock: Callable[[], float] = lambda: float(next(now))  # noqa: E731
    with _lines(clock=clock) as tell:
        for step in range(1, 21):
            tell("toy", step, 20, step / 10)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "toy: step 6 of 20, loss 0.3500 over 6, 2 min left",
        "toy: step 12 of 20, loss 0.9500 over 6, 1 min left",
        "toy: step 18 of 20, loss 1.5500 over 6, 0 min left",
        "toy: step 20 of 20, loss 1.9500 over 2, 0 min left",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("score",), "Expected --dataset for score"), (("digits", "--scale", "full"), "Expected options of digits"),
     (("score", "--dataset", "digits", "--device", "gpu"), "Expected --device cpu, cuda"),
     (("digits", "--effort", "inf"), "Expected a finite effort > 0"),
     (("score", "--dataset", "digits", "--scale", "huge"), "scale 'huge'")],
)  # fmt: skip
def test_the_command_line_answers_in_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["train", *arguments, "--output", str(tmp_path)])
    assert result.exit_code == 2 and result.output.startswith("Error: ") and message in result.output
    assert result.output.count("\n") == 1
