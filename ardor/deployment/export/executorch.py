"""An ExecuTorch program for phones: a net for one image at a time, computed by XNNPACK, float32 or INT8.

The batch is one: an application asks about one image, and memory is then planned for exactly that. What the file says
of itself is its constant method `ardor`, a JSON text: every ExecuTorch runtime can ask for it, it cannot be parted from
the program as a second file can, and it stands in the bytes as it is, for whoever has no runtime.
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
from ardor.deployment.export.int8 import BATCH, require_training
from ardor.deployment.export.onnx_graph import cause_of, layer_of, quiet
from ardor.deployment.export.seal import FORMAT, KEY, probe
from ardor.errors import CheckpointError, ExportError, ModelError
from ardor.storage.imports import require_package

TOLERANCE = {"executorch": 1e-3, "executorch-int8": 0.25}
"""How far the probe's logits may be from the recorded ones, beside their length."""

SEAL = re.compile(rb'"seal": "([0-9a-f]{64})"')
"""Where the hash of the file stands in it: of its bytes with 64 zeros in this place."""


class Lowered:
    """A traced net as the bytes of a .pte, lowered once: called with metadata, it puts them into the room left for it.

    room: characters. outside: the operators that XNNPACK does not compute, by ExecuTorch's names. share: of all
    operators, those it does. Raises ExportError for a net that ExecuTorch cannot say, DataError for calibration on
    other than training images.
    """

    def __init__(self, program: Any, calibrated: Split | None, room: int) -> None:
        exir, partitioner = _package("executorch.exir"), _package(f"{_XNNPACK}.partition.xnnpack_partitioner")
        self._program, self._room = program, "#" * room
        try:
            with quiet():
                module = _pooled(program.module())
                module = _flat(module) if calibrated is None else quantised(module, calibrated)
                shape = next(iter(program.example_inputs[0])).shape
                one = torch.export.export(module, (torch.zeros(1, *shape[1:]),))
                lowered = exir.to_edge_transform_and_lower(
                    one, partitioner=[partitioner.XnnpackPartitioner()], constant_methods={KEY: self._room}
                )
                graph = lowered.exported_program().graph_module
                made = lowered.to_executorch()
        except Exception as error:  # the packages' own, of many kinds
            raise self._refusal(error) from error
        self._body: bytes = made.buffer
        plans = made.executorch_program.execution_plan
        self.outside = tuple(sorted({operator.name for plan in plans for operator in plan.operators}))
        inside = sum(_calls(m.original_module.graph) for m in graph.modules() if hasattr(m, "original_module"))
        self.share = inside / (inside + _calls(graph.graph))

    def __call__(self, said: dict[str, Any] | None = None) -> bytes:
        """The file, sealed where it has metadata."""
        if said is None:
            return self._body
        text = json.dumps(said | {"seal": "0" * 64}).ljust(len(self._room))
        if len(text) > len(self._room) or self._body.count(self._room.encode()) != 1:
            raise ExportError(f"expected metadata of up to {len(self._room)} characters, got {len(text)}: name less")
        content = self._body.replace(self._room.encode(), text.encode())
        return SEAL.sub(b'"seal": "%s"' % _digest(content).encode(), content)

    def _refusal(self, error: Exception) -> ExportError:
        lacking = r"(?:Missing out variants: \{'|Operator torch\._ops\.)(\w+)(?:::|\.)(\w+)"
        operator = re.search(lacking, str(error))
        if operator is None:
            return ExportError(f"expected a net that ExecuTorch can say, got {cause_of(error)}: type --to onnx")
        name = ".".join(operator.groups())
        where = layer_of(self._program, name)
        return ExportError(f"expected operators that ExecuTorch has, got {name}{where}: replace it, or type --to onnx")


class Program(nn.Module):
    """A .pte that ardor exported as a net: images (B, C, H, W) in [0, 1] to float32 logits (B, classes), one by one.

    Computed by ExecuTorch's own runtime, without gradients. metadata: what the file says of itself. class_names: of the
    logits. The buffer `digest` (32,) is the file's SHA-256.

    Raises ConfigError without executorch. CheckpointError: not there, not ours, or not as it was exported. ExportError:
    the runtime lacks an operator. ModelError: it answers the probe otherwise than recorded.
    """

    digest: Tensor

    def __init__(self, file: str | Path | bytes) -> None:
        super().__init__()
        self.name = "the exported program" if isinstance(file, bytes) else str(file)
        content = file if isinstance(file, bytes) else _read(Path(file))
        self.metadata = _metadata(content, self.name)
        self.class_names = tuple(map(str, self.metadata["classes"]))
        self.shape: tuple[int, int, int] = tuple(self.metadata["input"]["shape"])
        self._run = runner(content, self.name)
        self.register_buffer("digest", torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8))
        version = importlib.metadata.version("executorch")
        vars(self)["built_as"] = {"name": self.name, "runtime": f"executorch {version}", "to": self.metadata["to"]}
        self.eval()
        self._require_probe()

    @property
    def without_gradients(self) -> str:
        """Why there are none, as every report of the file must say: see `ardor.evaluation.checks`."""
        return f"{self.name} computes on ExecuTorch, which gives no gradients"

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes). Raises ModelError for images of another shape, or where a gradient is asked for."""
        if x.ndim != 4 or x.shape[1:] != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise ModelError(
                f"expected images (B, {wanted}) for {self.name}, got {tuple(x.shape)}: take the data it was made for"
            )
        if torch.is_grad_enabled() and x.requires_grad:
            raise ModelError(
                f"expected an attack without gradients on {self.name}, got one that differentiates: take "
                "ardor.attacks.suites.square, or transfer with a net of your own"
            )
        return self._run(x).to(x.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self  # it never changes, and the runtime's program cannot be copied

    def _require_probe(self) -> None:
        recorded = torch.tensor(self.metadata["probe"])
        far = float((self(probe(self.shape))[0] - recorded).norm())
        if not far <= TOLERANCE[self.metadata["to"]] * float(recorded.norm()) + 1e-6:
            raise ModelError(
                f"expected {self.name} to answer its metadata's probe as recorded, got logits {far:.2g} away: this "
                "runtime computes otherwise; export it again with this version"
            )


def runner(content: bytes, name: str = "the exported program") -> Callable[[Tensor], Tensor]:
    """What the program in `content` makes of images (B, C, H, W): logits (B, classes) on the CPU."""
    runtime = _package("executorch.runtime")
    try:
        program = runtime.Runtime.get().load_program(content)
        method = program.load_method("forward")
    except Exception as error:  # RuntimeErrors with ExecuTorch's codes
        raise ExportError(
            f"expected a program that this ExecuTorch runs, got {cause_of(error)} from {name}: export it again"
        ) from error

    def run(x: Tensor) -> Tensor:
        one = torch.empty(1, *x.shape[1:])  # the runtime reads strides, which a slice of one image may have any of
        return torch.cat([method.execute([one.copy_(image[None])])[0] for image in x.detach()])

    vars(run)["program"] = program  # which holds the bytes that the method points into
    return run


_XNNPACK = "executorch.backends.xnnpack"


def _package(name: str) -> Any:
    with quiet():
        return require_package(name, "executorch", "--to executorch")


def _pooled(module: Any) -> Any:
    """Means over height and width that keep both, as XNNPACK has them, and a squeeze."""
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
    """INT8 weights with a scale per output channel, and activations with one per tensor, ranged by the images."""
    require_training(images)
    pt2e = _package("torchao.quantization.pt2e.quantize_pt2e")
    xnnpack = _package(f"{_XNNPACK}.quantizer.xnnpack_quantizer")
    config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    watched = pt2e.prepare_pt2e(module, xnnpack.XNNPACKQuantizer().set_global(config))
    with torch.no_grad():
        for first in range(0, len(images), BATCH):
            watched(images.batch(slice(first, first + BATCH))[0].cpu())
    return pt2e.convert_pt2e(watched)


def _calls(graph: Any) -> int:
    """Operators in a graph, without those that only take results apart or call what XNNPACK was given."""
    names = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    return sum("getitem" not in name and "call_delegate" not in name and "alloc" not in name for name in names)


def _digest(content: bytes) -> str:
    """The hash of a file with zeros for its own seal, which must be there once. Raises ValueError."""
    blank, times = SEAL.subn(b'"seal": "%s"' % (b"0" * 64), content)
    if times != 1:
        raise ValueError(f"{times} seals")
    return hashlib.sha256(blank).hexdigest()


def _metadata(content: bytes, name: str) -> dict[str, Any]:
    """The JSON text in the file, checked before the program is run. Raises CheckpointError."""
    found = SEAL.search(content)
    if found is None:
        raise CheckpointError(
            f"expected a .pte that ardor exported, got {name}, without a seal: copy it again, or export it with ardor"
        )
    try:
        if _digest(content) != found[1].decode():
            raise ValueError("other bytes than were sealed")
        start = content.rindex(b'{"format": "', 0, found.start())
        said: dict[str, Any] = json.loads(content[start : content.index(b"\0", start)])
        if said["format"] != FORMAT:
            raise ValueError(f"format {said['format']}")
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"expected {name} as it was exported, got {type(error).__name__}: {error}: copy or export it again"
        ) from error
    return said


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"expected a .pte file, got {path} ({error.strerror}): check the path") from error
