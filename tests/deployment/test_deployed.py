"""A net beside its files for a device: measurements, files, refusals and tables, on real onnxruntime."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import ardor
from ardor import models
from ardor.attacks import PGD, suites
from ardor.cli.main import main
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.variants import latencies, run_files
from ardor.deployment.variants import latency as timing
from ardor.deployment.variants.comparison import DeploymentReport, size_text
from ardor.engine.flops import macs
from ardor.errors import CheckpointError, ConfigError, ExportError
from ardor.evaluation.attacked import adversarial
from ardor.evaluation.comparison.significance import mcnemar, p_text
from ardor.evaluation.identity import identity, matching_report
from ardor.evaluation.report import Report
from ardor.evaluation.report_files import default_out, shown_reports, word_of
from ardor.evaluation.verdicts import evaluate
from tests.deployment.conftest import onnx_packages
from tests.fixtures.make import begun_from

onnx, *_ = onnx_packages()

pytestmark = pytest.mark.processor

EPS, FEW = ardor.Linf(0.15), 60
WORDS = ["--limit", str(FEW), "--queries", "20"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was deployed at the shell."""
    run = tmp_path_factory.mktemp("runs") / "sat"
    words = ["--data", "digits", "--method", "sat", "--method.attack.steps", "2", "--threat.eps", "0.15"]
    words += [*begun_from("sound"), "--recipe.device", "cpu"]
    assert main(["train", *words, "--run", str(run)]) == 0
    assert main(["deploy", str(run), *WORDS]) == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(trained, tmp_path / "sat")


@pytest.fixture(scope="module")
def digits():
    train, _, test = ardor.data.load("digits")
    return train, test.limit(FEW)


def tree(run):
    return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


# latency


def test_forms_are_timed_in_turn_by_one_thread_in_inference_mode(monkeypatch):
    calls, clock = [], [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: clock[0])

    def form(name, *took):
        def call(image):
            calls.append((name, torch.get_num_threads(), torch.is_inference_mode_enabled(), tuple(image.shape)))
            clock[0] += took[sum(s[0] == name for s in calls) % len(took)] / 1e3

        return call

    torch.set_num_threads(2)
    try:
        slower = form("b", 30.0, *map(float, range(1, 30)))  # 1 to 10 ms do not count, 11 to 30 do
        result = latencies({"a": form("a", 1.0), "b": slower}, torch.zeros(1, 1, 8, 8), runs=20)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert {s[1:] for s in calls} == {(1, True, (1, 1, 8, 8))}
    measured = [s[0] for s in calls[2 * timing.WARM :]]
    assert measured == ["a", "b", "b", "a"] * 10, "each round begins with another one"
    assert (result["a"].p50, result["a"].p95, result["a"].runs) == (pytest.approx(1), pytest.approx(1), 20)
    assert (result["b"].p50, result["b"].p95) == (pytest.approx(20.5), pytest.approx(29.05))


def test_a_slow_net_is_timed_less_often(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: clock[0])

    def slow(image):
        clock[0] += 1.0

    assert latencies({"a": slow}, torch.zeros(1), runs=200, seconds=30)["a"].runs == 31
    assert latencies({"a": slow}, torch.zeros(1), runs=200, seconds=0)["a"].runs == timing.WARM


def test_the_processor_has_a_name_and_no_machine_is_named():
    import platform

    assert timing.processor()
    assert platform.node() not in timing.processor()


# what is measured


def test_each_form_is_what_lies_in_the_folder(trained, digits):
    made, _ = run_files.current(trained)
    net = models.load(trained)
    assert [form.name for form in made.forms] == ["float32", "onnx", "onnx-int8"]
    assert [form.file for form in made.forms] == ["best.safetensors", "best.onnx", "best-int8.onnx"]
    for form in made.forms:
        assert form.size == (trained / form.file).stat().st_size
        assert form.report.n == FEW
        assert form.report.suite == "deployed"
        assert form.report.attacks["square"]["queries"] == 20
        assert 0 < form.latency.p50 <= form.latency.p95
    assert made.forms[2].size < made.forms[1].size
    assert made.weights == models.hash_of(net) == Session(trained / "best.onnx").metadata["weights"]
    assert made.parameters == sum(p.numel() for p in net.parameters())
    assert made.macs == macs(net, (1, 8, 8))
    assert {form.report.model["hash"] for form in made.forms} == {
        models.hash_of(one) for one in (net, Session(trained / "best.onnx"), Session(trained / "best-int8.onnx"))
    }
    assert made.forms[0].report.verdicts == evaluate(net, digits[1], suites.deployed(EPS, net, 20), batch=FEW).verdicts


def test_agreement_is_that_of_the_predictions(trained, digits):
    made, _ = run_files.current(trained)
    net, int8, test = models.load(trained), Session(trained / "best-int8.onnx"), digits[1]
    x = test.batch(slice(None))[0]
    x_adv = adversarial(net, test, "parity", PGD(EPS, steps=10), batch=FEW)
    with torch.no_grad():
        equal = [int((net(images).argmax(1) == int8(images).argmax(1)).sum()) for images in (x, x_adv)]
    assert [(p.k, p.n) for p in made.forms[2].same] == [(k, FEW) for k in equal]
    assert [(p.k, p.n) for p in made.forms[1].same] == [(FEW, FEW)] * 2


def test_nets_files_and_reports_must_fit(trained, digits, tmp_path):
    net, files = models.load(trained), run_files.files_of(trained)
    suite = suites.deployed(EPS, net, 20)
    reports = {name: tmp_path / f"{name}.json" for name in files}
    with pytest.raises(ConfigError, match="in this order"):
        run_files.deploy(net, dict(reversed(files.items())), digits[1], suite, reports)
    with pytest.raises(ConfigError, match="in this order"):
        run_files.deploy(net, files, digits[1], suite, {"float32": tmp_path / "r.json"})
    other = models.build("small_cnn", channels=1, width=8, seed=5)
    with pytest.raises(CheckpointError, match=r"best\.onnx of the weights"):
        run_files.deploy(other, files, digits[1], suite, reports)
    assert list(tmp_path.iterdir()) == []


# what is kept


def test_a_comparison_survives_saving(run):
    made = DeploymentReport.load(run / "deployed-best.json")
    before = tree(run)
    made.save(run / "deployed-best.json")
    assert tree(run) == before
    content = json.loads(before["deployed-best.json"])
    assert content["forms"][2]["figures"]["transfer"]["n"] == FEW
    assert content["forms"][2]["beside_float32"]["clean"]["mcnemar_p"] == made.differences["onnx-int8"]["clean"].p


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c | {"format": "other"},
        lambda c: {k: v for k, v in c.items() if k != "macs"},
        lambda c: c | {"surprise": 1},
        lambda c: c | {"forms": []},
        lambda c: c | {"forms": c["forms"][::-1]},
        lambda c: c | {"forms": [c["forms"][0] | {"kept": f"../sat/{c['forms'][0]['kept']}"}, *c["forms"][1:]]},
        lambda c: c | {"forms": [c["forms"][0] | {"same": [[1, 2]]}, *c["forms"][1:]]},
        lambda c: [c],
    ],
)
def test_a_damaged_comparison_is_refused(run, damage):
    path = run / "deployed-best.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(ConfigError, match="type ardor deploy RUN again"):
        DeploymentReport.load(path)
    result, why = run_files.current(run)
    assert result is None
    assert "type ardor deploy" in why


def test_a_report_that_changed_is_not_shown_as_compared(run):
    made = DeploymentReport.load(run / "deployed-best.json")
    path = run / made.forms[2].kept
    report = Report.load(path)
    report.verdicts = dict.fromkeys(report.verdicts, "r" * FEW)
    report.save(path)
    with pytest.raises(ConfigError, match="another report"):
        DeploymentReport.load(run / "deployed-best.json")
    path.unlink()
    with pytest.raises(ConfigError, match=r"expected .*report-.* of a comparison"):
        DeploymentReport.load(run / "deployed-best.json")


def test_other_weights_or_another_file_make_a_comparison_stale(run):
    assert run_files.current(run)[1] == ""
    (run / "best-int8.onnx").write_bytes((run / "best.onnx").read_bytes())
    assert run_files.current(run) == (None, "best-int8.onnx is another file than the one compared")
    (run / "best-int8.onnx").unlink()
    assert run_files.current(run)[0], "what was compared may lie elsewhere now"
    weights = load_file(run / "best.safetensors")
    save_file({k: v * 1.5 if v.ndim == 4 else v for k, v in weights.items()}, run / "best.safetensors")
    result, why = run_files.current(run)
    assert result is None
    assert "is of the weights" in why
    (run / "deployed-best.json").unlink()
    assert run_files.current(run) == (None, "")


def test_a_report_is_kept_for_the_same_evaluation_only(digits, tmp_path):
    net, data, suite = models.build("small_cnn", channels=1, width=4), digits[1].limit(12), suites.quick(EPS)
    path = evaluate(net, data, suite, batch=6).save(tmp_path / "r.json")
    wanted = identity(net, data, suite, batch=6)
    assert matching_report(path, wanted).n == 12
    assert matching_report(tmp_path / "none.json", wanted) is None
    other = models.build("small_cnn", channels=1, width=4, seed=1)
    for one in (
        identity(net, data, suite, batch=5),
        identity(net, data, suite, batch=6, seed=1),
        identity(net, digits[1].limit(11), suite, batch=6),
        identity(net, data, suites.quick(ardor.Linf(0.1)), batch=6),
        identity(other, data, suite, batch=6),
    ):
        assert matching_report(path, one) is None
    path.write_text("{")
    assert matching_report(path, wanted) is None


def test_the_forms_of_a_run_have_reports_of_their_own(trained):
    files, suite = run_files.files_of(trained), suites.square(EPS)
    names = [path.name for path in run_files.reports_of(files, suite).values()]
    assert [name.removeprefix("report-square-linf-0.15-") for name in names] == [
        "best.json", "best_onnx.json", "best_int8_onnx.json",
    ]  # fmt: skip
    assert default_out(trained, suite, word_of(files["onnx"])).name == names[1], "as ardor evaluate FILE has it"
    assert run_files.files_of(trained, "last")["onnx-int8"].name == "last-int8.onnx"


def test_a_run_is_shown_by_its_other_reports_first(run):
    assert shown_reports([run])[0].suite == "deployed"
    assert main(["evaluate", str(run), "--suite", "quick", "--limit", "10"]) == 0
    made = run_files.current(run)[0]
    for form in made.forms:
        (run / form.kept).touch()
    assert shown_reports([run])[0].suite == "quick"


# at the shell


def test_the_shell_goes_on_with_what_is_there(run, monkeypatch, capsys):
    before = tree(run)
    judged = []

    def counted(net, *words, **more):
        judged.append(type(net).__name__)
        return evaluate(net, *words, **more)

    monkeypatch.setattr(run_files, "evaluate", counted)
    assert main(["deploy", str(run), *WORDS]) == 0
    shown = capsys.readouterr().out
    assert judged == []
    assert "is kept" not in shown
    after = tree(run)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"deployed-best.json"}, "its latency alone"
    assert "| | float32 | ONNX | INT8 |" in shown
    assert f"| size | {size_text((run / 'best.safetensors').stat().st_size)} |" in shown
    assert "Saved to" in shown
    assert main(["deploy", str(run), *WORDS[:2], "--queries", "30"]) == 0
    assert judged == ["SmallCNN", "Session", "Session"]
    assert run_files.current(run)[0].forms[2].report.attacks["square"]["queries"] == 30
    (run / run_files.current(run)[0].forms[1].kept).write_text("{")
    assert main(["deploy", str(run), *WORDS[:2], "--queries", "30"]) == 0
    assert judged[3:] == ["Session"], "from its journal"


def test_files_of_other_weights_are_exported_again(run, digits):
    weights = load_file(run / "best.safetensors")
    save_file({k: v * 1.01 if v.ndim == 4 else v for k, v in weights.items()}, run / "best.safetensors")
    net = models.load(run)
    kept = (run / "best.onnx").read_bytes()
    assert list(run_files.prepare(net, run_files.files_of(run), *digits, EPS, force=True)) == ["onnx", "onnx-int8"]
    assert (run / "best.onnx").read_bytes() != kept
    assert Session(run / "best-int8.onnx").metadata["weights"] == models.hash_of(net)
    assert main(["evaluate", str(run), "--suite", "quick", "--limit", "10"]) == 0
    (run / "best.onnx").unlink()
    assert main(["deploy", str(run), "--limit", "10", "--queries", "2"]) == 0
    judged = [content["suite"] for content in Session(run / "best.onnx").metadata["reports"]]
    assert judged == ["quick"], "as ardor export has it: what judged these weights"
    again = tree(run)
    assert list(run_files.prepare(net, run_files.files_of(run), *digits, EPS)) == ["onnx", "onnx-int8"]
    assert tree(run) == again


def test_a_third_party_file_is_not_overwritten(run, digits):
    model = onnx.load(run / "best.onnx")
    del model.metadata_props[:]
    onnx.save(model, run / "best.onnx")
    before = tree(run)
    with pytest.raises(ConfigError, match="got a third-party file .*: move it away"):
        list(run_files.prepare(models.load(run), run_files.files_of(run), *digits, EPS))
    (run / "best.onnx").write_bytes(before["best.onnx"][:1000])
    with pytest.raises((CheckpointError, ExportError)):
        list(run_files.prepare(models.load(run), run_files.files_of(run), *digits, EPS))
    assert len((run / "best.onnx").read_bytes()) == 1000


def test_an_int8_file_that_does_not_match_needs_force(run, capsys):
    (run / "best-int8.onnx").unlink()
    words = ["--threat.eps", "0.3", "--agreement", "1", "--limit", "200", "--queries", "5"]
    code = main(["deploy", str(run), *words])
    assert (code, (run / "best-int8.onnx").exists()) in ((2, False), (0, True)), "it may agree everywhere"
    if code == 2:
        shown = capsys.readouterr().err
        assert "type --force" in shown
        assert main(["deploy", str(run), *words, "--force"]) == 0
        assert run_files.current(run)[0].forms[2].forced
        assert "warning: best-int8.onnx was forced, with" in capsys.readouterr().out
        forced = (run / "best-int8.onnx").read_bytes()
        assert main(["deploy", str(run), *words]) == 2, "what was forced once is not taken for granted"
        assert (run / "best-int8.onnx").read_bytes() == forced


@pytest.mark.parametrize(
    ("forced", "equal", "agreement", "force", "taken"),
    [
        ([], (60, 57), 0.95, False, True),
        ([], (60, 56), 0.95, False, False),  # on adversarial images alone
        ([], (56, 60), 0.95, False, False),
        (["a miss"], (60, 60), 0.95, False, False),
        (["a miss"], (50, 50), 0.95, True, True),
    ],
)
def test_an_existing_file_must_meet_the_present_requirements(run, monkeypatch, forced, equal, agreement, force, taken):
    net = models.load(run)
    parity = {images: {"equal": k, "n": 60} for images, k in zip(("clean", "adversarial"), equal, strict=True)}
    content = {"weights": models.hash_of(net), "parity": parity, "forced": forced}
    monkeypatch.setattr(run_files, "Session", lambda path: SimpleNamespace(foreign=False, metadata=content))
    exported = []
    monkeypatch.setattr(run_files, "export", lambda net, path, **words: exported.append(words["to"]))
    list(run_files.prepare(net, run_files.files_of(run), None, None, EPS, agreement=agreement, force=force))
    assert exported == ([] if taken else ["onnx", "onnx-int8"])


def test_a_weaker_square_never_takes_the_place_of_a_stronger(run):
    names = [default_out(run, suites.deployed(EPS, queries=q), "best").name for q in (20, 500, 5000)]
    assert len(set(names)) == 3
    assert "queries" not in names[2]
    assert "| square, 20 queries |" in str(run_files.current(run)[0])


@pytest.mark.parametrize("words", [["--limit", "20", "--queries", "20"], ["--limit", str(FEW), "--queries", "5"]])
def test_a_smaller_comparison_is_written_beside_a_fuller_one(run, capsys, words):
    before = (run / "deployed-best.json").read_bytes()
    assert main(["deploy", str(run), *words]) == 0
    assert (run / "deployed-best.json").read_bytes() == before
    (beside,) = run.glob("deployed-best-*.json")
    assert (
        f"deployed-best.json has more images, queries or forms, or another threat, and is kept. Saved to {beside}"
        in (capsys.readouterr().out)
    )
    assert DeploymentReport.load(beside).forms[0].report.n == int(words[1])
    assert run_files.current(run)[0].forms[0].report.n == FEW


def test_an_int8_that_is_refused_leaves_the_other_forms(run, monkeypatch, capsys):
    """The file of all three is kept beside, for it has more."""
    (run / "best-int8.onnx").unlink()
    export = run_files.export

    def refusing(net, path, *, to, **options):
        if to == "onnx-int8":
            raise ExportError("expected INT8 to agree, got 12 of 60: type --force")
        return export(net, path, to=to, **options)

    monkeypatch.setattr(run_files, "export", refusing)
    assert main(["deploy", str(run), *WORDS]) == 2
    shown = capsys.readouterr()
    assert "| | float32 | ONNX |" in shown.out
    assert "warning: INT8 is missing: expected INT8 to agree, got 12 of 60: type --force" in shown.out
    assert shown.err.endswith("type --force\n")
    (beside,) = run.glob("deployed-best-*without_int8.json")
    assert [form.name for form in DeploymentReport.load(beside).forms] == ["float32", "onnx"]
    (run / "deployed-best.json").unlink()
    assert main(["deploy", str(run), *WORDS]) == 2
    assert run_files.current(run)[0].refused.startswith("expected INT8 to agree")


def test_the_shell_refuses_what_is_no_run(tmp_path, capsys):
    assert main(["deploy", str(tmp_path / "none")]) == 2
    assert main(["deploy"]) == 2
    assert main(["deploy", "--help"]) == 0
    assert "--queries" in capsys.readouterr().out


# in words


def test_sizes_and_p_have_few_digits():
    assert [size_text(n) for n in (18_250, 450_449, 999_499, 999_500, 9_093_712, 44_700_000)] == [
        "18.2 kB", "450 kB", "999 kB", "1.00 MB", "9.09 MB", "44.7 MB",
    ]  # fmt: skip
    assert [p_text(p) for p in (1.0, 0.0234, 0.00009)] == ["1.0000", "0.0234", "< 0.0001"]


def test_the_difference_is_the_files_less_the_nets(run):
    made = DeploymentReport.load(run / "deployed-best.json")
    report = made.forms[2].report
    # the file loses some of the first twenty that it had
    report.verdicts = {name: row[:20].replace("r", "b") + row[20:] for name, row in report.verdicts.items()}
    alive, now = (
        [set(letters) == {"r"} for letters in zip(*of.verdicts.values(), strict=True)]
        for of in (made.forms[0].report, report)
    )
    lost = sum(a and not b for a, b in zip(alive, now, strict=True))
    won = sum(b and not a for a, b in zip(alive, now, strict=True))
    fresh = DeploymentReport(**{k: v for k, v in vars(made).items() if k != "differences"})
    result = fresh.differences["onnx-int8"]["worst_case"]
    assert lost > 0
    assert result.value == pytest.approx((won - lost) / FEW)
    assert result.p == mcnemar(won, lost)
