"""The state of a run, written after every epoch, and its way back. No pickled object."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from ardor.engine import distributed
from ardor.errors import CheckpointError, DivergedError
from ardor.storage.config import describe, few
from ardor.storage.files import refusal, replace
from ardor.storage.runs import Run
from ardor.storage.tensors import is_finite, read_tensors, write_tensors
from ardor.training.epoch import EpochRecord
from ardor.training.state import TrainState, learned_by, learned_state

log = logging.getLogger(__name__)


LOWER = "type a lower --recipe.lr and a new --run, for a run's folder belongs to one configuration"
"""What a user may type after a divergence."""


def require_finite(tensors: Mapping[str, Tensor], epoch: int) -> None:
    """Refuse what must not be saved after an epoch: an update, or statistics, that overflowed. Raises DivergedError."""
    if bad := [name for name, value in tensors.items() if not is_finite(value)]:
        raise DivergedError(
            f"expected finite weights and statistics after epoch {epoch}, got NaN or infinity in {few(bad)}; nothing "
            f"of this epoch is saved: {LOWER}"
        )


def save(run: Run | None, record: EpochRecord, state: TrainState, averaged: nn.Module | None = None) -> None:
    """Write checkpoints, metrics and state of a finished epoch. Process 0 alone writes.

    Each file is replaced as a whole, the state last: a kill loses one epoch at most.

    Parameters
    ----------
    averaged : nn.Module, optional
        The averaged student, where it is to be saved.

    Raises
    ------
    RunError
        Where the system refuses a file, or the folder was deleted since the run began.
    """
    state.done = record.epoch
    if run is None:
        return
    record.run = str(run.folder)
    if distributed.rank() > 0:
        return
    run.require_held()
    net = {k: v for k, v in describe(state.student).items() if k != "seed"}
    metadata = {"epoch": str(record.epoch), "val_robust": repr(record.val_robust), "net": json.dumps(net)}
    weights = state.student.state_dict()
    if record.best:
        write_tensors(run.checkpoint("best"), weights, metadata)
    if averaged is not None:
        robust = {"val_robust": repr(record.averaged_robust)}
        write_tensors(run.checkpoint("averaged"), averaged.state_dict(), metadata | robust)
    write_tensors(run.checkpoint("last"), weights, metadata)
    run.append({k: v for k, v in asdict(record).items() if k != "run"})
    content = tensors(state)
    best = {"best": repr(state.best), "best_averaged": repr(state.best_averaged)}
    write_tensors(run.new_state, content, {"epoch": str(record.epoch), **best})
    try:  # at each moment one of the two is whole, unless the run is in its first epoch
        if run.state.exists():
            replace(run.state, run.previous)
        replace(run.new_state, run.state)
    except OSError as error:
        raise refusal(run.state, error) from error
    run.require_held()


def resume(run: Run | None, state: TrainState) -> None:
    """Load the state of a run, if it has one; process 0 removes the metrics of later epochs.

    A damaged newest state is replaced by the one before it, with a warning.

    Raises
    ------
    CheckpointError
        Where every state is damaged, or it belongs to another run.
    """
    if run is None:
        return
    damaged = []
    for path in run.states():
        try:
            tensors, metadata = read_tensors(path)
        except CheckpointError as error:
            damaged.append(error)
            log.warning("%s; looking for the epoch before", error)
        else:
            _restore(path, tensors, metadata, state)
            break
    else:
        if damaged:
            raise CheckpointError(f"{damaged[0]}; no earlier state is left: type --run with a new name") from damaged[0]
    if distributed.rank() == 0:
        run.truncate(state.done)


def _restore(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], state: TrainState) -> None:
    """Load a state. Raises CheckpointError where it is of another student, method or average."""
    parts: dict[str, dict[str, Tensor]] = {"student": {}, "method": {}, "momentum": {}, "averaging": {}}
    try:
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = value
        done, best = int(metadata["epoch"]), float(metadata["best"])
        best_averaged = float(metadata.get("best_averaged", -1.0))
        if state.average is not None:
            state.average.load(parts["averaging"])
        state.student.load_state_dict(parts["student"])
        for name, learned in learned_by(state.method).items():
            if isinstance(learned, nn.Module):
                prefix = f"{name}."
                saved = {k.removeprefix(prefix): v for k, v in parts["method"].items() if k.startswith(prefix)}
                learned.load_state_dict(saved)
            else:
                setattr(state.method, name, parts["method"][name].to(learned.device))
        optimiser = state.optimiser.state_dict()
        optimiser["state"] |= {int(i): {"momentum_buffer": value} for i, value in parts["momentum"].items()}
        state.optimiser.load_state_dict(optimiser)
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"expected the state of this run, got {path} made for another: type --run with a new name"
        ) from error
    state.done, state.best, state.best_averaged = done, best, best_averaged


def tensors(state: TrainState) -> dict[str, Tensor]:
    """The tensors of a state by their names in its file."""
    average = {} if state.average is None else state.average.tensors()
    momentum = {i: entry.get("momentum_buffer") for i, entry in state.optimiser.state_dict()["state"].items()}
    return {
        **{f"student/{key}": value for key, value in state.student.state_dict().items()},
        **{f"method/{key}": value for key, value in learned_state(state.method).items()},
        **{f"momentum/{i}": value for i, value in momentum.items() if value is not None},
        **{f"averaging/{key}": value for key, value in average.items()},
    }
