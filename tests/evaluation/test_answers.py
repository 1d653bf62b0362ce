"""The robustness of an exported file in three ways, what each may hide, and the findings on it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import ardor
import ardor.models.builders
import ardor.models.loading
from ardor.attacks import PGD, suites
from ardor.cli.main import main
from ardor.deployment.export.onnx_session import Session
from ardor.evaluation import checks, findings
from ardor.evaluation.report import Report, access_of
from tests.fixtures.make import begun_from

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the extra onnx is not installed")

pytestmark = pytest.mark.processor

NAMES = ("transfer_pgd20", "transfer_cw_inf", "apgd_ce", "apgd_dlr", "square")


def report_of(rows, to="onnx-int8", suite="deployed", **words):
    """A report of these rows of letters by attack."""
    n = len(next(iter(rows.values())))
    model = {"name": "f.onnx", "runtime": "onnxruntime", "to": to}
    threat = {"name": "Linf", "eps": "8/255"}
    data = {"name": "digits", "part": "test", "class_names": ["0"]}
    return Report(model, data, suite, threat, {name: {} for name in rows}, [*range(n)], [0] * n, rows, 0, n, **words)


def test_each_access_is_the_worst_of_its_attacks_for_each_image():
    rows = dict(zip(NAMES, ("rrrb-", "rrbr-", "rbrr-", "rbrr-", "brrr-"), strict=True))
    report = report_of(rows)
    assert {kind: (share.k, share.n) for kind, share in report.by_access().items()} == {
        "transfer": (2, 5),
        "white-box": (3, 5),
        "query": (3, 5),
    }
    assert report.worst_case.k == 0, "no image withstands all three"
    assert 'an upper bound; suite="autoattack" may break more' in report.table()
    alone = report_of({name: rows[name] for name in NAMES[2:]})
    assert "no attack by transfer; quote" in alone.table()
    assert (
        "Accuracy under attack: 40.00 % by transfer from another net, 60.00 % along its own gradients, 60.00 %"
        in report.table()
    )
    assert report_of(rows, suite="paper").by_access() == {}
    assert "Accuracy under attack" not in report_of(rows, suite="paper").table()
    assert [access_of(name) for name in NAMES] == ["transfer"] * 2 + ["white-box"] * 2 + ["query"]


@pytest.mark.parametrize(("threat", "margin"), [(ardor.Linf(0.1), "cw_inf"), (ardor.L2(0.5), "cw_l2")])
def test_the_suite_deployed_attacks_the_net_the_file_and_its_logits(threat, margin):
    net = ardor.models.build("small_cnn", channels=1, width=4)
    suite = suites.deployed(threat, net, queries=7)
    assert [*suite.attacks] == ["transfer_pgd20", f"transfer_{margin}", "apgd_ce", "apgd_dlr", "square"]
    assert not suite.sequential, "each attack is on all images"
    assert {attack.threat for attack in suites.deployed(threat).attacks.values()} == {threat}
    assert suite.attacks["transfer_pgd20"].source is net
    assert suite.attacks["square"].queries == 7
    assert [*suites.deployed(threat).attacks] == ["apgd_ce", "apgd_dlr", "square"]
    assert suites.deployed(threat).attacks["square"].queries == 5000


@pytest.mark.parametrize(
    ("white", "transfer", "query", "hidden"),
    [
        (104, 100, 104, True),  # images made against the float32 net break more
        (104, 104, 100, True),  # Square does
        (103, 100, 100, False),  # two starts of one attack are as far apart
        (100, 104, 104, False),  # as it should be
    ],
)
def test_gradients_that_int8_hides_are_an_error(white, transfer, query, hidden):
    def row(k):
        return "r" * k + "b" * (200 - k)

    rows = {"transfer_pgd20": row(transfer), "apgd_ce": row(white), "square": row(query)}
    finding = checks.exported.hidden_by_quantisation(report_of(rows))
    assert (finding is not None) == hidden
    if finding is not None:
        assert (finding.name, finding.severity) == ("hidden_by_quantisation", "error")
        assert f"leave {white} of 200 images right" in finding.evidence
        assert f"another net {transfer} and Square {query}" in finding.evidence
        assert finding in checks.attacks.of_report(report_of(rows))
    assert checks.exported.hidden_by_quantisation(report_of(rows, to="onnx")) is None, (
        "a float32 file quantises nothing"
    )
    assert checks.exported.hidden_by_quantisation(report_of(rows, suite="paper")) is None
    del rows["apgd_ce"]
    assert checks.exported.hidden_by_quantisation(report_of(rows)) is None, "nothing to compare with"


def test_hidden_gradients_are_found_at_their_share_of_many_images():
    def is_hidden(white):
        rows = {"apgd_ce": "r" * white + "b" * (5000 - white), "square": "r" * 100 + "b" * 4900}
        return checks.exported.hidden_by_quantisation(report_of(rows)) is not None

    assert [is_hidden(white) for white in (109, 110, 111)] == [False, False, True]


def test_a_black_box_finding_follows_from_hidden_quantisation():
    one = findings.Finding("hidden_by_quantisation", "error", "seen", "do")
    two = findings.Finding("black_box", "error", "seen", "do")
    assert findings.without_consequences([one, two]) == [one]


def test_a_simulation_that_predicts_otherwise_is_a_warning():
    same, other = checks.exported.gradients_simulated(99, 100), checks.exported.gradients_simulated(98, 100)
    assert (same.severity, other.severity) == ("note", "warning")
    assert "predicts 98 of 100 clean images as the file does" in other.evidence


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was trained against attacks, and its INT8 file."""
    folder = tmp_path_factory.mktemp("answers") / "run"
    words = ["--data", "digits", "--method", "sat", "--method.attack.steps", "2", "--threat.eps", "0.1"]
    assert main(["train", *words, *begun_from("narrow"), "--run", str(folder)]) == 0
    assert main(["export", str(folder), "--to", "onnx-int8", "--limit", "300", "--force"]) == 0
    return folder


def test_a_healthy_file_has_no_finding_but_where_its_gradients_come_from(trained):
    test, threat = ardor.data.load("digits")[2].limit(120), ardor.Linf(0.1)
    file = Session(trained / "best-int8.onnx")
    report = ardor.evaluate(file, test, suites.deployed(threat, ardor.models.load(trained), queries=150), batch=120)
    (finding,) = report.findings
    assert (finding.name, finding.severity) == ("gradients_simulated", "note")
    assert "120 of 120" in finding.evidence
    assert report.model["to"] == "onnx-int8"
    assert 0 < report.worst_case.k < report.clean.k
    assert report.robust("apgd_ce").k <= report.robust("square").k


def test_a_badly_calibrated_file_has_findings(trained):
    train, _, test = ardor.data.load("digits")
    words = {"to": "onnx-int8", "calibrate": train, "check": test, "force": True, "limit": 3}
    exported = ardor.export(ardor.models.load(trained), trained.parent / "poor.onnx", **words)
    report = ardor.evaluate(Session(exported.path), test, ardor.attacks.quick(ardor.Linf(0.1)))
    assert {f.name for f in report.findings} >= {"few_calibration", "saturated", "gradients_simulated"}
    assert "calibrated on 3 images" in str(report)


def test_a_net_and_a_black_box_have_no_findings_of_files(trained):
    x = ardor.data.load("digits")[2].batch(slice(0, 9))[0]
    assert checks.exported.of_file(ardor.models.load(trained), x) == []
    assert checks.exported.of_file(SimpleNamespace(metadata={}, without_gradients="theirs"), x) == []
    float32 = ardor.export(ardor.models.load(trained), trained.parent / "f.onnx", check=ardor.data.load("digits")[2])
    assert [f.name for f in checks.exported.of_file(Session(float32.path), x)] == ["gradients_simulated"]


# the shell


def judge(capsys, *words, code=0):
    """The output of `ardor evaluate` with these words."""
    assert main(["evaluate", *map(str, words)]) == code
    return capsys.readouterr()


def test_a_file_is_attacked_in_three_ways_by_default(few_queries, trained, capsys):
    output = judge(capsys, trained / "best-int8.onnx", "--limit", 20)
    (saved,) = trained.glob("report-deployed-*-best_int8_onnx-limit20.json")
    report = Report.load(saved)
    assert [*report.verdicts] == [*NAMES]
    assert report.attacks["transfer_pgd20"]["weights"] == ardor.models.hash_of(ardor.models.load(trained))
    assert "Accuracy under attack" in output.out
    assert "no images by transfer" not in output.err
    suite = suites.deployed(ardor.Linf(0.1), ardor.models.load(trained))
    test = ardor.data.load("digits")[2].limit(20)
    assert report.verdicts == ardor.evaluate(Session(trained / "best-int8.onnx"), test, suite, batch=20).verdicts


def test_a_file_without_its_run_is_attacked_in_two(few_queries, trained, tmp_path, capsys):
    file = tmp_path / "moved.onnx"
    file.write_bytes((trained / "best-int8.onnx").read_bytes())
    output = judge(capsys, file, "--limit", 8)
    assert "no images by transfer: type --transfer_from" in output.err
    (saved,) = tmp_path.glob("report-deployed-*.json")
    assert [*Report.load(saved).verdicts] == ["apgd_ce", "apgd_dlr", "square"]
    output = judge(capsys, file, "--limit", 8, "--transfer_from", trained, "--out", tmp_path / "three.json")
    assert [*Report.load(tmp_path / "three.json").verdicts] == [*NAMES]


def test_a_run_that_was_trained_since_is_not_the_source_of_the_file(few_queries, trained, tmp_path, capsys):
    for name in ("config.yaml", "best-int8.onnx"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    other = ardor.models.build("small_cnn", channels=1, width=4, seed=9)
    from safetensors.torch import save_file

    save_file(other.state_dict(), tmp_path / "best.safetensors")
    output = judge(capsys, tmp_path / "best-int8.onnx", "--limit", 8)
    assert "no images by transfer" in output.err


def test_white_box_suites_run_on_a_file(trained, tmp_path, capsys):
    words = ["--limit", 20, "--suite", "quick", "--out", tmp_path / "r.json"]
    judge(capsys, trained / "best-int8.onnx", *words)
    test = ardor.data.load("digits")[2].limit(20)
    file = Session(trained / "best-int8.onnx")
    report = ardor.evaluate(file, test, ardor.attacks.quick(ardor.Linf(0.1)), batch=20)
    assert Report.load(tmp_path / "r.json").verdicts == report.verdicts
    assert report.robust("pgd_10").k < report.clean.k


def test_transfer_from_belongs_to_suites_that_use_it(trained, capsys):
    output = judge(capsys, trained, "--suite", "quick", "--transfer_from", trained, code=2)
    assert "expected --transfer_from for --suite transfer" in output.err
    output = judge(capsys, trained, "--suite", "transfer", code=2)


def test_an_image_that_a_net_rounds_is_judged_by_the_file(trained):
    """A success on the simulation does not count: only the prediction of the file does."""
    test, threat = ardor.data.load("digits")[2].limit(60), ardor.Linf(0.1)
    file = Session(trained / "best-int8.onnx")
    file.simulated._constants["logits_scale"] = torch.tensor(1e-9)  # a simulation whose logits are nonsense
    attack = replace(PGD(threat, steps=3), start="none")
    report = ardor.evaluate(file, test, ardor.attacks.Suite("s", threat, {"pgd": attack}))
    assert report.clean.k == ardor.evaluate(Session(trained / "best-int8.onnx"), test, suites.quick(threat)).clean.k
    assert report.robust("pgd").k > 0
