"""An attack that goes on from a saved step gives what an unbroken one gives, wherever it was broken off."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import Attack, Trace, attacks
from bench.attacks._journal import can_continue, pack_trace
from bench.attacks._short import cut_short
from bench.run.meter import Meter
from bench.run.saved import SavedAttack
from bench.store.claims import LostClaim
from bench.threat import Norm, ThreatModel
from defenses import Gradient
from defenses.base import Defended
from defenses.diffpure_sde import DiffPureSDE
from defenses.models.score_models import NetworkScore

SMALL = {"steps": 3, "apgd_steps": 3, "eot": 2, "restarts": 2, "check_draws": 2, "samples": 2, "first": 2, "longest": 4}
SMALL |= {"targets": 2, "evaluations": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "bpda_eot": {"steps": 3, "eot": 2, "defense_replicates": 3},
    "mefa apgd": {"steps": 3, "eot": 2, "method": "apgd"},
    "cascade": {"members": (("pgd_eot", {"steps": 3, "eot": 2}, None), ("square_eot", {"steps": 3, "eot": 2}, None))},
}
RADII: dict[Norm, float] = {"Linf": 0.01, "L2": 0.1, "L1": 1.0}
CONTINUING = sorted(name for name in attacks if can_continue(attacks[name]()))
WANTED = {"pgd_eot", "momentum_pgd", "apgd_eot", "apgd_t_eot", "square_eot", "nes_eot", "strong", "gold", "cascade"}
WANTED |= {"bpda_eot", "mefa", "diff_pgd", "diffhammer", "stadv", "low_frequency", "rays_eot", "fixed_autoattack"}
CASES: list[tuple[str, Norm, bool]] = [(name, "Linf", False) for name in CONTINUING]
CASES += [("apgd_eot", "L1", False), ("pgd_eot", "L2", False), ("strong", "Linf", True), ("mefa apgd", "Linf", False)]
POINTS = 4  # of an attack, at which it is broken off


class PulledPlug(RuntimeError):
    """Planted."""


class Net(nn.Module):
    """A smooth classifier of 3 x 8 x 8 images in ten classes."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.first, self.last = torch.randn(24, 192, generator=g) / 7, torch.randn(10, 24, generator=g)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((x.flatten(1) - 0.5) @ self.first.T) @ self.last.T


class Lab:
    """A defense whose classifier breaks the attack off at a call, and counts the calls."""

    def __init__(self, gradient: Gradient = "exact") -> None:
        self.calls, self.stop_at = 0, -1
        score = NetworkScore(lambda x, label: 0.3 * torch.tanh(x), (3, 8, 8))
        self.model: Defended = DiffPureSDE(t=0.01, steps=2).defend(Net(), score, gradient=gradient)
        pictures = torch.rand(4, 8, 8, 3, generator=torch.Generator().manual_seed(1))
        self.images = pictures.permute(0, 3, 1, 2)  # as data sets hand them over: not contiguous
        self.labels = self.model.classifier(self.images).argmax(1)
        self.ids = torch.tensor([5, 3, 900, 11])
        self.model.classifier.register_forward_pre_hook(self.watch)

    def watch(self, *_: object) -> None:
        self.calls += 1
        if self.calls == self.stop_at:
            raise PulledPlug

    def attack(
        self, attack: Attack, threat: ThreatModel, saved: SavedAttack | None, stop_at: int = -1
    ) -> tuple[Any, ...]:
        """(images, trace, evaluations, calls)."""
        self.calls, self.stop_at = 0, stop_at
        trace = Trace()

        def work() -> Tensor:
            return attack.perturb(self.model, self.images, self.labels, self.ids, threat, 7, trace=trace)

        with Meter(self.model.classifier) as meter:
            x = work() if saved is None else saved.run(work, trace, meter)
            return x, pack_trace(trace), meter.take(), self.calls


def make(name: str) -> Attack:
    registered = name.split()[0]
    known = {field.name for field in dataclasses.fields(attacks[registered])}
    return attacks.make(
        registered, {**{key: value for key, value in SMALL.items() if key in known}, **SETTINGS.get(name, {})}
    )


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path))
    with cut_short(4):  # PGD on the bare classifier, which no field limits
        yield


def state() -> SavedAttack:
    return SavedAttack("an attack", {"number": 1}, minutes=0)


def same(found: Any, expected: Any) -> bool:
    """Bit for bit; sets of draws have no order."""
    x, trace, evaluations, _ = found
    y, other, counted, _ = expected
    as_sets = [{**t, "draws": {image: set(map(str, draws)) for image, draws in t["draws"]}} for t in (trace, other)]
    return torch.equal(x, y) and as_sets[0] == as_sets[1] and evaluations == counted


def test_the_attacks_of_the_protocols_go_on() -> None:
    assert set(CONTINUING) >= WANTED
    assert not any(name.startswith("autoattack") for name in CONTINUING)


@pytest.mark.parametrize(("name", "norm", "coupled"), CASES)
def test_goes_on_bit_for_bit(name: str, norm: Norm, coupled: bool) -> None:
    gradient: Gradient = "straight_through" if name == "bpda_eot" else "exact"
    attack, lab = make(name), Lab(gradient)
    lab.model.batch_coupled = coupled
    threat = ThreatModel(norm=norm, epsilon=RADII[norm], gradient=gradient)
    whole = lab.attack(attack, threat, None)
    calls, saved_calls = whole[3], 0
    for stop_at in {1 + k * (calls - 1) // POINTS for k in range(1, POINTS + 1)}:
        with pytest.raises(PulledPlug):
            lab.attack(attack, threat, state(), stop_at)
        saved = state()
        found = lab.attack(attack, threat, saved)
        assert same(found, whole), f"broken off at call {stop_at} of {calls}"
        saved_calls += calls - found[3]
        saved.forget()
    assert saved_calls > 0


def test_goes_on_as_often_as_it_is_broken_off() -> None:
    attack, lab, threat = make("strong"), Lab(), ThreatModel(epsilon=0.01)
    whole = lab.attack(attack, threat, None)
    tries = 0
    for tries in range(200):  # noqa: B007
        try:
            found = lab.attack(attack, threat, state(), stop_at=12)
            break
        except PulledPlug:
            continue
    assert tries > 3 and same(found, whole)


def test_nothing_is_written_before_the_time() -> None:
    lab = Lab()
    saved = SavedAttack("an attack", {}, minutes=10)
    lab.attack(make("strong"), ThreatModel(epsilon=0.01), saved)
    assert not saved.path.parent.exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("spoil", [_cut, _flip, lambda path: path.write_bytes(b"")])
def test_a_file_that_cannot_be_read_is_removed(spoil: Callable[[Path], None]) -> None:
    attack, lab, threat = make("pgd_eot"), Lab(), ThreatModel(epsilon=0.01)
    whole = lab.attack(attack, threat, None)
    with pytest.raises(PulledPlug):
        lab.attack(attack, threat, state(), stop_at=5)
    assert state().told
    spoil(state().path)
    again = state()
    assert not again.told and not again.path.exists()
    assert same(lab.attack(attack, threat, again), whole)


def test_another_state_is_not_continued() -> None:
    attack, lab, threat = make("pgd_eot"), Lab(), ThreatModel(epsilon=0.01)
    with pytest.raises(PulledPlug):
        lab.attack(attack, threat, state(), stop_at=5)
    assert not SavedAttack("an attack", {"number": 2}, minutes=0).told and not state().path.exists()


def test_a_journal_of_something_else_begins_anew() -> None:
    """What no digest excludes, such as code that is not a function of its sources, costs the saved steps alone."""
    lab, threat = Lab(), ThreatModel(epsilon=0.01)
    with pytest.raises(PulledPlug):
        lab.attack(make("pgd_eot"), threat, state(), stop_at=5)
    whole = lab.attack(make("momentum_pgd"), threat, None)
    saved = state()
    assert same(lab.attack(make("momentum_pgd"), threat, saved), whole) and saved.seconds == 0


def test_a_state_that_fails_at_once_is_given_up() -> None:
    attack, lab, threat = make("pgd_eot"), Lab(), ThreatModel(epsilon=0.01)
    for stop_at in (5, 1):
        with pytest.raises(PulledPlug):
            lab.attack(attack, threat, state(), stop_at)
    assert not state().told


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), LostClaim("another's")])
def test_what_is_not_the_state_s_fault_leaves_it(error: Exception) -> None:
    attack, lab, threat = make("pgd_eot"), Lab(), ThreatModel(epsilon=0.01)
    with pytest.raises(PulledPlug):
        lab.attack(attack, threat, state(), stop_at=5)
    saved = state()

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        saved.run(fail, Trace(), Meter())
    assert state().told


def test_a_class_has_to_say_so_itself() -> None:
    """A subclass may do more than its base: what it keeps elsewhere would be lost."""

    class Mine(type(make("pgd_eot"))):  # type: ignore[misc]
        pass

    assert not can_continue(Mine()) and can_continue(make("pgd_eot"))
    cascade = attacks.make("cascade", {"members": [("autoattack_rand", {}, None), ("pgd_eot", {}, None)]})
    assert not can_continue(cascade)


def test_a_tensor_keeps_its_memory_format() -> None:
    lab = Lab()
    with pytest.raises(PulledPlug):
        lab.attack(make("pgd_eot"), ThreatModel(epsilon=0.01), state(), stop_at=5)
    entry = state()._past[-1]
    assert entry.values["0.x"].stride() == lab.images.stride()
