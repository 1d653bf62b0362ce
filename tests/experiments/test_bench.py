"""The cells of the bench are what their configs describe, at small and at full scale."""

import dataclasses
import shlex
from pathlib import Path

import pytest
import torch

from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.cli.selection import configuration
from ardor.cli.words import split_words
from ardor.engine.flops import macs
from ardor.errors import ModelError
from ardor.experiments import TABLES, table_of
from ardor.experiments.label_study import LabelKinds
from ardor.experiments.published import published_rows
from ardor.experiments.scales import MAX_MACS, SCALES, nets_for
from ardor.experiments.sheet import options, train_command
from ardor.experiments.tables import ALPHAS, METHODS, STUDENTS
from ardor.experiments.worker import _job
from ardor.models import build, hash_of
from ardor.storage.config import differences, merged
from ardor.storage.recipes import read_recipe
from ardor.training.job import Job, method_of, recipe_of
from ardor.training.soft_labels import SoftLabelCache
from tests.experiments.conftest import asked

CLASSES = {
    "natural": "Natural", "sat": "SAT", "trades": "TRADES", "ard": "ARD", "iad": "IAD", "rslad": "RSLAD",
    "variance_gap": "VarianceGap",
}  # fmt: skip


# Cells


@pytest.mark.parametrize("scale", ["smoke", "small"])
@pytest.mark.parametrize("kind", TABLES)
def test_names_are_unique_and_needs_come_first(kind, scale):
    table = table_of(asked(kind, scale, seeds=3))
    names = [cell.name for cell in table.cells]
    assert len(set(names)) == len(names)
    for place, cell in enumerate(table.cells):
        assert set(cell.needs) <= set(names[:place]), cell.name
        assert cell.name == f"{cell.name.partition('/')[0]}/s{cell.seed}"
        assert cell.evaluations
    assert all(cell in table.cells for cell in table.shown)
    assert len({(cell.row, cell.seed) for cell in table.shown}) == len(table.shown)
    assert {cell.seed for cell in table.shown} == {0, 1, 2}
    assert {len(cell.row) for cell in table.shown} == {len(table.head)}


def test_how_many_rows_each_table_has():
    rows = {kind: len({cell.row for cell in table_of(asked(kind)).shown}) for kind in TABLES}
    assert rows == {
        "whitebox": 14,
        "blackbox": 12,
        "labels": 16,
        "alpha": 5,
        "alignment": 21,
        "methods": 23,
        "ingredients": 8,
        "distillation": 11,
    }


def test_a_whole_table_comes_before_the_second_seed():
    assert [c.seed for c in table_of(asked(seeds=2)).shown] == [0] * 14 + [1] * 14


def widths(job):
    return job.student.built_as["name"], job.student.built_as.get("width")


def nets(scale):
    """What plays each role for 8x8 grey digits: a quarter of the teacher's width."""
    wide = {"smoke": 8, "small": 32}[scale]
    cnn = [("small_cnn", w) for w in (max(4, wide // 4), (wide + max(4, wide // 4)) // 2, wide)]
    return dict(zip(("resnet18", "resnet50", "teacher"), cnn, strict=True)) | {"mobilenet_v2": ("mobilenet_v2", 0.25)}


def job_in(cell, scale="smoke"):
    """The job of a cell's config, with the values that all cells share."""
    job = Job.from_config(cell.config, teacher=False)
    assert (job.recipe.seed, job.recipe.epochs) == (cell.seed, SCALES[scale].epochs)
    assert (job.recipe.schedule, job.recipe.lr, job.recipe.augment) == ("one-cycle", 0.2, "none")
    assert (job.recipe.batch, job.recipe.optimiser.weight_decay) == (64, 5e-4)
    looks = SCALES[scale].epochs if type(job.method).__name__ == "Natural" else 2
    assert job.recipe.val_every == looks
    assert len(job.train) == (512 if scale == "smoke" else 1213)
    assert job.recipe.val_attack.threat == Linf(0.2)
    assert getattr(job.method, "attack", None) is None or job.method.attack.threat == Linf(0.2)
    return job


@pytest.mark.parametrize("kind", ["whitebox", "blackbox"])
def test_configs_of_the_papers_tables(kind):
    for cell in table_of(asked(kind, seeds=2)).cells:
        job, (role, method) = job_in(cell), cell.row
        assert type(job.method).__name__ == CLASSES[method], cell.name
        assert widths(job) == nets("smoke")[role], cell.name
        teacher = cell.config.get("teacher", {}).get("name")
        ours = str(Path("bench/cells/teacher-sat/s0").resolve())
        assert teacher == (ours if method in METHODS[3:] else None), cell.name
        assert ("teacher-sat/s0" in cell.needs) == (teacher is not None)
        assert ("sat-resnet50/s0" in cell.needs) == (kind == "blackbox" and role in STUDENTS)


def test_methods_that_change_on_the_way_do_so_within_the_few_epochs():
    for scale, begin in (("smoke", 1), ("small", 2)):
        cells = table_of(asked(scale=scale, methods=("iad", "variance_gap"))).shown
        assert {Job.from_config(c.config, teacher=False).method.begin for c in cells if c.row[1] == "iad"} == {begin}
        assert {Job.from_config(c.config, teacher=False).method.warmup for c in cells if c.row[1] != "iad"} == {2}


def test_configs_of_the_labels():
    for cell in table_of(asked("labels", seeds=2)).shown:
        job, teacher = job_in(cell), cell.config["teacher"]
        assert isinstance(job.method, LabelKinds)
        assert (job.method.inner, job.method.outer) == cell.row
        assert (job.method.alpha, job.method.s) == (5 / 6, 0.1)
        assert cell.needs == ("teacher-natural/s0", "teacher-sat/s0")
        assert teacher["name"] == "ardor.experiments.label_study:both"
        cells = Path("bench/cells").resolve()
        assert [teacher[k] for k in ("natural", "robust")] == [str(cells / n) for n in cell.needs]
        assert widths(job) == nets("smoke")["resnet18"]


def test_configs_of_the_alpha_sweep():
    cells = table_of(asked("alpha")).shown
    assert [job_in(cell).method.alpha for cell in cells] == [0, 1 / 6, 1 / 2, 5 / 6, 1]
    assert [cell.row for cell in cells] == [(word,) for word in ALPHAS]
    assert {(cell.needs, cell.config["teacher"]["name"]) for cell in cells} == {
        (("teacher-sat/s0",), str(Path("bench/cells/teacher-sat/s0").resolve()))
    }


def test_configs_of_the_alignment():
    terms = {
        "rslad": (0, 0, "both"), "gram of features": (0, 10, "both"),
        "covariance": (0.001, 0, "both"), "gram": (0, 10, "both"),
        "both": (0.001, 10, "both"), "both, clean only": (0.001, 10, "clean"),
        "both, adversarial only": (0.001, 10, "adversarial"),
    }  # fmt: skip
    roles = {"same family": "resnet18", "mobilenet_v2": "mobilenet_v2", "self": "teacher"}
    seen = set()
    for cell in table_of(asked("alignment")).shown:
        job, (scenario, said) = job_in(cell), cell.row
        assert (job.method.lc, job.method.lg, job.method.sets) == terms[said], cell.name
        assert widths(job) == nets("smoke")[roles[scenario]], cell.name
        assert "gap" in {evaluation.suite for evaluation in cell.evaluations}
        seen.add(cell.row)
    assert seen == {(scenario, said) for scenario in roles for said in terms}


def test_teachers_are_what_their_names_say():
    natural, robust = table_of(asked("labels", "small", seeds=2)).cells[:2]
    for cell, kind in ((natural, "Natural"), (robust, "SAT")):
        job = job_in(cell, "small")
        assert type(job.method).__name__ == kind
        assert widths(job) == ("small_cnn", 32)
        assert (job.recipe.seed, cell.needs) == (0, ())


@pytest.mark.parametrize(("kind", "others"), [("whitebox", "alpha"), ("whitebox", "blackbox"), ("labels", "alpha")])
def test_tables_in_one_folder_share_cells_that_are_the_same(kind, others):
    one, two = ({c.name: c.config for c in table_of(asked(k, seeds=2)).cells} for k in (kind, others))
    both = set(one) & set(two)
    assert both
    assert all(one[name] == two[name] for name in both)


def test_a_students_seed_changes_its_weights_and_not_its_config_otherwise():
    zero, one = table_of(asked(students=("resnet18",), methods=("sat",), seeds=2)).shown
    assert differences(zero.config, one.config) == ["recipe.seed: 0 here, 1 there"]
    nets = [Job.from_config(cell.config).student for cell in (zero, one)]
    assert not torch.equal(*(next(net.parameters()) for net in nets))


def test_all_cells_share_a_folder_of_soft_labels(tmp_path):
    table = table_of(asked("alpha", folder=tmp_path, gate=False, threads=3))
    cells = [dataclasses.replace(cell, config={**cell.config, "teacher": None}) for cell in table.cells]
    for cell in cells:
        job = _job(table.spec, cell)
        assert job.soft_labels == SoftLabelCache(tmp_path / ".soft-labels")
        assert (job.run, job.gate, job.threads) == (tmp_path / "cells" / cell.name, False, 3)


def test_nets_cost_at_most_what_the_scale_allows():
    for scale in ("smoke", "small"):
        for shape in ((1, 8, 8), (3, 32, 32)):
            found = nets_for(SCALES[scale], shape)
            for name, sizes in found.values():
                net = build(name, channels=shape[0], **sizes)
                assert macs(net, shape) <= MAX_MACS, (scale, shape, name)
    with pytest.raises(ModelError, match="expected images small enough for nets of at most 2 MMAC"):
        nets_for(SCALES["small"], (3, 224, 224))


# At full scale


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize(("kind", "name"), [("whitebox", "cifar10"), ("whitebox", "cifar100"), ("blackbox", "cifar10")])
def test_full_scale_takes_the_recipe_of_each_row(kind, name, released):
    table = table_of(asked(kind, "full", named=name, seeds=2, released=released))
    for cell in table.cells:
        student, method = cell.row
        variants = ["released"] if released and method in ("trades", "ard", "iad", "rslad") else []
        own = {"data": {"name": name}, "student": {"name": student}, "method": {"name": method}}
        own |= {"threat": {"eps": "8/255"}, "recipe": {"seed": cell.seed}}
        teacher = {"cifar10": "Zhang2019Theoretically", "cifar100": "Gowal2020Uncovering"}[name]
        if method in METHODS[3:]:
            own["teacher"] = {"name": f"robustbench:{teacher}"}
        assert cell.config == merged(read_recipe(method, name, variants), own), cell.name
        assert not any(need.startswith("teacher") for need in cell.needs)  # the papers' own
    assert len({cell.row[1] for cell in table.cells}) == (7 if kind == "whitebox" else 6)


def test_a_released_recipe_selects_on_the_test_set_as_its_code_did():
    some = {"methods": ("rslad",), "students": ("resnet18",), "released": True}
    (cell,) = table_of(asked("whitebox", "full", named="cifar10", **some)).cells
    assert cell.config["data"] == {"name": "cifar10", "protocol": "paper"}
    assert recipe_of(cell.config).val_attack == PGD(Linf(8 / 255), steps=20, step=0.003)
    (cell,) = table_of(asked("whitebox", "full", teacher={"name": "mine"}, **some)).cells
    assert cell.config["data"] == {"name": "digits", "protocol": "paper"}
    assert cell.config["teacher"] == {"name": "mine"}


def test_the_weights_of_a_teacher_are_added_to_the_recipes():
    options = {"methods": ("rslad", "sat"), "students": ("resnet18",), "teacher": {"weights": "x.pt"}}
    rslad, sat = table_of(asked("whitebox", "full", named="cifar10", **options)).cells
    assert rslad.config["teacher"] == {"name": "robustbench:Zhang2019Theoretically", "weights": "x.pt"}
    assert "teacher" not in sat.config


def test_the_papers_figures_are_beside_every_row_of_its_tables():
    for kind, name, of in (("whitebox", "cifar10", 12), ("whitebox", "cifar100", 12), ("blackbox", "cifar10", 10)):
        rows = {cell.row for cell in table_of(asked(kind, "full", named=name)).shown}
        assert {key[:2] for key in published_rows(kind, name)} == {row for row in rows if row[1] != "variance_gap"}
        assert len({key[:2] for key in published_rows(kind, name)}) == of


def test_full_scale_judges_everything_and_the_last_checkpoint_too():
    (cell,) = table_of(asked("whitebox", "full", named="cifar10", students=("resnet18",), methods=("sat",))).shown
    assert sorted((j.suite, j.checkpoint, j.limit) for j in cell.evaluations) == [
        ("autoattack", "best", 0), ("autoattack", "last", 0), ("paper", "best", 0), ("paper", "last", 0)
    ]  # fmt: skip
    (cell,) = table_of(asked("whitebox", "small", students=("resnet18",), methods=("sat",))).shown
    assert sorted((j.suite, j.checkpoint, j.limit) for j in cell.evaluations) == [
        ("autoattack", "best", 200), ("paper", "best", 2000), ("paper", "last", 2000)
    ]  # fmt: skip


def test_other_data_take_the_recipe_of_cifar10_at_full_scale():
    (cell,) = table_of(asked("whitebox", "full", students=("resnet18",), methods=("sat",), train=9)).shown
    assert cell.config["data"] == {"name": "digits", "limit": 9}
    assert cell.config["threat"] == {"name": "linf", "eps": "0.2"}
    assert (cell.config["student"], cell.config["recipe"]["epochs"]) == ({"name": "resnet18"}, 200)


# The command of a cell


def rebuilt(command):
    """The config that `ardor train` makes of a command, and what else was typed."""
    program, name, *words = shlex.split(command)
    assert [program, name] == ["ardor", "train"]
    plain, overrides = split_words(words)
    names = dict(word.removeprefix("--").split("=", 1) for word in plain)
    keys = ("data", "student", "teacher", "method", "threat", "averaging")
    return configuration(None, [], {key: names.get(key) for key in keys}, overrides), names


@pytest.mark.parametrize("kind", TABLES)
def test_the_command_of_a_cell_makes_the_same_run(kind):
    table = table_of(asked(kind, data_options={"root": "a folder"}))
    for cell in table.cells:
        config, _ = rebuilt(train_command(cell))
        assert config.get("teacher") == cell.config.get("teacher")
        assert config["data"] == {key: str(value) for key, value in cell.config["data"].items()}
        assert (method_of(config), recipe_of(config)) == (method_of(cell.config), recipe_of(cell.config)), cell.name
    student, same = (Job.from_config(c, teacher=False).student for c in (cell.config, config))
    assert hash_of(student) == hash_of(same)


@pytest.mark.parametrize("released", [False, True])
def test_the_command_of_a_paper_cell_makes_the_same_run(released):
    for cell in table_of(asked("whitebox", "full", named="cifar10", released=released)).cells:
        config, _ = rebuilt(train_command(cell))
        assert config.keys() == cell.config.keys()
        assert (method_of(config), recipe_of(config)) == (method_of(cell.config), recipe_of(cell.config)), cell.name
        assert config["data"] == cell.config["data"]


def test_a_command_without_the_gate_is_only_of_a_cell_with_a_teacher():
    sat, rslad = table_of(asked(students=("resnet18",), methods=("sat", "rslad"))).shown
    assert rebuilt(train_command(rslad, gate=False))[1]["gate"] == "false"
    assert "gate" not in rebuilt(train_command(sat, gate=False))[1] | rebuilt(train_command(rslad))[1]


def test_options_of_every_type():
    config = {
        "method": {"name": "rslad", "attack": {"name": "pgd", "steps": 3}},
        "recipe": {"milestones": [1, 2], "lr": 0.2, "compile": True, "padding": None},
    }
    assert list(options(config)) == [
        "--method=rslad", "--method.attack.name=pgd", "--method.attack.steps=3", "--recipe.milestones=1,2",
        "--recipe.lr=0.2", "--recipe.compile=true", "--recipe.padding=none",
    ]  # fmt: skip
