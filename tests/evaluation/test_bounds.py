"""The gate for continuous integration: what it takes for a report, and its exit code."""

import json
import shutil
import xml.etree.ElementTree as ElementTree

import pytest

from ardor.cli.main import main
from ardor.errors import ConfigError
from ardor.evaluation.bounds import Bound, check_report
from ardor.evaluation.findings import Finding
from ardor.evaluation.proportion import Proportion
from ardor.evaluation.report import Report

TRAIN = [
    "train", "--data", "digits", "--student", "small_cnn", "--student.width", "4", "--recipe.epochs", "1",
    "--recipe.augment", "none", "--recipe.batch", "256", "--recipe.device", "cpu", "--method", "sat",
    "--method.attack.steps", "1", "--threat.eps", "0.1",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    assert main([*TRAIN, "--run", str(folder / "r")]) == 0
    assert main(["evaluate", str(folder / "r"), "--suite", "quick"]) == 0
    report = Report.load(report_in(folder / "r"))
    report.findings = []  # after one epoch a net may be constant, which is an error
    report.save(report_in(folder / "r"))
    return folder / "r"


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(made, tmp_path / "runs" / "r")


def report_in(run):
    return run / "report-quick-linf-0.1-best.json"


def refused(capsys, *words):
    capsys.readouterr()
    assert main(["check", *map(str, words)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    return shown.err


def test_bounds_by_value_and_by_the_lower_end_of_the_interval():
    half = Proportion(50, 100)
    assert Bound("robust", 0.5, half).passed
    assert not Bound("robust", 0.5, half, confidence=True).passed
    assert Bound("robust", 0.4, half, confidence=True).passed
    assert not Bound("robust", 0.51, half).passed
    assert str(Bound("robust", 0.5, half)) == (
        "passed: robust 50.00 % (40.38 .. 59.62, 50 of 100), at least 50.00 % by the value"
    )


def test_exit_codes(run, capsys):
    robust = Report.load(report_in(run)).worst_case.value
    assert main(["check", str(run), "--min_robust", str(robust)]) == 0, "the bound itself passes"
    assert (
        main(["check", str(run), "--min-robust", "0", "--min_clean", "0", "--min_class", "0", "--suite", "quick"]) == 0
    )
    assert capsys.readouterr().out.count("passed: ") == 4
    assert main(["check", str(run), "--min_robust", "1"]) == 1
    assert "failed: robust" in capsys.readouterr().out
    assert main(["check", str(run), "--min_robust", "0", "--min_clean", "1"]) == 1, "one failed bound fails"
    assert main(["check", str(run), "--min_robust", str(robust), "--confidence"]) == (1 if robust else 0)


def test_the_worst_class_is_named(run):
    report = Report.load(report_in(run))
    worst, share = min(report.per_class().items(), key=lambda item: item[1].value)
    (bound,) = check_report(report, {"class": 0.1})
    assert (bound.name, bound.measured) == (f"class {worst}", share)


def test_files_of_a_result(run, capsys):
    capsys.readouterr()
    assert main(["check", str(run), "--min_robust", "1", "--json", "-", "--junit", "check.xml"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["passed"] is False
    assert content["bounds"][0]["n"] == 449
    suite = ElementTree.parse("check.xml").getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert "failed: robust" in suite.find("testcase/failure").get("message")


def test_only_a_report_of_the_present_weights_images_and_threat_counts(run, capsys):
    bound = ["--min_robust", "0"]
    assert "got none: type ardor evaluate" in refused(capsys, run, *bound, "--suite", "paper")
    assert "--suite paper" in refused(capsys, run, *bound, "--suite", "paper")
    assert "--checkpoint last" in refused(capsys, run, *bound, "--checkpoint", "last")
    assert "under another threat than Linf eps 0.01" in refused(capsys, run, *bound, "--threat.eps", "0.01")
    assert "--threat linf --threat.eps 0.01" in refused(capsys, run, *bound, "--threat.eps", "0.01")
    content = json.loads(report_in(run).read_text())
    for change, expected in (
        ({"model": content["model"] | {"hash": "0" * 16}}, "1 of other weights"),
        ({"data": content["data"] | {"part": "val"}}, "1 on other images"),
        ({"data": content["data"] | {"source": {"name": "npz:easy.npz"}}}, "1 on other images"),
        ({"threat": content["threat"] | {"eps": 0.001}}, "1 under another threat"),
    ):
        report_in(run).write_text(json.dumps(content | change))
        assert expected in refused(capsys, run, *bound)
    report_in(run).write_text(json.dumps(content | {"figures": content["figures"] | {"clean": {"k": 449, "n": 449}}}))
    assert "follow from the verdicts" in refused(capsys, run, *bound)
    report_in(run).write_text("{")
    assert "report-quick" in refused(capsys, run, *bound)


def test_a_report_with_an_error_among_its_findings_is_not_judged(run, capsys):
    report = Report.load(report_in(run))
    report.findings = [Finding("zero_gradients", "warning", "few", "look")]
    report.save(report_in(run))
    assert main(["check", str(run), "--min_robust", "0"]) == 0
    report.findings = [Finding("zero_gradients", "error", "all gradients are 0", "look")]
    report.save(report_in(run))
    assert "got the finding zero_gradients: all gradients are 0; look" in refused(capsys, run, "--min_robust", "0")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["RUN"], "expected a bound, got none: type for example --min_robust 0.5"),
        (["RUN", "--min_robust", "60"], "expected --min_robust as a share in [0, 1], got 60"),
        (["RUN", "--min_clean", "-1"], "--min_clean"),
        (["RUN", "--min_robust", "nan"], "--min_robust"),
        (["RUN", "--min_robust", "much"], "number"),
        (["nowhere", "--min_robust", "0.5"], "got nowhere, where there is no such folder: type ardor check runs/NAME"),
        (["runs", "--min_robust", "0.5"], "got runs, which is no folder of a run"),
        (["RUN", "--min_robust", "0.5", "--suite", "pepar"], 'got "pepar" (did you mean "paper"?): correct it'),
        ([], "expected RUN, got none"),
        (["RUN", "--min_robst", "0.5"], "--min_robust"),
    ],
)
def test_bad_words(run, capsys, words, expected):
    assert expected in refused(capsys, *[run if word == "RUN" else word for word in words])


def test_a_library_user_gets_the_same_refusals(run):
    with pytest.raises(ConfigError, match="expected a bound"):
        check_report(Report.load(report_in(run)), {})
