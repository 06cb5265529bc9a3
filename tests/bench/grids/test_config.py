"""Grids in TOML: the same cells as in Python, lists swept, and each mistake a sentence that names its key."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.attacks.pgd_eot import PGDEOT
from bench.cell import Cell
from bench.cli import main
from bench.grids import GridFileError, grid_cells, load_grid
from bench.threat import ThreatModel
from defenses.diffpure_sde import DiffPureSDE
from defenses.gradual_noise import GradualNoise
from defenses.jpeg import JPEG

TEXT = """
title = "A sweep"
dataset = "digits"
classifiers = ["digits_cnn"]
score = "digits_score"
images = 4
draws = 2
gradients = ["transfer", "exact"]

[threat]
norm = "Linf"
epsilon = ["8/255", 0.1]

[[defenses]]
name = "diffpure_sde"
t = [0.05, 0.1]
steps = 3

[[defenses]]
name = "jpeg"

[[attacks]]
name = "pgd_eot"
steps = 2
step_size = "2/255"
eot = 1
"""


def config(folder: Path, text: str = TEXT) -> str:
    path = folder / "sweep_mine.toml"
    path.write_text(text)
    return str(path)


def test_it_stands_for_the_cells_that_python_would_write(tmp_path: Path) -> None:
    attack, wanted = PGDEOT(steps=2, step_size=2 / 255, eot=1), []
    for defense in (DiffPureSDE(t=0.05, steps=3), DiffPureSDE(t=0.1, steps=3), JPEG()):
        for epsilon in (8 / 255, 0.1):
            for gradient in ("transfer", "exact") if defense.needs_score else ("transfer",):
                wanted.append(
                    Cell(
                        dataset="digits", classifier="digits_cnn", defense=defense, attack=attack, num_images=4,
                        draws=2,
                        score="digits_score" if defense.needs_score else None,
                        threat=ThreatModel(norm="Linf", epsilon=epsilon, gradient=gradient),
                    )
                )  # fmt: skip
    found = grid_cells(config(tmp_path))
    assert {cell.key for cell in found} == {cell.key for cell in wanted} and len(found) == 10
    assert load_grid(config(tmp_path)).title == "A sweep"


def test_lists_of_fields_that_hold_lists_are_values_and_lists_of_those_are_swept(tmp_path: Path) -> None:
    for levels, wanted in (("[4, 6]", [(4, 6)]), ("[[4, 6], [5, 7]]", [(4, 6), (5, 7)])):
        text = TEXT.replace('name = "jpeg"', f'name = "gradual_noise"\nlevels = {levels}')
        found = [cell.defense for cell in grid_cells(config(tmp_path, text))]
        assert list(dict.fromkeys(d.levels for d in found if isinstance(d, GradualNoise))) == wanted


MISTAKES = {
    "syntax": ("draws = 2", "draws = two", r"sweep_mine.toml: Invalid value \(at line 7.*Texts stand in quotes"),
    "unknown key": ("images = 4", "imagess = 4", r"Unknown key 'imagess'. Did you mean 'images'\?"),
    "missing key": ('dataset = "digits"\n', "", "expected the key dataset, found title, classifiers"),
    "type": ("images = 4", 'images = "many"', "sweep_mine.toml: images: expected a whole number, found 'many'"),
    "twice": ("images = 4", "images = 4\nnum_images = 5", "num_images: found images too. Write one of them"),
    "data set": ('"digits"\nc', '"digit"\nc', r"dataset: Unknown data set 'digit'. Did you mean 'digits'\?"),
    "no such file": ('"digits"\nc', '"npz:none_mine.npz"\nc', r"dataset: Expected a file or folder at /.*none"),
    "classifier": ("digits_cnn", "digits_cn", r"classifiers: Unknown classifier 'digits_cn'. Did you mean 'digits"),
    "score": ('"digits_score"', '"digits_scor"', r"score: Unknown score network .* Did you mean 'digits_score'\?"),
    "defense": ('"jpeg"', '"jpge"', r"defenses\[1\].name: Unknown defense 'jpge'. Did you mean 'jpeg'\?"),
    "field": ("t = [", "tt = [", r"defenses\[0\].tt: Unknown field of diffpure_sde 'tt'. .*Known: .*\bt\b"),
    "field's type": ("steps = 3", "steps = 3.5", r"defenses\[0\].steps: expected a whole number, found 3.5"),
    "swept type": ("[0.05, 0.1]", '[0.05, "a"]', r"defenses\[0\].t\[1\]: expected a number, found 'a'"),
    "field's range": ("[0.05, 0.1]", "2.0", r"defenses\[0\]: Expected t in \(0, 1\]"),
    "choice": ("eot = 1", 'eot = 1\nloss = "cee"', r"attacks\[0\].loss: expected one of 'ce', .*found 'cee'"),
    "attack": ('"pgd_eot"', '"pgd_eto"', r"attacks\[0\].name: Unknown attack 'pgd_eto'. Did you mean 'pgd_eot'\?"),
    "norm": ('"Linf"', '"linf"', "threat.norm: expected one of 'Linf', 'L2', 'L1', found 'linf'"),
    "epsilon": ('["8/255", 0.1]', "8.0", r"threat: Expected epsilon in \[0, 1\]"),
    "epsilon's text": ('["8/255", 0.1]', '"8 / 255 / 2"', "threat.epsilon: expected a number, found '8 / 255 / 2'"),
    "no threat table": ('[threat]\nnorm = "Linf"\nepsilon = ["8/255", 0.1]\n', 'threat = "Linf"\n',
                        r"threat: expected a table with norm and epsilon, found 'Linf'. Write \[threat\]"),
    "gradient": ('"exact"]', '"exactt"]', r"Unknown kind of gradient 'exactt'. Did you mean 'exact'\?"),
    "gradient it lacks": ('name = "jpeg"', 'name = "jpeg"\ngradients = ["exact"]', "jpeg has no gradient 'exact'"),
    "no score": ('score = "digits_score"\n', "", r'diffpure_sde needs a score network, found none. Add score = "..."'),
    "tier": ("draws = 2", 'tier = "quickly"', "Expected tier among quick, paper"),
    "plug-in": ('title = "A sweep"', 'plugins = ["none_mine.py"]', "There is no file .*none_mine.py"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake_is_a_sentence_that_names_the_key(mistake: str, tmp_path: Path) -> None:
    before, after, said = MISTAKES[mistake]
    text = TEXT.replace(before, after, 1)
    if mistake == "no threat table":
        text = after + TEXT.replace(before, "")
    assert text != TEXT
    with pytest.raises((GridFileError, LookupError), match=said):
        grid_cells(config(tmp_path, text))


def test_from_the_command_line(tmp_path: Path) -> None:
    text = TEXT.replace('"jpeg"', '"undefended"').replace(
        'name = "diffpure_sde"\nt = [0.05, 0.1]\nsteps = 3', 'name = "jpeg"'
    )
    path, db = config(tmp_path, text), str(tmp_path / "r.sqlite")
    ran = CliRunner().invoke(main, ["run", "--config", path, "--db", db, "--device", "cpu"])
    assert ran.exit_code == 0 and "6 done" in ran.output, ran.output
    shown = CliRunner().invoke(main, ["report", "--grid", path, "--db", db])
    assert shown.exit_code == 0 and "A sweep" in shown.output, shown.output
    wrong = CliRunner().invoke(main, ["run", "--config", path, "--grid", "quickstart"])
    assert wrong.exit_code == 2 and "Leave one of them out" in wrong.output


def test_a_precision_that_is_none_is_a_sentence_and_a_list_is_swept(tmp_path: Path) -> None:
    with pytest.raises(GridFileError, match="attack_precision: .*float16"):
        grid_cells(config(tmp_path, TEXT.replace("draws = 2", 'draws = 2\nattack_precision = "float16"')))
    both = config(tmp_path, TEXT.replace("draws = 2", 'draws = 2\nattack_precision = ["float32", "bfloat16"]'))
    found = [cell for cell in grid_cells(both) if cell.attack_precision == "bfloat16"]
    assert found and all(cell.score and cell.threat.gradient == "exact" for cell in found)
    assert len(grid_cells(both)) == len(grid_cells(config(tmp_path))) + len(found)


def test_the_threat_holds_every_norm_and_what_the_attacker_knows(tmp_path: Path) -> None:
    table = 'norm = "Linf"\nepsilon = ["8/255", 0.1]'
    text = TEXT.replace('[[defenses]]\nname = "jpeg"\n', "").replace('"transfer", "exact"', '"exact"')
    both = grid_cells(config(tmp_path, text.replace(table, f'{table}\nnoise = ["fresh", "known"]')))
    assert [cell.threat.noise for cell in both].count("known") == len(both) / 2 == 4
    assert {cell.key for cell in both if cell.threat.noise == "fresh"} == {
        c.key for c in grid_cells(config(tmp_path, text))
    }
    sparse = grid_cells(config(tmp_path, text.replace(table, 'norm = "L1"\nepsilon = [4, 12.0]')))
    assert {(cell.threat.norm, cell.threat.epsilon) for cell in sparse} == {("L1", 4.0), ("L1", 12.0)}
    mistakes = {
        'noise = "secret"': "threat.noise: expected one of 'fresh', 'known', found 'secret'",
        'noise = "known"': "Expected noise='fresh' for jpeg, which draws none to know",
    }
    straight = TEXT.replace('"transfer", "exact"', '"straight_through"')
    for line, said in mistakes.items():
        with pytest.raises(GridFileError, match=said):
            grid_cells(config(tmp_path, straight.replace(table, f"{table}\n{line}")))
    with pytest.raises(GridFileError, match="momentum_pgd attacks in Linf, L2, got norm L1. Use one of apgd_eot"):
        wrong = text.replace(table, 'norm = "L1"\nepsilon = 4').replace('"pgd_eot"', '"momentum_pgd"')
        grid_cells(config(tmp_path, wrong.replace('\nstep_size = "2/255"\neot = 1', "")))
