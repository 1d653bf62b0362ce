"""Foreign and failed cells, bad words and bad teachers: a refusal of the bench loses nothing; its plan."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
import yaml

from ardor import data
from ardor.cli.main import main
from ardor.experiments import plan, table_of, work
from ardor.experiments.cells import made_by, note_of, pending, report_path, state_of
from ardor.storage.config import merged
from ardor.storage.recipes import find_recipe
from ardor.storage.tensors import read_tensors, write_tensors
from tests.experiments.conftest import ROW, asked, bench, contents, lines_of, table_in

# Foreign and failed cells


def edited(folder, name, change):
    path = folder / "cells" / f"{name}.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def to_be_made(folder):
    """Let something be missing after the foreign cell, so that it can be seen that the others are made."""
    path = folder / "cells" / "rslad-resnet18" / "s0" / "report-paper-linf-0.2-last-limit64.json"
    path.unlink()
    return path


def only_sentence(capsys):
    said = capsys.readouterr().err.strip()
    assert said.startswith("ardor: ")
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c["made"]["config"]["recipe"].update(lr=0.3), "lr"),
        (lambda c: c["made"].update({"ardor": "0.0.1"}), "0.0.1"),
        (lambda c: c["made"]["config"].update(teacher={"name": "runs/other"}), "teacher"),
        (lambda c: c["made"]["config"]["data"].pop("limit"), "limit"),
        (lambda c: c.clear(), "ardor"),
        (lambda c: c.update(made="x"), "keys with values as made"),
        (lambda c: c.update(failed=3), "text as failed"),
        (lambda c: c.update(trained="no"), "true or false as trained"),
    ],
)
def test_a_foreign_cell_is_named_and_left_alone_while_the_others_are_made(copy, capsys, change, named):
    edited(copy, "natural-resnet18/s0", change)
    missing = [to_be_made(copy)] if named == "lr" else []  # seconds of attacks: once, as no reason differs there
    before = contents(copy / "cells" / "natural-resnet18")
    capsys.readouterr()
    assert bench("whitebox-digits", *ROW, out=copy) == 2
    said = only_sentence(capsys)
    assert "1 that could not be made, first natural-resnet18/s0" in said
    assert named in said
    assert "type --out with a new folder" in said
    assert contents(copy / "cells" / "natural-resnet18") == before
    assert all(path.is_file() for path in missing)
    for ending in ("md", "html"):
        text = (copy / f"whitebox-part.{ending}").read_text()
        assert "natural-resnet18/s0" in text
        assert "left as it is" in text
    assert {line["method"] for line in lines_of(copy)} == {"natural", "rslad"}, "the fuller table is not overwritten"


def test_the_figures_of_a_foreign_cell_are_not_shown(copy):
    edited(copy, "natural-resnet18/s0", lambda c: c["made"]["config"]["recipe"].update(lr=0.3))
    assert bench("whitebox-digits", *ROW, out=copy) == 2
    assert {line["method"] for line in lines_of(copy, "whitebox-part")} == {"rslad"}


def test_a_run_without_its_note_is_foreign(copy, capsys):
    (copy / "cells" / "natural-resnet18" / "s0.yaml").unlink()
    before = contents(copy / "cells" / "natural-resnet18")
    capsys.readouterr()
    assert bench("whitebox-digits", *ROW, out=copy) == 2
    assert "a run without s0.yaml beside it" in only_sentence(capsys)
    assert contents(copy / "cells" / "natural-resnet18") == before


def test_students_of_a_foreign_teacher_are_not_made(copy, capsys):
    edited(copy, "teacher-sat/s0", lambda c: c["made"].update({"ardor": "9"}))
    to_be_made(copy)
    before = contents(copy / "cells")
    capsys.readouterr()
    assert bench("whitebox-digits", *ROW, out=copy) == 2
    assert "2 that could not be made, first teacher-sat/s0" in only_sentence(capsys)
    assert contents(copy / "cells") == before
    assert "it needs teacher-sat/s0" in (copy / "whitebox-part.md").read_text()


def test_an_edited_recipe_file_is_another_recipe(tmp_path, monkeypatch):
    path = tmp_path / "sat.yaml"
    path.write_bytes(find_recipe("sat").read_bytes())
    monkeypatch.setattr("ardor.storage.recipes.FOLDERS", (tmp_path,))

    def state():
        table = table_of(asked(scale="full", folder=tmp_path, students=("resnet18",), methods=("sat",)))
        (cell,) = table.cells
        if not table.spec.run(cell.name).exists():
            table.spec.run(cell.name).mkdir(parents=True)
            note_of(table.spec, cell).write_text(yaml.safe_dump({"made": made_by(table.spec, cell)}))
        return state_of(table.spec, cell)

    assert state() == ("open", "")
    path.write_text(path.read_text() + "\n# a comment\n")
    assert state() == ("open", "")
    path.write_text(path.read_text().replace("lr: 0.1", "lr: 0.3"))
    assert state() == ("foreign", "config.recipe.lr: 0.3 here, 0.1 there")


def test_a_cell_of_version_0_1_0_is_refused_and_kept(copy, capsys):
    """Its note has the words of a command where there is a config now."""
    words = {"data": "digits", "student": "small_cnn", "student.width": "4", "method": "natural", "recipe.seed": "0"}
    made = {"ardor": "0.1.0", "data": asked(folder=copy).images, "words": words}
    note = copy / "cells" / "natural-resnet18" / "s0.yaml"
    note.write_text(yaml.safe_dump({"made": made, "code": "0123456789abcdef", "trained": True}))
    before = contents(copy / "cells")
    capsys.readouterr()
    assert bench("whitebox-digits", *ROW, out=copy) == 2
    sentence = only_sentence(capsys)
    assert "first natural-resnet18/s0 (s0.yaml is of an earlier ardor" in sentence
    assert "type --out with a new folder" in sentence
    assert contents(copy / "cells") == before
    assert {line["method"] for line in lines_of(copy)} == {"natural", "rslad"}, "the fuller table is not overwritten"


def test_where_things_lie_makes_no_cell_foreign(copy, tmp_path):
    moved = copy.rename(tmp_path / "elsewhere")
    root = {"root": "there"}
    table = table_of(asked(folder=moved, students=("resnet18",), methods=("natural", "rslad"), data_options=root))
    assert {state_of(table.spec, cell) for cell in table.cells} == {("done", "")}


def diverging(monkeypatch):
    """The natural student's rate is beyond all reason."""
    from ardor.experiments import tables

    plain = tables._config

    def config(spec, method, *others):
        content = plain(spec, method, *others)
        return merged(content, {"recipe": {"lr": "1e30"}}) if method["name"] == "natural" else content

    monkeypatch.setattr(tables, "_config", config)


def test_a_diverged_cell_is_named_and_kept_and_the_others_are_made(copy, capsys, monkeypatch):
    diverging(monkeypatch)
    shutil.rmtree(copy / "cells" / "natural-resnet18")
    made = to_be_made(copy)
    capsys.readouterr()
    assert bench("whitebox-digits", *ROW, out=copy) == 2
    said = only_sentence(capsys)
    assert "first natural-resnet18/s0" in said
    assert "s0.yaml and the run beside it away" in said
    assert made.is_file()
    note = yaml.safe_load((copy / "cells" / "natural-resnet18" / "s0.yaml").read_text())
    assert "failed" in note
    before = contents(copy / "cells")
    assert bench("whitebox-digits", *ROW, out=copy) == 2  # nothing is tried again
    assert contents(copy / "cells") == before
    assert note["failed"].split(":")[0] in (copy / "whitebox-part.md").read_text()
    assert {line["method"] for line in lines_of(copy, "whitebox-part")} == {"rslad"}


# Bad words and bad teachers


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["greybox-digits"], 'expected a table, got "greybox-digits"'),
        (["whitebx-digits"], "whitebox"),
        (["whitebox"], "expected one data set, got none"),
        (["whitebox-digits", "--data", "npz:x.npz"], "expected one data set, got digits and npz:x.npz"),
        (["whitebox-digit"], 'expected a radius for digit (did you mean "digits"?), got none'),
        (["whitebox", "--data", "npz:x.npz"], "expected a radius for npz:x.npz, got none: type --threat.eps 8/255"),
        (["whitebox", "--data", "npz:absent.npz", "--threat.eps", "0.1"], "absent.npz"),
        (["whitebox-digits", "--methods", "rslda"], 'got "rslda"'),
        (["whitebox-digits", "--students", "resnet81"], 'got "resnet81"'),
        (["whitebox-digits", "--scale", "large"], "large"),
        (["whitebox-digits", "--seeds", "0"], "expected at least one seed, got 0"),
        (["whitebox-digits", "--seeds", "-1"], "expected at least one seed, got -1"),
        (["whitebox-digits", "--threat.eps", "0", "--plan"], "expected a positive eps"),
        (["labels-digits", "--scale", "full"], "expected --scale smoke or small for the study labels, got full"),
        (["whitebox-cifar10", "--data.root", "nowhere"], "nowhere"),
        (["whitebox-digits", "--nonsense", "1"], "--nonsense"),
    ],
)
def test_bad_words_are_one_sentence_and_write_nothing(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *words, "--out", "out"]) == 2
    assert said in only_sentence(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Runs of other data: five classes, and images of 12x12."""
    folder = tmp_path_factory.mktemp("others")
    train, _, test = data.load("digits")
    few = [split.take(split.labels < 5) for split in (train, test)]
    large = [dataclasses.replace(s, images=torch.nn.functional.interpolate(s.images, size=12)) for s in (train, test)]
    for name, (one, two) in (("few", few), ("large", large)):
        arrays = {"x_train": one.images, "y_train": one.labels, "x_test": two.images, "y_test": two.labels}
        np.savez(folder / f"{name}.npz", **{key: value.numpy() for key, value in arrays.items()})
        words = ["--student", "small_cnn", "--student.width", "4", "--method", "natural", "--recipe.device", "cpu"]
        words += ["--recipe.epochs", "1", "--recipe.augment", "none", "--data.limit", "200"]
        words += ["--run", str(folder / name)]
        assert main(["train", "--data", f"npz:{folder / name}.npz", *words]) == 0
    return folder


@pytest.mark.parametrize(
    ("name", "why"), [("few", "10 classes, got 5"), ("large", "a teacher that matches its record")]
)
def test_a_teacher_of_other_data_is_refused_and_nothing_is_trained_by_it(copy, others, capsys, name, why):
    shutil.rmtree(copy / "cells" / "rslad-resnet18")
    capsys.readouterr()
    before = contents(copy)
    assert bench("whitebox-digits", *ROW, "--teacher", str(others / name), out=copy) == 2
    assert why in only_sentence(capsys)
    assert contents(copy) == before
    assert bench("whitebox-digits", *ROW, out=copy) == 0  # a refused teacher bars no other
    assert {line["method"] for line in lines_of(copy)} == {"natural", "rslad"}


def test_a_teacher_whose_weights_are_not_what_its_record_says_is_refused(copy, capsys):
    shutil.rmtree(copy / "cells" / "rslad-resnet18")
    (copy / "cells" / "rslad-resnet18" / "s0.yaml").unlink(missing_ok=True)
    weights = copy / "cells" / "teacher-sat" / "s0" / "best.safetensors"
    tensors, meta = read_tensors(weights)
    tensors["linear.weight"] = tensors["linear.weight"].roll(3, 0).contiguous()  # the classes in another order
    tensors["linear.bias"] = tensors["linear.bias"].roll(3, 0).contiguous()
    write_tensors(weights, tensors, meta)
    capsys.readouterr()
    assert bench("whitebox-digits", *ROW, out=copy) == 2
    said = only_sentence(capsys)
    assert "rslad-resnet18/s0 (expected a teacher that matches its record" in said
    assert not (copy / "cells" / "rslad-resnet18" / "s0").exists()


def test_a_transfer_source_of_other_classes_is_refused(copy, others, capsys):
    assert bench("blackbox-digits", *ROW, "--transfer_from", str(others / "few"), out=copy) == 2
    said = only_sentence(capsys)
    assert "internal error" not in said
    assert "the data's 10 classes, got 5" in said


# The plan


def test_a_plan_writes_nothing_and_needs_no_teacher(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bench("whitebox-digits", *ROW, "--plan", out="new") == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:3]] == [
        "teacher-sat/s0", "natural-resnet18/s0", "rslad-resnet18/s0"
    ]  # fmt: skip
    assert "3 of 3 nets to make" in out
    assert "The same command without --plan starts it." in out
    assert list(tmp_path.iterdir()) == []


def test_a_plan_counts_what_is_left(copy):
    table = table_in(copy)
    assert plan(table) == []
    made, before = to_be_made(copy), contents(copy)
    (cost,) = plan(table)
    assert (cost.cell.name, cost.train) == ("rslad-resnet18/s0", 0)
    assert cost.evaluate > 0
    shutil.rmtree(copy / "cells" / "natural-resnet18")
    both = plan(table)
    assert [c.cell.name for c in both] == ["natural-resnet18/s0", "rslad-resnet18/s0"]
    assert both[0].train > 0
    assert not made.exists()
    assert {k: v for k, v in before.items() if "natural" not in k} == contents(copy)


def test_a_plan_leaves_foreign_cells_out(copy):
    edited(copy, "natural-resnet18/s0", lambda c: c["made"].update({"ardor": "9"}))
    assert plan(table_in(copy)) == []


def test_a_study_can_be_planned():
    for kind, row in (("labels", ("natural", "robust")), ("alignment", ("self", "both")), ("blackbox", ("rslad",))):
        some = {"students": ("resnet18",), "methods": ("rslad",)} if kind == "blackbox" else {}
        table = table_of(asked(kind, **some))
        some = tuple(c for c in table.cells if c.row[-len(row) :] == row or c.needs == ())
        table = dataclasses.replace(table, cells=some)
        costs = plan(table)
        assert [cost.cell.name for cost in costs] == [cell.name for cell in table.cells]
        assert all(cost.train > 0 and cost.evaluate > 0 for cost in costs)


def test_full_scale_can_be_planned_on_data_of_ones_own(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.arange(60 * 3 * 32 * 32, dtype=np.uint8).reshape(60, 3, 32, 32)
    y = np.arange(60) % 10
    np.savez("tiny.npz", x_train=images, y_train=y, x_test=images[:20], y_test=y[:20])
    words = ["--data", "npz:tiny.npz", "--threat.eps", "8/255", "--students", "mobilenet_v2", "--methods", "natural"]
    assert bench("whitebox", *words, "--plan", out="out", scale="full") == 0
    assert "1 of 1 nets to make" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.npz"]


def test_work_hands_back_trouble_and_says_what_is_finished(copy):
    to_be_made(copy)
    edited(copy, "natural-resnet18/s0", lambda c: c["made"].update({"ardor": "9"}))
    after, table = [], table_in(copy)
    (trouble,) = work(table, lambda cell, what: None, after.append)
    assert (trouble.cell.name, [cell.name for cell in after]) == ("natural-resnet18/s0", ["rslad-resnet18/s0"])
    assert pending(table.spec, after[0]) == []
    assert report_path(table.spec, after[0], after[0].evaluations[0]).is_file()
