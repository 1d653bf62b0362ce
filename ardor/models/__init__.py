"""Nets: `build` makes one, `load` one with weights, `require_fit` compares it with the data; the builders by name."""

from ardor.models.builders import build, builder, find_builder
from ardor.models.fit import require_fit
from ardor.models.known import KNOWN, Known, known_of, require_known
from ardor.models.loading import load
from ardor.models.mobilenet_v2 import mobilenet_v2
from ardor.models.resnet import resnet18, resnet50
from ardor.models.small import small_cnn
from ardor.models.weights import hash_of, load_weights
from ardor.models.wide_resnet import wide_resnet, wide_resnet_silu

__all__ = [
    "KNOWN",
    "Known",
    "build",
    "builder",
    "find_builder",
    "hash_of",
    "known_of",
    "load",
    "load_weights",
    "mobilenet_v2",
    "require_fit",
    "require_known",
    "resnet18",
    "resnet50",
    "small_cnn",
    "wide_resnet",
    "wide_resnet_silu",
]
