"""Every recipe: its numbers against the published ones, its head against the papers' figures, its smoke form run."""

import copy
import csv
import functools
import json
import re
from pathlib import Path

import pytest
import yaml

import ardor
from ardor.cli.commands.train import NAMES, job_of
from ardor.cli.main import main
from ardor.cli.selection import first_stage
from ardor.evaluation import checks
from ardor.training.preflight import resolve_config
from tests.conftest import ROOT

RECIPES = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.yaml"))}
PAPER = {name: path for name, path in RECIPES.items() if not name.startswith("digits")}
FIGURES = list(csv.DictReader((Path(ardor.__file__).parent / "experiments" / "paper" / "whitebox.csv").open()))
COLUMNS = ("clean", "fgsm", "pgd_sat", "pgd_trades", "cw_inf", "autoattack")
METHODS = ("natural", "sat", "trades", "ard", "iad", "rslad", "variance_gap")
TEACHERS = {"cifar10": "robustbench:Zhang2019Theoretically", "cifar100": "robustbench:Gowal2020Uncovering"}
SMALL = ["--data", "digits", "--student", "small_cnn", "--student.width", "4", "--recipe.device", "cpu"]

# What a step costs an image, and GMAC per forward pass.
PASSES = {
    "natural": (3, 0), "sat": (23, 0), "trades": (27, 0), "ard": (26, 1), "rslad": (26, 1), "variance_gap": (26, 2),
}  # fmt: skip
GMAC = {"resnet18": 0.555, "mobilenet_v2": 0.091, "resnet50": 1.298, "cifar10": 6.66, "cifar100": 38.8}

# The published numbers, written out: (method, released) -> epochs, milestones, options of the method, of its attack.
LINF = {"name": "Linf", "eps": "8/255"}
EARLY = {"start": "unclipped"}
PUBLISHED = {
    ("natural", False): (100, [75, 90], {}, None),
    ("sat", False): (200, [100, 150], {}, {"start": "uniform"}),
    ("trades", False): (100, [74, 89, 99], {"beta": 6}, {"start": "gaussian"}),
    ("trades", True): (
        100, [74, 89, 99], {"beta": 6}, {"start": "gaussian", "step": 0.007, "threat": {"name": "Linf", "eps": 0.031}}
    ),
    ("ard", False): (
        200, [100, 150], {"alpha": 1, "t": 30, "scale": 1, "train_mode_attack": False}, {"start": "uniform"}
    ),
    ("ard", True): (200, [100], {"alpha": 1, "t": 30, "scale": "1/10", "train_mode_attack": True}, EARLY),
    ("iad", False): (
        200, [100, 150],
        {"b": 0.1, "t": 1, "begin": 60, "weighted_teacher": True, "train_mode_attack": False}, {"start": "uniform"},
    ),
    ("iad", True): (
        200, [100], {"b": 0.1, "t": 1, "begin": 61, "weighted_teacher": False, "train_mode_attack": True}, EARLY
    ),
    ("rslad", False): (300, [215, 260, 285], {"alpha": "5/6", "scale": 0.1}, {"start": "gaussian"}),
    ("rslad", True): (300, [215, 260, 285], {"alpha": "5/6", "scale": 0.1}, {"start": "gaussian"}),
    ("variance_gap", False): (
        300, [215, 260, 285], {"alpha": "5/6", "scale": 0.1, "lc": 0.001, "lg": 10, "warmup": 5}, {"start": "gaussian"}
    ),
}  # fmt: skip
ATTACK = {"name": "PGD", "threat": LINF, "steps": 10, "step": None, "loss": "ce"}
COMMON = {
    "batch": 128, "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 2e-4, "schedule": "milestones",
    "drop": 0.1, "augment": "crop-flip", "padding": 4, "val_size": 1000, "val_every": 1,
}  # fmt: skip
FINDINGS = {
    ("trades", True): [],
    ("ard", False): ["kl_scale", "term_off"],
    ("ard", True): ["kl_scale", "bn_in_attack", "term_off"],
    ("iad", True): ["bn_in_attack"],
    ("rslad", False): ["kl_scale"],
    ("rslad", True): ["kl_scale", "selection"],
    ("variance_gap", False): ["kl_scale"],
}
TERMS = {
    "natural": {"clean"}, "sat": {"robust"}, "trades": {"clean", "robust"}, "ard": {"robust", "clean"},
    "iad": {"teacher", "self"}, "rslad": {"robust", "clean"}, "variance_gap": {"robust", "clean", "covariance", "gram"},
}  # fmt: skip


def parts(name):
    """(method, data, student, whether released) of a recipe's name."""
    found = re.fullmatch(rf"({'|'.join(METHODS)})_(cifar100?)_(resnet18|mobilenet_v2|resnet50)(_released)?", name)
    return found[1], found[2], found[3], found[4] is not None


def said(name):
    return yaml.safe_load(RECIPES[name].read_text())


@functools.cache
def of_cifar(name):
    """The configuration of a recipe's run, as config.yaml would hold it, with small digits in the place of its data."""
    recipe = said(name)
    words = [str(RECIPES[name]), *SMALL, *(["--teacher", "runs/t"] if "teacher" in recipe else [])]
    job = job_of(words)
    config = resolve_config(job.student, job.teacher, job.method, job.train, job.val, job.recipe)
    return config | {"data": recipe["data"] if isinstance(recipe["data"], dict) else {"name": recipe["data"]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a teacher in runs/t."""
    there = tmp_path_factory.mktemp("recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(there)
        # enough steps for features that vary: next to none of the teacher's are a scale for the student's
        short = ["--recipe.epochs", "4", "--recipe.batch", "32", "--recipe.val_every", "4", "--recipe.augment", "none"]
        assert main(["train", *SMALL, *short, "--data.limit", "512", "--method", "natural", "--run", "runs/t"]) == 0
    return there


@pytest.fixture
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_every_row_of_the_tables_has_a_recipe():
    rows = {f"{m}_{d}_{s}" for m in METHODS for d in TEACHERS for s in ("resnet18", "mobilenet_v2")}
    assert rows >= {f"{r['method']}_{r['dataset']}_{r['student']}" for r in FIGURES}
    released = {f"{row}_released" for row in rows if row.startswith(("trades", "ard", "iad", "rslad"))}
    assert PAPER.keys() == rows | released | {"sat_cifar10_resnet50"}


@pytest.mark.parametrize("name", PAPER)
def test_numbers_are_the_published_ones(inside, name):
    method, data, student, released = parts(name)
    config, recipe = of_cifar(name), said(name)
    epochs, milestones, options, attack = copy.deepcopy(PUBLISHED[method, released])
    common = dict(COMMON)
    if (method, data) == ("ard", "cifar100"):
        common |= {"batch": 256}
        options |= {"t": 30, "scale": "1/100"} if released else {"t": 5}
    if method == "natural":
        common |= {"val_every": 100}
    validation = {**ATTACK, "start": "uniform"}
    if (method, released) == ("rslad", True):
        common |= {"val_size": 0}
        validation |= {"steps": 20, "step": 0.003}
    if (method, released) == ("trades", True):
        validation |= {"threat": {"name": "Linf", "eps": 0.031}}
    assert {k: config["recipe"][k] for k in common} == common
    assert (config["recipe"]["epochs"], config["recipe"]["milestones"]) == (epochs, milestones)
    assert config["recipe"]["val_attack"] == validation
    assert config["method"] == config["method"] | options | {"name": method}
    assert config["method"].get("attack") == (None if attack is None else {**ATTACK, **attack})
    protocol = {"protocol": "paper"} if (method, released) == ("rslad", True) else {}
    assert config["data"] == {"name": data} | protocol
    assert recipe["student"] == student
    assert recipe.get("teacher") == (TEACHERS[data] if "1T" in head(name) or "2T" in head(name) else None)
    assert (recipe.get("teacher") is None) == (method in ("natural", "sat", "trades"))


def head(name):
    """The comment that a recipe begins with."""
    return re.match(r"(#.*\n)+", RECIPES[name].read_text())[0]


@pytest.mark.parametrize("name", PAPER)
def test_the_head_has_the_command_the_papers_figures_and_the_cost(name):
    method, data, student, _ = parts(name)
    text = head(name)
    command = f"#   ardor train recipes/{name}.yaml --data.root DATA"
    assert f"{command}{' --teacher.weights FILE' if 'teacher' in said(name) else ''}\n" in text
    assert "--smoke" in text
    shown = {row[0]: tuple(row[1:]) for row in (line.split()[1:] for line in text.splitlines()) if len(row) == 7}
    published = {checkpoint: tuple(row.values()) for checkpoint, row in figures(method, data, student).items()}
    assert {k: v for k, v in shown.items() if k in ("best", "last")} == published
    assert ("Expected: none published" in text) == (not published)
    assert f"= {cost(name)} PMAC" in text


def cost(name):
    """10^15 multiply-accumulates of a run, by the passes of its method: three digits."""
    method, data, student, released = parts(name)
    epochs, own_protocol = PUBLISHED[method, released][0], (method, released) == ("rslad", True)
    f, t = GMAC[student], GMAC[data]
    if method == "iad":
        begin = 61 if released else 60
        gmac = (begin - 1) * (24 * f + t) + (epochs - begin + 1) * (26 * f + 2 * t)
    else:
        student_passes, teacher_passes = PASSES[method]
        gmac = epochs * (student_passes * f + teacher_passes * t)
    gmac *= 50_000 if own_protocol else 45_000
    gmac += epochs * 10_000 * 42 * f if own_protocol else 0
    pmac = gmac / 1e6
    return f"{pmac:.0f}" if pmac >= 100 else f"{pmac:.3g}"


def test_the_index_has_every_recipe_with_cost_and_figures():
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\.\./recipes/\1\.yaml\) \| (.*) \|$", index(), re.MULTILINE))
    assert rows.keys() == RECIPES.keys()
    for name in PAPER:
        method, data, student, released = parts(name)
        paper = figures(method, data, student)
        shown = [paper.get(ck, {}).get(column, "–") for ck in ("best", "last") for column in ("clean", "autoattack")]
        epochs, passes, *cells = rows[name].split(" | ")
        assert [epochs, *cells] == [str(PUBLISHED[method, released][0]), cost(name), *shown]
        student_passes, teacher_passes = PASSES.get(method, (26, 2))
        assert passes == f"{student_passes}F" + (f" + {teacher_passes}T" if teacher_passes else "")


def figures(method, data, student):
    """Checkpoint -> the paper's figures by column, as printed; none where it has no such row."""
    return {
        r["checkpoint"]: {column: r[column] for column in COLUMNS}
        for r in FIGURES
        if (r["method"], r["dataset"], r["student"]) == (method, data, student)
    }


def index():
    return (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAPER)
def test_findings_on_our_own_recipes_are_exactly_the_true_ones(inside, name):
    method, _, _, released = parts(name)
    expected = FINDINGS.get((method, released), [])
    config = of_cifar(name)
    assert names(checks.recipe.of_recipe(config)) == expected
    at_8 = ["other_eps"] if (method, released) == ("trades", True) else []
    assert sorted(names(checks.recipe.of_recipe(config, 8 / 255))) == sorted(at_8 + expected)
    row = rf"^\| {method}{'_released' if released else ''} \| {', '.join(expected) or 'none'} \|$"
    assert re.search(row, index(), re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in PAPER])
def test_the_recipes_of_the_digits_have_no_findings(inside, name):
    assert checks.recipe.of_recipe(of_cifar(name), 0.2) == []


@pytest.mark.parametrize("name", RECIPES)
def test_the_smoke_form_is_small_and_trains_every_term(inside, name):
    asked = first_stage([str(RECIPES[name]), "--smoke"], NAMES, recipe=True)
    assert asked.content["data"].pop("limit") == 128
    recipe, whole = asked.content["recipe"], first_stage([str(RECIPES[name])], NAMES, recipe=True)
    assert {k: recipe[k] for k in ("epochs", "batch", "val_size", "val_every")} == {
        "epochs": 1, "batch": 32, "val_size": 32, "val_every": 1,
    }  # fmt: skip
    assert asked.names == whole.names, "the same data, nets and method"
    assert asked.content["data"] == whole.content.get("data", {})
    words = [*SMALL, "--data.limit", "32", "--smoke", "--run", f"runs/{name}"]
    teacher = ["--teacher", "runs/t", "--gate=false"] if "teacher" in said(name) else []
    assert main(["train", str(RECIPES[name]), *words, *teacher]) == 0
    (record,) = [json.loads(line) for line in (inside / "runs" / name / "metrics.jsonl").read_text().splitlines()]
    method = parts(name)[0] if name in PAPER else asked.names["method"]
    assert record["terms"].keys() == TERMS[method]
    assert record["val_robust"] is not None


def names(findings):
    return [f.name for f in findings]
