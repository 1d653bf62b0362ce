"""Extra images in training: the steps of an epoch, labels, soft labels, resuming, several processes, the plan."""

import numpy as np
import pytest
import torch

import ardor
from ardor.data.extra import with_extra
from ardor.data.split import Split
from ardor.engine import distributed
from ardor.errors import ConfigError
from ardor.losses import ce
from ardor.methods import ARD, MTARD, SAT, AdaAD, Natural
from ardor.models.teachers import together
from ardor.training.averaging import EMA
from ardor.training.cost import batch_of, plan
from ardor.training.loop import distill
from ardor.training.preflight import check_setup
from ardor.training.recipe import batches, drawn, images_of_epoch
from ardor.training.soft_labels import SoftLabelCache
from tests.training.conftest import CLASSES, PGD2, ended, job_for, net, recipe, require_same, rslad

N, M = 40, 25
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (N + M, 8, 8, 1), dtype=np.uint8)


def mixed(folder, share=0.6, labels="file", known=True, real=N, extra=M):
    images = torch.from_numpy(PIXELS[:real]).permute(0, 3, 1, 2).contiguous()
    train = Split(images, torch.arange(real) % CLASSES, CLASSES, "made", "train")
    arrays = {"image": PIXELS[N : N + extra]} | ({"label": np.arange(extra) % CLASSES} if known else {})
    np.savez(folder / "extra.npz", **arrays)
    return with_extra(train, f"npz:{folder / 'extra.npz'}", share, labels)


# -- The steps of an epoch


@pytest.mark.parametrize(
    ("real", "batch", "share", "counts"),
    [
        (40, 16, 0.6, [7, 7, 7]),  # int(0.6 * 16) = 9 extra ones
        (40, 20, 0.05, [19, 19]),
        (39, 10, 0.11, [9, 9, 9, 9]),
        (10, 8, 0.2, [7, 3]),  # the last real chunk is filled
        (5, 16, 0.5, [5]),
        (16, 16, 0.9, [2]),
    ],
)
def test_each_step_has_its_share_of_extra_images(tmp_path, real, batch, share, counts):
    train = mixed(tmp_path, share, real=real)
    steps = batches(recipe(batch=batch), "order", 1, train)
    assert [len(rows) for rows in steps] == [batch] * len(counts)
    assert [int((rows < real).sum()) for rows in steps] == counts
    shown = torch.cat(steps)
    of_real, of_extra = shown[shown < real], shown[shown >= real]
    assert len(of_real.unique()) == len(of_real), "without replacement"
    assert int(of_extra.max()) < len(train)
    assert drawn(recipe(batch=batch), train) == [(real, len(of_real)), (M, len(of_extra))]
    assert images_of_epoch(recipe(batch=batch), train) == len(shown)


def test_the_draws_are_those_of_seed_epoch_and_step(tmp_path):
    train, rng = mixed(tmp_path), torch.get_rng_state()
    first = torch.stack(batches(recipe(), "order", 1, train))
    assert torch.equal(first, torch.stack(batches(recipe(), "order", 1, train)))
    others = [batches(recipe(), "order", 2, train), batches(recipe(seed=1), "order", 1, train)]
    others.append(batches(recipe(), "restatistic", 1, train))
    for other in others:
        assert sorted(torch.stack(other)[0].tolist()) != sorted(first[0].tolist())
    extra = [sorted(rows[rows >= N].tolist()) for rows in first]
    assert extra[0] != extra[1] != extra[2]
    assert torch.equal(rng, torch.get_rng_state())
    seen = torch.cat([torch.cat(batches(recipe(), "order", epoch, train)) for epoch in range(1, 20)]).unique()
    assert len(seen) == len(train), "every image is drawn"
    halves = first.reshape(-1, 2, 8) >= N
    assert 5 < halves[:, 0].sum() < halves.sum() - 5, "parts of a batch are mixed"


def test_no_extra_images_are_the_steps_before(tmp_path):
    train = mixed(tmp_path)
    alone = train.take(train.real)
    plain = Split(alone.images, alone.labels, CLASSES, "made", "train")
    assert all(map(torch.equal, batches(recipe(), "o", 1, alone), batches(recipe(), "o", 1, plain)))


# -- Training


class Met:
    """A method that keeps what it is given."""

    uses_labels = True
    attack = PGD2

    def __init__(self):
        self.seen = []

    def terms(self, student, teacher, x, y, *, epoch, noise):
        self.seen.append((x.detach().clone(), y.clone(), noise.index.clone()))
        return {"clean": ce(student(x), y)}


def test_a_batch_has_the_images_labels_and_streams_of_its_rows(tmp_path):
    train, method = mixed(tmp_path), Met()
    records = distill(net(), None, method, train, recipe(epochs=1))
    for x, y, index in method.seen:
        assert torch.equal(x, torch.from_numpy(PIXELS).permute(0, 3, 1, 2)[index].float() / 255)
        assert torch.equal(y, torch.where(index < N, index % CLASSES, (index - N) % CLASSES))
    assert records[0].images_per_second * records[0].seconds == pytest.approx(48)


def test_the_terms_of_an_epoch_are_the_mean_over_its_steps(tmp_path):
    class One(Met):
        def terms(self, student, teacher, x, y, *, epoch, noise):
            return {"one": super().terms(student, teacher, x, y, epoch=epoch, noise=noise)["clean"] * 0 + 1}

    (record,) = distill(net(), None, One(), mixed(tmp_path), recipe(epochs=1))
    assert record.terms == {"one": pytest.approx(1)}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("cached", [False, True])
def test_the_teacher_labels_extra_images(tmp_path, cached, accumulate):
    train, method, teacher = mixed(tmp_path, labels="teacher"), Met(), net(4, 4)
    table = SoftLabelCache(tmp_path / "soft") if cached else None
    chosen = recipe(epochs=1, augment="crop", accumulate=accumulate)
    distill(net(), teacher, method, train, chosen, soft_labels=table)
    for x, y, index in method.seen:
        with torch.no_grad():
            taught = teacher.eval()(x).argmax(1)
        assert torch.equal(y, torch.where(index < N, index % CLASSES, taught))
    assert len({tuple(y.tolist()) for _, y, _ in method.seen}) > 1


def test_a_teacher_that_labels_is_asked_once(tmp_path):
    teacher, calls = net(4, 4), []
    teacher.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    chosen = {"epochs": 1, "val_size": 4}
    distill(net(), teacher, ARD(attack=PGD2), mixed(tmp_path, labels="teacher"), recipe(**chosen))
    asked = len(calls)
    calls.clear()
    distill(net(), teacher, ARD(attack=PGD2), mixed(tmp_path, labels="file"), recipe(**chosen))
    assert asked == len(calls)


def test_a_method_without_labels_needs_none(tmp_path):
    runs = []
    for labels, known in (("file", True), ("file", False), ("teacher", True)):
        student = net()
        distill(student, net(4, 4), rslad(), mixed(tmp_path, labels=labels, known=known), recipe(epochs=1))
        runs.append(student.state_dict())
    for other in runs[1:]:
        assert all(torch.equal(value, other[key]) for key, value in runs[0].items())


@pytest.mark.parametrize("split_at", [1, 2])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, split_at):
    chosen, val = recipe(epochs=2, augment="crop"), mixed(tmp_path).take(slice(0, 12))
    options = {"val": val, "averaging": EMA(0.5), "soft_labels": SoftLabelCache(tmp_path / "soft")}

    def run(name, **more):
        return distill(
            net(), net(4, 4), rslad(), mixed(tmp_path, known=False), chosen, run=tmp_path / name, **options, **more
        )

    run("whole")
    left = [True] * split_at
    run("parts", save_every=1, stop=lambda: not (left and left.pop()))
    run("parts")
    require_same(ended(tmp_path / "whole"), ended(tmp_path / "parts"))


def test_another_share_is_another_run(tmp_path):
    distill(net(), net(4, 4), rslad(), mixed(tmp_path, 0.5), recipe(epochs=1), run=tmp_path / "run")
    with pytest.raises(ardor.errors.RunError, match="extra_share"):
        distill(net(), net(4, 4), rslad(), mixed(tmp_path, 0.7), recipe(epochs=1), run=tmp_path / "run")


def test_soft_labels_have_rows_for_extra_images(tmp_path):
    students = []
    for _ in range(2):
        student, teacher, calls = net(), net(4, 4), []
        teacher.register_forward_pre_hook(lambda _, args, calls=calls: calls.append(len(args[0])))
        soft = SoftLabelCache(tmp_path / "soft")
        distill(student, teacher, rslad(), mixed(tmp_path), recipe(epochs=2, augment="crop"), soft_labels=soft)
        students.append((student.state_dict(), len(calls)))
    (first, cold), (second, warm) = students
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert warm < cold
    (images,) = (tmp_path / "soft").rglob("images.bin")
    assert images.stat().st_size == 8 * (N + M)


def test_processes_share_the_extra_images_of_a_step(monkeypatch, tmp_path):
    train = mixed(tmp_path)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append([distributed.shard(rows)[0] for rows in batches(recipe(), "order", 1, train)])
    whole = batches(recipe(), "order", 1, train)
    for one, other, rows in zip(*shares, whole, strict=True):
        assert sorted(torch.cat([one, other]).tolist()) == sorted(rows.tolist())
        assert 0 < (one >= N).sum() < (rows >= N).sum()


# -- Refusals, and the plan


@pytest.mark.parametrize(
    ("method", "teacher", "labels", "known", "message"),
    [
        (ARD(), net(4, 4), "file", False, "which ARD uses, got none: pass extra_labels=.teacher"),
        (SAT(), None, "file", False, "which SAT uses, got none: add the array label"),
        (SAT(), None, "teacher", True, "SAT with one teacher .* got none"),
        (MTARD(), together({"robust": net(4, 4), "natural": net(5, 4)}), "teacher", True, "MTARD .* got several"),
    ],
)
def test_labels_are_required_of_methods_that_use_them(tmp_path, method, teacher, labels, known, message):
    with pytest.raises(ConfigError, match=message):
        check_setup(net(), teacher, method, mixed(tmp_path, labels=labels, known=known), None, None, recipe())
    check_setup(net(), teacher, method, mixed(tmp_path), None, None, recipe())


def test_a_batch_without_an_extra_image_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="an extra image in each batch of 16, got a share of 0.05"):
        check_setup(net(), None, Natural(), mixed(tmp_path, 0.05), None, None, recipe())


@pytest.mark.parametrize("labels", ["file", "teacher"])
def test_a_plan_counts_the_images_of_the_epoch(tmp_path, labels):
    job = job_for(ARD(attack=PGD2), student=net(), teacher=net(4, 4), batch=16, run=tmp_path)
    job.train = mixed(tmp_path, labels=labels)
    job.val = job.train.take(slice(0, 12))
    cost = plan(job, steps=2)
    assert cost.images == 48
    assert (cost.teacher, cost.kept) == (1.0, 1.0)
    assert cost.table.size == (N + M) * (9 * (4 * CLASSES + 4) + 8)
    met = [number * 9 * (1 - (8 / 9) ** (100 * some / number)) for number, some in ((N, 21), (M, 27))]
    assert cost.table.cold == pytest.approx(1 - sum(met) / 4800)


def test_the_teacher_labels_nothing_for_a_method_without_labels(tmp_path):
    job = job_for(AdaAD(attack=PGD2), student=net(), teacher=net(4, 4), batch=16, run=tmp_path)
    job.val, costs = mixed(tmp_path).take(slice(0, 12)), []
    for labels in ("file", "teacher"):
        job.train = mixed(tmp_path, labels=labels)
        costs.append(plan(job, steps=2).teacher)
    assert costs[0] == costs[1]


def test_steps_have_a_whole_batch_where_real_images_are_few(tmp_path):
    job = job_for(AdaAD(attack=PGD2), batch=16)
    job.train = mixed(tmp_path, real=5, extra=5)
    assert batch_of(job) == 16
