"""Every defense and attack on a pretend GPU: one device, no waits in a purification, no more launches than committed.

`shadow_cuda` computes on the CPU and counts what the host would ask of a GPU. fixtures/pretend_gpu.csv holds what an
answer with its gradient (a defense) or a whole attack may cost on the tiny networks of `contract`; write it anew with
`PYTHONPATH=.:tests python tests/test_pretend_gpu.py` and say in the commit why a number rose.
"""

from __future__ import annotations

import csv
import dataclasses
import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import cases, fast, tiny_classifier, tiny_images, tiny_noise, tiny_score
from shadow_cuda import ShadowCuda

from bench.attacks import Trace, attacks
from bench.attacks.base import Attack
from bench.threat import ThreatModel
from defenses.attacked import AttackedDefense
from defenses.base import Defense, Gradient
from defenses.compat import import_autoattack
from defenses.defended import with_gradient_retried
from defenses.diffusion.scan import _BUDGET
from defenses.memory import peak_bytes
from defenses.models.low_precision import in_bfloat16
from defenses.noise import Noise

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).parent / "fixtures" / "pretend_gpu.csv"
COLUMNS = ("launches", "waits", "uploads", "downloads")
SHORT = ("diffpure_sde exact", "gdmp exact", "contrastive guidance_detached", "denoised_smoothing exact")
SHORT_ATTACKS = ("pgd_eot", "diffattack")
LIBRARY_WAITS = ("diffpure_ode adjoint",)  # torchdiffeq keeps its clock on the device and asks for it
SMALL = {
    **{"steps": 2, "apgd_steps": 2, "eot": 2, "restarts": 1, "defense_replicates": 4, "check_draws": 3},
    **{"samples": 2, "first": 1, "longest": 4},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "cascade": {"members": (("noise", {}, None), ("pgd_eot", {"steps": 2, "eot": 2}, None))}
}


def numbered() -> dict[str, tuple[Defense, Gradient]]:
    """Name of a row of the table -> defense and kind of gradient; variants are told by their number."""
    found: dict[str, tuple[Defense, Gradient]] = {}
    seen: Counter[str] = Counter()
    for defense in cases():
        seen[defense.name] += 1
        number = f"#{seen[defense.name]}" if seen[defense.name] > 1 else ""
        for gradient in (*defense.gradients, "straight_through", "none"):
            found[f"{defense.name}{number} {gradient}"] = (defense, gradient)
    return found


DEFENSES = numbered()


def marked(names: Any, short: tuple[str, ...]) -> list[Any]:
    """Parameters of a test, all but the short form slow."""
    return [pytest.param(name, marks=[] if name in short else pytest.mark.slow) for name in names]


def pretend() -> ShadowCuda:
    gpu = ShadowCuda(depth=30)
    gpu.under = f"{ROOT}/"
    return gpu


def counts(gpu: ShadowCuda) -> dict[str, int]:
    return {column: sum(getattr(gpu, column).values()) for column in COLUMNS}


def in_a_defense(counter: Counter[Any]) -> list[str]:
    """What was counted while a purifier ran, forward or replayed."""
    found = [
        (op, [line for line in where if line.startswith("defenses/") and not asks_again(line)]) for op, where in counter
    ]
    return [f"{op}: {' < '.join(lines)}" for op, lines in found if lines]


def asks_again(line: str) -> bool:
    """Whether it is of what measures, or asks again where memory runs out: an attack's own steps lie below it too."""
    file, _, number = line.partition(":")
    if file == "defenses/rows.py":
        return True
    for function in (with_gradient_retried, peak_bytes):
        source, first = inspect.getsourcelines(function)
        own = file == f"{function.__module__.replace('.', '/')}.py"
        if own and first <= int(number) < first + len(source):
            return True
    return False


def answer(defense: Defense, gradient: Gradient, gpu: ShadowCuda) -> None:
    """Counts a second answer and its gradient: the first one places constants."""
    try:
        model = defense.defend(tiny_classifier.__wrapped__(torch.float32).to("cuda"), tiny_score().to("cuda"),
                               gradient=gradient)  # fmt: skip
    except LookupError as missing:
        pytest.skip(str(missing))
    for _ in range(2):
        images, noise = tiny_images(torch.float32).cuda().requires_grad_(), tiny_noise()
        gpu.clear()
        logits = model(images, noise)
        if logits.requires_grad:
            torch.autograd.grad(logits.square().sum(), images)


def make(name: str) -> Attack:
    known = {field.name for field in dataclasses.fields(attacks[name])}
    return attacks.make(name, {**{k: v for k, v in SMALL.items() if k in known}, **SETTINGS.get(name, {})})


def perturb(name: str, gpu: ShadowCuda) -> None:
    """Counts a whole attack on DiffPure with two steps."""
    gradient: Gradient = "straight_through" if name == "bpda_eot" else "exact"
    score = tiny_score().to("cuda")
    classifier = tiny_classifier.__wrapped__(torch.float32).to("cuda")
    model = fast("diffpure_sde", {"steps": 2, "runs": 1}).defend(classifier, score, gradient=gradient)
    images = tiny_images(torch.float32).cuda()
    labels = torch.tensor([0, 1, 2], device="cuda")
    threat = ThreatModel(norm="Linf", epsilon=0.05, gradient=gradient)
    gpu.clear()
    found = make(name).perturb(model, images, labels, torch.tensor([4, 11, 7]).cuda(), threat, 7, trace=Trace())
    assert found.is_cuda and found.shape == images.shape


def committed(name: str) -> dict[str, int]:
    with TABLE.open() as lines:
        rows = {row["name"]: row for row in csv.DictReader(lines)}
    if name not in rows:
        pytest.fail(f"{TABLE.name} has no row {name!r}: write it anew, see the top of this file")
    return {column: int(rows[name][column]) for column in COLUMNS}


def check(name: str, gpu: ShadowCuda) -> None:
    assert not gpu.mixed
    found, allowed = counts(gpu), committed(name)
    more = {c: f"{found[c]} instead of {allowed[c]}" for c in COLUMNS if found[c] > allowed[c]}
    assert not more, f"{name}: {more}\n{gpu.report(top=5)}"


@pytest.fixture(autouse=True)
def _short_and_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short AutoAttack, and memory that nobody else has been promised."""
    library = import_autoattack().AutoAttack
    full = library._set_version

    def short(self: Any, version: str) -> None:
        full(self, version)
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = self.apgd.eot_iter = 2
        self.apgd_targeted.n_target_classes = self.fab.n_target_classes = 2
        self.square.n_queries = 5

    monkeypatch.setattr(library, "_set_version", short)
    monkeypatch.setattr(_BUDGET, "_asked", {})


@pytest.mark.parametrize("name", marked(DEFENSES, SHORT))
def test_a_defense_stays_on_its_device_and_waits_for_nothing(name: str) -> None:
    with pretend() as gpu:
        answer(*DEFENSES[name], gpu)
        check(name, gpu)
    if name not in LIBRARY_WAITS:
        assert not gpu.waits, gpu.report()


@pytest.mark.parametrize("name", marked(attacks, SHORT_ATTACKS))
def test_an_attack_stays_on_its_device_and_no_reverse_step_waits(name: str) -> None:
    with pretend() as gpu:
        perturb(name, gpu)
        check(f"attack {name}", gpu)
    assert not in_a_defense(gpu.waits), in_a_defense(gpu.waits)


@pytest.mark.parametrize("name", marked([name for name in DEFENSES if name.endswith(" exact")], SHORT[:2]))
def test_an_attack_in_bfloat16_stays_on_its_device_and_waits_for_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pretend GPU computes on the CPU, and so does its autocast."""
    real = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda device, dtype: real("cpu", dtype))
    defense = DEFENSES[name][0]
    with pretend() as gpu:
        classifier, score = tiny_classifier.__wrapped__(torch.float32).to("cuda"), tiny_score().to("cuda")
        try:
            low, model = (defense.defend(classifier, s, gradient="exact") for s in (in_bfloat16(score), score))
        except (LookupError, ValueError) as missing:
            pytest.skip(str(missing))
        attacked = AttackedDefense(model, low, "bfloat16")
        for _ in range(2):
            images = tiny_images(torch.float32).cuda().requires_grad_()
            gpu.clear()
            (gradient,) = torch.autograd.grad(attacked(images, tiny_noise()).square().sum(), images)
        assert gradient.is_cuda and not gpu.mixed and not gpu.waits, gpu.report()


def test_every_row_of_the_table_is_somebody_s() -> None:
    with TABLE.open() as lines:
        names = [row["name"] for row in csv.DictReader(lines)]
    assert sorted(names) == sorted([*DEFENSES, *(f"attack {name}" for name in attacks)])


def test_the_pretend_gpu_refuses_what_cuda_refuses() -> None:
    with ShadowCuda() as gpu:
        with pytest.raises(RuntimeError, match="same device"):
            torch.ones(3, device="cuda") + torch.ones(3)
        gpu.clear()
        on_gpu = torch.ones(3, device="cuda")
        float(on_gpu.sum()), on_gpu[on_gpu > 0], torch.tensor([1.0], device="cuda")
        assert sum(gpu.waits.values()) == 2 and sum(gpu.uploads.values()) == 1


def test_noise_of_images_on_a_gpu_is_asked_for_on_the_host() -> None:
    with ShadowCuda() as gpu:
        noise = Noise(1, torch.arange(4, device="cuda"))
        gpu.clear()
        part = noise[torch.tensor([0, 2])]
        assert part.image_ids.tolist() == [0, 2] and not gpu.waits


def rows() -> Iterator[dict[str, Any]]:
    for name, (defense, gradient) in DEFENSES.items():
        with pretend() as gpu:
            answer(defense, gradient, gpu)
        yield {"name": name, **counts(gpu)}
    for name in attacks:
        with pretend() as gpu:
            perturb(name, gpu)
        yield {"name": f"attack {name}", **counts(gpu)}


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch, TABLE.open("w", newline="") as lines:
        shorten(patch)
        torch.manual_seed(0)
        writer = csv.DictWriter(lines, ["name", *COLUMNS], lineterminator="\n")
        writer.writeheader()
        for row in rows():
            writer.writerow(row)
            sys.stdout.write(f"{row}\n")
