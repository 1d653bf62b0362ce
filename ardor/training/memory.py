"""TODO ardor.training.memory."""

from __future__ import annotations

import gc
import re
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ardor.errors import ConfigError
from ardor.storage.runs import Run
from ardor.training.cost import _at_work, _batch
from ardor.training.recipe import find_device
from ardor.training.validation import BATCH as VALIDATED

if TYPE_CHECKING:
    from ardor.training.job import Job


def is_oom(error: BaseException | None) -> bool:
    """Whether memory did not suffice, on a GPU or for torch's allocator on a CPU, or this lies behind `error`."""
    todo, seen = [error], set[int]()
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        said = str(one) if isinstance(one, RuntimeError | SystemError) else ""
        if isinstance(one, torch.OutOfMemoryError | MemoryError) or any(word in said for word in _SAID):
            return True
        todo += [one.__cause__, one.__context__]
    return False


_SAID = (
    "tried to allocate",
    "out of memory",
    "ALLOC_FAILED",  # of cuDNN and cuBLAS
    "could not create a primitive",  # of oneDNN, which does not say why; with little memory left this is why
    "without setting an exception",  # of CPython, from C code that was refused memory and kept it to itself
)


def largest_batch(job: Job) -> int | None:
    """The recipe's batch, or the first of its halves, of which real steps fit into memory; None where none does.

    On a CPU it may be too careful: what a larger try freed is not always given back whole.
    """
    size = _batch(job)
    while size:
        if _fits(job, size):
            return size
        size = size // 2 if size > 3 else 0  # batch norm learns nothing from one image
    return None


def _fits(job: Job, size: int) -> bool:
    """Whether two steps do: the second finds the optimiser's momentum there."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        with _at_work(replace(job, recipe=replace(job.recipe, batch=size))) as work:
            work.learn(0, size)
            work.learn(1, size)
    except Exception as error:
        if is_oom(error):
            return False
        raise
    return True


def explain_oom(error: BaseException, job: Job) -> ConfigError:
    """One sentence with the largest batch that fits, found by real steps, for an error of which `is_oom` is true.

    What the failed step held is freed first: the frames behind `error` lose their locals.
    """
    asked_for = re.search(r"[Tt]ried to allocate [\d.]+ \w+", str(error))
    cause = f"out of memory ({asked_for[0] if asked_for else str(error) or type(error).__name__})"
    traceback.clear_frames(error.__traceback__)
    size, device = _batch(job), find_device(job.recipe.device)
    said = f"expected a step of {size} images to fit into the memory of {device}, got {cause}"
    fits = largest_batch(job)
    if fits is None:
        return ConfigError(f"{said}, even with 2 images: type a smaller --student, or another --recipe.device")
    if fits == size:  # validation, or somebody else's memory
        at_once = min(VALIDATED, job.recipe.val_size or len(job.val), len(job.val))
        return ConfigError(
            f"expected to stay within the memory of {device}, got {cause}, though steps of {size} images fit: type "
            f"--recipe.val_size {max(1, at_once // 2)}, which are validated at once, or stop what else runs there"
        )
    begun = Run(job.run).exists  # with the batch that did not fit
    name = f" --run {job.run}-batch{fits}" if begun else ""
    return ConfigError(f"{said}: type --recipe.batch {fits}{name}, which fits")
