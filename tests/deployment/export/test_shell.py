"""The runtime of an exported file, `ardor export` and `ardor evaluate FILE`."""

import functools
import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import ardor
import ardor.attacks.suites
import ardor.models.loading
from ardor.cli.commands.export import export
from ardor.cli.main import main
from ardor.deployment.export import Exported
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.export.seal import probe
from ardor.engine import threads
from ardor.errors import DataError, ModelError
from ardor.models import hash_of
from ardor.storage.config import read_yaml
from tests.deployment.conftest import onnx_packages, train
from tests.deployment.export.conftest import EPS, foreign, logits_of, saved

onnx, ort, _ = onnx_packages()


# the runtime


def test_a_session_is_a_net_of_its_own(net, made, digits):
    session = Session(made["onnx"].path, threads=1)
    x = digits[1].batch(slice(0, 6))[0]
    assert np.allclose(session(x).numpy(), logits_of(net, x), atol=1e-5)
    assert session(x.double()).dtype == torch.float32
    assert not session.foreign
    assert session.shape == (1, 8, 8)
    assert session.class_names == tuple(str(c) for c in range(10))
    assert hash_of(session) != hash_of(Session(made["onnx-int8"].path))
    assert hash_of(session) == hash_of(Session(made["onnx"].path))
    for shape in ((2, 3, 8, 8), (2, 1, 9, 8), (2, 1, 8, 7), (1, 8, 8)):
        with pytest.raises(ModelError, match=r"expected images \(B, 1, 8, 8\)"):
            session(torch.zeros(shape))
    ardor.models.require_fit(session, (1, 8, 8), 10)


def test_a_file_is_judged_by_what_it_answers(net, made, digits):
    test, threat = digits[1].limit(40), ardor.Linf(EPS)
    suite = ardor.attacks.Suite("square", threat, {"square": ardor.attacks.Square(threat, queries=60)})
    ours, theirs = (ardor.evaluate(one, test, suite) for one in (net, Session(made["onnx"].path)))
    assert theirs.verdicts == ours.verdicts
    assert "b" in theirs.verdicts["square"]
    (finding,) = [f for f in theirs.findings if f not in ours.findings]
    assert (finding.name, finding.severity) == ("gradients_simulated", "note")


def test_the_report_of_a_third_party_file_has_a_finding(digits, tmp_path):
    model = foreign(out=("n", 8))
    images = replace(digits[1].limit(16), labels=digits[1].limit(16).labels % 8, classes=8, class_names=())
    suite = ardor.attacks.Suite("square", ardor.Linf(EPS), {"square": ardor.attacks.Square(queries=2)})
    report = ardor.evaluate(Session(saved(model, tmp_path)), images, suite)
    assert "was not exported by ardor: it is judged as a black box" in str(report)


def test_threads_are_torchs_or_those_that_are_typed(made):
    assert Session(made["onnx"].path).session.get_session_options().intra_op_num_threads == torch.get_num_threads()
    assert Session(made["onnx"].path, threads=2).session.get_session_options().intra_op_num_threads == 2
    file, x = Session(made["onnx"].path), torch.rand(3, 1, 8, 8)
    before = file(x)
    with threads.restored():
        torch.set_num_threads(3)
        assert file.session.get_session_options().intra_op_num_threads == 3, "as many as are chosen later"
        assert torch.allclose(file(x), before, atol=1e-6)


def test_the_probe_is_an_image_that_anybody_can_make():
    image = probe((2, 3, 4))
    assert image.shape == (1, 2, 3, 4)
    assert [round(float(v) * 255) for v in image.flatten()[:8]] == [0, 37, 74, 111, 148, 185, 222, 3]
    assert (image >= 0).all()
    assert (image <= 1).all()


# the shell


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("shell") / "run")


def test_the_shell_exports_a_run(trained, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(trained), "--suite", "quick", "--limit", "50"]) == 0
    (trained / "report-damaged.json").write_text("{")
    capsys.readouterr()
    assert main(["export", str(trained), "--limit", "60"]) == 0
    shown = capsys.readouterr().out
    assert "| adversarial | 60 |" in shown
    session = Session(trained / "best.onnx")
    assert session.metadata["weights"] == hash_of(ardor.models.load(trained))
    assert session.metadata["threat"] == {"name": "Linf", "eps": 0.15}
    assert session.metadata["check"]["part"] == "test"
    (report,) = session.metadata["reports"]
    assert report["n"] == 50
    words = ["--to", "onnx-int8", "--out", "small.onnx", "--limit", "60", "--agreement", "0.5"]
    assert main(["export", str(trained), *words, "--part", "val", "--threat", "l2", "--threat.eps", "0.5"]) == 0
    metadata = Session(tmp_path / "small.onnx").metadata
    assert (metadata["to"], metadata["check"]["part"], metadata["calibration"]["part"]) == ("onnx-int8", "val", "train")
    assert metadata["threat"] == {"name": "L2", "eps": 0.5}
    assert main(["export", str(trained), "--to", "torch-export", "--checkpoint", "last", "--limit", "9"]) == 0
    assert (trained / "last.pt2").exists()


def test_the_shell_finds_data_that_have_moved(trained, tmp_path, monkeypatch):
    requests = []

    @functools.wraps(ardor.data.load_test)
    def load(**source):
        requests.append(source)
        raise DataError("seen")

    monkeypatch.setattr(ardor.data, "load_test", load)
    monkeypatch.chdir(tmp_path)
    config = read_yaml(trained / "config.yaml")["data"]
    assert main(["export", str(trained)]) == 2
    assert main(["export", str(trained), "--data.root", "elsewhere"]) == 2
    assert requests == [config, config | {"root": "elsewhere"}]


def test_the_shell_refuses_in_one_sentence(trained, tmp_path, capsys):
    where = tmp_path / "n.onnx"
    words = ["--to", "onnx-int8", "--out", str(where), "--limit", "200", "--agreement", "1", "--threat.eps", "0.3"]
    code = main(["export", str(trained), *words])
    assert (code, where.exists()) in ((2, False), (0, True)), "whether INT8 agrees everywhere depends on the net"
    if code == 2:
        assert "type --force" in capsys.readouterr().err
        assert main(["export", str(trained), *words, "--force"]) == 0
        assert Session(where).metadata["forced"]
    assert main(["export", str(tmp_path / "none")]) == 2
    assert main(["export", str(trained), "--to", "tflite"]) == 2
    capsys.readouterr()
    assert main(["export", str(trained), "--to", "onnx-int8", "--agreement", "1.5"]) == 2
    assert "expected agreement as a share in (0, 1], got 1.5" in capsys.readouterr().err


NAMED = ["--model", "small_cnn", "--model.width", "4", "--data", "digits", "--limit", "60", "--threat.eps", "0.15"]


def test_the_shell_exports_any_net_with_weights(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*NAMED, "--weights", str(trained / "best.safetensors")]
    assert main(["export", *words, "--out", "net.onnx"]) == 0
    assert "| adversarial | 60 |" in capsys.readouterr().out
    metadata = Session("net.onnx").metadata
    assert metadata["weights"] == hash_of(ardor.models.load(trained))
    assert metadata["threat"] == {"name": "Linf", "eps": 0.15}
    assert (metadata["check"]["name"], metadata["check"]["part"], metadata["reports"]) == ("digits", "test", [])
    assert main(["export", *words, "--out", "q.onnx", "--to", "onnx-int8", "--part", "val", "--force"]) == 0
    metadata = Session("q.onnx").metadata
    assert (metadata["calibration"]["part"], metadata["check"]["part"]) == ("train", "val")


def test_a_users_own_net_needs_no_more_than_images_to_compare_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\ndef build(classes, channels, hidden=4):\n"
        "    layers = nn.Linear(36 * channels, hidden), nn.ReLU(), nn.Linear(hidden, classes)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
    )
    one = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3))
    torch.save(one.state_dict(), "w.pt")
    x = np.random.default_rng(0).random((9, 6, 6), dtype=np.float32)
    np.savez("d.npz", x=x, y=np.arange(9) % 3)
    words = ["--model", "net.py:build", "--model.hidden", "5", "--weights", "w.pt", "--data", "npz:d.npz"]
    assert main(["export", *words, "--out", "net.onnx"]) == 0
    images = torch.from_numpy(x)[:, None]
    assert np.allclose(Session("net.onnx")(images).numpy(), logits_of(one, images), atol=1e-5)
    assert main(["export", *words, "--out", "net.onnx", "--to", "onnx-int8"]) == 2, "there is nothing to calibrate on"


def test_words_of_a_named_net_that_do_not_fit_are_refused_in_one_sentence(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = ["--out", "net.onnx"]
    for words, message in (
        ([], "expected RUN, or --model NAME --weights FILE --data NAME, got"),
        ([*NAMED], "expected --out with --model"),
        (["--model", "small_cnn", *out], "expected --data with a name"),
        (["--data", "digits", *out], "expected RUN, or --model NAME"),
        ([str(trained), *NAMED, *out], "expected a run or --model, got"),
        ([str(trained), "--weights", "w.pt"], "--weights w.pt: type one of them"),
        ([*NAMED, *out], "weights"),
        ([*NAMED, *out, "--weights", "absent.pt"], "absent.pt"),
    ):
        capsys.readouterr()
        assert main(["export", *words]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
    assert not list(tmp_path.iterdir())


def test_every_word_is_passed_on(trained, monkeypatch):
    options = {}

    def write(net, path, **words):
        options.update(words)
        raise DataError("seen")

    load = ardor.models.load
    monkeypatch.setattr(
        "ardor.models.load", lambda run, checkpoint, **more: options.update(kept=checkpoint) or load(run)
    )
    monkeypatch.setattr("ardor.cli.commands.export.write", write)
    words = ["--checkpoint", "last", "--agreement", "0.7", "--seed", "3", "--limit", "17", "--force"]
    words += ["--threat", "l2", "--threat.eps", "0.25"]
    assert main(["export", str(trained), *words]) == 2
    assert (options["agreement"], options["seed"], options["limit"], options["force"]) == (0.7, 3, 17, True)
    assert (options["threat"], options["kept"]) == (ardor.L2(0.25), "last")
    assert main(["export", str(trained)]) == 2
    assert (options["agreement"], options["seed"], options["limit"], options["force"]) == (0.95, 0, 512, False)


def test_the_options_are_few():
    kinds = [p.kind for name, p in inspect.signature(export).parameters.items() if name != "more"]
    assert kinds.count(inspect.Parameter.KEYWORD_ONLY) <= 15


def test_a_run_of_the_papers_protocol_is_still_calibrated_on_its_training_images(trained):
    source = read_yaml(trained / "config.yaml")["data"] | {"protocol": "paper"}
    train, val, _ = ardor.data.load(**source)
    assert (train.part, val.part) == ("train", "val")


def test_exported_shows_itself(made):
    text = str(made["onnx"])
    assert isinstance(made["onnx"], Exported)
    assert text.startswith(f"{made['onnx'].path} (onnx, 0.04 MB)")
    assert "100.00 %" in text


def test_the_shell_judges_a_file_on_its_runtime(few_queries, trained, tmp_path, capsys):
    file = tmp_path / "best-int8.onnx"
    assert main(["export", str(trained), "--to", "onnx-int8", "--out", str(file), "--limit", "60", "--force"]) == 0
    assert main(["evaluate", str(file), "--limit", "20"]) == 0
    (saved,) = tmp_path.glob("report-*.json")
    report = ardor.Report.load(saved)
    assert report.suite == "deployed"
    assert report.title == f"{file} (onnxruntime {ort.__version__})"
    assert report.threat["eps"] == 0.15, "the threat of the file, not the default"
    assert report.training == {}
    assert "gradients_simulated" in [finding.name for finding in report.findings]
    judged = ardor.evaluate(
        Session(file), ardor.data.load("digits")[2].limit(20), ardor.attacks.suites.deployed(ardor.Linf(0.15)), batch=20
    )
    assert report.verdicts == judged.verdicts
    assert main(["evaluate", str(file), "--limit", "20", "--suite", "transfer", "--transfer_from", str(trained)]) == 0
    assert len(list(tmp_path.glob("report-transfer-*.json"))) == 1


def test_the_shell_requires_data_for_a_third_party_file(made, tmp_path, capsys):
    model = onnx.load(made["onnx"].path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "theirs.onnx")
    assert main(["evaluate", str(tmp_path / "theirs.onnx")]) == 2
    assert "expected --data with a name" in capsys.readouterr().err
    words = ["--data", "digits", "--limit", "10", "--threat.eps", "0.05"]
    assert main(["evaluate", str(tmp_path / "theirs.onnx"), *words]) == 0
    assert "black box" in capsys.readouterr().out
    (saved,) = tmp_path.glob("report-*.json")
    assert ardor.Report.load(saved).suite == "square", "what needs no gradient"
    assert main(["evaluate", str(tmp_path / "theirs.onnx"), *words, "--suite", "quick"]) == 2
    assert "a black box, got one that differentiates: type --suite square" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "none.onnx")]) == 2
    assert "expected an ONNX file" in capsys.readouterr().err
