"""What the loop keeps beside the student: averages of its weights, and the teacher's soft labels on clean images."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from nets import filled
from torch import nn
from torch.optim.swa_utils import update_bn

import ardor
import ardor.bench
from ardor import checkpoint, methods
from ardor.attacks import PGD
from ardor.averaging import EMA, SWA
from ardor.cache import Keep, SoftLabels
from ardor.cache.files import hashes_of
from ardor.checkpoint import read_tensors
from ardor.cli import main
from ardor.commands.train import job_of
from ardor.data.augment import crop_flip
from ardor.errors import CheckpointError, ConfigError, DivergedError, RunError
from ardor.losses import ce, kl
from ardor.modes import attack_view
from ardor.noise import Noise, order
from ardor.recipe import Recipe
from ardor.testing import TinyNet
from ardor.threat import Linf
from ardor.train import distill, epochs, make_optimiser, step
from ardor.validation import LOOKED_AT

PGD2 = PGD(Linf(0.1), steps=2, start="gaussian")
CLASSES = 4
TIMELESS = {"seconds": 0, "images_per_second": 0}


def splits(n=56, name="made"):
    noise = Noise(0, torch.arange(n), "images")
    labels = torch.arange(n) % CLASSES
    images = (noise.uniform((1, 8, 8)) * 0.5 + labels[:, None, None, None] / (2 * CLASSES)).clamp(0, 1)
    whole = ardor.data.Split(images, labels, CLASSES, name, "train")
    return whole.take(slice(0, 40)), whole.take(slice(40, n))


def net(seed=0, width=3):
    return ardor.models.build("small_cnn", classes=CLASSES, channels=1, width=width, seed=seed)


def recipe(**changes):
    said = {"epochs": 3, "batch": 16, "lr": 0.05, "augment": "none", "padding": 1, "val_attack": PGD2, "device": "cpu"}
    return Recipe(**(said | changes))


class Counted(TinyNet):
    """A user's teacher: it has no twin, and remembers how many images each forward was given."""

    def __init__(self, seed=5):
        super().__init__(1, CLASSES, 8, seed)
        filled(self, seed).float()
        self.calls = []

    def forward(self, x):
        self.calls.append(len(x))
        return super().forward(x)

    def asked(self):
        """The calls since the last look, but for the image that `require_fit` tries."""
        calls, self.calls = [n for n in self.calls if n > 1], []
        return calls


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def bits(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def lines(folder):
    return [json.loads(line) | TIMELESS for line in (folder / "metrics.jsonl").read_text().splitlines()]


def ended(folder):
    """Everything a run leaves that is not time."""
    names = sorted(p.name for p in folder.glob("*.safetensors"))
    return lines(folder), {name: read_tensors(folder / name) for name in names}


def require_same(a, b):
    assert a[0] == b[0]
    assert a[1].keys() == b[1].keys()
    for name, (tensors, metadata) in a[1].items():
        assert same(tensors, b[1][name][0]), name
        assert metadata == b[1][name][1], name


# --- averages


@pytest.mark.parametrize("averaging", [EMA(0.9), EMA(0.3, warmup=False), SWA(2), SWA(1, every=2)], ids=str)
def test_the_loops_average_is_one_made_by_hand(tmp_path, averaging):
    train, _ = splits()
    student, mine, plain = net(), net(), net()
    last = distill(student, None, methods.Natural(), train, recipe(), run=tmp_path / "run", averaging=averaging)[-1]
    distill(plain, None, methods.Natural(), train, recipe())
    assert same(bits(student), bits(plain)), "to be averaged changes nothing"

    optimiser, met = make_optimiser(mine, methods.Natural(), recipe(lr=0.05)), []
    for epoch in (1, 2, 3):
        for group in optimiser.param_groups:
            group["lr"] = 0.05 * 0.1 ** sum(m < epoch for m in recipe().drops)
        for rows in order(0, "order", epoch, train.index).split(16):
            optimiser.zero_grad()
            ce(mine.train()(train.images[rows]), train.labels[rows]).mean().backward()
            optimiser.step()
            met.append([p.detach().double().clone() for p in mine.parameters()])
    if isinstance(averaging, EMA):
        wanted = met[0]
        for n, weights in enumerate(met[1:], 1):
            d = min(averaging.decay, (1 + n) / (10 + n)) if averaging.warmup else averaging.decay
            wanted = [d * old + (1 - d) * new for old, new in zip(wanted, weights, strict=True)]
    else:
        ends = [met[3 * epoch - 1] for epoch in range(averaging.start, 4, averaging.every)]
        wanted = [torch.stack(parts).mean(0) for parts in zip(*ends, strict=True)]
    found = ardor.models.load(tmp_path / "run", checkpoint="averaged")
    for p, w, s in zip(found.parameters(), wanted, student.parameters(), strict=True):
        torch.testing.assert_close(p.double(), w, rtol=1e-5, atol=1e-6)
        assert not torch.equal(p, s)
    theirs = net()
    theirs.load_state_dict(found.state_dict())
    update_bn([train.images[r] for r in order(0, "restatistic", 3, train.index).split(16)], theirs)
    for (name, a), b in zip(found.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)
    assert read_tensors(tmp_path / "run" / "averaged.safetensors")[1]["epoch"] == "3", "without val, the last"
    assert (last.averaged_robust, last.averaged_best) == (None, False)
    assert "averaged" not in str(last)


@pytest.mark.parametrize(
    ("averaging", "stop", "labels"),
    [(EMA(0.9), 1, False), (EMA(0.9), 3, True), (SWA(2), 1, True), (SWA(2), 2, False), (SWA(1, every=2), 2, False)],
    ids=str,
)
def test_going_on_with_an_average_equals_never_having_stopped(tmp_path, averaging, stop, labels):
    train, val = splits()

    def run(folder, most=None, kept="whole"):
        student, soft = net(3), Keep(tmp_path / kept) if labels else None
        words = (student, net(4), methods.RSLAD(attack=PGD2), train, recipe(epochs=4, augment="crop"))
        for record in epochs(*words, val=val, run=folder, averaging=averaging, soft_labels=soft):
            if record.epoch == most:
                break  # as a kill does: the generator is left where it is
        return student

    whole = run(tmp_path / "a")
    run(tmp_path / "b", stop, "parts")
    assert same(bits(run(tmp_path / "b", kept="parts")), bits(whole))
    require_same(ended(tmp_path / "a"), ended(tmp_path / "b"))
    keys = ended(tmp_path / "a")[1]["state.safetensors"][0].keys()
    assert {f"averaging/weights/{name}" for name, _ in whole.named_parameters()} <= keys


@pytest.mark.parametrize("stop", [None, 2, 3])
def test_the_best_average_is_kept_by_its_own_accuracy_also_over_a_stop(tmp_path, monkeypatch, stop):
    scores = {1: (0.1, 0.5), 2: (0.2, 0.7), 3: (0.9, 0.6), 4: (0.3, 0.65)}
    train, val = splits()
    judged = []

    def scripted(student, part, method, recipe):
        judged.append(student)
        own = student is words[0]
        return 0.95, scores[record_of()][0 if own else 1]

    def record_of():
        return min(4, done + 1)

    monkeypatch.setattr("ardor.train.validate", scripted)
    done, kept, records = 0, {}, []
    for _ in range(2 if stop else 1):
        words = (net(), None, methods.Natural(), train, recipe(epochs=4))
        for record in epochs(*words, val=val, run=tmp_path / "run", averaging=EMA(0.9)):
            records.append(record)
            done = record.epoch
            kept[done] = bits(judged[-1])
            if stop == done:
                stop = None
                break
    assert [r.best for r in records] == [True, True, True, False]
    assert [r.averaged_best for r in records] == [True, True, False, False]
    assert [r.averaged_robust for r in records] == [0.5, 0.7, 0.6, 0.65]
    tensors, metadata = read_tensors(tmp_path / "run" / "averaged.safetensors")
    assert (metadata["epoch"], metadata["val_robust"]) == ("2", "0.7")
    assert same(tensors, kept[2])
    assert read_tensors(tmp_path / "run" / "best.safetensors")[1]["epoch"] == "3"
    assert "averaged 95.0 clean 70.0 robust *" in str(records[1])
    assert "averaged 95.0 clean 60.0 robust  lr" in str(records[2])
    assert [line["averaged_robust"] for line in lines(tmp_path / "run")] == [0.5, 0.7, 0.6, 0.65]


def test_an_average_is_judged_as_the_file_that_is_kept(tmp_path):
    """What `val` said of it is what a loaded copy gets."""
    train, val = splits()
    words = (net(), None, methods.SAT(attack=PGD2), train, recipe(epochs=2, lr=0.2))
    record = distill(*words, val=val, run=tmp_path / "run", averaging=SWA(2))[-1]
    assert record.averaged_best
    said = ardor.validation.validate(
        ardor.models.load(tmp_path / "run", checkpoint="averaged"), val, words[2], words[4]
    )
    assert said == (record.averaged_clean, record.averaged_robust)


def test_nothing_is_judged_before_there_is_an_average(tmp_path):
    train, val = splits()
    words = (net(), None, methods.Natural(), train, recipe(epochs=2))
    first = next(iter(epochs(*words, val=val, run=tmp_path / "run", averaging=SWA(2))))
    assert (first.averaged_clean, first.averaged_robust, first.averaged_best) == (None, None, False)
    assert not (tmp_path / "run" / "averaged.safetensors").exists()


def test_a_look_that_is_not_due_judges_no_average(tmp_path):
    train, val = splits()
    words = (net(), None, methods.Natural(), train, recipe(epochs=3, val_every=2))
    records = distill(*words, val=val, averaging=EMA())
    assert [r.averaged_robust is None for r in records] == [True, False, False]


def test_an_average_that_would_never_begin_is_refused_with_nothing_written(tmp_path):
    train, _ = splits()
    with pytest.raises(ConfigError, match=r"averaging.start within the 3 epochs of the recipe, got 4"):
        distill(net(), None, methods.Natural(), train, recipe(), run=tmp_path / "run", averaging=SWA(4))
    assert not (tmp_path / "run").exists()
    distill(net(), None, methods.Natural(), train, recipe(), run=tmp_path / "run", averaging=SWA(3))
    with pytest.raises(RunError, match=r"averaging.start: 2 here, 3 there"):
        distill(net(), None, methods.Natural(), train, recipe(), run=tmp_path / "run", averaging=SWA(2))


def test_statistics_are_of_clean_images_augmented_as_in_training(monkeypatch):
    """In an order and in views of their own, of every epoch anew, and of a hundred batches at most."""
    train, _ = splits()
    looks = []
    monkeypatch.setattr("ardor.validation.restatistic", lambda net, batches: looks.append(list(batches)))
    chosen = recipe(epochs=2, augment="crop-flip", seed=7)
    distill(net(), None, methods.Natural(), train, chosen, averaging=EMA())
    assert LOOKED_AT == 100
    assert len(looks) == 2
    for epoch, batches in enumerate(looks, 1):
        rows = order(7, "restatistic", epoch, train.index).split(16)
        assert len(batches) == 3
        for x, r in zip(batches, rows, strict=True):
            noise = Noise(7, train.index[r], "restatistic/augment", epoch)
            assert torch.equal(x, crop_flip(train.images[r], noise, 1)[0])
    monkeypatch.setattr("ardor.validation.LOOKED_AT", 2)
    distill(net(), None, methods.Natural(), train, chosen, averaging=EMA())
    assert len(looks[-1]) == 2


WORDS = [
    "--data", "digits", "--data.limit", "96", "--student", "small_cnn", "--student.width", "2", "--threat.eps", "0.1",
    "--recipe.batch", "32", "--recipe.augment", "crop", "--recipe.padding", "1", "--recipe.val_size", "16",
    "--recipe.device", "cpu", "--recipe.epochs", "2",
]  # fmt: skip


def test_the_shell_averages_goes_on_and_judges(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", *WORDS, "--method", "natural", "--averaging", "ema", "--averaging.decay", "0.9", "--run", "run"]
    assert main(words) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["averaging"] == {"name": "EMA", "decay": 0.9, "warmup": True}
    assert config["soft_labels"] == "live", "there is no teacher"
    assert not (tmp_path / ".soft-labels").exists()
    before = ended(tmp_path / "run")
    assert all(line["averaged_robust"] is not None for line in before[0])
    assert main(["train", "run"]) == 0, "the folder alone says how it averages"
    require_same(before, ended(tmp_path / "run"))
    assert main(["evaluate", "run", "--suite", "quick", "--limit", "20", "--checkpoint", "averaged"]) == 0
    report = json.loads(next((tmp_path / "run").glob("report*averaged*.json")).read_text())
    assert report["title"] == "run (averaged)"
    assert report["training"]["averaging"]["decay"] == 0.9
    assert main(["compare", "run", "run", "--checkpoint", "averaged"]) == 0
    (tmp_path / "run" / "averaged.safetensors").unlink()
    assert main(["evaluate", "run", "--suite", "quick", "--limit", "20", "--checkpoint", "averaged"]) != 0
    assert main([*words[:-2], "--averaging.decay", "1.5", "--run", "other"]) != 0
    assert main([*[w for w in words[:-4] if w != "ema"], "none", "--run", "other"]) != 0
    assert not (tmp_path / "other").exists()


def test_the_shell_reads_averages_from_recipes(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("method: natural\naveraging: {name: swa, start: 2, every: 3}\n")
    assert job_of([str(path), *_joined(WORDS)]).averaging == SWA(2, 3)
    assert job_of([str(path), *_joined(WORDS), "--averaging.every=1"]).averaging == SWA(2, 1)
    assert job_of([str(path), *_joined(WORDS), "--averaging=ema"]).averaging == EMA()
    assert job_of(["--method=natural", *_joined(WORDS)]).averaging is None


def _joined(words):
    return [f"{key}={value}" for key, value in zip(words[::2], words[1::2], strict=True)]


# --- kept soft labels


RSLAD = methods.RSLAD(attack=PGD2)


def taught(soft=None, teacher=None, method=RSLAD, data=None, run=None, **changes):
    """The student's bits and the records of a run."""
    student = net(3)
    train = splits()[0] if data is None else data
    records = distill(student, teacher or Counted(), method, train, recipe(**changes), run=run, soft_labels=soft)
    return bits(student), [(r.loss, r.terms) for r in records]


def tables(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("augment", ["none", "crop", "crop-flip"])
@pytest.mark.parametrize("make", [Counted, lambda: net(5, 8)], ids=["users", "ours"])
def test_runs_with_a_table_are_equal_and_a_second_asks_nothing(tmp_path, augment, make):
    teacher, words = make(), {"augment": augment, "epochs": 2}
    cold = taught(Keep(tmp_path / "soft"), teacher, **words)
    asked = teacher.asked() if isinstance(teacher, Counted) else []
    assert set(asked) <= {32}
    warm = taught(Keep(tmp_path / "soft"), teacher, **words)
    if isinstance(teacher, Counted):
        assert teacher.asked() == [32], "the first batch is checked, and nothing is asked"
    assert same(cold[0], warm[0])
    assert cold[1] == warm[1]
    assert len(tables(tmp_path / "soft")) == 1
    live = taught(None, teacher, **words)
    if isinstance(teacher, Counted):
        assert set(teacher.asked()) == {16, 8}
    assert live[1][-1][0] == pytest.approx(cold[1][-1][0], rel=1e-3), "after six steps"


def test_the_first_step_is_the_live_one(tmp_path):
    words = {"epochs": 1, "batch": 40, "augment": "crop-flip"}
    live, cold = taught(None, **words), taught(Keep(tmp_path / "soft"), **words)
    assert live[1][0][0] == pytest.approx(cold[1][0][0], rel=1e-6)
    for key, value in live[0].items():
        torch.testing.assert_close(value, cold[0][key], rtol=1e-4, atol=1e-6)


class Mine:
    """RSLAD as a user's own method: images may then lie otherwise in memory."""

    def terms(self, *args, **kwargs):
        return RSLAD.terms(*args, **kwargs)


def test_who_filled_the_table_does_not_matter(tmp_path):
    """Another method with another seed, on colour images, whose layout differs between methods."""
    n = torch.arange(40)
    colour = ardor.data.Split(Noise(0, n, "c").uniform((3, 8, 8)), n % CLASSES, CLASSES, "colour", "train")
    teacher = ardor.models.build("small_cnn", classes=CLASSES, channels=3, width=8, seed=5)

    def run(folder, method=RSLAD, **changes):
        student = ardor.models.build("small_cnn", classes=CLASSES, channels=3, width=3)
        distill(student, teacher, method, colour, recipe(epochs=1, **changes), soft_labels=Keep(tmp_path / folder))
        return bits(student)

    cold = run("a")
    run("b", Mine(), seed=1)
    assert same(run("b"), cold)


def test_views_are_those_of_the_image_and_the_epoch(tmp_path):
    """So a table meets new ones in each epoch, and a second run the same."""
    train, met = splits()[0], []

    class Watch:
        def terms(self, student, teacher, x, y, *, epoch, noise):
            met.append((epoch, noise.index, x.clone()))
            return {"clean": kl(teacher(x), student(x))}

    teacher = Counted()
    taught(Keep(tmp_path), teacher, Watch(), augment="crop-flip", padding=2, seed=7)
    assert teacher.asked().count(32) > 3, "each batch of each epoch has new ones"
    assert [epoch for epoch, *_ in met] == [1] * 3 + [2] * 3 + [3] * 3
    for epoch, index, x in met:
        assert torch.equal(x, crop_flip(train.images[index], Noise(7, index, "augment", epoch), 2)[0])


def test_seeds_share_a_table(tmp_path):
    teacher = Counted()
    taught(Keep(tmp_path / "soft"), teacher, seed=0)
    teacher.asked()
    taught(Keep(tmp_path / "soft"), teacher, seed=1)
    assert teacher.asked() == [32]
    assert len(tables(tmp_path / "soft")) == 1
    taught(Keep(tmp_path / "soft"), teacher, data=splits()[0].take(slice(5, 30)))
    assert teacher.asked() == [32], "so does a part of the data"


def test_what_makes_other_answers_has_another_table(tmp_path):
    soft = tmp_path / "soft"
    taught(Keep(soft), epochs=1)
    for number, changes in enumerate(
        ({"teacher": Counted(6)}, {"data": splits(name="other")[0]}, {"augment": "crop"},
         {"augment": "crop-flip"}, {"augment": "crop", "padding": 2}), 2,
    ):  # fmt: skip
        taught(Keep(soft), **{"epochs": 1} | changes)
        assert len(tables(soft)) == number
    taught(Keep(soft, "float16"), epochs=1)
    assert len(tables(soft)) == 7
    assert sum(name.startswith("made-") for name in tables(soft)) == 6
    taught(Keep(soft), epochs=1, padding=3)
    assert len(tables(soft)) == 7, "a padding that nobody uses"
    for name in ("x:y", "x_y", f"{'z' * 50}1", f"y{'z' * 50}1"):
        taught(Keep(soft), data=splits(name=name)[0], epochs=1)
    assert len(tables(soft)) == 11, "names that a file system does not tell apart"


def test_other_images_under_the_same_name_never_get_the_first_ones_answers(tmp_path):
    train, _ = splits()
    taught(Keep(tmp_path / "soft"), epochs=1)
    before = {p: p.read_bytes() for p in (tmp_path / "soft").rglob("*") if p.is_file()}
    other = replace(train, images=1 - train.images)
    with pytest.raises(RunError, match="a table of other images .40 of 40 differ"):
        taught(Keep(tmp_path / "soft"), data=other, epochs=1)
    assert all(p.read_bytes() == content for p, content in before.items())


class AsksAboutEverything:
    """A user's method: the teacher about x, a copy of x and x', through its layers, and inside an attack on it."""

    def __init__(self, teacher):
        self.teacher, self.wrong = teacher, []

    def terms(self, student, teacher, x, y, *, epoch, noise):
        with attack_view(student) as view:
            x_adv = PGD2.maximise(lambda z: kl(teacher(z), view(z)), x, noise)
        with attack_view(teacher) as view:
            against = PGD2.maximise(lambda z: ce(view(z), y), x, noise.fork("teacher"))
        for z in (x_adv, x.clone(), against):
            if not torch.equal(teacher(z), self.teacher(z)):
                self.wrong.append("an answer that is not about x is not live")
        if not torch.equal(teacher.features(x), self.teacher.features(x)):
            self.wrong.append("features are not live")
        if (teacher(x) - self.teacher(x)).abs().max() > 1e-5:
            self.wrong.append("x")
        return {"a": kl(teacher(x).detach(), student(x)), "b": kl(teacher(x_adv).detach(), student(x_adv))}


def test_what_is_not_about_x_is_live(tmp_path):
    teacher = Counted()
    method = AsksAboutEverything(teacher)
    for _ in range(2):
        taught(Keep(tmp_path / "soft"), teacher, method, augment="crop-flip")
    assert method.wrong == []


def test_iad_asks_about_the_attacked_images(tmp_path):
    teacher, method = Counted(), methods.IAD(begin=1, attack=PGD2)
    cold = taught(Keep(tmp_path / "soft"), teacher, method)
    teacher.asked()
    assert same(cold[0], taught(Keep(tmp_path / "soft"), teacher, method)[0])
    assert sorted(teacher.asked()) == sorted([32, *[16, 16, 8] * 3])


def test_a_damaged_table_is_mended(tmp_path):
    teacher, soft = Counted(), tmp_path / "soft"
    cold = taught(Keep(soft), teacher)
    path = soft / tables(soft)[0] / "table.bin"
    content = bytearray(path.read_bytes())
    content[3] ^= 64
    path.write_bytes(content)
    teacher.asked()
    assert same(cold[0], taught(Keep(soft), teacher)[0])
    assert sorted(teacher.asked()) == [32, 32], "a spot check, and the entry that was lost"
    assert path.read_bytes()[3] == content[3] ^ 64


def test_answers_that_are_not_the_teachers_end_the_run_before_they_are_learned_from(tmp_path):
    teacher, (train, _) = Counted(), splits()
    soft = Keep(tmp_path / "soft")
    table = soft.table(teacher, train, recipe())
    assert isinstance(table, SoftLabels)
    table.put(train.index, torch.zeros(40, dtype=torch.int64), torch.ones(40, CLASSES))
    student = net(3)
    before = bits(student)
    with pytest.raises(CheckpointError, match="16 of 16 images"):
        distill(student, teacher, RSLAD, train, recipe(), run=tmp_path / "run", soft_labels=soft)
    assert all(torch.equal(p, before[name]) for name, p in student.named_parameters())
    assert not (tmp_path / "run" / "state.safetensors").exists()


def test_the_run_says_what_it_kept(tmp_path):
    train, _ = splits()
    words = (net(3), Counted(), RSLAD, train, recipe(epochs=1))
    for name, soft in (("float16", Keep(tmp_path, "float16")), ("float32", Keep(tmp_path)), ("live", None)):
        distill(*words, run=tmp_path / name, soft_labels=soft)
        assert yaml.safe_load((tmp_path / name / "config.yaml").read_text())["soft_labels"] == name
    distill(net(), None, methods.Natural(), train, recipe(epochs=1), run=tmp_path / "n", soft_labels=Keep(tmp_path))
    assert yaml.safe_load((tmp_path / "n" / "config.yaml").read_text())["soft_labels"] == "live", "nobody is asked"
    with pytest.raises(RunError, match="soft_labels: float32 here, float16 there"):
        distill(net(3), *words[1:], run=tmp_path / "float16", soft_labels=Keep(tmp_path))
    with pytest.raises(ConfigError, match="float32 or float16"):
        distill(net(3), *words[1:], soft_labels=Keep(tmp_path, "bfloat16"))


def test_float16_answers_are_rounded_once_and_the_same_again(tmp_path):
    cold, warm = (taught(Keep(tmp_path / "soft", "float16"), epochs=1) for _ in range(2))
    exact = taught(Keep(tmp_path / "soft"), epochs=1)
    assert same(cold[0], warm[0])
    assert not same(cold[0], exact[0])
    assert cold[1][0][0] == pytest.approx(exact[1][0][0], rel=2e-3)


@pytest.mark.parametrize("why", ["no views", "this system has no file locks"])
def test_where_nothing_can_be_kept_the_log_says_why(tmp_path, monkeypatch, caplog, why):
    if why == "no views":
        monkeypatch.setattr("ardor.cache.keep.enumerable", lambda recipe: f"soft labels are not kept: {why}")
    else:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with caplog.at_level("INFO", "ardor"):
        found = taught(Keep(tmp_path / "soft"))
    assert f"soft labels are not kept: {why}" in caplog.text
    assert not (tmp_path / "soft").exists()
    assert same(found[0], taught()[0])


def test_a_table_is_of_the_images_position_in_its_data_set(tmp_path):
    train, _ = splits()
    taught(Keep(tmp_path), data=train.take(slice(10, 26)), epochs=1)
    held = np.fromfile(next(tmp_path.glob("*/images.bin")), "<u8")
    assert held.nonzero()[0].tolist() == list(range(10, 26))
    assert held[10:].tolist() == hashes_of(train.take(slice(10, 26))).tolist()


def test_the_teacher_is_where_it_answers_when_its_table_is_found(tmp_path, monkeypatch):
    """A table is one device's: it must not be named before the teacher is there."""
    told = []

    class Moved(Counted):
        def to(self, *args, **kwargs):
            told.append("moved")
            return super().to(*args, **kwargs)

    real = ardor.cache.keep.identity_of
    monkeypatch.setattr("ardor.cache.keep.identity_of", lambda *a, **k: told.append("named") or real(*a, **k))
    taught(Keep(tmp_path), Moved(), epochs=1)
    assert told[0] == "moved"


TAUGHT = [*WORDS, "--method", "rslad", "--method.attack.steps", "1", "--gate=false"]


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    assert main(["train", *WORDS, "--method", "natural", "--run", str(folder)]) == 0
    return str(folder)


def test_the_shell_keeps_them_beside_the_runs(tmp_path, monkeypatch, teacher_run, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", *TAUGHT, "--teacher", teacher_run]
    assert main([*words, "--run", "here/run"]) == 0
    assert [name[:7] for name in tables(tmp_path / "here" / ".soft-labels")] == ["digits-"]
    assert main([*words, "--run", "live/run", "--soft_labels", "live"]) == 0
    assert not (tmp_path / "live" / ".soft-labels").exists()
    assert main([*words, "--run", "half/run", "--soft_labels", "float16", "--soft_labels_in", "mine"]) == 0
    assert len(tables(tmp_path / "mine")) == 1
    assert not (tmp_path / "half" / ".soft-labels").exists()
    config = yaml.safe_load((tmp_path / "half" / "run" / "config.yaml").read_text())
    assert config["soft_labels"] == "float16"
    assert "soft_labels_in" not in config, "where they lie decides nothing"
    assert main(["train", "half/run", "--soft_labels_in", "moved"]) == 0
    assert main([*words, "--run", "x", "--soft_labels", "float64"]) != 0


def test_the_folder_by_default(tmp_path, teacher_run):
    words = [*_joined(TAUGHT[:-1]), f"--teacher={teacher_run}"]
    assert str(job_of(words).soft_labels.folder) == "runs/.soft-labels"
    assert job_of([*words, f"--run={tmp_path}/a/b"]).soft_labels == Keep(tmp_path / "a" / ".soft-labels")
    assert job_of([*words, "--soft_labels=live"]).soft_labels is None
    assert job_of([*words, "--soft_labels=float16"]).soft_labels.dtype == "float16"
    path = tmp_path / "recipe.yaml"
    path.write_text("soft_labels: float16\nsoft_labels_in: mine\n")
    assert job_of([str(path), *words]).soft_labels == Keep(Path("mine"), "float16")
    assert job_of([str(path), *words, "--soft_labels=live"]).soft_labels is None


def test_all_cells_of_a_bench_share_a_folder(tmp_path, monkeypatch, teacher_run):
    def seen(words):
        jobs.append(job_of(words))
        raise InterruptedError

    jobs = []
    work = sys.modules["ardor.bench.work"]
    monkeypatch.setattr(work, "job_of", seen)
    cell = SimpleNamespace(words=[*_joined(TAUGHT[:-1]), f"--teacher={teacher_run}"], name="rslad/s0")
    asked = SimpleNamespace(folder=tmp_path, run=lambda name: tmp_path / "cells" / name)
    with pytest.raises(InterruptedError):
        work._train(SimpleNamespace(asked=asked), cell, None)
    assert jobs[0].soft_labels == Keep(tmp_path / ".soft-labels")
    assert jobs[0].run == tmp_path / "cells" / "rslad" / "s0"


# --- a device that nobody waits for


class Far:
    """A loss on a GPU, as `step` asks about it."""

    is_cuda = True

    def __init__(self, value):
        self.value = value

    def isfinite(self):
        return self.value.isfinite()


class Natural(methods.Natural):
    """A loss that is not finite where the images say so."""

    def terms(self, student, teacher, x, y, *, epoch, noise):
        return {"clean": ce(student(x), y) / (x.amax() < 2)}


@pytest.fixture
def far(monkeypatch):
    monkeypatch.setattr("ardor.processes.sum_gradients", lambda parameters, loss: Far(loss))


def test_an_update_from_a_loss_that_is_not_finite_is_left_out_without_asking(far):
    train, _ = splits()
    student = net()
    optimiser = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, fused=True)
    x, y, index = train.batch(slice(0, 16))
    words = {"epoch": 1, "noise": Noise(0, index)}

    def state():
        return [p.detach().clone() for p in student.parameters()] + [
            s["momentum_buffer"].clone() for s in optimiser.state.values()
        ]

    step(student.train(), None, Natural(), optimiser, x, y, **words)
    before = state()
    means = step(student, None, Natural(), optimiser, x + 2, y, **words)
    assert not means["clean"].isfinite()
    assert all(map(torch.equal, before, state()))
    step(student, None, Natural(), optimiser, x, y, **words)
    assert not any(map(torch.equal, before, state()))
    with pytest.raises(DivergedError, match="got inf at epoch 3, step 7"):
        ardor.train._add_up([("epoch 3, step 7", 1.0, means)], {})


def test_it_is_found_out_before_anything_is_written(far, tmp_path, monkeypatch):
    train, val = splits()
    calls = []
    real = torch.optim.SGD
    monkeypatch.setattr("torch.optim.SGD", lambda *args, **kwargs: real(*args, **kwargs | {"fused": True}))

    class Bad(Natural):
        def terms(self, student, teacher, x, y, *, epoch, noise):
            calls.append(epoch)
            return super().terms(student, teacher, x + 2 * (len(calls) == 4), y, epoch=epoch, noise=noise)

    records = epochs(net(), None, Bad(), train, recipe(), val=val, run=tmp_path / "run", averaging=EMA())
    next(records)
    before = ended(tmp_path / "run")
    with pytest.raises(DivergedError, match="epoch 2, step 1"):
        next(records)
    require_same(before, ended(tmp_path / "run"))


class OnGPU(nn.Parameter):
    """A parameter that says it is on a GPU, so that its optimiser is the one of GPUs."""

    is_cuda = True


def test_a_fused_update_may_leave_out_the_first_step_and_a_late_parameter():
    """A momentum that begins as whatever lay in memory, or as nothing beside others that began, must not be read."""
    student = nn.Linear(2, 2)
    for name, p in list(student.named_parameters()):
        setattr(student, name, OnGPU(p.detach().clone()))
    optimiser = make_optimiser(student, methods.Natural(), recipe(weight_decay=0.0))
    assert optimiser.param_groups[0]["fused"]
    student.weight.grad = torch.ones(2, 2)
    optimiser.found_inf = torch.ones(())
    optimiser.step()
    assert (optimiser.state[student.weight]["momentum_buffer"] == 0).all()
    optimiser.found_inf = torch.zeros(())
    before = bits(student)
    optimiser.step()
    student.bias.grad = torch.ones(2)
    optimiser.step()
    torch.testing.assert_close(student.bias.detach(), before["bias"] - 0.05)
    torch.testing.assert_close(student.weight.detach(), before["weight"] - 0.05 * 2.9)


def test_a_run_of_before_there_were_averages_goes_on(tmp_path):
    """Its config.yaml has not heard of them; nor its state."""
    train, val = splits()
    words = (None, methods.Natural(), train, recipe())
    whole = net()
    distill(whole, *words, val=val, run=tmp_path / "whole")
    next(iter(epochs(net(), *words, val=val, run=tmp_path / "run")))
    path = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for key in ("averaging", "soft_labels", "processes"):
        del config[key]
    for key in ("precision", "attack_precision", "compile", "sync_batchnorm"):
        config["recipe"].pop(key, None)
    path.write_text(yaml.safe_dump(config))
    tensors, metadata = read_tensors(tmp_path / "run" / "state.safetensors")
    del metadata["best_averaged"]
    checkpoint._write_tensors(tmp_path / "run" / "state.safetensors", tensors, metadata)
    student = net()
    assert [r.epoch for r in epochs(student, *words, val=val, run=tmp_path / "run")] == [2, 3]
    assert same(bits(student), bits(whole))
