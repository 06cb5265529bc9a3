"""Checkpoint containers: averaged weights by position, prefixes, wrappers; a file's sha256 from first use on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from network_fixtures import folder, tensors
from torch import Tensor, nn

from defenses.models.checkpoints import bare_state, ema_state, load_into, read
from defenses.models.scores import load_score
from defenses.models.sources import SOURCES, Source, recorded_sha256, source_of
from defenses.models.weights import load_checkpoint


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache's weight folder."""
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def test_score_sde_container_gives_the_averaged_weights(shared: Path) -> None:
    """The golden outputs of both sets of weights: ours is the averaged one, the raw one lies far off."""
    golden = tensors(shared, "tiny_checkpoint_golden")
    score = load_score(f"file:ddpmpp32:{folder(shared) / 'tiny_checkpoint.pth'}")
    out = score.network(golden["x"], golden["labels"])  # type: ignore[attr-defined]
    torch.testing.assert_close(out, golden["out_ema"], rtol=0, atol=5e-5)
    assert (out - golden["out_raw"]).abs().max() > 0.01


def container(count: int = 2, shape: tuple[int, ...] = (3,)) -> dict:
    model = {"module.sigmas": torch.zeros(5), "module.a.weight": torch.zeros(2, 3), "module.a.bias": torch.zeros(3)}
    return {"model": model, "ema": {"shadow_params": [torch.ones(2, 3), torch.ones(shape)][:count]}, "step": 1}


def test_averaged_weights_take_the_names_beside_them() -> None:
    state = ema_state(container())
    assert list(state) == ["a.weight", "a.bias"] and state["a.weight"].eq(1).all()


def test_averaged_weights_of_another_number_or_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected 2 averaged weights.*found 1"):
        bare_state(container(count=1))
    with pytest.raises(ValueError, match=r"shape \(3,\) for a\.bias, found \(4,\)"):
        bare_state(container(shape=(4,)))


@pytest.mark.parametrize("prefix", ["", "module.", "module.0.", "model.net."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
def test_prefixes_and_wrappers_come_off(prefix: str, wrapper: str | None) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    state = {prefix + key: torch.full_like(value, 3) for key, value in network.state_dict().items()}
    load_into(network, bare_state({wrapper: state, "epoch": 3} if wrapper else state))
    assert all(value.eq(3).all() for value in network.state_dict().values())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"1.bias": None}, 'Missing key.*"1.bias"'), ({"2.bias": torch.zeros(2)}, 'Unexpected key.*"2.bias"'),
     ({"1.bias": torch.zeros(3)}, "size mismatch")],
)  # fmt: skip
def test_a_state_that_does_not_fit_says_where(change: dict[str, Tensor | None], message: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    state = {**network.state_dict(), **change}
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load_into(network, {key: value for key, value in state.items() if value is not None})


def test_sha256_is_recorded_on_first_use_and_checked_afterwards(cache: Path) -> None:
    source = Source(file="net.pt", at="https://example.org/net.pt")
    torch.save({"a": torch.zeros(2)}, cache / "net.pt")
    assert source.known_sha256() is None
    read(source)
    assert list(json.loads((cache / "sha256.json").read_text())) == ["net.pt"] == list(recorded_sha256())
    read(source)
    torch.save({"a": torch.ones(2)}, cache / "net.pt")
    with pytest.raises(ValueError, match="truncated or altered"):
        read(source)
    with pytest.raises(ValueError, match=r"remove its line from .*sha256\.json"):
        source.check(cache / "net.pt")


def test_an_unreadable_file_is_not_recorded(cache: Path) -> None:
    (cache / "net.pt").write_bytes(b"\x80half of a download")
    with pytest.raises(ValueError, match="could not read it"):
        read(Source(file="net.pt"))
    assert recorded_sha256() == {}


def test_a_stated_beginning_of_the_sha256_is_checked(cache: Path) -> None:
    torch.save({}, cache / "net.pt")
    with pytest.raises(ValueError, match="sha256 0676ba61"):
        read(Source(file="net.pt", sha256="0676ba61"))
    assert recorded_sha256() == {}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_says_where(name: str) -> None:
    source = SOURCES[name]
    assert source.where and not Path(source.file).is_absolute()
    assert source.at or "no public file" in source.note
    assert source.at.split(":")[0] in ("https", "drive", "drive-folder", "hub", "pipeline", "")


def test_file_names_of_torchvision_carry_their_sha256() -> None:
    for name in ("imagenet_resnet18", "imagenet_resnet50", "imagenet_wrn50_2", "cifar_resnet20"):
        assert SOURCES[name].sha256.startswith(Path(SOURCES[name].file).stem.rsplit("-", 1)[1])


def test_sources_of_patterns(tmp_path: Path) -> None:
    standard = source_of("robustbench:cifar10:Linf:Standard")
    assert standard is not None and standard.at == "drive:1t98aEuzeTL8P7Kpd5DIrCoCL21BNZUhC"
    assert source_of("diffusers:google/ddpm-cifar10-32") == SOURCES["ddpm_cifar10_32"]
    assert [source_of(name) for name in ("digits_cnn", "file:ddpmpp32:x.pt", f"diffusers:{tmp_path}")] == [None] * 3


def test_pickled_lists_are_read_without_running_code(shared: Path) -> None:
    checkpoint = load_checkpoint(folder(shared) / "tiny_checkpoint.pth")
    assert isinstance(checkpoint["ema"]["shadow_params"], list)


AVERAGED, LIVE = torch.full((2, 3), 1.0), torch.full((2, 3), 0.0)


def weights(value: Tensor) -> dict[str, Tensor]:
    return {"a.weight": value, "a.bias": value[0]}


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"state_dict": weights(LIVE), "state_dict_ema": weights(AVERAGED)},
        {"model": weights(LIVE), "model_ema": weights(AVERAGED)},
        {"model": weights(LIVE), "ema": weights(AVERAGED), "epoch": 3},
        {"model_state_dict": weights(LIVE), "ema_state_dict": weights(AVERAGED)},
        {"state_dict": weights(LIVE), "ema": {"module": weights(AVERAGED), "decay": 0.999}},
        {"ema": {"module": weights(AVERAGED)}},
        {"net": weights(LIVE), "modelEMA": weights(AVERAGED)},
        {"net": weights(LIVE), "ema_0.9999": weights(AVERAGED)},
        {"net": weights(LIVE), "swa_state_dict": {"n_averaged": torch.tensor(3), **weights(AVERAGED)}},
        {"model": weights(LIVE), "ema": {"shadow": weights(AVERAGED), "num_updates": torch.tensor(7)}},
        {"model": weights(LIVE), "ema": {"shadow_params": list(weights(AVERAGED).values()), "collected_params": None}},
        {"model": weights(LIVE),
         "ema": {"shadow_params": list(weights(AVERAGED).values()), "collected_params": list(weights(LIVE).values())}},
        {"model": weights(LIVE), "extra": {"deep": {"ema_model": {"state_dict": weights(AVERAGED)}}}},
        {"state_dict": weights(LIVE), "callbacks": {"EMA": {"weights": weights(AVERAGED)}}},
        {"state_dict": weights(LIVE), "optimizer_states": [{"ema": list(weights(AVERAGED).values())}]},
        {"state_dict": {f"model.{n}": v for n, v in weights(LIVE).items()}
         | {f"model_ema.{n}": v for n, v in weights(AVERAGED).items()}},
        {f"online_model.{n}": v for n, v in weights(LIVE).items()} | {"step": torch.tensor(3)}
        | {f"ema_model.{n}": v for n, v in weights(AVERAGED).items()},
        {"state_dict": {f"model.{n}": v for n, v in weights(LIVE).items()} | {"model_ema.decay": torch.tensor(0.9)}
         | {f"model_ema.{n.replace('.', '')}": v for n, v in weights(AVERAGED).items()}},
        {"ema": weights(AVERAGED), "model_ema": weights(AVERAGED), "model": weights(LIVE)},
        {"n_averaged": torch.tensor(9), **{f"module.{n}": v for n, v in weights(AVERAGED).items()}},
    ],
)  # fmt: skip
def test_averaged_weights_are_found_wherever_they_are(checkpoint: dict) -> None:
    found = bare_state(checkpoint)
    assert len(found) == 2 and all(value.eq(1).all() for value in found.values()), found


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({"model_ema": weights(AVERAGED), "swa": weights(LIVE)}, "found model_ema, swa. Which is meant"),
        ({"ema": {"0.999": weights(AVERAGED), "0.9999": weights(LIVE)}}, "found ema/0.999, ema/0.9999. Which"),
        ({"generator": weights(LIVE), "critic": weights(LIVE)}, "several: generator, critic. Which is meant"),
        ({"state_dict": weights(LIVE), "model": weights(AVERAGED)}, "several: state_dict, model. Which"),
        ({"ema": 0.999}, "none in: ema"), ({}, "none in: nothing"), ({"epoch": 3, "best": 0.9}, "none in: epoch, best"),
        ({"a.w": LIVE, "ema.a.w": LIVE, "swa.a.w": LIVE}, "below ema, swa. Which is meant"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_a_question(checkpoint: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bare_state(checkpoint)


def test_a_decay_rate_is_no_set_of_weights() -> None:
    assert list(bare_state({"ema": 0.999, "state_dict": weights(LIVE)})) == ["a.weight", "a.bias"]
    assert bare_state({"ema": None, "state_dict": weights(LIVE), "optimizer": {"state": {0: {"exp_avg": LIVE}}}})


@pytest.mark.parametrize("file", ["../net.pt", "/etc/net.pt", "a/../../net.pt", "a\\..\\..\\b", "C:/net.pt", ""])
def test_a_name_cannot_leave_the_cache(file: str) -> None:
    with pytest.raises(ValueError, match="name of a file below the weight folder"):
        Source(file=file)
