"""Code is run only where it is typed: no file that is read names any."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import save_file

import ardor
from ardor import models
from ardor.cli.main import main
from ardor.deployment.export.onnx_session import Session
from ardor.diagnostics.record import record_of_run
from ardor.errors import ArdorError, ConfigError
from ardor.storage.imports import resolve
from ardor.storage.recipes import read_recipe
from ardor.storage.runs import Run
from ardor.storage.tensors import read_tensors, write_tensors
from ardor.storage.trust import require_no_code

EVIL = """
import pathlib
pathlib.Path("ran").touch()

from torch import nn

def f(**options):
    return nn.Linear(1, 1)
"""
NET = """
from torch import nn

def build(classes=10, channels=1):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, classes))

class Net(nn.Sequential):
    def __init__(self, classes=10, channels=1):
        super().__init__(nn.Flatten(), nn.Linear(64 * channels, classes))
"""
QUICK = "--data digits --recipe.epochs 1 --recipe.augment none --recipe.batch 256 --recipe.device cpu --method natural"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "net.py").write_text(NET)
    yield tmp_path
    assert not (tmp_path / "ran").exists(), "code of a file was run"


@pytest.fixture(scope="session")
def made(tmp_path_factory, shared):
    def make(folder):
        recipe = ardor.Recipe(epochs=1, batch=256, augment="none", device="cpu")
        net = models.build("small_cnn", channels=1, width=4)
        train, val, _ = ardor.data.load("digits")
        ardor.distill(net, None, ardor.methods.SAT(ardor.attacks.PGD(steps=1)), train, recipe, val=val, run=folder)

    return shared("run-of-digits", make)


@pytest.fixture
def run(folder, made):
    copy = folder / "run"
    copy.mkdir()
    for path in made.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def change(run, key, value):
    config = yaml.safe_load((run / "config.yaml").read_text())
    *path, last = key.split(".")
    part = config
    for name in path:
        part = part[name]
    part[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def refused(capsys, *words):
    capsys.readouterr()
    assert main(list(words)) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "internal error" not in text
    return text


CODE = ["evil.py:f", "evil:f", "os:system", "./evil.py:f", "a b:f", "a.b-c:f", "xnpz:f", "/tmp/evil.py:f"]
PLAIN = [
    "npz:a:b.npz", "folder:x", "store:a:b", "dataset:x", "robustbench:a/b", "hf:a/b@c", "timm:resnet18", "digits",
    "runs/a", 3, None, "ardor.bench.labels:both", "ardor.experiments.label_study:LabelKinds",
]  # fmt: skip


@pytest.mark.parametrize("key", ["data", "student", "teacher", "method", "averaging", "optimiser", "other"])
def test_names_of_code_are_refused_at_any_depth(key):
    for name in CODE:
        deep = {key: {"attack": {"list": [{"threat": {"eps": {"name": name}}}]}}}
        for content in ({key: {"name": name}}, deep, {"variants": {"x": {key: {"name": [name]}}}}):
            with pytest.raises(ConfigError, match=r"in r.yaml, code that was not run"):
                require_no_code(content, "r.yaml")
    for name in PLAIN:
        require_no_code({key: {"name": name}}, "r.yaml")
    require_no_code({key: {"root": "a:b", "device": "cuda:1", "note": "at 12:30", "url": "https://host/x"}}, "r.yaml")
    with pytest.raises(ConfigError, match="command line"):
        require_no_code({key: {"trust_code": True}}, "r.yaml", trust_code=True)


def test_trust_is_for_files_in_the_working_folder(folder):
    require_no_code({"student": "net.py:Net"}, "r.yaml", trust_code=True)
    (folder / "link.py").symlink_to("/dev/null")
    for name, message in {
        "os:system": "command line only",
        "net:Net": "command line only",
        "/tmp/net.py:Net": "working folder",
        "../net.py:Net": "working folder",
        "link.py:Net": "working folder",
    }.items():
        with pytest.raises(ConfigError, match=message):
            require_no_code({"student": {"name": name}}, "r.yaml", trust_code=True)


@pytest.mark.parametrize("name", ["npz", "folder", "robustbench", "hf", "timm"])
def test_what_stands_before_a_colon_in_names_of_data_and_nets_is_no_module(folder, name):
    (folder / f"{name}.py").write_text(EVIL)
    (folder / f"{name}:evil.py").write_text(EVIL)
    for reference in (f"{name}:f", f"{name}:evil.py:f"):
        with pytest.raises(ConfigError, match=r"file\.py:Name"):
            resolve(reference, "model")


@pytest.mark.parametrize(
    "text",
    [
        "data: {name: 'evil:f'}", "data: evil.py:f", "student: evil.py:f", "teacher: evil.py:f", "method: evil:f",
        "method: {name: sat, attack: 'evil:f'}", "method: {name: sat, attack: {steps: {name: 'evil:f'}}}",
        "threat: {name: linf, eps: {name: 'evil:f'}}", "averaging: evil.py:f", "recipe: {val_attack: 'evil:f'}",
        "recipe: {lr: {name: 'evil:f'}}", "variants: {smoke: {student: evil.py:f}}", "data: 'npz:evil.py:f'",
        "trust_code: true", "teacher: {name: evilrun, trust_code: true}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("word", ["plan", "train"])
def test_a_recipe_names_no_code(folder, capsys, text, word):
    base = {"data": "digits", "student": {"name": "small_cnn", "width": 4}, "method": "natural"}
    (folder / "r.yaml").write_text(yaml.safe_dump(base | yaml.safe_load(text)))
    before = sorted(folder.rglob("*"))
    text = refused(capsys, word, "r.yaml")
    assert "npz" in text or (re.search("evil|trust_code", text) and "r.yaml" in text)
    assert sorted(folder.rglob("*")) == before


COMMANDS = ["evaluate", "doctor", "export", "deploy", "push", "report", "gate", "train", "plan"]


@pytest.mark.parametrize("word", COMMANDS)
def test_no_command_runs_the_code_that_a_run_names(run, capsys, word):
    assert main(["evaluate", "run", "--suite", "quick", "--limit", "10"]) == 0
    change(run, "student.name", "evil.py:f")
    assert "--trust-code" in refused(capsys, word, "run")
    change(run, "student.name", "os:system")
    assert "command line only" in refused(capsys, word, "run", "--trust-code")
    change(run, "student.name", "small_cnn")
    change(run, "data", {"name": "evil.py:f"})
    assert "--trust-code" in refused(capsys, word, "run")
    change(run, "data", {"name": "digits", "val": {"name": "evil:f"}})
    assert "evil:f" in refused(capsys, word, "run")


@pytest.mark.parametrize("key", ["method.attack.threat.eps", "recipe.val_attack.steps", "recipe.val_attack.threat.eps"])
@pytest.mark.parametrize("word", ["evaluate", "gate", "doctor"])
def test_options_below_a_name_name_no_code_either(run, capsys, key, word):
    change(run, key, {"name": "evil:f"})
    main([word, "run", "--limit", "10"])
    assert "internal error" not in capsys.readouterr().err


def test_a_run_is_judged_where_only_its_method_is_code(run):
    change(run, "method", {"name": "evil.py:f"})
    assert main(["evaluate", "run", "--suite", "quick", "--limit", "10"]) == 0
    assert record_of_run(run) is not None


def test_metadata_of_weights_name_no_code(run, capsys):
    tensors, metadata = read_tensors(run / "best.safetensors")
    net = json.loads(metadata["net"])
    for evil in (net | {"name": "evil.py:f"}, net | {"width": {"name": "evil:f"}}):
        write_tensors(run / "best.safetensors", tensors, {**metadata, "net": json.dumps(evil)})
        with pytest.raises(ArdorError):
            models.load(run / "best.safetensors", trust_code=True)
    (run / "evil").mkdir()
    save_file(tensors, run / "evil/model.safetensors")
    for evil in (net | {"name": "evil.py:f"}, net | {"width": {"name": "evil:f"}}):
        (run / "evil/config.json").write_text(json.dumps({"ardor": evil}))
        with pytest.raises(ArdorError):
            models.load(run / "evil", trust_code=True)


def test_a_teachers_run_names_no_code(run, capsys):
    change(run, "student.name", "evil.py:f")
    words = f"--student small_cnn --teacher run --run s {QUICK.replace('natural', 'kd')}".split()
    assert "--trust-code" in refused(capsys, "train", *words)
    assert "--trust-code" in refused(capsys, "evaluate", "--model", "run", "--data", "digits")
    assert "--trust-code" in refused(capsys, "gate", "small_cnn", "--teacher.weights", "run/best.safetensors",
                                     "--teacher.width", "4", "--data", "digits", "--student", "run")  # fmt: skip


def test_a_typed_student_is_resumed_and_judged(folder, capsys):
    words = f"train --student net.py:Net {QUICK} --run r".split()
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("Next: ardor evaluate r --trust-code\n")
    assert main(words) == 0, "the same command needs no leave: the configuration is only compared"
    assert "--trust-code" in refused(capsys, "evaluate", "r")
    with pytest.raises(ConfigError, match="trust_code=True"):
        models.load("r")
    for word in ("evaluate", "doctor", "gate", "report", "plan", "train"):
        options = ["--limit", "20"] if word in ("evaluate", "doctor", "gate", "report") else []
        options += ["--suite", "quick"] if word == "evaluate" else []
        assert main([word, "r", "--trust-code", *options]) in (0, 1), word
    assert main(["compare", "r", "r"]) == 0, "nothing is built"
    assert models.load("r", trust_code=True).built_as["name"] == "net.py:Net"
    capsys.readouterr()


def test_an_onnx_file_names_no_code(run, capsys):
    pytest.importorskip("onnxscript")
    from ardor.deployment.export.seal import KEY, _entry, seal

    assert main(["export", "run", "--limit", "20"]) == 0
    np.savez("d.npz", x_test=np.zeros((20, 8, 8), "uint8"), y_test=np.arange(20) % 10)
    file = run / "best.onnx"
    content, metadata = file.read_bytes(), Session(file).metadata
    body = content[: content.rindex(_entry(KEY, json.dumps(metadata)))]
    words = ["evaluate", "run/best.onnx", "--suite", "square", "--limit", "5"]
    file.write_bytes(seal(body, metadata | {"threat": {"name": "linf", "eps": {"name": "evil:f"}}}))
    assert "evil:f" in refused(capsys, *words, "--trust-code")
    file.write_bytes(seal(body, metadata | {"check": {"name": "evil.py:f"}}))
    text = refused(capsys, *words, "--trust-code")
    assert "evil.py:f" in text
    assert "--data" in text
    assert main([*words, "--data", "npz:d.npz"]) == 0


def test_shipped_recipes_name_no_code():
    for path in (Path(ardor.__file__).parents[1] / "recipes").glob("*.yaml"):
        read_recipe(path)


def test_a_part_of_a_run_is_checked(run):
    assert Run(run).part("data")["name"] == "digits"
    with pytest.raises(ConfigError, match=r"expected nothing: \{name: NAME\} in .*config\.yaml"):
        Run(run).part("nothing")
