"""A report as RobustBench takes it, and every reason for which it would not."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import ardor
from ardor.attacks import PGD, suites
from ardor.attacks.rounds import fitted
from ardor.attacks.suites import Suite
from ardor.attacks.threat import L2, Linf
from ardor.cli.main import main
from ardor.data.split import Split
from ardor.evaluation import report_files
from ardor.evaluation.claim import UNKNOWN, N, additional_data, architecture, claim_of
from ardor.evaluation.findings import Finding
from ardor.evaluation.identity import empty_report, resolved
from ardor.noise import Noise
from ardor.testing import TinyNet

RICE = {  # github RobustBench/robustbench at 78fcc9e, README: every field and its type
    "link": str, "name": str, "authors": str, "additional_data": bool, "number_forward_passes": int, "dataset": str,
    "venue": str, "architecture": str, "eps": str, "clean_acc": str, "reported": str, "autoattack_acc": str,
}  # fmt: skip


def report_of(suite, name="cifar10", n=N, part="test", robust=5342, clean=8534):
    """A report as an evaluation writes it, of made verdicts: `clean` right, and `robust` of them under every attack."""
    index = torch.arange(16)
    images = Noise(0, index, "claim").uniform((1, 8, 8))
    report = empty_report(TinyNet(), Split(images, index % 10, 10, name, part), suite, dict(suite.attacks), 0, 256)
    if suite.name == "autoattack":
        report.attacks = {key: resolved(fitted(attack, 10)) for key, attack in suite.attacks.items()}
    report.index, report.labels = list(range(n)), [i % 10 for i in range(n)]
    first, *others = suite.attacks
    letters = ["r" * robust + "b" * (clean - robust) + "-" * (n - clean)]
    letters += ["r" * robust + ("-" if suite.sequential else "b") * (clean - robust) + "-" * (n - clean)] * len(others)
    report.verdicts = dict(zip((first, *others), letters, strict=True))
    return report


VALID = suites.autoattack(Linf(8 / 255))


def test_a_full_autoattack_report_of_cifar10_is_a_claim_in_the_form_of_the_leaderboard():
    claim = claim_of(report_of(VALID))
    assert claim.valid
    assert claim.obstacles == ()
    content = json.loads(claim.json())
    assert list(content) == list(RICE)
    assert (content["clean_acc"], content["autoattack_acc"], content["eps"]) == ("85.34", "53.42", "8/255")
    assert all(isinstance(content[key], kind) for key, kind in RICE.items() if key != "additional_data")
    assert content["additional_data"] is None, "nothing is known of the training"
    empty = {key for key, value in content.items() if value in ("", None)}
    assert empty == set(claim.unknown) == {*UNKNOWN, "additional_data"}
    assert claim.place == "model_info/cifar10/Linf/<Name><Year><FirstWordOfTheTitle>.json"


@pytest.mark.parametrize(
    ("name", "threat", "valid"),
    [
        ("cifar10", L2(0.5), True),
        ("cifar100", Linf(8 / 255), True),
        ("cifar100", L2(0.5), False),
        ("cifar10", Linf(0.031), False),
        ("cifar10", Linf(4 / 255), False),
        ("cifar10", L2(128 / 255), False),
        ("digits", Linf(8 / 255), False),
        ("npz:cifar10.npz", Linf(8 / 255), False),
    ],
)
def test_only_the_data_and_threats_of_a_leaderboard(name, threat, valid):
    claim = claim_of(report_of(suites.autoattack(threat), name))
    assert claim.valid == valid
    radii = {L2(0.5): "0.5", Linf(8 / 255): "8/255", Linf(4 / 255): "4/255", L2(128 / 255): "128/255"}
    assert claim.content["eps"] == radii.get(threat, "0.031"), "that of the report, whatever the leaderboard has"
    assert len(claim.obstacles) == (not valid), "one reason is said once"
    advice = "if they are those of CIFAR-10, type ardor evaluate with --data cifar10"
    assert any(advice in one for one in claim.obstacles) == (not name.startswith("cifar"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"suite": suites.paper(Linf(8 / 255))}, "expected the suite autoattack, got paper"),
        ({"suite": suites.plus(Linf(8 / 255))}, "got plus"),
        ({"n": 1000, "clean": 850, "robust": 530}, "expected all 10,000 test images, got 1,000: leave --limit out"),
        ({"part": "val"}, "expected the test images, got the part val"),
    ],
)
def test_other_images_and_suites(change, expected):
    report = report_of(**{"suite": VALID} | change)
    (obstacle,) = claim_of(report).obstacles
    assert expected in obstacle


def test_attacks_by_the_name_of_autoattack_that_are_others():
    weak = Suite("autoattack", Linf(8 / 255), {"apgd_ce": PGD(Linf(8 / 255))}, sequential=True)
    assert "got others (" in claim_of(report_of(weak)).obstacles[0]
    report = report_of(VALID)
    report.attacks["square"] = {**report.attacks["square"], "queries": 100}
    assert "square.queries: 5000 there, 100 in the report" in claim_of(report).obstacles[0]
    del report.attacks["square"]["queries"]  # of an earlier version, which had one number of them
    assert claim_of(report).valid


def test_findings_that_are_errors_keep_a_claim_from_being_valid_and_warnings_do_not():
    finding = Finding("randomised", "error", "identical calls differ", "average the draws")
    report = report_of(VALID)
    report.findings = [replace(finding, severity="warning")]
    assert claim_of(report).valid
    report.findings = [finding]
    assert claim_of(report).obstacles == (
        "expected a report without errors, got randomised: identical calls differ; average the draws",
    )


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ({"name": "wide_resnet"}, "WideResNet-34-10"),
        ({"name": "wide_resnet", "depth": 16, "width": 4}, "WideResNet-16-4"),
        ({"name": "wide_resnet_silu", "depth": 28, "width": 10}, "WideResNet-28-10"),
        ({"name": "resnet18"}, "ResNet-18"),
        ({"name": "timm:vit_small"}, "vit_small"),
        ({"name": "net.py:build"}, "net.py:build"),
        ({"name": "wide_resnet_of_mine"}, "wide_resnet_of_mine"),
        ({}, ""),
    ],
)
def test_architectures_have_the_names_of_the_leaderboard(model, shown):
    assert architecture(model) == shown


@pytest.mark.parametrize(
    ("training", "known"),
    [
        ({}, None),
        ({"data": {"name": "cifar10"}, "student": {"name": "resnet18"}}, False),
        ({"data": {"name": "cifar10"}, "student": {"name": "resnet18"}, "teacher": None}, False),
        ({"data": {"name": "cifar10"}, "student": {"name": "resnet18"}, "teacher": {"name": "runs/t"}}, None),
        ({"data": {"name": "cifar10", "extra": "npz:edm.npz"}, "student": {"name": "resnet18"}}, None),
        ({"data": {"name": "cifar10"}, "student": {"name": "timm:resnet18", "pretrained": True}}, None),
        ({"data": {"name": "cifar10"}, "student": {"name": "resnet18", "weights": "w.safetensors"}}, None),
        ({"data": {"name": "cifar10"}, "student": {"name": "net.py:build"}}, None),
        ({"data": "cifar10", "student": None}, None),
    ],
)
def test_additional_data_are_denied_only_where_the_config_rules_them_out(training, known):
    assert additional_data(training) is known


def test_a_report_of_an_evaluation_is_no_claim_and_says_why():
    images = Noise(0, torch.arange(8), "claim").uniform((1, 8, 8))
    report = ardor.evaluate(TinyNet(), Split(images, torch.arange(8), 10, "mine", "test"), suites.quick(L2(0.3)))
    claim = claim_of(report)
    assert [text.partition(",")[0] for text in claim.obstacles] == [
        "expected cifar10 or cifar100", "expected all 10", "expected the suite autoattack",
    ]  # fmt: skip
    assert claim.content["eps"] == "0.3"


def test_verdicts_of_other_attacks_than_the_listed_ones_and_of_a_smaller_radius_are_no_claim():
    report = report_of(VALID)
    report.verdicts = {"fgsm": report.verdicts["apgd_ce"]}
    assert "verdicts: apgd_ce, apgd_t, fab_t, square there, fgsm in the report" in claim_of(report).obstacles[0]
    report = report_of(VALID)
    report.attacks["fab_t"] = {**report.attacks["fab_t"], "threat": {"name": "Linf", "eps": "1/255"}}
    assert "fab_t.threat: Linf eps 8/255 there, Linf eps 1/255 in the report" in claim_of(report).obstacles[0]


def test_a_claim_of_what_is_no_run_and_with_options_of_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "runs/none", "--claim"]) == 2
    assert "got runs/none, where there is no such folder" in capsys.readouterr().err
    assert main(["report", "ardor:digits-cnn8-rslad", "--claim"]) == 2
    assert "ardor models ardor:digits-cnn8-rslad shows its figures" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("recipe: {}\n")
    for words in (["--limit", "10"], ["--title", "Mine"]):
        assert main(["report", ".", "--claim", *words]) == 2
        assert f"got {words[0]}, which is of a page: leave it out" in capsys.readouterr().err


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(report)`: the folder of a run whose net the report is of, as words of a command."""
    monkeypatch.setattr(report_files, "models", SimpleNamespace(load=lambda run, **words: None))
    monkeypatch.setattr(report_files, "is_of", lambda model, net: True)

    def make(report):
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "config.yaml").write_text("method: {attack: {threat: {name: Linf, eps: 8/255}}}")
        (folder / "best.safetensors").touch()
        report.save(folder / "report-autoattack-linf-8_255-best.json")
        return str(folder)

    return make


def test_the_shell_writes_a_claim_into_the_run_or_to_out(run, tmp_path, capsys):
    report = report_of(VALID)
    folder, other = run(report), tmp_path / "claim.json"
    assert main(["report", folder, "--claim"]) == 0
    assert (tmp_path / "run" / "robustbench.json").read_text() == claim_of(report).json()
    shown = capsys.readouterr().out
    assert "clean 85.34 %, AutoAttack 53.42 %" in shown
    assert all(f"- {name}: " in shown for name in UNKNOWN), "what is still to be written"
    assert main(["report", folder, "--claim", "--out", str(other)]) == 0
    assert other.read_text() == claim_of(report).json()


def test_the_shell_says_what_keeps_a_report_from_being_a_claim_and_writes_nothing(run, tmp_path, capsys):
    report = report_of(VALID, "digits", n=100, robust=50, clean=90)
    assert main(["report", run(report), "--claim"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("No claim for RobustBench from ")
    assert [line.partition(",")[0] for line in lines[1:]] == ["- expected cifar10 or cifar100", "- expected all 10"]
    assert not (tmp_path / "run" / "robustbench.json").exists()


def test_a_claim_is_of_one_run(run, capsys):
    folder = run(report_of(VALID))
    assert main(["report", folder, folder, "--claim"]) == 2
    assert f"expected one RUN with --claim, got 2: type ardor report {folder} --claim" in capsys.readouterr().err
