"""The state of a run: written after every epoch, and resumed from. No pickled object anywhere."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ardor.errors import CheckpointError
from ardor.storage.config import describe
from ardor.storage.runs import Run
from ardor.storage.tensors import checksum, read_tensors, write_tensors
from ardor.training.state import TrainState, learned_by

if TYPE_CHECKING:
    from ardor.training.epoch import EpochRecord


log = logging.getLogger(__name__)


def save(run: Run | None, record: EpochRecord, learning: TrainState, averaged: nn.Module | None = None) -> None:
    """Keep what an epoch made. Each file is replaced whole, the state last: a kill loses one epoch at most.

    averaged: the averaged student, where it is to be kept.
    """
    learning.done = record.epoch
    if run is None:
        return
    metadata = {"epoch": str(record.epoch), "val_robust": repr(record.val_robust)}
    metadata["net"] = json.dumps({k: v for k, v in describe(learning.student).items() if k != "seed"})  # what it is
    weights = learning.student.state_dict()
    if record.best:
        write_tensors(run.checkpoint("best"), weights, metadata)
    if averaged is not None:
        said = metadata | {"val_robust": repr(record.averaged_robust)}
        write_tensors(run.checkpoint("averaged"), averaged.state_dict(), said)
    write_tensors(run.checkpoint("last"), weights, metadata)
    run.append({k: v for k, v in asdict(record).items() if k != "run"})
    state = _state(learning)
    said = {"epoch": str(record.epoch), "best": repr(learning.best), "best_averaged": repr(learning.best_averaged)}
    write_tensors(run.new_state, state, said | {"sum": checksum(state)})
    with contextlib.suppress(FileNotFoundError):
        os.replace(run.state, run.previous)
    os.replace(run.new_state, run.state)


def resume(run: Run | None, learning: TrainState, *, tidy: bool = True) -> None:
    """Load the state of a run, if it has one.

    A newest state that is damaged is passed over for the one before, with a warning. tidy: remove the metrics of epochs
    after the state, as one process alone should. Raises CheckpointError where no state is left, or it is of another
    run.
    """
    if run is None:
        return
    damaged = []
    for path in (run.state, run.previous):
        try:
            if path.exists():
                _restore(path, _read_verified(path), learning)
                break
        except _DamagedError as error:
            damaged.append(error)
            log.warning("%s; looking for the epoch before", error)
    else:
        if damaged:
            raise CheckpointError(f"{damaged[0]}; no earlier state is left: type --run with a new name") from damaged[0]
    if tidy:
        run.truncate(learning.done)


class _DamagedError(Exception):
    """A state that cannot be read whole."""


def _read_verified(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What a state holds, every byte of it as it was written."""
    try:
        tensors, metadata = read_tensors(path)
    except CheckpointError as error:
        raise _DamagedError(str(error)) from error
    if metadata.get("sum", checksum(tensors)) != checksum(tensors):
        raise _DamagedError(f"expected {path} as it was written, got other bytes")
    return tensors, metadata


def _restore(path: Path, state: tuple[dict[str, Tensor], dict[str, str]], learning: TrainState) -> None:
    tensors, metadata = state
    parts: dict[str, dict[str, Tensor]] = {"student": {}, "method": {}, "momentum": {}, "averaging": {}}
    try:
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = value
        done, best = int(metadata["epoch"]), float(metadata["best"])
        best_averaged = float(metadata.get("best_averaged", -1.0))
        if learning.average is not None:
            learning.average.load(parts["averaging"])
        learning.student.load_state_dict(parts["student"])
        for name, learned in learned_by(learning.method).items():
            _load_learned(learning.method, name, learned, parts["method"])
        _load_momentum(learning.optimiser, parts["momentum"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"expected the state of this run, got {path} made for another: type --run with a new name"
        ) from error
    learning.done, learning.best, learning.best_averaged = done, best, best_averaged


def _state(learning: TrainState) -> dict[str, Tensor]:
    tensors = {f"student/{k}": v for k, v in learning.student.state_dict().items()}
    for name, value in learned_by(learning.method).items():
        if isinstance(value, nn.Module):
            tensors |= {f"method/{name}.{k}": v for k, v in value.state_dict().items()}
        else:
            tensors[f"method/{name}"] = value
    for i, p in enumerate(p for group in learning.optimiser.param_groups for p in group["params"]):
        momentum = learning.optimiser.state.get(p, {}).get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum/{i}"] = momentum
    if learning.average is not None:
        tensors |= {f"averaging/{k}": v for k, v in learning.average.tensors().items()}
    return tensors


def _load_learned(method: object, name: str, value: Any, saved: Mapping[str, Tensor]) -> None:
    if isinstance(value, nn.Module):
        value.load_state_dict({k.removeprefix(f"{name}."): v for k, v in saved.items() if k.startswith(f"{name}.")})
    else:
        setattr(method, name, saved[name].to(value.device))


def _load_momentum(optimiser: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    for i, p in enumerate(p for group in optimiser.param_groups for p in group["params"]):
        if str(i) in saved:
            optimiser.state[p]["momentum_buffer"] = saved[str(i)].to(p.device).clone()
