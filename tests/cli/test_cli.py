"""The shell as a stranger meets it: words that work, and refusals of one sentence that touch nothing."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import ardor
import ardor.models.builders
from ardor.cli.main import main
from ardor.cli.selection import data_of_file
from ardor.cli.words import split_words
from ardor.evaluation.checks.recipe import with_training
from ardor.evaluation.report import Report

QUICK = [
    "--data", "digits", "--student", "small_cnn", "--student.width", "4", "--recipe.epochs", "1",
    "--recipe.augment", "none", "--recipe.batch", "256", "--recipe.device", "cpu",
]  # fmt: skip
ONE_STEP = ["--method.attack.steps", "1"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder):
    assert main(["train", *QUICK, "--method", "sat", *ONE_STEP, "--threat.eps", "0.1", "--run", "runs/sat"]) == 0
    return folder / "runs" / "sat"


def refused(capsys, *words, code=2):
    """The one sentence that `words` end with."""
    capsys.readouterr()
    assert main(list(words)) == code
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    lines = shown.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("ardor: ")
    return lines[0]


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"}


def test_train_evaluate_and_a_report_file(run, capsys):
    capsys.readouterr()
    assert main(["evaluate", "runs/sat", "--suite", "quick"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"\| clean \| \d+\.\d\d \|", shown)
    assert "n = 449" in shown
    report = Report.load(run / "report-quick-linf-0.1-best.json")
    assert report.threat["eps"] == 0.1
    assert [f.name for f in report.findings].count("short_reach") == 1, "what its configuration says of a run"
    assert "takes 1 step of 0.025, less than its eps" in shown
    assert with_training(report.findings, report.training, 0.1) == report.findings, "nothing twice"
    assert (
        main(["evaluate", "runs/sat", "--suite", "quick", "--checkpoint", "last", "--limit", "20", "--out", "r.json"])
        == 0
    )
    assert Report.load("r.json").n == 20


def test_numbers_are_read_as_fractions_and_saved_as_written(folder):
    words = ["--method", "rslad", "--teacher", "runs/t", "--method.alpha", "4/6", "--threat.eps", "24/255", *ONE_STEP]
    assert main(["train", *QUICK, "--method", "natural", "--run", "runs/t"]) == 0
    words += ["--gate=false"]  # one step makes no teacher
    assert main(["train", *QUICK, *words, "--recipe.lr", "1/100", "--run", "runs/r"]) == 0
    config = yaml.safe_load((folder / "runs/r/config.yaml").read_text())
    assert config["method"]["alpha"] == "4/6"
    assert config["method"]["attack"]["threat"] == {"name": "Linf", "eps": "24/255"}
    assert config["recipe"]["lr"] == "1/100"
    assert config["recipe"]["val_attack"]["threat"]["eps"] == "24/255"
    assert config["teacher"]["weights"] == "runs/t/best.safetensors"
    words = ["--method", "sat", *ONE_STEP, "--method.attack.threat.eps", "0.07", "--recipe.val_attack.steps", "3"]
    assert main(["train", *QUICK, *words, "--run", "runs/s"]) == 0
    validation = yaml.safe_load((folder / "runs/s/config.yaml").read_text())["recipe"]["val_attack"]
    assert (validation["threat"]["eps"], validation["steps"]) == (0.07, 3), "under the threat of the method"


def test_a_recipe_and_words_and_which_wins(folder, capsys):
    (folder / "r.yaml").write_text(
        "data: digits\nstudent: {name: small_cnn, width: 4}\nmethod: {name: trades, beta: 2, attack: {steps: 1}}\n"
        "threat: {name: l2, eps: 1/2}\n"
        "recipe: {epochs: 1, batch: 256, augment: none, milestones: [1, 2], device: cpu}\n"
    )
    assert main(["train", "r.yaml", "--run", "a", "--recipe.lr", "0.01"]) == 0
    config = yaml.safe_load((folder / "a/config.yaml").read_text())
    assert (config["method"]["beta"], config["recipe"]["lr"], config["recipe"]["milestones"]) == (2, 0.01, [1, 2])
    assert config["method"]["attack"]["threat"] == {"name": "L2", "eps": "1/2"}
    # another method than the recipe's does not inherit its options
    assert main(["train", "r.yaml", "--run", "b", "--method", "natural"]) == 0
    # a run's own config.yaml is a recipe
    assert main(["train", "a/config.yaml", "--run", "c"]) == 0
    again = yaml.safe_load((folder / "c/config.yaml").read_text())
    assert again == config
    one, two = (load_file(folder / d / "last.safetensors") for d in ("a", "c"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_rows_of_numbers_and_switches(folder):
    words = ["--method", "natural", "--recipe.milestones", "3", "5", "7", "--recipe.optimiser.nesterov", "--run", "a"]
    assert main(["train", *QUICK, *words]) == 0
    recipe = yaml.safe_load((folder / "a/config.yaml").read_text())["recipe"]
    assert (recipe["milestones"], recipe["optimiser"]["nesterov"]) == ([3, 5, 7], True)


MINE = """
from dataclasses import dataclass
from ardor.losses import ce, kl

@dataclass
class Mine:
    beta: float = 0.5

    def terms(self, student, teacher, x, y, *, epoch, noise):
        logits = student(x)
        return {"clean": ce(logits, y), "self": self.beta * kl(logits.flip(0).detach(), logits)}
"""
NET = """
from torch import nn

def build(classes=10, channels=1, hidden=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, hidden), nn.ReLU(), nn.Linear(hidden, classes))
"""


def test_a_users_own_method_net_and_data_need_no_registration(folder, capsys):
    (folder / "mine.py").write_text(MINE)
    (folder / "net.py").write_text(NET)
    x, y = (np.random.default_rng(0).random((40, 8, 8)) * 255).astype("uint8"), np.arange(40) % 5
    np.savez(folder / "d.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    words = ["--data", "npz:d.npz", "--student", "net.py:build", "--student.hidden", "6", "--recipe.epochs", "1"]
    mine = ["--method", "mine.py:Mine", "--method.beta", "1/4", "--recipe.augment", "none", "--recipe.device", "cpu"]
    assert main(["train", *words, *mine, "--run", "m"]) == 0
    config = yaml.safe_load((folder / "m/config.yaml").read_text())
    assert config["method"] == {"name": "mine.py:Mine", "beta": "1/4"}
    save_file(load_file(folder / "m/last.safetensors"), folder / "w.safetensors")
    there = ["--model", "net.py:build", "--model.hidden", "6", "--weights", "w.safetensors", "--data", "npz:d.npz"]
    assert main(["evaluate", *there, "--threat.eps", "8/255", "--suite", "quick"]) == 0
    assert "8/255" in capsys.readouterr().out
    (folder / "mine.py").write_text(MINE.replace("0.5", "0.7"))
    assert "fingerprint.method" in refused(capsys, "train", *words, *mine, "--run", "m")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--methd", "sat"], 'did you mean "--method"'),
        (["--method", "rslda"], 'did you mean "rslad"'),
        (["--method.alpah", "1"], "did you mean --method.alpha"),
        (["--method.alpha", "lots"], "as a number such as 0.1 or 8/255"),
        (["--recipe.epoch", "1"], "did you mean --recipe.epochs"),
        (["--recipe.epochs", "0"], "above 0"),
        (["--data", "digit"], 'did you mean "digits"'),
        (["--student", "small_cn"], 'did you mean "small_cnn"'),
        (["--student.widht", "4"], "did you mean --student.width"),
        (["--student.classes", "7"], "--student.classes 10"),
        (["--student.channels", "3"], "--student.channels 1"),
        (["--threat.eps", "8"], "type 8/255"),
        (["--threat.eps", "0"], "positive eps"),
        (["--threat.eps", "-0.1"], "positive eps"),
        (["--threat", "l3"], "expected threat as one of l2, linf"),
        (["--threat", "l2", "--threat.eps", "128"], "type 128/255"),
        (["--teacher", "runs/none"], "runs/none"),
        (["--method", "rslad"], "--teacher"),
        (["--method", "none.py:Mine"], "none.py"),
        (["--recipe.device", "abacus"], "device"),
        (["--suite", "quick"], "got --suite, an option of ardor evaluate: correct it, or leave it out"),
        (["--recipe.epochs", "two"], "recipe.epochs"),
        (["--threads", "two"], "expected a whole number for --threads, got two"),
        (["extra"], "RECIPE"),
        (["--student"], "expected a value for --student, got none: type --student VALUE"),
    ],
)
def test_bad_words_are_refused_in_one_sentence(folder, capsys, words, expected):
    sentence = refused(capsys, "train", *(QUICK if words[0] not in QUICK else _without(words[0])), *words)
    assert expected.lower() in sentence.lower()
    assert tree(folder) == {}, "nothing was written"


def _without(option):
    """QUICK with an option and its value left out, so that a test can give another."""
    place = QUICK.index(option)
    return QUICK[:place] + QUICK[place + 2 :]


def test_missing_words(folder, capsys):
    assert "--data" in refused(capsys, "train")
    assert "RUN" in refused(capsys, "evaluate")
    assert "RUN" in refused(capsys, "report")
    assert "type ardor compare A B (ardor compare --help)" in refused(capsys, "compare", "runs/a")
    assert "expected TABLE, got none: type ardor bench TABLE" in refused(capsys, "bench")
    assert "expected RUN, got none: type ardor push RUN" in refused(capsys, "push")
    assert "runs/none" in refused(capsys, "evaluate", "runs/none")
    assert "nope.yaml" in refused(capsys, "train", "nope.yaml")
    assert "demo, models, data check" in refused(capsys, "dmeo")
    (folder / "bad.yaml").write_text("method: [unclosed")
    assert "bad.yaml" in refused(capsys, "train", "bad.yaml")
    (folder / "key.yaml").write_text("data: digits\nstudent: small_cnn\nmethod: {name: sat, alpah: 1}\n")
    assert "alpah" in refused(capsys, "train", "key.yaml")
    assert sorted(tree(folder)) == ["bad.yaml", "key.yaml"]


def test_a_run_is_never_overwritten_by_another(run, capsys, folder):
    before = tree(folder)
    words = [*QUICK, "--method", "sat", *ONE_STEP, "--threat.eps", "0.1", "--run", "runs/sat"]
    assert "recipe.lr: 0.3 here, 0.1 there" in refused(capsys, "train", *words, "--recipe.lr", "0.3")
    assert tree(folder) == before
    assert main(["train", *words]) == 0
    assert "Complete before, in" in capsys.readouterr().out, "the same command again has nothing left to do"
    assert tree(folder) == before


def test_teacher_of_other_classes_or_channels(folder, capsys):
    for option, name in (("classes", "7"), ("channels", "3")):
        net = ardor.models.build("small_cnn", **{"classes": 10, "channels": 1, "width": 4} | {option: int(name)})
        save_file(net.state_dict(), folder / "t.safetensors")
        words = ["--teacher", "small_cnn", "--teacher.width", "4", "--teacher.weights", "t.safetensors"]
        assert option in refused(capsys, "train", *QUICK, *words, f"--teacher.{option}", name)
        assert option in refused(capsys, "train", *QUICK, *words)
    (folder / "t.safetensors").write_bytes((folder / "t.safetensors").read_bytes()[:300])
    assert "t.safetensors" in refused(capsys, "train", *QUICK, *words)
    (folder / "t.pt").write_text("<html>404</html>")
    assert "t.pt" in refused(capsys, "train", *QUICK, *words[:-1], "t.pt")
    assert not (folder / "runs").exists()


class Bomb:
    def __reduce__(self):
        return open, ("exploded", "w")


def test_a_pickle_bomb_does_not_explode(folder, capsys):
    torch.save({"state_dict": Bomb()}, folder / "bomb.pt")
    words = ["--model", "small_cnn", "--weights", "bomb.pt", "--data", "digits"]
    assert "bomb.pt" in refused(capsys, "evaluate", *words)
    assert not (folder / "exploded").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x, y: (x * 255, y), "0-255"),
        (lambda x, y: (x - 0.5, y), "normalised"),
        (lambda x, y: (np.where(x > 0.9, np.nan, x), y), "NaN"),
        (lambda x, y: (x, y + 3), "labels in 0 .. 4"),
        (lambda x, y: (x[:0], y[:0]), "empty"),
    ],
)
def test_bad_data_is_refused(folder, capsys, change, expected):
    x, y = np.random.default_rng(0).random((40, 8, 8)).astype("float32"), np.arange(40) % 5
    x, y = change(x, y)
    np.savez(folder / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    words = ["--data", "npz:d.npz", "--data.classes", "5", "--student", "small_cnn", "--method", "natural"]
    assert expected.lower() in refused(capsys, "train", *words).lower()
    assert list(tree(folder)) == ["d.npz"]


def test_debug_shows_where(capsys):
    assert main(["train", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["tarin"], ["train", "--thraet.eps", "1"]])
def test_torch_is_not_imported_where_nothing_is_computed(words):
    code = "import sys; from ardor.cli.main import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--method", "trades"], ["--method=trades"], ["trades"]])
def test_help_shows_the_options_of_what_is_named_with_their_text(capsys, words):
    assert main(["train", *words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"--method\.beta +6 +Weight of the robust term", shown)
    assert re.search(r"--recipe\.epochs +\d+ +Passes over train", shown)


def test_dotted_options_of_a_part_that_is_named_by_an_option():
    for words in (["--method.attack", "pgd", "--method.attack.steps", "3"], ["--a.b.steps", "3", "--a.b", "pgd"]):
        _, overrides = split_words(words)
        ((_, ((_, part),)),) = ((key, value.items()) for key, value in overrides.items())
        assert part == {"name": "pgd", "steps": "3"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["doctor", "--threat.esp", "1"], "did you mean --threat.eps?"),
        (["doctor", "--threat.eps", "lots"], "a number such as 0.1 or 8/255, got 'lots'"),
        (["doctor", "--threat.eps", "0.1", "0.2"], "a number such as 0.1 or 8/255, got ['0.1', '0.2']"),
        (["doctor", "--thraet.eps", "1"], 'got --thraet.eps (did you mean "threat"?)'),
        (["doctor", "--record", "8/x"], "--record: expected a number such as 0.1 or 8/255, got '8/x'"),
        (["doctor", "--record", "300/255"], "expected a record in [0, 1], got 1.17647"),
        (["report", "--threat.eps", "1"], "expected no dotted options for ardor report, got --threat.eps"),
        (["data", "prepare", "photos", "--data.size", "96"], "got --data.size (did you mean --size?)"),
        (["evaluate", "--recipe.lr", "1"], "got --recipe.lr: leave it out"),
    ],
)
def test_options_of_other_commands_are_refused_in_one_sentence(capsys, words, expected):
    net = ["--model", "small_cnn", "--model.width", "4", "--weights", "w.safetensors", "--data", "digits"]
    save_file(ardor.models.build("small_cnn", classes=10, channels=1, width=4).state_dict(), "w.safetensors")
    assert expected in refused(capsys, words[0], *(net if words[0] == "doctor" else []), *words[1:])


def test_help_can_be_followed(capsys):
    for words, expected in (
        (["--help"], ["demo", "train", "evaluate", "report", "file.py:Name"]),
        (["train", "--method", "trades", "--student", "small_cnn", "--help"], ["--method.beta", "--student.width"]),
        (["evaluate", "--help"], ["RUN", "--weights", "--suite"]),
        (["report", "--help"], ["RUN", "--out"]),
        (["demo", "--help"], ["--all", "--seeds", "--quick"]),
    ):
        assert main(words) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in expected), words
    assert main(["--version"]) == 0
    assert ardor.__version__ in capsys.readouterr().out


def test_options_at_the_top_of_a_command_are_few():
    import inspect
    from dataclasses import fields, is_dataclass

    from ardor.cli.commands import demo, deploy, evaluate, report, train

    for function in (train.train, evaluate.evaluate, report.report, demo.demo, deploy.deploy):
        parameters = inspect.signature(function).parameters.values()
        options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        options += [f.name for p in parameters if is_dataclass(p.default) for f in fields(p.default)]
        assert len({*options} - {"overrides", "trust_code"}) <= 16, function.__name__


def test_the_shell_as_a_process(folder):
    done = subprocess.run(
        [sys.executable, "-m", "ardor", "train", "--metod", "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ardor: ")
    assert done.stdout == ""


def test_what_a_user_must_give_is_asked_for_and_taken(folder, capsys):
    (folder / "mine.py").write_text(MINE.replace("beta: float = 0.5", "beta: float"))
    words = [*QUICK, "--method", "mine.py:Mine", "--run", "m"]
    assert "beta" in refused(capsys, "train", *words)
    assert main(["train", *words, "--method.beta", "1/4"]) == 0
    assert yaml.safe_load((folder / "m/config.yaml").read_text())["method"]["beta"] == "1/4"


@pytest.mark.parametrize(
    "recipe",
    [
        "threat: {eps: 0.2}\nmethod: {name: sat, attack: [1]}",
        "method: {name: sat, attack: {name: 3}}",
        "method: {name: sat, attack: {threat: 0.1}}",
        "method: 3",
        "student: [1]",
        "recipe: 5",
        "recipe: [1, 2]",
        "recipe: {epochs: 2.5}",
        "recipe: {epochs: many}",
        "recipe: {schedule: foo}",
        "1: 2",
        "threat: linf2",
    ],
)
def test_recipes_of_the_wrong_shape_train_nothing(folder, capsys, recipe):
    base = {"data": "digits", "student": {"name": "small_cnn", "width": 4}, "method": "natural"}
    said = yaml.safe_load(recipe)
    (folder / "r.yaml").write_text(yaml.safe_dump(base | said))
    refused(capsys, "train", "r.yaml")
    assert list(tree(folder)) == ["r.yaml"]


@pytest.mark.parametrize(
    "words",
    [
        ["--recipe.optimiser.momentum", "-1"],
        ["--recipe.optimiser.momentum", "2"],
        ["--recipe.padding", "-1"],
        ["--recipe.drop", "-1"],
        ["--recipe.milestones", "0"],
        ["--recipe.seed", "99999999999999999999999"],
        ["--recipe.optimiser.weight_decay", "-1"],
        ["--recipe.optimiser.nesterov", "--recipe.optimiser.momentum", "0"],
        ["--method", "os:getcwd"],
        ["--method", "builtins:dict"],
        ["--run", "x" * 300],
    ],
)
def test_numbers_that_cannot_be_meant(folder, capsys, words):
    refused(capsys, "train", *QUICK, "--method", "natural", *words)
    assert tree(folder) == {}


def test_an_unexpected_error_is_one_sentence_too(folder, capsys):
    (folder / "net.py").write_text("def build(classes=10):\n    raise ValueError('my own mistake')\n")
    words = ["--data", "digits", "--student", "net.py:build", "--method", "natural"]
    sentence = refused(capsys, "train", *words)
    assert "ValueError: my own mistake" in sentence
    assert "--debug" in sentence


def test_a_folder_is_no_file_to_write(run, capsys):
    assert "expected a file to write" in refused(capsys, "evaluate", "runs/sat", "--suite", "quick", "--out", ".")
    assert "batch" in refused(capsys, "evaluate", "runs/sat", "--batch", "0")


def test_a_run_that_is_deleted_while_it_is_evaluated_is_not_made_again(run, monkeypatch, capsys):
    """The report is of use all the same."""
    from ardor.cli.commands import evaluate

    def judge(*args, **kwargs):
        report = ardor.evaluate(*args, **kwargs)
        shutil.rmtree(run)
        return report

    monkeypatch.setattr(evaluate, "judge", judge)
    assert main(["evaluate", "runs/sat", "--suite", "quick", "--limit", "8"]) == 0
    assert not run.exists()
    report = Report.load("report-quick-linf-0.1-best-limit8.json")
    assert report.training["method"]["name"] == "sat"


def test_ctrl_c_says_that_the_same_command_goes_on(run, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ardor.cli.commands.evaluate.judge", interrupted)
    capsys.readouterr()
    assert main(["evaluate", "runs/sat", "--suite", "quick"]) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_an_exported_file_is_evaluated_on_the_data_of_its_run_or_at_its_own_size(tmp_path):
    metadata = {"check": {"name": "folder:photos"}, "input": {"shape": [3, 48, 48]}}
    assert data_of_file(tmp_path / "n.onnx", metadata) == {"name": "folder:photos", "size": 48}
    assert data_of_file(tmp_path / "n.onnx", metadata | {"check": {"name": "digits"}}) == {"name": "digits"}
    trained = {"name": "folder:photos", "size": 48, "resize": "squash"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": trained}))
    assert data_of_file(tmp_path / "n.onnx", metadata) == trained
    assert data_of_file(tmp_path / "n.onnx", metadata | {"check": {"name": "store:s"}}) == {
        "name": "store:s",
        "size": 48,
    }
