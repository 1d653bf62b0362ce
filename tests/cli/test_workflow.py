"""The example for GitHub Actions: its form, and every command of it."""

import shlex
import tomllib

import pytest
import yaml

from ardor.cli.main import main
from ardor.evaluation.report import Report
from tests.conftest import ROOT

FILE = ROOT / "docs/examples/robustness.yml"


@pytest.fixture
def steps():
    return yaml.safe_load(FILE.read_text())["jobs"]["judge"]["steps"]


def test_the_page_shows_the_file_and_its_form_is_that_of_a_workflow(steps):
    content = yaml.safe_load(FILE.read_text())
    assert FILE.read_text() in (ROOT / "docs/guides/ci.md").read_text()
    assert {str(key) for key in content} == {"name", "True", "permissions", "jobs"}, "`on` is True in YAML 1.1"
    assert all(("run" in step) != ("uses" in step) for step in steps)
    assert all("@v" in step["uses"] for step in steps if "uses" in step)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (install,) = [step["run"] for step in steps if step.get("run", "").startswith("pip")]
    assert shlex.split(install)[2].removeprefix("ardor[").removesuffix("]") in extras


def test_its_commands_run_and_write_the_files_that_it_uploads(steps, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train = "train sat --data digits --student.width 4 --recipe.epochs 1 --recipe.device cpu --run runs/net"
    assert main(train.split()) == 0
    commands = [shlex.split(step["run"])[1:] for step in steps if step.get("run", "").startswith("ardor ")]
    assert [words[0] for words in commands] == ["evaluate", "check", "doctor"]
    assert main(commands[0]) == 0
    (path,) = (tmp_path / "runs/net").glob("report-apgd-*.json")
    report = Report.load(path)
    report.findings = []  # after one epoch a net may be constant, which is an error
    report.save(path)
    assert main(commands[1]) in (0, 1), "a bound is reached or not; it can be judged"
    assert main([*commands[2], "--limit", "20"]) in (0, 1)
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    (scan,) = [step["with"]["sarif_file"] for step in steps if "upload-sarif" in step.get("uses", "")]
    assert files == {scan, "check.xml", "doctor.xml"}
