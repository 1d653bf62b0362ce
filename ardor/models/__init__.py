"""Nets: `__all__` names the builders; build makes one, load brings one with weights, require_fit checks it."""

from ardor.models.builders import build as build
from ardor.models.builders import builder as builder
from ardor.models.builders import find_builder as find_builder
from ardor.models.fit import require_fit as require_fit
from ardor.models.known import KNOWN as KNOWN
from ardor.models.known import Known as Known
from ardor.models.known import known_of as known_of
from ardor.models.known import require_known as require_known
from ardor.models.loading import load as load
from ardor.models.mobilenet_v2 import mobilenet_v2
from ardor.models.resnet import resnet18, resnet50
from ardor.models.small import small_cnn
from ardor.models.weights import hash_of as hash_of
from ardor.models.weights import load_weights as load_weights
from ardor.models.wide_resnet import wide_resnet, wide_resnet_silu

__all__ = ["mobilenet_v2", "resnet18", "resnet50", "small_cnn", "wide_resnet", "wide_resnet_silu"]
