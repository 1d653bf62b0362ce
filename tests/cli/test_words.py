"""The options that messages advise exist in the command that shows them; in Python they are arguments."""

import ast
import re

import pytest

import ardor
from ardor import data, methods, models
from ardor.attacks.threat import L2, Linf
from ardor.cli.main import COMMANDS, KEPT, main, parse
from ardor.cli.options import option_rows
from ardor.cli.selection import find_threat
from ardor.cli.words import NETS, as_options, has_option
from ardor.data import reader
from ardor.errors import OPTION, ConfigError, RunError, as_arguments
from ardor.experiments.label_study import LabelKinds, both
from ardor.models.builders import BUILDERS
from ardor.storage.config import classes
from ardor.storage.recipes import recipe_for
from ardor.storage.runs import ABSENT, Run
from ardor.training.job import findings_of
from tests.conftest import ROOT, job_of

MAKERS = {
    "method": [*(getattr(methods, name) for name in methods.__all__), LabelKinds],
    "recipe": [ardor.Recipe],
    "threat": list(classes("threat").values()),
    "averaging": list(classes("averaging").values()),
    "data": [data.load, *map(reader, ("digits", "cifar10", "npz:x", "folder:x"))],
    **{net: [models.load, models.build, both, *BUILDERS.values()] for net in (*NETS, "transfer_from")},
}
"""What a dotted option is a parameter of."""
FLAGS_OF_OTHERS = {
    "silent",
    "ignore-scripts",
    "no-deps",
    "nproc-per-node",
    "nnodes",
    "standalone",
    "rdzv-backend",
    "rdzv-endpoint",
    "rdzv-id",
    "max-restarts",
    "run-path",
    "logdir",
    "backend-store-uri",
    "help",
    "version",
    "debug",
    "no_gate",
}
"""Of npm, pip, torchrun, and of every command."""


def texts():
    """(place, text) of every string in the package; what an f-string puts in is X."""
    for path in sorted((ROOT / "ardor").rglob("*.py")):
        tree = ast.parse(path.read_text())
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield path, "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                yield path, node.value


ADVISED = [(path, text) for path, text in texts() if OPTION.search(text)]


def exists(option):
    """Whether a dotted option is a parameter of what its part may be."""
    part, dot, rest = option.partition(".")
    if not dot or "X" in option or part not in MAKERS or option == "data.n":  # of the guide's own data
        return True
    attack = [one for kind in classes("attack").values() for one in option_rows(part, kind)]
    rows = {row[0] for maker in MAKERS[part] for row in option_rows(part, maker)} | {row[0] for row in attack}
    last = rest.rpartition(".")[2]
    return any(row.endswith(f".{last}") for row in rows) or last == "name"


def known(option):
    return "X" in option or option in FLAGS_OF_OTHERS or any(has_option(command, option) for command in COMMANDS)


def test_every_option_in_a_message_or_page_exists():
    pages = [(path, path.read_text()) for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    pages = [(path, text) for path, text in pages if path.name not in ("LOG.md", "performance.md")]
    assert len(ADVISED) > 100
    for path, text in [*ADVISED, *pages]:
        for option in OPTION.findall(text):
            assert known(option), (path, option)
            assert exists(option), (path, option)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_its_own_options_or_names_the_command_of_the_option(command):
    others = [path for path in (ROOT / "ardor/cli/commands").glob("*.py") if path.stem != command]
    for path, text in ADVISED:
        if path in others or path.name in ("npm.py", "errors.py", "words.py"):
            continue
        shown = as_options(text, command)
        for found in OPTION.finditer(shown):
            option, behind = found[1], shown[found.end() :]
            of = re.match(r"(?: [^\s()]+)* \(of ardor (\w+)\)", behind)
            of = of or re.search(r"\bardor (\w+) [^;:]*$", shown[: found.start()])
            if "X" not in option and not shown[: found.start()].endswith("got ") and option not in FLAGS_OF_OTHERS:
                assert has_option(of[1] if of and of[1] in COMMANDS else command, option), (path, text, shown)


@pytest.mark.parametrize(
    ("text", "command", "shown"),
    [
        ("type --student.width 16", "doctor", "type --model.width 16"),
        ("type --model.width 16", "gate", "type --student.width 16"),
        ("type --model.checkpoint last", "evaluate", "type --checkpoint last"),
        ("type --model.weights FILE", "export", "type --weights FILE"),
        ("type --run with a new name", "train", "type --run with a new name"),
        ("type --suite autoattack", "push", "type --suite autoattack (of ardor evaluate)"),
        ("type ardor evaluate RUN --suite quick", "compare", "type ardor evaluate RUN --suite quick"),
    ],
)
def test_options_in_the_words_of_a_command(text, command, shown):
    assert as_options(text, command) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("type --student.width 16", "pass width=16"),
        ("type --run with a new name", "pass run= with a new name"),
        ("type --teacher.mean 0.3 0.4 --teacher.std 1 2, or", "pass mean=[0.3, 0.4] std=[1, 2], or"),
        ("get it (--data.download true)", "get it (download=True)"),
        ("type --force to write it", "pass force=True to write it"),
        ("type --gate=false to train", "pass gate=False to train"),
        ("make it with ardor train --run NAME", "make it with ardor train --run NAME"),
        ("runs/a--b", "runs/a--b"),
    ],
)
def test_options_are_arguments_in_python(text, shown):
    assert as_arguments(text) == shown
    assert str(ConfigError(text)) == shown


def test_python_advises_python_and_the_shell_the_shell(tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"pass lr= with such a value"):
        ardor.Recipe(lr=-1)
    assert main(["train", "--data", "digits", "--student", "small_cnn", "--recipe.lr", "-1"]) == 2
    assert "type --recipe.lr with such a value" in capsys.readouterr().err
    words = ["--model", "small_cnn", "--model.width", "0", "--data", "digits"]
    for command in ("doctor", "evaluate", "export"):
        extra = ["--out", str(tmp_path / "x.onnx")] if command == "export" else []
        assert main([command, *words, "--weights", "w.pt", *extra]) == 2
        assert "type --model.width 16" in capsys.readouterr().err
    assert main(["gate", "small_cnn", "--teacher.width", "0", "--teacher.weights", "w.pt", "--data", "digits"]) == 2
    assert "type --teacher.width 16" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_names_only_what_is_kept(command, monkeypatch, capsys):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr("ardor.cli.main.run", interrupted)
    assert main([command]) == 130
    assert ("kept" in capsys.readouterr().err) == (command in KEPT)
    assert command not in ("plan", "doctor", "gate", "export") or command not in KEPT


def test_the_shipped_recipe_with_a_variant_for_the_data():
    assert recipe_for("sat", "digits") == "sat"
    assert recipe_for("sat", "npz:mine.npz") is recipe_for("mine.py:Mine", "digits") is None
    for words, noted in ((["--method", "sat", "--student", "small_cnn"], True), (["sat"], False)):
        _, bound = parse(["train", *words, "--data", "digits"])
        recipe = bound.arguments.get("recipe")
        findings = findings_of(job_of([*words, "--data", "digits"]), None if recipe else recipe_for("sat", "digits"))
        assert ("cifar_defaults" in [finding.name for finding in findings]) == noted


def test_only_the_norm_that_is_typed_keeps_the_radius_of_the_run():
    trained = {"name": "Linf", "eps": 0.2}
    assert find_threat("linf", {}, trained) == find_threat(None, {"threat": {"name": "Linf"}}, trained) == Linf(0.2)
    assert find_threat("l2", {}, trained) == L2()


def test_a_finished_run_is_lengthened_as_another_run(tmp_path):
    run = Run(tmp_path / "r")
    made = {"method": "sat", "soft_labels": "live", "recipe": ABSENT | {"epochs": 3, "milestones": [2]}}
    run.enter(made)
    with pytest.raises(RunError, match=r"run= with a new name and weights=.*last\.safetensors"):
        run.enter({**made, "recipe": made["recipe"] | {"epochs": 6, "milestones": [4]}})
    with pytest.raises(RunError, match="run= with a new name$"):
        run.enter({**made, "recipe": made["recipe"] | {"epochs": 6, "lr": 1}})
