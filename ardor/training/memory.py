"""Out of memory: whether an error is of this kind, and the largest batch that fits."""

from __future__ import annotations

import gc
import re
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ardor.errors import ConfigError
from ardor.evaluation.attacked import batch_for
from ardor.storage.runs import Run
from ardor.training.cost import batch_of, copied, sized
from ardor.training.recipe import find_device

if TYPE_CHECKING:
    from ardor.training.job import Job

MESSAGES = (
    "tried to allocate",
    "out of memory",
    "ALLOC_FAILED",  # cuDNN and cuBLAS
    "could not create a primitive",  # oneDNN without a reason: where memory is short, this is it
    "without setting an exception",  # CPython, from C code whose allocation failed
)
"""Parts of the messages of a RuntimeError or SystemError for lack of memory."""


def is_oom(error: BaseException | None) -> bool:
    """Whether an error, its cause or its context is a lack of memory, on a GPU or in torch's CPU allocator."""
    pending, examined = [error], set[int]()
    while pending:
        one = pending.pop()
        if one is None or id(one) in examined:
            continue
        examined.add(id(one))
        text = str(one) if isinstance(one, RuntimeError | SystemError) else ""
        if isinstance(one, torch.OutOfMemoryError | MemoryError) or any(message in text for message in MESSAGES):
            return True
        pending += [one.__cause__, one.__context__]
    return False


def largest_batch(job: Job) -> int | None:
    """The recipe's batch, or the first of its halves, of which real steps fit into memory; None where none does.

    On a CPU it may be too small: memory of a larger try is not always returned to the system.
    """
    size = batch_of(job)
    while size and not _fits(job, size):
        size = size // 2 if size > 3 else 0  # batch norm cannot train on one image
    return size or None


def _fits(job: Job, size: int) -> bool:
    """Whether two steps fit: the optimiser's momentum exists from the second on."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        with copied(replace(job, recipe=sized(job.recipe, size))) as work:
            work.learn(0, size)
            work.learn(1, size)
    except Exception as error:
        if is_oom(error):
            return False
        raise
    return True


def explain_oom(error: BaseException, job: Job) -> ConfigError:
    """One sentence with the largest batch that fits, measured by real steps, for an error of which `is_oom` is true.

    Memory of the failed step is freed first: the frames behind `error` lose their locals.
    """
    request = re.search(r"[Tt]ried to allocate [\d.]+ \w+", str(error))
    cause = f"out of memory ({request[0] if request else str(error) or type(error).__name__})"
    traceback.clear_frames(error.__traceback__)
    size, device = batch_of(job), find_device(job.recipe.device)
    expected = f"expected a step of {size} images to fit into the memory of {device}, got {cause}"
    fits = largest_batch(job)
    if fits is None:
        return ConfigError(f"{expected}, even with 2 images: type a smaller --student, or another --recipe.device")
    if fits == size:  # validation, or another process's memory
        validated = min(batch_for(job.val), job.recipe.val_size or len(job.val), len(job.val))
        return ConfigError(
            f"expected to stay within the memory of {device}, got {cause}, though steps of {size} images fit: type "
            f"--recipe.val_size {max(1, validated // 2)}, which are validated at once, or stop what else runs there"
        )
    name = f" --run {job.run}-batch{fits}" if Run(job.run).exists else ""  # the run's own batch does not fit
    return ConfigError(f"{expected}: type --recipe.batch {fits}{name}, which fits")
