"""Session: an ONNX file as a net that computes on onnxruntime, its metadata checked."""

from __future__ import annotations

import hashlib
import logging
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ardor.deployment.export.seal import (
    KEY,
    SEAL,
    TOLERANCE,
    digest,
    is_sealed,
    metadata_in,
    probe,
    read,
    require_images,
    require_probe,
)
from ardor.deployment.export.simulated import Simulated, layer, require_same
from ardor.errors import CheckpointError, ExportError, ModelError
from ardor.noise import Noise
from ardor.storage.imports import require_package

log = logging.getLogger(__name__)

LACKING = (
    r"implementation for (?P<operator>\w+)\(\d+\) node with name '(?P<node>[^']*)'",
    r'In Node, \("(?P<node>[^"]*)", (?P<operator>\w+),.*No Op registered for',
    r"of operator \((?P<operator>\w+)\) in node \((?P<node>[^)]*)\) is invalid",
    r"error: (?P<operator>\S+)\(-?\d+\) is not a registered function/op(?P<node>)",
)
"""onnxruntime's messages for an operator that it lacks."""


class _Scored(torch.autograd.Function):
    """The runtime's logits with the gradients of the simulated ones: verdicts are those of the file itself."""

    @staticmethod
    def forward(ctx: Any, simulated: Tensor, logits: Tensor) -> Tensor:
        return logits.to(simulated)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class Session(nn.Module):
    """An ONNX file as a net: images (B, C, H, W) in [0, 1] to float32 logits (B, classes), computed by onnxruntime.

    Gradients are those of the simulated graph (see `simulated`), with the runtime's logits. A third-party file has
    none: it is a black box, assumed to take images as every net of ardor does.

    Parameters
    ----------
    file : str, Path or bytes
        The file, or its content.
    threads : int or None
        Of onnxruntime; None for torch's number, whatever it is at the time of the pass.

    Attributes
    ----------
    metadata : dict
        The metadata of the file (docs/reference/export.md lists the keys); {} for a third-party file.
    class_names : tuple of str
        In the order of the logits; () where they are unknown.
    digest : (32,) uint8 Tensor
        A buffer, the SHA-256 of the file and of those beside it that hold its weights: `hash_of` distinguishes files.

    Raises
    ------
    ConfigError: no onnxruntime. CheckpointError: missing, corrupt, or not as it was exported. ExportError: an operator
    that the runtime lacks, with its layer. ModelError: a graph for other images than its metadata has, or than a net
    of ardor takes.
    """

    digest: Tensor

    def __init__(self, file: str | Path | bytes, *, threads: int | None = None) -> None:
        super().__init__()
        ort = require_package("onnxruntime", "onnx", "an ONNX file")
        self.name = "the exported model" if isinstance(file, bytes) else str(file)
        self._content = read(file, "an ONNX file")
        self._threads, self._sessions = threads, dict[int, Any]()
        # by its path where it has one: a third-party file may have its weights in another beside it
        self._source = file if isinstance(file, bytes) else self.name
        try:
            self.session  # noqa: B018 (opened here, so that a bad file is refused at once)
        except Exception as error:  # onnxruntime's own, one class per status
            raise _refusal(self._content, self.name, error) from error
        self.register_buffer("digest", digest(self._content + _beside(file, self._content)))
        vars(self)["built_as"] = {"name": Path(self.name).name, "runtime": f"onnxruntime {ort.__version__}"}
        self._read_graph()
        self._read_metadata()
        self.eval()

    @property
    def session(self) -> Any:
        """The onnxruntime.InferenceSession for `threads` threads, or as many as torch has now."""
        threads = torch.get_num_threads() if self._threads is None else self._threads
        if threads not in self._sessions:
            ort = require_package("onnxruntime", "onnx", "an ONNX file")
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.log_severity_level = 4  # errors are raised
            providers = ["CPUExecutionProvider"]
            # with a fallback it prints errors
            self._sessions[threads] = ort.InferenceSession(self._source, options, providers, disable_fallback=True)
        return self._sessions[threads]

    @property
    def foreign(self) -> bool:
        """Whether the file is a third party's, with an input and an output and no metadata."""
        return not self.metadata

    @property
    def without_gradients(self) -> str:
        """Why the file has no gradients, for its reports; empty where it has: see docs/concepts/findings.md."""
        if self.foreign:
            return (
                f"{self.name} was not exported by ardor: it is judged as a black box, its images taken as (B, C, H, W) "
                "in [0, 1]"
            )
        try:
            self.simulated  # noqa: B018 (raises where there is none)
        except ExportError as error:
            return f"{self.name} computes on onnxruntime, which gives no gradients ({error})"
        return ""

    @cached_property  # which nn.Module does not register: the weights of the simulation are not the file's
    def simulated(self) -> Simulated:
        """The graph with gradients, its logits compared with the runtime's on four images.

        Raises ModelError for a black box, ExportError for a graph that is not simulated.
        """
        if self.foreign:
            raise ModelError(
                f"expected an attack without gradients on {self.name}, a black box, got one that differentiates: "
                "type --suite square, or --suite transfer with a net of your own"
            )
        simulated = Simulated(self._content)
        shape = self.metadata["input"]["shape"]
        noise = Noise(0, torch.arange(3), "simulated").uniform(shape)
        require_same(simulated, self._run, torch.cat([probe(shape), noise]), TOLERANCE[self.metadata["to"]])
        return simulated

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes). Raises ModelError for images of another shape, and what `simulated` raises."""
        require_images(self, x)
        images = x.detach().to("cpu", torch.float32).contiguous()
        logits = torch.cat([self._run(part) for part in images.split(self._batch or max(len(images), 1))])
        if torch.is_grad_enabled() and x.requires_grad:
            logits = _Scored.apply(self.simulated(x.to("cpu", torch.float32)), logits)  # type: ignore[no-untyped-call]
        return logits.to(x.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        return self  # immutable, and onnxruntime's session cannot be copied

    def _run(self, x: Tensor) -> Tensor:
        """One batch; a fixed batch is filled up with the last image."""
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
        kinds = [(value.type, len(value.shape)) for value in (image, logits)]
        if kinds != [("tensor(float)", 4), ("tensor(float)", 2)]:
            raise ModelError(
                f"expected {self.name} to take float32 images (B, C, H, W) and to return float32 logits (B, classes), "
                f"got {image.type} {image.shape} to {logits.type} {logits.shape}: export it from images to logits, "
                "with normalisation inside"
            )
        batch, *shape = (n if isinstance(n, int) and n > 0 else None for n in image.shape)
        if shape[2] in (1, 3) and shape[0] not in (1, 3, None):
            raise ModelError(
                f"expected images (B, C, H, W) for {self.name}, got {image.shape}, which looks like (B, H, W, C): "
                "transpose inside the graph"
            )
        self._input, self._output, self._batch, self.shape = image.name, logits.name, batch, tuple(shape)

    def _read_metadata(self) -> None:
        """The metadata of a file of ardor, checked against the graph. Raises CheckpointError, ModelError."""
        entries = self.session.get_modelmeta().custom_metadata_map
        self.metadata: dict[str, Any] = {}
        self.class_names: tuple[str, ...] = ()
        if not {KEY, SEAL} & set(entries):
            log.warning("%s", self.without_gradients)
            return
        metadata = metadata_in(entries.get(KEY, ""), self.name)
        image = metadata["input"]
        if (image["layout"], image["shape"], image["range"]) != ("NCHW", list(self.shape), [0, 1]):
            raise ModelError(
                f"expected metadata of {self.name} for its input, NCHW {list(self.shape)} in [0, 1], got "
                f"{image['layout']} {image['shape']} in {image['range']}: export it again with ardor"
            )
        require_probe(self, metadata)
        if not is_sealed(self._content, entries.get(SEAL, "")):
            raise CheckpointError(f"expected {self.name} as it was exported, got other bytes: copy or export it again")
        self._source = self._content  # the file at its path may change later
        self.metadata, self.class_names = metadata, tuple(map(str, metadata["classes"]))
        vars(self)["built_as"]["to"] = metadata["to"]


def _beside(file: str | Path | bytes, content: bytes) -> bytes:
    """Hashes of the files that an ONNX file names as the place of its weights; empty where it holds them itself."""
    if isinstance(file, bytes) or b"location" not in content:  # the key of such a name
        return b""
    folder = Path(file).absolute().parent
    paths = sorted(path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file())
    named = [
        path for path in paths if str(path.relative_to(folder)).encode() in content and path.name != Path(file).name
    ]
    return b"".join(hashlib.sha256(path.read_bytes()).digest() for path in named)


def _refusal(content: bytes, name: str, error: Exception) -> Exception:
    """A file that is no model, or an operator that is missing, with its layer."""
    status = r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .* failed:)?"
    cause = " ".join(re.sub(status, "", str(error)).split())
    lacking = next(filter(None, (re.search(pattern, cause) for pattern in LACKING)), None)
    if lacking is None:
        return CheckpointError(f"expected a whole ONNX file, got {name} ({cause[:200]}): copy or export it again")
    operator = lacking["operator"]
    where = layer(lacking["node"] or _node_of(content, operator))
    return ExportError(
        f"expected operators that onnxruntime has, got {operator}{where} of {name}: replace it in the net, or take a "
        "build of onnxruntime that has it"
    )


def _node_of(content: bytes, operator: str) -> str:
    """The name of the first node with this DOMAIN:OPERATOR; empty without the package onnx."""
    domain, _, kind = operator.rpartition(":")
    try:
        model = require_package("onnx", "onnx", "an ONNX file").load_from_string(content)
    except Exception:  # without the package the message has the operator alone
        return ""
    return next((str(n.name) for n in model.graph.node if (n.domain, n.op_type) == (domain, kind)), "")
