"""The loop: what it computes, what it keeps, where it stops, and what it must never touch."""

import copy
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from torch import nn

import ardor.data.split
import ardor.models.builders
import ardor.models.loading
from ardor import methods
from ardor.errors import CheckpointError, ConfigError, DataError, DivergedError, ModelError, RunError
from ardor.losses import ce
from ardor.noise import order
from ardor.storage.runs import Run
from ardor.storage.tensors import read_tensors
from ardor.training.averaging import EMA
from ardor.training.loop import distill, epochs
from ardor.training.optimisers import SGD
from ardor.training.recipe import Recipe, find_device, lr_at
from tests import warm
from tests.conftest import ROOT, filled, splits
from tests.training.conftest import PGD2, ended, net, recipe, require_same, rslad


def weights(module):
    return torch.cat([v.flatten().double() for v in module.state_dict().values()])


def test_natural_training_is_plain_sgd():
    train, _ = splits()
    student, mine = net(), net()
    distill(student, None, methods.Natural(), train, recipe(milestones=(1,), optimiser=SGD(weight_decay=0.01)))
    velocity = [torch.zeros_like(p) for p in mine.parameters()]
    mine.train()
    for epoch in (1, 2, 3):
        rate = 0.05 if epoch == 1 else 0.05 * 0.1
        for rows in order(0, "order", epoch, train.index).split(16):
            loss = ce(mine(train.images[rows]), train.labels[rows]).mean()
            grads = torch.autograd.grad(loss, list(mine.parameters()))
            with torch.no_grad():
                for p, g, v in zip(mine.parameters(), grads, velocity, strict=True):
                    v.mul_(0.9).add_(g + 0.01 * p)
                    p.sub_(rate * v)
    torch.testing.assert_close(weights(student), weights(mine), rtol=1e-5, atol=1e-6)


def test_every_image_is_met_once_an_epoch_in_another_order():
    train, _ = splits()
    met = []

    class Watch:
        def terms(self, student, teacher, x, y, *, epoch, noise):
            met.append((epoch, noise.index.tolist()))
            return {"clean": ce(student(x), y)}

    distill(net(), None, Watch(), train, recipe(epochs=2))
    first, second = ([i for e, rows in met if e == epoch for i in rows] for epoch in (1, 2))
    assert sorted(first) == sorted(second) == train.index.tolist()
    assert first != second
    assert [len(rows) for e, rows in met if e == 1] == [16, 16, 8]  # the last partial batch is kept


def test_rates_of_the_schedules():
    paper = Recipe()
    assert paper.drops == (215, 260, 285)
    for epoch, rate in ((1, 0.1), (215, 0.1), (216, 0.01), (260, 0.01), (261, 0.001), (286, 1e-4), (300, 1e-4)):
        assert lr_at(paper, epoch - 1) == pytest.approx(rate)
        assert lr_at(paper, epoch - 1 + 0.99) == pytest.approx(rate)
    cosine = Recipe(schedule="cosine", epochs=10)
    assert [lr_at(cosine, e) for e in (0, 5, 10)] == pytest.approx([0.1, 0.05, 0.0])
    cycle = Recipe(schedule="one-cycle", epochs=10)
    assert [lr_at(cycle, e) for e in (0, 3, 6.5, 10)] == pytest.approx([0.004, 0.1, 0.05, 0.0])


def test_terms_are_logged_by_name_and_add_up(tmp_path):
    train, val = splits()
    records = distill(net(), net(1), rslad(), train, recipe(), val=val, run=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    for record, line in zip(records, lines, strict=True):
        assert set(record.terms) == {"robust", "clean"}
        assert record.loss == pytest.approx(sum(record.terms.values())) == line["loss"]
        assert 0 <= record.val_robust <= record.val_clean <= 1
        assert "robust" in str(record)


def test_best_is_the_epoch_of_highest_validation_robust_accuracy(tmp_path):
    train, val = splits()
    student, kept = net(), {}
    for record in epochs(student, None, methods.Natural(), train, recipe(epochs=5), val=val, run=tmp_path / "run"):
        kept[record.epoch] = (record.val_robust, weights(student))
    best = max(kept, key=lambda e: (kept[e][0], -e))
    assert torch.equal(weights(ardor.models.load(tmp_path / "run")), kept[best][1])
    assert torch.equal(weights(ardor.models.load(tmp_path / "run", checkpoint="last")), kept[5][1])
    assert read_tensors(tmp_path / "run" / "best.safetensors")[1]["epoch"] == str(best)


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize(
    ("precision", "method"),
    [("float32", methods.VarianceGap(attack=PGD2, lc=1e-7)), ("bfloat16", methods.RSLAD(attack=PGD2))],
    ids=["float32", "bfloat16"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, stop, precision, method):
    train, val = splits()
    settings = recipe(epochs=4, schedule="cosine", precision=precision, attack_precision=precision)

    def run(folder, most=None):
        student = net(3)
        records = epochs(
            student, net(4, 4), copy.deepcopy(method), train, settings, val=val, run=folder, averaging=EMA(0.9)
        )
        list(itertools.islice(records, most))
        return weights(student)

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", stop)
    assert torch.equal(run(tmp_path / "parts"), whole)
    states = [ended(tmp_path / folder) for folder in ("whole", "parts")]
    require_same(*states)
    learned = any(key.startswith("method/projector_.") for key in states[0][1]["state.safetensors"][0])
    assert learned == isinstance(method, methods.VarianceGap)


def test_lines_of_epochs_that_a_kill_took_back_are_not_kept(tmp_path):
    train, val = splits()
    next(iter(epochs(net(), None, methods.Natural(), train, recipe(), val=val, run=tmp_path / "run")))
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 2}) + "\n" + '{"epoch": 3, "lo')
    distill(net(), None, methods.Natural(), train, recipe(), val=val, run=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all("loss" in line for line in lines)


def test_a_finished_run_does_nothing_more(tmp_path):
    train, val = splits()
    distill(net(), None, methods.Natural(), train, recipe(), val=val, run=tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    assert distill(net(), None, methods.Natural(), train, recipe(), val=val, run=tmp_path / "run") == []
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_looking_at_validation_changes_nothing():
    train, val = splits()
    often, never = net(), net()
    distill(often, net(1), rslad(), train, recipe(val_every=1), val=val)
    distill(never, net(1), rslad(), train, recipe())
    assert torch.equal(weights(often), weights(never))


def test_teacher_is_frozen_and_put_back_and_the_global_generator_untouched():
    train, val = splits()
    teacher = net(1).train()
    teacher.layers[1].eval()
    modes = [m.training for m in teacher.modules()]
    torch.manual_seed(20_260_101)  # a state that nobody else sets
    before, state = weights(teacher), torch.get_rng_state()
    student, frozen = net(), []

    class Watch(methods.RSLAD):
        def terms(self, student, teacher, x, y, *, epoch, noise):
            on = [p.requires_grad for p in teacher.parameters()] + [m.training for m in teacher.modules()]
            frozen.append(not any(on))
            return super().terms(student, teacher, x, y, epoch=epoch, noise=noise)

    for _ in epochs(student, teacher, Watch(attack=PGD2), train, recipe(epochs=2), val=val):
        assert [m.training for m in teacher.modules()] == modes, "two runs may share a teacher"
    assert len(frozen) == 6
    assert all(frozen)
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert [m.training for m in teacher.modules()] == modes
    assert torch.equal(weights(teacher), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad for p in student.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_never_reaches_the_weights(value):
    train, _ = splits()
    snapshots = []

    class Breaks:
        def terms(self, student, teacher, x, y, *, epoch, noise):
            snapshots.append([p.detach().clone() for p in student.parameters()])
            return {"clean": ce(student(x), y), "bad": x.mean() * (value if len(snapshots) == 5 else 1)}

    student = net()
    with pytest.raises(DivergedError, match=rf"epoch 2, step 2, lr 0.05 .*bad {value}.*lr="):
        distill(student, None, Breaks(), train, recipe(milestones=(9,)))
    assert len(snapshots) == 5
    assert all(torch.equal(p, q) for p, q in zip(student.parameters(), snapshots[4], strict=True))


def test_another_configuration_is_refused_and_named(tmp_path):
    train, val = splits()
    distill(net(), None, methods.Natural(), train, recipe(), val=val, run=tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    for changed, word in (
        (dict(recipe=recipe(lr=0.07)), "recipe.lr: 0.07 here, 0.05 there"),
        (dict(method=methods.SAT(PGD2)), "method"),
        (dict(student=net(width=4)), "student.width"),
        (dict(student=net(seed=9)), "fingerprint.student"),
        (dict(train=train.take(slice(0, 39))), "fingerprint.train"),
    ):
        pieces = dict(student=net(), method=methods.Natural(), train=train, recipe=recipe()) | changed
        with pytest.raises(RunError, match=word):
            distill(teacher=None, **pieces, val=val, run=tmp_path / "run")
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def acting(act):
    made = filled(nn.Sequential(nn.Flatten(), nn.Linear(64, 6), act, nn.Linear(6, 4)))
    return made.float()


class Scaled:
    """A user's method whose factor no config shows."""

    def __init__(self, factor):
        self.factor = lambda z: factor * z

    def terms(self, student, teacher, x, y, *, epoch, noise):
        return {"clean": self.factor(ce(student(x), y))}


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"student": acting(nn.Tanh())}, "fingerprint.student_function.layers"),
        ({"teacher": acting(nn.Tanh())}, "fingerprint.teacher_function.layers"),
        ({"method": Scaled(2)}, "fingerprint.pieces"),
    ],
)
def test_a_run_is_of_functions_and_not_of_weights_alone(tmp_path, changed, word):
    train, val = splits()
    method = methods.KD() if "teacher" in changed else Scaled(1)
    teacher = acting(nn.ReLU()) if "teacher" in changed else None
    pieces = {"student": acting(nn.ReLU()), "teacher": teacher, "method": method, "train": train, "val": val}
    distill(**pieces, recipe=recipe(), run=tmp_path / "run")
    with pytest.raises(RunError, match=word):
        distill(**pieces | changed, recipe=recipe(), run=tmp_path / "run")


def test_a_run_of_the_first_version_goes_on_with_a_net_as_it_is_built_and_no_other(tmp_path):
    train, val = splits()

    def begin(student, name):
        distill(student, None, methods.Natural(), train, recipe(), val=val, run=tmp_path / name)
        config = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        for key in ("student_function", "teacher_function", "pieces"):
            config["fingerprint"].pop(key, None)
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))

    def resume(student, name):
        return distill(student, None, methods.Natural(), train, recipe(), val=val, run=tmp_path / name)

    begin(net(), "ours")
    resume(net(), "ours")
    patched = net()
    patched.layers[0][2] = nn.Tanh()
    begin(acting(nn.ReLU()), "theirs")
    for student, name in ((patched, "ours"), (acting(nn.ReLU()), "theirs")):
        with pytest.raises(RunError, match="records what its student computes, got .* of an earlier version"):
            resume(student, name)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="other files"):
        distill(net(), None, methods.Natural(), splits()[0], recipe(), run=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_unwritable_folder_says_so(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunError, match="name another folder"):
        distill(net(), None, methods.Natural(), splits()[0], recipe(), run=tmp_path / "file" / "run")


def test_a_full_disk_loses_nothing(tmp_path):
    """A limit on file size is refused by the system as a full disk is: the write fails half way."""
    train, val = splits()
    student = net(width=8)
    records = epochs(student, None, methods.Natural(), train, recipe(), val=val, run=tmp_path / "run")
    next(records)
    del records  # and its lock
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    code = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
from ardor import methods
from ardor.errors import RunError
from ardor.training.loop import distill
from tests.conftest import splits
from tests.training.conftest import net, recipe
train, val = splits()
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    distill(net(width=8), None, methods.Natural(), train, recipe(), val=val, run={str(tmp_path / "run")!r})
except RunError as error:
    print("REFUSED", error)
"""
    done = warm.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "REFUSED expected to write" in done.stdout, done.stderr
    after = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    weights_before = {k: v for k, v in before.items() if k.endswith(".safetensors")}
    assert {k: after[k] for k in weights_before} == weights_before
    assert not [name for name in after if name.endswith(".tmp")]
    ardor.models.load(tmp_path / "run", checkpoint="last")


ENDLESS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would have inherited that it is ignored
sys.path.insert(0, {root!r})
from ardor.training.loop import epochs
from tests.conftest import splits
from tests.training.conftest import net, recipe, rslad
train, val = splits()
for record in epochs(net(), net(1), rslad(), train, recipe(epochs=10**6, milestones=()), val=val, run={run!r}):
    print(record.epoch, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_at_any_moment_the_last_checkpoint_loads_and_goes_on(tmp_path, how):
    run = tmp_path / "run"
    code = ENDLESS.format(root=str(ROOT), run=str(run))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = warm.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    time.sleep(0.037)
    process.send_signal(how)
    process.wait()
    assert ardor.models.load(run, checkpoint="last") is not None
    states = [run / name for name in ("state.safetensors", "previous.safetensors")]
    state = next(path for path in states if path.exists())  # between two renamings, only the epoch before has a name
    done = int(read_tensors(state)[1]["epoch"])
    assert done >= 2
    train, val = splits()
    settings = recipe(epochs=10**6, milestones=())
    record = next(iter(epochs(net(), net(1), rslad(), train, settings, val=val, run=run)))
    assert record.epoch == done + 1
    lines = [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, done + 2))


def test_a_truncated_or_foreign_state_is_refused_and_kept(tmp_path):
    train, val = splits()
    run = tmp_path / "run"
    next(iter(epochs(net(), None, methods.Natural(), train, recipe(), val=val, run=run)))
    whole = (run / "state.safetensors").read_bytes()
    for content in (whole[: len(whole) // 2], b"<html>not found</html>", b""):
        (run / "state.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match="safetensors"):
            distill(net(), None, methods.Natural(), train, recipe(), val=val, run=run)
        assert (run / "state.safetensors").read_bytes() == content
    (run / "state.safetensors").write_bytes((run / "last.safetensors").read_bytes())
    with pytest.raises(CheckpointError):
        distill(net(), None, methods.Natural(), train, recipe(), val=val, run=run)


def test_nets_and_data_that_do_not_fit():
    train, _ = splits()
    with pytest.raises(ModelError, match="student.*4 classes.*got 5"):
        distill(net(classes=5), None, methods.Natural(), train, recipe())
    with pytest.raises(ModelError, match="teacher.*channel"):
        teacher = ardor.models.build("small_cnn", classes=4, channels=3)
        distill(net(), teacher, rslad(), train, recipe())
    with pytest.raises(ModelError, match="val like train"):
        distill(net(), None, methods.Natural(), train, recipe(), val=splits(classes=5)[1])
    with pytest.raises(ModelError, match="teacher, got none.*teacher="):
        distill(net(), None, rslad(), train, recipe())


def test_bad_recipes():
    for bad in (dict(epochs=0), dict(batch=0), dict(lr=0.0), dict(val_every=0)):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            Recipe(**bad)
    with pytest.raises(ConfigError, match="device"):
        find_device("abacus")
    with pytest.raises(DataError, match="empty"):
        splits()[0].take([])


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (lambda z, y: ce(z, y), "named terms of Wrong, got Tensor"),
        (lambda z, y: None, "named terms of Wrong, got NoneType"),
        (lambda z, y: {}, "named terms of Wrong, got an empty dict"),
        (lambda z, y: {"clean": 1.0}, r"the term 'clean' of Wrong .* shape \(16,\) or \(\), got float"),
        (lambda z, y: {"clean": ce(z, y), "number": 2}, "the term 'number' of Wrong .* got int"),
        (lambda z, y: {"clean": z}, r"got torch.float32 \(16, 4\)"),
        (lambda z, y: {"clean": ce(z, y)[:0]}, r"got torch.float32 \(0,\)"),
        (lambda z, y: {"clean": z.argmax(1)}, "got torch.int64"),
        (lambda z, y: {"clean": ce(z, y).detach()}, "with a gradient to the student, got clean without one"),
        (lambda z, y: {"clean": torch.zeros(1, requires_grad=True).sum()}, "with a gradient to the student"),
    ],
)
def test_terms_that_are_no_losses_of_the_student(terms, words):
    class Wrong:
        def terms(self, student, teacher, x, y, *, epoch, noise):
            return terms(student(x), y)

    with pytest.raises(ConfigError, match=words):
        distill(net(), None, Wrong(), splits()[0], recipe())


def test_a_moved_teacher_is_the_same_teacher(tmp_path):
    train, val = splits()
    for place in ("here", "there"):
        teacher = net(1)
        vars(teacher)["loaded_from"] = place
        records = distill(net(), teacher, rslad(), train, recipe(), val=val, run=tmp_path / "run")
    assert records == []
    with pytest.raises(RunError, match="fingerprint.teacher"):
        distill(net(), net(2), rslad(), train, recipe(), val=val, run=tmp_path / "run")


@pytest.mark.parametrize(
    "method", [methods.Natural(), methods.SAT(PGD2), methods.TRADES(attack=PGD2), methods.MART(attack=PGD2), None]
)
def test_a_teacher_that_is_not_used_is_not_recorded(tmp_path, method):
    class Mine:
        """A method that declares nothing may use its teacher."""

        def terms(self, student, teacher, x, y, *, epoch, noise):
            return {"clean": ce(student(x), y) + 0 * teacher(x).sum(1)}

    train, _ = splits()
    list(epochs(net(), net(5), method or Mine(), train, recipe(epochs=1), run=tmp_path / "r"))
    config = Run(tmp_path / "r").config
    recorded = [config["teacher"] is not None, config["fingerprint"]["teacher"] is not None]
    assert recorded == [method is None] * 2


def test_a_run_with_an_unused_teacher_of_an_earlier_version_is_resumed(tmp_path):
    train, _ = splits()
    list(epochs(net(), None, methods.SAT(PGD2), train, recipe(epochs=1), run=tmp_path))
    path = tmp_path / "config.yaml"
    old = yaml.safe_load(path.read_text())
    old["teacher"], old["fingerprint"]["teacher"] = {"name": "small_cnn"}, "feed"
    path.write_text(yaml.safe_dump(old))
    assert list(epochs(net(), net(5), methods.SAT(PGD2), train, recipe(epochs=1), run=tmp_path)) == []
    assert Run(tmp_path).config["teacher"] is None
