"""Watching a run: real TensorBoard files, and a history that a kill cut short."""

import json
import re
import sys
import types
from contextlib import closing

import pytest

import ardor
import ardor.models.builders
from ardor.errors import ConfigError
from ardor.training.preflight import resolve_config
from ardor.training.trackers import Sink, scalars
from tests.training.trackers.conftest import CONFIG, curves, epoch, finish, train


@pytest.fixture
def run(tmp_path):
    return tmp_path / "rslad"


def test_scalars_of_an_epoch():
    record = vars(epoch(2)) | {"images_per_second": 100, "val_robust": 0.5}
    assert scalars(record) == {
        "terms/kl": 1.0, "terms/ce": 0.5, "loss": 1.5, "lr": 0.05, "seconds": 2.0, "images_per_second": 100.0,
        "val/clean": 0.72, "val/robust": 0.5,
    }  # fmt: skip
    assert set(scalars(vars(epoch(1, val=False)))) == {"terms/kl", "terms/ce", "loss", "lr", "seconds"}


def test_a_tensorboard_file_is_written_and_read_back(run):
    sink = Sink(["tensorboard"], run, CONFIG)
    assert not run.exists(), "nothing before the first epoch"
    sink.record(finish(run, epoch(1)))
    points, texts = curves(run)  # at once, before it is closed
    assert points["loss"] == [(1, 0.75)]
    sink.record(finish(run, epoch(2, val=False)))
    points, texts = curves(run)
    assert len(points["loss"]) == 2
    sink.close()
    points, texts = curves(run)
    assert points["loss"] == [(1, 0.75), (2, 1.5)]
    assert points["terms/kl"] == [(1, 0.5), (2, 1.0)]
    assert points["val/robust"] == [(1, 0.41)]
    assert set(points) == {"loss", "terms/kl", "terms/ce", "lr", "seconds", "val/clean", "val/robust"}
    [[text]] = texts["config/text_summary"]
    assert b"    method:\n      name: rslad\n" in text
    assert b"alpha: 5/6" in text


def test_a_resumed_run_goes_on_with_the_same_curves(run):
    train(["tensorboard"], run, [1, 2])
    train(["tensorboard"], run, [3, 4])
    points, texts = curves(run)
    assert points["loss"] == [(n, 0.75 * n) for n in (1, 2, 3, 4)]
    assert len(texts["config/text_summary"]) == 1
    assert json.loads((run / "log.json").read_text()) == {"tensorboard": {"id": None, "epoch": 4}}


def test_an_epoch_done_again_is_there_once(run):
    """The newest state was damaged: the loop went back to epoch 1."""
    train(["tensorboard"], run, [1, 2, 3])
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(lines[0])
    train(["tensorboard"], run, [2])
    points, _ = curves(run)
    assert points["loss"] == [(1, 0.75), (2, 1.5)]


@pytest.mark.parametrize("log", ['{"tensorboard": {"id": null, "epoch": 1}}', "", "[1]", '{"tensorb'])
def test_what_a_kill_kept_from_the_log_is_sent_later(run, log):
    """Killed between the checkpoint and the log, or asked for a log only now, or log.json lost."""
    for n in (1, 2):
        finish(run, epoch(n))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo\n')
    (run / "log.json").write_text(log)
    train(["tensorboard"], run, [3])
    points, texts = curves(run)
    assert [step for step, _ in points["loss"]] == ([2, 3] if "1}" in log else [1, 2, 3])
    assert len(texts.get("config/text_summary", [])) == (0 if "1}" in log else 1)


def test_a_lost_log_json_doubles_nothing(run):
    train(["tensorboard"], run, [1, 2])
    (run / "log.json").unlink()
    train(["tensorboard"], run, [3])
    points, _ = curves(run)
    assert points["loss"] == [(1, 0.75), (2, 1.5), (3, 2.25)]


def test_beside_the_real_loop(run):
    """The folder still belongs to the run, and a finished run writes nothing more."""
    train_, val, _ = ardor.data.load("digits")
    net = ardor.models.build("small_cnn", channels=1, width=4)
    method = ardor.methods.Natural()
    for epochs in (1, 1):
        recipe = ardor.Recipe(epochs=epochs, batch=64, augment="none", val_size=20, device="cpu")
        config = resolve_config(net, None, method, train_.limit(64), val, recipe)
        with closing(Sink(["tensorboard"], run, config)) as sink:
            for record in ardor.epochs(net, None, method, train_.limit(64), recipe, val=val, run=run):
                sink.record(record)
        net = ardor.models.build("small_cnn", channels=1, width=4)
    points, _ = curves(run)
    assert [step for step, _ in points["val/robust"]] == [1]
    assert len(list((run / "tensorboard").iterdir())) == 1


def test_words(run, monkeypatch):
    for words, expected in (
        (["tensorbord"], 'got "tensorbord" (did you mean "tensorboard"?)'),
        (["tensorboard,w&b"], "expected tensorboard, wandb, mlflow for log="),
    ):
        with pytest.raises(ConfigError, match=re.escape(expected)):
            Sink(words, run, CONFIG)
    for word in ("wandb", "mlflow", "tensorboard"):
        monkeypatch.setitem(sys.modules, word, None)  # as if it were not installed
        with pytest.raises(ConfigError, match=re.escape(f'type pip install "ardor[{word}]"')):
            Sink(["", word], run, CONFIG)
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))  # a folder called wandb, as wandb makes one
    with pytest.raises(ConfigError, match=r"got a folder: type pip install"):
        Sink(["wandb"], run, CONFIG)
    with closing(Sink([], run, CONFIG)) as sink:
        sink.record(finish(run, epoch(1)))
    assert sorted(p.name for p in run.iterdir()) == ["metrics.jsonl"]
