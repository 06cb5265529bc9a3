"""docs/claims.md says what its paired tests say: numbers, direction, and how sure, from the committed database."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from bench.grids import grid_cells, load_grid
from bench.store import Store

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "claims.md"
MODULE = runpy.run_path(str(ROOT / "docs" / "claims.py"))
CLAIMS = [(group, claim) for group, claims in MODULE["CLAIMS"].items() for claim in claims]
SPOKEN = re.compile(
    r"leaves (\d+\.\d) %, (.+?) (\d+\.\d) %: ([+-]\d+\.\d) points \[([+-]\d+\.\d), ([+-]\d+\.\d)\], p = (\S+), "
    r"(established|not established)\. (.+)$"
)


def block(name: str) -> list[str]:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", PAGE.read_text(), flags=re.DOTALL)
    assert found, name
    return [line for line in found[1].splitlines() if line.startswith("- ")]


def result(difference: float, p_value: float, half: float = 5.0) -> dict[str, float]:
    return {
        "a_accuracy": 50 + difference, "b_accuracy": 50.0, "difference": difference, "low": difference - half,
        "high": difference + half, "p_value": p_value,
    }  # fmt: skip


def answers(store: Store, key: str) -> dict[int, tuple[float, bool]] | None:
    """Image -> (share of right draws, whether the majority is right), counted here."""
    runs = [row["run_id"] for row in store.results() if row["cell_key"] == key]
    if not runs:
        return None
    found = {}
    for image in store.images(runs[0]):
        right = image.robust_votes.get(image.label, 0)
        others = max((n for label, n in image.robust_votes.items() if label != image.label), default=0)
        found[image.index] = (right / sum(image.robust_votes.values()), right > others)
    return found


@pytest.mark.parametrize(("group", "claim"), CLAIMS)
def test_the_words_turn_with_the_result(group: str, claim: Any) -> None:
    """A sentence that says the same whatever the test finds would be no finding."""
    say = MODULE["consequence"]
    more, less = say(claim, result(20, 0.001)), say(claim, result(-20, 0.001))
    unsure = [say(claim, found) for found in (result(20, 0.2), result(-20, 0.2), result(3, 0.001), result(-3, 0.001))]
    assert len({more, less, unsure[0]}) == 3 and len(set(unsure)) == 1


@pytest.mark.parametrize(("group", "claim"), CLAIMS)
def test_a_claim_compares_two_numbers_of_shipped_grids_on_the_same_pictures(group: str, claim: Any) -> None:
    keys = [cell.key for grid in ("digits_claims", "digits_attacks", "cifar10_small") for cell in grid_cells(grid)]
    assert claim.a.key in keys and claim.b.key in keys and claim.a.key != claim.b.key
    for name in ("dataset", "classifier", "num_images", "data_seed", "seed", "draws"):
        assert getattr(claim.a, name) == getattr(claim.b, name), name
    assert (claim.a.threat.norm, claim.a.threat.epsilon) == (claim.b.threat.norm, claim.b.threat.epsilon)


@pytest.mark.parametrize("group", list(MODULE["CLAIMS"]))
def test_every_sentence_says_what_its_images_say(group: str) -> None:
    lines, said = block(group), 0
    with Store(ROOT / "results.sqlite", readonly=True) as store:
        for claim in MODULE["CLAIMS"][group]:
            a, b = (answers(store, cell.key) for cell in (claim.a, claim.b))
            if a is None or b is None:
                continue
            match = SPOKEN.search(lines[said])
            assert match and lines[said].startswith(f"- {claim.a_words} leaves ") and match[2] == claim.b_words
            said += 1
            assert a.keys() == b.keys()
            means = [100 * sum(share for share, _ in each.values()) / len(each) for each in (a, b)]
            assert [float(match[1]), float(match[3])] == pytest.approx(means, abs=0.051)
            difference, low, high = (float(match[k]) for k in (4, 5, 6))
            assert difference == pytest.approx(means[0] - means[1], abs=0.051) and low <= difference <= high
            only = [sum(x[i][1] > y[i][1] for i in a) for x, y in ((a, b), (b, a))]
            p_value = binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
            assert float(match[7]) == pytest.approx(p_value, rel=0.06)
            sure = p_value < 0.05 and (low > 0 or high < 0)
            assert match[8] == ("established" if sure else "not established")
            assert match[9] == (claim.open if not sure else claim.more if means[0] > means[1] else claim.less)
    missing = len(MODULE["CLAIMS"][group]) - said
    assert lines[said:] == ([f"- {missing} of {missing + said} tests have not run."] if missing else [])


def test_the_attacker_who_knows_the_noise_has_a_cell_of_every_defense() -> None:
    """Each exact row under `strong` has a twin that differs in the noise alone, and no claim compares the two."""
    cells = [cell for cell in grid_cells("digits_claims") if cell.attack.name == "strong"]
    fresh = [cell for cell in cells if cell.threat.noise == "fresh" and cell.threat.gradient == "exact"]
    known = {cell.key for cell in cells if cell.threat.noise == "known"}
    assert (
        known == {replace(cell, threat=replace(cell.threat, noise="known")).key for cell in fresh} and len(known) == 8
    )
    assert not known & {cell.key for _, claim in CLAIMS for cell in (claim.a, claim.b)}
    tables = {table.name: table for table in load_grid("digits_claims").tables}
    shown = {name: [c for c in cells if table.shows(c.row())] for name, table in tables.items()}
    assert all(c.threat.noise == "fresh" for name in ("gradients", "readings") for c in shown[name])
    assert {c.key for c in shown["known_noise"]} == known | {c.key for c in fresh}


def test_the_page_counts_the_images_that_the_logged_attack_leaves_as_they_were() -> None:
    from bench.grids.digits_claims import LOGGED, cell

    key = cell("aaopt", "surrogate", LOGGED).key
    with Store(ROOT / "results.sqlite", readonly=True) as store:
        runs = [row["run_id"] for row in store.results() if row["cell_key"] == key]
        sizes = [row["distance"] for row in store.image_rows(runs[0])] if runs else []
    told = f"It hands back {sizes.count(0.0)} of the {len(sizes)} images unchanged." if runs else "it has not run."
    assert told in PAGE.read_text()
