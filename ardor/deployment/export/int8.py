"""An ONNX graph to an INT8 one: ONNX Runtime's static quantisation, QDQ, per channel, from calibration images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ardor.data.split import Split
from ardor.deployment.export.onnx_graph import IMAGES, cause_of, quiet
from ardor.errors import DataError, ExportError
from ardor.storage.imports import require_package

BATCH = 64
"""Calibration images that are computed at once."""


def quantised(body: bytes, images: Split) -> bytes:
    """The model in `body` with INT8 weights (one scale per output channel) and activations (one scale per tensor).

    images: their ranges scale the activations; only the part "train" may be used. A batch norm that no convolution
    could take up stays float32: its weights are no matrix. Raises DataError, ExportError.
    """
    require_training(images)
    onnx = require_package("onnx", "onnx", "INT8")
    quantization = require_package("onnxruntime.quantization", "onnx", "INT8")
    shapes = require_package("onnxruntime.quantization.shape_inference", "onnx", "INT8")
    model = onnx.load_from_string(body)
    kept = [node.name for node in model.graph.node if node.op_type == "BatchNormalization"]
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
            shapes.quant_pre_process(model, prepared)
            quantization.quantize_static(
                prepared,
                made,
                _Reader(images),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                nodes_to_exclude=kept,
            )
            model = onnx.load(made)
    except Exception as error:  # the quantiser's own are bare Exceptions
        raise ExportError(
            f"expected a graph that onnxruntime can quantise, got {cause_of(error)}: type --to onnx"
        ) from error
    _plain(model)
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised


def require_training(images: Split) -> None:
    """Refuse to calibrate on images that the net is judged on. Raises DataError."""
    if images.part != "train":
        raise DataError(
            f"expected training images to calibrate on, got {images.name} ({images.part}): pass the first split of "
            "ardor.data.load; test images must not shape what is judged on them"
        )


class _Reader:
    """Batches as onnxruntime asks for them."""

    def __init__(self, images: Split) -> None:
        self._batches: Iterator[Tensor] = (
            images.batch(slice(first, first + BATCH))[0] for first in range(0, len(images), BATCH)
        )

    def get_next(self) -> dict[str, Any] | None:
        """The next batch by the input's name, None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {IMAGES: batch.cpu().numpy()}

    def __len__(self) -> int:
        return 0


def _plain(model: Any) -> None:
    """Without the domains that the runtime's optimiser declares and the graph does not use: other runtimes refuse."""
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    del model.graph.value_info[:]
    del model.metadata_props[:]
