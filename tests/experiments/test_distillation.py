"""The table of distillation: what its rows share and differ in, what it says, and what it refuses."""

import csv
import dataclasses
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import ardor.training.cost
from ardor.cli.main import main
from ardor.data import load
from ardor.deployment.leaderboard import ENTRY, load_entry
from ardor.evaluation.checks.attacks import of_report
from ardor.evaluation.report import Report
from ardor.experiments import table_of, worker
from ardor.experiments.cells import state_of
from ardor.experiments.cost import Speed, _cached, _speed
from ardor.experiments.distillation import Declared, declared_of, epochs_for, parse_shares
from ardor.experiments.pairing import verdicts
from ardor.experiments.rows import Row, Value
from ardor.experiments.sheet import facts
from ardor.experiments.shown import against_rslad, against_sat, at_last, best_and_last, shown
from ardor.experiments.tables import spec_of
from ardor.models import hash_of, zoo
from ardor.models import load as load_net
from ardor.storage.runs import Run
from ardor.training.job import Job, method_of, recipe_of
from ardor.types import uses_labels
from tests.engine.conftest import net
from tests.evaluation.comparison.conftest import config, report
from tests.experiments.conftest import bench, lines_of

TEACHER = {"name": "runs/teacher"}
COLOUR = (3, 32, 32)


def declared(**changes):
    words = {"name": "", "options": {}, "labels": None, "recipe": {}, "attack": {}, "judged": None}
    return declared_of(**(words | changes))


def spec(folder="bench", scale="small", count=10_000, shape=COLOUR, seeds=1, **changes):
    sizes = {key: changes.pop(key) for key in ("limit_test", "limit_attack", "methods") if key in changes}
    made = spec_of(
        "distillation", scale, "npz:x.npz", "8/255", Path(folder), teacher=TEACHER, seeds=seeds,
        declared=declared(**changes), **sizes,
    )  # fmt: skip
    return dataclasses.replace(made, count=count, shape=shape)


def cells(**changes):
    return {cell.row[1:]: cell for cell in table_of(spec(**changes)).cells}


# The rows


def test_rows():
    found = cells()
    assert list(found) == [
        ("natural", "100 %"), ("sat", "100 %"), ("sat", "20 %"), ("sat", "4 %"), ("trades", "100 %"),
        ("ard", "100 %"), ("rslad", "none"), ("variance_gap", "none"), ("igdm-rslad", "none"), ("adaad", "none"),
        ("modern", "none"),
    ]  # fmt: skip
    for (name, labels), cell in found.items():
        method = method_of(cell.config)
        assert uses_labels(method) == (labels != "none"), name
        assert cell.config.get("teacher", {}) == ({} if name in ("natural", "sat", "trades") else TEACHER), name
        assert cell.config["student"] == {"name": "wide_resnet", "depth": 10, "width": 1}


def test_one_recipe_and_one_average_for_all():
    found = cells(recipe={"epochs": "12", "batch": "128", "precision": "bfloat16"}, attack={"steps": "5"})
    plain = recipe_of(found["rslad", "none"].config)
    assert (plain.epochs, plain.batch, plain.precision, plain.schedule) == (12, 128, "bfloat16", "one-cycle")
    assert (plain.optimiser.weight_decay, plain.augment, plain.val_every) == (5e-4, "crop-flip", 1)
    for (name, labels), cell in found.items():
        recipe = recipe_of(cell.config)
        same = dataclasses.replace(recipe, epochs=12, val_every=1)
        if name == "modern":
            assert (recipe.augment, recipe.late, recipe.late_from) == ("cropshift-flip", "idbh-weak", 7)
            same = dataclasses.replace(same, augment="crop-flip", late=None, late_from=1)
        if name == "igdm-rslad":
            assert (recipe.precision, recipe.teacher_precision) == ("float32", "float32")
            same = dataclasses.replace(same, precision="bfloat16")
        assert same == plain, (name, labels)
        assert cell.config["averaging"] == {"name": "ema", "decay": 0.995}
        if name != "natural":
            assert method_of(cell.config).attack.steps == 5, name


def test_fewer_labels_at_equal_steps():
    found = cells(recipe={"epochs": "20", "batch": "128", "val_every": "2"}, labels=["1,0.2,0.04"])
    steps = {}
    for share, name in ((1, "100 %"), (0.2, "20 %"), (0.04, "4 %")):
        cell = found["sat", name]
        recipe, images = recipe_of(cell.config), cell.config["data"]["limit"]
        assert images == round(share * 10_000)
        steps[name] = recipe.epochs * math.ceil(images / 128)
        assert recipe.epochs / recipe.val_every == pytest.approx(10, abs=0.2), "as many validations"
    assert steps == {"100 %": 1580, "20 %": 1584, "4 %": 1580}
    assert found["rslad", "none"].config["data"]["limit"] == 10_000


@pytest.mark.parametrize(
    ("images", "count", "epochs"), [(400, 10_000, 20), (1800, 45_000, 10), (1, 5, 1), (48, 1213, 15)]
)
def test_equal_steps_to_half_an_epoch(images, count, epochs):
    wanted = math.ceil(count / 128) * epochs
    assert abs(epochs_for(images, count, epochs, 128) * math.ceil(images / 128) - wanted) <= math.ceil(images / 128) / 2


def test_what_a_method_ramps_follows_the_run():
    found = cells(recipe={"epochs": "12"})
    assert method_of(found["igdm-rslad", "none"].config).ramp == 12


def test_the_part_of_the_images_is_stratified_and_the_same_for_every_seed():
    made = spec(seeds=2, methods=("sat",), count=1213, shape=(1, 8, 8), labels=["0.04"])
    parts = [cell.config["data"] for cell in table_of(made).cells if cell.row[2] == "4 %"]
    assert len(parts) == 2
    assert parts[0] == parts[1]
    train = load("digits", **{key: value for key, value in parts[0].items() if key != "name"})[0]
    assert len(train) == 49
    assert train.labels.bincount().min() >= 4


def test_students_and_images():
    widths = spec(name="wide_resnet", options={"depth": "10", "width": ["1", "2,4"]})
    assert list(widths.declared.nets(COLOUR)) == ["wide_resnet-10-1", "wide_resnet-10-2", "wide_resnet-10-4"]
    assert len(table_of(widths).cells) == 33
    assert len({cell.name for cell in table_of(widths).cells}) == 33
    assert list(spec().declared.nets((1, 8, 8))) == ["small_cnn-8"]


def test_sizes():
    assert (spec().scale.epochs, spec().scale.limit, spec().scale.attack_limit) == (20, 1000, 1000)
    typed = spec(limit_test=300, limit_attack=200, recipe={"epochs": "7"}).scale
    assert (typed.epochs, typed.limit, typed.attack_limit) == (7, 300, 200)
    assert (spec(scale="smoke").scale.limit, spec(scale="smoke").scale.attack) == (64, "apgd")


def test_the_strong_attack_judges_what_is_asked():
    def judged(words):
        cell = cells(methods=("sat",), judged=words)["sat", "100 %"]
        return [(e.suite, e.checkpoint) for e in cell.evaluations if e.suite in ("paper", "autoattack")]

    assert judged(None) == [
        ("paper", "averaged"), ("autoattack", "averaged"), ("paper", "best"), ("paper", "last")
    ]  # fmt: skip
    assert [c for s, c in judged(["last", "best"]) if s == "autoattack"] == ["last", "best"]
    assert [c for s, c in judged(["last", "best"]) if s == "paper"] == ["last", "best", "averaged"]


def test_shares():
    assert parse_shares(["0.04", "1/5"]) == (1.0, 0.2, 0.04)
    assert Declared().shares == (1.0, 0.2, 0.04)


# The plan


def test_a_plan_leaves_out_the_labels_that_earlier_cells_have_cached():
    job = Job.from_config({"data": {"name": "digits"}, "student": {"name": "small_cnn"}, "recipe": {"augment": "none"}})
    speed, before = Speed(1.0, 0.5, 0.1, "table", job), {}
    assert _cached(speed, 20, before) == 19
    assert _cached(speed, 20, before) == 20
    assert _cached(dataclasses.replace(speed, table=""), 20, before) == 0


def test_a_step_is_measured_as_the_loop_computes_it(monkeypatch):
    """At the recipe's batch and in its precision."""
    seen, original = [], ardor.training.cost.train_epoch

    def spy(state, teacher, train, recipe, epoch):
        seen.append(recipe)
        return original(state, teacher, train, recipe, epoch)

    monkeypatch.setattr(ardor.training.cost, "train_epoch", spy)
    recipe = {"batch": "32", "precision": "bfloat16", "attack_precision": "bfloat16"}
    table = table_of(
        dataclasses.replace(spec(recipe=recipe, methods=("sat",), count=0, shape=(1, 8, 8)), data="digits", train=64)
    )
    speed = _speed(table, table.cells[0])
    assert {(r.batch, r.precision, r.attack_precision) for r in seen[-3:]} == {(32, "bfloat16", "bfloat16")}
    assert (speed.table, speed.label) == ("", 0)
    assert 0 < speed.attack < speed.step


def test_a_named_teacher_is_examined_once_without_and_once_with_a_student(monkeypatch):
    table, examined, done = table_of(spec(methods=("sat", "rslad", "modern"))), [], set()
    monkeypatch.setattr(worker, "_PASSED", set())
    told = []

    def gate_of(job, student, progress):
        progress("PGD-20", 2, 4)
        examined.append(student)
        return {}

    monkeypatch.setattr(worker, "gate_of", gate_of)
    monkeypatch.setattr(worker, "state_of", lambda _, cell: ("done" if cell.name in done else "open", ""))
    monkeypatch.setattr(worker.models, "load", lambda run: run)
    job = SimpleNamespace(teacher=net(1), gate=True)
    sat, *_, rslad, modern = table.cells

    def tell(cell, event):
        told.append((cell, event.attack, event.done, event.todo))

    for cell in (rslad, modern):
        worker._require_teacher(table, cell, job, tell)
    done.add(sat.name)
    for cell in (rslad, modern):
        worker._require_teacher(table, cell, job, tell)
    worker._require_teacher(table, modern, SimpleNamespace(teacher=net(2), gate=True), tell)
    run = table.spec.run(sat.name)
    assert examined == [None, run, run]
    assert told[0] == (rslad, "teacher, PGD-20", 2, 4)


# What it shows

N = 1000


def rows(seeds=3, checkpoints=("averaged", "best", "last"), suite="autoattack", **right):
    """Rows by the number of images that they have right in each seed."""
    made = []
    for checkpoint in checkpoints:
        for name, count in right.items():
            method, labels = {"sat": ("sat", "100 %"), "sat4": ("sat", "4 %")}.get(name, (name, "none"))
            count -= 150 * (checkpoint == "last" and name == "sat")
            reports = []
            for seed in range(seeds):
                robust = "".join("r" if i < count + seed else "b" for i in range(N))
                training = config(seed, method, data={"limit": labels})
                reports.append(report(robust, f"{name}{seed}{checkpoint}", training, suite=suite))
            row = Row(("net", method, labels), checkpoint, tuple(range(seeds)), seeds, reports={suite: reports})
            row.values = {suite: Value(tuple(r.figures()["worst_case"] for r in reports))}
            made.append(row)
    return made


def sentences(seeds=3, **right):
    return list(shown(table_of(spec(seeds=seeds)), rows(seeds, **right)))


def test_only_shown_differences_have_a_side():
    found = sentences(sat=300, sat4=100, rslad=302)
    robust = [text for text in found if text.startswith("Robust under autoattack")]
    assert len(robust) == 3
    assert "sat with 4 % of the labels is shown behind sat with 100 % of the labels: -20.0 points [" in robust[0]
    assert "rslad without labels is shown ahead of sat with 4 % of the labels: +20.2 points [" in robust[1]
    assert "by Holm" in robust[1]
    assert "no difference is shown" in robust[2]
    assert re.search(r": rslad without labels less sat with 100 % of the labels \+0\.2 \(\d\.\d\)\.$", robust[2])
    (clean,) = [text for text in found if text.startswith("Clean: ")]
    assert clean.count(" less ") == 3


def test_robust_overfitting_is_the_last_checkpoint_behind_the_best():
    found = sentences(sat=300, rslad=302)
    assert any(
        text.startswith("Robust overfitting of sat with 100 % of the labels: its last checkpoint is shown behind")
        for text in found
    )
    assert (
        found[-1] == "No robust overfitting is shown (last less best checkpoint, in points): rslad without labels +0.0."
    )


def test_rows_are_compared_at_the_last_checkpoint_in_a_family_of_its_own():
    """SAT's last checkpoint is 150 images behind its best: only there RSLAD is ahead."""
    table, made = table_of(spec(seeds=3)), rows(natural=0, sat=300, rslad=302)
    found = [text for text in shown(table, made) if "last checkpoint under" in text]
    assert found == [text for text in found if "rslad" in text]
    assert found[0].startswith(
        "Robust at the last checkpoint under autoattack: rslad without labels is shown ahead of sat with 100 % of the "
        "labels: +15.2 points ["
    )
    assert len(found) == 1
    assert {pair.row.checkpoint for pair in at_last(table, made)} == {"last"}
    assert at_last(table, rows(checkpoints=("last", "best"), sat=300, rslad=302)) == []
    assert at_last(table, []) == []


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_show_nothing(seeds):
    (only,) = sentences(seeds, sat=300, rslad=900)
    assert only.startswith("Nothing about the methods: 3 seeds at least are needed")


def test_an_unfinished_table_says_how_many_comparisons_are_missing():
    table, made = table_of(spec(seeds=3)), rows(2, sat=300, rslad=900)
    assert next(iter(shown(table, made))) == "1 of 1 comparisons with sat have fewer than 3 seeds, or allow no claim."
    assert "ahead" not in " ".join(shown(table, made))
    assert list(shown(table, [])) == []


def test_comparisons_are_within_a_student_and_a_checkpoint():
    table, made = table_of(spec(seeds=3)), rows(sat=300, sat4=100, rslad=302)
    others = [dataclasses.replace(row, parts=("other", *row.parts[1:])) for row in made]
    paired = against_sat(table, [*made, *others])
    assert len(paired) == 6
    assert all(pair.row.parts[0] == pair.other.parts[0] for pair in paired)
    assert {pair.row.checkpoint for pair in paired} == {"averaged"}
    assert all(pair.row.parts == pair.other.parts for pair in best_and_last(table, [*made, *others]))
    assert any(
        "under autoattack: other, rslad without labels is shown" in text for text in shown(table, [*made, *others])
    )


def test_what_is_added_to_rslad_is_compared_with_it_in_a_family_of_its_own():
    table, made = table_of(spec(seeds=3)), rows(sat=300, rslad=302, variance_gap=402, modern=303)
    assert [(pair.row.parts[1], pair.other.parts[1]) for pair in against_rslad(table, made)] == [
        ("variance_gap", "rslad"),
        ("modern", "rslad"),
    ]
    found = [text for text in shown(table, made) if "less rslad without" in text or "of rslad without" in text]
    assert found[0].startswith("Robust under autoattack: variance_gap without labels is shown ahead of rslad without")
    assert "modern without labels less rslad without labels +0.1 (" in found[1]
    assert len(found) == 2
    fewer = [row for row in made if row.parts[1] != "rslad"]
    assert against_rslad(table, fewer) == []
    assert against_rslad(table, []) == []


def test_the_family_for_holm_is_the_whole_table():
    """A difference that one comparison would show is none of many."""
    table = table_of(spec(seeds=3))
    alone = " ".join(shown(table, rows(sat=300, rslad=307)))
    assert "Robust under autoattack: rslad without labels is shown ahead" in alone
    many = {f"m{i}": 300 for i in range(40)}
    assert "Robust under autoattack: rslad without labels is shown" not in " ".join(
        shown(table, rows(sat=300, rslad=307, **many))
    )


def test_comparisons_that_allow_no_claim_count_in_the_family():
    """The sentences and the paired list correct over the same comparisons; Square alone stops most of them here."""
    table, many = table_of(spec(seeds=3)), {f"m{i}": 300 for i in range(40)}
    made = rows(sat=300, rslad=307, **many)
    for row in made:
        alone = 10 if row.parts[1] in many else 0
        row.reports["autoattack"] = [with_square(r, alone) for r in row.reports["autoattack"]]
    paired = against_sat(table, made)
    assert sum(bool(pair.comparison.doubts) for pair in paired) == 40
    in_list = [text for text in verdicts(paired) if "rslad" in text]
    assert "by Holm over 41 comparisons" in in_list[0]
    assert "No difference shown between the methods" in in_list[0]
    (sentence,) = [text for text in shown(table, made) if text.startswith("Robust under autoattack")]
    assert "no difference is shown" in sentence
    assert ": rslad without labels less sat with 100 % of the labels +0.7 (" in sentence


def test_comparisons_of_two_seeds_count_in_the_sentences_as_in_the_list():
    table, made = table_of(spec(seeds=3)), rows(sat=300, rslad=307)
    made += [row for row in rows(2, trades=400, ard=400, adaad=400, modern=400) if row.parts[1] != "sat"]
    paired = against_sat(table, made)
    (in_list,) = [text for text in verdicts(paired) if "rslad" in text]
    (sentence,) = [text for text in shown(table, made) if text.startswith("Robust under autoattack: rslad")]
    assert "by Holm over 5 comparisons" in in_list
    assert "The method of A stands" in in_list
    assert "is shown ahead" in sentence
    assert re.search(r"\(([0-9.]+) by Holm", in_list)[1] == re.search(r"p = ([0-9.]+) by Holm", sentence)[1]


def with_square(made, count):
    """The report with `count` images that Square alone breaks."""
    before = made.verdicts["pgd"]
    after = before.replace("r", "b", count)
    made = dataclasses.replace(
        made, verdicts={**made.verdicts, "square": after}, attacks={**made.attacks, "square": {"name": "Square"}}
    )
    return dataclasses.replace(made, findings=of_report(made))


def test_the_head_has_the_figures_of_a_teacher_of_the_package():
    made = dataclasses.replace(spec(), teacher={"name": "ardor:digits-cnn32-sat"})
    worst = load_entry(zoo.folder_of("ardor:digits-cnn32-sat") / ENTRY).report.worst_case
    (line,) = [line for line in facts(table_of(made), []) if line.startswith("the teacher, ")]
    assert f"the teacher, autoattack: clean 99.1, robust {100 * worst.value:.1f} [" in line
    assert line.endswith(" % of 449 images")


# By the shell

OPTIONS = ["--methods", "natural", "sat", "rslad", "--labels", "1,0.2", "--method.attack.steps", "2"]


@pytest.fixture(scope="session")
def made(shared, finished):
    teacher = finished / "cells" / "teacher-sat" / "s0"

    def make(folder):
        words = ["--teacher", str(teacher), *OPTIONS, "--recipe.teacher_precision", "bfloat16"]
        assert bench("distillation-digits", *words, out=folder) == 0

    return shared("distillation", make)


def test_the_whole_table(made, finished):
    lines = {
        (line["method"], line["labels"], line["checkpoint"], line["figure"]): line
        for line in lines_of(made, "distillation")
    }
    run = made / "cells" / "distillation-small_cnn-8-rslad-none" / "s0"
    for checkpoint, name in (("averaged", "apgd"), ("last", "clean"), ("averaged", "worst_class"), ("best", "gap")):
        assert ("rslad", "none", checkpoint, name) in lines
    judged = Report.load(run / "report-apgd-linf-0.2-averaged-limit16.json")
    assert lines["rslad", "none", "averaged", "apgd"]["mean"] == f"{judged.figures()['worst_case'].value:.5f}"
    assert judged.model["hash"] == hash_of(load_net(run, checkpoint="averaged"))
    assert [float(lines["rslad", "none", "averaged", key]["mean"]) for key in "FT"] == pytest.approx([10, 1])
    assert Run(run).config["recipe"]["teacher_precision"] == "bfloat16"
    text = (made / "distillation.md").read_text()
    assert "student small_cnn-8: 8,610 parameters" in text
    assert "| passes | clean (n = 64) | apgd (n = 16) | paper (n = 64) | fgsm (n = 64) |" in text
    whole = Report.load(run / "report-paper-linf-0.2-last-limit64.json")
    assert lines["rslad", "none", "last", "paper"]["mean"] == f"{whole.figures()['worst_case'].value:.5f}"
    assert "selected on 135 validation images under PGD (threat Linf (eps 0.2), steps 10" in text
    assert "sat 20 %: 102 images, 12 epochs, 24 steps" in text
    assert "Nothing about the methods" in text
    own = Report.load(next((finished / "cells" / "teacher-sat" / "s0").glob("report-paper-*.json")))
    worst = own.figures()["worst_case"]
    assert f"robust {100 * worst.value:.1f} [" in next(
        line for line in text.splitlines() if "the teacher, paper" in line
    )
    assert "A = small_cnn-8 rslad none; B = small_cnn-8 sat 20 %; under apgd" in text
    page = (made / "distillation.html").read_text()
    assert page.count("<svg") == 2 + 4, "labels; radius and a trend of each row"
    assert (made / "distillation.png").read_bytes().startswith(b"\x89PNG")


def test_more_rows_keep_the_finished_cells(made, finished, tmp_path):
    table = table_of(
        dataclasses.replace(
            spec_of(
                "distillation-digits", "smoke", None, None, made,
                teacher={"name": str(finished / "cells" / "teacher-sat" / "s0")},
                declared=declared(recipe={"teacher_precision": "bfloat16"}, attack={"steps": "2"}),
            ).with_images()
        )
    )  # fmt: skip
    states = {cell.row[1:]: state_of(table.spec, cell)[0] for cell in table.cells}
    assert states["rslad", "none"] == states["sat", "20 %"] == "done"
    assert states["sat", "4 %"] == states["modern", "none"] == "open"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["distillation-digits"], "expected --teacher with a strong teacher, got none"),
        (["distillation-digits", "--teacher", "runs/none"], "runs/none"),
        (["distillation-digits", "--teacher", "x", "--labels", "2"], "expected shares of the labels above 0"),
        (["distillation-digits", "--teacher", "x", "--labels", "0.2,0.2"], "expected each share once"),
        (["distillation-digits", "--teacher", "x", "--labels", "half"], "expected a number"),
        (["distillation-digits", "--teacher", "x", "--methods", "rsald"], 'got "rsald" (did you mean "rslad"?)'),
        (["distillation-digits", "--teacher", "x", "--autoattack", "lsat"], 'got "lsat" (did you mean "last"?)'),
        (["distillation-digits", "--teacher", "x", "--recipe.seed", "3"], "type --seeds 3"),
        (["distillation-digits", "--teacher", "x", "--recipe.epoch", "3"], "recipe.epoch"),
        (["distillation-digits", "--teacher", "x", "--student.width", "4"], "expected --student with a name"),
        (["distillation-digits", "--teacher", "x", "--limit_attack", "0"], "expected at least one test image"),
        (["distillation-digits", "--teacher", "x", "--method.alpha", "1"], "got --method.alpha"),
        (["whitebox-digits", "--labels", "0.2"], "expected only options that whitebox uses, got --labels"),
        (["methods-digits", "--recipe.epochs", "3"], "expected only options that methods uses, got --recipe.epochs"),
        (["alpha-digits", "--limit_test", "3"], "got --limit_test"),
    ],
)  # fmt: skip
def test_what_is_refused(words, said, capsys, tmp_path):
    assert main(["bench", *words, "--scale", "smoke", "--out", str(tmp_path / "x")]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "x" / "cells").exists()


def test_a_table_is_refused_at_full_scale(capsys, tmp_path):
    words = ["--teacher", "x", "--scale", "full", "--out", str(tmp_path)]
    assert main(["bench", "distillation-digits", *words]) == 2
    assert "expected --scale smoke or small" in capsys.readouterr().err


def test_csv_is_read_back(made):
    with (made / "distillation.csv").open() as file:
        head = next(csv.reader(file))
    assert head[:4] == ["student", "method", "labels", "checkpoint"]
