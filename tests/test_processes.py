"""One run in several processes: the same losses as in one, the same weights everywhere, one writer, and restarts."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_resume import ended, require_same
from torch import nn

import ardor
from ardor import methods, processes, validation
from ardor.attacks import PGD
from ardor.averaging import EMA
from ardor.cache import Keep
from ardor.checkpoint import read_tensors
from ardor.cli import main
from ardor.errors import ConfigError, DivergedError, RunError
from ardor.losses import ce
from ardor.noise import Noise, order, seeded
from ardor.recipe import Recipe
from ardor.testing import TinyNet
from ardor.threat import Linf
from ardor.train import epochs
from ardor.validation import validate

PATIENCE = 60  # seconds for what takes one

WORDS = [
    "--data", "digits", "--data.limit", "256", "--student", "small_cnn", "--student.width", "4", "--method", "sat",
    "--method.attack.steps", "2", "--threat.eps", "0.1", "--recipe.epochs", "12", "--recipe.batch", "64",
    "--recipe.augment", "crop", "--recipe.padding", "1", "--recipe.val_size", "32", "--recipe.device", "cpu",
    "--averaging", "ema", "--averaging.decay", "0.9",
]  # fmt: skip

SERVER = multiprocessing.get_context("forkserver")  # imports torch once, and has no threads when it forks
SERVER.set_forkserver_preload(["torch._dynamo", "ardor.cli"])  # the former is what an optimiser's first step imports


def one(rank, count, store, pipe, work, args):
    """A process of a run: it answers with what `work` returns or raises."""
    torch.set_num_threads(1)
    patience = timedelta(seconds=PATIENCE)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=count, timeout=patience)
    try:
        answer = work(*args)
    except Exception as error:
        answer = error
    pipe.send(answer)
    pipe.recv()  # nobody goes before all have answered: whoever waits for one that is gone raises for that alone
    dist.destroy_process_group()


def together(folder, work, *args, count=2):
    """What `work(*args)` returns or raises in each of some processes that share a run."""
    store = folder / f"store{time.monotonic_ns()}"
    pipes, children = [], []
    try:
        for rank in range(count):
            ours, theirs = SERVER.Pipe()
            child = SERVER.Process(target=one, args=(rank, count, store, theirs, work, args))
            child.start()
            pipes.append(ours)
            children.append(child)
        answers = []
        for pipe in pipes:
            assert pipe.poll(PATIENCE), "a process does not answer"
            answers.append(pipe.recv())
        for pipe in pipes:
            pipe.send("go")
        return answers
    finally:
        for child in children:
            child.join(5)
            child.kill()


def splits(n, val=40, classes=4):
    index = torch.arange(n + val)
    noise, labels = Noise(0, index, "images"), index % classes
    images = (noise.uniform((1, 8, 8)) * 0.5 + labels[:, None, None, None] / (2 * classes)).clamp(0, 1)
    whole = ardor.data.Split(images, labels, classes, "made", "train")
    return whole.take(slice(0, n)), whole.take(slice(n, None))


def plain(seed, width=6, classes=4):
    """A net without batch norm."""
    with seeded(seed):
        conv = nn.Conv2d(1, width, 3, stride=2, padding=1)
        return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, classes))


def recipe(**changes):
    attack = PGD(Linf(0.1), steps=1)
    common = {"epochs": 3, "batch": 16, "lr": 0.05, "augment": "crop", "padding": 1, "device": "cpu"}
    return Recipe(**common | {"val_attack": attack} | changes)


def sure():
    """A teacher that is not near the uniform distribution, so that losses are near 1."""
    teacher = plain(7, width=12)
    with torch.no_grad():
        teacher[3].weight.mul_(30)
    return teacher


def rslad():
    return methods.RSLAD(attack=PGD(Linf(0.1), steps=3, start="gaussian"))


def bits(*tensors):
    return np.concatenate([t.detach().double().flatten().numpy() for t in tensors])


def state(net):
    return bits(*net.state_dict().values())


def close(a, b, atol=1e-4):
    np.testing.assert_allclose(a, b, rtol=0, atol=atol)


# -- the same losses, the same weights


def distilled(images, changes):
    """Records and weights. Each process begins with weights of its own: those of the first one are taken."""
    student, (train, _) = plain(processes.rank()), splits(images)
    records = list(epochs(student, sure(), rslad(), train, recipe(**changes)))
    return np.array([[r.loss, *r.terms.values()] for r in records]), state(student)


@pytest.mark.parametrize(
    ("images", "batch", "steps", "count"),
    [
        (32, 32, 20, 2),
        (33, 33, 20, 2),  # 17 and 16 images
        (32, 32, 20, 3),  # 11, 11 and 10
        (33, 16, 20, 2),  # 16, 16 and 1: fewer images than processes
        (1, 8, 20, 2),
    ],
)
def test_the_loss_follows_one_process(tmp_path, images, batch, steps, count):
    """Where the data is one batch, an epoch is one step, and its record that step's loss."""
    changes = {"batch": batch, "epochs": -(-steps * batch // max(images, batch))}
    losses, weights = distilled(images, changes)
    shared = together(tmp_path, distilled, images, changes, count=count)
    assert abs(losses[0, 0] - losses[-1, 0]) > 0.1, "something is learned"
    for their_losses, their_weights in shared:
        close(their_losses, losses)
        close(their_weights, weights)
        assert np.array_equal(their_losses, shared[0][0])
        assert np.array_equal(their_weights, shared[0][1])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 10])
def test_shares(monkeypatch, n, count):
    rows, met, weight = torch.arange(n) + 100, [], 0.0
    monkeypatch.setattr(processes, "count", lambda: count)
    for rank in range(count):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        own, share = processes.mine(rows)
        assert len(own) >= 1
        assert share == (len(own) / n if rank < n else 0)
        met += own.tolist() if share else []
        weight += share
    assert sorted(met) == rows.tolist()
    assert weight == pytest.approx(1)


class Learns:
    """A method with a parameter, a module and statistics of its own; in each process it begins and sees otherwise."""

    def __init__(self):
        self.scale = nn.Parameter(torch.tensor(1.0 + processes.rank()))
        self.seen_, self.steps_ = torch.zeros(2), torch.zeros((), dtype=torch.int64)

    def prepare(self, student, teacher, x):
        with seeded(processes.rank()):
            self.head_ = nn.Linear(4, 4)
        self.first_ = x.mean((0, 1, 2)) + processes.rank()

    def parameters(self):
        return [self.scale, *self.head_.parameters()]

    def terms(self, student, teacher, x, y, *, epoch, noise):
        logits, own = student(x), self.first_[:4] * torch.arange(4)
        self.seen_ = torch.stack([x.mean(), logits.detach().mean()])
        self.steps_ += 1 + processes.rank()
        return {"own": ce(self.head_(logits) * self.scale + own, y), "clean": ce(logits, y)}


def learns():
    method, student, (train, _) = Learns(), plain(processes.rank()), splits(33)
    seen = []
    for record in epochs(student, None, method, train, recipe(epochs=4)):
        seen.append([record.loss, *method.seen_.tolist(), *method.first_.tolist(), int(method.steps_)])
    return np.array(seen), bits(*method.parameters()), state(student)


def test_a_methods_own_parameters_and_state(tmp_path):
    alone, first, other = learns(), *together(tmp_path, learns)
    for mine, theirs in zip(first, other, strict=True):
        assert np.array_equal(mine, theirs)
    for mine, theirs in zip(first[1:], alone[1:], strict=True):
        close(mine, theirs)
    close(first[0][:, 0], alone[0][:, 0])  # the losses
    close(first[0][:, 3:], alone[0][:, 3:])  # what was prepared, and the first process's number of steps
    assert np.abs(alone[1] - bits(*_begun().parameters())).max() > 0.01, "the parameters did learn"


def _begun():
    method = Learns()
    method.prepare(None, None, splits(33)[0].images[:16])
    return method


def unused():
    """A parameter that no loss knows, one that is frozen, and one in float64."""
    student = plain(0)
    student.aside, student.frozen = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2), requires_grad=False)
    method = Learns()
    method.scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    list(epochs(student, None, method, splits(20)[0], recipe(weight_decay=0.1)))
    return student.aside.tolist(), student.frozen.tolist(), method.scale.dtype == torch.float64, state(student)


def test_parameters_without_a_gradient_and_of_another_type(tmp_path):
    *flags, weights = unused()
    for *theirs, their_weights in together(tmp_path, unused):
        assert theirs == flags == [[1.0] * 3, [1.0] * 2, True]
        close(their_weights, weights)


# -- batch norm and validation


def normed(folder, images, val):
    student, (train, held) = TinyNet(1, 4, 4, seed=processes.rank()), splits(images, val)
    options = {"val_size": 0, "epochs": 2, "batch": 32, "augment": "none"}
    records, buffers = [], []
    for record in epochs(student, None, methods.Natural(), train, recipe(**options), val=held, run=folder):
        records.append((record.val_clean, record.val_robust, record.best))
        buffers.append(bits(*student.buffers()))
    return records, buffers, state(student)


def test_batch_norm_is_a_process_own_and_then_the_first_ones(tmp_path):
    first, other = together(tmp_path, normed, None, 31, 40)
    for mine, theirs in zip(first[1], other[1], strict=True):
        assert np.array_equal(mine, theirs)
    assert np.array_equal(first[2], other[2])
    mine = TinyNet(1, 4, 4, seed=0).train()  # an epoch is one step, and the first process had every second image
    train, _ = splits(31, 40)
    mine(train.images[order(0, "order", 1, train.index)[0::2]])
    close(first[1][0], bits(*mine.buffers()), 1e-6)


def attacked(shift):
    student, (train, _) = TinyNet(1, 4, 4), splits(32)
    student.layers[1].running_mean.add_(shift * processes.rank())
    list(epochs(student, None, methods.SAT(attack=PGD(Linf(0.1), steps=2)), train, recipe(epochs=1)))
    return state(student)


def test_the_first_attack_meets_the_first_processs_statistics(tmp_path):
    assert np.array_equal(together(tmp_path, attacked, 0)[1], together(tmp_path, attacked, 3)[1])


@pytest.mark.parametrize("val", [600, 40])  # 256, 256 and 88 images; and one batch for two processes
def test_validation_is_shared_and_says_what_one_process_says(tmp_path, val):
    first, other = together(tmp_path, normed, tmp_path / "run", 32, val)
    assert first[0] == other[0]
    saved, held = TinyNet(1, 4, 4), splits(32, val)[1]
    for name, seen in (("last", first[0][-1]), ("best", max(first[0], key=lambda one: one[1]))):
        saved.load_state_dict(read_tensors(tmp_path / "run" / f"{name}.safetensors")[0])
        assert validate(saved, held, methods.Natural(), recipe(val_size=0)) == seen[:2]
    assert 0 < first[0][-1][1] <= first[0][-1][0] <= 1


def shared_out(val):
    """How many images this process judged."""
    judged, evaluate = [], validation.evaluate

    def counted(net, data, *args, **kwargs):
        judged.append(len(data))
        return evaluate(net, data, *args, **kwargs)

    validation.evaluate = counted
    validate(TinyNet(1, 4, 4), splits(1, val)[1], methods.Natural(), recipe(val_size=0))
    return sum(judged)


def test_validation_is_shared_out(tmp_path):
    assert together(tmp_path, shared_out, 600) == [256 + 88, 256]
    assert together(tmp_path, shared_out, 40) == [40, 0]


def test_synchronised_batch_norm_is_the_gpus(tmp_path):
    synchronised = {"sync_batchnorm": True}
    for error in together(tmp_path, distilled, 16, synchronised):
        assert isinstance(error, ConfigError)
        assert str(error).startswith("expected GPUs to synchronise batch norm")
        assert "got cpu: leave --recipe.sync_batchnorm away" in str(error)
    for mine, theirs in zip(distilled(16, {}), distilled(16, synchronised), strict=True):
        assert np.array_equal(mine, theirs)  # alone there is nothing to synchronise
    net = TinyNet()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = processes.synchronised(net, torch.device("cuda"))  # the nets' side of it needs no GPU
    assert made is net
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in net.modules()) == 2
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# -- refusals


class Diverges:
    """Its loss is not finite in the second process alone, from the second epoch on."""

    def __init__(self, value):
        self.value = value

    def terms(self, student, teacher, x, y, *, epoch, noise):
        bad = float(self.value) if (epoch, processes.rank()) == (2, 1) else 1.0
        return {"clean": ce(student(x), y) * bad}


def diverges(value):
    student = plain(0)
    records = epochs(student, None, Diverges(value), splits(32)[0], recipe(batch=32))
    next(records)
    before = state(student)
    try:
        next(records)
    except DivergedError as error:
        return str(error), bool(np.array_equal(state(student), before))
    return "finished", False


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_loss_that_one_process_alone_finds_not_finite_stops_all(tmp_path, value):
    for sentence, untouched in together(tmp_path, diverges, value):
        assert sentence.startswith("expected a finite loss, got ")
        assert "epoch 2, step 1" in sentence
        assert untouched, "the weights are those before the step"


def apart(folders):
    return list(epochs(plain(0), None, methods.Natural(), splits(16)[0], recipe(), run=folders[processes.rank()]))


def test_processes_that_see_different_folders_are_refused(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    next(epochs(plain(0), None, methods.Natural(), splits(16)[0], recipe(), run=here))  # one epoch, and stopped
    errors = together(tmp_path, apart, [here, there])
    for error, folder, done in zip(errors, (here, there), (1, 0), strict=True):
        assert isinstance(error, RunError)
        assert f"got {folder} with {done} epochs in process" in str(error)
        assert "type --run with a folder that all machines share" in str(error)


def test_the_first_process_writes(tmp_path):
    """Two machines with a folder each are seen when they go on; until then the first one's has it all."""
    here, there = tmp_path / "here", tmp_path / "there"
    assert all(len(records) == 3 for records in together(tmp_path, apart, [here, there]))
    assert (here / "state.safetensors").exists()
    assert [path.name for path in there.iterdir()] == ["config.yaml"]


def test_what_a_kill_cut_short_is_done_again_once(tmp_path):
    """By two processes where one had begun: the line of an epoch that no state knows, and half a line, are dropped."""
    train, run = splits(16)[0], tmp_path / "run"
    next(epochs(plain(0), None, methods.Natural(), train, recipe(), run=run))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "loss": 7}\n{"epo')
    first, other = together(tmp_path, apart, [run, run])
    assert [record.epoch for record in first] == [record.epoch for record in other] == [2, 3]
    lines = [json.loads(line) for line in lines_of(run)]
    assert [(line["epoch"], line["loss"] == 7) for line in lines] == [(1, False), (2, False), (3, False)]


def far(done):
    processes.require_equal(done[processes.rank()], Path("run"))
    return "equal"


def test_processes_must_be_equally_far(tmp_path):
    assert together(tmp_path, far, [2, 2]) == ["equal", "equal"]
    assert all(isinstance(answer, RunError) for answer in together(tmp_path, far, [3, 2]))
    assert all(isinstance(answer, RunError) for answer in together(tmp_path, far, [0, 1, 1], count=3))


def late(path):
    """The first process is slow to make what the others look for."""
    with processes.first_in_front():
        if processes.rank() == 0:
            time.sleep(0.3)
            path.write_text("made")
        return path.exists()


def test_the_first_process_goes_in_front(tmp_path):
    assert together(tmp_path, late, tmp_path / "made", count=3) == [True, True, True]


# -- averages and kept soft labels


def averaged(folder, keep, changes):
    student, (train, val) = TinyNet(1, 4, 4, seed=processes.rank()), splits(33, 40)
    options = {"averaging": EMA(0.8), "soft_labels": Keep(keep) if keep else None, "run": folder, "val": val}
    records = list(epochs(student, sure(), rslad(), train, recipe(**changes), **options))
    said = [(r.loss, r.val_clean, r.val_robust, r.averaged_clean, r.averaged_robust) for r in records]
    return said, state(student)


def test_averages_and_kept_soft_labels(tmp_path):
    keep = tmp_path / "soft"
    first, other = together(tmp_path, averaged, tmp_path / "one", keep, {})
    assert first[0] == other[0]
    assert np.array_equal(first[1], other[1])
    (table,) = keep.iterdir()
    met = np.fromfile(table / "sums.bin", "<u4")
    before = (table / "table.bin").read_bytes(), met
    assert 0 < (met != 0).sum() <= 33 * 3, "an entry for each image and epoch, but for views that came again"
    warm, _ = together(tmp_path, averaged, tmp_path / "two", keep, {})
    assert warm[0] == first[0]
    assert np.array_equal(warm[1], first[1])
    assert (table / "table.bin").read_bytes() == before[0], "the second run asked the teacher nothing new"
    live, _ = together(tmp_path, averaged, None, None, {})
    close(live[1], first[1])
    for name in ("averaged", "state"):
        one, two = (read_tensors(tmp_path / run / f"{name}.safetensors")[0] for run in ("one", "two"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


def moving(folder):
    student, (train, val) = plain(processes.rank()), splits(33, 40)
    return list(epochs(student, None, methods.Natural(), train, recipe(), val=val, averaging=EMA(0.8), run=folder))


def test_an_average_follows_one_process(tmp_path):
    moving(tmp_path / "one")
    together(tmp_path, moving, tmp_path / "two")
    one, two = (read_tensors(tmp_path / run / "state.safetensors")[0] for run in ("one", "two"))
    assert any(key.startswith("averaging/") for key in one)
    assert one.keys() == two.keys()
    for key in one:
        close(two[key], one[key])


# -- the command: one voice, one writer, and restarts


def commanded(folder):
    return main(["train", *WORDS, "--run", str(folder)])


def torchrun(folder, *options):
    """`torchrun ... -m -- ardor train ...`; without the -- it would take --run for its own --run-path."""
    words = ["--standalone", "--nproc-per-node", "2", *options, "-m", "--", "ardor", "train", *WORDS]
    command = [sys.executable, "-m", "torch.distributed.run", *words, "--run", str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in two processes that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    assert together(folder, commanded, folder / "run") == [0, 0]
    return folder / "run"


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_one_process_writes(whole, tmp_path):
    assert commanded(tmp_path / "run") == 0
    assert names(whole) == names(tmp_path / "run")
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert "processes: 2" in (whole / "config.yaml").read_text()


def joins(rank, port, wait, pipe):
    """What torchrun makes of a process: its second start finds the store of the first one."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    time.sleep(wait)
    try:
        with processes.joined(torch.device("cpu")):
            pipe.send(processes.total({"ranks": processes.rank() + 10}, torch.device("cpu")))
            dist.barrier()
    except Exception as error:
        pipe.send(error)


def test_a_second_start_does_not_believe_the_first_ones_store():
    """torchrun keeps one store over its restarts, with the addresses of processes that are gone."""
    store = dist.TCPStore("localhost", 0, is_master=True)
    for wait in (0.0, 1.0):
        pipes, children = zip(*(SERVER.Pipe() for _ in range(2)), strict=True), []
        ours, theirs = pipes
        try:
            for rank in range(2):
                children.append(SERVER.Process(target=joins, args=(rank, store.port, wait * rank, theirs[rank])))
                children[-1].start()
            assert all(pipe.poll(PATIENCE) for pipe in ours)
            assert [pipe.recv() for pipe in ours] == [{"ranks": 21.0}] * 2
        finally:
            for child in children:
                child.join(5)
                child.kill()


def workers(agent):
    """The processes that torchrun started: rank to process id."""
    found = {}
    for child in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
        found |= {int(v.removeprefix("RANK=")): int(child) for v in variables if v.startswith("RANK=")}
    return found


def lines_of(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for torchrun's children in /proc")
def test_a_killed_worker_and_torchruns_restart(whole, tmp_path):
    folder, victim = tmp_path / "run", random.Random(time.time_ns()).randrange(2)
    agent = torchrun(folder, "--max-restarts", "1")
    try:
        until = time.monotonic() + PATIENCE
        while not (folder / "state.safetensors").exists() and time.monotonic() < until:
            time.sleep(0.005)
        before = workers(agent)
        os.kill(before[victim], signal.SIGKILL)
        kept = lines_of(folder)
        said, errors = agent.communicate(timeout=3 * PATIENCE)
    finally:
        agent.kill()
    assert agent.returncode == 0, errors
    assert 1 <= len(kept) < 12, "killed in the middle"
    assert lines_of(folder)[0] == kept[0], "it went on: the first epoch took the same time as before"
    require_same(ended(folder), ended(whole))
    assert names(folder) == names(whole)
    assert said.count("Kept in ") == 1, "one process speaks"
    told = [line.split()[1] for line in errors.splitlines() if line.startswith("epoch ")]
    assert len(told) == len(set(told)) >= 11, "an epoch is told by one process, and once"
