"""Averages of the weights beside the student, made by hand and over a stop."""

import json

import pytest
import torch
import yaml
from torch.optim.swa_utils import update_bn

import ardor.models.loading
import ardor.training.validation
from ardor import methods
from ardor.cli.main import main
from ardor.data.augment import crop_flip
from ardor.errors import ConfigError, RunError
from ardor.losses import ce
from ardor.noise import Noise, order
from ardor.storage.tensors import read_tensors
from ardor.training.averaging import EMA, SWA
from ardor.training.loop import distill, epochs
from ardor.training.soft_labels import SoftLabelCache
from ardor.training.state import make_optimiser
from ardor.training.validation import STATISTIC_BATCHES
from tests.conftest import bits, job_of, same, splits
from tests.training.conftest import PGD2, WORDS, _joined, ended, lines, net, recipe, require_same

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
        student, soft = net(3), SoftLabelCache(tmp_path / kept) if labels else None
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

    monkeypatch.setattr("ardor.training.loop.validate", scripted)
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
    said = ardor.training.validation.validate(
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
    monkeypatch.setattr("ardor.training.validation.restatistic", lambda net, batches: looks.append(list(batches)))
    chosen = recipe(epochs=2, augment="crop-flip", seed=7)
    distill(net(), None, methods.Natural(), train, chosen, averaging=EMA())
    assert STATISTIC_BATCHES == 100
    assert len(looks) == 2
    for epoch, batches in enumerate(looks, 1):
        rows = order(7, "restatistic", epoch, train.index).split(16)
        assert len(batches) == 3
        for x, r in zip(batches, rows, strict=True):
            noise = Noise(7, train.index[r], "restatistic/augment", epoch)
            assert torch.equal(x, crop_flip(train.images[r], noise, 1)[0])
    monkeypatch.setattr("ardor.training.validation.STATISTIC_BATCHES", 2)
    distill(net(), None, methods.Natural(), train, chosen, averaging=EMA())
    assert len(looks[-1]) == 2


def test_the_shell_averages_goes_on_and_judges(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", *WORDS, "--method", "natural", "--averaging", "ema", "--averaging.decay", "0.9", "--run", "run"]
    assert main(words) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["averaging"] == {"name": "EMA", "decay": 0.9, "warmup": True, "start": 0.0}
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
