"""Every recipe: its numbers against the published ones, its head against the paper's figures, its smoke form run; and
each finding of the recipe check, planted and missed by a hair."""

import copy
import csv
import functools
import json
import re
from pathlib import Path

import pytest
import yaml

import ardor
from ardor import checks
from ardor.cli import main
from ardor.commands.train import NAMES, job_of
from ardor.commands.words import first_stage
from ardor.ready import config_of

ROOT = Path(__file__).parent.parent
RECIPES = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.yaml"))}
PAPER = {name: path for name, path in RECIPES.items() if not name.startswith("digits")}
FIGURES = list(csv.DictReader((Path(ardor.__file__).parent / "bench" / "paper" / "whitebox.csv").open()))
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
    config = config_of(job.student, job.teacher, job.method, job.train, job.val, job.recipe)
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
    assert names(checks.of_recipe(config)) == expected
    at_8 = ["other_eps"] if (method, released) == ("trades", True) else []
    assert sorted(names(checks.of_recipe(config, 8 / 255))) == sorted(at_8 + expected)
    row = rf"^\| {method}{'_released' if released else ''} \| {', '.join(expected) or 'none'} \|$"
    assert re.search(row, index(), re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in PAPER])
def test_the_recipes_of_the_digits_have_no_findings(inside, name):
    assert checks.of_recipe(of_cifar(name), 0.2) == []


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


# The check itself, on a configuration without a finding that is changed in one place.

GOOD = {
    "method": {"name": "sat", "attack": {**ATTACK, "start": "uniform"}},
    "student": {"name": "resnet18"},
    "teacher": None,
    "data": {"name": "cifar10", "root": "data", "val": 0.1, "seed": 0, "protocol": "holdout"},
    "recipe": {
        "epochs": 200, "schedule": "milestones", "milestones": [100, 150], "drop": 0.1, "val_size": 1000,
        "val_attack": {**ATTACK, "start": "uniform"},
    },
}  # fmt: skip


def names(findings):
    return [f.name for f in findings]


def changed(**at):
    """GOOD with other values at dotted keys, dots written as two underscores; a `method` given whole replaces it."""
    config = copy.deepcopy(GOOD)
    for key, value in at.items():
        *path, last = key.split("__")
        node = config
        for word in path:
            node = node[word]
        node[last] = value
    return config


def of(name, **options):
    """A configuration of `name` with an attack that has no finding."""
    return changed(method={"name": name, "attack": copy.deepcopy(GOOD["method"]["attack"]), **options})


def test_a_plain_configuration_has_none():
    assert checks.of_recipe(GOOD) == []
    assert checks.of_recipe(GOOD, 8 / 255) == []
    assert checks.of_recipe({}) == []
    assert checks.of_recipe(changed(method={"name": "mine.py:Mine", "attack": "strong", "alpha": 0, "scale": 5})) == []


@pytest.mark.parametrize(
    ("config", "severity", "evidence"),
    [
        (changed(method__attack__step="9/255"), "warning", "step_above_eps: method.attack takes steps of 9/255 in"),
        (changed(recipe__val_attack__step=0.04), "warning", "step_above_eps: recipe.val_attack takes steps of 0.04"),
        (changed(method__attack__steps=3), "warning", "short_reach: method.attack takes 3 steps of 2/255, toge"),
        (changed(recipe__val_attack__step="0.003"), "warning", "short_reach: recipe.val_attack takes 10 steps of 0.0"),
        (
            changed(recipe__val_attack__threat={"name": "Linf", "eps": 0.031}),
            "warning",
            "other_eps: trained at Linf 8/255, its checkpoint chosen at Linf 0.031",
        ),
        (
            changed(recipe__val_attack__threat={"name": "L2", "eps": "8/255"}),
            "warning",
            "other_eps: trained at Linf 8/255, its checkpoint chosen at L2 8/255",
        ),
        (changed(recipe__milestones=[100, 200]), "warning", "idle_milestone: the rate never drops after epoch 200: "),
        (changed(recipe__milestones=[250, 300]), "warning", "idle_milestone: the rate never drops after epoch 250, 3"),
        (changed(recipe__milestones=[100, 100]), "warning", "idle_milestone: milestone 100 stands more than once"),
        (changed(recipe__drop=1.0), "warning", "idle_milestone: the rate is multiplied by 1 after epochs 100, 150"),
        (changed(recipe__schedule="cosine"), "warning", "idle_milestone: milestones 100, 150 stand beside schedule c"),
        (
            changed(recipe__epochs=2, recipe__milestones=[1, 2, 2]),
            "note",
            "idle_milestone: the rate never drops after epoch 2: the run ends at 2",
        ),
        (of("rslad", alpha="5/6", scale=0.1), "note", "kl_scale: the KL of rslad has the weight scale = 0.1"),
        (of("variance_gap", scale=2, lc=1, lg=1), "note", "kl_scale: the KL of variance_gap has the weight scale"),
        (
            of("ard", alpha=0.5, t=30, scale="1/10"),
            "note",
            "kl_scale: the KL of ard has the weight scale alpha t^2 = 45",
        ),
        (of("ard", alpha=0.25, t=4, scale=1), "note", "kl_scale: the KL of ard has the weight scale alpha t^2 = 4"),
        (of("iad", train_mode_attack=True), "warning", "bn_in_attack: the attack sees the student in train mode"),
        (of("mine.py:Mine", train_mode_attack=True), "warning", "bn_in_attack: the attack sees the student in"),
        (changed(data__protocol="paper"), "warning", "selection: data.protocol is paper: the test set chooses"),
        (of("ard", alpha=1, t=1, scale=1), "note", "term_off: alpha is 1, so the term clean of ard has no weight"),
        (of("kd", alpha=1, t=4), "note", "term_off: alpha is 1, so the term clean of kd"),
        (of("rslad", alpha=0, scale=1), "warning", "term_off: alpha is 0, so the term robust of rslad"),
        (of("rslad", alpha="1", scale=1), "note", "term_off: alpha is 1, so the term clean of rslad"),
        (of("trades", beta=0), "warning", "term_off: beta is 0, so the term robust of trades"),
        (of("mart", beta=0.0), "warning", "term_off: beta is 0, so the term robust of mart"),
        (of("iad", b=0), "warning", "term_off: b is 0, so the term self of iad has no weight"),
        (of("variance_gap", lc=0, lg=10), "note", "term_off: lc is 0, so the term covariance of variance_gap"),
        (of("variance_gap", lc=1, lg="0"), "note", "term_off: lg is 0, so the term gram of variance_gap"),
        (of("variance_gap", alpha=0), "note", "term_off: alpha is 0, so the term robust of variance_gap"),
        (of("variance_gap", alpha=1), "note", "term_off: alpha is 1, so the term clean of variance_gap"),
        (
            changed(method={"name": "trades", "attack": {**ATTACK, "start": "none"}}),
            "warning",
            "still_start: the attack of trades (none) begins at x",
        ),
        (
            changed(method={"name": "trades", "attack": {"name": "FGSM", "threat": LINF, "loss": "ce"}}),
            "warning",
            "still_start: the attack of trades (FGSM) begins at x",
        ),
        (
            of("iad", begin=201),
            "warning",
            "late_begin: the self term of iad begins in epoch 201, and the run ends after 200",
        ),
        (
            of("variance_gap", lc=1, warmup=400),
            "warning",
            "long_warmup: lc grows over 400 epochs, and the run ends after 200, at 0.5 of lc",
        ),
        (
            changed(recipe__val_size=100),
            "warning",
            "small_val: 100 images choose the checkpoint: at 50 % their standard error is 5 points",
        ),
        (changed(data__val=299), "warning", "small_val: 299 images choose the checkpoint"),
        (changed(recipe__val_size=0, data__val=50), "warning", "small_val: 50 images choose the checkpoint"),
        (changed(recipe__precision="bfloat16"), "note", "half_precision: the student learned in bfloat16"),
        (
            changed(recipe__attack_precision="bfloat16"),
            "note",
            "half_precision: the student was attacked while it learned in bfloat16",
        ),
        (changed(soft_labels="float16"), "note", "half_precision: the teacher's soft labels are kept in float16"),
        (changed(processes=4), "note", "split_batches: 4 processes shared each batch"),
    ],
)  # fmt: skip
def test_each_finding_is_found_alone(config, severity, evidence):
    (finding,) = checks.of_recipe(config)
    assert f"{finding.name}: {finding.evidence}".startswith(evidence)
    assert finding.severity == severity
    assert finding.next


@pytest.mark.parametrize(
    "config",
    [
        changed(method__attack__step="8/255"),
        changed(method__attack__steps=4),
        changed(method__attack__steps=4, method__attack__step="2/255"),
        changed(method__attack={"name": "FGSM", "threat": LINF, "loss": "ce"}),
        changed(method__attack={"name": "APGD", "threat": LINF, "steps": 1}),
        changed(recipe__val_attack__threat={"name": "Linf", "eps": 8 / 255}),
        changed(recipe__milestones=[100, 199]),
        changed(recipe__schedule="cosine", recipe__milestones=[143, 173, 190]),
        changed(recipe__schedule="milestones", recipe__milestones=[143, 173, 190]),
        changed(recipe__milestones=None),
        of("rslad", alpha="5/6", scale=1.0),
        of("ard", alpha=0.25, t=2, scale=1),
        of("ard", alpha=0.999, t=1, scale="1000/999"),
        of("iad", begin=200, b=0.1, t=3, train_mode_attack=False),
        of("mine.py:Mine", alpha=0, beta=0, t=9, begin=500, warmup=500, lc=1, scale=0.1),
        changed(method={"name": "sat", "attack": {**ATTACK, "start": "none"}}),
        of("variance_gap", lc=1, lg=1, warmup=200),
        of("trades", beta=6),
        changed(recipe__val_size=300),
        changed(recipe__val_size=0),
        changed(data__val=300),
        changed(data__val=0.001),
    ],
)  # fmt: skip
def test_a_hair_below_the_threshold_has_none(config):
    assert checks.of_recipe(config) == []


def test_a_milestone_behind_the_end_is_not_said_to_drop_twice():
    (finding,) = checks.of_recipe(changed(recipe__milestones=[50, 50, 200, 200, 300]))
    assert finding.evidence == (
        "the rate never drops after epoch 200, 300: the run ends at 200; "
        "milestone 50 stands more than once: its drops come at once"
    )


def test_an_unused_temperature_is_told_apart_from_the_term_that_is_off():
    found = checks.of_recipe(of("ard", alpha=0, t=30, scale=1))
    assert names(found) == ["unused_temperature", "term_off"]
    assert found[0].evidence == "t is 30, and alpha is 0: the term with the temperature has no weight"
    assert names(checks.of_recipe(of("kd", alpha="0", t=4))) == ["unused_temperature", "term_off"]
    assert names(checks.of_recipe(of("iad", b=0.1, t=4, alpha=0))) == []


def test_the_judged_radius_is_compared_with_the_trained_one():
    config = changed(method__attack__threat={"name": "Linf", "eps": 0.031})
    config["recipe"]["val_attack"]["threat"] = {"name": "Linf", "eps": 0.031}
    assert checks.of_recipe(config) == checks.of_recipe(config, 0.031) == []
    (finding,) = checks.of_recipe(config, 8 / 255)
    assert (finding.name, finding.evidence) == ("other_eps", "trained at eps 0.031, judged at 8/255")
    assert checks.of_recipe(changed(method={"name": "natural"}), 0.1) == []


def test_a_run_of_lists_and_texts_that_are_no_numbers_is_not_judged():
    odd = changed(method__attack__step="long", recipe__epochs=[1], recipe__val_size=True, data="cifar10")
    assert checks.of_recipe(odd) == []
    assert checks.of_recipe(changed(recipe="fast", method=["sat"])) == []
