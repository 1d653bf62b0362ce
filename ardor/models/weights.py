"""Weights from a file into a net, all of them or none; and the hash of a net."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ardor.errors import CheckpointError
from ardor.models.builders import build, known
from ardor.models.mismatch import classes_of, explain, some
from ardor.models.normalise import Normalise, Normalised
from ardor.models.reading import State, read
from ardor.models.timm_nets import Timm, renamed
from ardor.storage.signature import digest_of_object
from ardor.storage.tensors import is_finite

log = logging.getLogger(__name__)

# What data parallelism, wrappers and torch.compile put before every name.
PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
_STATISTICS = re.compile(r"(^|\.)(mean|mu|std|sigma)$")


def load_weights(net: nn.Module, path: str | Path, state: str | None = None, *, new_head: bool = False) -> str:
    """Copy the weights in a file into a net, all of them or none; with `new_head`, all but the head.

    A dict around the state dict is opened (`reading.WRAPPERS`). A prefix such as `module.` is removed only if every
    name has it and no name of the net does: a net with a part called `model` keeps it, and a file of two nets is
    refused and not mixed. Any other prefix of every name, such as `backbone.`, is removed if the rest are then exactly
    the net's names. Batch norm's `num_batches_tracked`, which old files lack, may be missing: it does not affect the
    output. A mean and std in the file must be those of the net's first layer.

    Parameters
    ----------
    net
        Left unchanged where the file is refused.
    path
        `.safetensors`, or a file of torch.save (.pt, .pth, .tar, .model), read without running code in it.
    state
        The key of the state dict in a file of several, such as an average of the weights; None for `state_dict`,
        `model` and the like.
    new_head
        Where the file is for other classes, and nothing but the last layer differs: keep the net's own last layer.

    Returns
    -------
    str
        What was kept, as "new, 5 classes for 10", which is logged; else "".

    Raises
    ------
    CheckpointError
        For a file that does not exist, is truncated or foreign, has pickled code or values that are not finite, or is
        made for another net.
    """
    whole = net.net if isinstance(net, Normalised) else net  # a file from elsewhere is of the net behind the layer
    net = whole.net if isinstance(whole, Timm) else whole
    path = Path(path)
    expected = net.state_dict()
    values = read(path, state)
    if "n_averaged" not in expected:  # the count of torch's AveragedModel
        values = {name: value for name, value in values.items() if name != "n_averaged"}
    values = _same_normalisation(whole, expected, values, path)
    values = _without_prefixes(values, set(expected))
    values = {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")} | values
    if isinstance(whole, Timm) and explain(expected, values):
        values = renamed(whole, values)
    kept = ""
    if new_head and (sizes := classes_of(expected, values)):
        kept = f"new, {sizes[1]} classes for {sizes[0]}"
        log.warning("%s: every layer is taken but the last, which is %s: train it", path, kept)
        values |= {name: value for name, value in expected.items() if value.shape != values[name].shape}
    if problem := explain(expected, values):
        built = getattr(whole, "built_as", {}).get("name", type(net).__name__)
        raise CheckpointError(f"expected weights for {built}, got {path} with {problem}")
    if bad := [name for name, value in values.items() if not is_finite(value)]:
        raise CheckpointError(
            f"expected finite weights in {path}, got NaN or infinity in {some(bad)}: "
            "the training that wrote it diverged; take an earlier checkpoint"
        )
    net.load_state_dict(values)  # cannot fail half-way: every name, shape and kind is checked above
    return kept


def require_values(config: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError where a file holds far fewer numbers than the net of a config, before that takes memory."""
    if not known(str(config.get("name"))) or not path.is_file():
        return
    with torch.device("meta"):
        needed = sum(value.numel() for value in build(**config).state_dict().values())
    present = path.stat().st_size  # a number takes at least a byte
    if needed > present + 2**20:
        raise CheckpointError(
            f"expected weights of the net that was recorded, of {needed:,} values, got {path} of {present:,} bytes: "
            "the record or the file was changed; take the two from one run"
        )


def hash_of(net: nn.Module) -> str:
    """SHA-256 over the names, shapes, dtypes and bytes of a net's state: 16 hexadecimal digits.

    Mean and std of the first layer are included although the state dict lacks them: others are another function.
    """
    digest = hashlib.sha256()
    state = {**dict(net.named_buffers()), **net.state_dict()}
    for name in sorted(state):
        value = state[name]
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            digest.update(f"{name} {digest_of_object(value)}".encode())
            continue
        value = value.detach().cpu().contiguous()
        digest.update(str((name, tuple(value.shape), value.dtype)).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)  # as bytes: NumPy has no bfloat16
    return digest.hexdigest()[:16]


def _without_prefixes(state: State, names: set[str]) -> State:
    for prefix in (*PREFIXES, *PREFIXES):  # twice: they come in any order, one inside the other
        if state and all(name.startswith(prefix) for name in state) and not any(n.startswith(prefix) for n in names):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    # A third-party wrapper's prefix: only an exact match proves that it is no part of the net.
    needed = {name for name in names if not name.endswith("num_batches_tracked")}
    first = next(iter(state), "")
    for end in (dot.end() for dot in re.finditer(r"\.", first)):
        rest = {name[end:] for name in state if name.startswith(first[:end])}
        if len(rest) == len(state) and needed <= rest <= names:
            return {name[end:]: value for name, value in state.items()}
    return state


def _same_normalisation(net: nn.Module, names: Iterable[str], state: State, path: Path) -> State:
    """The state without the mean and std of some checkpoints, which must be those of the net."""
    if any(_STATISTICS.search(name) for name in names):
        return state  # the net has them in its state dict: they are weights like any other
    statistics = {match[2]: state[name].flatten() for name in state if (match := _STATISTICS.search(name))}
    layer = next((m for m in net.modules() if isinstance(m, Normalise)), Normalise([0.0], [1.0]))
    for aliases, value in ((("mean", "mu"), layer.mean), (("std", "sigma"), layer.std)):
        expected = value.detach().cpu().flatten()
        for given in (statistics[name] for name in aliases if name in statistics):
            broadcast = len(given) == len(expected) or 1 in (len(given), len(expected))
            if not broadcast or not bool(((given.float() - expected).abs() < 1e-4).all()):
                raise CheckpointError(
                    f"expected {path} to normalise as the net does ({aliases[0]} {_digits(expected)}), "
                    f"got {_digits(given)}: type --model.{aliases[0]} {' '.join(map(str, _digits(given)))}"
                )
    return {name: value for name, value in state.items() if not _STATISTICS.search(name)}


def _digits(values: Tensor) -> list[float]:
    return [round(float(v), 4) for v in values]
