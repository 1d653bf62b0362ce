"""Float32, ONNX and INT8 of one net side by side: size, latency and robustness of each."""

from ardor.deployment.variants.comparison import VARIANTS, DeploymentReport, Variant
from ardor.deployment.variants.latency import Latency, latencies

__all__ = ["VARIANTS", "DeploymentReport", "Latency", "Variant", "latencies"]
