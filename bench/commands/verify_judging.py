"""Part of `bench verify`: adversarial images against their ball, and judged again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.cell import Cell
from bench.evidence import EvidenceBatch
from bench.evidence.agreement import compare_draws
from bench.evidence.checks import doubt_images
from bench.evidence.judging import RUN, doubt_replay, judge_again
from bench.run.meter import Meter
from bench.run.prepare import Loader, Prepared, weights_of
from bench.run.provenance import hash_own_code, own_code_in

SHARE = 0.01  # of a cell's network evaluations that judging again may cost
SHOWN = 5  # doubts of one kind that are written out


@dataclass
class Verdict:
    """What came of one cell.

    Attributes:
        lines: what was looked at, and what was found.
        doubts: what is wrong; none where everything held.
        complete: whether there were images to judge.
    """

    lines: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    complete: bool = True

    def note(self, what: str, good: str, doubts: Sequence[str]) -> None:
        """Add a line about one check.

        Args:
            what: was looked at.
            good: what it means if nothing is wrong.
            doubts: what is wrong.
        """
        self.doubts += doubts
        more = f" (and {len(doubts) - SHOWN} more)" if len(doubts) > SHOWN else ""
        self.lines.append(f"  {what:<8}{'WRONG: ' + '; '.join(doubts[:SHOWN]) + more if doubts else good}")


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How images are judged again.

    Attributes:
        draws: fresh draws an image; None is as many as a hundredth of the cell's cost pays for, the cell's at most.
        seed: of the fresh draws.
        replay: also ask the very draws of the run, which have to say the same.
    """

    draws: int | None = None
    seed: int = 0
    replay: bool = False


def judge_files(
    verdict: Verdict, run: dict[str, Any], cell: Cell, loader: Loader, files: list[EvidenceBatch], judging: Judging
) -> None:
    prepared = loader.prepare(cell)
    doubts: list[str] = []
    farthest = 0.0
    places = [torch.tensor(file.index) for file in files]
    labels = [torch.as_tensor(prepared.data.labels)[place] for place in places]
    for file, place, label in zip(files, places, labels, strict=True):
        clean = prepared.data.images(place)
        doubts += doubt_images(file, clean, label, cell.threat, restricted=cell.attack.restricted)
        farthest = max(farthest, max(outcome["distance"] for outcome in file.outcomes))
    ball = f"{cell.threat.norm} {cell.threat.epsilon:.6g}"
    inside = f"and {ball}" if cell.attack.restricted else f"(the attack has no ball; {ball} is for show)"
    verdict.note("images", f"inside [0, 1] {inside}, the farthest at {farthest:.6g}", doubts)
    changed = _what_changed(run, cell)
    if changed:
        verdict.lines.append(f"  note    judged with other {changed} than the run")
    if doubts:
        return
    device = [label.to(prepared.device) for label in labels]
    _judge_freshly(verdict, run, prepared, files, device, judging)
    if judging.replay:
        model, found = prepared.model(), []
        for file, label in zip(files, device, strict=True):
            said = judge_again(model, file, label, draws=cell.judging_draws, seed=cell.seed, role=RUN)
            found += doubt_replay(file, said)
        verdict.note("replayed", "the very draws of the run give every vote again", found)


def _what_changed(run: dict[str, Any], cell: Cell) -> str:
    changed = ["weights"] if run["weights"] != weights_of(cell) else []
    if own_code_in(run["packages"] or {}) != hash_own_code(cell.defense, cell.attack):
        changed.append("code of the defense or the attack")
    return " and ".join(changed)


def _judge_freshly(
    verdict: Verdict, run: dict[str, Any], prepared: Prepared, files: list[EvidenceBatch], labels: list[Any],
    judging: Judging,
) -> None:  # fmt: skip
    """Fresh draws, as many as are asked for or as a hundredth of the cell's cost pays for."""
    cell, model = prepared.cell, prepared.model()
    role = f"judge:verify {judging.seed}"
    right = [torch.zeros(len(label), dtype=torch.int64) for label in labels]
    spent = done = 0
    wanted = judging.draws or cell.judging_draws
    wanted = wanted if cell.stochastic else 1
    with Meter(*prepared.counted(model)) as meter:
        while done < wanted:
            for place, (file, label) in enumerate(zip(files, labels, strict=True)):
                said = judge_again(model, file, label, draws=1, seed=cell.seed, role=role, first=done)
                right[place] += (said == label).sum(0).cpu()
            done += 1
            spent += meter.take()
            if judging.draws is None and spent * (done + 1) / done > SHARE * (run["network_evaluations"] or 0):
                break
    outcomes = [outcome for file in files for outcome in file.outcomes]
    index = [i for file in files for i in file.index]
    stored = [outcome["robust_votes"].get(str(outcome["label"]), 0) for outcome in outcomes]
    draws = [sum(outcome["robust_votes"].values()) for outcome in outcomes]
    found = compare_draws(stored, draws, torch.cat(right).tolist(), done, stochastic=cell.stochastic)
    low, high = run["robust_low"], run["robust_high"]
    told = (
        f"again on {done} fresh draw{'s' * (done > 1)}: robust {found.fresh:.1f} % beside {found.stored:.1f} % "
        f"[{low:.1f}, {high:.1f}]"
    )
    cost = (
        f"{100 * spent / run['network_evaluations']:.2g} % of the cell's network evaluations"
        if run["network_evaluations"]
        else ""
    )
    doubts = []
    if not found.agrees:
        by = f"{found.fresh - found.stored:+.1f} points, p = {found.p_value:.2g}"
        named = f", images {', '.join(str(index[i]) for i in found.changed[:SHOWN])}" if found.changed else ""
        doubts = [f"{told}: off by {by}{named}"]
    verdict.note("judged", f"{told}: agrees (p = {found.p_value:.2g}); {cost}", doubts)
