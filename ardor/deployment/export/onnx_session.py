"""Session: an ONNX file as a net that computes on onnxruntime, with what its metadata says checked."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ardor.deployment.export.seal import FORMAT, KEY, SEAL, is_sealed, probe
from ardor.deployment.export.simulated import Simulated
from ardor.errors import CheckpointError, ExportError, ModelError
from ardor.storage.imports import require_package

log = logging.getLogger(__name__)

TOLERANCE = {"onnx": 1e-3, "onnx-int8": 0.25}
"""How far the probe's logits may be from the recorded ones, beside their length: processors round INT8 differently."""


class _Scored(torch.autograd.Function):
    """The runtime's logits, with the gradients of the simulated ones: what is claimed is what the file itself says."""

    @staticmethod
    def forward(ctx: Any, simulated: Tensor, logits: Tensor) -> Tensor:
        return logits.to(simulated)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class Session(nn.Module):
    """An ONNX file as a net: images (B, C, H, W) in [0, 1] to float32 logits (B, classes), computed by onnxruntime.

    Where a gradient is asked for, it is that of the simulated graph (see `simulated`), and the logits are still the
    runtime's. A file of somebody else's has none.

    metadata: what the file says of itself, {} for a file that ardor did not export; such a file is a black box, taken
    to want images as every net here does, and `foreign` says so. class_names: () where they are unknown. threads: of
    onnxruntime, torch's own number by default. The buffer `digest` (32,) is the file's SHA-256, so that `hash_of`
    tells files apart.

    Raises ConfigError without onnxruntime. CheckpointError: not there, corrupt, or not as it was exported. ExportError:
    an operator that the runtime lacks, named with its layer. ModelError: a graph that takes other images than the
    metadata says, or than a net here may.
    """

    digest: Tensor

    def __init__(self, file: str | Path | bytes, *, threads: int | None = None) -> None:
        super().__init__()
        ort = require_package("onnxruntime", "onnx", "an ONNX file")
        self.name = "the exported model" if isinstance(file, bytes) else str(file)
        content = file if isinstance(file, bytes) else _read(Path(file))
        self._threads, self._sessions = threads, dict[int, Any]()
        # by its path where it has one: weights of somebody else's may lie beside it
        self._source = file if isinstance(file, bytes) else self.name
        try:
            self.session  # noqa: B018 (opened once here, to see that it can be)
        except Exception as error:  # onnxruntime's own, one class per status
            raise _refusal(content, self.name, error) from error
        self.register_buffer("digest", torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8))
        vars(self)["built_as"] = {"name": Path(self.name).name, "runtime": f"onnxruntime {ort.__version__}"}
        self._content = content
        self._simulated: list[Simulated] = []  # in a list, so that its weights are not the file's
        self._read_graph()
        self._read_metadata(content)
        self.eval()

    @property
    def session(self) -> Any:
        """The onnxruntime.InferenceSession for as many threads as torch has now, or those that were asked for."""
        threads = torch.get_num_threads() if self._threads is None else self._threads
        if threads not in self._sessions:
            ort = require_package("onnxruntime", "onnx", "an ONNX file")
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.log_severity_level = 4  # what matters is raised
            words = {"providers": ["CPUExecutionProvider"], "disable_fallback": True}  # else it prints what went wrong
            self._sessions[threads] = ort.InferenceSession(self._source, options, **words)
        return self._sessions[threads]

    @property
    def foreign(self) -> bool:
        """Whether somebody else made the file: nothing is known of it but its input and output."""
        return not self.metadata

    @property
    def without_gradients(self) -> str:
        """Why there are none, as every report of the file must say; empty where there are: see docs/findings.md."""
        if self.foreign:
            return (
                f"{self.name} was not exported by ardor: it is judged as a black box, its images taken as (B, C, H, W) "
                "in [0, 1]"
            )
        try:
            self.simulated  # noqa: B018 (whether there is one is the question)
        except ExportError as error:
            return f"{self.name} computes on onnxruntime, which gives no gradients ({error})"
        return ""

    @property
    def simulated(self) -> Simulated:
        """The graph with gradients. Raises ModelError for a black box, ExportError for an operator that has none."""
        if self.foreign:
            raise ModelError(
                f"expected an attack without gradients on {self.name}, a black box, got one that differentiates: "
                "type --suite square, or --suite transfer with a net of your own"
            )
        if not self._simulated:
            self._simulated.append(Simulated(self._content))
        return self._simulated[0]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes). Raises ModelError for images of another shape; `simulated` says what else."""
        if x.ndim != 4 or any(want not in (None, got) for want, got in zip(self.shape, x.shape[1:], strict=True)):
            wanted = ", ".join("?" if n is None else str(n) for n in self.shape)
            raise ModelError(
                f"expected images (B, {wanted}) for {self.name}, got {tuple(x.shape)}: take the data it was made for"
            )
        images = x.detach().to("cpu", torch.float32).contiguous()
        parts = [images] if self._batch is None else images.split(self._batch)
        logits = torch.cat([self._run(part) for part in parts])
        if torch.is_grad_enabled() and x.requires_grad:
            logits = _Scored.apply(self.simulated(x.to("cpu", torch.float32)), logits)  # type: ignore[no-untyped-call]
        return logits.to(x.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        return self  # it never changes, and onnxruntime's session cannot be copied

    def _run(self, x: Tensor) -> Tensor:
        """One batch; a file with a fixed batch gets the last image again until it is full."""
        fill = 0 if self._batch is None else self._batch - len(x)
        padded = torch.cat([x, x[-1:].expand(fill, *x.shape[1:])]) if fill else x
        try:
            (logits,) = self.session.run([self._output], {self._input: padded.numpy()})
        except Exception as error:  # a kernel that refuses: a reshape with a fixed batch inside, say
            cause = " ".join(str(error).split())[:200]
            raise ModelError(f"expected {self.name} to take {len(x)} images, got {cause}: export it again") from error
        return torch.from_numpy(logits)[: len(x)]

    def _read_graph(self) -> None:
        """Names, shapes and dtypes of the one input and the one output. Raises ModelError."""
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(
                f"expected one input and one output in {self.name}, got {len(inputs)} and {len(outputs)}: export the "
                "net alone, from images to logits"
            )
        (image,), (logits,) = inputs, outputs
        if image.type != "tensor(float)" or logits.type != "tensor(float)" or len(image.shape) != 4:
            raise ModelError(
                f"expected {self.name} to take float32 images (B, C, H, W) and to give float32 logits, got "
                f"{image.type} {image.shape} to {logits.type} {logits.shape}: export it with normalisation inside"
            )
        if len(logits.shape) != 2:
            raise ModelError(
                f"expected logits (B, classes) from {self.name}, got {logits.shape}: export images to logits"
            )
        batch, *shape = (n if isinstance(n, int) and n > 0 else None for n in image.shape)
        if shape[2] in (1, 3) and shape[0] not in (1, 3, None):
            raise ModelError(
                f"expected images (B, C, H, W) for {self.name}, got {image.shape}, which looks like (B, H, W, C): "
                "transpose inside the graph"
            )
        self._input, self._output, self._batch, self.shape = image.name, logits.name, batch, tuple(shape)

    def _read_metadata(self, content: bytes) -> None:
        """Take the metadata, if it is ours, and hold the graph against it. Raises CheckpointError, ModelError."""
        held = self.session.get_modelmeta().custom_metadata_map
        self.metadata: dict[str, Any] = {}
        self.class_names: tuple[str, ...] = ()
        if not {KEY, SEAL} & set(held):
            log.warning("%s", self.without_gradients)
            return
        try:
            said = json.loads(held.get(KEY, ""))
            if said["format"] != FORMAT:
                raise ValueError(f"format {said['format']}")
            self._require_as_said(said)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"expected metadata of the format {FORMAT} in {self.name}, got {type(error).__name__}: {error}: export "
                "it again with this version"
            ) from error
        if not is_sealed(content, held.get(SEAL, "")):
            raise CheckpointError(f"expected {self.name} as it was exported, got other bytes: copy or export it again")
        self._source = content  # whatever comes to lie at its path later
        self.metadata, self.class_names = said, tuple(map(str, said["classes"]))
        vars(self)["built_as"]["to"] = said["to"]

    def _require_as_said(self, said: dict[str, Any]) -> None:
        """The graph's own input and the metadata agree, and so do the logits of the probe."""
        wants = said["input"]
        if (wants["layout"], wants["range"]) != ("NCHW", [0, 1]):
            raise ModelError(
                f"expected a file for images (B, C, H, W) in [0, 1], got {self.name} for {wants['layout']} in "
                f"{wants['range']}: export it with ardor"
            )
        if list(self.shape) != wants["shape"]:
            raise ModelError(
                f"expected the input of {self.name} as its metadata says, (B, {', '.join(map(str, wants['shape']))}), "
                f"got (B, {', '.join(map(str, self.shape))}): export it again"
            )
        recorded = torch.tensor(said["probe"])
        logits = self(probe((wants["shape"][0], wants["shape"][1], wants["shape"][2])))[0]
        far = float((logits - recorded).norm()) if logits.shape == recorded.shape else float("inf")
        if not far <= TOLERANCE[said["to"]] * float(recorded.norm()) + 1e-6:
            raise ModelError(
                f"expected {self.name} to answer its metadata's probe with {_digits(recorded)}, got {_digits(logits)}: "
                "its graph takes another range, layout or normalisation than it says, or this runtime computes "
                "otherwise; export it again"
            )


def _digits(logits: Tensor) -> list[float]:
    return [round(float(v), 3) for v in logits[:3]]


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"expected an ONNX file, got {path} ({error.strerror}): check the path") from error
    if content.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"expected an ONNX file, got {path}, a Git LFS pointer: type git lfs pull there")
    if not content:
        raise CheckpointError(f"expected an ONNX file, got {path}, which is empty: copy or export it again")
    return content


def _refusal(content: bytes, name: str, error: Exception) -> Exception:
    """A file that is no model, or an operator that is missing, named with its layer."""
    status = r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .* failed:)?"
    cause = " ".join(re.sub(status, "", str(error)).split())
    node, operator = "", ""
    if found := re.search(r"implementation for (\w+)\(\d+\) node with name '([^']*)'", cause):
        operator, node = found[1], found[2]
    elif found := re.search(r'In Node, \("([^"]*)", (\w+),.*No Op registered for', cause):
        node, operator = found[1], found[2]
    elif found := re.search(r"of operator \((\w+)\) in node \(([^)]*)\) is invalid", cause):
        operator, node = found[1], found[2]
    elif found := re.search(r"error: (\S+)\(-?\d+\) is not a registered function/op", cause):
        operator = found[1]
        node = _node_of(content, operator)
    if not operator:
        return CheckpointError(f"expected a whole ONNX file, got {name} ({cause[:200]}): copy or export it again")
    where = f" in the layer {node.rpartition('/')[0] or node}" if node else ""
    return ExportError(
        f"expected operators that onnxruntime has, got {operator}{where} of {name}: replace it in the net, or take a "
        "build of onnxruntime that has it"
    )


def _node_of(content: bytes, operator: str) -> str:
    """The first node with this DOMAIN:OPERATOR, where the package onnx is there to look for it."""
    domain, _, kind = operator.rpartition(":")
    try:
        model = require_package("onnx", "onnx", "an ONNX file").load_from_string(content)
    except Exception:  # without the package the operator alone must do
        return ""
    return next((str(n.name) for n in model.graph.node if (n.domain, n.op_type) == (domain, kind)), "")
