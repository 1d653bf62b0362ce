"""Sweeps: which cells they have, how they are compared, and what is refused before an hour is spent."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from ardor import experiments
from ardor.cli.main import main
from ardor.errors import ConfigError, RunError
from ardor.evaluation.proportion import Proportion
from ardor.experiments import grid, run_sweep
from ardor.experiments.axes import parse_axes, parse_suggestions, require_axes
from ardor.experiments.cell import Cell, Setting
from ardor.experiments.cells import made_by, weights_of
from ardor.experiments.coordinator import Problem
from ardor.experiments.cost import Cost
from ardor.experiments.rows import Value
from ardor.experiments.sweep import enter
from ardor.experiments.sweep_sheet import SweepRow, as_html, best_of, figures_of, notes
from ardor.storage.runs import Run
from ardor.storage.tensors import write_tensors
from tests.browser import PRESENT, objections
from tests.experiments.conftest import contents

CONFIG = {
    "data": {"name": "digits", "limit": 64},
    "student": {"name": "small_cnn", "width": 4},
    "method": {"name": "sat"},
    "threat": {"eps": "0.2"},
    "recipe": {"epochs": 1, "batch": 32, "augment": "none", "val_size": 32, "val_every": 1, "device": "cpu"},
}
WORDS = ["sweep", "sat", "--data", "digits", "--student", "small_cnn", "--student.width", "4", "--data.limit", "64"]
WORDS += ["--recipe.epochs", "1", "--recipe.batch", "32", "--recipe.val_size", "32", "--recipe.val_every", "1"]
WORDS += ["--recipe.device", "cpu"]
OVER = {"recipe.lr": ["0.1", "1/5"], "recipe.seed": ["0", "1"]}


def silent(cell, event):
    pass


# Axes


def test_lists_ranges_and_lists_of_lists():
    words = ["method.alpha=0,1/6,1/2", "recipe.seed=0:3", "recipe.milestones=[1,2],[3]", "student=a:b,c", "--x-y=1"]
    assert parse_axes(words) == {
        "method.alpha": ["0", "1/6", "1/2"], "recipe.seed": ["0", "1", "2"], "recipe.milestones": ["[1,2]", "[3]"],
        "student": ["a:b", "c"], "x_y": ["1"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe.lr"], 'expected an option with values, got "recipe.lr": pass over="recipe.lr'),
        (["recipe.lr="], "expected an option with values"),
        (["recipe.lr=1", "recipe.lr=2"], "expected recipe.lr once, got it twice"),
        (["recipe.seed=3:3"], "expected values of recipe.seed, got none"),
        (["recipe.lr=0.1,"], "expected values of recipe.lr, got none or an empty one"),
        (["recipe.lr=0.5,1/2"], "expected each value of recipe.lr once, got 0.5 twice"),
        (["recipe.seed=0,x"], "expected whole numbers for recipe.seed"),
        (["recipee.lr=1"], r'expected an option of .*, got "recipee.lr" \(did you mean "recipe"\?\)'),
        (["recipe=1"], "expected an option of recipe, got recipe itself"),
        (["data.name=digits"], "expected one data set for all cells, got data.name"),
        (
            ["data=digits,cifar10"],
            "expected one data set for all cells, got data, .*: make a sweep of each, or vary data.l",
        ),
    ],
)
def test_bad_axes(words, message):
    with pytest.raises(ConfigError, match=message.split(": pass")[0]):
        require_axes(parse_axes(words))


def test_suggestions_of_every_kind():
    words = ["method.alpha=0..1", "recipe.lr=log:0.01..3/10", "recipe.epochs=int:5..20", "student=timm:a|b"]
    assert [(s.key, s.kind, s.values) for s in parse_suggestions(words)] == [
        ("method.alpha", "float", (0.0, 1.0)), ("recipe.lr", "log", (0.01, 0.3)), ("recipe.epochs", "int", (5, 20)),
        ("student", "choice", ("timm:a", "b")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("recipe.lr=0.1", "two different choices"),
        ("student=a|a", "two different choices"),
        ("recipe.lr=1..0", "the lower first"),
        ("recipe.lr=log:0..1", "numbers above 0"),
        ("recipe.epochs=int:1..2.5", "whole numbers"),
        ("recipe.lr=lg:1..2", "expected log:LOW..HIGH or int:LOW..HIGH"),
        ("recipe.lr=a..b", "expected a number"),
        ("threat.eps=0..1", "leave the measurement alone"),
        ("recipe.val_size=int:1..9", "leave the measurement alone"),
        ("recipe.seed=int:1..9", "leave the measurement alone"),
        ("data.val=0..1", "one data set for all cells"),
    ],
)
def test_bad_suggestions(word, message):
    with pytest.raises(ConfigError, match=message):
        parse_suggestions([word])


# Cells


def test_cells_are_named_by_their_values_and_the_seed_comes_first(tmp_path):
    over = {"recipe.lr": [0.1, "2/10"], "method.attack.steps": [1, 2], "recipe.seed": range(2)}
    cells = grid(CONFIG, over, tmp_path).cells
    names = [f"lr={lr},steps={steps}/s{seed}" for seed in (0, 1) for lr in ("0.1", "0.2") for steps in (1, 2)]
    assert [cell.name for cell in cells] == names
    assert cells[3].row == ("0.2", "2")
    assert cells[3].config["recipe"] == {**CONFIG["recipe"], "lr": "0.2", "seed": 0}
    assert cells[3].config["method"] == {"name": "sat", "attack": {"steps": "2"}}
    assert not list(tmp_path.iterdir())


def test_a_cell_keeps_its_name_however_its_values_are_written(tmp_path):
    one, two = (grid(CONFIG, {"recipe.lr": [lr]}, tmp_path).cells[0] for lr in ("1/5", 0.2))
    assert (one.name, one.config) == (two.name, two.config)


def test_a_name_as_an_axis_drops_the_options_of_the_other(tmp_path):
    cells = grid(CONFIG, {"student": ["small_cnn", "resnet18"]}, tmp_path).cells
    assert [cell.config["student"] for cell in cells] == [{"name": "small_cnn", "width": 4}, {"name": "resnet18"}]


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"method.stesp": [1]}, "--method.steps|stesp"),
        ({"recipe.lr": ["0.1", "fast"]}, "fast"),
        ({"recipe.schedule": ["one-cycle", "cosin"]}, "cosin"),
        ({"student.width": [4, "wide"]}, "wide"),
        ({"student": ["small_cnn", "smal_cnn"]}, "small_cnn"),
        ({"method": ["sat", "tardes"]}, "trades"),
        ({"student": ["a/b.py:N", "a_b.py:N"]}, "names that differ as folders"),
    ],
)
def test_what_one_cell_refuses_is_refused_before_any_is_made(tmp_path, over, message):
    with pytest.raises(ConfigError, match=message):
        grid(CONFIG, over, tmp_path / "sweep")
    assert not list(tmp_path.iterdir())


def test_the_test_images_choose_nothing(tmp_path):
    paper = {**CONFIG, "data": {"name": "digits", "protocol": "paper"}}
    with pytest.raises(ConfigError, match="expected validation images to choose by, got the test images"):
        grid(paper, OVER, tmp_path)


# The folder


@pytest.mark.parametrize(
    ("config", "over"),
    [
        ({**CONFIG, "threat": {"eps": "0.1"}}, OVER),
        (CONFIG, {"recipe.lr": ["0.1", "1/5"]}),
    ],
)
def test_a_folder_is_of_one_sweep(tmp_path, config, over):
    enter(grid(CONFIG, OVER, tmp_path))
    before = contents(tmp_path)
    with pytest.raises(RunError, match="expected the sweep that .* is of, got another .*: name a new folder"):
        enter(grid(config, over, tmp_path))
    assert contents(tmp_path) == before
    more = {"recipe.lr": ["0.3"], "recipe.seed": range(5)}
    enter(grid({**CONFIG, "recipe": {**CONFIG["recipe"], "device": "auto"}}, more, tmp_path))


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="expected an empty folder or a sweep") as refused:
        enter(grid(CONFIG, OVER, tmp_path))
    assert "name a new folder" in str(refused.value)
    assert "out=" not in str(refused.value), "a parameter that grid does not have"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# The best row


def row(name, shares, of=None, attack="pgd", n=100):
    value = Value(tuple(Proportion(share, n) for share in shares))
    return SweepRow(
        (name,), tuple(range(len(shares))), of or len(shares), frozenset({attack}), {"validation robust": value}
    )


def test_the_best_row_is_of_those_with_every_seed():
    rows = [row("a", [30, 40]), row("b", [36, 36]), row("c", [90], of=2)]
    assert best_of(rows) is rows[1]
    assert best_of([row("a", [], of=2)]) is None


def test_rows_that_were_validated_in_unlike_ways_have_no_best():
    assert best_of([row("a", [30]), row("b", [40], attack="another")]) is None
    assert best_of([row("a", [30]), row("b", [40])]).parts == ("b",)


# The page


def page_of(folder, problems=()):
    sweep = grid(CONFIG, {"recipe.lr": [0.1, 0.2], "recipe.seed": [0, 1]}, folder)
    return as_html(sweep, [row("0.1", [30, 40]), row("<b>0.2", [36, 37])], "ardor sweep '<b>'", problems)


def test_the_page_of_a_sweep_has_every_figure_and_escapes_names(tmp_path):
    cell = Cell("<b>", (), 0, {}, (), ())
    text = page_of(tmp_path, [Problem(cell, "<b>why")])
    assert "<b>" not in text
    assert text.count("&lt;b&gt;") == 5, "command, row, remark, cell and reason"
    assert "36.5 ± 0.7<small>" in text
    assert "2 of 2<small>best</small>" in text
    assert 'download="sweep.csv"' in text
    assert text.count("<pre>ardor train --data=digits") == 4
    assert not re.search(r"https?:|src=|<link|@import|url\(", text)


@pytest.mark.skipif(not PRESENT, reason="no chromium with chromedriver")
def test_axe_has_no_objection_to_the_page(axe, tmp_path):
    (tmp_path / "sweep.html").write_text(page_of(tmp_path / "sweep"), encoding="utf-8")
    assert objections(tmp_path / "sweep.html", axe, tmp_path) == []


# A whole sweep


@pytest.fixture(scope="session")
def swept(shared):
    def make(folder):
        words = ["--over", "recipe.lr=0.1,1/5", "--over", "recipe.seed=0:2", "--out", str(folder)]
        assert main([*WORDS, *words]) == 0

    return shared("swept", make)


@pytest.fixture
def mine(swept, tmp_path):
    return Path(shutil.copytree(swept, tmp_path / "mine"))


def lines(folder):
    return list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))


def again(folder, *words):
    return main([*WORDS, "--over", "recipe.lr=0.1,1/5", "--over", "recipe.seed=0:2", "--out", str(folder), *words])


def test_the_figures_are_those_of_the_runs(swept):
    table = lines(swept)
    assert [(line["lr"], line["figure"]) for line in table] == [
        (lr, f"validation {of}") for lr in ("0.1", "0.2") for of in ("clean", "robust")
    ]  # fmt: skip
    for line in table:
        runs = [Run(swept / "cells" / f"lr={line['lr']}" / f"s{seed}") for seed in (0, 1)]
        key = f"val_{line['figure'].split()[1]}"
        each = [run.metrics()[-1][key] for run in runs]
        assert [float(share) for share in line["values"].split()] == pytest.approx(each, abs=1e-5)
        assert float(line["mean"]) == pytest.approx(sum(each) / 2, abs=1e-5)
        assert (line["n"], line["seeds"]) == ("32", "2")
    robust = {line["lr"]: float(line["mean"]) for line in table if line["figure"] == "validation robust"}
    assert {line["lr"] for line in table if line["best"]} == {max(robust, key=robust.get)}
    assert not list(swept.glob("cells/*/*/report-*")), "the test images are not touched"
    text = (swept / "sweep.md").read_text()
    assert "Best on the validation images, of 2 rows" in text
    assert "PGD (threat Linf (eps 0.2), steps 10" in text


def test_a_finished_sweep_is_not_made_again(mine):
    before = contents(mine / "cells")
    assert again(mine) == 0
    assert contents(mine / "cells") == before


def test_a_missing_cell_is_made_and_the_table_is_the_same(mine, swept):
    shutil.rmtree(mine / "cells" / "lr=0.2" / "s1")
    (mine / "cells" / "lr=0.2" / "s1.yaml").unlink()
    assert again(mine, "--only", "lr=0.2/s1") == 0
    assert again(mine) == 0
    assert (mine / "sweep.csv").read_bytes() == (swept / "sweep.csv").read_bytes()


def test_a_suite_evaluates_the_best_row_alone_and_stays_in_the_table(mine):
    best = next(line["lr"] for line in lines(mine) if line["best"])
    assert again(mine, "--suite", "apgd") == 0
    reports = list(mine.glob("cells/*/*/report-*.json"))
    assert {path.parts[-3] for path in reports} == {f"lr={best}"}
    assert len(reports) == 2
    assert {json.loads(path.read_text())["data"]["part"] for path in reports} == {"test"}
    tested = [line for line in lines(mine) if line["figure"].startswith("test")]
    assert [(line["lr"], line["figure"], line["n"]) for line in tested] == [
        (best, "test clean", "449"), (best, "test apgd", "449")
    ]  # fmt: skip
    before = (mine / "sweep.csv").read_bytes()
    assert again(mine) == 0
    assert (mine / "sweep.csv").read_bytes() == before
    assert "these took no part in the choice" in (mine / "sweep.md").read_text()


def test_a_diverged_cell_is_named_and_the_others_are_compared(tmp_path):
    sweep = grid(CONFIG, {"recipe.lr": ["0.1", "1e30"]}, tmp_path)
    paths, (problem,) = run_sweep(sweep, "a command", silent)
    assert problem.cell.name == "lr=1e+30/s0"
    assert [line["lr"] for line in csv.DictReader(paths[0].read_text().splitlines())] == ["0.1", "0.1"]
    assert "1e+30/s0" in paths[1].read_text()


def test_a_sweep_over_seeds_alone_is_one_row(tmp_path):
    paths, problems = run_sweep(grid(CONFIG, {"recipe.seed": [0, 1]}, tmp_path), "a command", silent)
    assert problems == []
    assert [line["seeds"] for line in csv.DictReader(paths[0].read_text().splitlines())] == ["2", "2"]
    assert (tmp_path / "cells" / "sweep" / "s1").is_dir()


def test_a_sweep_over_the_radius_has_no_best(tmp_path):
    sweep = grid(CONFIG, {"threat.eps": ["0.1", "0.2"]}, tmp_path)
    run_sweep(sweep, "a command", silent)
    rows = figures_of(sweep)
    assert best_of(rows) is None
    assert any("validated in unlike ways" in note for note in notes(sweep, rows))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected --over or --trials, got neither"),
        (["--over", "recipe.lr=1,2", "--trials", "3"], "got both"),
        (["--trials", "3"], "expected --suggest with --trials, got none"),
        (["--trials", "0", "--suggest", "recipe.lr=0..1"], "expected at least one trial"),
        (["--over", "recipe.lr=1,2", "--suggest", "recipe.lr=0..1"], "expected --trials with --suggest"),
        (["--trials", "3", "--suggest", "recipe.lr=0..1", "--only", "x"], "expected --only with --over"),
        (["--trials", "3", "--suggest", "recipe.lrr=0..1"], "--recipe.lr"),
        (["--trials", "3", "--suggest", "recipe.epochs=0..1"], "recipe.epochs"),
        (["--over", "recipe.lr=1,2", "--every"], "expected --suite with --every"),
        (["--over", "recipe.lr=1,2", "--suite", "papr"], '(did you mean "paper"?)'),
        (["--over", "recipe.lr=1,2", "--only", "lr=1/s1"], '(did you mean "lr=1/s0"?)'),
        (["--over", "method.alpah=1,2"], "method.al"),
    ],
)
def test_bad_words_are_one_sentence_and_write_no_cell(tmp_path, capsys, words, message):
    assert main([*WORDS, *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "cells").exists()


def test_a_plan_names_every_cell_and_writes_nothing(tmp_path, capsys):
    words = ["--over", "recipe.lr=0.1,0.2", "--out", str(tmp_path / "out"), "--plan"]
    assert main([*WORDS, *words]) == 0
    out = capsys.readouterr().out
    assert "lr=0.1/s0" in out
    assert "lr=0.2/s0" in out
    assert not list(tmp_path.iterdir())


def test_a_plan_has_the_cost_of_the_suite(mine, capsys, monkeypatch):
    """It was 0 s: the suite is run on the best row, which is not known before."""
    best = next(line["lr"] for line in lines(mine) if line["best"])
    of, costs = experiments.plan, []
    monkeypatch.setattr(experiments, "plan", lambda *table: costs.extend(of(*table)) or costs)
    assert again(mine, "--suite", "apgd", "--plan") == 0
    assert [(cost.cell.row, cost.train, cost.evaluate > 0) for cost in costs] == [((best,), 0, True)] * 2

    def plan(table, progress):
        return [Cost(cell, 600.0, 60.0 * (1 + cell.seed) * len(cell.evaluations)) for cell in table.cells]

    monkeypatch.setattr(experiments, "plan", plan)
    shutil.rmtree(mine / "cells" / "lr=0.1" / "s0")
    capsys.readouterr()
    assert again(mine, "--suite", "apgd", "--plan", "--on", "ray") == 0
    out = capsys.readouterr().out
    assert "by one process on this machine (--on ray makes several at once): train 40 min" in out
    assert "attacks at most 3 min, of the nets of the best row. The same" in out
    assert again(mine, "--suite", "apgd", "--every", "--plan") == 0
    assert "on this machine: train 40 min, attacks at most 6 min. The same" in capsys.readouterr().out
    assert again(mine, "--plan") == 0
    assert "attacks at most 0 s. The same" in capsys.readouterr().out


@pytest.mark.parametrize("named", [[], ["--student", "small_cnn"]])
def test_without_out_the_folder_has_the_names_of_the_recipe(tmp_path, capsys, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    enough = ["--over", "recipe.lr=0.1,0.2", "--only", "lr=0.1/s9"]
    assert main(["sweep", "sat", "--data", "digits", *named, *enough]) == 2
    assert '(did you mean "lr=0.1/s0"?)' in capsys.readouterr().err
    assert (tmp_path / "runs" / "sweep" / "sat-small_cnn-digits" / "sweep.yaml").is_file()


def test_the_help_of_a_recipe_has_its_values(capsys):
    assert main(["sweep", "sat", "--data", "digits", "--method", "trades", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--method.beta" in out
    assert "--recipe.lr" in out
    assert "--over" in out


def test_without_ray_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["--over", "recipe.lr=0.1,0.2", "--on", "ray", "--out", str(tmp_path / "out")]
    assert main([*WORDS, *words]) == 2
    error = capsys.readouterr().err
    assert "ray" in error
    assert "ardor[ray]" in error
    assert not (tmp_path / "out").exists()


def test_a_cell_is_made_from_each_teachers_checkpoint_and_from_all_code_of_its_config(tmp_path):
    """A teacher with options raised a TypeError, `last` had the hash of `best`, and an optimiser's file had none."""
    run, code = tmp_path / "run", tmp_path / "own.py"
    run.mkdir()
    for checkpoint in ("best", "last"):
        write_tensors(run / f"{checkpoint}.safetensors", {"w": torch.tensor(float(checkpoint == "last"))}, {})
    (tmp_path / "net.pt").write_text("net")
    code.write_text("a = 1")
    config = {
        "teacher": {"robust": {"name": str(run), "checkpoint": "last"}, "natural": str(tmp_path / "net.pt")},
        "recipe": {"optimiser": {"name": f"{code}:Mine"}, "schedule": f"{code}:half"},
    }

    def made(config):
        return made_by(Setting(folder=tmp_path), Cell("h/s0", ("h",), 0, config))

    first = made(config)
    assert first["teacher's weights"] == [weights_of(str(tmp_path / "net.pt")), weights_of(str(run), "last")]
    assert made({"teacher": {"name": str(run), "checkpoint": "last"}})["teacher's weights"] == [
        weights_of(str(run), "last")
    ]
    code.write_text("a = 2")
    assert first["code"] != made(config)["code"]
