"""A run to a folder like a repository of the Hub: bit-equal weights, only what is of them, and its model card."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import ardor
import ardor.evaluation.findings
from ardor import models
from ardor.cli.main import main
from ardor.deployment import hub
from ardor.deployment.hub import folder as folders
from ardor.deployment.hub.redact import redact, trained
from ardor.deployment.hub.release import evidence_of
from ardor.errors import ConfigError, ExportError, ModelError, RunError
from tests import warm
from tests.conftest import ROOT
from tests.deployment.conftest import EPS, onnx_packages, train

client = pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
constants = pytest.importorskip("huggingface_hub.constants")
_, ort, _ = onnx_packages()

NAMES = ["README.md", "SHA256SUMS", "best-int8.onnx", "best.onnx", "config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the shell with files, reports of the net, of its INT8 file and of other weights, and damaged ones."""
    run = train(tmp_path_factory.mktemp("trained") / "sat")
    last = models.build("small_cnn", channels=1, width=4, seed=7)
    ardor.evaluate(last, ardor.data.load_test("digits").limit(20), ardor.attacks.quick(ardor.Linf(EPS))).save(
        run / "report-quick-of-others.json"
    )
    assert main(["export", str(run), "--limit", "60"]) == 0
    assert main(["export", str(run), "--limit", "60", "--to", "onnx-int8", "--force"]) == 0
    assert main(["evaluate", str(run), "--suite", "quick", "--limit", "90"]) == 0
    assert main(["evaluate", str(run / "best-int8.onnx"), "--suite", "apgd", "--limit", "20"]) == 0
    ardor.export(last, run / "other.onnx", check=ardor.data.load_test("digits").limit(20))
    (run / "damaged.onnx").write_bytes((run / "best.onnx").read_bytes()[:-3])
    (run / "report-damaged.json").write_text("{")
    return run


@pytest.fixture(scope="module")
def release(run):
    return hub.release_of(run)


@pytest.fixture(scope="module")
def made(release, tmp_path_factory):
    return hub.write_folder(
        release, tmp_path_factory.mktemp("hub") / "out", repository="owner/sat-digits", license="mit"
    )


@pytest.fixture
def bare(release):
    """Without its ONNX files, which take a while to open."""
    return replace(release, files=())


def read(made, file="README.md"):
    return (made.folder / file).read_text(encoding="utf-8")


# the files


def test_the_folder_holds_what_belongs_to_these_weights_alone(made, release):
    assert sorted(p.name for p in made.folder.iterdir()) == sorted(made.sizes) == NAMES
    for name in ("best.onnx", "best-int8.onnx"):
        (path,) = [path for path in release.files if path.name == name]
        assert (made.folder / name).read_bytes() == path.read_bytes()
    left = "\n".join(made.left_out)
    assert len(made.left_out) == 4
    for word in (
        r"damaged\.onnx: expected a whole ONNX file",
        r"other\.onnx: of the weights \w{16}, expected \w{16}",
        r"report-damaged\.json: expected",
        "the report of small_cnn, suite quick: of the weights",
    ):
        assert re.search(word, left)
    assert "left out: other.onnx" in str(made)


def test_anybody_can_check_the_hashes(made):
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=made.folder, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.count(": OK") == len(NAMES) - 1
    config = json.loads(read(made, "config.json"))["sha256"]
    assert config["best.onnx"] == hashlib.sha256((made.folder / "best.onnx").read_bytes()).hexdigest()
    assert sorted(config) == ["best-int8.onnx", "best.onnx", "model.safetensors"]


def test_the_weights_come_back_bit_by_bit(made, release):
    x = torch.rand(5, *release.shape, generator=torch.Generator().manual_seed(0))
    for name in (f"hf:{made.folder}", str(made.folder), made.folder, str(made.folder / "model.safetensors")):
        net = models.load(name)
        assert models.hash_of(net) == models.hash_of(release.net)
        assert torch.equal(net(x), release.net(x))
        assert net.built_as == {"name": "small_cnn", "classes": 10, "channels": 1, "width": 4}
        assert net.loaded_from == str(made.folder / "model.safetensors")
        assert not net.training


def test_the_config_has_input_and_evaluations(made, release):
    config = json.loads(read(made, "config.json"))
    assert config["weights"] == models.hash_of(release.net)
    assert config["id2label"] == {str(k): str(k) for k in range(10)}
    assert config["label2id"]["7"] == 7
    assert config["input"]["shape"] == [1, 8, 8]
    assert (config["input"]["layout"], config["input"]["range"]) == ("NCHW", [0, 1])
    assert config["input"]["normalisation"] == "inside"
    assert config["threats"] == [{"name": "Linf", "eps": EPS}]
    (report,) = config["evaluations"]
    assert report["n"] == 90
    assert config["training"]["method"]["name"] == "sat"
    assert "threads" not in config["training"]


def test_mean_and_std_come_back(tmp_path, bare):
    net = models.build("small_cnn", channels=1, width=4, mean=[128 / 255], std=[1 / 3]).train()
    made = hub.write_folder(replace(bare, net=net), tmp_path / "out", force=True)
    back = models.load(made.folder)
    assert models.hash_of(back) == models.hash_of(net)
    assert torch.equal(back.normalise.mean, net.normalise.mean)
    assert net.training


# the card


def test_the_metadata_are_those_of_the_hub(made, bare):
    card = client.ModelCard.load(made.folder / "README.md")
    config = card.data.to_dict()
    assert config["license"] == "mit"
    assert config["pipeline_tag"] == "image-classification"
    assert {"ardor", "adversarial-robustness", "sat", "onnx"} <= set(config["tags"])
    results = {r.metric_name: r for r in card.data.eval_results}
    figures = evidence_of(bare).reports[0].figures()
    clean = results["clean accuracy"]
    assert clean.metric_value == round(figures["clean"].value, 4)
    assert clean.metric_args["n"] == 90
    assert clean.metric_args["wilson95"] == [round(end, 4) for end in figures["clean"].interval]
    robust = results[f"robust accuracy (pgd_10, suite quick, Linf eps {EPS})"]
    assert robust.metric_value == round(figures["pgd_10"].value, 4)
    assert (robust.dataset_name, robust.dataset_split) == ("digits", "test")
    assert len(results) == 3, "the INT8 file and other weights have no place in the net's own metadata"


def test_an_accuracy_stands_in_the_metadata_once(bare, tmp_path):
    (report,) = evidence_of(bare).reports
    again = replace(report, suite="paper")
    made = hub.write_folder(replace(bare, reports=[report, again]), tmp_path / "out")
    names = [r.metric_name for r in client.ModelCard.load(made.folder / "README.md").data.eval_results]
    assert names.count("clean accuracy") == 1
    assert len(names) == len(set(names)) == 5


def test_the_card_shows_the_tables_of_net_and_file(made, release):
    text, evidence = read(made), evidence_of(release)
    (report,) = evidence.reports
    rows = [line for line in report.table().splitlines() if line.startswith("| ")]
    assert all(row in text for row in rows)
    assert "**model.safetensors**, suite `quick`, on digits (test), Linf eps 0.15, n = 90 of 449" in text
    assert [file.path.name for file in evidence.files] == ["best.onnx", "best-int8.onnx"]
    (of_file,) = evidence.files[1].reports
    assert f"**best-int8.onnx**, suite `apgd`, on digits (test), Linf eps 0.15, n = {of_file.n} of 449" in text
    assert all(row in text for row in of_file.table().splitlines() if row.startswith("| "))
    assert "`pgd_10`: PGD (threat Linf (eps 0.15), steps 10" in text
    for file in evidence.files:
        clean = file.metadata["parity"]["clean"]
        assert f"| clean | 60 | {clean['largest']:.2g} | {100 * clean['equal'] / 60:.2f} % |" in text
    assert "other" not in {line.split(" ")[1] for line in text.splitlines() if line.startswith("| ")}


def test_the_card_has_the_limits(made):
    text = read(made)
    for heading in ("Evaluation", "Files", "Use", "Intended use", "Limits", "Training", "Versions and hashes"):
        assert f"\n## {heading}\n" in text
    assert "Only Linf eps 0.15 was measured." in text
    assert "AutoAttack was not run." in text
    assert "note: gradients are those of a simulation, which" in text
    assert "The worst class is" in text
    assert "method: sat (" in text
    assert "the checkpoint `best`; on the validation images" in text


def test_no_folder_of_the_machine_is_published(made, run):
    for name in ("README.md", "config.json"):
        assert str(run.parent) not in read(made, name)
        assert "root:" not in read(made, name)
        assert '"root"' not in read(made, name)


def test_the_cards_own_lines_run(release, tmp_path):
    """Both snippets, unchanged, beside the folder."""
    made = hub.write_folder(release, tmp_path / "out")
    blocks = re.findall(r"```python\n(.*?)```", read(made), re.DOTALL)
    assert len(blocks) == 2
    assert "hf:./out" in blocks[0]
    code = "\n".join(blocks) + "\nprint(tuple(net(torch.from_numpy(images)).shape), logits.shape)\n"
    code += "print(float(abs(net(torch.from_numpy(images)).detach().numpy() - logits).max()) < 1e-4)"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = warm.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout.split("\n")[:2] == ["(1, 10) (1, 10)", "True"], done.stderr


def test_own_words_stand_in_the_card(bare, tmp_path):
    made = hub.write_folder(bare, tmp_path / "out", about="\nMade for *a course*.\n")
    assert "\n\nMade for *a course*.\n\n## Evaluation" in read(made)
    assert "license" not in yaml.safe_load(read(made).split("---")[1])


def test_an_error_stands_above_the_figures_and_keeps_them_out_of_the_metadata(bare, tmp_path):
    (report,) = evidence_of(bare).reports
    bad = ardor.evaluation.findings.Finding("zero_gradients", "error", "no gradient", "do not quote it")
    mark = {**report.data, "marks": ["chosen on the test set"]}
    made = hub.write_folder(replace(bare, reports=[replace(report, findings=[bad], data=mark)]), tmp_path / "out")
    text = read(made)
    assert "**Do not quote the robust accuracies of model.safetensors" in text
    assert text.index("error: no gradient; do not quote it") < text.index("warning: chosen on the test set")
    assert "model-index" not in text


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("npz:/data/me/x.npz", "npz:x.npz"),
        ("/srv/a b/net.py:Net", "a b/net.py:Net"),
        ("~/runs/a/best.onnx computes", "best.onnx computes"),
        ("../mine.py:Net", "mine.py:Net"),
        ("runs/a/best-int8.onnx computes", "best-int8.onnx computes"),
        ("alpha 8/255, 5/6", "alpha 8/255, 5/6"),
        ("hf:owner/net@0123", "hf:owner/net@0123"),
        ("robustbench:cifar10/Wang2023", "robustbench:cifar10/Wang2023"),
        ("https://example.org/a/b", "https://example.org/a/b"),
    ],
)
def test_paths_are_cut(text, cut):
    assert redact({"a": [text]}) == {"a": [cut]}


def test_the_training_is_published_without_where_things_lay():
    config = {"data": {"name": "npz:/data/x.npz", "root": "/data"}, "teacher": {"name": "a", "weights": "w"}}
    assert trained(config | {"threads": 2}) == {"data": {"name": "npz:x.npz"}, "teacher": {"name": "a"}}


@pytest.mark.parametrize(("method", "taught"), [("sat", False), ("natural", False), ("mart", False), ("rslad", True)])
def test_a_card_names_a_teacher_only_where_the_method_uses_one(bare, tmp_path, method, taught):
    """Runs of earlier versions have a teacher in their config.yaml whatever the method."""
    config = {"method": {"name": method}, "teacher": {"name": "wide"}, "fingerprint": {"teacher": "feedbeef"}}
    folder = hub.write_folder(replace(bare, training=config), tmp_path / "out").folder
    text, published = (folder / "README.md").read_text(), (folder / "config.json").read_text()
    for word in ("from a teacher", "- teacher: wide", "feedbeef", "wide"):
        assert (word in text) == taught, word
    assert ("feedbeef" in published) == taught


def test_a_name_without_arguments_has_no_brackets(bare, tmp_path):
    training = {"method": {"name": "rslad"}, "teacher": {"name": "wide"}, "fingerprint": {"teacher": "feedbeef"}}
    folder = hub.write_folder(replace(bare, training=training), tmp_path / "out").folder
    assert "- method: rslad\n- teacher: wide, weights `feedbeef`\n" in (folder / "README.md").read_text()


def test_attacks_of_one_name_are_told_apart_by_their_suites(bare, tmp_path):
    (report,) = evidence_of(bare).reports
    attacks = report.attacks | {"pgd_10": report.attacks["pgd_10"] | {"steps": 7}}
    reports = [report, replace(report, suite="own", attacks=attacks), replace(report, suite="other", attacks=attacks)]
    text = (hub.write_folder(replace(bare, reports=reports), tmp_path / "out").folder / "README.md").read_text()
    lines = [line.partition(", step ")[0] for line in text.splitlines() if line.startswith("- `")]
    assert [line for line in lines if "`pgd_10`" in line] == [
        "- `pgd_10`, suite `quick`: PGD (threat Linf (eps 0.15), steps 10",
        "- `pgd_10`, suite `own` and `other`: PGD (threat Linf (eps 0.15), steps 7",
    ]
    assert all(", suite" not in line for line in lines if "`pgd_10`" not in line)


def test_names_are_no_markup_in_a_card(bare, tmp_path):
    evil = "x\n\n# Safe\n</script><img src=y> [a](javascript:z) `c` | d"
    names = tuple(f"{evil}{k}" for k in range(len(bare.class_names)))
    reports = [replace(r, data=r.data | {"name": evil, "class_names": list(names)}) for r in bare.reports]
    training = {"method": {"name": evil}, "teacher": {"name": evil}, "data": {"name": evil}, "note": "a:\n```\n# Safe"}
    hostile = replace(bare, name=evil, class_names=names, reports=reports, training=training)
    text = (hub.write_folder(hostile, tmp_path / "out").folder / "README.md").read_text()
    card = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", text.split("\n---\n", 1)[1])  # without blocks of code
    card = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", card)  # and without code in a line
    assert not re.search(r"(?m)^# Safe|<img|</script|\]\(javascript|(?<!\\)`", card)
    (metadata,) = yaml.safe_load_all(text.split("\n---\n", 1)[0])
    assert metadata["model-index"][0]["name"] == " ".join(evil.split())


# what is refused


def test_a_net_without_a_report_is_not_published_unasked(bare, tmp_path):
    others = replace(bare, reports=[r for r in bare.reports if r.title == ""])
    with pytest.raises(ConfigError, match=r"a report of the weights \w{16} of sat, got none, only 1 of others"):
        hub.write_folder(others, tmp_path / "out")
    assert not any(tmp_path.iterdir())
    text = read(hub.write_folder(others, tmp_path / "out", force=True))
    assert "**Not evaluated: its accuracy" in text
    assert "no claim of any robustness" in text
    assert "model-index" not in text


@pytest.mark.parametrize(
    ("words", "error", "word"),
    [
        ({"repository": "rslad"}, ConfigError, "OWNER/NAME"),
        ({"repository": "owner/a/b"}, ConfigError, "OWNER/NAME"),
        ({"repository": "https://hf.co/owner/net"}, ConfigError, "OWNER/NAME"),
        ({"repository": "owner/a--b"}, ConfigError, "OWNER/NAME"),
        ({"repository": "owner/net.git"}, ConfigError, "OWNER/NAME"),
        ({"license": "MIT License"}, ConfigError, "mit or apache-2.0"),
    ],
)
def test_words_that_do_not_fit_are_refused(bare, tmp_path, words, error, word):
    with pytest.raises(error, match=word):
        hub.write_folder(bare, tmp_path / "out", **words)
    assert not any(tmp_path.iterdir())


def test_a_net_of_the_users_own_is_refused(bare, tmp_path):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with pytest.raises(ConfigError, match=r"expected a net of ardor\.models, got Sequential"):
        hub.write_folder(replace(bare, net=net), tmp_path / "out")
    with pytest.raises(ModelError, match="the net to have the data.s 2 classes, got 10"):
        hub.write_folder(replace(bare, class_names=("a", "b")), tmp_path / "out")


def test_a_net_that_would_not_come_back_is_refused(bare, tmp_path):
    other = models.build("small_cnn", channels=1, width=4, mean=[0.1], std=[0.5])
    vars(other)["built_as"] = {**other.built_as, "mean": [0.2]}
    with pytest.raises(ExportError, match="expected the folder to give the net"):
        hub.write_folder(replace(bare, net=other), tmp_path / "out", force=True)
    other = models.build("small_cnn", channels=1, width=4)
    other.register_forward_hook(lambda net, x, logits: 2 * logits)  # the same weights, another function
    with pytest.raises(ExportError, match="same logits, got another"):
        hub.write_folder(replace(bare, net=other), tmp_path / "out", force=True)
    assert not any(tmp_path.iterdir())


def test_no_huggingface_hub(bare, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r'huggingface_hub for a model card.*pip install "ardor\[hub\]"'):
        hub.write_folder(bare, tmp_path / "out")
    assert not any(tmp_path.iterdir())


# the folder, whole or not at all


def test_a_folder_of_ours_is_replaced_and_any_other_is_not(bare, tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # empty: nothing to lose
    hub.write_folder(bare, out, about="one")
    assert "two" in read(hub.write_folder(bare, out, about="two"))
    for change, word in (
        (lambda: (out / "notes.txt").write_text("mine"), r"with other files \(notes\.txt\)"),
        (lambda: (out / "sub").mkdir(), r"with other files \(sub\)"),
        (lambda: (out / "README.md").write_text("mine"), r"in which README\.md changed since"),
        (lambda: (out / "config.json").unlink(), r"without config\.json"),
        (lambda: (out / "SHA256SUMS").unlink(), "without SHA256SUMS"),
    ):
        shutil.rmtree(out)
        hub.write_folder(bare, out)
        change()
        before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
        with pytest.raises(RunError, match=f"expected no folder, or one of ardor push.*{word}.*out=NEW"):
            hub.write_folder(bare, out=out)  # by the name in the message
        assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
        assert [p.name for p in tmp_path.iterdir()] == ["out"]
    with pytest.raises(RunError, match="without SHA256SUMS"):
        hub.write_folder(bare, Path(__file__).parent)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="which is a file"):
        hub.write_folder(bare, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("when", ["in the middle", "at the swap"])
def test_a_disk_that_says_no_leaves_what_was_there(bare, tmp_path, monkeypatch, when):
    out = tmp_path / "out"
    hub.write_folder(bare, out, about="one")
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    real = os.rename

    def full(*names):
        raise OSError(errno.ENOSPC, "No space left on device")

    def swap(a, b):
        full() if str(a).endswith(".tmp") else real(a, b)

    if when == "in the middle":
        monkeypatch.setattr(folders.os, "fsync", full)
    else:
        monkeypatch.setattr(folders.os, "rename", swap)
    with pytest.raises(RunError, match=r"expected to write .*out, got No space left"):
        hub.write_folder(bare, out, about="two")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_link_stays_a_link(bare, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    for _ in range(2):
        hub.write_folder(bare, tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real" / "README.md").is_file()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


def test_a_run_whose_mean_is_a_fraction_is_published(tmp_path):
    """config.yaml writes it as 128/255."""
    net = models.build("small_cnn", channels=1, width=2, mean=[128 / 255], std=[1 / 3])
    recipe = ardor.Recipe(epochs=1, batch=32, augment="none", val_size=20)
    train, val, _ = ardor.data.load("digits", limit=64)
    ardor.distill(net, None, ardor.methods.Natural(), train, recipe, val=val, run=tmp_path / "run")
    release = replace(hub.release_of(tmp_path / "run", "last"), reports=())
    back = models.load(hub.write_folder(release, tmp_path / "out", force=True).folder)
    assert models.hash_of(back) == models.hash_of(net)
    assert models.hash_of(models.load(tmp_path / "run" / "last.safetensors")) == models.hash_of(net)
