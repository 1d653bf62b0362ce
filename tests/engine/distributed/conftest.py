"""One run in one process or in several, each with its own group."""

import multiprocessing
import time
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from ardor import methods
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.noise import seeded
from ardor.training.recipe import Recipe

PATIENCE = 1800  # seconds, for a process that hangs; one that dies is noticed at once
SERVER = multiprocessing.get_context("forkserver")  # imports torch once, and has no threads when it forks
SERVER.set_forkserver_preload(  # the first is what an optimiser's first step imports; the last, what unpickles the work
    ["torch._dynamo", "ardor.cli.commands.train", "tests.conftest", "tests.training.conftest", __name__]
)


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


def lines_of(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []
