"""One run in several processes: the same losses as in one, and the same weights everywhere."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ardor import methods, models
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.engine import distributed
from ardor.errors import ConfigError, DivergedError, RunError
from ardor.losses import ce
from ardor.noise import order, seeded
from ardor.storage.tensors import read_tensors
from ardor.testing import TinyNet
from ardor.training import validation
from ardor.training.loop import epochs
from ardor.training.optimisers import SGD
from ardor.training.preflight import check_setup
from tests.conftest import splits
from tests.engine.distributed.conftest import bits, close, lines_of, plain, recipe, rslad, state, sure, together

# -- the same losses, the same weights


def distilled(images, changes):
    """Records and weights. Each process begins with weights of its own: those of the first one are taken."""
    student, (train, _) = plain(distributed.rank()), splits(images)
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


def test_parts_clipping_ramp_and_warm_up_are_equal_in_all_processes(tmp_path):
    """33 images: 17 and 16, in parts of 6, 5, 5 and so on; the norm that is clipped is of the whole gradient."""
    changes = {"batch": 33, "epochs": 6, "accumulate": 3, "clip": 0.05, "eps_ramp": (1, 4), "warmup": 2.0}
    _, weights = distilled(33, changes)
    shared = together(tmp_path, distilled, 33, changes)
    for _, their_weights in shared:
        close(their_weights, weights, atol=1e-5)
        assert np.array_equal(their_weights, shared[0][1])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 10])
def test_shares(monkeypatch, n, count):
    rows, met, weight = torch.arange(n) + 100, [], 0.0
    monkeypatch.setattr(distributed, "world_size", lambda: count)
    for rank in range(count):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        own, share = distributed.shard(rows)
        assert len(own) >= 1
        assert share == (len(own) / n if rank < n else 0)
        met += own.tolist() if share else []
        weight += share
    assert sorted(met) == rows.tolist()
    assert weight == pytest.approx(1)


class Learns:
    """A method with a parameter, a module and statistics of its own; in each process it begins and sees otherwise."""

    def __init__(self):
        self.scale = nn.Parameter(torch.tensor(1.0 + distributed.rank()))
        self.seen_, self.steps_ = torch.zeros(2), torch.zeros((), dtype=torch.int64)

    def prepare(self, student, teacher, x):
        with seeded(distributed.rank()):
            self.head_ = nn.Linear(4, 4)
        self.first_ = x.mean((0, 1, 2)) + distributed.rank()

    def parameters(self):
        return [self.scale, *self.head_.parameters()]

    def terms(self, student, teacher, x, y, *, epoch, noise):
        logits, own = student(x), self.first_[:4] * torch.arange(4)
        self.seen_ = torch.stack([x.mean(), logits.detach().mean()])
        self.steps_ += 1 + distributed.rank()
        return {"own": ce(self.head_(logits) * self.scale + own, y), "clean": ce(logits, y)}


def learns():
    method, student, (train, _) = Learns(), plain(distributed.rank()), splits(33)
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
    list(epochs(student, None, method, splits(20)[0], recipe(optimiser=SGD(weight_decay=0.1))))
    return student.aside.tolist(), student.frozen.tolist(), method.scale.dtype == torch.float64, state(student)


def test_parameters_without_a_gradient_and_of_another_type(tmp_path):
    *flags, weights = unused()
    for *theirs, their_weights in together(tmp_path, unused):
        assert theirs == flags == [[1.0] * 3, [1.0] * 2, True]
        close(their_weights, weights)


def counting():
    """What three methods have counted before their last step is kept: 34 images in steps of 16, 16 and 2."""
    results = []
    teachers = {"robust": sure(), "natural": plain(8)}
    for method in (methods.FairRSLAD(), methods.ABSLD(), methods.MTARD()):
        method.attack, sums = rslad().attack, []

        def summed(values, sums=sums):
            total = SUMMED(values)
            sums.append(bits(total[-1].sum()))
            return total

        distributed.summed = summed
        teacher = teachers if hasattr(method, "teachers") else teachers["robust"]
        list(epochs(plain(0), teacher, method, splits(34)[0], recipe(epochs=1)))
        results.append((np.concatenate(sums), bits(*(getattr(method, n) for n in vars(method) if n.endswith("_")))))
    distributed.summed = SUMMED
    return results


SUMMED = distributed.summed


def test_a_process_without_images_counts_none(tmp_path):
    alone = counting()
    for process in together(tmp_path, counting, count=3):
        for (images, state_), (expected, of_one) in zip(process, alone, strict=True):
            assert images.tolist() == expected.tolist() == [16, 16, 2]
            close(state_, of_one)


def uneven():
    """36 images in steps of 16, 16 and 4: the last has two images in the first process of three, and one elsewhere."""
    method = methods.VarianceGap(lc=1e-3, lg=0.1, attack=rslad().attack)
    records = list(epochs(TinyNet(1, 4, 4), TinyNet(1, 4, 6), method, splits(36)[0], recipe(epochs=1)))
    return list(records[0].terms), bits(*method.parameters())


def test_a_process_with_one_image_has_the_same_gradients_and_terms(tmp_path):
    first, *others = together(tmp_path, uneven, count=3)
    assert first[0] == ["robust", "clean", "covariance", "gram"]
    for names, weights in others:
        assert names == first[0]
        assert np.array_equal(weights, first[1])


# -- batch norm and validation


def normed(folder, images, val):
    student, (train, held) = TinyNet(1, 4, 4, seed=distributed.rank()), splits(images, val)
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
    student.layers[1].running_mean.add_(shift * distributed.rank())
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
        assert validation.validate(saved, held, methods.Natural(), recipe(val_size=0)) == seen[:2]
    assert 0 < first[0][-1][1] <= first[0][-1][0] <= 1


def shared_out(val):
    """How many images this process judged."""
    judged, correct = [], validation.correct

    def counted(*args, alive, **options):
        judged.append(int(alive.sum()))
        return correct(*args, alive=alive, **options)

    validation.correct = counted
    validation.validate(TinyNet(1, 4, 4), splits(1, val)[1], methods.Natural(), recipe(val_size=0))
    return judged[0]


def test_validation_is_shared_out(tmp_path):
    assert together(tmp_path, shared_out, 600) == [256 + 88, 256]
    assert together(tmp_path, shared_out, 40) == [40, 0]


def test_synchronised_batch_norm_is_the_gpus(tmp_path):
    synchronised = {"sync_batchnorm": True}
    for error in together(tmp_path, distilled, 16, synchronised):
        assert isinstance(error, ConfigError)
        assert str(error).startswith("expected GPUs to synchronise batch norm")
        assert "got cpu: leave sync_batchnorm= out" in str(error)
    for mine, theirs in zip(distilled(16, {}), distilled(16, synchronised), strict=True):
        assert np.array_equal(mine, theirs)  # alone there is nothing to synchronise
    net = TinyNet()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = distributed.synchronised(net, torch.device("cuda"))  # the nets' side of it needs no GPU
    assert made is net
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in net.modules()) == 2
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_synchronised_batch_norm_is_refused_before_anything_is_measured(monkeypatch):
    train, _ = splits(16)
    words = plain(0), sure(), rslad(), train, None, None, recipe(sync_batchnorm=True)
    check_setup(*words)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="expected GPUs to synchronise batch norm"):
        check_setup(*words)


def test_synchronised_norms_of_timm_keep_their_activations():
    pytest.importorskip("timm")
    net = models.build("timm:mobilenetv3_small_050", classes=3).eval()
    x = torch.rand(2, 3, 32, 32)
    expected = net(x)
    made = distributed.synchronised(net, torch.device("cuda"))
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in made.modules()) == 34
    assert torch.equal(made(x), expected)


# -- refusals


class Diverges:
    """Its loss is not finite in the second process alone, from the second epoch on."""

    def __init__(self, value):
        self.value = value

    def terms(self, student, teacher, x, y, *, epoch, noise):
        z, now = student(x), (epoch, distributed.rank()) == (2, 1)
        if now and self.value == "root":  # the value is finite, its gradient is 0 / 0
            return {"clean": (z - z.detach()).square().sum(1).sqrt()}
        return {"clean": ce(z, y) * (float(self.value) if now else 1.0)}


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


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "root"])
def test_a_loss_or_gradient_that_is_not_finite_in_one_process_stops_all(tmp_path, value):
    for sentence, untouched in together(tmp_path, diverges, value):
        assert sentence.startswith("expected gradients" if value == "root" else "expected a finite loss, got ")
        assert "epoch 2, step 1" in sentence
        assert untouched, "the weights are those before the step"


def apart(folders):
    return list(epochs(plain(0), None, methods.Natural(), splits(16)[0], recipe(), run=folders[distributed.rank()]))


def test_processes_that_see_different_folders_are_refused(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    next(epochs(plain(0), None, methods.Natural(), splits(16)[0], recipe(), run=here))  # one epoch, and stopped
    errors = together(tmp_path, apart, [here, there])
    for error, folder, done in zip(errors, (here, there), (1, 0), strict=True):
        assert isinstance(error, RunError)
        assert f"got {folder} with {done} epochs in process" in str(error)
        assert "pass run= with a folder that all machines share" in str(error)


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
    distributed.require_equal(done[distributed.rank()], Path("run"))
    return "equal"


def test_processes_must_be_equally_far(tmp_path):
    assert together(tmp_path, far, [2, 2]) == ["equal", "equal"]
    assert all(isinstance(answer, RunError) for answer in together(tmp_path, far, [3, 2]))
    assert all(isinstance(answer, RunError) for answer in together(tmp_path, far, [0, 1, 1], count=3))


def late(path):
    """The first process is slow to make what the others look for."""
    with distributed.rank_zero_first():
        if distributed.rank() == 0:
            time.sleep(0.3)
            path.write_text("made")
        return path.exists()


def test_the_first_process_goes_in_front(tmp_path):
    assert together(tmp_path, late, tmp_path / "made", count=3) == [True, True, True]
