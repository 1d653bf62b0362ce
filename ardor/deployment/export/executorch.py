"""An ExecuTorch program for phones: a net for one image at a time, computed by XNNPACK, float32 or INT8.

The batch is one: an application classifies one image, and memory is then planned for exactly that. The metadata are
the program's constant method `ardor`, a JSON text: every ExecuTorch runtime can call it, it cannot be parted from the
program as a second file can, and its text is also readable in the bytes without a runtime.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ardor.data.split import Split
from ardor.deployment.export.int8 import calibration_batches
from ardor.deployment.export.onnx_graph import cause_of, layer_of, quiet
from ardor.deployment.export.seal import KEY, digest, metadata_in, read, require_images, require_probe
from ardor.errors import CheckpointError, ExportError, ModelError
from ardor.storage.imports import require_package

SEAL = re.compile(rb'"seal": "([0-9a-f]{64})"')
"""The place of the file's hash, which is of its bytes with 64 zeros in this place."""

_XNNPACK = "executorch.backends.xnnpack"


class Lowered:
    """A traced net as the bytes of a .pte, lowered once: called with metadata, it writes them into the reserved place.

    Parameters
    ----------
    program : torch.export.ExportedProgram
        The net.
    calibrated : Split or None
        Training images for INT8; None for float32.
    room : int
        Characters reserved for the metadata.

    Attributes
    ----------
    outside : tuple of str
        The operators that XNNPACK does not compute, by ExecuTorch's names.
    share : float
        Of all operators, those that XNNPACK computes, in [0, 1].

    Raises
    ------
    ExportError: the net cannot be expressed in ExecuTorch.
    """

    def __init__(self, program: Any, calibrated: Split | None, room: int) -> None:
        exir, partitioner = _package("executorch.exir"), _package(f"{_XNNPACK}.partition.xnnpack_partitioner")
        self._room = "#" * room
        try:
            with quiet():
                module = _pooled(program.module())
                module = _flat(module) if calibrated is None else quantised(module, calibrated)
                shape = next(iter(program.example_inputs[0])).shape
                lowered = exir.to_edge_transform_and_lower(
                    torch.export.export(module, (torch.zeros(1, *shape[1:], dtype=torch.float32),)),
                    partitioner=[partitioner.XnnpackPartitioner()],
                    constant_methods={KEY: self._room},
                )
                graph = lowered.exported_program().graph_module
                result = lowered.to_executorch()
        except Exception as error:  # the packages' own, of many kinds
            raise _refusal(program, error) from error
        self._body: bytes = result.buffer
        plans = result.executorch_program.execution_plan
        self.outside = tuple(sorted({operator.name for plan in plans for operator in plan.operators}))
        inside = sum(_calls(m.original_module.graph) for m in graph.modules() if hasattr(m, "original_module"))
        self.share = inside / (inside + _calls(graph.graph))

    def __call__(self, metadata: dict[str, Any] | None = None) -> bytes:
        """The file, sealed if it has metadata. Raises ExportError where they are too long."""
        if metadata is None:
            return self._body
        text = json.dumps(metadata | {"seal": "0" * 64}).ljust(len(self._room))
        if len(text) > len(self._room) or self._body.count(self._room.encode()) != 1:
            raise ExportError(f"expected metadata of up to {len(self._room)} characters, got {len(text)}: name less")
        content = self._body.replace(self._room.encode(), text.encode())
        return SEAL.sub(b'"seal": "%s"' % _digest(content).encode(), content)


def _refusal(program: Any, error: Exception) -> ExportError:
    lacking = r"(?:Missing out variants: \{'|Operator torch\._ops\.)(\w+)(?:::|\.)(\w+)"
    operator = re.search(lacking, str(error))
    if operator is None:
        return ExportError(f"expected a net that can be expressed in ExecuTorch, got {cause_of(error)}: type --to onnx")
    name = ".".join(operator.groups())
    return ExportError(
        f"expected operators that ExecuTorch has, got {name}{layer_of(program, name)}: replace it, or type --to onnx"
    )


class Program(nn.Module):
    """A .pte that ardor exported as a net: images (B, C, H, W) in [0, 1] to float32 logits (B, classes), one by one.

    Computed by ExecuTorch's runtime, without gradients.

    Parameters
    ----------
    file : str, Path or bytes
        The file, or its content.

    Attributes
    ----------
    metadata : dict
        The metadata of the file (docs/reference/export.md lists the keys).
    class_names : tuple of str
        In the order of the logits.
    digest : (32,) uint8 Tensor
        A buffer, the file's SHA-256, so that `hash_of` distinguishes files.

    Raises
    ------
    ConfigError: no executorch. CheckpointError: missing, not exported by ardor, or changed since. ExportError: the
    runtime lacks an operator. ModelError: its logits of the probe are not the recorded ones.
    """

    digest: Tensor

    def __init__(self, file: str | Path | bytes) -> None:
        super().__init__()
        self.name = "the exported program" if isinstance(file, bytes) else str(file)
        content = read(file, "a .pte file")
        self.metadata = _metadata(content, self.name)
        self.class_names = tuple(map(str, self.metadata["classes"]))
        self.shape: tuple[int, int, int] = tuple(self.metadata["input"]["shape"])
        self._run = runner(content, self.name)
        self.register_buffer("digest", digest(content))
        version = importlib.metadata.version("executorch")
        vars(self)["built_as"] = {"name": self.name, "runtime": f"executorch {version}", "to": self.metadata["to"]}
        self.eval()
        require_probe(self, self.metadata)

    @property
    def without_gradients(self) -> str:
        """Why the file has no gradients, for its reports: see `ardor.evaluation.checks`."""
        return f"{self.name} computes on ExecuTorch, which gives no gradients"

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes). Raises ModelError for images of another shape, or where a gradient is requested."""
        require_images(self, x)
        if torch.is_grad_enabled() and x.requires_grad:
            raise ModelError(
                f"expected an attack without gradients on {self.name}, got one that differentiates: take "
                "ardor.attacks.suites.square, or transfer with a net of your own"
            )
        return self._run(x).to(x.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self  # immutable, and the runtime's program cannot be copied


def runner(content: bytes, name: str = "the exported program") -> Callable[[Tensor], Tensor]:
    """The program in `content` as a function of images (B, C, H, W) that returns logits (B, classes) on the CPU.

    Raises
    ------
    ConfigError: no executorch. ExportError: the runtime cannot load the program.
    """
    runtime = _package("executorch.runtime")
    try:
        program = runtime.Runtime.get().load_program(content)
        method = program.load_method("forward")
    except Exception as error:  # RuntimeErrors with ExecuTorch's codes
        raise ExportError(
            f"expected a program that this ExecuTorch runs, got {cause_of(error)} from {name}: export it again"
        ) from error

    def run(x: Tensor) -> Tensor:
        one = torch.empty(
            1, *x.shape[1:], dtype=torch.float32
        )  # contiguous: the runtime reads strides, and those of a slice may be any
        return torch.cat([method.execute([one.copy_(image[None])])[0] for image in x.detach()])

    vars(run)["program"] = program  # which holds the bytes that the method points into
    return run


def _package(name: str) -> Any:
    with quiet():
        return require_package(name, "executorch", "--to executorch")


def _pooled(module: Any) -> Any:
    """Means over height and width as XNNPACK has them, with both dimensions kept, and a squeeze after each."""
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten.mean.dim and len(node.args) == 2 and node.args[0].meta["val"].ndim == 4:
            image, dims = node.args
            if sorted(d % 4 for d in dims) == [2, 3]:
                with module.graph.inserting_after(node):
                    flat = module.graph.call_function(torch.ops.aten.squeeze.dims, (node, [2, 3]))
                node.replace_all_uses_with(flat, delete_user_cb=lambda user, flat=flat: user is not flat)
                node.args = (image, [-1, -2], True)
    module.recompile()
    return module


def _flat(module: Any) -> Any:
    """The squeeze behind a mean as a reshape, which XNNPACK has too; but not, in executorch 1.5, of INT8 values."""
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.squeeze.dims and list(node.args[1]) == [2, 3]:
            node.target, node.args = torch.ops.aten.reshape.default, (node.args[0], [1, -1])
    module.recompile()
    return module


def quantised(module: Any, images: Split) -> Any:
    """A traced module with INT8 weights (one scale per output channel) and activations (one scale per tensor).

    images: their ranges scale the activations. Raises DataError for other than training images.
    """
    batches = calibration_batches(images)
    pt2e = _package("torchao.quantization.pt2e.quantize_pt2e")
    xnnpack = _package(f"{_XNNPACK}.quantizer.xnnpack_quantizer")
    config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    observed = pt2e.prepare_pt2e(module, xnnpack.XNNPACKQuantizer().set_global(config))
    with torch.no_grad():
        for batch in batches:
            observed(batch)
    return pt2e.convert_pt2e(observed)


def _calls(graph: Any) -> int:
    """Operators in a graph, without those that only take results apart or call what XNNPACK was given."""
    names = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    return sum(not re.search("getitem|call_delegate|alloc", name) for name in names)


def _digest(content: bytes) -> str:
    """The hash of a file with zeros in the place of its seal. Raises ValueError unless there is exactly one."""
    blank, times = SEAL.subn(b'"seal": "%s"' % (b"0" * 64), content)
    if times != 1:
        raise ValueError(f"{times} seals")
    return hashlib.sha256(blank).hexdigest()


def _metadata(content: bytes, name: str) -> dict[str, Any]:
    """The JSON text in the file, checked before the program is run. Raises CheckpointError."""
    match = SEAL.search(content)
    if match is None:
        raise CheckpointError(
            f"expected a .pte that ardor exported, got {name}, without a seal: copy it again, or export it with ardor"
        )
    try:
        if _digest(content) != match[1].decode():
            raise ValueError("other bytes than were sealed")
        start = content.rindex(b'{"format": "', 0, match.start())
        text = content[start : content.index(b"\0", start)]
    except ValueError as error:
        raise CheckpointError(f"expected {name} as it was exported, got {error}: copy or export it again") from error
    return metadata_in(text, name)
