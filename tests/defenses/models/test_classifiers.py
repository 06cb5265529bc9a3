"""The classifier registry: names, records, data sets, frozen networks that take [0, 1]."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.datasets import DATASETS, load_dataset
from defenses.models.classifiers import (
    CLASSIFIERS,
    ClassifierInfo,
    classifier_info,
    load_classifier,
    register_classifier,
)
from defenses.models.weights import MissingWeights

DIGITS = ["digits_cnn", "digits_cnn_at"]


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_every_record_is_filled(name: str) -> None:
    info = classifier_info(name)
    assert info.name == name and info.source and info.licence
    assert set(info.datasets) <= set(DATASETS)
    assert info.sha256 is None or len(bytes.fromhex(info.sha256)) == 32
    assert (info.clean_accuracy is None) == (not info.accuracy_source)
    least = 30 if name == "cifar100_resnet20" else 50  # a hundred classes from 8,000 pictures
    assert info.clean_accuracy is None or least < info.clean_accuracy < 100


@pytest.mark.parametrize("name", DIGITS)
def test_shipped_classifiers_match_their_record(name: str) -> None:
    """The file has the recorded sha256, and the network the recorded accuracy on the 500 test images, exactly."""
    info, data = classifier_info(name), load_dataset("digits")
    network = load_classifier(name, "digits")
    assert info.weights_sha256() == info.sha256
    right = (network(data.images(range(500))).argmax(1) == data.labels).sum().item()
    assert right / 5 == pytest.approx(info.clean_accuracy, abs=0.21)  # one image, for other processors' rounding
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_unknown_name_gives_the_nearest_and_the_list() -> None:
    with pytest.raises(LookupError, match=r"Did you mean 'digits_cnn'\? Known: .*cifar_resnet20.*robustbench:"):
        load_classifier("digit_cnn")


def test_wrong_data_set_is_refused_with_the_fitting_ones() -> None:
    with pytest.raises(ValueError, match=r"classifier of cifar10, got 'digits_cnn'.*cifar_resnet20"):
        load_classifier("digits_cnn", "cifar10")
    with pytest.raises(ValueError, match="For gtsrb"):
        load_classifier("cifar_resnet20", "gtsrb")


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ValueError, match="which is registered"):
        register_classifier(classifier_info("digits_cnn"))


def test_missing_and_altered_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(MissingWeights, match="resnet20-12fca82f.th.*github.com/akamaster"):
        load_classifier("cifar_resnet20")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet20-12fca82f.th").write_bytes(b"not the weights")
    with pytest.raises(ValueError, match="expected sha256 12fca82f.*, found [0-9a-f]{64}"):
        load_classifier("cifar_resnet20")


def test_an_added_classifier_needs_only_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(CLASSIFIERS, "mine", raising=False)
    info = ClassifierInfo(
        name="mine", datasets=("digits",), source="here", licence="MIT",
        load=lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), find=lambda: Path(__file__),
    )  # fmt: skip
    register_classifier(info)
    assert load_classifier("mine", "digits")(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    del CLASSIFIERS["mine"]


def test_weights_of_the_users_in_a_public_architecture(tmp_path: Path) -> None:
    """Prefixes and wrappers come off; the normalisation is the public classifier's."""
    from defenses.models.classifier_zoo import architecture

    network = architecture("cifar_resnet20").eval()
    state = {f"model.{key}": value for key, value in network.network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "mine.pt")
    name = f"file:cifar_resnet20:{tmp_path / 'mine.pt'}"
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(load_classifier(name, "cifar10")(x), network(x))
    assert len(classifier_info(name).weights_sha256()) == 64


def test_a_users_file_that_is_wrong() -> None:
    with pytest.raises(LookupError, match="file:<architecture>:<path>, architecture one of cifar_resnet20"):
        classifier_info("file:resnet:mine.pt")
    with pytest.raises(MissingWeights, match="weight file at .*nowhere.pt"):
        load_classifier("file:cifar_resnet20:nowhere.pt")


def test_robustbench_names() -> None:
    info = classifier_info("robustbench:cifar10:Linf:Standard")
    assert info.datasets == ("cifar10",) and "RobustBench" in info.source
    with pytest.raises(LookupError, match="robustbench:<dataset>:<threat>:<model>"):
        classifier_info("robustbench:cifar10:Standard")
    with pytest.raises(LookupError, match="Did you mean 'cifar10:Linf'"):
        load_classifier("robustbench:cifar10:linf:Standard")
    with pytest.raises(LookupError, match="Did you mean 'Carmon2019Unlabeled'"):
        load_classifier("robustbench:cifar10:Linf:Carmon2019Unlabelled")


@pytest.mark.parametrize("name", ["cifar10:Linf:Chen2020Adversarial", "imagenet:Linf:Standard_R50"])
def test_robustbench_models_of_no_single_file_are_refused(name: str) -> None:
    with pytest.raises(LookupError, match="that is one file of its own"):
        load_classifier(f"robustbench:{name}")


def test_robustbench_model_from_a_local_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in <weights>/robustbench/<dataset>/<threat>/ is used as it is: the zoo's smallest network, untrained."""
    from defenses.compat import import_robustbench

    import_robustbench()
    from robustbench.model_zoo import model_dicts

    zoo = {d.value: {t.value: models for t, models in threats.items()} for d, threats in model_dicts.items()}
    network = zoo["cifar10"]["Linf"]["Wong2020Fast"]["model"]()
    folder = tmp_path / "weights" / "robustbench" / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / "Wong2020Fast.pt")
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
    loaded = load_classifier("robustbench:cifar10:Linf:Wong2020Fast", "cifar10")
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(loaded(x), network.eval()(x))
    assert len(classifier_info("robustbench:cifar10:Linf:Wong2020Fast").weights_sha256()) == 64
    torch.save({k: v + 1 for k, v in network.state_dict().items()}, folder / "Wong2020Fast.pt")
    with pytest.raises(ValueError, match="expected sha256"):
        load_classifier("robustbench:cifar10:Linf:Wong2020Fast")


class _Runs:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (self.path, "w"))


@pytest.mark.parametrize("known", [False, True])
def test_a_planted_robustbench_file_runs_no_code(known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the environment makes torch.load run what a file says; `known`, where its sha256 is recorded."""
    folder = tmp_path / "weights" / "robustbench" / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    (tmp_path / "ran").mkdir()
    torch.save({"state_dict": _Runs(str(tmp_path / "ran" / "code"))}, folder / "Wong2020Fast.pt")
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    if known:
        record = {"robustbench/cifar10/Linf/Wong2020Fast.pt": "0" * 64}
        (tmp_path / "weights" / "sha256.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="altered: expected sha256 000" if known else "found pickled objects of"):
        load_classifier("robustbench:cifar10:Linf:Wong2020Fast")
    assert not list((tmp_path / "ran").iterdir())


def test_robustbench_without_file_or_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(id: str, output: str, resume: bool) -> None:
        raise OSError("no network")

    monkeypatch.setattr("gdown.download", offline)
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    with pytest.raises(MissingWeights, match=r"no network. By hand: put it at .*Wong2020Fast\.pt.*drive\.google\.com"):
        load_classifier("robustbench:cifar10:Linf:Wong2020Fast")
    file, page = tmp_path / "weights/robustbench/cifar10/Linf/Wong2020Fast.pt", "<html><title>Quota exceeded</title>"

    def quota(id: str, output: str, resume: bool) -> str:
        Path(output).write_text(page)
        return output

    monkeypatch.setattr("gdown.download", quota)
    with pytest.raises(
        MissingWeights, match=r"answered with a web page titled 'Quota exceeded' \(Google Drive's download quota"
    ):
        load_classifier("robustbench:cifar10:Linf:Wong2020Fast")
    assert not file.exists()
    file.write_text(page)  # as a browser saves it
    with pytest.raises(ValueError, match="found a web page titled 'Quota exceeded'"):
        load_classifier("robustbench:cifar10:Linf:Wong2020Fast")


def test_listing_names_does_not_import_torch(pytestconfig: pytest.Config) -> None:
    program = "import sys, defenses.models.classifiers; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=pytestconfig.rootpath)
    assert done.stdout.strip() == "False", done.stdout + done.stderr
