"""Verdicts per image and attack, the report derived from them, and what could be wrong with it."""

from ardor.evaluation.findings import Finding
from ardor.evaluation.report import Report
from ardor.evaluation.variance import variance_gap
from ardor.evaluation.verdicts import evaluate

__all__ = ["Finding", "Report", "evaluate", "variance_gap"]
