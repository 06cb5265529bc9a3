"""The report: exact strings for small frames, and what every format must never hide."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from bench.commands.report import batch_note
from bench.records import NOT_CONVERGED, WEAK_ATTACK, ImageRecord
from bench.report import FORMATS, Table, compare_text, epsilon_text, render
from bench.report.frames import cells_of
from bench.statistics import wilson

PASS = [{"gate": "inside the ball", "passed": True, "reason": "largest distance 0.1", "value": 0.1}]
FAIL = [{"gate": "gradient audit", "passed": False, "reason": "zero on 31 of 32 images", "value": 31}]


def row(defense: str, robust: float | None, **fields: Any) -> dict[str, Any]:
    known = robust is not None
    cell = {
        **{"dataset": "digits", "classifier": "small_cnn", "score": None, "defense": defense, "defense_params": "{}"},
        **{"attack": "pgd_eot", "attack_params": '{"steps": 20}', "norm": "Linf", "epsilon": 0.1, "gradient": "exact"},
        **{"tier": "paper", "num_images": 100, "draws": 10, "batch_size": 64, "data_seed": 0, "seed": 0},
        **{"clean_accuracy": 97.0 if known else None, "null_accuracy": 96.5 if known else None},
        **{"robust_accuracy": robust, "robust_low": known and robust - 5, "robust_high": known and robust + 5},
        **{"gates": None, "published_robust": None, "verdict": None, "verdict_reason": None},
    }
    cell["cell_key"] = "-".join(str(value) for value in (defense, *fields.values()))
    return {**cell, **({} if known else {"robust_low": None, "robust_high": None}), **fields}


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


def lines_of(text: str, beginning: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(beginning)]


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        *((8 / 255, "8/255"), (0.03137, "8/255"), (0.0157, "4/255"), (0.5, "0.5"), (1.0, "1"), (0.2, "0.2")),
        *((0.05, "0.05"), (0.0, "0"), (0.123, "0.123"), (12, "12"), (None, "–"), (float("nan"), "–")),
    ],
)
def test_epsilon_as_people_write_it(epsilon: float | None, text: str) -> None:
    assert epsilon_text(epsilon) == text


def test_markdown_exactly() -> None:
    results = frame(
        row("undefended", 4.0, gates=PASS),
        row("gdmp", 40.0, published_robust=44.5, verdict="agrees", verdict_reason="they meet"),
        row("gdmp", 61.0, gradient="straight_through"),
    )
    assert render(results, format="markdown", title="Mine", caption="All of it.") == (
        "**Mine: digits, Linf 0.1, small_cnn, 100 images, paper tier**\n\n"
        "All of it.\n\n"
        "| Defense | Gradient | Clean | pgd_eot Robust | pgd_eot Null | pgd_eot Published |\n"
        "| :-- | :-- | --: | --: | --: | --: |\n"
        "| undefended | exact | 97.0 | 4.0 [-1.0, 9.0] ✓ | 96.5 |  |\n"
        "| gdmp | exact | 97.0 | **40.0** [35.0, 45.0] | 96.5 | 44.5 agrees |\n"
        "| gdmp | straight_through | 97.0 | 61.0 [56.0, 66.0] | 96.5 |  |\n\n"
        "Accuracies in percent of the images, with 95 % intervals [low, high]. Null: the same protocol with epsilon 0. "
        "✓ every validity gate passed, ! one failed, or another attack or gradient finds more. "
        "Best robust accuracy under the same threat, gradient and tier stands out.\n"
    )


def test_text_exactly() -> None:
    results = frame(row("undefended", 4.0), row("gdmp", 40.0, gates=json.dumps(FAIL)))
    assert render(results.assign(tier="quick"), format="text") == (
        "digits, Linf 0.1, small_cnn, 100 images, quick tier\n\n"
        "Defense     Attack   Gradient  Clean                   Robust  Null\n"
        "───────────────────────────────────────────────────────────────────\n"
        "undefended  pgd_eot  exact      97.0          4.0 [-1.0, 9.0]  96.5\n"
        "gdmp        pgd_eot  exact      97.0  40.0 [35.0, 45.0] ! (a)  96.5\n\n"
        "Accuracies in percent of the images, with 95 % intervals [low, high]. Null: the same protocol with\n"
        "epsilon 0. ✓ every validity gate passed, ! one failed, or another attack or gradient finds more.\n"
        "quick tier: not a robustness claim.\n"
        "(a) gradient audit: zero on 31 of 32 images\n"
    )


def test_best_is_bold_among_one_threat_only() -> None:
    results = frame(
        row("a", 50.04),
        row("b", 50.0),
        row("c", 49.0),
        row("d", 90.0, gates=FAIL),
        row("e", 95.0, gradient="transfer"),
        row("f", 99.0, tier="quick"),
    )
    bold = re.findall(r"^\| (\w) .*\*\*", render(results, format="markdown"), flags=re.MULTILINE)
    assert bold == ["a", "b"]


def test_no_row_is_best_below_what_a_stronger_attack_left_of_another() -> None:
    """Otherwise a row would win because only its rival met the stronger attack."""
    for left, best in ((80.5, []), (79.0, ["a"])):
        beaten = row("c", 83.6, outdone="The attack gold leaves less.", outdone_to=left)
        text = render(frame(row("a", 80.2), row("b", 50.0), beaten), format="markdown")
        assert re.findall(r"^\| (\w) .*\*\*", text, flags=re.MULTILINE) == best


def test_a_number_that_a_longer_attack_would_lower_is_marked_and_not_the_best() -> None:
    stale = [f"{NOT_CONVERGED}the last doubling won {points} points" for points in (2.1, 1.3)]
    results = frame(
        row("a", 60.0, notes=stale), row("b", 50.0, notes=["Converged: it won 0.2 points"]), row("c", 50.0)
    )  # fmt: skip
    text = render(results, format="markdown")
    assert re.findall(r"^\| (\w) .*\*\*", text, flags=re.MULTILINE) == ["b", "c"]
    assert "60.0" in text and "!<sup>a</sup>" in text
    assert "<sup>a</sup> Not converged: the last doubling won 2.1 points (1 more of the pooled runs say so.)" in text


@pytest.mark.parametrize("note", [f"{WEAK_ATTACK}PGD in L1.", "AutoAttack: there seems to be a problem"])
def test_a_number_of_a_weak_attack_is_not_the_best(note: str) -> None:
    text = render(frame(row("a", 60.0, notes=[note]), row("b", 50.0), row("c", 50.0)), format="markdown")
    assert re.findall(r"^\| (\w) .*\*\*", text, flags=re.MULTILINE) == ["b", "c"]


def test_what_has_not_run_is_a_dash_and_a_failure_says_why() -> None:
    ran = row("undefended", 4.0)
    waiting = row("gdmp", None, published_robust=40.0, published_confidence="digest")
    failed = row("adp", None, error="OutOfMemory: lower batch_size")
    text = render(frame(ran), format="markdown", expected=frame(waiting, ran, failed))
    table = lines_of(text, "| ")
    assert table[2] == "| gdmp | exact | – | – | – | 40.0<sup>a</sup> |"
    assert table[3].startswith("| undefended | exact | 97.0 | 4.0 ")
    assert table[4] == "| adp | exact | – | failed<sup>b</sup> | – |  |"
    assert "–: not run." in text and "<sup>b</sup> OutOfMemory: lower batch_size" in text
    assert "<sup>a</sup> published value from a digest of the source" in text


def test_nothing_ran_yet_still_gives_the_whole_table() -> None:
    planned = frame(row("undefended", None), row("gdmp", None))
    text = render(planned.iloc[:0], format="markdown", expected=planned)
    assert [line.split(" | ")[0] for line in lines_of(text, "| ")[2:]] == ["| undefended", "| gdmp"]


def test_a_place_outside_the_grid_is_empty_not_a_dash() -> None:
    planned = frame(row("undefended", 4.0), row("gdmp", 9.0, attack="square_eot", gradient="none"))
    table = Table(name="t", values=("robust",))
    known = lines_of(render(planned, format="markdown", tables=[table], expected=planned), "| undefended")
    unknown = lines_of(render(planned, format="markdown", tables=[table]), "| undefended")
    assert known == ["| undefended | exact | 97.0 | 96.5 | 4.0 [-1.0, 9.0] |  |"]
    assert unknown == ["| undefended | exact | 97.0 | 96.5 | 4.0 [-1.0, 9.0] | – |"]


def test_verdicts_that_do_not_agree_carry_their_reason() -> None:
    fields = {"published_robust": 70.64, "verdict": "not comparable", "verdict_reason": "gradient differs"}
    text = render(frame(row("gdmp", 40.0, published_notes="derived: 58 + 12", **fields)), format="markdown")
    assert "70.6 n/c<sup>a,b</sup>" in text and "n/c: not comparable." in text
    assert "<sup>a</sup> published value derived, not quoted" in text
    assert "<sup>b</sup> not comparable: gradient differs" in text


def test_variants_of_a_defense_are_told_apart_by_what_differs() -> None:
    variants = [{"t": 0.1, "rounds": 1}, {"t": 0.15, "rounds": 1}]
    results = frame(*(row("gdmp", 40.0, defense_params=json.dumps(params)) for params in variants))
    names = [line.split(" | ")[0] for line in lines_of(render(results, format="markdown"), "| gdmp")]
    assert names == ["| gdmp (t=0.1)", "| gdmp (t=0.15)"]
    twins = frame(row("gdmp", 40.0, draws=10), row("gdmp", 41.0, draws=100))
    names = [line.split(" | ")[0] for line in lines_of(render(twins, format="markdown"), "| gdmp")]
    assert names == ["| gdmp (draws=10)", "| gdmp (draws=100)"]


def test_seeds_pool_into_one_line_with_their_spread() -> None:
    runs = [row("gdmp", robust, seed=i, data_seed=i % 2) for i, robust in enumerate((40.0, 44.0, 36.0))]
    planned = [*runs, row("gdmp", None, seed=3, data_seed=1)]
    text = render(frame(*runs), format="markdown", expected=frame(*planned))
    (line,) = lines_of(text, "| gdmp")
    assert "200 images" in text
    assert line == "| gdmp | exact | 97.0 | 40.0 ± 4.0 [36.5, 43.5]<sup>a</sup> | 96.5 |"
    assert "<sup>a</sup> 3 of 4 runs so far" in text


def test_a_picture_that_several_data_seeds_drew_counts_once() -> None:
    """Ten data seeds of the same 500 pictures are 500 pictures; two of disjoint halves are as many as both."""

    def images(run: int) -> list[ImageRecord]:
        first = 0 if run < 10 else 500 * (run - 10)
        votes = {"label": 1, "clean_votes": {1: 1}, "null_votes": {1: 1}, "distance": 0.0}
        return [ImageRecord(index=first + i, robust_votes={int(i < 461): 1}, **votes) for i in range(500)]

    for runs, expected in ((range(10), "500 images"), ((10, 11), "1000 images")):
        seeds = [row("a", 92.2, num_images=500, data_seed=k, run_id=k, robust_low=91.4, robust_high=92.8) for k in runs]
        text = render(frame(*seeds), format="markdown", images=images)
        assert f", {expected}," in text
        interval = re.search(r"92\.2 ± 0\.0 \[(\S+), (\S+)\]", text)
        low, high = (100 * end for end in wilson(0.922 * int(expected.split()[0]), int(expected.split()[0])))
        assert interval and abs(float(interval[1]) - low) < 0.4 and abs(float(interval[2]) - high) < 0.4


def test_the_batch_size_of_a_run_does_not_part_seeds_that_were_planned_together() -> None:
    runs = [row("gdmp", 40.0, seed=0), row("gdmp", 44.0, seed=1)]
    ran = frame(*(run | {"batch_size": size} for run, size in zip(runs, (64, 16), strict=True)))
    assert len(lines_of(render(ran, format="markdown", expected=frame(*runs)), "| gdmp |")) == 1
    assert len(lines_of(render(ran, format="markdown"), "| gdmp (batch_size=")) == 2


def test_two_cells_in_one_place_are_told_apart_by_what_differs() -> None:
    results = frame(row("gdmp", 40.0, cell_key="aaaa"), row("adp", 41.0, cell_key="bbbb"))
    table = Table(name="t", rows=("attack",), columns=("norm",))
    for form in ("text", "markdown", "latex", "html"):
        text = render(results, format=form, tables=[table])
        assert all(word in text for word in ("(gdmp)", "(adp)", "40.0", "41.0")), text
    twice = frame(*(row("gdmp", 40.0, cell_key=key, score=key) for key in ("aaaa", "bbbb")))
    text = render(twice, format="markdown", tables=[table])
    assert "aaaa" in text and "bbbb" in text


STRANGE = "a\x1b[31mred\x07\u202eever\rse\x00\x9b"


@pytest.mark.parametrize("form", ["text", "latex", "markdown", "html", "csv", "json"])
def test_control_letters_are_written_out(form: str) -> None:
    results = frame(
        row(
            f"mine{STRANGE}", 40.0, notes=[f"AutoAttack: {STRANGE}\nmore"], cell_key="aaaa",
            defense_title=f"My{STRANGE}",
            gates=[{"gate": f"g{STRANGE}", "passed": False, "reason": STRANGE}],
        ),
    )  # fmt: skip
    failed = frame(row("other", None, error=f"Broken: {STRANGE}", cell_key="bbbb"))
    text = render(results, format=form, expected=pd.concat([results, failed]))
    assert not [letter for letter in text if not letter.isprintable() and letter not in "\n\t"]
    assert "x1b" in text and text.encode("utf-8") and ("error" in form or "My" in text or "mine" in text)


def test_a_grids_own_table_selects_and_turns() -> None:
    results = frame(
        row("undefended", 4.0, classifier="WRN-28-10"),
        row("undefended", 6.0, classifier="WRN-70-16"),
        row("undefended", 9.0, classifier="WRN-28-10", attack="square_eot"),
    )
    table = Table(name="one", columns=("classifier",), values=("robust", "vote"), where={"attack": "pgd_eot"})
    text = render(results, format="markdown", tables=[table])
    assert text.startswith("**digits, Linf 0.1, pgd_eot, 100 images, paper tier**")
    assert lines_of(text, "| ") == [
        "| Defense | Gradient | Clean | Null | WRN-28-10 Robust | WRN-70-16 Robust |",
        "| :-- | :-- | --: | --: | --: | --: |",
        "| undefended | exact | 97.0 | 96.5 | 4.0 [-1.0, 9.0] | 6.0 [1.0, 11.0] |",
    ]


def test_cells_that_differ_in_what_is_shown_stand_below_each_other() -> None:
    layout = Table(name="t", rows=("defense",), columns=("tier",), values=("attack", "gradient", "robust"))
    results = frame(
        row("gdmp", 40.0, attack="apgd"),
        row("gdmp", 44.0, attack="apgd", gradient="adjoint"),
        row("gdmp", 30.0, tier="gold", attack="gold"),
    )
    lines = lines_of(render(results, format="markdown", tables=[layout]), "| ")
    assert lines[0] == "| Defense | Clean | Null | paper apgd Gradient | paper apgd Robust | gold exact Robust |"
    assert [line.split(" | ")[3:] for line in lines[2:]] == [
        ["exact", "40.0 [35.0, 45.0]", "30.0 [25.0, 35.0] |"],
        ["adjoint", "44.0 [39.0, 49.0]", "– |"],
    ]


def test_pooled_runs_are_compared_with_the_literature_together() -> None:
    """Each of 4 x 100 images meets 55 %, all of them together do not."""
    seeds = [row("gdmp", 48.0, data_seed=i, published_robust=55.0, verdict="agrees", robust_low=38, robust_high=58)
             for i in range(4)]  # fmt: skip
    assert "55.0 disagrees" in render(frame(*seeds), format="markdown")
    for one in seeds:
        one["verdict"], one["verdict_reason"] = "not comparable", "gradient"
    assert "55.0 n/c" in render(frame(*seeds), format="markdown")


def test_a_published_number_names_its_source() -> None:
    known = {"published_source": "li2024", "published_table": "3", "published_gradient": "bpda"}
    quoted = row("gdmp", 48.0, published_robust=55.0, published_images=64.0, published_clean=90.04, **known)
    layout = Table(name="t", values=("robust", "published_clean", "published"))
    text = render(frame(quoted), format="markdown", tables=[layout])
    assert "| 90.0 | 55.0<sup>a</sup>" in text and "li2024 (table 3): gradient bpda, 64 images" in text
    margin = row("gdmp", 48.0, published_notes="+0.7 points", **known)
    text = render(frame(margin), format="markdown")
    assert "not quoted<sup>a</sup>" in text and "li2024 (table 3): +0.7 points" in text


def test_data_sets_and_threats_make_tables_of_their_own() -> None:
    results = frame(row("a", 4.0), row("a", 5.0, epsilon=8 / 255), row("a", 6.0, norm="L2", epsilon=0.5))
    titles = lines_of(render(results, format="markdown"), "**")
    assert [title.split(", ")[1] for title in titles] == ["Linf 0.1", "Linf 8/255", "L2 0.5"]


def test_a_table_too_wide_for_a_page_has_a_row_for_each_cell() -> None:
    results = frame(*(row("a", 4.0, attack=f"attack_number_{i}") for i in range(9)))
    assert len(lines_of(render(results, format="markdown"), "| a |")) == 9
    assert len(lines_of(render(results.head(3), format="markdown"), "| a |")) == 1


def test_text_never_exceeds_100_columns() -> None:
    long = json.dumps({"guidance_scale": 12345.678, "temperature": 0.25, "rounds": 17, "t": 0.123})
    results = frame(
        row("contrastive_with_a_long_name", 4.0), row("contrastive_with_a_long_name", 5.0, defense_params=long)
    )
    text = render(results.assign(gradient="straight_through"), format="text", title="T" * 30, caption="word " * 60)
    assert max(map(len, text.splitlines())) <= 100
    assert "guidance_scale=" in text and "5.0* [0.0, 10.0]" in text


def test_csv_and_json_give_every_column_back() -> None:
    results = frame(row("undefended", 4.0, gates=PASS), row("gdmp", 1 / 3, epsilon=8 / 255))
    waiting = frame(row("adp", None))
    read = pd.read_csv(io.StringIO(render(results, format="csv", expected=pd.concat([results, waiting]))))
    assert list(read.columns) == list(results.columns)
    assert read["robust_accuracy"].tolist()[:2] == [4.0, 1 / 3] and pd.isna(read["robust_accuracy"][2])
    assert json.loads(read["gates"][0]) == PASS
    records = json.loads(render(results, format="json"))
    assert [record["epsilon"] for record in records] == [0.1, 8 / 255]
    assert records[0]["gates"] == PASS and records[0]["attack_params"] == {"steps": 20}
    assert records[1]["gates"] is None and records[1]["robust_accuracy"] == 1 / 3


def test_csv_survives_commas_quotes_and_newlines() -> None:
    reason = 'a "quoted", two-line\nreason'
    text = render(frame(row("a", 4.0, verdict_reason=reason)), format="csv")
    assert next(csv.DictReader(io.StringIO(text)))["verdict_reason"] == reason


@pytest.mark.parametrize("format", ["latex", "html", "markdown"])
def test_special_letters_are_escaped(format: str) -> None:
    gates = [{"gate": "a|b", "passed": False, "reason": r"<b> & 5% \of $x_1^2 {~} #3 ≤ 4 é", "value": None}]
    text = render(frame(row("my_defense", 4.0, gates=gates)), format=format)
    expected = {
        "latex": r"a\textbar{}b: \textless{}b\textgreater{} \& 5\% \textbackslash{}of \$x\_1\textasciicircum{}2 "
        r"\{\textasciitilde{}\} \#3 $\leq$ 4 e",
        "html": r"a|b: &lt;b&gt; &amp; 5% \of $x_1^2 {~} #3 ≤ 4 é",
        "markdown": r"a\|b: \<b> & 5% \\of $x_1^2 {~} #3 ≤ 4 é",
    }
    assert expected[format] in text


def test_latex_is_a_fragment_unless_standalone() -> None:
    results = frame(row("undefended", 4.0), row("gdmp", 40.0))
    fragment = render(results, format="latex")
    assert fragment.startswith("% needs \\usepackage{booktabs,amssymb,graphicx}\n\\begin{table}")
    assert r"gdmp & exact & 97.0 & \textbf{40.0} & {\footnotesize [35.0, 45.0]} & 96.5 \\" in fragment
    assert r" &  &  & \multicolumn{3}{c}{pgd\_eot} \\" in fragment and r"\cmidrule(lr){4-6}" in fragment
    assert render(results, format="latex", standalone=True).startswith(r"\documentclass")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed (texlive-latex-recommended)")
@pytest.mark.parametrize("attacks", [1, 3, 8])
def test_latex_compiles_as_it_is(attacks: int, tmp_path: Path) -> None:
    fields = {"gates": FAIL, "published_robust": 3.0, "verdict": "disagrees", "verdict_reason": r"5 % & <_^~\> ε ≤ ż"}
    rows = [row(name, 4.0, attack=f"attack_{i}", **fields) for name in ("a_b", "c") for i in range(attacks)]
    (tmp_path / "t.tex").write_text(render(frame(*rows), format="latex", standalone=True), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_a_table_longer_than_a_page_becomes_several_floats() -> None:
    rows = [row(f"defense_{i:02d}", 50.0) for i in range(70)]
    text = render(frame(*rows), format="latex")
    assert text.count(r"\begin{table}") == 3 and "(3 of 3)" in text
    assert [len(re.findall(rf"defense\\_{i:02d}", text)) for i in range(70)] == [1] * 70
    assert text.count("Accuracies in percent") == 1  # the legend, under the last


def test_html_is_a_table_and_standalone_a_page() -> None:
    results = frame(row("undefended", 4.0), row("gdmp", 40.0, gates=FAIL))
    table = ElementTree.fromstring(f"<div>{render(results, format='html')}</div>")
    assert ["".join(cell.itertext()) for cell in table.findall(".//tbody/tr[2]/td")] == [
        *("gdmp", "exact", "97.0", "40.0 [35.0, 45.0] !a", "96.5"),
    ]
    page = render(results.assign(gates=None), format="html", standalone=True)
    assert page.startswith("<!doctype html>") and "<strong>40.0</strong> <small>[35.0, 45.0]</small>" in page


def test_bad_requests_say_what_is_known() -> None:
    results = frame(row("undefended", 4.0))
    with pytest.raises(LookupError, match="Unknown format 'latx'. Did you mean 'latex'?"):
        render(results, format="latx")
    with pytest.raises(LookupError, match="Did you mean 'classifier'"):
        Table(name="t", rows=("clasifier",))
    with pytest.raises(LookupError, match="Did you mean 'robust'"):
        Table(name="t", values=("robst",))
    with pytest.raises(ValueError, match="missing: gradient"):
        render(results.drop(columns="gradient"), format="text")
    for format in set(FORMATS) - {"csv", "json"}:
        with pytest.raises(ValueError, match="at least one cell"):
            render(results.iloc[:0], format=format)


def test_comparison_in_words() -> None:
    comparison = {
        **{"images": 64, "a_accuracy": 60.0, "b_accuracy": 50.0, "difference": 10.0, "low": 2.0, "high": 18.0},
        **{"only_a": 9, "only_b": 2, "p_value": 0.0386},
    }
    a, b = row("gdmp", 60.0, cell_key="aaaa"), row("adp", 50.0, cell_key="bbbb", gradient="transfer")
    assert compare_text(a, b, comparison) == (
        "A  aaaa  gdmp, digits, small_cnn, pgd_eot, Linf, 0.1, exact, paper\n"
        "B  bbbb  adp, digits, small_cnn, pgd_eot, Linf, 0.1, transfer, paper\n"
        "Robust on the 64 images that both saw: A 60.0 %, B 50.0 %.\n"
        "Difference A - B: +10.0 points, 95 % interval [+2.0, +18.0] (paired).\n"
        "By vote, A alone is right on 9 images, B alone on 2: McNemar p = 0.0386.\n"
        "A is more robust than B on these images.\n"
        "Careful, not the same gradient: A exact, B transfer.\n"
    )
    same = compare_text(a, a, {**comparison, "low": -2.0})
    assert "No difference is established." in same and "Careful" not in same
    assert "No difference is established." in compare_text(a, b, {**comparison, "p_value": 0.0654})
    other_way = {**comparison, "difference": -9.0, "low": -18.0, "high": -1.0}
    assert "B is more robust" in compare_text(a, b, other_way)
    doubtful = (["unseen: the defense knows the pictures"], [])
    told = compare_text(a, b, comparison, doubtful)
    assert "A has the higher number, but A is in doubt: no conclusion.\nA is in doubt: unseen: the defense" in told
    assert "B has the higher number, but A is in doubt: no conclusion." in compare_text(a, b, other_way, doubtful)
    stronger = row("gdmp", 50.0, cell_key="cccc", attack="gold")  # of one defense, that is what outdoes the other
    assert "B's attack finds more than A's." in compare_text(a, stronger, comparison, doubtful)


def test_a_null_control_stands_in_every_table() -> None:
    kinds = [
        row("sde", 40.0, gradient=kind, null_accuracy=null) for kind, null in (("exact", 96.5), ("transfer", 96.5))
    ]
    other = [
        row("ode", 40.0, gradient=kind, null_accuracy=null) for kind, null in (("exact", 90.0), ("transfer", 91.0))
    ]
    table = Table(name="t", rows=("defense",), columns=("gradient",), values=("robust",))
    text = render(frame(*kinds, *other), format="markdown", tables=[table])
    assert lines_of(text, "| Defense")[0].startswith("| Defense | Clean | Null | exact")
    assert "| sde | 97.0 | 96.5 |" in text and "| ode | 97.0 | 90.0–91.0 |" in text
    assert "Null: the same protocol with epsilon 0" in text


def test_a_batch_that_is_not_full_is_told_where_answers_depend_on_it() -> None:
    coupled = row("contrastive", 40.0, num_images=100)
    for given, said in (
        (coupled, "answered in batches of 64 and a last one of 36 images"),
        ({**coupled, "num_images": 32}, "answered in one batch of 32 images, where batch_size is 64"),
        ({**coupled, "num_images": 128}, None),
        ({**coupled, "defense_params": '{"per_image": true}'}, None),
        ({**coupled, "defense": "someone_elses"}, None),
    ):
        (cell,) = cells_of(frame(given))
        assert (batch_note(cell) or "").startswith(said or "") and bool(said) is bool(batch_note(cell))
    noted = frame({**coupled, "batch_note": batch_note(cells_of(frame(coupled))[0])})
    assert "a last one of 36" in render(noted, format="markdown")


def test_the_librarys_warnings_stand_beside_the_number() -> None:
    warned = row("a", 40.0, notes=["AutoAttack: it seems to be randomized", "resumed after OSError: disk"])
    text = render(frame(warned), format="markdown")
    assert "!<sup>a</sup>" in text and "<sup>a</sup> AutoAttack: it seems to be randomized" in text
    assert "disk" not in text


def test_a_weak_attack_is_marked_beside_the_number() -> None:
    """Once, however many runs are pooled."""
    text = render(frame(row("a", 40.0, notes=[f"{WEAK_ATTACK}other attacks find more"] * 2)), format="markdown")
    assert "!<sup>a</sup>" in text and text.count("Weak attack: other attacks find more") == 1


def test_the_number_of_images_is_of_those_that_ran() -> None:
    ran = row("gdmp", 40.0, seed=0, data_seed=0)
    planned = [ran, row("gdmp", None, seed=0, data_seed=1)]
    assert "100 images" in render(frame(ran), format="markdown", expected=frame(*planned))


def test_the_mark_outlives_filtering_and_pooling() -> None:
    from bench.report import with_outdone
    from bench.report.pooling import pool_seeds

    full = with_outdone(
        frame(row("guided", 60.0, gradient="exact"), row("guided", 40.0, gradient="guidance_detached"), row("a", 50.0))
    )
    text = render(full[full["gradient"] == "exact"], format="markdown")
    assert "leaves 40.0 %" in text and "60.0 [55.0, 65.0] !" in text and "**60.0**" not in text
    cells = [
        dict(c, data_seed=k) for k, c in enumerate(full[full["defense"] == "guided"].head(1).to_dict("records") * 2)
    ]
    assert "leaves 40.0 %" in pool_seeds(cells)[0]["outdone"]


def test_a_defense_that_is_a_classifier_is_called_by_its_own() -> None:
    """The row names the model that was evaluated, and stands where it stood."""
    trained = row("adversarial_training", 41.0, defense_params='{"model": "mine_at"}', defense_texts={"model": "My AT"})
    smoothed = row("diffusion_classifier", 42.0, score="my_score")
    results = frame(row("undefended", 4.0), trained, smoothed, row("jpeg", 9.0), row("jpeg", 8.0, classifier="other"))
    table = Table(name="t", rows=("classifier", "defense", "gradient"))
    lines = render(results, format="markdown", tables=[table]).splitlines()
    names = [line.split(" | ")[0].strip("| ") for line in lines if line.startswith("| ")][2:]
    assert names == ["small_cnn", "My AT", "my_score", "small_cnn", "other"]
