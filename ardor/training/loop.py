"""The loop: one readable pass over the data per epoch, no hooks, no Trainer; every record goes to the caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ardor.data.split import Split
from ardor.engine import distributed
from ardor.engine.folding import folded, is_known
from ardor.engine.modes import frozen, train_mode
from ardor.engine.precision import computed
from ardor.errors import ConfigError, DivergedError
from ardor.noise import Noise, order
from ardor.storage.runs import Run
from ardor.training import checkpoint
from ardor.training.averaging import Averaging
from ardor.training.epoch import EpochRecord, StepProgress
from ardor.training.preflight import check_setup, resolve_config
from ardor.training.recipe import Recipe, find_device, lr_at
from ardor.training.soft_labels import CachedTeacher, SoftLabelCache, SoftLabels
from ardor.training.state import TrainState, init_state, learned_tensors, set_rate
from ardor.training.validation import augmented, averaged, validate
from ardor.types import Images, Labels, Method

DEFAULT = Recipe()

EVERY = 10
"""Steps between two words on how far an epoch is."""


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
    soft_labels: SoftLabelCache | None = None,
    tell: Callable[[StepProgress], None] | None = None,
) -> Iterator[EpochRecord]:
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
    check_setup(student, teacher, method, train, val, averaging, recipe)
    learning = init_state(student, teacher, method, train, recipe, device, averaging)
    config = resolve_config(student, teacher, method, train, val, recipe, averaging, soft_labels)
    table = None if soft_labels is None or teacher is None else soft_labels.table(teacher, train, recipe)
    kept = None if run is None else Run(run)
    with distributed.rank_zero_first():
        if kept is not None:
            kept.enter(config)
    checkpoint.resume(kept, learning, tidy=distributed.rank() == 0)
    distributed.require_equal(learning.done, run)
    train = _resident(train, device)
    for epoch in range(learning.done + 1, recipe.epochs + 1):
        with frozen(teacher, device) as teaching:  # put back before every yield: two runs may share a teacher
            record = train_epoch(learning, teaching, train, recipe, epoch, table, tell)
        distributed.broadcast([*student.buffers(), *learned_tensors(method)])  # each had its own batch statistics
        due = epoch % recipe.val_every == 0 or epoch == recipe.epochs
        average = _validate(learning, train, val, recipe, record) if due else None
        record.run = None if kept is None else str(kept.folder)
        if distributed.rank() == 0:
            checkpoint.save(kept, record, learning, average)
        yield record


def distill(*args: Any, **kwargs: Any) -> list[EpochRecord]:
    """`epochs` to the end: the records of all epochs. Arguments and errors as there."""
    return list(epochs(*args, **kwargs))


def train_epoch(
    learning: TrainState,
    teacher: nn.Module | None,
    train: Split,
    recipe: Recipe,
    epoch: int,
    table: SoftLabels | None = None,
    tell: Callable[[StepProgress], None] | None = None,
) -> EpochRecord:
    """One pass over `train` in an order of its own; images are augmented, attacked and learned from batch by batch."""
    began = time.perf_counter()
    student = learning.student
    device = next(student.parameters()).device
    net = computed(student, recipe.precision, recipe.attack_precision, recipe.compile)
    layout = _layout(learning.method, [student, *([] if teacher is None else [teacher])], train.shape[0])
    teacher = None if teacher is None else folded(teacher)
    batches = order(recipe.seed, "order", epoch, train.index).split(recipe.batch)
    taken: list[tuple[str, float, dict[str, Tensor]]] = []
    sums: dict[str, float] = {}
    rate = recipe.lr
    with train_mode(student):
        for number, rows in enumerate(batches, 1):
            own, share = distributed.shard(rows)
            x, y, index = train.batch(own)
            x, view = augmented(x.to(device), recipe, Noise(recipe.seed, index, "augment", epoch))
            x = x.contiguous(memory_format=layout)
            taught = teacher if table is None or teacher is None else CachedTeacher(teacher, table, x, index, view)
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
                _accumulate(taken, sums)
            if tell is not None and number % EVERY == 0:
                part, speed = number / len(batches), number * recipe.batch / (time.perf_counter() - began)
                so_far = {name: value * distributed.world_size() / part for name, value in sums.items()}
                tell(StepProgress(epoch, recipe.epochs, number, len(batches), speed, so_far))
    sums = distributed.total(sums, device)
    seconds = time.perf_counter() - began
    return EpochRecord(epoch, recipe.epochs, sum(sums.values()), sums, rate, seconds, len(train) / seconds)


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
    loss = distributed.sum_gradients((p for group in optimiser.param_groups for p in group["params"]), loss.detach())
    if loss.is_cuda:  # nobody waits for the device here: it leaves the update out, and `_add_up` finds out
        optimiser.found_inf = (~loss.isfinite()).float()  # type: ignore[attr-defined]
    else:
        _require_finite(loss, means, where)
    optimiser.step()
    return {name: mean.detach() for name, mean in means.items()}


def _accumulate(taken: list[tuple[str, float, dict[str, Tensor]]], sums: dict[str, float]) -> None:
    """Add the means of the steps since the last look to the epoch's sums, each with its weight."""
    for where, weight, means in taken:
        _require_finite(torch.stack(list(means.values())).sum(), means, where)
        for name, mean in means.items():
            sums[name] = sums.get(name, 0.0) + float(mean) * weight
    taken.clear()


def _layout(method: Method, nets: list[nn.Module], channels: int) -> torch.memory_format:
    """Channels last, in which batch norm and convolutions are faster, where method and nets take it.

    Other code may ask for a `view` of the images, which this layout refuses.
    """
    taken = vars(type(method)).get("channels_last", False) and all(is_known(net) for net in nets)
    return torch.channels_last if taken and channels > 1 else torch.contiguous_format


def _resident(train: Split, device: torch.device) -> Split:
    """The images in the GPU's memory, if they take a quarter of what is free at most; positions stay with the host."""
    if device.type != "cuda" or train.images.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
        return train
    return replace(train, images=train.images.to(device), labels=train.labels.to(device))


def _validate(
    learning: TrainState, train: Split, val: Split | None, recipe: Recipe, record: EpochRecord
) -> nn.Module | None:
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


def _require_finite(loss: Tensor, means: dict[str, Tensor], where: str) -> None:
    if torch.isfinite(loss):
        return
    terms = ", ".join(f"{name} {float(mean.detach()):.4g}" for name, mean in means.items())
    raise DivergedError(
        f"expected a finite loss, got {float(loss.detach())} at {where} ({terms}); the weights never saw this step: "
        "type a lower --recipe.lr, or look at the images and the teacher's logits"
    )
