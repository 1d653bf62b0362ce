"""The variants of one net side by side: size, latency and robustness of each."""

from ardor.deployment.variants.comparison import VARIANTS, DeploymentReport, Variant, size_text
from ardor.deployment.variants.latency import Latency, latencies
from ardor.evaluation.comparison.significance import p_text

__all__ = ["VARIANTS", "DeploymentReport", "Latency", "Variant", "latencies", "p_text", "size_text"]
