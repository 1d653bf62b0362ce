"""The training loop: `epochs` yields a record after each pass over the data."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ardor.data.split import Split
from ardor.engine import distributed
from ardor.engine.compiling import compiled
from ardor.engine.folding import folded, is_known
from ardor.engine.modes import frozen, train_mode
from ardor.engine.precision import Computed, computed
from ardor.errors import ConfigError, DivergedError, ModelError
from ardor.evaluation.live import clear, cleared, shown
from ardor.models.teachers import each_folded, together
from ardor.noise import Noise, seed_of, seeded
from ardor.storage.arguments import typed
from ardor.storage.runs import Run
from ardor.training import checkpoint
from ardor.training.augmentation import augmented
from ardor.training.averaging import EMA, Averaging
from ardor.training.epoch import EpochRecord, History, Pace, ProgressCallback, StepProgress
from ardor.training.lengthening import begun_config
from ardor.training.perturbation import perturbed, remembered
from ardor.training.preflight import check_setup, resolve_config, uses_teacher
from ardor.training.radius import at_radius, radius_at
from ardor.training.recipe import Recipe, batches, find_device, lr_at
from ardor.training.saving import TEN_MINUTES, Every, Saving
from ardor.training.soft_labels import CachedTeacher, SoftLabelCache, SoftLabels
from ardor.training.state import TrainState, init_state, learned_state, named_parameters, set_rate
from ardor.training.validation import averaged, validate
from ardor.types import Images, Labels, Method, uses_labels

DEFAULT = Recipe()

EVERY = 10
"""Steps from one call of the progress callback to the next."""


@typed
def epochs(
    student: nn.Module,
    teacher: nn.Module | Mapping[str, nn.Module] | None,
    method: Method,
    train: Split,
    recipe: Recipe = DEFAULT,
    *,
    val: Split | None = None,
    run: str | Path | None = None,
    averaging: Averaging | None = None,
    soft_labels: SoftLabelCache | None = None,
    progress: ProgressCallback | bool | None = True,
    save_every: Every | None = TEN_MINUTES,
    stop: Callable[[], bool] | None = None,
) -> Iterator[EpochRecord]:
    """Train `student`, and yield a record after each epoch.

    Where torch.distributed is initialised, every process makes the same call and takes a shard of each batch; process 0
    writes the files.

    Parameters
    ----------
    student : nn.Module
        Images (B, C, H, W) in [0, 1] to logits (B, classes). It is trained in place, is in
        eval mode between the epochs, and ends with the last weights.
        Every submodule is in train mode during an epoch, also a batch norm that was in eval mode.
    teacher : nn.Module, dict of str to nn.Module, or None
        Of the same shapes; frozen in eval mode during an epoch, restored before each record. None for a method without,
        a dict for one of several teachers.
    method : Method
        The loss: named terms of a batch.
    train : Split
        Images that the student is trained on.
    recipe : Recipe
        Optimiser, schedule, augmentation, validation, seed and device.
    val : Split, optional
        Images whose robust accuracy selects the best checkpoint; without them there is none.
    run : str or Path, optional
        Folder of config.yaml, metrics.jsonl, the checkpoints and the state. A second call with the same arguments
        resumes from it.
    averaging : EMA or SWA, optional
        An average of the weights, validated beside the student and saved as the checkpoint `averaged`.
    soft_labels : SoftLabelCache, optional
        Cache of the teacher's logits on clean images, shared with later runs.
    progress : callable or bool
        True shows a line on a terminal or in a notebook, and nothing elsewhere; False nothing. A function is called
        with a StepProgress every 10 steps.
    save_every : int or timedelta, optional
        Steps, or time, from one save of the state inside an epoch to the next, so that a kill costs no more than this;
        None saves at the ends of epochs alone. It changes no result.
    stop : callable, optional
        Asked after every step (on a GPU every 10), `threading.Event().is_set` for example: where it is true, in one
        process at least, the state is saved and the iteration ends.

    Yields
    ------
    EpochRecord
        Mean loss terms, rate, seconds, and the validation accuracies where validation was due.

    Raises
    ------
    DivergedError
        For a loss or gradient that is not finite, before it reaches the weights, and for weights or statistics that
        are not, before they are saved: a run's folder has the state of the last finite epoch.
    RunError
        For a folder that cannot be used, belongs to another configuration, or in which another process trains.
    ConfigError, ModelError
        Where recipe, nets, method and data do not fit each other.
    CheckpointError
        For a damaged state, and cached soft labels that differ from the teacher's logits.
    """
    device = find_device(recipe.device)
    net: nn.Module | None = together(teacher)
    check_setup(student, net, method, train, val, averaging, recipe)
    net = net if uses_teacher(method) else None
    state = init_state(student, net, method, train, recipe, device, averaging)
    student.eval()  # train mode is an epoch's: the caller evaluates and exports between them
    config = resolve_config(student, net, method, train, val, recipe, averaging, soft_labels)
    several = isinstance(net, nn.ModuleDict)
    table = None if soft_labels is None or net is None or several else soft_labels.table(net, train, recipe)
    train = train if recipe.resized else _resident(train, device)  # crops are resized on the CPU
    show = shown(progress, Pace())
    with _resumed(run, config, recipe, state) as folder, cleared(show):
        saving = Saving(folder, state, save_every, stop)
        for epoch in _epochs_left(state, recipe):
            with frozen(net, device) as fixed:  # restored before every yield: two runs may share a teacher
                record = train_epoch(state, fixed, train, recipe, epoch, table, show, saving)
            if record is None:  # stopped, and saved inside the epoch
                return
            checkpoint.require_finite(checkpoint.tensors(state), epoch)
            average = _validate(state, train, val, recipe, record)
            record.stopped = _patience_ends(state, recipe, record)
            checkpoint.save(folder, record, state, average)
            clear(show)
            yield record


def distill(
    student: nn.Module,
    teacher: nn.Module | Mapping[str, nn.Module] | None,
    method: Method,
    train: Split,
    recipe: Recipe = DEFAULT,
    *,
    val: Split | None = None,
    run: str | Path | None = None,
    averaging: Averaging | None = None,
    soft_labels: SoftLabelCache | None = None,
    progress: ProgressCallback | bool | None = True,
    save_every: Every | None = TEN_MINUTES,
    stop: Callable[[], bool] | None = None,
) -> History:
    """The records of all epochs of `epochs`, whose parameters and errors it shares: a list with `plot()`."""
    return History(
        epochs(
            student, teacher, method, train, recipe, val=val, run=run, averaging=averaging, soft_labels=soft_labels,
            progress=progress, save_every=save_every, stop=stop,
        )
    )  # fmt: skip


def train_epoch(
    state: TrainState,
    teacher: nn.Module | None,
    train: Split,
    recipe: Recipe,
    epoch: int,
    table: SoftLabels | None = None,
    progress: ProgressCallback | None = None,
    saving: Saving | None = None,
) -> EpochRecord | None:
    """The steps of an epoch that `state` has not done: augmentation, attack and update, batch by batch.

    Parameters
    ----------
    state : TrainState
        Student, method and optimiser, updated in place; at the end it is in no epoch.
    teacher : nn.Module or None
        Frozen, on the student's device.
    epoch : int
        From 1 to recipe.epochs.
    table : SoftLabels, optional
        Cached logits of the teacher on the views that the recipe draws.
    saving : Saving, optional
        Saves the state between the steps, and may stop there.

    Returns
    -------
    EpochRecord or None
        Without accuracies; None where it was stopped.

    Raises
    ------
    DivergedError
        For a loss or gradient that is not finite, before it reaches the weights.
    """
    begun = time.perf_counter() - state.seconds
    student, method, optimiser = state.student, state.method, state.optimiser
    device = next(student.parameters()).device
    net = computed(student, recipe.precision, recipe.attack_precision, recipe.compile)
    layout = _layout(method, [student, *([] if teacher is None else [teacher])], train.shape[0])
    teacher = None if teacher is None else each_folded(teacher, passes_of_teacher(train, recipe))
    steps = batches(recipe, "order", epoch, train)
    images = sum(map(len, steps))
    pending: list[tuple[float, Update]] = []
    earlier = state.step
    with train_mode(student):
        for number, rows in enumerate(steps[earlier:], earlier + 1):
            part, share = distributed.shard(rows)
            partners, _ = distributed.shard(rows.roll(1))
            x, y, index, view = augmented(train, part, recipe, epoch, device, partners=partners)
            x = x.contiguous(memory_format=layout)
            cached = teacher if table is None or teacher is None else CachedTeacher(teacher, table, x, index, view)
            y = y.to(device)
            if train.extra is not None and train.extra.labels == "teacher" and uses_labels(method):
                # most methods ask for the same logits
                cached = cached if isinstance(cached, CachedTeacher) else remembered(cached)
                y = torch.where(index.to(device) < train.extra.first, y, cached(x).detach().argmax(1))
            before = epoch - 1 + (number - 1) / len(steps)
            rate, radius = set_rate(optimiser, lr_at(recipe, before)), radius_at(recipe, before)
            parts = min(recipe.accumulate, max(1, len(rows) // distributed.world_size()))
            counted = index if share else torch.full_like(index, -1)  # a process without images repeats one
            noise = Noise(recipe.seed, counted.to(device), "method", epoch)
            where = f"epoch {epoch}, step {number}, lr {rate:.3g}"
            with seeded(seed_of(recipe.seed, epoch, number, distributed.rank()), device):  # dropout, drop path
                update = step(
                    net, cached, method, optimiser, x, y, epoch=epoch, noise=noise, where=where, share=share,
                    parts=parts, radius=radius, clip=recipe.clip, scaler=state.scaler,
                    awp=recipe.awp if epoch >= recipe.awp_from else 0.0,
                )  # fmt: skip
            if state.averaging is not None and state.average is not None:
                state.averaging.update(state.average, student, epoch - 1 + number / len(steps))
            if hasattr(method, "advance"):
                ema = state.average.weights if state.average and isinstance(state.averaging, EMA) else None
                method.advance(student, epoch=epoch, last=number == len(steps), average=ema)
            pending.append((share * len(rows) / images, update))
            state.step, state.seconds = number, time.perf_counter() - begun
            settled = device.type == "cpu" or number % EVERY == 0 or number == len(steps)
            if settled:
                _accumulate(pending, state.sums)
            if progress is not None and number % EVERY == 0:
                done, speed = number / len(steps), number * recipe.batch / state.seconds
                terms = {name: value * distributed.world_size() / done for name, value in state.sums.items()}
                progress(StepProgress(epoch, recipe.epochs, number, len(steps), speed, terms, earlier))
            if settled and saving is not None and saving.stops():
                return None
    rate = float(optimiser.param_groups[0]["lr"])
    sums = distributed.total(state.finish_epoch())
    seconds = time.perf_counter() - begun
    distributed.broadcast([*student.buffers(), *learned_state(method).values()])  # batch statistics differ by process
    radius = radius_at(recipe, epoch - 1 / len(steps))
    eps = None if recipe.eps_ramp is None else float(radius * method.attack.threat.eps)
    return EpochRecord(epoch, recipe.epochs, sum(sums.values()), sums, rate, seconds, images / seconds, eps=eps)


def passes_of_teacher(train: Split, recipe: Recipe) -> Callable[[nn.Module], Any]:
    """The view of a teacher's net that the recipe declares: folded, and compiled or in bfloat16."""
    dtype = getattr(torch, recipe.teacher_precision)
    if dtype != torch.float32:
        return partial(_rounded, dtype=dtype)
    return partial(compiled, shape=train.shape, batch=recipe.batch) if recipe.compile else folded


def _rounded(net: nn.Module, dtype: torch.dtype) -> Computed:
    """A teacher whose logits are of its folded net, and whose features are its own, all in `dtype`."""
    view = folded(net, dtype)
    return Computed(net, dtype, dtype, view=None if view is net else view)


class Update(NamedTuple):
    """A step of the optimiser: what it was computed from, as scalars on the device.

    where: its name in an error message. loss: of all processes. terms: the mean of each loss term. norms: of each
    gradient, by the name of its parameter. scale: of the loss in the backward pass, with float16.
    """

    where: str
    loss: Tensor
    terms: dict[str, Tensor]
    norms: dict[str, Tensor]
    scale: Tensor | None = None


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
    parts: int = 1,
    radius: float = 1.0,
    clip: float | None = None,
    scaler: torch.amp.GradScaler | None = None,
    awp: float = 0.0,
) -> Update:
    """One update of the weights from one batch.

    Parameters
    ----------
    x, y : Tensor
        Images (B, C, H, W) in [0, 1] and labels (B,), on the student's device.
    where : str
        Name of the step in an error message.
    share : float
        Share of the step's images that are in `x`; the other processes have the rest.
    parts : int
        Parts of the batch, computed one after the other: the sum of their gradients, weighted by their images.
    radius : float
        Share of the attack's radius, 0 to 1.
    clip : float, optional
        Largest norm of the whole gradient.
    scaler : torch.amp.GradScaler, optional
        Scale of the loss for float16: a step whose gradient overflows is skipped, and the scale halved.
    awp : float
        Relative size of the weight perturbation; 0 is none.

    Raises
    ------
    ConfigError
        Where the method returns no named terms, per image or scalar, with a gradient to what is trained.
    DivergedError
        For a loss or gradient that is not finite, before it reaches the weights; a fused optimiser, as on a GPU, skips
        the update without an error.
    """
    batch = list(_split(x, y, remembered(teacher) if awp and parts == 1 else teacher, noise, parts))
    backward = partial(_backward, student, method, optimiser, batch, epoch, share, scaler)
    with at_radius(method, radius), perturbed(student, method, awp, backward) if awp else contextlib.nullcontext():
        loss, means = backward()
        return _updated(student, method, optimiser, loss, means, where, clip, scaler)


def _backward(
    student: Any,
    method: Method,
    optimiser: torch.optim.Optimizer,
    batch: list[_Part],
    epoch: int,
    share: float,
    scaler: torch.amp.GradScaler | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradients of all processes in `.grad`, the loss of all, and the mean of each term of this one."""
    optimiser.zero_grad(set_to_none=True)
    size = sum(len(part.x) for part in batch)
    loss, means = batch[0].x.new_zeros(()), dict[str, Tensor]()
    for part in batch:
        weight = len(part.x) / size
        terms = method.terms(student, part.teacher, part.x, part.y, epoch=epoch, noise=part.noise[:])
        _require_terms(terms, type(method).__name__, len(part.x))
        of_part = {name: term.mean() for name, term in terms.items()}
        loss_part = torch.stack(list(of_part.values())).sum() * (share * weight)
        (loss_part if scaler is None else scaler.scale(loss_part)).backward()
        loss = loss + loss_part.detach()
        means = {name: means.get(name, 0.0) + mean.detach() * weight for name, mean in of_part.items()}
    loss = distributed.sum_gradients((p for group in optimiser.param_groups for p in group["params"]), loss)
    if all(p.grad is None for _, p in named_parameters(student, method)):
        raise ConfigError(_detached(terms, type(method).__name__))
    return loss, means


def _updated(
    student: Any,
    method: Method,
    optimiser: torch.optim.Optimizer,
    loss: Tensor,
    means: dict[str, Tensor],
    where: str,
    clip: float | None,
    scaler: torch.amp.GradScaler | None,
) -> Update:
    """Step the optimiser by the gradients at hand."""
    grads = {name: p.grad for name, p in named_parameters(student, method) if p.grad is not None}
    if scaler is not None:
        scaler.unscale_(optimiser)
    norms = dict(zip(grads, torch._foreach_norm(list(grads.values())), strict=True))
    scale = None if scaler is None else scaler.scale(torch.ones_like(loss))
    update = Update(where, loss, means, norms, scale)
    if clip is not None:
        _clip(list(grads.values()), list(norms.values()), clip)
    if scaler is not None:
        scaler.step(optimiser)
        scaler.update()
        return update
    skips = getattr(optimiser, "_step_supports_amp_scaling", False)  # a fused one
    if skips:  # no host sync: the optimiser skips the update, and `_accumulate` raises later
        optimiser.found_inf = (~_finite(update)).float()  # type: ignore[attr-defined]
    else:
        _require_finite(update)
    optimiser.step()
    return update


class _Part(NamedTuple):
    x: Images
    y: Labels
    teacher: Any
    noise: Noise


def _split(x: Images, y: Labels, teacher: Any, noise: Noise, parts: int) -> Iterator[_Part]:
    """A batch in parts, whose noise is that of their images in the whole batch."""
    if parts == 1:
        yield _Part(x, y, teacher, noise)
        return
    ends = [len(x) * i // parts for i in range(parts + 1)]
    for rows in map(slice, ends, ends[1:]):
        part = x[rows]
        of_part = teacher.part(part, rows) if isinstance(teacher, CachedTeacher) else teacher
        yield _Part(part, y[rows], of_part, noise[rows])


def _clip(grads: list[Tensor], norms: list[Tensor], most: float) -> None:
    """Scale gradients in place to a norm of at most `most` in all, without a host sync."""
    norm = torch.linalg.vector_norm(torch.stack(norms))
    torch._foreach_mul_(grads, (most / (norm + 1e-6)).clamp(max=1.0))


def _require_terms(terms: Any, method: str, images: int) -> None:
    """Refuse what is no dict of losses, each per image (B,) or a scalar. Raises ConfigError."""
    if not isinstance(terms, dict) or not terms:
        got = "an empty dict" if isinstance(terms, dict) else type(terms).__name__
        raise ConfigError(f"expected named terms of {method}, got {got}: return for example {{'clean': loss}}")
    for name, term in terms.items():
        is_loss = isinstance(term, Tensor) and term.is_floating_point()
        if not is_loss or term.ndim > 1 or not term.numel():  # a loss of a part of the images is allowed
            got = f"{term.dtype} {tuple(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
            raise ConfigError(
                f"expected the term {name!r} of {method} as a floating-point tensor of shape ({images},) or (), got "
                f"{got}: return one loss per image, or their mean"
            )
    if not any(term.requires_grad for term in terms.values()):
        raise ConfigError(_detached(terms, method))


def _detached(terms: dict[str, Tensor], method: str) -> str:
    return (
        f"expected a term of {method} with a gradient to the student, got {', '.join(map(str, terms))} without one: "
        "compute one of them from student(x), outside of torch.no_grad and before any detach"
    )


def _accumulate(pending: list[tuple[float, Update]], sums: dict[str, float]) -> None:
    """Add the weighted means of the pending steps to the epoch's sums. Raises DivergedError."""
    for weight, update in pending:
        _require_finite(update)
        for name, mean in update.terms.items():
            value = float(mean)  # not finite only in a step that float16's scaler skipped
            sums[name] = sums.get(name, 0.0) + (value * weight if math.isfinite(value) else 0.0)
    pending.clear()


@contextmanager
def _resumed(
    run: str | Path | None, config: Mapping[str, Any], recipe: Recipe, state: TrainState
) -> Iterator[Run | None]:
    """The run's folder, held and entered by process 0 first, with its state loaded in every process."""
    folder = None if run is None else Run(run)
    with ExitStack() as stack:
        with distributed.rank_zero_first():
            if folder is not None:
                begun = begun_config(folder, config, recipe)
                folder.require(begun)  # before a lock is put into a folder of something else
                if distributed.rank() == 0:
                    stack.enter_context(folder.held())
                folder.enter(begun)
                folder.lengthen(config)
        checkpoint.resume(folder, state)
        distributed.require_equal(state.done, run, state.step)
        if folder is not None and distributed.rank() == 0:
            folder.drop_after(state.done, state.step)
        yield folder


def _layout(method: Method, nets: list[nn.Module], channels: int) -> torch.memory_format:
    """Channels last, which is faster, where method and nets support it: `Tensor.view` of images fails in it."""
    supported = vars(type(method)).get("channels_last", False) and all(map(is_known, nets))
    return torch.channels_last if supported and channels > 1 else torch.contiguous_format


def _resident(train: Split, device: torch.device) -> Split:
    """The split with its images on the GPU, if they take at most a quarter of the free memory."""
    images = train.images
    if (
        device.type != "cuda"
        or not isinstance(images, Tensor)
        or images.nbytes > torch.cuda.mem_get_info(device)[0] / 4
    ):
        return train
    return replace(train, images=images.to(device), labels=train.labels.to(device))


def _validate(
    state: TrainState, train: Split, val: Split | None, recipe: Recipe, record: EpochRecord
) -> nn.Module | None:
    """Add the accuracies of student and average to the record where they are due; the average, if it is to be saved."""
    if record.epoch % recipe.val_every and record.epoch != recipe.epochs:
        return None
    average = averaged(state, train, recipe, record.epoch)
    if average is not None:
        checkpoint.require_finite({f"averaged/{name}": v for name, v in average.state_dict().items()}, record.epoch)
    if val is None:
        return average
    record.val_clean, record.val_robust = _validated(state.student, val, state, recipe, record)
    record.best = record.val_robust > state.best
    state.best = max(state.best, record.val_robust)
    if average is None:
        return None
    record.averaged_clean, record.averaged_robust = _validated(average, val, state, recipe, record)
    record.averaged_best = record.averaged_robust > state.best_averaged
    state.best_averaged = max(state.best_averaged, record.averaged_robust)
    return average if record.averaged_best else None


def _patience_ends(state: TrainState, recipe: Recipe, record: EpochRecord) -> bool:
    """Count the validations since the best, and tell whether the run ends with the last of them."""
    if record.val_robust is not None:
        state.stale = 0 if record.best or record.averaged_best else state.stale + 1
    return 0 < recipe.patience <= state.stale


def _epochs_left(state: TrainState, recipe: Recipe) -> Iterator[int]:
    """The epochs that a run has not done, up to the last or to the one at which its patience ends."""
    while state.done < recipe.epochs and not 0 < recipe.patience <= state.stale:
        yield state.done + 1


def _validated(
    net: nn.Module, val: Split, state: TrainState, recipe: Recipe, record: EpochRecord
) -> tuple[float, float]:
    """`validate`, where logits that are no longer finite are a divergence."""
    try:
        return validate(net, val, state.method, recipe)
    except ModelError as error:
        raise DivergedError(
            f"{error}, after epoch {record.epoch}; nothing of it is saved: {checkpoint.LOWER}"
        ) from error


def _finite(update: Update) -> Tensor:
    """Whether the loss and the norm of every gradient are finite: a scalar on the device."""
    return torch.stack([update.loss, *update.norms.values()]).isfinite().all()


def _require_finite(update: Update) -> None:
    """Refuse an update that is not finite; with float16's scaler only below a scale of 1. Raises DivergedError."""
    if _finite(update) or (update.scale is not None and update.scale >= 1):
        return
    terms = ", ".join(f"{name} {float(mean):.4g}" for name, mean in update.terms.items())
    name, norm = next(((name, norm) for name, norm in update.norms.items() if not norm.isfinite()), ("", update.loss))
    what, of = ("gradients of finite norm", f" for {name}") if update.loss.isfinite() else ("a finite loss", "")
    got = f"{float(norm if of else update.loss)}{of} at {update.where} ({terms})"
    raise DivergedError(
        f"expected {what}, got {got}; this step changed no weight: {checkpoint.LOWER}, or check the images, the "
        "teacher's logits and these terms, say for a root or logarithm of 0"
    )
