"""A net to an ONNX graph or a traced program: eval mode, normalisation inside, batch dimension free, batch norm folded.

Every node is called LAYER/NAME after the layer of the net that it computes, so that a runtime's messages name it.
Torch's notes beside the nodes are left out: they contain paths of the machine that exported.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ardor.errors import ExportError

IMAGES, LOGITS, BATCH = "images", "logits", "batch"
"""Names of the graph's input, its output and its free dimension."""

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
"""Modules that compute what their attribute `module` computes. A user's own class may scale or normalise before it."""


def unwrapped(net: Any) -> nn.Module:
    """The net in torch.compile's wrapper and `WRAPPERS`. Raises ExportError for a TorchScript module."""
    while isinstance(net, WRAPPERS) or hasattr(net, "_orig_mod"):
        net = net.module if isinstance(net, WRAPPERS) else net._orig_mod
    if isinstance(net, torch.jit.ScriptModule):
        raise ExportError(
            "expected a net in Python, got a TorchScript module, which is not traced: pass the net that it was made of"
        )
    module: nn.Module = net
    return module


def traced(net: nn.Module, shape: tuple[int, int, int]) -> Any:
    """A torch ExportedProgram of a float32 copy of `net` in eval mode on the CPU, for images (B, *shape), B >= 1.

    Raises ExportError where control flow depends on values or on the batch size, or the net cannot be traced.
    """
    free = ({0: torch.export.Dim.DYNAMIC},)
    try:
        float32 = copy.deepcopy(net).cpu().float().eval().requires_grad_(False)
        with quiet():
            # two images: a batch of one would become a constant
            return torch.export.export(float32, (torch.zeros(2, *shape, dtype=torch.float32),), dynamic_shapes=free)
    except Exception as error:  # whatever a user's forward raises under tracing
        raise ExportError(
            f"expected a net that can be traced with a free batch, got {cause_of(error)}: let forward depend on the "
            "images by tensor operations alone"
        ) from error


def to_onnx(program: Any) -> bytes:
    """The program as a serialised ONNX model without metadata. Raises ExportError for an operator that ONNX lacks."""
    try:
        with quiet():
            exported = torch.onnx.export(
                program, dynamo=True, external_data=False, verbose=False, input_names=[IMAGES], output_names=[LOGITS]
            )
    except Exception as error:  # the exporter's own, and those of onnxscript
        raise _refusal(program, error) from error
    model: Any = exported.model_proto  # type: ignore[union-attr]
    _plain(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _plain(model: Any) -> None:
    """Rename nodes after layers and the free dimension `batch`, and drop notes with paths of this machine."""
    graph = model.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if symbol and dim.dim_param == symbol:
                dim.dim_param = BATCH
    for node in graph.node:
        notes = {prop.key: prop.value for prop in node.metadata_props}
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
        layer = scopes[-2] if len(scopes) > 1 else ""
        node.name = f"{layer}/{node.name}" if layer else node.name
    del graph.value_info[:]  # runtimes infer shapes themselves
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, graph, model):
        del part.metadata_props[:]
        part.doc_string = ""


def _refusal(program: Any, error: Exception) -> ExportError:
    """The operator that has no ONNX form and the layer that uses it, where the exporter's chain of errors names it."""
    for cause in _chain(error):
        if match := re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(cause)):
            where = layer_of(program, match[1])
            return ExportError(
                f"expected operators that ONNX has, got {match[1]}{where}: replace it, or type --to torch-export"
            )
    return ExportError(f"expected a net that can be expressed in ONNX, got {cause_of(error)}: type --to torch-export")


def layer_of(program: Any, operator: str) -> str:
    """` in the layer NAME` for the node that calls `operator`; empty where no node matches.

    The exporter decomposes operators before it searches their ONNX form: prims.bessel_i0 was aten.special_i0.
    """
    base = _base_name(operator)
    calls = [(_base_name(str(node.target)), node) for node in program.graph.nodes if node.op == "call_function"]
    same = [node for name, node in calls if name == base]
    alike = [node for name, node in calls if min(len(name), len(base)) > 3 and (name in base or base in name)]
    for node in (same or alike)[:1]:
        stack = node.meta.get("nn_module_stack") or {}
        path, kind = next(reversed(stack.values()), ("", ""))
        kind = kind if isinstance(kind, str) else kind.__name__
        return f" in the layer {path} ({kind.rpartition('.')[2]})" if path else " in the net itself"
    return ""


def _base_name(operator: str) -> str:
    """`i0` of `prims.bessel_i0` and of `aten.special_i0.default`."""
    parts = operator.split(".")
    return re.sub(r"^(bessel|special)_|_", "", parts[1]) if len(parts) > 1 else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def cause_of(error: BaseException) -> str:
    """The innermost cause, on one line."""
    *_, inner = _chain(error)
    lines = [line for line in str(inner).splitlines() if line.strip()]
    return f"{type(inner).__name__}: {' '.join(lines[:2])}"[:300]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the exporters' messages, which are about their internals, and leave the root logger as it was."""
    root = logging.getLogger()
    handlers, disabled = root.handlers[:], root.manager.disable
    # torch prints a graph that it cannot trace
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
            root.handlers[:] = handlers  # logging.warning on a bare root logger adds one
