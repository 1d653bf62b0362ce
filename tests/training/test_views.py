"""Resized crops and colours in training: what a batch is, and the soft labels of numbered views."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

import ardor
from ardor import methods
from ardor.cli.main import main
from ardor.data import boxes_of
from ardor.data.images import resized_crops
from ardor.data.split import Split
from ardor.errors import ConfigError, RunError
from ardor.losses import ce
from ardor.methods import RSLAD
from ardor.noise import Noise, order
from ardor.storage.runs import Run
from ardor.testing import TinyNet
from ardor.training.augmentation import augmented
from ardor.training.cost import plan
from ardor.training.loop import distill, epochs
from ardor.training.recipe import Recipe
from ardor.training.soft_labels import SoftLabelCache, SoftLabels, saving, unnumbered
from tests.conftest import bits, filled, same, splits
from tests.data.photographs import draw
from tests.engine.distributed.conftest import together
from tests.training.conftest import CLASSES, PGD2, WORDS, job_for, net, recipe

CPU = torch.device("cpu")
N = 64


def photographs(n=N, size=24, channels=3):
    index = torch.arange(n)
    images = Noise(0, index, "photographs").integers(256, (channels, size, size)).to(torch.uint8)
    return Split(images, index % CLASSES, CLASSES, "photographs", "train")


def resized(**changes):
    return recipe(**{"augment": "resized-crop-flip", "padding": 4, "views": 8, "area": (0.25, 1.0)} | changes)


@pytest.mark.parametrize("changes", [{}, {"views": 0}, {"augment": "resized-crop"}, {"jitter": (0.4, 0.4, 0.4, 0.1)},
                                     {"randaugment": (2, 9)}])  # fmt: skip
def test_an_image_has_the_same_view_in_any_batch(changes):
    train, chosen = photographs(), resized(**changes)
    whole, labels, index, view = augmented(train, torch.arange(N), chosen, 2, CPU)
    assert whole.shape == (N, 3, 24, 24)
    assert whole.dtype == torch.float32
    assert torch.equal(labels, train.labels)
    assert torch.equal(index, train.index)
    other = replace(train, images=train.images.flip(0), labels=train.labels.flip(0), index=train.index.flip(0))
    for rows in (*torch.arange(N).split(37), torch.tensor([9])):
        for split, at in ((train, rows), (other, N - 1 - rows)):
            x, y, positions, numbers = augmented(split, at, chosen, 2, CPU)
            assert torch.equal(x, whole[rows])
            assert torch.equal(y, labels[rows])
            assert torch.equal(positions, rows)
            assert torch.equal(numbers, view[rows])
    assert not torch.equal(augmented(train, torch.arange(N), chosen, 3, CPU)[0], whole)
    assert not torch.equal(augmented(train, torch.arange(N), replace(chosen, seed=1), 2, CPU)[0], whole)


DRAWN = ["cropshift", "cropshift-flip", "idbh-weak", "idbh-strong"]


@pytest.mark.parametrize("changes", [*({"augment": kind} for kind in DRAWN), {"erase": 0.5}, {"cutout": 9}])
def test_a_drawn_view_is_of_the_image_alone(changes):
    train, chosen = photographs(), recipe(**changes)
    whole, _, index, view = augmented(train, torch.arange(N), chosen, 2, CPU)
    assert not view.any()
    for rows in (*torch.arange(N).split(37), torch.tensor([9])):
        assert torch.equal(augmented(train, rows, chosen, 2, CPU)[0], whole[rows])
    assert not torch.equal(augmented(train, torch.arange(N), chosen, 3, CPU)[0], whole)
    assert not torch.equal(augmented(train, torch.arange(N), replace(chosen, seed=1), 2, CPU)[0], whole)
    assert unnumbered(chosen)
    assert torch.equal(index, train.index)


def test_a_late_augmentation_begins_at_its_epoch():
    train, rows = photographs(), torch.arange(N)
    both = recipe(augment="cropshift", late="idbh-weak", late_from=3)
    for epoch, kind in ((1, "cropshift"), (2, "cropshift"), (3, "idbh-weak"), (9, "idbh-weak")):
        expected = augmented(train, rows, recipe(augment=kind), epoch, CPU)[0]
        assert torch.equal(augmented(train, rows, both, epoch, CPU)[0], expected)


def test_a_view_is_the_box_of_its_number():
    """In every epoch and of every seed: a mirrored box only with flip."""
    train, rows = photographs(), torch.arange(N)
    for flip, seed, epoch in ((True, 0, 1), (True, 5, 7), (False, 5, 7)):
        chosen = resized(augment="resized-crop-flip" if flip else "resized-crop", seed=seed, ratio=(0.5, 1.5))
        x, _, _, view = augmented(train, rows, chosen, epoch, CPU)
        boxes = boxes_of(train.index, view, (24, 24), (0.25, 1.0), (0.5, 1.5), flip)
        assert bool(boxes[:, 4].any()) is flip
        assert torch.equal(x, resized_crops(train.images, boxes, 24) / 255)
        assert sorted(set(view.tolist())) == list(range(8))


class Stored:
    """Images whose centre is shown, as those of a store of another size are."""

    dtype, full = torch.uint8, (32, 40)

    def __init__(self, pixels):
        self.pixels, self.shape = pixels, torch.Size([len(pixels), 3, 24, 24])

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, rows):
        return self.pixels[rows][:, :, 4:28, 8:32].contiguous()

    def take(self, rows):
        return Stored(self.pixels[rows])

    def crops(self, rows, boxes, size):
        return resized_crops(self.pixels[rows], boxes, size)

    def hashes(self):
        return ardor.data.images.hashes_of(self.pixels)


def stored(n=N):
    pixels = Noise(0, torch.arange(n), "stored").integers(256, (3, 32, 40)).to(torch.uint8)
    return Split(Stored(pixels), torch.arange(n) % CLASSES, CLASSES, "stored", "train")


def test_crops_are_of_the_whole_stored_image():
    train = stored()
    x, _, index, view = augmented(train, torch.arange(N), resized(area=(0.9, 1.0), ratio=(0.5, 2.0)), 1, CPU)
    boxes = boxes_of(index, view, (32, 40), (0.9, 1.0), (0.5, 2.0))
    assert int((boxes[:, 0] + boxes[:, 2]).max()) > 28, "below the part that is shown"
    assert torch.equal(x, resized_crops(train.images.pixels, boxes, 24) / 255)
    assert x.shape == (N, 3, 24, 24)


@pytest.mark.parametrize("changes", [{}, {"views": 0, "augment": "resized-crop"}])
def test_where_images_are_kept_and_who_decodes_them_changes_no_view(shared, changes):
    photos = shared("few-photos", lambda folder: draw(folder, 20, 2, sizes=(40, 70)))
    folder = f"folder:{photos}"
    store = ardor.data.prepare(folder, shared("few-photos-store", lambda folder: None), size=32)
    options = [{"on_demand": False}, {"on_demand": True, "workers": 0}, {"on_demand": True, "workers": 2}]
    splits = [ardor.data.load(folder, size=32, **chosen)[0] for chosen in options]
    splits.append(ardor.data.load(f"store:{store}")[0])
    rows = order(0, "rows", 1, splits[0].index)
    whole = augmented(splits[0], rows, resized(**changes), 1, CPU)
    for split in splits[1:]:
        for x, y in zip(augmented(split, rows, resized(**changes), 1, CPU), whole, strict=True):
            assert torch.equal(x, y)


class Watch:
    """Learns, and remembers what it was given."""

    needs_teacher = False

    def __init__(self):
        self.met = []

    def terms(self, student, teacher, x, y, *, epoch, noise):
        self.met.append((noise.index, x.clone(), y))
        return {"clean": ce(student(x), y)}


def met_in_training(train, chosen):
    watch = Watch()
    distill(ardor.models.build("small_cnn", classes=CLASSES, channels=3, width=2), None, watch, train, chosen)
    return [tensor.numpy() for tensor in map(torch.cat, zip(*watch.met, strict=True))]


def test_two_processes_meet_the_views_of_one(tmp_path):
    train, chosen = photographs(33), resized(epochs=1, batch=16)
    index, x, y = map(np.concatenate, zip(*together(tmp_path, met_in_training, train, chosen), strict=True))
    whole = augmented(train, torch.from_numpy(index), chosen, 1, CPU)
    assert sorted(index) == list(range(33))
    assert np.array_equal(x, whole[0].numpy())
    assert np.array_equal(y, whole[1].numpy())


@pytest.mark.parametrize("changes", [{"views": 4}, {"views": 0, "jitter": (0.4, 0.4, 0.4, 0.1), "randaugment": (2, 9)}])
def test_a_run_that_was_broken_off_meets_the_same_views(tmp_path, changes):
    def run(folder):
        student = ardor.models.build("small_cnn", classes=CLASSES, channels=3, width=2)
        return student, epochs(student, None, methods.Natural(), photographs(), chosen, run=tmp_path / folder)

    chosen = resized(epochs=2, **changes)
    assert next(run("broken")[1]).epoch == 1
    ends = []
    for folder in ("broken", "whole"):
        student, records = run(folder)
        ends.append(([record.loss for record in records][-1], bits(student)))
    assert ends[0][0] == ends[1][0]
    assert same(ends[0][1], ends[1][1])


class Counted(TinyNet):
    """A teacher that remembers how many images each forward was given."""

    def __init__(self, seed=5):
        super().__init__(1, CLASSES, 8, seed)
        filled(self, seed).float()
        self.calls = []

    def forward(self, x):
        self.calls.append(len(x))
        return super().forward(x)

    def asked(self):
        """The calls since the last time, but for those of checks before training."""
        calls, self.calls = [n for n in self.calls if n > 2], []
        return calls


METHOD = RSLAD(attack=PGD2)


def taught(folder, teacher, train=None, run=None, **changes):
    student, cache = net(3), None if folder is None else SoftLabelCache(folder, changes.pop("dtype", "float32"))
    train = splits()[0] if train is None else train
    records = distill(student, teacher, METHOD, train, resized(**{"views": 4} | changes), run=run, soft_labels=cache)
    return bits(student), [r.terms for r in records]


def test_a_second_run_asks_about_no_clean_image(tmp_path):
    """Of another seed: 24 epochs have met every view of an image but one in a thousand."""
    teacher = Counted()
    first = taught(tmp_path, teacher, epochs=24, seed=0)
    assert len(teacher.asked()) < 40, "of 72 steps"
    second = taught(tmp_path, teacher, epochs=1, seed=9)
    assert teacher.asked() == [32], "a spot check"
    assert same(taught(tmp_path, teacher, epochs=24, seed=0)[0], first[0])
    assert set(teacher.asked()) == {32}
    live = taught(None, teacher, epochs=1, seed=9)
    assert live[1][0]["clean"] == pytest.approx(second[1][0]["clean"], rel=1e-4)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_table_has_the_size_of_the_plan(tmp_path, dtype):
    train, chosen = splits()[0], resized(views=32, epochs=100)
    job = job_for(METHOD, student=net(3), teacher=Counted(), batch=8)
    job.train, job.val, job.recipe, job.soft_labels = train, train, chosen, SoftLabelCache(tmp_path, dtype)
    cost = plan(job, steps=2)
    assert cost.table == saving(chosen, [(len(train), len(train))], CLASSES, dtype)
    assert cost.table.views == 32
    assert round(cost.table.cold, 2) == 0.69
    assert "replace 69 % of 1.0 T in this run (31 of 32 views of an image occur)" in cost.text()
    assert list(tmp_path.iterdir()) == [], "a plan writes nothing"
    job.soft_labels.table(Counted(), train, chosen)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.bin")) == cost.table.size


class Unread(Stored):
    """200,000 images of which no pixel is there."""

    def __init__(self):
        self.pixels, self.shape = range(200_000), torch.Size([200_000, 1, 24, 24])

    def hashes(self):
        return np.random.default_rng(0).integers(256, size=(len(self), 16), dtype=np.uint8)


def test_a_large_table_is_not_in_memory(tmp_path):
    train = Split(Unread(), torch.arange(200_000) % 50, 50, "unread", "train")
    chosen, teacher = resized(views=32), TinyNet(1, 50)
    tracemalloc.start()
    try:
        table = SoftLabelCache(tmp_path, "float16").table(teacher, train, chosen)
        index, view = torch.tensor([0, 199_999]), torch.tensor([31, 31])
        logits = Noise(0, index, "logits").normal((50,)).half().float()
        table.put(index, view, logits)
        assert torch.equal(table.get(index, view)[0], logits)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    files = [file.stat() for file in tmp_path.rglob("*.bin")]
    assert (
        sum(file.st_size for file in files) == saving(chosen, [(200_000, 200_000)], 50, "float16").size == 667_200_000
    )
    assert sum(file.st_blocks * 512 for file in files) < 10_000_000, "sparse"
    assert peak < 100_000_000


def test_the_table_of_other_views_is_refused(tmp_path):
    train, teacher = splits()[0], Counted()
    first = SoftLabelCache(tmp_path).table(teacher, train, resized(views=4))
    identity = first.identity | {"views": 8, "area": [0.5, 1.0]}
    with pytest.raises(RunError, match=r"made for another \(area: .*views: 8 here, 4 there.*\): name another folder"):
        SoftLabels(first.folder, identity, train)
    with pytest.raises(ConfigError, match="expected views below 4, got 4: .*or the views, that the images were aug"):
        first.get(torch.tensor([1]), torch.tensor([4]))


def test_what_makes_other_views_has_another_table(tmp_path):
    teacher, few = Counted(), splits()[0]
    for number, changes in enumerate(
        ({}, {"views": 3}, {"area": (0.5, 1.0)}, {"ratio": (1, 1)}, {"augment": "resized-crop"}), 1
    ):
        taught(tmp_path, teacher, few, epochs=1, **changes)
        assert len(list(tmp_path.iterdir())) == number
    for changes in ({"area": (1 / 4, 1)}, {"seed": 3}, {"ratio": ["3/4", "4/3"]}):
        chosen = ardor.storage.config.build({**RESIZED, **changes}, "recipe")
        SoftLabelCache(tmp_path).table(teacher, few, chosen)
        assert len(list(tmp_path.iterdir())) == number, "the same numbers, however they are written"


RESIZED = {"augment": "resized-crop-flip", "views": 4, "area": [0.25, 1]}


def test_the_table_knows_what_its_boxes_are_counted_in(tmp_path):
    teacher, train = TinyNet(3, CLASSES), stored()
    table = SoftLabelCache(tmp_path).table(teacher, train, resized())
    assert (table.identity["full"], table.identity["shape"]) == ([32, 40], [3, 24, 24])
    shown = replace(train, images=train.images[:])
    assert SoftLabelCache(tmp_path).table(teacher, shown, resized()).folder != table.folder


UNNUMBERED = [({"views": 0}, "recipe.views 0"), ({"jitter": (0.4, 0, 0, 0)}, "recipe.jitter"),
              ({"randaugment": (1, 9)}, "recipe.randaugment"), ({"erase": 0.5}, "recipe.erase"),
              ({"cutout": 4}, "recipe.cutout"), ({"late": "resized-crop"}, "recipe.late resized-crop")]  # fmt: skip


@pytest.mark.parametrize(("changes", "reason"), UNNUMBERED)
def test_views_without_numbers_are_not_cached_and_that_is_logged(tmp_path, caplog, changes, reason):
    teacher = Counted()
    cached = taught(tmp_path / "soft", teacher, epochs=1, run=tmp_path / "run", **changes)
    assert Run(tmp_path / "run").config["soft_labels"] == "live"
    assert f"soft labels are not cached: {reason}" in caplog.text
    assert not (tmp_path / "soft").exists()
    assert same(cached[0], taught(None, teacher, epochs=1, **changes)[0])
    with pytest.raises(ConfigError, match=reason):
        saving(resized(**changes), [(10, 10)], 10)
    assert unnumbered(resized()) == unnumbered(Recipe()) == ""


@pytest.mark.parametrize(("changes", "reason"), UNNUMBERED)
def test_the_plan_has_the_reason(tmp_path, changes, reason):
    job = job_for(METHOD, student=net(3), teacher=Counted(), batch=8, run=tmp_path)
    job.train = job.val = splits()[0]
    text = plan(replace(job, recipe=resized(**changes)), steps=2).text()
    assert f"no soft labels are cached, 1.0 T is computed in every run: {reason}" in text


def test_colours_are_refused_for_images_of_other_channels():
    train = Split(torch.zeros(8, 2, 8, 8), torch.arange(8) % CLASSES, CLASSES, "two", "train")
    with pytest.raises(
        ConfigError, match="expected grey or RGB images for recipe.jitter, recipe.randaugment and idbh, got 2"
    ):
        distill(TinyNet(2, CLASSES), None, methods.Natural(), train, resized(jitter=(1, 0, 0, 0)))


def test_the_average_has_the_statistics_of_such_crops(monkeypatch):
    train, met = splits()[0], []
    monkeypatch.setattr("ardor.training.validation.restatistic", lambda net, batches: met.extend(batches))
    chosen = resized(epochs=1)
    distill(net(), None, methods.Natural(), train, chosen, averaging=ardor.training.EMA())
    rows = ardor.noise.order(0, "restatistic", 1, train.index).split(16)
    for x, r in zip(met, rows, strict=True):
        assert torch.equal(x, augmented(train, r, chosen, 1, CPU, "restatistic/augment")[0])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"views": -1}, "recipe.views as a number of boxes from 0 to 65536"),
        ({"views": 2**16 + 1}, "recipe.views as a number of boxes from 0 to 65536"),
        ({"area": (0, 1)}, "recipe.area as shares above 0 and at most 1, the lower first"),
        ({"area": (0.5, 1.1)}, "recipe.area as shares"),
        ({"area": (1, 0.5)}, "recipe.area as shares"),
        ({"area": (0.5,)}, "area of Recipe as a list of 2 values"),
        ({"ratio": (4 / 3, 3 / 4)}, "recipe.ratio as ratios above 0, the lower first"),
        ({"padding": 2}, "recipe.padding as 4, its default: resized-crop-flip has no padding"),
        ({"jitter": 0.4}, "jitter of Recipe as a list of 4 values"),
        ({"jitter": (0, 0, 0, 0.6)}, "of hue at most 0.5"),
        ({"randaugment": (2, 31)}, "recipe.randaugment as a number of operations and a magnitude"),
        ({"randaugment": (-1, 3)}, "recipe.randaugment"),
    ],
)
def test_values_out_of_range_are_refused(options, expected):
    with pytest.raises(ConfigError, match=expected):
        Recipe(**{"augment": "resized-crop-flip"} | options)


def test_options_of_resized_crops_are_refused_for_others():
    for options in ({"views": 32}, {"area": (0.5, 1.0)}, {"ratio": (1, 1)}):
        with pytest.raises(ConfigError, match="its default: crop-flip has no"):
            Recipe(**options)


def test_a_run_from_before_views_goes_on(tmp_path):
    words = (None, methods.Natural(), splits()[0], recipe(epochs=1))
    distill(net(), *words, run=tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    for key in ("area", "ratio", "views", "jitter", "randaugment"):
        del config["recipe"][key]
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    assert distill(net(), *words, run=tmp_path / "run") == []


def test_the_shell_trains_on_views_and_says_what_is_not_cached(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    words = [*WORDS[:10], "--recipe.batch", "32", "--recipe.augment", "resized-crop", "--recipe.val_size", "16"]
    words += ["--recipe.device", "cpu", "--recipe.epochs", "1", "--recipe.area", "1/4,1", "--gate=false"]
    sat = ["--method", "sat", "--method.attack.steps", "1"]
    assert main(["train", *words, "--recipe.views", "4", *sat, "--run", "t"]) == 0
    rslad = ["--method", "rslad", "--method.attack.steps", "1", "--teacher", "t", "--recipe.seed", "1"]
    capsys.readouterr()
    assert main(["train", *words, "--recipe.views", "4", *rslad, "--run", "a"]) == 0
    assert "not cached" not in capsys.readouterr().err
    assert Run("a").config["soft_labels"] == "float32"
    assert len(list((tmp_path / ".soft-labels").iterdir())) == 1
    assert main(["train", *words, *rslad, "--run", "b"]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("soft labels are not cached: recipe.views 0 draws another box in every epoch") == 1
    assert "not cached" not in caplog.text, "not twice"
    assert Run("b").config["soft_labels"] == "live"
    assert len(list((tmp_path / ".soft-labels").iterdir())) == 1
    assert main(["plan", *words, *rslad, "--recipe.views", "4", "--steps", "2"]) == 0
    assert "(1 of 4 views of an image occur)" in capsys.readouterr().out
