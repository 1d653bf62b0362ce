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
from ardor.models.builders import build, known
from ardor.models.known import known_of
from ardor.models.weights import hash_of
from ardor.noise import Noise, seeded
from ardor.storage.config import RANDOM, differences
from ardor.storage.imports import cause_of
from ardor.storage.signature import Signature, is_file

IMAGES, CLASSES = 2, 16
"""Images of noise, and logits of each at most, in an identity."""
RANDOM_LAYERS = (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
"""Layers of torch that draw numbers in eval mode, too."""


def identity(net: nn.Module, shape: Sequence[int]) -> dict[str, Any]:
    """The identity of a net for images (C, H, W), in the types of JSON; its modes and buffers stay as they are.

    Returns
    -------
    dict
        `hash`, of the weights: `hash_of`. `function`: a mapping of `layers`, a hash of their classes, order, settings,
        hooks and closures; `code`, a hash of the user's files and what they import from their own folders, or None;
        `shape`; and `logits` of images of noise, or a sentence where there are none: for a net whose identical calls
        differ, and for an exported file, whose bytes are its function. State that a call changes is no setting.
    """
    noise = Noise(0, torch.arange(IMAGES, device=device_of(net)), "identity").uniform(tuple(shape))
    first, *others = noise.split(1)  # one at a time: a net's rounding depends on its batch
    if is_known(net) and not any(isinstance(module, RANDOM_LAYERS) for module in net.modules()):
        with ThreadPoolExecutor(1) as thread, restored(net):
            net.eval()
            weights = thread.submit(hash_of, net)  # which takes as long as a pass
            logits, before = _logits(net, first, *others), signature_of(net)
            digest, texts = weights.result(), before.texts
    else:
        buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
        with restored(net), seeded(0):
            with contextlib.suppress(NotImplementedError):  # an exported program, which has no other mode
                net.eval()
            logits, before = _logits(net, first), signature_of(net)
            again, more, after = _logits(net, first), _logits(net, *others), signature_of(net)
            logits = RANDOM if logits != again else logits if isinstance(logits, str) else logits + more
        for buffer, value in buffers:
            buffer.data.copy_(value)
        changed = {path for path, text in before.texts.items() if after.texts.get(path) != text}
        changed |= after.texts.keys() - before.texts.keys()
        below = tuple(path + mark for path in changed for mark in ".[(")
        changed |= {path for path in before.texts if path.startswith(below)}
        changed |= {path for path, text in before.texts.items() if text.removeprefix("is ") in changed}
        texts = {path: text for path, text in before.texts.items() if path not in changed}
        digest = hash_of(net)
    layers = hashlib.sha256("\n".join(f"{path}\t{text}" for path, text in texts.items()).encode()).hexdigest()[:16]
    function = {"layers": layers, "code": before.code, "shape": [*shape], "logits": logits}
    return {"hash": digest, "function": function}


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


@torch.no_grad()
def _logits(net: nn.Module, *images: Tensor) -> Any:
    """For each image the logits of some classes, rounded to five digits; a sentence where there are none."""
    if is_file(net):
        return "none: an exported file is its bytes"
    try:
        rows = [net(x).detach().double().cpu().flatten() for x in images]
    except Exception as error:  # a third-party net may raise anything; what needs its logits will refuse it
        return f"none: {cause_of(error)}"
    return [[float(f"{v:.5g}") for v in row[:: math.ceil(len(row) / CLASSES) or 1].tolist()] for row in rows]


def as_built(net: nn.Module) -> bool:
    """Whether a net has the layers that a builder of this package makes for its config: then weights determine it."""
    built, record = dict(getattr(net, "built_as", {})), known_of(net)
    if record is not None:
        mean, std = record.mean_std or (None, None)
        built = {"name": record.builder, "classes": record.classes, "mean": mean, "std": std, **record.options}
    if known(str(built.get("name"))) is None:
        return False
    with torch.device("meta"):
        fresh = build(**built)
    return signature_of(fresh).digest == signature_of(net).digest


def same_function(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two identities are of one function; by the weights alone where an earlier version wrote one of them."""
    functions = [part["function"] for part in (one, other) if part.get("function")]
    return one.get("hash") == other.get("hash") and (len(functions) < 2 or not differences(functions[0], functions[1]))


def is_of(recorded: Mapping[str, Any], net: nn.Module) -> bool:
    """Whether a recorded identity, such as a report's `model`, is of a net; by the weights alone for one of 0.1.0."""
    function = recorded.get("function")
    present = {"hash": hash_of(net)} if function is None else identity(net, function["shape"])
    return same_function(recorded, present)
