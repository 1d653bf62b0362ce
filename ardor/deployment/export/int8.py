"""An ONNX graph to an INT8 one: ONNX Runtime's static quantisation, QDQ, per channel, from calibration images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
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

    A batch norm that cannot be folded into a convolution stays float32: its weights are no matrix.

    Parameters
    ----------
    body : bytes
        A serialised float32 ONNX model.
    images : Split
        Training images; their ranges scale the activations.

    Raises
    ------
    DataError: other than training images. ExportError: onnxruntime cannot quantise the graph.
    """
    inputs = ({IMAGES: batch.numpy()} for batch in calibration_batches(images))
    onnx = require_package("onnx", "onnx", "INT8")
    quantization = require_package("onnxruntime.quantization", "onnx", "INT8")
    shapes = require_package("onnxruntime.quantization.shape_inference", "onnx", "INT8")
    model = onnx.load_from_string(body)
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            prepared, result = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
            shapes.quant_pre_process(model, prepared)
            quantization.quantize_static(
                prepared,
                result,
                SimpleNamespace(get_next=lambda: next(inputs, None)),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                reduce_range=True,  # with 8 bits, x86 processors without VNNI saturate: other logits
                nodes_to_exclude=[node.name for node in model.graph.node if node.op_type == "BatchNormalization"],
            )
            model = onnx.load(result)
    except Exception as error:  # the quantiser's own are bare Exceptions
        raise ExportError(
            f"expected a graph that onnxruntime can quantise, got {cause_of(error)}: type --to onnx"
        ) from error
    return _bare(model)


def calibration_batches(images: Split) -> Iterator[Tensor]:
    """Images (B, C, H, W) on the CPU, batch by batch. Raises DataError for other than training images."""
    require_training(images)
    return (images.batch(slice(first, first + BATCH))[0].cpu() for first in range(0, len(images), BATCH))


def require_training(images: Split) -> None:
    """Refuse to calibrate on images that the net is evaluated on. Raises DataError."""
    if images.part != "train":
        raise DataError(
            f"expected training images to calibrate on, got {images.name} ({images.part}): pass the first split of "
            "ardor.data.load; test images must not shape what is judged on them"
        )


def _bare(model: Any) -> bytes:
    """Without the unused domains that the runtime's optimiser declares and that other runtimes refuse."""
    used = {node.domain for node in model.graph.node}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    del model.graph.value_info[:]
    del model.metadata_props[:]
    content: bytes = model.SerializeToString(deterministic=True)
    return content
