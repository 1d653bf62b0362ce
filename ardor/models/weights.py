"""Weights from a file into a net, all of them or none; and the hash of a net."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ardor.errors import CheckpointError
from ardor.models.mismatch import explain, some
from ardor.models.normalise import Normalise
from ardor.models.reading import State, read

# What data parallelism, wrappers and torch.compile put before every name.
PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
_STATISTICS = re.compile(r"(^|\.)(mean|mu|std|sigma)$")


def load_weights(net: nn.Module, path: str | Path) -> None:
    """Copy the weights in `path` into `net`, all of them or none.

    path: `.safetensors`, or a file of torch.save (.pt, .pth, .tar, .model), which is read without running any code
    that it may hold. A dict around the state dict is opened (`reading.WRAPPERS`). A prefix such as `module.` goes
    only if every name has it and no name of the net does: so a net with a part called `model` keeps it, and a file
    that holds two nets is refused and not mixed. Any other prefix that every name has, such as `backbone.`, goes if the
    rest are then exactly the net's names. Batch norm's `num_batches_tracked`, which old files lack, may be
    missing: it does not affect the output. A mean and std in the file must be those of the net's first layer.

    Raises CheckpointError: not there, truncated, foreign, pickled code, not finite, or made for another net. The net
    is then as it was.
    """
    path = Path(path)
    own = net.state_dict()
    state = _same_normalisation(net, own, read(path), path)
    state = _without_prefixes(state, own)
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    state = {**{name: own[name] for name in counters}, **state}
    if problem := explain(own, state):
        built = getattr(net, "built_as", {}).get("name", type(net).__name__)
        raise CheckpointError(f"expected weights for {built}, got {path} with {problem}")
    _refuse_not_finite(state, path)
    net.load_state_dict(state)  # cannot fail half-way: every name, shape and kind is checked above


def hash_of(net: nn.Module) -> str:
    """SHA-256 over the names, shapes, dtypes and bytes of a net's state, shortened to 16 digits.

    Mean and std of the first layer count although they are not in the state dict: other numbers are another function.
    """
    digest = hashlib.sha256()
    state = {**dict(net.named_buffers()), **net.state_dict()}
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(str((name, tuple(value.shape), value.dtype)).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())  # as bytes: NumPy has no bfloat16
    return digest.hexdigest()[:16]


def _without_prefixes(state: State, own: Iterable[str]) -> State:
    own = list(own)
    for prefix in (*PREFIXES, *PREFIXES):  # twice: they come in any order, one inside the other
        if state and all(name.startswith(prefix) for name in state) and not any(n.startswith(prefix) for n in own):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return _without_foreign_prefix(state, set(own))


def _without_foreign_prefix(state: State, own: set[str]) -> State:
    """As a wrapper of the user's own wrote it. Only an exact fit proves that the prefix is none of the net's parts."""
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    first = next(iter(state), "")
    for end in (i + 1 for i, letter in enumerate(first) if letter == "."):
        rest = {name[end:] for name in state if name.startswith(first[:end])}
        if len(rest) == len(state) and needed <= rest <= own:
            return {name[end:]: value for name, value in state.items()}
    return state


def _same_normalisation(net: nn.Module, own: Iterable[str], state: State, path: Path) -> State:
    """The state without the mean and std that some checkpoints hold, once they are known to be the net's."""
    if any(_STATISTICS.search(name) for name in own):
        return state  # the net keeps its own in its state dict: they are weights like any other
    held = {found[2]: state[name] for name in state if (found := _STATISTICS.search(name))}
    layer = next((m for m in net.modules() if isinstance(m, Normalise)), Normalise([0.0], [1.0]))
    for names, mine in ((("mean", "mu"), layer.mean), (("std", "sigma"), layer.std)):
        for theirs in (held[name].flatten() for name in names if name in held):
            if not _close(theirs, mine.detach().cpu().flatten()):
                raise CheckpointError(
                    f"expected {path} to normalise as the net does ({names[0]} {_digits(mine)}), "
                    f"got {_digits(theirs)}: build the net with {names[0]}={_digits(theirs)}"
                )
    return {name: value for name, value in state.items() if not _STATISTICS.search(name)}


def _close(a: Tensor, b: Tensor) -> bool:
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        return False
    return bool(((a.float() - b.float()).abs() < 1e-4).all())


def _digits(values: Tensor) -> list[float]:
    return [round(float(v), 4) for v in values.flatten()]


def _refuse_not_finite(state: State, path: Path) -> None:
    bad = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise CheckpointError(
            f"expected finite weights in {path}, got NaN or infinity in {some(bad)}: "
            "the training that wrote it diverged; take an earlier checkpoint"
        )
