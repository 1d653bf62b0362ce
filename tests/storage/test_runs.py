"""A run's folder: one module has its file names, and one that the first version wrote can still be read."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

import ardor
from ardor.errors import CheckpointError, RunError
from ardor.storage.runs import ABSENT, Run, Validation, journal_of
from ardor.storage.tensors import write_tensors

NAMES = {path.name for path in vars(Run("folder")).values()} - {"folder"}
FILE = re.compile(r"(\*/)?((report|journal|deployed|hub)-\S*|(best|last|averaged)(-int8)?\.\w+)")
ENDING = re.compile(r"(-int8)?\.(safetensors|onnx|pte|pt2)")


def spelt(text):
    """The file names of a run in the strings of a module, prose and docstrings left out."""
    tree = ast.parse(text)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            name = node.value.removeprefix("*/")
            if name in NAMES or FILE.fullmatch(name) or (id(node) in parts and ENDING.fullmatch(name)):
                yield f"{node.lineno}: {node.value}"


@pytest.mark.parametrize(
    "code",
    [
        'folder / "config.yaml"',
        'folder.glob("*/config.yaml")',
        'folder / "metrics.jsonl"',
        'folder / ".state.new.safetensors"',
        'folder.glob("report-*.json")',
        'path.stem.replace("report-", "journal-", 1)',
        "folder / f\"report-{'-'.join(words)}.json\"",
        'folder / "best.onnx"',
        'folder / f"{checkpoint}.safetensors"',
        'folder / f"{checkpoint}-int8.onnx"',
        'folder / "variance_gap.json"',
    ],
)
def test_a_name_that_is_spelt_is_found(code):
    assert list(spelt(code))


def test_no_other_module_has_the_names_of_a_runs_files():
    package = Path(ardor.__file__).parent
    for path in package.rglob("*.py"):
        if path != package / "storage" / "runs.py":
            assert list(spelt(path.read_text(encoding="utf-8"))) == [], path.relative_to(package)


# A folder of 0.1.0


CONFIG = """
method: {name: sat, attack: {name: PGD, threat: {name: Linf, eps: 8/255}, steps: 10}}
student: {name: small_cnn, classes: 10, channels: 1, width: 4}
teacher: null
data: {name: digits}
recipe:
  epochs: 3
  batch: 64
  seed: 5
  val_size: null
  val_attack: {name: PGD, threat: {name: Linf, eps: 4/255}, steps: 10}
fingerprint: {ardor: 0.1.0}
"""


@pytest.fixture
def folder(tmp_path):
    """Written by hand: no key that came later, a last line cut short by a kill, and half of a state beside it."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    lines = [
        {"epoch": 1, "loss": 2.0, "val_clean": None, "val_robust": None, "best": False},
        {"epoch": 2, "loss": 1.5, "val_clean": 0.75, "val_robust": 0.5, "best": True},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"epoch": 3, "lo')
    (tmp_path / ".state.new.safetensors.0123456789ab.tmp").write_bytes(b"half")
    net = ardor.models.build("small_cnn", classes=10, channels=1, width=4)
    write_tensors(tmp_path / "best.safetensors", net.state_dict(), {"epoch": "2", "val_robust": "0.5"})
    write_tensors(tmp_path / "last.safetensors", net.state_dict(), {"epoch": "1", "val_robust": "None"})
    return tmp_path


def test_the_configuration_is_completed(folder):
    config = Run(folder).config
    written = yaml.safe_load(CONFIG)
    absent = {
        "precision": "float32", "attack_precision": "float32", "teacher_precision": "float32", "compile": False,
        "sync_batchnorm": False,
        "area": [0.08, 1], "ratio": [0.75, "4/3"], "views": 0, "jitter": [0, 0, 0, 0], "randaugment": [0, 0],
        "warmup": 0.0, "clip": None, "accumulate": 1, "eps_ramp": None, "patience": 0, "awp": 0.0, "awp_from": 1,
        "late": None, "late_from": 1, "erase": 0.0, "cutout": 0, "mix": "none", "mix_alpha": 1.0,
    }  # fmt: skip
    completed = {"method": written["method"] | {"smoothing": 0.0}, "recipe": written["recipe"] | absent}
    assert config == written | completed | {"soft_labels": "live"}
    assert Run(folder).threat == {"name": "Linf", "eps": "8/255"}
    Run(folder).require(config | {"threads": 2})
    with pytest.raises(RunError, match=r"recipe\.precision: bfloat16 here, float32 there"):
        Run(folder).require(config | {"recipe": config["recipe"] | {"precision": "bfloat16"}})


def test_a_threat_of_a_users_own_is_passed_over(folder):
    (folder / "config.yaml").write_text(CONFIG.replace("name: Linf, eps: 8/255", "name: mine.py:Patch, size: 3"))
    assert Run(folder).threat == {"name": "Linf", "eps": "4/255"}
    (folder / "config.yaml").write_text("student: {name: small_cnn}\nmethod: sat\n")
    assert Run(folder).threat == {}


def test_the_metrics_end_before_the_line_that_was_cut(folder):
    run = Run(folder)
    assert [line["epoch"] for line in run.metrics()] == [1, 2]
    run.drop_after(2)
    assert (folder / "metrics.jsonl").read_text().endswith("}\n"), "the next line begins on its own"
    run.append({"epoch": 3})
    assert [line["epoch"] for line in run.metrics()] == [1, 2, 3]
    run.drop_after(1)
    assert [line["epoch"] for line in run.metrics()] == [1]


def test_the_record_is_of_the_epoch_of_the_checkpoint(folder):
    run = Run(folder)
    attack = {"name": "PGD", "threat": {"name": "Linf", "eps": "4/255"}, "steps": 10}
    assert run.record("best") == Validation(2, 0.75, 0.5, attack)
    assert run.record("last") is None, "its epoch was not validated"
    with pytest.raises(CheckpointError, match=r"averaged\.safetensors"):
        run.record("averaged")


def test_the_net_is_loaded(folder):
    net = ardor.models.load(folder)
    assert net.built_as == {"name": "small_cnn", "classes": 10, "channels": 1, "width": 4}
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert Run(folder).checkpoints() == ["best", "last"]
    with pytest.raises(CheckpointError, match="got best and last"):
        ardor.models.load(folder, checkpoint="averaged")


# Files


def test_a_folder_without_a_configuration_is_no_run(tmp_path):
    run = Run(tmp_path / "none")
    assert not run.exists
    assert (run.metrics(), run.reports(), run.checkpoints(), Run.within(tmp_path)) == ([], [], [], [])
    with pytest.raises(RunError, match="expected a run folder"):
        _ = run.config
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunError, match="expected an empty folder or a run"):
        Run(tmp_path).enter({"recipe": {"seed": 0}})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_half_a_configuration_is_written_again(tmp_path):
    (tmp_path / "s0").mkdir()
    (tmp_path / "s0" / ".config.yaml.0123456789ab.tmp").write_text("recipe: {se")
    Run(tmp_path / "s0").enter({"recipe": {"seed": 0}})
    assert Run(tmp_path / "s0").config["recipe"]["seed"] == 0
    assert Run.within(tmp_path) == [tmp_path / "s0"]


def test_reports_of_the_net_and_its_best_checkpoint_come_first(tmp_path):
    run = Run(tmp_path)
    words = [
        ("deployed", "linf", "8_255", "best"),
        ("paper", "linf", "8_255", "last"),
        ("quick", "linf", "8_255", "best"),
        ("paper", "linf", "8_255", "best"),
        ("paper", "linf", "8_255", "best", "limit10"),
    ]
    for name in words:
        run.report(name).write_text("{}")
    assert run.reports() == [run.report(words[i]) for i in (3, 2, 4, 1, 0)]
    assert run.reports("paper", "best") == [run.report(words[i]) for i in (3, 4)]
    assert run.reports(checkpoint="last") == [run.report(words[1])]
    assert journal_of(run.report(words[3])) == tmp_path / "journal-paper-linf-8_255-best"


def test_an_average_of_an_earlier_version_is_completed(folder):
    (folder / "config.yaml").write_text(CONFIG + "averaging: {name: EMA, decay: 0.9, warmup: true}\n")
    assert Run(folder).config["averaging"] == {"name": "EMA", "decay": 0.9, "warmup": True, "start": 0.0}
    (folder / "config.yaml").write_text(CONFIG + "averaging: {name: SWA, start: 3, every: 1}\n")
    assert Run(folder).config["averaging"] == {"name": "SWA", "start": 3, "every": 1}


STUDENT = {"student": "a1", "student_function": {"logits": [[1.0]]}}
TRAINED = {"student": "b2", "student_function": {"logits": [[9.0]]}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": {"lr": 0.1}}, "got another (recipe.lr: 0.1 here, 0.2 there): pass lr=0.2 as there, or run= with a"),
        (
            {"recipe": {"lr": 0.1}, "method": {"name": "rslad", "alpha": "1/2"}},
            ": pass alpha=5/6 and lr=0.2 as there, or run= with a new name",
        ),
        (
            {"fingerprint": TRAINED},
            "got another (fingerprint.student: b2 here, a1 there): build the student anew, for training changes it, or "
            "pass run= with a new name",
        ),
        (
            {"fingerprint": TRAINED, "recipe": {"lr": 0.1}},
            ": build the student anew, for training changes it, pass lr=0.2 as there, or run= with a new name",
        ),
        ({"fingerprint": STUDENT | {"student_function": {"logits": [[9.0]]}}}, "there): pass run= with a new name"),
        ({"recipe": {"lr": 0.2, "seed": 1}, "fingerprint": TRAINED}, "there): pass run= with a new name"),
        ({"recipe": {"lr": 0.2, "late": "idbh-weak"}}, "there): pass run= with a new name"),
        ({"recipe": {"lr": 0.1, "awp": 0.1, "clip": 1.0}}, "there): pass run= with a new name"),
        ({"method": {"name": "kd", "alpha": "5/6"}}, "there): pass run= with a new name"),
    ],
)
def test_another_configuration_is_refused_with_what_to_pass(tmp_path, change, words):
    run = Run(tmp_path / "r")
    method, recipe = {"name": "rslad", "alpha": "5/6"}, ABSENT | {"lr": 0.2}
    made = {"method": method, "soft_labels": "live", "recipe": recipe, "fingerprint": STUDENT}
    run.enter(made)
    changed = {key: ABSENT | change[key] if key == "recipe" else change[key] for key in change}
    with pytest.raises(RunError) as error:
        run.enter(made | changed)
    assert words in str(error.value)
