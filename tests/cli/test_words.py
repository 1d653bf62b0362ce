"""The options that messages advise exist in the command that shows them; in Python they are arguments."""

import ast
import re

import pytest
import yaml
from safetensors.torch import save_file

import ardor
from ardor import data, methods, models
from ardor.attacks.threat import L2, Linf
from ardor.cli.help import FIRST, MOST
from ardor.cli.main import COMMANDS, KEPT, SECTIONS, main, parse
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
    "build-arg",
    "rm",
    "user",
    "head",
    "address",
    "disable-usage-stats",
    "array",
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
    "nodes",
    "ntasks-per-node",
    "gpus-per-node",
    "requeue",
    "open-mode",
    "signal",
    "signals-to-handle",
    "run-path",
    "logdir",
    "backend-store-uri",
    "help",
    "help-all",
    "install-completion",
    "version",
    "debug",
    "no_gate",
}
"""Of Docker, npm, pip, torchrun, Ray, sbatch, and of every command."""


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


ADVISED = [(path, text) for path, text in texts() if OPTION.search(text) and "var(--" not in text]  # of a style sheet


def exists(option):
    """Whether a dotted option is a parameter of what its part may be."""
    part, dot, rest = option.partition(".")
    if not dot or "X" in option or part not in MAKERS or option == "data.n":  # of the guide's own data
        return True
    attack = [one for kind in classes("attack").values() for one in option_rows(part, kind)]
    rows = {row[0] for maker in MAKERS[part] for row in option_rows(part, maker)} | {row[0] for row in attack}
    last = rest.rpartition(".")[2]
    if part in NETS and last in ("pretrained", "drop_path", "drop"):  # of timm's nets, whose builder needs timm
        return True
    return any(row.endswith(f".{last}") for row in rows) or last == "name"


def known(option):
    return "X" in option or option in FLAGS_OF_OTHERS or any(has_option(command, option) for command in COMMANDS)


def test_every_option_in_a_message_or_page_exists():
    pages = [(path, path.read_text()) for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))]
    pages = [(path, text) for path, text in pages if path.name not in ("LOG.md", "performance.md")]
    assert len(ADVISED) > 100
    for path, text in [*ADVISED, *pages]:
        for option in OPTION.findall(text):
            assert known(option), (path, option)
            assert exists(option), (path, option)


NAMES = "|".join(sorted(COMMANDS, key=len, reverse=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_its_own_options_or_names_the_command_of_the_option(command):
    others = [path for path in (ROOT / "ardor/cli/commands").glob("*.py") if path.stem != command.split()[0]]
    for path, text in ADVISED:
        if path in others or path.name in ("npm.py", "errors.py", "words.py"):
            continue
        shown = as_options(text, command)
        for found in OPTION.finditer(shown):
            option, behind = found[1], shown[found.end() :]
            of = re.match(rf"(?:[ =][^\s()]+)* \(of ardor ({NAMES})\)", behind)
            of = of or re.search(rf"\bardor ({NAMES}) (?:(?!, or |:\s)[^;])*$", shown[: found.start()])
            if "X" not in option and not shown[: found.start()].endswith("got ") and option not in FLAGS_OF_OTHERS:
                assert has_option(of[1] if of else command, option), (path, text, shown)


@pytest.mark.parametrize(
    ("text", "command", "shown"),
    [
        ("type --student.width 16", "doctor", "type --model.width 16"),
        ("type --model.width 16", "gate", "type --student.width 16"),
        ("type --model.checkpoint last", "evaluate", "type --checkpoint last"),
        ("type --model.weights FILE", "export", "type --weights FILE"),
        ("type --run with a new name", "train", "type --run with a new name"),
        ("type --suite autoattack", "push", "type --suite autoattack (of ardor evaluate)"),
        ("type ardor data prepare a:b --size 2 --out c", "train", "type ardor data prepare a:b --size 2 --out c"),
        ("type --gate=false to train", "bench", "type --gate=false to train"),
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
    assert main(command.split()) == 130
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
    assert job_of(["sat", "--data", "digits", "--threat", "linf"]).method.attack.threat == Linf(0.2)


@pytest.mark.parametrize("change", [{"milestones": [4]}, {"lr": 1}])
def test_a_run_with_other_rates_is_another_run(tmp_path, change):
    run = Run(tmp_path / "r")
    made = {"method": "sat", "soft_labels": "live", "recipe": ABSENT | {"epochs": 3, "milestones": [2]}}
    run.enter(made)
    with pytest.raises(RunError, match="run= with a new name$"):
        run.enter({**made, "recipe": made["recipe"] | {"epochs": 6, **change}})


def width_of_help(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_help_is_short_and_the_rest_is_behind_help_all(command, capsys, monkeypatch):
    first = width_of_help([*command.split(), "--help"], capsys, monkeypatch)
    assert len(first.splitlines()) <= 50
    options = re.findall(r"^│ (--[\w.]+)", first, re.MULTILINE)
    assert len(options) == len(set(options)) <= MOST
    everything = width_of_help([*command.split(), "--help-all"], capsys, monkeypatch)
    of_others = {"--recipe.device", "--teacher.weights"}  # of parts whose makers a command line names
    assert all(option in everything for option in {*options} - of_others)
    assert f"ardor {command} --help-all" in first
    assert "`" not in first
    for same in (["help", *command.split()], [*command.split(), "-h"]):
        assert width_of_help(same, capsys, monkeypatch) == first
    assert width_of_help([*command.split(), "--help_all"], capsys, monkeypatch) == everything


def test_each_option_that_is_needed_first_exists():
    for command, options in FIRST.items():
        assert len(options) <= MOST
        assert all(has_option(command, option) for option in options), command


def test_help_all_of_training_has_the_options_of_every_part(capsys, monkeypatch):
    everything = width_of_help(["train", "--help-all"], capsys, monkeypatch)
    assert all(option in everything for option in ("--recipe.sync_batchnorm", "--soft_labels", "--data.val"))


@pytest.mark.parametrize("command", ["train", "plan", "sweep"])
def test_the_first_help_names_every_method_in_a_few_lines(command, capsys, monkeypatch):
    shown = width_of_help([command, "--help"], capsys, monkeypatch)
    text = shown.partition("│ --method ")[2].partition("│ --")[0]
    assert {*classes("method")} <= {*re.findall(r"\w+", text)}
    assert len(text.splitlines()) <= 5


def test_the_help_of_ardor_has_every_command_once_under_what_one_does(capsys, monkeypatch):
    shown = width_of_help([], capsys, monkeypatch)
    assert re.findall(r"^╭─ ([A-Z][\w ]+?) ─", shown, re.MULTILINE) == [*SECTIONS, "The rest"]
    for command in COMMANDS:
        assert len(re.findall(rf"^│ {command} +[A-Z]", shown, re.MULTILINE)) == 1
    assert "`" not in shown
    for words in (["--help"], ["-h"], ["help"], ["--help-all"]):
        assert width_of_help(words, capsys, monkeypatch) == shown


def test_no_two_options_of_a_recipe_have_one_text():
    texts = [text for _, _, text in option_rows("recipe", ardor.Recipe)]
    assert len(texts) == len({*texts, "The ball around x."}) or len(set(texts)) == len(texts)
    assert not [text for text in texts if text.startswith("The same")]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_no_page_that_a_wheel_lacks_and_no_empty_flags(command, capsys):
    assert main([*command.split(), "--help-all"]) == 0
    shown = capsys.readouterr().out
    assert "docs/" not in shown
    assert "--empty" not in shown


def test_no_message_names_a_page_that_a_wheel_lacks():
    raised = re.compile(r"raise \w+Error\([^)]*docs/", re.DOTALL)
    assert not [path for path in (ROOT / "ardor").rglob("*.py") if raised.search(path.read_text())]


@pytest.mark.parametrize(
    ("words", "new"),
    [
        (["bench", "whitebox-digits", "--eps", "0.1"], "--threat.eps"),
        (["bench", "whitebox-digits", "--root", "x"], "--data.root"),
        (["bench", "whitebox-digits", "--teacher_weights=x"], "--teacher.weights"),
        (["train", "sat", "--lr", "0.1"], "--recipe.lr"),
        (["data", "check", "photos", "--size", "96"], "--data.size"),
        (["plan", "sat", "--batch-size", "64"], "--recipe.batch"),
        (["bench", "whitebox-digits", "--teacher-weights", "x"], "--teacher.weights"),
        (["evaluate", "runs/x", "--device", "cpu"], "--recipe.device"),
        (["gate", "runs/x", "--device=cpu"], "--recipe.device"),
        (["doctor", "runs/x", "--eps", "0.1"], "--threat.eps"),
        (["train", "sat", "--device", "cpu"], "--recipe.device"),
        (["train", "sat", "--download"], "--data.download"),
        (["train", "sat", "--compile"], "--recipe.compile"),
        (["train", "sat", "--smoke"], "--variant smoke"),
        (["sweep", "sat", "--smoke"], "--variant smoke"),
        (["bench", "whitebox-digits", "--limit", "100"], "--data.limit"),
        (["push", "runs/x", "--folder", "y"], "--out"),
        (["compare", "a", "b", "--out=c.json"], "--json"),
    ],
)
def test_an_earlier_spelling_names_the_option_that_there_is(words, new, capsys):
    assert main(words) == 2
    assert f"expected {new}, got --" in capsys.readouterr().err


def test_help_of_a_run_shows_its_own_radius_and_a_missing_teacher_hides_none(tmp_path, capsys):
    Run(tmp_path / "r").enter({"method": {"name": "sat", "attack": {"threat": {"name": "Linf", "eps": 0.2}}}})
    for words in (["evaluate", str(tmp_path / "r")], ["gate", str(tmp_path / "r")]):
        assert main([*words, "--help"]) == 0
        assert re.search(r"--threat\.eps +0\.2 ", capsys.readouterr().out)
    assert main(["train", "rslad", "--data", "digits", "--help"]) == 0
    assert "--teacher.weights" in capsys.readouterr().out


def test_a_folder_and_a_file_that_lie_there_are_suggested_by_their_kind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    (tmp_path / "mine.npz").touch()
    for name, kind in (("shapes", "folder:shapes"), ("mine.npz", "npz:mine.npz")):
        assert main(["train", "--data", name, "--student", "small_cnn"]) == 2
        assert f"type --data {kind}" in capsys.readouterr().err


def test_completion_is_installed_where_it_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))  # it appends a line to the shell's own file
    assert main(["--install-completion", "--shell", "bash", "--output", str(tmp_path / "ardor.sh")]) == 0
    assert "evaluate" in (tmp_path / "ardor.sh").read_text()


def test_weights_with_another_head_lead_into_no_circle(tmp_path, capsys):
    save_file(models.build("small_cnn", classes=7, channels=1).state_dict(), tmp_path / "w.safetensors")
    words = [
        "train",
        "--data",
        "digits",
        "--student",
        "small_cnn",
        "--student.weights",
        str(tmp_path / "w.safetensors"),
    ]
    plain = ["natural", *words[1:], "--student.width", "16"]  # the builder's own, and not the recipe's for the digits
    assert "new, 10 classes for 7" in job_of(plain).student.start["head"]
    assert main([*words, "--student.classes", "7"]) == 2
    assert "choose a net for 10 classes, or data of 7" in capsys.readouterr().err
    assert "student" in job_of([*words[1:5], "--recipe.epochs", "1"]).__dict__  # without the weights


def test_the_package_is_typed_and_cites_both_papers():
    assert (ROOT / "ardor" / "py.typed").is_file()
    titles = [paper["title"] for paper in yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]]
    assert len(titles) == 2


def test_words_too_many_are_refused_with_the_command_whose_help_has_the_options(capsys):
    assert main(["evaluate", "runs/a", "runs/b"]) == 2
    refusal = capsys.readouterr().err
    assert refusal == "ardor: expected no other words, got runs/b: leave them out (ardor evaluate --help)\n"


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["gate", "small_cnn", "--width", "32"], "--teacher.width"),
        (["gate", "small_cnn", "--weights", "w.pt"], "--teacher.weights"),
        (["evaluate", "--model", "small_cnn", "--width", "8"], "--model.width"),
        (["train", "rslad", "--width", "8"], "--student.width"),
    ],
)
def test_a_bare_option_of_a_net_is_that_of_the_net_that_the_command_is_about(capsys, words, option):
    assert main(words) == 2
    assert capsys.readouterr().err.endswith(f": type {option}\n")
