"""The cost of a run, measured on a few real steps of copies.

Passes are counted layer by layer, in forward passes of a whole net: a layer's forward pass, its gradient to the input
and its gradient to the weights are one each, weighted by the multiply-accumulates of a convolution or linear layer. So
parts of a net, such as `features`, count as parts.
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

from ardor.data.split import Split
from ardor.engine.flops import Passes, count_flops
from ardor.engine.modes import freeze, frozen, train_mode
from ardor.errors import ConfigError
from ardor.evaluation.attacked import batch_for
from ardor.evaluation.progress import duration
from ardor.models.teachers import each, each_folded
from ardor.noise import seeded
from ardor.training.loop import passes_of_teacher, train_epoch
from ardor.training.preflight import check_setup
from ardor.training.recipe import Recipe, drawn, find_device, images_of_epoch
from ardor.training.soft_labels import Saving, saving, unnumbered
from ardor.training.state import TrainState, init_state
from ardor.training.validation import validate
from ardor.types import Images, uses_labels

if TYPE_CHECKING:
    from ardor.training.job import Job


STEPS = 3
"""Real steps by default; the first, a warm-up, is not timed."""

COUNTED = 2
"""Largest batch whose passes are counted: the number per image does not depend on it."""

LIMIT = 60.0
"""Seconds of measured steps; where whole batches take longer, fewer images are measured."""


@dataclass(frozen=True)
class Cost:
    """The cost of a run, whose epochs are taken to cost as much as the last, or as one without an attack.

    Parameters
    ----------
    attack, learning : float
        Forward passes F of the student per image and step: of the attack and other passes without a gradient of the
        weights, and of the passes with one (3 F each).
    teacher : float
        Forward passes T of the teacher per image and step.
    kept : float
        Those of them on the augmented images alone, which cached soft labels replace.
    batch, measured : int
        Images of a step, and of a measured one: fewer where whole batches take longer than `LIMIT`.
    seconds : float
        Per step.
    validation : float
        Seconds of all validations.
    labelling : float
        Seconds of one T for a batch.
    memory : int
        Peak of steps and validation, in bytes: torch's allocation on a GPU, the process's resident size on a CPU.
    images, epochs : int
        Of the run.
    still : float
        Epochs in which the recipe's ramp keeps the attack at radius 0.
    still_seconds : float
        Per step of theirs.
    parts : int
        Parts of a batch, one after the other.
    table : Saving, optional
        What cached soft labels save; None where there is nothing to cache.
    live : str
        Why the recipe allows no cache; "" where it does.
    """

    attack: float
    learning: float
    teacher: float
    kept: float
    batch: int
    seconds: float
    validation: float
    labelling: float
    memory: int
    images: int
    epochs: int
    device: str
    table: Saving | None = None
    live: str = ""
    measured: int | None = None
    still: float = 0.0
    still_seconds: float = 0.0
    parts: int = 1

    @property
    def student(self) -> float:
        """F per image and step."""
        return self.attack + self.learning

    @property
    def images_per_second(self) -> float:
        """Of training, without validation."""
        return self.batch / self.seconds

    @property
    def hours(self) -> float:
        """Of the run, with validation."""
        seconds = (self.epochs - self.still) * self.seconds + self.still * self.still_seconds
        return (seconds * self.images / self.batch + self.validation) / 3600

    def saved(self, share: float) -> float:
        """Hours saved where the cache has this share of the logits: table.cold in a first run, 1 in a later one."""
        return share * self.epochs * self.images * self.kept * self.labelling / self.batch / 3600

    def text(self) -> str:
        """Lines for the terminal."""
        of_teacher = f" + {self.teacher:.1f} T" if self.teacher else ""
        where = "resident, the whole process" if self.device == "cpu" else f"allocated on {self.device}"
        part = "" if self.measured in (None, self.batch) else f" (from {self.measured} images)"
        speed = f"{self.images_per_second:,.0f}" if self.images_per_second >= 100 else f"{self.images_per_second:.3g}"
        lines = [
            f"per image and step: {self.student:.1f} F{of_teacher} "
            f"(attack {self.attack:.1f} F, learning {self.learning:.1f} F); F is a forward pass of the student"
            + (", T of the teacher" if self.teacher else ""),
            f"per step: {self.seconds:.3g} s for {self.batch} images, {speed} images/s{part}"
            + (f", in {self.parts} parts" if self.parts > 1 else ""),
            f"whole run: {duration(3600 * self.hours)} for {self.epochs} epoch{'s' * (self.epochs > 1)} of "
            f"{self.images} images, "
            f"{duration(self.validation)} of it validation",
            f"peak memory: {self.memory / 1e9:.2f} GB {where}{part and part.replace('from', 'with')}",
        ]
        if self.still:
            lines.append(
                f"the attack has radius 0 in {self.still:g} epochs, whose steps take {self.still_seconds:.3g} s, and "
                "its whole cost while the radius rises"
            )
        if self.kept and self.table:
            cold, views = self.table.cold, self.epochs * (1 - self.table.cold)
            lines.append(
                f"the teacher's cached logits replace {100 * cold:.0f} % of {self.kept:.1f} T in this run "
                f"({views:.0f} of {self.table.views} views of an image occur), which saves "
                f"{duration(3600 * self.saved(cold))}; all in a later run, which saves "
                f"{duration(3600 * self.saved(1.0))}; {self.table.size / 1e6:,.0f} MB of disk"
            )
        elif self.kept and self.live:
            lines.append(f"no soft labels are cached, {self.kept:.1f} T is computed in every run: {self.live}")
        return "\n".join(lines)


def plan(job: Job, steps: int = STEPS, progress: Callable[[str], None] = lambda part: None) -> Cost:
    """Measure a few real steps of a job and one batch of its validation, on copies; nothing is written.

    Student, method and random generators are unchanged. The teacher is moved to the recipe's device, as in training.

    Parameters
    ----------
    steps : int
        Real steps, at least 2.
    progress : callable
        Called with each part that starts: "passes", "steps", "validation".

    Raises
    ------
    ArdorError
        As training.
    RuntimeError
        Of torch, where memory is too small: see `explain_oom`.
    """
    if steps < 2:
        raise ConfigError(f"expected at least 2 steps, of which the first is not counted, got {steps}: type --steps 3")
    check_setup(job.student, job.teacher, job.method, job.train, job.val, job.averaging, job.recipe)
    recipe, batch = job.recipe, batch_of(job)
    progress("passes")
    start = time.perf_counter()
    attack, learning, teacher, kept = passes_of(job)
    slow = steps * (time.perf_counter() - start) / min(batch, COUNTED) * batch > LIMIT
    with copied(job) as work, _peak(work.device) as peak:
        progress("steps")
        few = min(batch, COUNTED)
        once = work.timed(work.learn, 0, few) if slow else 0.0  # without what only a first step costs
        size = min(batch, max(few, int(LIMIT / steps * few / once))) if slow else batch
        times = [once] if slow and size == few else [work.timed(work.learn, k, size) for k in range(steps)][1:]
        scale = batch / size
        seconds = scale * statistics.median(times)
        still = 0.0 if recipe.eps_ramp is None else recipe.eps_ramp[0]
        of_still = [work.timed(work.learn, k, size, True) for k in range(steps)][1:] if still else [0.0]
        x = work.images(size)
        labelling = scale * statistics.median([work.timed(work.label, x) for _ in range(steps)][1:]) if kept else 0.0
        progress("validation")
        validation = _validation(job, work, size if size < batch else batch_for(job.val))
        memory = peak()
    live = unnumbered(recipe)
    cache = job.soft_labels if kept and not live else None
    table = None if cache is None else saving(recipe, drawn(recipe, job.train), job.train.classes, cache.dtype)
    return Cost(
        attack, learning, teacher, kept, batch, seconds, validation, labelling, memory,
        images_of_epoch(recipe, job.train), recipe.epochs,
        work.device.type, table, live, size, still, scale * statistics.median(of_still), recipe.accumulate,
    )  # fmt: skip


def _weighing(net: nn.Module, x: Images) -> tuple[Sequence[nn.Module], float]:
    """The layers whose passes are counted, and the count of one pass of `x`; the net itself where it has none."""
    layers = _layers(net)
    with torch.no_grad(), freeze(net), count_flops(layers) as passes:
        for one in each(net).values():
            one(x)
    return (layers, passes.forward) if passes.forward else ([net], float(len(x)))


def passes_of(job: Job) -> tuple[float, float, float, float]:
    """Passes of an image in one step of a job: F of the attack, F of learning, T, and T on the augmented images.

    A net of the student's kind that the method keeps itself, such as a peer or an average, counts in F.
    """
    size = min(batch_of(job), COUNTED)
    with copied(job) as work, contextlib.ExitStack() as stack:
        x = work.images(size)
        layers, once = _weighing(work.state.student, x)
        layers = [*layers, *(layer for net in _own(work.state.method, work.state.student) for layer in _layers(net))]
        work.state.method = method = _Watched(work.state.method)
        of_teacher, t = Passes(), 1.0
        if work.teacher is not None:
            teacher_layers, t = _weighing(work.teacher, x)
            of_teacher = stack.enter_context(count_flops(teacher_layers))
            if not isinstance(work.teacher, nn.ModuleDict):  # soft labels are cached of one teacher
                stack.callback(work.teacher.register_forward_pre_hook(method.compare).remove)
        passes = stack.enter_context(count_flops(layers))
        work.learn(0, size)
    learning = 3 * passes.weights / once
    return passes.total / once - learning, learning, of_teacher.total / t, method.clean / size


def _layers(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)]


def _own(method: Any, student: nn.Module) -> list[nn.Module]:
    """The nets of the student's kind that a method, or its base, keeps."""
    values = [*vars(method).values(), *vars(getattr(method, "base", object)).values()]
    return [value for value in values if type(value) is type(student)]


class _Watched:
    """A method, and the number of clean images in the calls of the teacher."""

    def __init__(self, method: Any) -> None:
        self.method, self.x, self._asked = method, torch.empty(0), list[Tensor]()

    def terms(self, student: nn.Module, teacher: Any, x: Images, y: Tensor, **others: Any) -> dict[str, Tensor]:
        """The method's terms."""
        self.x = x
        terms: dict[str, Tensor] = self.method.terms(student, teacher, x, y, **others)
        return terms

    @property
    def uses_labels(self) -> bool:
        """Whether the method does."""
        return uses_labels(self.method)

    @property
    def attack(self) -> Any:
        """The method's, where it has one."""
        return self.method.attack

    @attack.setter
    def attack(self, attack: Any) -> None:
        object.__setattr__(self.method, "attack", attack)

    def compare(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Keep the images of a call, which may be before the method's: a forward pre-hook of the teacher."""
        if args and not args[0].requires_grad:
            self._asked.append(args[0])

    @property
    def clean(self) -> int:
        """Images of the calls with the clean ones."""
        return sum(len(x) for x in self._asked if x.shape == self.x.shape and torch.equal(x, self.x))


@dataclass
class Work:
    """Copies of a job's student and method, trained in their place at a rate near 0."""

    job: Job
    state: TrainState
    teacher: nn.Module | None
    device: torch.device

    def batch(self, number: int, size: int) -> Split:
        """Batch `number` of the train split, repeated where the split is short."""
        train, rows = self.job.train, []
        for part, part_size in zip((train.real, ~train.real), _sizes(train, size), strict=True):
            of_part = part.nonzero().flatten()
            rows.append(of_part[(torch.arange(part_size) + number * part_size) % max(1, len(of_part))])
        return train.take(torch.cat(rows))

    def images(self, size: int) -> Images:
        """The first batch, on the device."""
        return self.batch(0, size).batch(slice(None))[0].to(self.device)

    def learn(self, number: int, size: int, still: bool = False) -> None:
        """One step, as an epoch of one batch; the epoch is the last. still: the attack has radius 0."""
        end = float(self.job.recipe.epochs)
        recipe = replace(sized(self.job.recipe, size), lr=1e-12, eps_ramp=(end, end) if still else None)
        train_epoch(self.state, self.teacher, self.batch(number, size), recipe, recipe.epochs)

    @torch.no_grad()
    def label(self, x: Images) -> Any:
        """The teacher's logits, as a step computes them."""
        passes = passes_of_teacher(self.job.train, self.job.recipe)
        return None if self.teacher is None else each_folded(self.teacher, passes)(x)

    def timed(self, run: Callable[..., object], *args: Any) -> float:
        """Seconds of a call."""
        self._synchronise()
        start = time.perf_counter()
        run(*args)
        self._synchronise()
        return time.perf_counter() - start

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@contextlib.contextmanager
def copied(job: Job) -> Iterator[Work]:
    """Copies of a job's student and method in train mode on the recipe's device, with the teacher frozen."""
    device, student, method = find_device(job.recipe.device), copy.deepcopy(job.student), copy.deepcopy(job.method)
    with seeded(0):
        state = init_state(student, job.teacher, method, job.train, job.recipe, device, None)
        with frozen(job.teacher, device) as teacher, train_mode(state.student):
            yield Work(job, state, teacher, device)


def _sizes(train: Split, size: int) -> tuple[int, int]:
    """Real and extra images in a step of `size`."""
    extra = 0 if train.extra is None else int(train.extra.share * size)
    return size - extra, extra


def sized(recipe: Recipe, batch: int) -> Recipe:
    """The recipe with another batch, in at most as many parts as it has images."""
    return replace(recipe, batch=batch, accumulate=min(recipe.accumulate, batch))


def batch_of(job: Job) -> int:
    """Images of a step."""
    return min(job.recipe.batch, images_of_epoch(job.recipe, job.train))


def _validation(job: Job, work: Work, batch: int) -> float:
    """Seconds of all validations of the run, from one batch of at most `batch` images."""
    recipe = job.recipe
    images = min(recipe.val_size or len(job.val), len(job.val))
    part = job.val.limit(min(batch, images), recipe.seed)
    seconds = work.timed(validate, work.state.student, part, job.method, replace(recipe, val_size=0))
    return seconds * images / len(part) * math.ceil(recipe.epochs / recipe.val_every)


@contextlib.contextmanager
def _peak(device: torch.device) -> Iterator[Callable[[], int]]:
    """The peak of memory in bytes since entry: torch's own on a GPU, else the resident size, sampled every 5 ms.

    The system's own peak is that of the process from its start.
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

    def sample() -> None:
        while not stop.wait(0.005):
            peak()

    peak()
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
