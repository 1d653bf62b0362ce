"""The loop: one readable pass over the data per epoch, no hooks, no Trainer; every record goes to the caller."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ardor import checkpoint, processes
from ardor.averaging import Average, Averaging
from ardor.cache import Keep, SoftLabels, Taught
from ardor.checkpoint import Learning
from ardor.data.split import Split
from ardor.errors import ConfigError, DivergedError
from ardor.logs.moment import Moment
from ardor.modes import freeze, train_mode
from ardor.noise import Noise, order
from ardor.precision import computed
from ardor.ready import config_of, require_ready
from ardor.recipe import Recipe, find_device, lr_at
from ardor.twin import is_known, twin_of
from ardor.types import Images, Labels, Method
from ardor.validation import augmented, averaged, validate

DEFAULT = Recipe()

EVERY = 10
"""Steps between two words on how far an epoch is."""


@dataclass
class Epoch:
    """What an epoch did: mean loss terms by name, the last rate, seconds, and accuracies where `val` was looked at."""

    epoch: int
    epochs: int
    loss: float
    terms: dict[str, float]
    lr: float
    seconds: float
    images_per_second: float | None = None
    val_clean: float | None = None
    val_robust: float | None = None
    best: bool = False
    averaged_clean: float | None = None
    averaged_robust: float | None = None
    averaged_best: bool = False
    run: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        parts = [f"epoch {self.epoch}/{self.epochs}", f"loss {self.loss:.4f}"]
        parts += [f"{name} {value:.4f}" for name, value in self.terms.items()]
        if self.val_robust is not None and self.val_clean is not None:
            star = " *" if self.best else ""
            parts.append(f"val {100 * self.val_clean:.1f} clean {100 * self.val_robust:.1f} robust{star}")
        if self.averaged_robust is not None and self.averaged_clean is not None:
            star = " *" if self.averaged_best else ""
            said = f"{100 * self.averaged_clean:.1f} clean {100 * self.averaged_robust:.1f} robust"
            parts.append(f"averaged {said}{star}")
        return "  ".join([*parts, f"lr {self.lr:.3g}", f"{self.seconds:.1f} s"])


def epochs(
    student: nn.Module,
    teacher: nn.Module | None,
    method: Method,
    train: Split,
    recipe: Recipe = DEFAULT,
    *,
    val: Split | None = None,
    run: str | Path | None = None,
    averaging: Averaging | None = None,
    soft_labels: Keep | None = None,
    tell: Callable[[Moment], None] | None = None,
) -> Iterator[Epoch]:
    """Train `student` and yield an Epoch after each. The student holds the last weights, run/best.safetensors the best.

    val: chooses the best checkpoint by robust accuracy; without it there is none. run: a folder for config.yaml,
    metrics.jsonl, best, last and the state to go on from; called again with the same arguments it continues there.
    averaging: EMA() or SWA(), judged beside the student and kept in run/averaged.safetensors. soft_labels: keep the
    teacher's answers to clean images, for this run and later ones. tell: called every few steps with where the epoch
    is. The teacher is frozen in eval mode meanwhile and put back. Where torch.distributed is initialised, all processes
    call this alike and share each batch; process 0 writes.

    Raises DivergedError before a loss that is not finite reaches the weights, RunError where a folder is unusable or
    holds another run, ModelError where nets and data do not fit, CheckpointError where kept soft labels are not the
    teacher's.
    """
    device = find_device(recipe.device)
    require_ready(student, teacher, method, train, val, averaging, recipe)
    learning = _begin(student, teacher, method, train, recipe, device, averaging)
    config = config_of(student, teacher, method, train, val, recipe, averaging, soft_labels)
    table = None if soft_labels is None or teacher is None else soft_labels.table(teacher, train, recipe)
    with processes.first_in_front():
        folder = checkpoint.open_run(run, config)
    checkpoint.resume(folder, learning, tidy=processes.rank() == 0)
    processes.require_equal(learning.done, folder)
    train = _resident(train, device)
    for epoch in range(learning.done + 1, recipe.epochs + 1):
        with _frozen(teacher, device) as teaching:  # put back before every yield: two runs may share a teacher
            record = train_epoch(learning, teaching, train, recipe, epoch, table, tell)
        processes.same([*student.buffers(), *_tensors(method)])  # each had its own batch statistics
        due = epoch % recipe.val_every == 0 or epoch == recipe.epochs
        average = _look(learning, train, val, recipe, record) if due else None
        record.run = str(folder) if folder else None
        if processes.rank() == 0:
            checkpoint.save(folder, record, learning, average)
        yield record


def distill(*args: Any, **kwargs: Any) -> list[Epoch]:
    """`epochs` to the end: the records of all epochs. Arguments and errors as there."""
    return list(epochs(*args, **kwargs))


def train_epoch(
    learning: Learning,
    teacher: nn.Module | None,
    train: Split,
    recipe: Recipe,
    epoch: int,
    table: SoftLabels | None = None,
    tell: Callable[[Moment], None] | None = None,
) -> Epoch:
    """One pass over `train` in an order of its own; images are augmented, attacked and learned from batch by batch."""
    began = time.perf_counter()
    student = learning.student
    device = next(student.parameters()).device
    net = computed(student, recipe.precision, recipe.attack_precision, recipe.compile)
    layout = _layout(learning.method, [student, *([] if teacher is None else [teacher])], train.shape[0])
    teacher = None if teacher is None else twin_of(teacher)
    batches = order(recipe.seed, "order", epoch, train.index).split(recipe.batch)
    taken: list[tuple[str, float, dict[str, Tensor]]] = []
    sums: dict[str, float] = {}
    rate = recipe.lr
    with train_mode(student):
        for number, rows in enumerate(batches, 1):
            own, share = processes.mine(rows)
            x, y, index = train.batch(own)
            x, view = augmented(x.to(device), recipe, Noise(recipe.seed, index, "augment", epoch))
            x = x.contiguous(memory_format=layout)
            taught = teacher if table is None or teacher is None else Taught(teacher, table, x, index, view)
            rate = set_rate(learning.optimiser, lr_at(recipe, epoch - 1 + (number - 1) / len(batches)))
            noise = Noise(recipe.seed, index.to(device), "method", epoch)
            where = f"epoch {epoch}, step {number}, lr {rate:.3g}"
            means = step(
                net, taught, learning.method, learning.optimiser, x, y.to(device),
                epoch=epoch, noise=noise, where=where, share=share,
            )  # fmt: skip
            if learning.averaging is not None and learning.average is not None:
                learning.averaging.update(learning.average, student, epoch - 1 + number / len(batches))
            taken.append((where, share * len(rows) / len(train), means))
            if device.type == "cpu" or number % EVERY == 0 or number == len(batches):
                _add_up(taken, sums)
            if tell is not None and number % EVERY == 0:
                part, speed = number / len(batches), number * recipe.batch / (time.perf_counter() - began)
                so_far = {name: value * processes.count() / part for name, value in sums.items()}
                tell(Moment(epoch, recipe.epochs, number, len(batches), speed, so_far))
    sums = processes.total(sums, device)
    seconds = time.perf_counter() - began
    return Epoch(epoch, recipe.epochs, sum(sums.values()), sums, rate, seconds, len(train) / seconds)


def step(
    student: Any,
    teacher: Any,
    method: Method,
    optimiser: torch.optim.Optimizer,
    x: Images,
    y: Labels,
    *,
    epoch: int,
    noise: Noise,
    where: str = "this step",
    share: float = 1.0,
) -> dict[str, Tensor]:
    """Learn from one batch: its mean loss terms. A loss that is not finite never reaches the weights.

    share: of the images of the whole step, where other processes have the rest of them.
    """
    terms = method.terms(student, teacher, x, y, epoch=epoch, noise=noise)
    if not isinstance(terms, dict) or not terms:
        got = type(terms).__name__
        raise ConfigError(f"expected named terms of {type(method).__name__}, got {got}: return {{'clean': loss}}, say")
    means = {name: term.mean() for name, term in terms.items()}
    loss = torch.stack(list(means.values())).sum() * share
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    loss = processes.sum_gradients((p for group in optimiser.param_groups for p in group["params"]), loss.detach())
    if loss.is_cuda:  # nobody waits for the device here: it leaves the update out, and `_add_up` finds out
        optimiser.found_inf = (~loss.isfinite()).float()  # type: ignore[attr-defined]
    else:
        _require_finite(loss, means, where)
    optimiser.step()
    return {name: mean.detach() for name, mean in means.items()}


def _add_up(taken: list[tuple[str, float, dict[str, Tensor]]], sums: dict[str, float]) -> None:
    """Add the means of the steps since the last look to the epoch's sums, each with its weight."""
    for where, weight, means in taken:
        _require_finite(torch.stack(list(means.values())).sum(), means, where)
        for name, mean in means.items():
            sums[name] = sums.get(name, 0.0) + float(mean) * weight
    taken.clear()


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> float:
    """Give every parameter group the rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate


def make_optimiser(student: nn.Module, method: Method, recipe: Recipe) -> torch.optim.SGD:
    """SGD over the student with weight decay, and over the method's own parameters without."""
    groups: list[dict[str, Any]] = [{"params": list(student.parameters()), "weight_decay": recipe.weight_decay}]
    own = list(getattr(method, "parameters", tuple)())
    if own:
        groups.append({"params": own, "weight_decay": 0.0})
    # fused, an update can be left out without the host knowing yet
    fused = all(p.is_cuda for group in groups for p in group["params"])
    optimiser = torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=True if fused else None
    )
    if fused and recipe.momentum:  # it would keep what lay in memory, where its first update is left out
        for p in (p for group in groups for p in group["params"]):
            optimiser.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimiser


def _begin(
    student: nn.Module,
    teacher: nn.Module | None,
    method: Any,
    train: Split,
    recipe: Recipe,
    device: torch.device,
    averaging: Averaging | None,
) -> Learning:
    """Everything that learns, on its device, and the same in every process."""
    student.to(device)
    if teacher is not None:
        teacher.to(device)  # before its table is named, which is of the device that answers
    if recipe.sync_batchnorm and processes.count() > 1:
        student = processes.synchronised(student, device)
    processes.same([*student.parameters(), *student.buffers()])
    if hasattr(method, "prepare"):
        with _frozen(teacher, device) as teaching:
            method.prepare(student, teaching, train.batch(slice(0, recipe.batch))[0].to(device))
    processes.same([*_tensors(method), *getattr(method, "parameters", tuple)()])
    average = None if averaging is None else Average.of(student)
    return Learning(student, method, make_optimiser(student, method, recipe), averaging, average)


def _tensors(method: Method) -> list[Tensor]:
    """What a method has learned so far."""
    learned = checkpoint.learned_by(method).values()
    return [t for v in learned for t in (v.state_dict().values() if isinstance(v, nn.Module) else [v])]


def _layout(method: Method, nets: list[nn.Module], channels: int) -> torch.memory_format:
    """Channels last, in which batch norm and convolutions are faster, where no code but ours meets the images.

    Somebody else's may ask for a `view` of them, which this layout refuses.
    """
    ours = type(method).__module__.startswith("ardor.") and all(is_known(net) for net in nets)
    return torch.channels_last if ours and channels > 1 else torch.contiguous_format


def _resident(train: Split, device: torch.device) -> Split:
    """The images in the GPU's memory, if they take a quarter of what is free at most; positions stay with the host."""
    if device.type != "cuda" or train.images.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
        return train
    return replace(train, images=train.images.to(device), labels=train.labels.to(device))


def _look(learning: Learning, train: Split, val: Split | None, recipe: Recipe, record: Epoch) -> nn.Module | None:
    """Validation accuracies of the student, and of its average beside it, which is returned if it is to be kept."""
    if val is not None:
        record.val_clean, record.val_robust = validate(learning.student, val, learning.method, recipe)
        record.best = record.val_robust > learning.best
        learning.best = max(learning.best, record.val_robust)
    average = averaged(learning, train, recipe, record.epoch)
    if val is None or average is None:
        return average
    record.averaged_clean, record.averaged_robust = validate(average, val, learning.method, recipe)
    record.averaged_best = record.averaged_robust > learning.best_averaged
    learning.best_averaged = max(learning.best_averaged, record.averaged_robust)
    return average if record.averaged_best else None


def _frozen(teacher: nn.Module | None, device: torch.device) -> contextlib.AbstractContextManager[nn.Module | None]:
    return contextlib.nullcontext() if teacher is None else freeze(teacher.to(device))


def _require_finite(loss: Tensor, means: dict[str, Tensor], where: str) -> None:
    if torch.isfinite(loss):
        return
    terms = ", ".join(f"{name} {float(mean.detach()):.4g}" for name, mean in means.items())
    raise DivergedError(
        f"expected a finite loss, got {float(loss.detach())} at {where} ({terms}); the weights never saw this step: "
        "type a lower --recipe.lr, or look at the images and the teacher's logits"
    )
