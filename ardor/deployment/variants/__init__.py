"""The variants of one net side by side: size, latency and robustness of each."""

from ardor.deployment.variants.comparison import VARIANTS, DeploymentReport, Variant, p_text, size_text
from ardor.deployment.variants.latency import Latency, latencies

__all__ = ["VARIANTS", "DeploymentReport", "Latency", "Variant", "latencies", "p_text", "size_text"]
