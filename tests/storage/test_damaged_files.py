"""Every kind of file that is read, with each part changed: a result or a sentence of ours, never another exception."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json

import pytest
import yaml
from safetensors.torch import save_file

import ardor
from ardor import models
from ardor.deployment.export.seal import metadata_in
from ardor.deployment.variants.comparison import DeploymentReport
from ardor.diagnostics.record import record_of_run, validation_images
from ardor.errors import ArdorError, ConfigError
from ardor.evaluation.comparison.runs import side_of
from ardor.evaluation.journal import Journal, _parse
from ardor.evaluation.report import Report
from ardor.evaluation.variance import read_gaps, split_of
from ardor.storage.recipes import read_recipe
from ardor.storage.runs import Run
from ardor.storage.tensors import read_tensors, write_tensors
from ardor.training.job import Job
from ardor.training.soft_labels import SoftLabels
from ardor.training.trackers import Sink, scalars

OTHERS = [None, "x", "", 3, -1, 2**70, 1e300, True, [], {}, [[1]], {"a": {"b": 1}}, {"name": 3}, "x" * 1000]
OMIT = object()


def places(content, path=()):
    yield path
    inner = list(content.items()) if isinstance(content, dict) else []
    inner += enumerate(content[:2]) if isinstance(content, list) else []
    for key, value in inner:
        yield from places(value, (*path, key))


def variants(content):
    """Copies of content with one part left out or of another type."""
    for path in places(content):
        for other in [OMIT, *OTHERS]:
            whole = copy.deepcopy(content)
            if not path:
                if other is not OMIT:
                    yield other
                continue
            part = whole
            for key in path[:-1]:
                part = part[key]
            if other is OMIT:
                del part[path[-1]]
            else:
                part[path[-1]] = other
            yield whole


def sound(call, *arguments):
    """Whether a call succeeds; a sentence with a file's name is shown, bounded and without control characters."""
    try:
        call(*arguments)
    except ArdorError as error:
        text = str(error)
    else:
        return True
    assert text.startswith("expected ")
    assert len(text) < 1500
    return False


@pytest.fixture(scope="module")
def run(shared, tmp_path_factory):
    def make(folder):
        train, val, test = ardor.data.load("digits")
        recipe = ardor.Recipe(epochs=1, batch=256, augment="none", device="cpu", val_size=20)
        method = ardor.methods.SAT(ardor.attacks.PGD(steps=1))
        net = models.build("small_cnn", channels=1, width=2)
        ardor.distill(net, None, method, train.limit(256), recipe, val=val, run=folder)
        report = ardor.evaluate(net, test.limit(20), ardor.attacks.quick(ardor.Linf(0.1)), batch=20)
        report.save(folder / "report-quick-linf-0.1-best.json")

    return shared("run-to-damage", make)


def test_a_report(run, tmp_path):
    content = json.loads((run / "report-quick-linf-0.1-best.json").read_text())
    path = tmp_path / "report-quick-linf-0.1-best.json"

    def use():
        report = Report.load(path)
        report.table(), report.per_class(), report.by_access(), side_of(path)

    for other in variants(content):
        path.write_text(json.dumps(other))
        sound(use)
    path.write_bytes(json.dumps(content).encode().replace(b"quick", b"\xff\xfe"))
    with pytest.raises(ConfigError, match=r"report-quick-linf-0\.1-best\.json"):
        Report.load(path)


def test_a_flipped_letter_contradicts_the_figures(run, tmp_path):
    content = json.loads((run / "report-quick-linf-0.1-best.json").read_text())
    path = tmp_path / "r.json"
    for name, letters in content["verdicts"].items():
        for old, new in ("rb", "br"):
            if old in letters:
                flipped = letters.replace(old, new, 1)
                path.write_text(json.dumps(content | {"verdicts": content["verdicts"] | {name: flipped}}))
                with pytest.raises(ConfigError, match=r"figures that follow from the verdicts in .*r\.json"):
                    Report.load(path)


def test_the_configuration_of_a_run(run, tmp_path, monkeypatch):
    content = yaml.safe_load((run / "config.yaml").read_text())
    for name in ("metrics.jsonl", "best.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    small = ardor.data.load("digits")
    monkeypatch.setattr("ardor.data.load_test", lambda **options: small[2])
    monkeypatch.setattr("ardor.data.load", lambda **options: small)
    monkeypatch.setattr("ardor.data.cut", lambda *arguments: small[:2])
    uses = [
        lambda: Run(tmp_path).threat, lambda: record_of_run(tmp_path), lambda: side_of(tmp_path),
        lambda: Run(tmp_path).require(content), lambda: models.load(tmp_path), lambda: split_of(tmp_path),
        lambda: validation_images(tmp_path),
    ]  # fmt: skip
    for other in itertools.islice(variants(content), 0, None, 4):  # 15 variants of a part: all kinds, in turn
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(other))
        for use in uses:
            sound(use)


def test_a_recipe(tmp_path, monkeypatch):
    content = {
        "data": {"name": "digits", "val": 0.1}, "student": {"name": "small_cnn", "width": 2},
        "method": {"name": "sat", "attack": {"name": "PGD", "steps": 1, "threat": {"name": "linf", "eps": "8/255"}}},
        "recipe": {"epochs": 1, "val_attack": {"steps": 2}, "milestones": [1]}, "averaging": {"name": "ema"},
        "threat": {"name": "linf", "eps": 0.1}, "variants": {"smoke": {"recipe": {"epochs": 1}}},
    }  # fmt: skip
    small = tuple(part.limit(20) for part in ardor.data.load("digits"))
    monkeypatch.setattr("ardor.data.load", lambda name, **options: small)
    for other in variants(content):
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(other))
        sound(lambda: Job.from_config(read_recipe(tmp_path / "r.yaml", variants=["smoke"]), tmp_path / "run"))


def test_the_metrics(run, tmp_path, caplog):
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    (tmp_path / "best.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    record = json.loads((run / "metrics.jsonl").read_text())
    sink = Sink([], tmp_path, {})
    for other in variants(record):
        (tmp_path / "metrics.jsonl").write_text(json.dumps(other) + "\n")
        for line in Run(tmp_path).metrics():
            scalars({"terms": {}} | line)
        sound(record_of_run, tmp_path)
        sound(Run(tmp_path).drop_after, 1)
    sink.close()
    caplog.clear()
    good = json.dumps(record).encode()
    (tmp_path / "metrics.jsonl").write_bytes(
        good + b"\n" + good.replace(b'"epochs": ', b'"epochs": \xff') + b"\n" + good[:9]
    )
    assert len(Run(tmp_path).metrics()) == 1
    assert "line 2 of" in caplog.text
    assert "metrics.jsonl" in caplog.text
    assert "line 3" not in caplog.text, "a line that a kill cut short"
    Run(tmp_path).drop_after(1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == good + b"\n"


def test_the_log_of_trackers(tmp_path):
    sink = Sink([], tmp_path, {})
    for other in variants({"tensorboard": {"id": None, "epoch": 2}}):
        (tmp_path / "log.json").write_text(json.dumps(other))
        entries = sink._entries()
        assert all(isinstance(entry.get("epoch", 0), int) for entry in entries.values())


def test_the_variance_gap(tmp_path):
    point = {"eps": 0.0, "accuracy": 1.0, "variance": 1.0, "signed": 0.0, "relative": 0.0, "frobenius": 0.0}
    content = {"key": {"model": "a", "data": "b", "radii": [0.0], "n": 20}, "points": [point, point]}
    for other in variants(content):
        (tmp_path / "variance_gap.json").write_text(json.dumps(other))
        sound(read_gaps, tmp_path / "variance_gap.json")


def test_a_line_of_a_journal():
    content = {"sum": 0, "entry": {"stage": "clean", "number": 0, "index": [1, 2], "letters": "rb", "seconds": 0.5}}
    for other in variants(content):
        _parse(json.dumps(other).encode())
    assert _parse(b"\xff") is None
    assert _parse(b"[" * 100_000) is None


def test_a_comparison_of_variants(run, tmp_path):
    report = (run / "report-quick-linf-0.1-best.json").read_bytes()
    (tmp_path / "report-a.json").write_bytes(report)
    form = {
        "name": "float32", "file": "a", "size": 3, "sha256": "x", "kept": "report-a.json",
        "kept_sha256": hashlib.sha256(report).hexdigest(), "latency_ms": {"p50": 1.0, "p95": 2.0, "runs": 3},
        "same": [[1, 2], [1, 2]], "forced": [],
    }  # fmt: skip
    content = {
        "format": "ardor-deployed-1", "checkpoint": "best", "weights": "w", "parameters": 3, "macs": 4, "forms": [form],
        "attack": {}, "processor": "p", "versions": {"a": "b"},
    }  # fmt: skip
    path = tmp_path / "deployed-best.json"
    for other in variants(content):
        path.write_text(json.dumps(other))
        sound(lambda: str(DeploymentReport.load(path)))


def test_the_metadata_of_an_exported_file():
    content = {
        "format": "ardor-export-1", "to": "onnx", "weights": "w", "classes": ["a", "b"], "probe": [0.1, 0.2],
        "input": {"layout": "NCHW", "shape": [1, 8, 8], "range": [0, 1]}, "threat": {"name": "Linf", "eps": 0.1},
        "check": {"name": "digits", "n": 3},
        "parity": {"clean": {"n": 1, "equal": 1}, "adversarial": {"n": 1, "equal": 1}},
    }  # fmt: skip
    assert metadata_in(json.dumps(content), "m.onnx") == content
    for other in variants(content):
        sound(metadata_in, json.dumps(other), "m.onnx")


def test_the_metadata_of_weights_and_of_a_folder_for_the_hub(run, tmp_path):
    tensors, metadata = read_tensors(run / "best.safetensors")
    net = json.loads(metadata["net"])
    save_file(tensors, tmp_path / "model.safetensors")
    for other in variants(net):
        write_tensors(tmp_path / "w.safetensors", tensors, {"net": json.dumps(other)})
        sound(models.load, tmp_path / "w.safetensors")
        (tmp_path / "config.json").write_text(json.dumps({"ardor": other}))
        sound(models.load, tmp_path)
    for other in variants({"ardor": net, "weights": "x"}):
        (tmp_path / "config.json").write_text(json.dumps(other))
        sound(models.load, tmp_path)
    for damaged in (b"\xff", b"", b"[" * 100_000, b'{"ardor": 1, "ardor": 2}'):
        (tmp_path / "config.json").write_bytes(damaged)
        assert not sound(models.load, tmp_path)


def test_the_identities_of_soft_labels_and_of_a_journal(tmp_path):
    train = ardor.data.load("digits")[2].limit(8)
    identity = {"layout": 1, "teacher": "t", "shape": [1, 8, 8], "padding": 0, "flip": False, "classes": 10}
    identity |= {"dtype": "float32", "logits": [[0.1, 0.2]]}

    def open_journal():
        with Journal.open(tmp_path / "journal", identity, False):
            pass

    uses = {"labels": lambda: SoftLabels(tmp_path / "labels", identity, train), "journal": open_journal}
    for folder, use in uses.items():
        assert sound(use)
        for other in variants(identity):
            (tmp_path / folder / "identity.yaml").write_text(yaml.safe_dump(other))
            assert sound(use) is (other == identity)
