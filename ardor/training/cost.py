"""What a run will cost, from a few real steps on copies; and the largest batch that fits where memory does not suffice.

Passes are counted layer by layer, in forward passes of a whole net: a layer's forward pass, its gradient to the input
and its gradient to the weights are one each, a convolution or linear layer weighs as its multiply-accumulates. So the
features of a net, or a method of one's own that asks for a part of it, count as what they are.
"""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor, nn

from ardor.engine.flops import Passes, count_flops
from ardor.engine.modes import freeze, train_mode
from ardor.errors import ConfigError
from ardor.noise import seeded
from ardor.training.loop import train_epoch
from ardor.training.preflight import check_setup
from ardor.training.recipe import Recipe, find_device
from ardor.training.soft_labels import Saving, enumerable, saving
from ardor.training.state import TrainState, make_optimiser
from ardor.training.validation import BATCH as VALIDATED
from ardor.training.validation import validate
from ardor.types import Images

if TYPE_CHECKING:
    from ardor.training.job import Job


STEPS = 3
"""Real steps by default; the first, which warms up, is not counted."""

COUNTED = 16
"""Images of the batch that is only counted, at most: a pass costs an image the same in any company."""


@dataclass(frozen=True)
class Cost:
    """What a run costs, as its last epoch does: nothing is known of what a method does at other times.

    attack, learning: F per image and step, forward passes of the student: the attack and other passes without a
    gradient of the weights, and the passes with one (3 F each). teacher: T, its forward passes; kept: those of them
    that ask for the answer to the augmented images alone, which soft labels once kept can give. seconds: per step of
    `batch` images. validation: seconds of all looks at validation images. asking: seconds of one T for a batch.
    memory: bytes at the peak, of the steps and of validation: on a GPU what torch had allocated, elsewhere the
    resident size of the whole process. images, epochs: of the whole run. table: what a table of soft labels saves;
    None where there is nothing to keep.
    """

    attack: float
    learning: float
    teacher: float
    kept: float
    batch: int
    seconds: float
    validation: float
    asking: float
    memory: int
    images: int
    epochs: int
    device: str
    table: Saving | None = None

    @property
    def student(self) -> float:
        """F per image and step."""
        return self.attack + self.learning

    @property
    def images_per_second(self) -> float:
        """Of training, without validation."""
        return self.batch / self.seconds

    @property
    def _speed(self) -> str:
        speed = self.images_per_second
        return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"

    @property
    def hours(self) -> float:
        """Of the whole run, validation included."""
        return (self.epochs * self.images / self.images_per_second + self.validation) / 3600

    @property
    def share(self) -> float:
        """What a table of soft labels that begins empty answers in this run, of the passes it can answer."""
        return self.table.cold if self.table else 0.0

    @property
    def saved_later(self) -> float:
        """Hours that a full table saves."""
        warm = self.table.warm if self.table else 0.0
        return warm * self.epochs * self.images * self.kept * self.asking / self.batch / 3600

    @property
    def saved(self) -> float:
        """Hours that a table which begins empty saves."""
        return self.share * self.epochs * self.images * self.kept * self.asking / self.batch / 3600

    def text(self) -> str:
        """A few lines for the shell."""
        of_teacher = f" + {self.teacher:.1f} T" if self.teacher else ""
        where = "resident, the whole process" if self.device == "cpu" else f"allocated on {self.device}"
        lines = [
            f"per image and step: {self.student:.1f} F{of_teacher} "
            f"(attack {self.attack:.1f} F, learning {self.learning:.1f} F)",
            f"per step: {self.seconds:.3g} s for {self.batch} images, {self._speed} images/s",
            f"whole run: {_duration(3600 * self.hours)} for {self.epochs} epochs of {self.images} images, "
            f"{_duration(self.validation)} of it validation",
            f"peak memory: {self.memory / 1e9:.2f} GB {where}",
        ]
        if self.kept and self.table:
            met = self.epochs * (1 - self.share)
            lines.append(
                f"the teacher's soft labels, kept: {100 * self.share:.0f} % of {self.kept:.1f} T answered in this run "
                f"({met:.0f} of {self.table.views} views met), {_duration(3600 * self.saved)} saved; "
                f"{_duration(3600 * self.saved_later)} in a later one; {self.table.size / 1e6:,.0f} MB of disk"
            )
        return "\n".join(lines)


def plan(job: Job, steps: int = STEPS, tell: Callable[[str], None] = lambda what: None) -> Cost:
    """A few real steps of `job` on its own images, and a batch of its validation; nothing is written.

    Student, method and random generators are as before: copies do the work. The teacher is moved to the recipe's
    device, as for training. steps: at least 2. tell: called with what is done now. Raises as training would, and where
    memory does not suffice, torch's own error: see `explain_oom`.
    """
    if steps < 2:
        raise ConfigError(f"expected at least 2 steps, of which the first is not counted, got {steps}: type --steps 3")
    check_setup(job.student, job.teacher, job.method, job.train, job.val)
    recipe, batch = job.recipe, _batch(job)
    tell("passes")
    attack, learning, teacher, kept = _passes(job, min(batch, COUNTED))
    with _at_work(job) as work, _peak(work.device) as peak:
        tell("steps")
        seconds = statistics.median([work.timed(work.learn, k, batch) for k in range(steps)][1:])
        x = work.images(0, batch)
        asking = statistics.median([work.timed(work.ask, x) for _ in range(steps)][1:]) if kept else 0.0
        tell("validation")
        validation = _validation(job, work)
        memory = peak()
    keep = job.soft_labels if kept and enumerable(recipe) is None else None
    table = None if keep is None else saving(recipe, len(job.train), job.train.classes, keep.dtype)
    return Cost(
        attack, learning, teacher, kept, batch, seconds, validation, asking, memory, len(job.train), recipe.epochs,
        work.device.type, table,
    )  # fmt: skip


def _weighing(net: nn.Module, x: Images) -> tuple[Sequence[nn.Module], float]:
    """The layers that a pass of `x` is counted by, and what it weighs; the net as a whole where it has no such."""
    layers = [m for m in net.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)]
    with torch.no_grad(), freeze(net), count_flops(layers) as passes:
        net(x)
    return (layers, passes.forward) if passes.forward else ([net], float(len(x)))


def _passes(job: Job, size: int) -> tuple[float, float, float, float]:
    """F of the attack and of learning, T, and those of T that are about the images as the method gets them."""
    with _at_work(job) as work, contextlib.ExitStack() as stack:
        x = work.images(0, size)
        layers, whole = _weighing(work.student, x)
        asked = Passes()
        t = 1.0
        if work.teacher is not None:
            of_teacher, t = _weighing(work.teacher, x)
            asked = stack.enter_context(count_flops(of_teacher))
            stack.callback(work.teacher.register_forward_pre_hook(work.method.compare).remove)
        passes = stack.enter_context(count_flops(layers))
        work.learn(0, size)
    learning = 3 * passes.weights / whole
    return passes.total / whole - learning, learning, asked.total / t, work.method.clean / size


class _Method:
    """The method, and how many clean images it asked the teacher about."""

    def __init__(self, method: Any) -> None:
        self.method, self.x, self.clean = method, torch.empty(0), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["method"], name)

    def terms(self, student: nn.Module, teacher: Any, x: Images, y: Tensor, **others: Any) -> dict[str, Tensor]:
        """The method's own."""
        self.x = x
        terms: dict[str, Tensor] = self.method.terms(student, teacher, x, y, **others)
        return terms

    def compare(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Note a question about the clean images."""
        same = bool(args) and not args[0].requires_grad and args[0].shape == self.x.shape
        self.clean += len(self.x) if same and torch.equal(args[0], self.x) else 0


@dataclass
class _Work:
    """Copies that learn in place of a job's own. The rate is all but zero: only the cost counts."""

    job: Job
    student: nn.Module
    teacher: nn.Module | None
    method: Any
    recipe: Recipe
    optimiser: torch.optim.Optimizer
    device: torch.device

    def rows(self, number: int, size: int) -> Tensor:
        """The rows of a batch of its own; where train is short, it begins again."""
        return (torch.arange(size) + number * size) % len(self.job.train)

    def images(self, number: int, size: int) -> Images:
        """A batch of images on the device."""
        return self.job.train.batch(self.rows(number, size))[0].to(self.device)

    def learn(self, number: int, size: int) -> None:
        """One step: an epoch, the last, over one batch."""
        part, recipe = self.job.train.take(self.rows(number, size)), replace(self.recipe, batch=size)
        train_epoch(TrainState(self.student, self.method, self.optimiser), self.teacher, part, recipe, recipe.epochs)

    def ask(self, x: Images) -> Any:
        """The teacher's answer."""
        with torch.no_grad():
            return None if self.teacher is None else self.teacher(x)

    def timed(self, run: Callable[..., object], *args: Any) -> float:
        """Seconds that `run` takes."""
        self._wait()
        began = time.perf_counter()
        run(*args)
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@contextlib.contextmanager
def _at_work(job: Job) -> Iterator[_Work]:
    device, recipe = find_device(job.recipe.device), replace(job.recipe, lr=1e-12)
    student, method = copy.deepcopy(job.student).to(device), copy.deepcopy(job.method)
    frozen = contextlib.nullcontext() if job.teacher is None else freeze(job.teacher.to(device))
    with seeded(0), frozen as teacher, train_mode(student):
        if hasattr(method, "prepare"):
            method.prepare(student, teacher, job.train.batch(slice(0, _batch(job)))[0].to(device))
        optimiser = make_optimiser(student, method, recipe)
        yield _Work(job, student, teacher, _Method(method), recipe, optimiser, device)


def _batch(job: Job) -> int:
    return min(job.recipe.batch, len(job.train))


def _validation(job: Job, work: _Work) -> float:
    """Seconds of all looks of the run, from one batch of one."""
    recipe = job.recipe
    looked_at = min(recipe.val_size or len(job.val), len(job.val))
    part = job.val.limit(min(VALIDATED, looked_at), recipe.seed)
    seconds = work.timed(validate, work.student, part, job.method, replace(recipe, val_size=0))
    return seconds * looked_at / len(part) * math.ceil(recipe.epochs / recipe.val_every)


@contextlib.contextmanager
def _peak(device: torch.device) -> Iterator[Callable[[], int]]:
    """Most bytes held meanwhile: torch's own count on a GPU; elsewhere the resident size, sampled every 5 ms.

    Sampled, since the peak that a system keeps is that of the whole process from its start.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device)
        return
    process, most, stop = psutil.Process(), 0, threading.Event()

    def peak() -> int:
        nonlocal most
        most = max(most, int(process.memory_info().rss))
        return most

    def watch() -> None:
        while not stop.wait(0.005):
            peak()

    peak()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _duration(seconds: float) -> str:
    """As a person says it: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
