"""Compiled passes: a folded net whose passes without gradients are machine code of its present weights.

Square, the forward passes of FAB and a teacher's take no gradient, so their weights can be constants: convolutions are
fused with the ReLU and the sum behind them, and weights are laid out once. A pass with gradients is the folded net's.
Logits are equal but for rounding, and a success counts only where the net as given confirms it, as for a folded net.
"""

from __future__ import annotations

import logging
import shutil
import sys
import weakref
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, fx, nn

from ardor.engine.folding import Folded, FoldedNet, chunk_of, close, folded
from ardor.errors import ConfigError
from ardor.noise import Noise

log = logging.getLogger(__name__)

_compiled: weakref.WeakKeyDictionary[nn.Module, CompiledNet] = weakref.WeakKeyDictionary()


def require_compiler(word: str, device: torch.device) -> None:
    """Refuse a machine that cannot compile, by a probe, before hours are spent.

    The first probe on a machine takes up to a minute: torch compiles for each instruction set that the processor may
    have. Later ones, and the net itself, use what it found.

    Parameters
    ----------
    word : str
        What was typed for it: "--compile".
    device : torch.device
        The device of the passes.

    Raises
    ------
    ConfigError
        There is no C++ compiler, or the probe fails.
    """
    import torch._inductor.config as inductor

    name = "cl" if sys.platform == "win32" else inductor.cpp.cxx[-1]
    advice = f"install one (apt install g++, conda install cxx-compiler), or leave {word} out"
    if shutil.which(name) is None:
        raise ConfigError(f"expected a C++ compiler for {word}, got no {name} on this machine: {advice}")
    x = torch.arange(16.0, device=device)
    try:
        right = torch.equal(torch.compile(lambda z: z * 2 + 1)(x), x * 2 + 1)
    except Exception as error:  # of dynamo, of inductor, of Triton, or of the system
        raise ConfigError(f"expected {name} to compile for {word}, got {_short(error)}: {advice}") from error
    if not right:
        raise ConfigError(f"expected {name} to compile for {word}, got wrong sums: {advice}")


def compiled(net: nn.Module, shape: tuple[int, ...], batch: int) -> Any:
    """The compiled net of `net`, which is in eval mode and keeps its weights; what `folded` returns if that fails.

    The first call takes up to a minute. A later one compiles again only where weights have changed.

    Parameters
    ----------
    net : nn.Module
        The net.
    shape : tuple of int
        (C, H, W) of an image.
    batch : int
        Images of a full batch.
    """
    view, name = folded(net), type(net).__name__
    if not isinstance(view, FoldedNet):
        log.warning("%s is not compiled: it has layers, hooks or code that ardor does not know", name)
        return view
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    size = batch if device.type == "cuda" else min(batch, chunk_of(shape[1:]) // 2)
    x = Noise(0, torch.arange(size, device=device), "compile").uniform(shape)
    known = _compiled.get(net)
    if known is not None and known.view is view and known.shape == x.shape and known.is_present():
        return known
    with torch.no_grad():
        expected = view(x)
        if not view.matches:
            return view
        try:
            result = CompiledNet(view, x)
            right = close(result(x), expected)
        except Exception as error:  # dynamo, inductor and the compiler raise their own kinds
            log.warning("%s cannot be compiled, so its passes are uncompiled: %s", name, _short(error))
            return view
    if not right:
        log.warning("%s answers otherwise when compiled, so its passes are uncompiled", name)
        return view
    _compiled[net] = result
    return result


class CompiledNet:
    """A folded net, compiled for its passes without gradients in chunks of one size; every attribute is the net's.

    Parameters
    ----------
    view : FoldedNet
        The folded net, with its present weights.
    x : (B, C, H, W) Tensor
        A chunk: images beyond a multiple of B are the folded net's.
    """

    def __init__(self, view: FoldedNet, x: Tensor) -> None:
        self.view, self.shape = view, x.shape
        self.constants = _with_constants(view.graph)
        self.run = frozen_code(self.constants, x.contiguous(memory_format=torch.channels_last))

    def as_given(self) -> Any:
        """The net itself."""
        return self.view.as_given()

    def is_present(self) -> bool:
        """Whether the weights are still those that were compiled."""
        present = _with_constants(self.view.graph).state_dict()
        return all(torch.equal(value, present[name]) for name, value in self.constants.state_dict().items())

    def __call__(self, x: Tensor) -> Tensor:
        """Images to logits."""
        size = len(x) // self.shape[0] * self.shape[0]
        if (torch.is_grad_enabled() and x.requires_grad) or not size or x.shape[1:] != self.shape[1:]:
            return self.view(x)
        with torch.no_grad():
            parts = x[:size].contiguous(memory_format=torch.channels_last).split(self.shape[0])
            return torch.cat([*map(self.run, parts), *([self.view(x[size:])] if size < len(x) else [])])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle look these up before there is a net
            raise AttributeError(name)
        return getattr(self.__dict__["view"], name)


def frozen_code(graph: fx.GraphModule, x: Tensor) -> Any:
    """The passes of a graph without gradients, compiled for images of the shape of x, with its weights as constants."""
    import torch._inductor.config as inductor  # a second that only compilation takes

    run = torch.compile(graph, fullgraph=True, dynamic=False)
    # `options` of torch.compile do not reach the tracer, which would pass the weights as inputs
    with torch.no_grad(), inductor.patch(freezing=True):
        run(x)
    return run


def _with_constants(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy of a folded graph with convolutions of torch, whose weights are parameters."""
    copied = deepcopy(graph)
    for name, layer in list(copied.named_modules()):
        if isinstance(layer, Folded):
            copied.set_submodule(name, layer.as_conv())
    return copied.eval().requires_grad_(False)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
