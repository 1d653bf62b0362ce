"""The state of a run, written after every epoch, and its way back. No pickled object."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ardor.engine import distributed
from ardor.errors import CheckpointError, ConfigError, DivergedError
from ardor.storage.config import describe, few
from ardor.storage.files import refusal, remove, replace
from ardor.storage.runs import Run
from ardor.storage.tensors import is_finite, read_tensors, write_tensors
from ardor.training.epoch import EpochRecord
from ardor.training.state import TrainState, learned_by, learned_state, set_learned

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


def save_step(run: Run, state: TrainState) -> None:
    """Write the state inside an epoch. Every process calls it; process 0 writes.

    Raises
    ------
    DivergedError
        For weights or statistics that are not finite.
    RunError
        As `save`.
    """
    content = tensors(state)
    require_finite(content, state.done + 1)
    names = [key for key in content if _is_own(key, state)]
    others = distributed.gathered([content[key] for key in names])
    sums = distributed.gathered([torch.tensor([*state.sums.values()], dtype=torch.float64)])
    if distributed.rank() > 0:
        return
    for number, values in enumerate(others[1:], 1):
        content |= {f"process/{number}/{key}": value for key, value in zip(names, values, strict=True)}
    by_term = zip(*(values.tolist() for (values,) in sums), strict=True)
    inside = {
        "step": str(state.step),
        "seconds": repr(state.seconds),
        "sums": json.dumps(dict(zip(state.sums, by_term, strict=True))),
    }
    run.require_held()
    write_tensors(run.step_state, content, _numbers(state) | inside)


def _is_own(key: str, state: TrainState) -> bool:
    """Whether a tensor may differ between processes inside an epoch: batch statistics and learned state."""
    part, _, name = key.partition("/")
    return part == "method" or (part == "student" and name not in dict(state.student.named_parameters()))


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
    write_tensors(run.new_state, content, _numbers(state))
    try:  # at each moment one of the two is whole, unless the run is in its first epoch
        if run.state.exists():
            replace(run.state, run.previous)
        replace(run.new_state, run.state)
        remove(run.step_state)
    except OSError as error:
        raise refusal(run.state, error) from error
    run.require_held()


def resume(run: Run | None, state: TrainState) -> None:
    """Load the state of a run, if it has one.

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
            log.warning("%s; looking for an earlier state", error)
        else:
            _restore(path, tensors, metadata, state)
            break
    else:
        if damaged:
            raise CheckpointError(f"{damaged[0]}; no earlier state is left: type --run with a new name") from damaged[0]


def _restore(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], state: TrainState) -> None:
    """Load a state. Raises CheckpointError where it is of another student, method or average."""
    parts: dict[str, dict[str, Tensor]] = {"student": {}, "method": {}, "optimiser": {}, "averaging": {}}
    try:
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            if part == "momentum":  # of 0.1.0, whose one optimiser was SGD
                part, name = "optimiser", f"{name}/momentum_buffer"
            parts.setdefault(part, {})[name] = value
        mine = f"{distributed.rank()}/"
        for key, value in parts.pop("process", {}).items():
            if key.startswith(mine):
                part, _, name = key.removeprefix(mine).partition("/")
                parts[part][name] = value
        done, best = int(metadata["epoch"]), float(metadata["best"])
        best_averaged, stale = float(metadata.get("best_averaged", -1.0)), int(metadata.get("stale", 0))
        if state.scaler is not None:
            state.scaler.load_state_dict(json.loads(metadata["scaler"]))
        step, seconds = int(metadata.get("step", 0)), float(metadata.get("seconds", 0.0))
        sums = {name: _share(values) for name, values in json.loads(metadata.get("sums", "{}")).items()}
        if state.average is not None:
            state.average.load(parts["averaging"])
        state.student.load_state_dict(parts["student"])
        for name, learned in learned_by(state.method).items():
            if isinstance(learned, nn.Module):
                prefix = f"{name}."
                saved = {k.removeprefix(prefix): v for k, v in parts["method"].items() if k.startswith(prefix)}
                learned.load_state_dict(saved)
            else:
                set_learned(state.method, name, parts["method"][name].to(learned.device))
        _restore_optimiser(state.optimiser, parts["optimiser"], json.loads(metadata.get("optimiser", "{}")))
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"expected the state of this run, got {path} made for another: type --run with a new name"
        ) from error
    state.done, state.best, state.best_averaged, state.stale = done, best, best_averaged, stale
    state.step, state.sums, state.seconds = step, sums, seconds


def _share(sums: list[float]) -> float:
    """This process's own of the sums of all; the whole is the first one's where the number of processes changed."""
    if len(sums) == distributed.world_size():
        return sums[distributed.rank()]
    return sum(sums) if distributed.rank() == 0 else 0.0


def tensors(state: TrainState) -> dict[str, Tensor]:
    """The tensors of a state by their names in its file."""
    average = {} if state.average is None else state.average.tensors()
    return {
        **{f"student/{key}": value for key, value in state.student.state_dict().items()},
        **{f"method/{key}": value for key, value in learned_state(state.method).items()},
        **{f"optimiser/{key}": value for key, value in _entries(state.optimiser) if isinstance(value, Tensor)},
        **{f"averaging/{key}": value for key, value in average.items()},
    }


def _numbers(state: TrainState) -> dict[str, str]:
    """The metadata of a state: how far it is, and the numbers of its optimiser as JSON."""
    entries = {key: value for key, value in _entries(state.optimiser) if not isinstance(value, Tensor)}
    groups = [{k: v for k, v in group.items() if _is_number(v)} for group in state.optimiser.param_groups]
    return {
        "epoch": str(state.done),
        "best": repr(state.best),
        "best_averaged": repr(state.best_averaged),
        "stale": str(state.stale),
        "scaler": json.dumps({} if state.scaler is None else state.scaler.state_dict()),
        "optimiser": json.dumps({"entries": entries, "groups": groups}, sort_keys=True),
    }


def _entries(optimiser: Optimizer) -> list[tuple[str, Any]]:
    """What an optimiser remembers of its parameters, as (PARAMETER/NAME, tensor or number). Raises ConfigError."""
    state: dict[int, dict[str, Any]] = optimiser.state_dict()["state"]
    entries = [(f"{i}/{name}", value) for i, entry in state.items() for name, value in entry.items()]
    for key, value in entries:
        if not (isinstance(value, Tensor | bool | None) or _is_number(value)):
            raise ConfigError(
                f"expected an optimiser that remembers tensors and numbers, which a checkpoint can hold, got "
                f"{type(value).__name__} of {type(optimiser).__name__} in {key}: take another optimiser"
            )
    return entries


def _is_number(value: Any) -> bool:
    """A bool in a parameter group is of the machine: fused, foreach."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _restore_optimiser(optimiser: Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Load what `_entries` returned, bit for bit."""
    state = optimiser.state_dict()
    for key, value in {**tensors, **numbers.get("entries", {})}.items():
        i, _, name = key.partition("/")
        state["state"].setdefault(int(i), {})[name] = value
    for group, saved in zip(state["param_groups"], numbers.get("groups", state["param_groups"]), strict=True):
        group |= saved
    optimiser.load_state_dict(state)
    loaded = [optimiser.state.get(p, {}) for group in optimiser.param_groups for p in group["params"]]
    for key, value in tensors.items():  # torch has given them the type of their parameter
        i, _, name = key.partition("/")
        entry = loaded[int(i)]
        if entry[name].dtype != value.dtype:
            entry[name] = value.to(entry[name].device)
