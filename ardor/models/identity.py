"""The identity of a net's function: its weights, its layers and their settings, the user's code, and a few logits.

The logits are for what cannot be read, such as a file that a forward pass opens. Processors and numbers of threads
round differently, so they are compared with a tolerance (`ardor.storage.config.differences`), and no key has them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from ardor.engine.folding import GLOBAL_HOOKS, is_known
from ardor.engine.modes import device_of, restored
from ardor.models.weights import hash_of
from ardor.noise import Noise, seeded
from ardor.storage.config import differences
from ardor.storage.imports import cause_of
from ardor.storage.signature import Signature, is_file

IMAGES, CLASSES = 2, 16
"""Images of noise, and logits of each at most, in an identity."""
RANDOM = "none: two identical calls differ"
RANDOM_LAYERS = (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
"""Layers of torch that draw numbers in eval mode, too."""


def identity(net: nn.Module, shape: Sequence[int] | None = None) -> dict[str, Any]:
    """The identity of a net, in the types of JSON. The net, its modes and buffers stay as they are.

    Parameters
    ----------
    net : nn.Module
        Images to logits.
    shape : (C, H, W) or None
        Of an image; None leaves the logits out.

    Returns
    -------
    dict
        `hash`, of the weights: `hash_of`. `function`: a mapping of `layers`, a hash of their classes, order, settings,
        hooks and closures; `code`, a hash of the user's files and what they import from their own folders, or None; and
        `logits` of images of noise, or a sentence where there are none: for a net whose identical calls differ, and for
        an exported file, whose bytes are its function. State that a call changes, such as a counter, is no setting.
    """
    noise = Noise(0, torch.arange(IMAGES, device=device_of(net)), "identity")
    x = None if shape is None else noise.uniform(tuple(shape))
    if is_known(net) and not any(isinstance(module, RANDOM_LAYERS) for module in net.modules()):
        with ThreadPoolExecutor(1) as thread, restored(net):  # hashing takes as long as a pass
            net.eval()
            weights = thread.submit(hash_of, net)
            logits, signature = _logits(net, x), signature_of(net)
            return {"hash": weights.result(), "function": _function(signature, signature.texts, logits)}
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    with restored(net), seeded(0):
        with contextlib.suppress(NotImplementedError):  # an exported program, which has no other mode
            net.eval()
        logits, before = _logits(net, x), signature_of(net)
        again, after = _logits(net, x), signature_of(net)
    for buffer, value in buffers:
        buffer.data.copy_(value)
    changed = {path for path, text in before.texts.items() if after.texts.get(path) != text}
    changed |= after.texts.keys() - before.texts.keys()
    below = tuple(path + mark for path in changed for mark in ".[(")
    kept = {key: text for key, text in before.texts.items() if key not in changed and not key.startswith(below)}
    if differences({"logits": logits}, {"logits": again}):
        logits = RANDOM
    return {"hash": hash_of(net), "function": _function(before, kept, logits)}


def signature_of(net: nn.Module) -> Signature:
    """The signature of a net's layers."""
    signature = Signature()
    signature.net("", net)
    hooks = vars(torch.nn.modules.module)
    signature.add("global hooks", [list(hooks[f"_global_{name}"].values()) for name in GLOBAL_HOOKS])
    return signature


def key_of(identity: Mapping[str, Any]) -> str:
    """A hash of an identity or of a mapping that holds some, without their logits: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(_without_logits(identity), sort_keys=True).encode()).hexdigest()[:16]


def _without_logits(value: Any) -> Any:
    return {k: _without_logits(v) for k, v in value.items() if k != "logits"} if isinstance(value, Mapping) else value


def _function(signature: Signature, texts: Mapping[str, str], logits: Any) -> dict[str, Any]:
    layers = hashlib.sha256("\n".join(f"{path}\t{text}" for path, text in texts.items()).encode()).hexdigest()[:16]
    return {"layers": layers, "code": signature.code} | ({} if logits is None else {"logits": logits})


@torch.no_grad()
def _logits(net: nn.Module, x: Tensor | None) -> list[list[float]] | str | None:
    """Logits of some classes, rounded to five digits; a sentence where there are none, None without images."""
    if x is None:
        return None
    if is_file(net):
        return "none: an exported file is its bytes"
    try:
        logits = net(x).detach().double().cpu().flatten(1)
    except Exception as error:  # a third-party net may raise anything; what needs its logits will refuse it
        return f"none: {cause_of(error)}"
    logits = logits[:, :: math.ceil(logits.shape[1] / CLASSES)]
    return [[float(f"{value:.5g}") for value in row] for row in logits.tolist()]


def same_function(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two identities are of one function, by what both have: an earlier version has the weights' hash alone."""
    ours, theirs = (part.get("function") or {} for part in (one, other))
    shared = {key: value for key, value in theirs.items() if key in ours}
    return one.get("hash") == other.get("hash") and not differences({key: ours[key] for key in shared}, shared)
