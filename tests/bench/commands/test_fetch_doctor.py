"""`bench fetch` and `bench doctor` as a user types them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from file_server import FILE, Server, serving

from bench.cli import main
from bench.commands.needs import needs
from defenses.models.sources import SOURCES, Source

SMALL_GRID = """
from bench.attacks.clean import Clean
from bench.cell import Cell
from bench.threat import ThreatModel
from defenses.contrastive import Contrastive
from defenses.undefended import Undefended

def cells():
    threat = ThreatModel(norm="Linf", epsilon=8 / 255, gradient="none")
    shared = dict(dataset="digits", attack=Clean(), threat=threat)
    yield Cell(classifier="digits_cnn", defense=Undefended(), **shared)
    guided = Contrastive(guide="cifar_resnet20")
    yield Cell(classifier="robustbench:cifar10:Linf:Standard", score="ddpmpp_cifar10", defense=guided, **shared)
"""


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    return tmp_path / "cache" / "weights"


def offer(server: Server, monkeypatch: pytest.MonkeyPatch, path: str = "net.pt") -> None:
    address = f"http://127.0.0.1:{server.server_port}/{path}"
    monkeypatch.setitem(SOURCES, "toy_net", Source(file="toy.pt", at=address, gigabytes=0.003))


def test_a_grids_needs_are_its_data_and_every_network_behind_it(tmp_path: Path) -> None:
    """The guiding classifier too; what ships with the package needs no file."""
    grid = tmp_path / "small_grid.py"
    grid.write_text(SMALL_GRID)
    datasets, files = needs(str(grid))
    assert datasets == ["digits"]
    assert list(files) == ["robustbench:cifar10:Linf:Standard", "cifar_resnet20", "ddpmpp_cifar10"]


def test_fetch_then_doctor(server: Server, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(server, monkeypatch)
    before = bench("doctor", "toy_net").output
    assert f"- toy_net: about 0.003 GB, http://127.0.0.1:{server.server_port}/net.pt; to {weights}/toy.pt" in before
    assert "1 missing. bench fetch toy_net" in before
    fetched = bench("fetch", "toy_net")
    assert fetched.exit_code == 0 and (weights / "toy.pt").read_bytes() == FILE, fetched.output
    after = bench("doctor", "toy_net").output
    assert f"+ toy_net: {weights}/toy.pt, 3 MB" in after and "Nothing is missing." in after


def test_doctor_sees_an_altered_file(server: Server, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(server, monkeypatch)
    bench("fetch", "toy_net")
    (weights / "toy.pt").write_bytes(FILE[:-1])
    assert "- toy_net" in (output := bench("doctor", "toy_net").output) and "truncated or altered" in output
    assert (again := bench("fetch", "toy_net")).exit_code == 1 and "to have sha256" in again.output


def test_a_web_page_that_lies_there_is_no_weight_file(
    server: Server, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a browser saves it; it is the user's, and stays."""
    offer(server, monkeypatch)
    weights.mkdir(parents=True)
    (weights / "toy.pt").write_text("<!DOCTYPE html><title>Google Drive - Quota exceeded</title>")
    assert "1 missing" in (output := bench("doctor", "toy_net").output) and "a web page titled 'Google" in output
    fetched = bench("fetch", "toy_net")
    assert fetched.exit_code == 1 and "quota of this file is used up" in fetched.output
    assert (weights / "toy.pt").is_file()


def test_what_cannot_be_had_is_exit_code_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(server, monkeypatch, "page")
    result = bench("fetch", "toy_net")
    assert result.exit_code == 1 and "web page" in result.output and "Missing: toy_net." in result.output
    assert "Traceback" not in result.output


def test_doctor_tells_about_the_machine_and_the_data() -> None:
    output = bench("doctor", "quickstart").output
    for part in ("torch ", "GiB of disk free", "digits: 500 test pictures", "cache"):
        assert part in output


def test_everything_is_listed_without_a_grid() -> None:
    output = bench("doctor").output
    assert all(f"{name}:" in output for name in (*SOURCES, "cifar10", "imagenet"))
    assert "https://image-net.org" in output


def test_an_unknown_grid_is_a_sentence() -> None:
    result = bench("fetch", "papertables")
    assert result.exit_code == 2 and "Did you mean 'paper_tables'?" in result.output


def test_a_network_that_ships_needs_nothing() -> None:
    assert needs("digits_cnn") == needs("digits_score") == needs("cifar10_small_at") == ([], {})


def test_a_grids_name_wins_over_a_networks() -> None:
    """`cifar10_small` is a grid, and a score network that ships: the grid needs pictures."""
    from defenses.models.scores import SCORES

    assert "cifar10_small" in SCORES
    assert "cifar10" in needs("cifar10_small")[0]


@pytest.mark.parametrize("path", ["error", "empty"])
def test_an_error_body_is_said_and_not_kept(
    path: str, server: Server, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(server, monkeypatch, path)
    result = bench("fetch", "toy_net")
    assert result.exit_code == 1 and "instead of the file" in result.output
    assert not (weights / "toy.pt").exists() and not (weights / "sha256.json").exists()


def test_doctor_says_what_a_partial_data_set_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"")
    assert "Expected test_batch in" in (output := bench("doctor", "cifar10").output) and "data_batch_1" in output


@pytest.mark.parametrize("name", ["robustbench:../x:Linf:y", "diffusers:../../x", "diffusers:/no/such/folder"])
def test_a_name_cannot_leave_the_cache(name: str, weights: Path) -> None:
    result = bench("fetch", name)
    assert result.exit_code in (1, 2) and "Traceback" not in result.output and not weights.exists()
