"""What the gate measures of a teacher, its pieces, and where its record comes from."""

import copy
import importlib.util
import json
import math
import re
import shutil
import types

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

import ardor
import ardor.evaluation.findings
import ardor.models.loading
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.cli.main import main
from ardor.data.split import Split
from ardor.diagnostics.probe import Probe
from ardor.diagnostics.record import Record, record_of
from ardor.diagnostics.teacher import Entropy, TeacherReport, examine_teacher, require, wants_robust
from ardor.diagnostics.teacher.causes import GAIN, brings_back, class_order, repairs
from ardor.diagnostics.teacher.robustness import within
from ardor.errors import ConfigError, DataError, ModelError
from ardor.evaluation.proportion import Proportion
from ardor.losses import margin
from ardor.models import known as known_teachers
from ardor.noise import Noise
from ardor.testing import require_same, snapshot
from ardor.testing.shared import global_rng
from tests.conftest import SHARED, Wrapped
from tests.diagnostics.teacher.conftest import EPS, THREAT, names, shuffled
from tests.fixtures.make import sat, trained

pytestmark = pytest.mark.processor


# What is measured


def test_a_sound_teacher_passes_and_was_measured(sound, val, record):
    seen = examine_teacher(sound, val, THREAT, record=record)
    assert seen.findings == []
    assert not seen.refused
    assert seen.transfer is None
    assert seen.n == seen.clean.n == seen.robust.n == 449
    with torch.no_grad():
        logits = sound(val.images)
    right = logits.argmax(1) == val.labels
    assert seen.clean.k == int(right.sum()) > 430
    x_adv = PGD(THREAT, steps=20)(sound, val.images, val.labels, Noise(0, val.index, "gate"))
    with torch.no_grad():
        attacked = sound(x_adv)
    assert abs(seen.robust.k - int((right & (attacked.argmax(1) == val.labels)).sum())) <= 1
    assert 300 < seen.robust.k < 360
    p = logits.softmax(1)
    nats = -(p * p.log()).sum(1)
    assert seen.entropy.clean == pytest.approx(float(nats.mean()), rel=1e-3)
    hard = margin(attacked, val.labels).topk(113).indices
    assert seen.entropy.hard == pytest.approx(float(nats[hard].mean()), rel=0.01)
    assert seen.entropy.hard > 2 * seen.entropy.clean
    require(seen)


def test_the_share_of_the_entropy_is_of_log_c():
    assert Entropy(1.0, None, 10).share(math.log(10)) == 1
    uniform = Wrapped(nn.Flatten(), after=lambda z: z[:, :10] * 0)
    split = Split(
        torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10, 10, "", "val"
    )
    assert examine_teacher(uniform, split, THREAT).entropy.clean == pytest.approx(math.log(10))


def test_transfer_counts_the_students_examples_that_fool_the_teacher(sound, natural, val):
    seen = examine_teacher(sound, val, THREAT, student=natural, seed=3)
    x_adv = PGD(THREAT, steps=20)(natural, val.images, val.labels, Noise(3, val.index, "gate"))
    with torch.no_grad():
        right = [net(val.images).argmax(1) == val.labels for net in (sound, natural)]
        wrong = [net(x_adv).argmax(1) != val.labels for net in (sound, natural)]
    fooled = right[0] & right[1] & wrong[1]
    assert abs(seen.transfer.n - int(fooled.sum())) <= 2
    assert abs(seen.transfer.k - int((fooled & wrong[0]).sum())) <= 2
    assert 0 < seen.transfer.k < seen.transfer.n < 400
    same = examine_teacher(natural, val, THREAT, student=natural).transfer
    assert same.k == same.n > 200, "its own examples"
    assert f"{seen.transfer} % of {seen.transfer.n}" in seen.text()


def test_a_student_without_adversarial_examples_and_one_that_does_not_fit(sound, natural, val):
    seen = examine_teacher(sound, val, Linf(1e-6), student=natural, limit=50)
    assert seen.transfer == Proportion(0, 0)
    assert "it has none on these images" in seen.text()
    with pytest.raises(ModelError, match="student"):
        examine_teacher(sound, val, THREAT, student=Wrapped(natural, after=lambda z: z[:, :7]), limit=50)


def test_nothing_depends_on_batch_and_nothing_is_left_behind(sound, natural, val):
    teacher, student = copy.deepcopy(sound).train(), copy.deepcopy(natural).train()
    next(teacher.parameters()).requires_grad_(False)
    before, rng = (snapshot(teacher), snapshot(student)), global_rng()
    one = examine_teacher(teacher, val, THREAT, student=student, limit=60)
    assert global_rng() == rng
    require_same(before[0], snapshot(teacher), "gate", "teacher")
    require_same(before[1], snapshot(student), "gate", "student")
    odd = examine_teacher(teacher, val, THREAT, student=student, limit=60, batch=17)
    assert (one.clean, one.robust, one.transfer) == (odd.clean, odd.robust, odd.transfer)
    assert one.n == 60
    assert not any(module._forward_hooks for module in teacher.modules())


def test_a_method_without_attacks_wants_no_robust_teacher(natural, val):
    assert names(examine_teacher(natural, val, Linf(0.25))) == ["not_robust"]
    seen = examine_teacher(natural, val, Linf(0.25), robust=False)
    assert seen.findings == []
    assert seen.robust is None
    assert seen.entropy.hard is None
    assert "PGD-20 at eps 0.25: not measured" in seen.text()
    wanting = {name: wants_robust(getattr(ardor.methods, name)()) for name in ardor.methods.__all__}
    assert not wanting["KD"]
    assert wanting["RSLAD"]
    assert wanting["ARD"]
    assert not wants_robust(ardor.methods.KD)
    assert wants_robust(object()), "a method of one's own is not known to do without"


def test_parts_are_told(sound, val):
    told = []
    examine_teacher(sound, val, THREAT, limit=20, progress=lambda *row: told.append(row))
    assert told == [("clean", 0, 4), ("causes", 1, 4), ("PGD-20", 2, 4), ("student", 3, 4)]


# Sound teachers


@pytest.mark.parametrize("seed", range(6))
def test_sound_teachers_of_other_seeds_pass_with_and_without_a_record(parts, val, seed):
    """Wide and narrow, hardly trained and well; on few images and many; against the record of all the images."""
    net = trained(f"seed{seed}")
    eps = (0.03, 0.1)[seed % 2 == 0]
    whole = examine_teacher(net, val, Linf(eps))
    assert whole.findings == []
    said = Record(whole.clean.value, whole.robust.value, eps, "whole")
    for images, limit in ((val, 100), (parts[1], 1000), (val, 30)):
        assert examine_teacher(net, images, Linf(eps), limit=limit, record=said, seed=seed).findings == []
        assert examine_teacher(net, images, Linf(eps), limit=limit, seed=seed).findings == []


def test_better_than_the_record_is_welcome(sound, val):
    assert examine_teacher(sound, val, THREAT, record=Record(0.5, 0.2, EPS, "modest")).findings == []


# Pieces


def test_an_image_that_was_wrong_before_the_attack_is_never_right_under_it(sound, val):
    part = val.take(slice(0, 20))
    bench = Probe(sound, sound, part, 20, 0)
    assert within(bench, torch.zeros(20, dtype=torch.bool), THREAT, 1e-4).k == 0
    assert within(bench, torch.ones(20, dtype=torch.bool), THREAT, 1e-4).k > 15


def test_an_order_is_one_to_one_even_where_classes_are_never_predicted():
    z = torch.zeros(6, 3)
    z[:, 2] = 5.0
    order = class_order(z, torch.tensor([0, 0, 0, 1, 1, 2]))
    assert sorted(order.tolist()) == [0, 1, 2]
    assert int(order[0]) == 2


def test_a_repair_must_win_more_than_luck_would():
    before, after = torch.zeros(100, dtype=torch.bool), torch.zeros(100, dtype=torch.bool)
    after[: round(100 * GAIN)] = True
    assert brings_back(before, after, None)
    after[0] = False
    assert not brings_back(before, after, None)
    assert brings_back(before, after, 0.2)
    few = torch.zeros(10, dtype=torch.bool)
    assert not brings_back(few, torch.arange(10) < 3, 0.2), "three of ten"
    assert not brings_back(after, after, 0.1), "nothing won is nothing repaired"


def test_repairs_fit_the_channels_and_try_what_is_inside(normalised, val):
    said = [repair.seen for repair in repairs(normalised, val)]
    assert len(said) == 8
    assert not any("blue" in seen or "ImageNet" in seen for seen in said)
    assert any("MNIST" in seen for seen in said)


def test_numbers_that_cannot_be_meant(sound, val):
    with pytest.raises(DataError, match="batch"):
        examine_teacher(sound, val, THREAT, batch=0)
    with pytest.raises(ConfigError, match="at least 1 image"):
        examine_teacher(sound, val, THREAT, limit=0)
    with pytest.raises(ConfigError, match=r"0\.6925"):
        Record(69.25, None, None, "me")
    with pytest.raises(ConfigError, match="eps"):
        Record(0.9, 0.5, None, "me")


def test_require_names_the_first_error_and_lets_warnings_pass():
    finding = ardor.evaluation.findings.Finding
    warned = TeacherReport(1, THREAT, findings=[finding("other_eps", "warning", "seen", "next")])
    require(warned)
    warned.findings += [finding("misfit", "error", "one", "do one"), finding("not_robust", "error", "two", "do two")]
    with pytest.raises(ModelError, match="got misfit: one; do one, or pass gate=False to train all the same"):
        require(warned)
    with pytest.raises(ModelError, match="got misfit: one; do one, or leave the row out$"):
        require(warned, otherwise="leave the row out")


# Records


def test_the_record_of_a_known_teacher(monkeypatch):
    said = types.SimpleNamespace(
        id="Known2026",
        data="cifar10",
        clean=0.85,
        autoattack=0.53,
        eps=0.031,
        norm="Linf",
        shape=(3, 32, 32),
        classes=10,
    )
    monkeypatch.setattr(known_teachers, "known_of", lambda net: said)
    claim = record_of("robustbench:Known2026", nn.Identity())
    assert claim == Record(0.85, 0.53, 0.031, "Known2026", "AutoAttack", "linf", "cifar10", (3, 32, 32))
    monkeypatch.setattr(known_teachers, "known_of", lambda net: None)
    assert record_of("resnet18", nn.Identity()) is None
    assert record_of(None, nn.Identity()) is None


@pytest.fixture(scope="module")
def run(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    recipe = ardor.Recipe(
        epochs=2, batch=64, lr=1e-9, augment="none", device="cpu", val_attack=PGD(THREAT, steps=7), val_every=1
    )
    ardor.distill(trained("sound"), None, sat(), parts[0], recipe, val=parts[1], run=folder)
    return folder


def test_the_record_of_a_run_is_of_the_checkpoint_that_was_loaded(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    claim = record_of(run, ardor.models.load(run, checkpoint="last"))
    last = [line for line in lines if line.get("epoch") == 2][-1]
    assert (claim.clean, claim.robust) == (last["val_clean"], last["val_robust"])
    assert claim.of == f"{run} (last)"
    best = record_of(str(run), ardor.models.load(run))
    assert best.robust == max(line["val_robust"] for line in lines if "val_robust" in line)
    assert (best.eps, best.attack, best.norm, best.data) == (EPS, "PGD-7", "linf", "digits")
    assert best.of == f"{run} (best)"
    assert record_of(run, nn.Identity()) == best


def test_a_run_that_was_never_validated_has_no_record(run, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.yaml", "best.safetensors"):
        (bare / name).write_bytes((run / name).read_bytes())
    assert record_of(bare, nn.Identity()) is None


# The shell


def shell(words, capsys):
    code = main(["gate", *words])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def test_ardor_gate_on_a_run(run, capsys):
    code, out = shell([str(run), "--student", str(run), "--student.checkpoint", "last"], capsys)
    assert code == 0
    assert out.startswith(f"{run} as a teacher, on 135 images of digits (val)\n")
    assert "under PGD-7 at eps 0.1" in out
    assert "PGD-20 at eps 0.1: " in out
    assert "examples: not measured" not in out
    assert out.endswith("Passed.\n")
    code, out = shell([str(run), "--threat.eps", "0.4", "--limit", "60"], capsys)
    assert code == 1
    assert "error: not_robust" in out
    code, out = shell([str(run), "--threat.eps", "0.4", "--method", "kd", "--part", "test"], capsys)
    assert code == 0
    assert "PGD-20 at eps 0.4: not measured" in out
    assert "of digits (test)" in out


def test_the_advice_on_a_teacher_that_was_normalised_outside_cures_it(normalised, val, tmp_path, capsys):
    """A run whose config.yaml lacks the mean and std of its net; what the gate advises is typed as it stands."""
    measured = examine_teacher(normalised, val, THREAT)
    student = {"name": "small_cnn", "width": 8, "channels": 1}
    attack = {"name": "PGD", "steps": 20, "threat": {"name": "Linf", "eps": EPS}}
    config = {"data": {"name": "digits"}, "student": student, "recipe": {"val_attack": attack}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    line = {"epoch": 1, "val_clean": measured.clean.value, "val_robust": measured.robust.value}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line))
    save_file(normalised.state_dict(), tmp_path / "best.safetensors", {"epoch": "1"})
    words = [str(tmp_path), "--part", "test"]  # it has the most images
    code, out = shell(words, capsys)
    assert code == 1
    assert "error: mis_normalised" in out
    advised = re.search(r"(--teacher\.mean [\d.]+) (--teacher\.std [\d.]+)", out)
    code, out = shell([*words, *" ".join(advised.groups()).split()], capsys)
    assert code == 0, out


def test_ardor_gate_on_weights(run, capsys):
    words = ["small_cnn", "--teacher.weights", str(run / "best.safetensors"), "--teacher.width", "8"]
    code, out = shell([*words, "--data", "digits", "--threat.eps", "0.1", "--seed", "2"], capsys)
    assert code == 0
    assert "record: none" in out
    for refused, expected in (
        (words, "--data"),
        ([], "expected a teacher"),
        (["/nosuch"], "got /nosuch, where there is none: check the path"),
        (["resnet81"], 'got "resnet81", which is neither (did you mean "resnet18"'),
        ([str(run / "best.safetensors"), "--data", "digits"], "resnet18, say, and --teacher.weights"),
        (["digits-cnn32-sat"], 'which is neither (did you mean "ardor:digits-cnn32-sat"'),
    ):
        code, out = shell(refused, capsys)
        assert code == 2
        assert expected in out


# Nets of others
MEAN, STD = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)))
PUBLISHED = {
    "nothing": lambda net: net,
    "normalised by mean": lambda net: Wrapped(net, before=lambda x: x * STD + MEAN),
    "without the normalisation": lambda net: Wrapped(net, before=lambda x: (x - MEAN) / STD),
    "0 .. 255": lambda net: Wrapped(net, before=lambda x: x / 255),
    "blue, green, red": lambda net: Wrapped(net, before=lambda x: x.flip(1)),
    "in the order": lambda net: Wrapped(net, after=shuffled),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A net without batch norm that others made, test images, and what its index says of it."""
    if not (SHARED / "checkpoints" / "index.json").is_file():
        pytest.skip("the published nets are not beside the repository")
    folder = tmp_path_factory.mktemp("published")
    copies = [shutil.copy(SHARED / part, folder) for part in ("data/packs.py", "checkpoints/archs.py")]
    spec = importlib.util.spec_from_file_location("packs_of_the_gate", copies[0])
    packs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(packs)
    arrays = packs.read(SHARED / "data" / "cifar10_test.pack.zip")
    images, labels = (torch.from_numpy(arrays[key][:400]) for key in ("x_test", "y_test"))
    split = Split(images.permute(0, 3, 1, 2).contiguous(), labels.long(), 10, "cifar10", "test")
    name = "cifar10_resnet2b_adv2"
    said = json.loads((SHARED / "checkpoints" / "index.json").read_text())[name]
    claim = Record(said["clean_10000"], said["pgd20_first200"]["2/255"], 2 / 255, name, data="cifar10")
    weights = SHARED / "checkpoints" / f"{name}.safetensors"
    net = ardor.models.load(f"{copies[1]}:PlainResNet", weights=weights, width=8, stages=1, flat=1024)
    return Wrapped(net, before=lambda x: (x - MEAN) / STD).eval(), split, claim


@pytest.mark.parametrize("flaw", PUBLISHED)
def test_a_published_net_and_what_may_happen_to_it(published, flaw):
    net, split, claim = published
    seen = examine_teacher(PUBLISHED[flaw](net), split, Linf(2 / 255), record=claim)
    assert seen.refused == (flaw != "nothing")
    assert len(seen.findings) == seen.refused
    assert all(flaw in finding.evidence for finding in seen.findings)
