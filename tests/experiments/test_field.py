"""The tables of every method and of every ingredient: their configs, their costs, and what they say of themselves."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import ardor.methods
from ardor.cli.main import main
from ardor.evaluation.report import Report
from ardor.experiments import table_of
from ardor.experiments.cells import state_of
from ardor.experiments.cost import _teacher
from ardor.experiments.notes import notes, pairs
from ardor.experiments.rows import rows_of
from ardor.experiments.scales import SCALES
from ardor.models import hash_of, load
from ardor.models.teachers import each
from ardor.training.averaging import EMA
from ardor.training.cost import passes_of
from ardor.training.job import Job, method_of, recipe_of
from tests.experiments.conftest import asked, bench, lines_of

CHOSEN = ["--methods", "rslad", "b-mtard"]


def jobs(kind, scale="small"):
    """Each cell with its job, but for the teacher."""
    return {
        cell.row[0]: (cell, Job.from_config(cell.config, teacher=False)) for cell in table_of(asked(kind, scale)).shown
    }


def test_every_method_has_a_row():
    rows = jobs("methods")
    assert {type(job.method).__name__ for _, job in rows.values()} == set(ardor.methods.__all__)
    assert type(rows["igdm-rslad"][1].method.base).__name__ == "RSLAD"
    assert type(rows["igdm-adaad"][1].method.base).__name__ == "AdaAD"
    assert [rows[name][1].method.balance_temperatures for name in ("mtard", "b-mtard")] == [False, True]


def test_the_methods_share_recipe_and_average():
    found = jobs("methods")
    others = [(job.recipe, job.averaging) for name, (_, job) in found.items() if name != "natural"]
    assert all(pair == others[0] for pair in others)
    assert isinstance(others[0][1], EMA)
    assert found["natural"][1].averaging == others[0][1]


@pytest.mark.parametrize("scale", ["smoke", "small"])
def test_what_changes_in_a_run_does_so_within_its_epochs(scale):
    epochs, rows = SCALES[scale].epochs, {name: job.method for name, (_, job) in jobs("methods", scale).items()}
    assert rows["igdm-rslad"].ramp == rows["igdm-adaad"].ramp == rows["saad"].ramp == epochs
    assert rows["iad"].begin == rows["adaiad"].begin == {"smoke": 1, "small": 2}[scale]
    for name in ("mtard", "b-mtard", "absld"):
        assert 1 < rows[name].drops[0] < rows[name].drops[-1] <= epochs
    images = {"smoke": 512, "small": 1213}[scale]
    assert rows["adr"].steps == epochs * -(-images // 64)


def test_each_method_has_the_teachers_it_asks_for(tmp_path):
    table = table_of(asked("methods", folder=tmp_path))
    runs = {
        role: str(tmp_path / "cells" / f"teacher-{kind}" / "s0") for role, kind in (("robust", "sat"), ("natural",) * 2)
    }
    for cell in table.shown:
        kind = type(method_of(cell.config))
        several, needs = getattr(kind, "teachers", ()), vars(kind)["needs_teacher"]
        wanted = {name: runs[name] for name in several} if several else {"name": runs["robust"]} if needs else {}
        assert cell.config.get("teacher", {}) == wanted, cell.name
        assert set(cell.needs) == {f"{Path(run).parent.name}/s0" for run in wanted.values()}, cell.name
    assert len([cell for cell in table.shown if len(cell.needs) == 2]) == 3


def test_the_natural_teacher_is_trained_only_where_a_row_has_it():
    def trained(*methods):
        return [cell.name for cell in table_of(asked("methods", methods=methods)).cells if cell.row[0] == "teacher"]

    assert trained("sat", "adr") == []
    assert trained("kd", "sat") == ["teacher-sat/s0"]
    assert trained("akd2") == ["teacher-natural/s0", "teacher-sat/s0"]


def test_a_plan_gives_a_method_two_teachers_by_name(tmp_path):
    table = table_of(asked("methods", folder=tmp_path, methods=("mtard", "rslad")))
    job = Job.from_config(table.shown[0].config, teacher=False)
    assert set(each(_teacher(table, table.shown[0], job.train))) == {"robust", "natural"}
    assert set(each(_teacher(table, table.shown[1], job.train))) == {""}


@pytest.mark.parametrize("channels", [1, 3])
def test_ingredients_are_alone_and_together(channels):
    shape = (channels, 8, 8)
    cells = table_of(dataclasses.replace(asked("ingredients", "small"), shape=shape)).shown
    rows = {cell.row[0]: recipe_of(cell.config) for cell in cells}
    plain, shift = rows["plain"], "cropshift" if channels == 1 else "cropshift-flip"
    assert {type(method_of(cell.config)).__name__ for cell in cells} == {"RSLAD"}
    assert all(cell.config["averaging"] == {"name": "ema", "decay": 0.995} for cell in cells)
    assert (plain.schedule, plain.lr, plain.optimiser.weight_decay) == ("milestones", 0.1, 2e-4)
    assert plain.augment == ("none" if channels == 1 else "crop-flip")
    cycle = {"schedule": "one-cycle", "lr": 0.2, "optimiser": dataclasses.replace(plain.optimiser, weight_decay=5e-4)}
    late = {} if channels == 1 else {"late": "idbh-weak", "late_from": 5}
    modern = cycle | {"augment": shift} | late
    expected = {
        "plain": {}, "one-cycle, decay 5e-4": cycle, "cropshift": {"augment": shift}, "awp": {"awp": 0.005},
        "erase": {"erase": 0.5}, "cutmix": {"mix": "cutmix"}, "modern": modern, "modern, awp": modern | {"awp": 0.005},
    }  # fmt: skip
    if channels == 3:
        expected["cropshift, then idbh-weak"] = {"augment": shift} | late
    assert rows == {name: dataclasses.replace(plain, **change) for name, change in expected.items()}


def test_the_strong_attack_judges_every_checkpoint():
    (cell,) = table_of(asked("methods", "small", methods=("sat",))).shown
    found = {(e.suite, e.checkpoint) for e in cell.evaluations}
    assert {("autoattack", c) for c in ("averaged", "best", "last")} < found
    assert {("paper", c) for c in ("averaged", "best", "last")} < found


def test_passes_count_the_nets_that_a_method_keeps():
    rows = jobs("methods", "smoke")
    assert sum(passes_of(rows["sat"][1])[:2]) == pytest.approx(23)  # 10 steps of 2 F, and 3 F of learning
    assert sum(passes_of(rows["adr"][1])[:2]) == pytest.approx(24)  # the label of the average, of the student's size
    assert sum(passes_of(rows["lbgat"][1])[:2]) == pytest.approx(20 + 1 + 3 + 3 + 3)  # the natural net learns too


# End to end


@pytest.fixture(scope="session")
def table(shared):
    def make(folder):
        assert bench("methods-digits", *CHOSEN, out=folder) == 0

    return shared("field", make)


def test_the_sheet_has_cost_worst_class_and_each_checkpoint(table):
    lines = {(line["method"], line["checkpoint"], line["figure"]): line for line in lines_of(table, "methods")}
    for checkpoint in ("averaged", "best", "last"):
        path = table / "cells" / "methods-b-mtard" / "s0" / f"report-paper-linf-0.2-{checkpoint}-limit64.json"
        report = Report.load(path)
        assert report.model["hash"] == hash_of(load(path.parent, checkpoint=checkpoint))
        low = min(p.value for p in report.per_class().values())
        assert lines["b-mtard", checkpoint, "worst_class"]["mean"] == f"{low:.5f}"
        assert lines["b-mtard", checkpoint, "clean"]["mean"] == f"{report.clean.value:.5f}"
    assert [float(lines["rslad", "averaged", key]["mean"]) for key in "FT"] == pytest.approx([26, 1])
    assert ("rslad", "best", "gap") in lines
    text = (table / "methods.md").read_text()
    assert "| rslad | 1 of 1 | 26.0 F + 1.0 T |" in text
    assert "shows nothing about differences between rows" in text
    assert "A = b-mtard; B = rslad; under paper" in text
    assert "<svg" not in (table / "methods.html").read_text()


def test_lost_passes_are_counted_again_without_training(table, tmp_path):
    folder = Path(shutil.copytree(table, tmp_path / "copy"))
    run = folder / "cells" / "methods-rslad" / "s0"
    passes, metrics = run / "passes.json", (run / "metrics.jsonl").read_bytes()
    before = json.loads(passes.read_text())
    passes.unlink()
    cells = table_of(asked("methods", folder=folder, methods=("rslad", "b-mtard")))
    assert state_of(cells.spec, cells.shown[0])[0] == "trained"
    assert bench("methods-digits", *CHOSEN, out=folder) == 0
    assert (json.loads(passes.read_text()), (run / "metrics.jsonl").read_bytes()) == (before, metrics)


def test_a_damaged_count_is_refused_with_its_file(table, tmp_path, capsys):
    folder = Path(shutil.copytree(table, tmp_path / "copy"))
    path = folder / "cells" / "methods-rslad" / "s0" / "passes.json"
    path.write_text('{"F": "many"}')
    assert bench("methods-digits", *CHOSEN, out=folder) == 2
    assert "passes.json" in capsys.readouterr().err


def test_rows_are_compared_at_the_average(table):
    cells = table_of(asked("methods", folder=table, methods=("rslad", "b-mtard")))
    rows = rows_of(cells)
    assert len(list(pairs(cells, rows))) == 1
    assert rows[0].checkpoint == "averaged"
    several = notes(asked("methods", seeds=3), [])
    assert not any("nothing about differences" in said for said in several)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["methods-digits", "--methods", "rslda"], 'got "rslda" (did you mean "rslad"?)'),
        (["whitebox-digits", "--methods", "mtard"], 'got "mtard"'),
        (["ingredients-digits", "--methods", "sat"], "got --methods: leave it out"),
        (["methods-digits", "--teacher", "runs/x"], "got --teacher: leave it out"),
    ],
)
def test_words_of_another_table(words, said, capsys, tmp_path):
    assert main(["bench", *words, "--scale", "smoke", "--out", str(tmp_path / "x")]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "x").exists()
