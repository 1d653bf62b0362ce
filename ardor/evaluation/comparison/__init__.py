"""Two nets on the same images: the difference, its interval, and what it is worth."""

from ardor.evaluation.comparison.difference import Difference
from ardor.evaluation.comparison.paired import compare
from ardor.evaluation.comparison.result import Comparison

__all__ = ["Comparison", "Difference", "compare"]
