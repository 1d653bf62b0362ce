"""Every recipe: its numbers against the published ones, its rows in docs/methods/recipes.md, its smoke form run."""

import copy
import csv
import functools
import json
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

import ardor
from ardor.cli.main import main
from ardor.cli.selection import configuration
from ardor.cli.words import split_words
from ardor.errors import ConfigError
from ardor.evaluation.checks.recipe import of_recipe
from ardor.storage.config import merged
from ardor.storage.recipes import find_recipe, read_recipe
from ardor.training.job import Job, config_of_job
from tests.conftest import ROOT
from tests.data.conftest import binary_files, put

RECIPES = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.yaml"))}
FIGURES = list(csv.DictReader((Path(ardor.__file__).parent / "experiments" / "paper" / "whitebox.csv").open()))
COLUMNS = ("clean", "fgsm", "pgd_sat", "pgd_trades", "cw_inf", "autoattack")
METHODS = ("natural", "sat", "trades", "ard", "iad", "rslad", "variance_gap")
RELEASED = ("trades", "ard", "iad", "rslad")
FORMS = [(method, released) for method in METHODS for released in (False, True)[: 1 + (method in RELEASED)]]
TEACHERS = {"cifar10": "robustbench:Zhang2019Theoretically", "cifar100": "robustbench:Gowal2020Uncovering"}
STUDENTS = ("resnet18", "mobilenet_v2")
ROWS = [(*form, data, student) for data in TEACHERS for student in STUDENTS for form in FORMS]
ROWS += [("sat", False, "cifar10", "resnet50")]
SMALL = {"data": "digits", "student": {"name": "small_cnn", "width": 4}, "recipe": {"device": "cpu"}}
TABLE = runpy.run_path(str(ROOT / "docs" / "recipe_table.py"))

# What a step costs an image, and GMAC per forward pass.
PASSES = {
    "natural": (3, 0), "sat": (23, 0), "trades": (27, 0), "ard": (26, 1), "rslad": (26, 1), "iad": (26, 2),
    "variance_gap": (26, 2),
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
    "batch": 128, "lr": 0.1, "schedule": "milestones",
    "optimiser": {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 2e-4, "decay_all": True},
    "drop": 0.1, "augment": "crop-flip", "padding": 4, "val_size": 1000, "val_every": 1,
}  # fmt: skip
FINDINGS = {
    ("trades", True): [],
    ("ard", False): ["kl_scale", "term_off"],
    ("ard", True): ["kl_scale", "term_off", "bn_in_attack"],
    ("iad", True): ["bn_in_attack"],
    ("rslad", False): ["kl_scale"],
    ("rslad", True): ["kl_scale", "selection"],
    ("variance_gap", False): ["kl_scale"],
}
TERMS = {
    "natural": {"clean"}, "sat": {"robust"}, "trades": {"clean", "robust"}, "ard": {"robust", "clean"},
    "iad": {"teacher", "self"}, "rslad": {"robust", "clean"}, "variance_gap": {"robust", "clean", "covariance", "gram"},
}  # fmt: skip


def named(part):
    return {"name": part} if isinstance(part, str) else part


@functools.cache
def resolved(method, released, data, student):
    """The configuration of a row's run, as config.yaml would hold it, with small digits in the place of its data."""
    recipe = read_recipe(method, data, ["released"] if released else [])
    teacher = {"teacher": "runs/t"} if "teacher" in recipe else {}
    job = Job.from_config(merged(recipe, SMALL | teacher))
    return config_of_job(job) | {"data": {"name": data} | named(recipe["data"])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a few images as CIFAR has them, and teachers in runs/t, runs/cifar10 and runs/cifar100."""
    there = tmp_path_factory.mktemp("recipes")
    rng = np.random.default_rng(0)
    for data, classes in (("cifar10", 10), ("cifar100", 100)):
        stems = {"cifar10": [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], "cifar100": ["train", "test"]}
        n = {"cifar10": 80, "cifar100": 400}[data]
        labels = np.arange(n) % classes
        batches = {stem: (rng.integers(0, 256, (n, 3072), dtype=np.uint8), labels // 5, labels) for stem in stems[data]}
        (there / data).mkdir()
        put(there / data, data, binary_files(data, batches), 0, "root")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(there)
        # enough steps for features that vary: next to none of the teacher's are a scale for the student's
        short = "--recipe.epochs 4 --recipe.batch 32 --recipe.val_every 4 --recipe.augment none --recipe.device cpu"
        for data, run in (("digits", "t"), ("cifar10", "cifar10"), ("cifar100", "cifar100")):
            words = f"train natural --data {data} --data.root {data} --data.limit 256 --run runs/{run}"
            assert main([*f"{words} --student small_cnn --student.width 4 {short}".split()]) == 0
    return there


@pytest.fixture
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_every_row_of_the_tables_has_a_recipe():
    assert RECIPES.keys() == {*METHODS, "modern", "modern-igdm"}
    assert {(m, d, s) for m, _, d, s in ROWS} >= {(r["method"], r["dataset"], r["student"]) for r in FIGURES}
    assert {name for name in RECIPES if "released" in yaml.safe_load(RECIPES[name].read_text())["variants"]} == {
        *RELEASED
    }


@pytest.mark.parametrize(("method", "released", "data", "student"), ROWS)
def test_numbers_are_the_published_ones(inside, method, released, data, student):
    config, recipe = resolved(method, released, data, student), read_recipe(method, data, ["released"] * released)
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
    assert recipe.get("teacher") == (TEACHERS[data] if PASSES[method][1] else None)


def cost(method, released, data, student):
    """10^15 multiply-accumulates of a run, by the passes of its method: three digits."""
    epochs, on_test = PUBLISHED[method, released][0], (method, released) == ("rslad", True)
    f, t = GMAC[student], GMAC[data]
    if method == "iad":
        begin = 61 if released else 60
        gmac = (begin - 1) * (24 * f + t) + (epochs - begin + 1) * (26 * f + 2 * t)
    else:
        student_passes, teacher_passes = PASSES[method]
        gmac = epochs * (student_passes * f + teacher_passes * t)
    gmac *= 50_000 if on_test else 45_000
    gmac += epochs * 10_000 * 42 * f if on_test else 0
    pmac = gmac / 1e6
    return f"{pmac:.0f}" if pmac >= 100 else f"{pmac:.3g}"


def command(method, released, data, student):
    return f"ardor train {method} --data {data} --student {student}{' --variant released' * released}"


def test_the_page_is_what_its_generator_writes():
    assert index() == TABLE["page"](), "type python docs/recipe_table.py"


def test_the_page_has_every_row_with_cost_and_figures():
    rows = dict(re.findall(r"^\| `(ardor train \w+ --data cifar.*?)` \| (.*) \|$", index(), re.MULTILINE))
    assert rows.keys() == {command(*row) for row in ROWS}
    for method, released, data, student in ROWS:
        epochs, passes, *cells = rows[command(method, released, data, student)].split(" | ")
        assert epochs == str(PUBLISHED[method, released][0])
        student_passes, teacher_passes = PASSES[method]
        assert passes == f"{student_passes}F" + (f" + {teacher_passes}T" if teacher_passes else "")
        paper = figures(method, data, student)
        shown = [f"{paper['best'][c]} / {paper['last'][c]}" if paper else "–" for c in COLUMNS]
        assert cells == [cost(method, released, data, student), *shown]


def figures(method, data, student):
    """Checkpoint -> the paper's figures by column, as printed; none where it has no such row."""
    return {
        r["checkpoint"]: {column: r[column] for column in COLUMNS}
        for r in FIGURES
        if (r["method"], r["dataset"], r["student"]) == (method, data, student)
    }


def index():
    return (ROOT / "docs" / "methods" / "recipes.md").read_text(encoding="utf-8")


def configured(line):
    """The configuration that a documented command has, without building anything."""
    plain, overrides = split_words(shlex.split(line, comments=True)[2:])
    options = dict(zip(plain[1::2], plain[2::2], strict=True))
    names = {key: options.get(f"--{key}") for key in ("data", "student", "teacher", "method", "threat", "averaging")}
    return configuration(
        Path(plain[0]), options.get("--variant", "").split(",") if "--variant" in options else [], names, overrides
    )


@pytest.mark.parametrize("name", RECIPES)
def test_the_head_has_commands_that_name_the_recipe(name):
    lines = re.findall(r"^#   (ardor train .*)$", RECIPES[name].read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        config = configured(line)
        assert line.split()[2] == name
        assert named(config["method"])["name"] == {"modern": "rslad", "modern-igdm": "igdm"}.get(name, name)
        assert ("--teacher" in line) == ("teacher" in config)


@pytest.mark.parametrize(("method", "released"), FORMS)
@pytest.mark.parametrize("data", TEACHERS)
def test_findings_on_our_own_recipes_are_exactly_the_true_ones(inside, method, released, data):
    expected = FINDINGS.get((method, released), [])
    config = resolved(method, released, data, "resnet18")
    assert names(of_recipe(config)) == expected
    at_8 = ["other_eps"] if (method, released) == ("trades", True) else []
    assert sorted(names(of_recipe(config, 8 / 255))) == sorted(at_8 + expected)
    row = rf"^\| {method} \| {'released ' * released}\| {', '.join(expected) or 'none'} \|$"
    assert re.search(row, index(), re.MULTILINE)


@pytest.mark.parametrize("name", ["sat", "rslad"])
def test_the_recipes_of_the_digits_have_no_findings(inside, name):
    assert of_recipe(resolved(name, False, "digits", "small_cnn"), 0.2) == []


@pytest.mark.parametrize("data", [*TEACHERS, "digits"])
@pytest.mark.parametrize(("method", "released"), FORMS)
def test_the_smoke_form_is_small_and_trains_every_term(inside, method, released, data):
    form = ["released"] * released
    whole, smoke = read_recipe(method, data, form), read_recipe(method, data, [*form, "smoke"])
    assert smoke["data"].pop("limit") == 128
    assert {k: smoke["recipe"][k] for k in ("epochs", "batch", "val_size", "val_every")} == {
        "epochs": 1, "batch": 32, "val_size": 32, "val_every": 1,
    }  # fmt: skip
    for key in ("data", "student", "teacher", "threat"):
        assert named(smoke.get(key)) == named(whole.get(key)), "the same data, nets and threat"
    run = f"runs/{method}-{data}-{'-'.join(form)}"
    words = f"train {method} --data {data} --data.root {data} --data.limit 32 --student small_cnn --student.width 4"
    words += f"{' --variant ' + 'released,' * released}smoke --run {run} --recipe.device cpu"
    words += f" --teacher runs/{'t' if data == 'digits' else data} --gate=false" if PASSES[method][1] else ""
    assert main(words.split()) == 0
    (record,) = [json.loads(line) for line in (inside / run / "metrics.jsonl").read_text().splitlines()]
    assert record["terms"].keys() == TERMS[method]
    assert record["val_robust"] is not None


BAD = "data: digits\nstudent: small_cnn\n"


@pytest.mark.parametrize(
    ("content", "variants", "expected"),
    [
        ("method: [unclosed", (), "expected YAML in bad.yaml, got a file that cannot be read (while parsing"),
        ("- data\n", (), "expected `key: value` lines in bad.yaml, got list"),
        (BAD + "variants: [smoke]\n", (), "expected `variants:` of bad.yaml as names with keys below, got ['smoke']"),
        (BAD + "variants: {smoke: 1}\n", ("smoke",), "expected `variants:` of bad.yaml as names with keys below"),
        (BAD + "recipe: fast\n", (), "expected `recipe:` of bad.yaml with keys below, got 'fast': write recipe:"),
        (BAD, ("smoke",), 'expected a variant of bad.yaml, got "smoke": leave variant='),
        (BAD + "variants: {smoke: {}}\n", ("smok",), 'got "smok" (did you mean "smoke"?'),
    ],
)
def test_a_bad_file_or_variant_is_refused(tmp_path, monkeypatch, content, variants, expected):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(content)
    with pytest.raises(ConfigError) as refused:
        read_recipe("bad.yaml", None, variants)
    assert expected in str(refused.value)


def test_a_recipe_is_found_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe("rslad") == RECIPES["rslad"]
    Path("mine.yaml").write_text(BAD)
    assert find_recipe("mine.yaml") == Path("mine.yaml")
    with pytest.raises(ConfigError, match=r'got "rslda" \(did you mean "rslad"'):
        find_recipe("rslda")


def test_what_differs_by_data_is_laid_over_with_the_variant(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "data: digits\nrecipe: {epochs: 1}\nvariants:\n  digits: {recipe: {lr: 1}}\n"
        "  long: {recipe: {epochs: 2, lr: 2}}\n  long-digits: {recipe: {epochs: 3}}\n  last: {recipe: {epochs: 4}}\n"
    )

    def recipe(*arguments):
        return read_recipe(tmp_path / "r.yaml", *arguments)["recipe"]

    assert recipe() == {"epochs": 1, "lr": 1}
    assert recipe("cifar10") == {"epochs": 1}
    assert recipe("digits", ["long"]) == {"epochs": 3, "lr": 2}
    assert recipe("cifar10", ["long"]) == {"epochs": 2, "lr": 2}
    assert recipe("digits", ["long", "last"]) == {"epochs": 4, "lr": 2}


def names(findings):
    return [f.name for f in findings]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("rslda", 'expected a recipe, got "rslda" (did you mean "rslad"?): type one of ard, iad, modern-igdm,'),
        ("rslad --variant relased", 'got "relased" (did you mean "released"?): type --variant with one of cifar100,'),
        (
            "--variant released",
            "expected a recipe for the variant released, got none: type its name first, for example rslad",
        ),
        (
            "--variant smoke",
            "expected a recipe for the variant smoke, got none: type its name first, for example rslad",
        ),
        (
            "runs/t --variant smoke",
            "expected a recipe for the variant smoke, got the run runs/t: leave the variant out",
        ),
    ],
)
def test_a_command_line_without_such_a_recipe_or_variant_is_one_sentence(inside, capsys, words, expected):
    before = sorted(inside.rglob("*"))
    assert main(["train", *words.split()]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.startswith("ardor: expected ")
    assert error.count("\n") == 1
    assert sorted(inside.rglob("*")) == before


def test_help_has_the_values_of_the_recipe(inside, capsys):
    assert main(["train", "ard", "--data", "cifar100", "--variant", "released,smoke", "--help"]) == 0
    shown = capsys.readouterr().out
    for option, value in (("method.scale", "1/100"), ("method.t", "30"), ("recipe.epochs", "1"), ("data.limit", "128")):
        assert re.search(rf"--{option} +{value} +[A-Z]", shown), option
