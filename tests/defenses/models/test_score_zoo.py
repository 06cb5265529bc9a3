"""Score networks by name: diffusers' folders, state dicts of the user's, what is refused and how."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from defenses.diffusion.schedule import VPSchedule
from defenses.models.info import ScoreInfo
from defenses.models.networks.unet import Layout, ddpmpp_unet
from defenses.models.score_models import NetworkScore
from defenses.models.score_zoo import PUBLIC
from defenses.models.scores import SCORES, load_score, register_score, score_info
from defenses.models.weights import MissingWeights, sha256_of

X = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
INDEX = torch.tensor([0, 500])


def small(**arguments: Any) -> UNet2DModel:
    return UNet2DModel(
        sample_size=16, block_out_channels=(32, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=None, **{"out_channels": 3, **arguments},
    ).eval()  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small().save_pretrained(tmp_path / "net", safe_serialization=False)
    return tmp_path / "net"


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("safe", [False, True])
def test_a_diffusers_folder_is_the_network_itself(nested: bool, safe: bool, tmp_path: Path) -> None:
    unet = small()
    unet.save_pretrained(tmp_path / "unet" if nested else tmp_path, safe_serialization=safe)
    score = load_score(f"diffusers:{tmp_path}")
    with torch.no_grad():
        torch.testing.assert_close(score.epsilon_at(X, INDEX), unet(X, INDEX).sample, rtol=0, atol=1e-5)
        torch.testing.assert_close(score.epsilon(X, INDEX / 1000 + 4e-4), unet(X, INDEX).sample, rtol=0, atol=1e-5)
    assert score.image_shape == (3, 16, 16) and isinstance(score, NetworkScore)
    assert not any(p.requires_grad for p in score.parameters())
    path = score_info(f"diffusers:{tmp_path}").find()
    assert score_info(f"diffusers:{tmp_path}").weights_sha256() == sha256_of(path)


def test_a_learned_variance_is_told_from_the_channels(tmp_path: Path) -> None:
    small(out_channels=6).save_pretrained(tmp_path)
    eps, log_variance = load_score(f"diffusers:{tmp_path}").epsilon_and_log_variance(X, INDEX)
    assert log_variance is not None and eps.shape == log_variance.shape == X.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule linear"), ({"prediction_type": "score"}, "epsilon"),
     ({"beta_end": 0.03}, "beta_end 0.02"), ({"num_train_timesteps": 4000}, "1000"),
     ({"rescale_betas_zero_snr": True}, "found rescale_betas_zero_snr True: alpha_bar"),
     ({"trained_betas": [0.01] * 1000}, "found trained_betas: alpha_bar 0.99 at level 0"),
     ({"trained_betas": [0.01] * 50}, "found trained_betas: 50 levels"),
     ({"beta_schedule": "laplace"}, "laplace"), ({"beta_schedule": "no such"}, "no such"),
     ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "found FlowMatchEulerDiscreteScheduler: flow matching"),
     ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
     ({"_class_name": "ScoreSdeVeScheduler"}, "ScoreSdeVeScheduler"),
     ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas"),
     ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type continuous"),
     ({"sigma_data": 0.5}, "sigma_data"), ({"shift": 3.0}, "shift")],
)  # fmt: skip
def test_another_schedule_is_refused(change: dict[str, Any], message: str, folder: Path) -> None:
    linear = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, "num_train_timesteps": 1000}
    (folder / "scheduler_config.json").write_text(json.dumps(linear))
    load_score(f"diffusers:{folder}")
    (folder / "scheduler_config.json").write_text(json.dumps({**linear, **change}))
    with pytest.raises(ValueError, match=message):
        load_score(f"diffusers:{folder}")


def test_betas_that_are_the_linear_ones_are_taken_however_they_are_stated(folder: Path) -> None:
    betas = torch.linspace(1e-4, 0.02, 1000).tolist()
    for stated in ({"trained_betas": betas, "beta_schedule": "cosine"}, {"_class_name": "DDIMScheduler"}):
        (folder / "scheduler_config.json").write_text(json.dumps(stated))
        load_score(f"diffusers:{folder}")


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_what_a_network_predicts_becomes_the_noise(kind: str, tmp_path: Path) -> None:
    """diffusers' own scheduler takes the same prediction apart."""
    from diffusers import DDIMScheduler

    unet = small()
    unet.save_pretrained(tmp_path)
    DDIMScheduler(prediction_type=kind, clip_sample=False).save_pretrained(tmp_path)
    with torch.no_grad():
        found = load_score(f"diffusers:{tmp_path}").epsilon_at(X, INDEX)
        for n, level in enumerate(INDEX.tolist()):
            bar = VPSchedule().alpha_bar_at(level)
            said = unet(X[n : n + 1], level).sample[0]
            clean = bar**0.5 * X[n] - (1 - bar) ** 0.5 * said if kind == "v_prediction" else said
            torch.testing.assert_close(found[n], (X[n] - bar**0.5 * clean) / (1 - bar) ** 0.5, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"sample_size": None}, "sample_size in .*config.json, found null. Write"), ({"sample_size": "32"}, 'found "32"'),
     ({"class_embed_type": "timestep"}, "class_embed_type 'timestep'"), ({"out_channels": 4}, "found 4"),
     ({"time_embedding_type": "fourier"}, "found 'fourier'"),
     
     ({"_class_name": "DiTTransformer2DModel"}, "found a DiT"),
     ({"_class_name": "UNet2DConditionModel"}, "found a UNet2DCond"), ({"layers_per_block": "two"}, "could not")],
)  # fmt: skip
def test_networks_that_are_no_score_are_refused(change: dict[str, Any], message: str, folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_score(f"diffusers:{folder}")


@pytest.mark.parametrize("name", ["config.json", "scheduler_config.json"])
def test_settings_that_cannot_be_read_are_named(name: str, folder: Path) -> None:
    (folder / name).write_text('{"sample_size": ')
    with pytest.raises(ValueError, match=f"Expected JSON in .*{name}"):
        load_score(f"diffusers:{folder}")


def test_a_pipeline_whose_scheduler_was_not_copied_is_refused(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path / "unet")
    (tmp_path / "model_index.json").write_text('{"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}')
    with pytest.raises(ValueError, match="names a scheduler .FlowMatchEulerDiscreteScheduler., found none"):
        load_score(f"diffusers:{tmp_path}")


def test_variants_work_where_it_is_clear_which(tmp_path: Path) -> None:
    unet = small()
    unet.half().save_pretrained(tmp_path, variant="fp16")
    score = load_score(f"diffusers:{tmp_path}")
    torch.testing.assert_close(score.epsilon_at(X, INDEX), unet.float()(X, INDEX).sample, rtol=0, atol=1e-4)
    unet.save_pretrained(tmp_path, variant="other")
    with pytest.raises(ValueError, match="found .*fp16.safetensors, .*other.safetensors. Which is meant"):
        load_score(f"diffusers:{tmp_path}")


def test_live_weights_of_a_variant_are_not_taken(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path, variant="non_ema")
    with pytest.raises(ValueError, match="non_ema.safetensors. Which is meant"):
        load_score(f"diffusers:{tmp_path}")


def test_sharded_weights_are_refused_with_what_to_do(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path, max_shard_size="100KB")
    assert not (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    with pytest.raises(ValueError, match="parts of a sharded one .*Join them"):
        load_score(f"diffusers:{tmp_path}")


def test_averaged_weights_in_a_folder_beside_the_live_ones_are_used(tmp_path: Path) -> None:
    averaged = small()
    small().save_pretrained(tmp_path / "unet")
    averaged.save_pretrained(tmp_path / "unet_ema")
    score = load_score(f"diffusers:{tmp_path}")
    torch.testing.assert_close(score.epsilon_at(X, INDEX), averaged(X, INDEX).sample, rtol=0, atol=1e-5)


def test_a_name_of_the_hub_cannot_leave_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # two folders above a checkout there may be an etc
    for name in ("../../etc", "a/b/c", "/tmp/none", "a/.."):
        with pytest.raises(LookupError, match="name of the Hugging Face hub"):
            score_info(f"diffusers:{name}")


def test_a_class_conditional_network_is_refused(tmp_path: Path) -> None:
    small(num_class_embeds=10).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="unconditional network.*10 classes"):
        load_score(f"diffusers:{tmp_path}")


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code in a weight file ran",))


def test_no_code_in_a_pickled_folder_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"conv_in.bias": _Code()}, folder / "diffusion_pytorch_model.bin", pickle_module=pickle)
    with pytest.raises((ValueError, OSError)):
        load_score(f"diffusers:{folder}")
    assert "ran" not in capsys.readouterr().out


def test_a_state_dict_of_the_users(tmp_path: Path, shared: Path) -> None:
    from network_fixtures import folder, tensors

    golden = tensors(shared, "ddpmpp_small_golden")
    name = f"file:ddpmpp32:{folder(shared) / 'ddpmpp_small_weights.safetensors'}"
    out = load_score(name).epsilon(golden["case0.x"], golden["case0.t"])
    torch.testing.assert_close(out, golden["case0.out"], rtol=0, atol=5e-5)
    assert score_info(name).weights_sha256() == sha256_of(score_info(name).find())


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_network_that_is_missing_says_where_it_lies(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    info = score_info(name)
    with pytest.raises(MissingWeights, match=r"found none. Its origin: (https://|no public file)"):
        info.load()
    with pytest.raises(MissingWeights):
        info.weights_sha256()
    assert info.datasets and info.licence


def test_a_public_name_refuses_another_networks_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file mistaken for another."""
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    (tmp_path / "weights" / "gtsrb").mkdir(parents=True)
    torch.save({"not": torch.zeros(1)}, tmp_path / "weights" / "gtsrb" / "gtsrb_score_sde.pt")
    with pytest.raises(ValueError, match="state dict of score_sde"):
        load_score("ddpmpp_gtsrb")


@pytest.mark.parametrize("name", ["file:ddpmpp:x.pt", "file:unet32:x.pt", "file:"])
def test_unknown_layouts_answer_with_the_known(name: str) -> None:
    with pytest.raises(LookupError, match="file:guided<size>:<path>"):
        score_info(name)


@pytest.mark.parametrize("name", list(SCORES))
def test_every_record_has_a_name_a_title_and_an_origin(name: str) -> None:
    info = score_info(name)
    assert info.name == name and info.title and info.datasets and info.source and info.licence


def test_a_score_of_ones_own_joins_by_its_record(tmp_path: Path) -> None:
    network = NetworkScore(lambda x, label: x, (1, 2, 2))
    info = ScoreInfo(
        name="mine", datasets=("digits",), load=lambda: network, find=lambda: tmp_path, source="here", licence="MIT"
    )
    with SCORES.temporarily([info]):
        assert load_score("mine") is network and info.title == "mine"
        with pytest.raises(ValueError, match="Expected a new score network name, got 'mine'"):
            register_score(info)
    with pytest.raises(LookupError, match="Unknown score network 'mine'"):
        load_score("mine")


def test_unknown_names_answer_with_the_nearest() -> None:
    with pytest.raises(LookupError, match=r"Did you mean 'ddpmpp_cifar10'\?.*diffusers:<repository"):
        score_info("ddpmp_cifar10")


def test_untrained_networks_take_any_layout() -> None:
    network = ddpmpp_unet(Layout(channels=(16, 32, 32), blocks=1, attention=(False, False, True))).eval()
    assert network(X, torch.tensor([0.5, 999.0])).shape == X.shape


def test_a_continuous_network_takes_the_index_or_the_time_of_equal_noise() -> None:
    """docs/methods.md, Networks: 1000 t_k - k is 0.92 at k = 0, 0.61 at 100, 1.61 at 500, 4.38 at 999."""
    seen: list[torch.Tensor] = []
    network = lambda x, label: seen.append(label) or x  # noqa: E731
    x, levels = torch.zeros(4, 1, 2, 2), torch.tensor([0, 100, 500, 999])
    NetworkScore(network, (1, 2, 2)).epsilon_at(x, levels)
    timed = NetworkScore(network, (1, 2, 2), at_level="time")
    timed.epsilon_at(x, levels)
    timed.epsilon_and_log_variance(x, levels)
    assert torch.equal(seen[0], levels.float()) and torch.equal(seen[1], seen[2])
    ahead = 1000 * seen[1] / 999 - levels
    assert torch.allclose(ahead, torch.tensor([0.92, 0.61, 1.61, 4.38]), atol=0.006)
    with pytest.raises(ValueError, match="at_level='index'"):
        NetworkScore(network, (1, 2, 2), labels="index", at_level="time")
