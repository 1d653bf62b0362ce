"""A few epochs for whoever watches them."""

import json
import time
from contextlib import closing

import pytest

from ardor.training.epoch import EpochRecord
from ardor.training.trackers import Sink

CONFIG = {"method": {"name": "rslad", "alpha": "5/6"}, "recipe": {"milestones": [1, 2]}, "teacher": None}


def epoch(number, of=4, val=True, best=False, **more):
    robust = {"val_clean": 0.7 + number / 100, "val_robust": 0.4 + number / 100} if val else {}
    terms = {"kl": number / 2, "ce": number / 4}
    return EpochRecord(number, of, 0.75 * number, terms, 0.1 / number, 2.0, **robust, best=best, **more)


def finish(run, record):
    """What the loop writes before it hands the record over."""
    run.mkdir(exist_ok=True)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({k: v for k, v in vars(record).items() if k != "run"}) + "\n")
    return record


def train(words, run, numbers, of=4, **more):
    """A process that does these epochs."""
    if "tensorboard" in words and (run / "tensorboard").exists():
        time.sleep(1.1)  # TensorBoard reads its files in the order of the seconds they began in
    with closing(Sink(words, run, CONFIG)) as sink:
        for number in numbers:
            sink.record(finish(run, epoch(number, of, **more)))


def curves(run):
    """Every scalar of the real event files, as name: [(step, value), ...], and the texts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    points = {tag: [(e.step, pytest.approx(e.value)) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    texts = {tag: [e.tensor_proto.string_val for e in found.Tensors(tag)] for tag in found.Tags()["tensors"]}
    return points, texts
