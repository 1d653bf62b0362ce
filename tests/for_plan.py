"""Jobs whose cost is counted, and a machine whose memory ends."""

from dataclasses import dataclass
from pathlib import Path

import torch

import ardor
from ardor.data.split import Split
from ardor.losses import ce
from ardor.testing.shared import TinyNet, problem
from ardor.training.job import Job
from ardor.training.soft_labels import SoftLabelCache


def split(images=40, channels=1):
    x, y, index = problem(channels=channels, images=images)
    return Split(x, y, 10, "toy", "train", index=index)


def job_for(method, student=None, teacher=None, images=40, run=Path("nowhere"), **recipe):
    recipe = {"epochs": 100, "batch": 8, "augment": "crop", "padding": 1, "device": "cpu"} | recipe
    student = student or TinyNet()
    val = split().take(slice(0, 12))
    keep = SoftLabelCache(Path(run) / "soft-labels")
    return Job(student, teacher, method, split(images), val, ardor.Recipe(**recipe), run, soft_labels=keep)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"),
    RuntimeError("[enforce fail at alloc.cpp:1] CPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    MemoryError(),
]  # fmt: skip


@dataclass
class Greedy:
    """Steps of more than `most` images fail."""

    most: int
    error: Exception
    tried: list

    def terms(self, student, teacher, x, y, *, epoch, noise):
        self.look(len(x))
        return {"clean": ce(student(x), y)}

    def look(self, size):
        self.tried.append(size)
        if size > self.most:
            raise self.error

    def __deepcopy__(self, memo):
        return self
