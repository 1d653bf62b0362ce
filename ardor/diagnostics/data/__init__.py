"""Whether a data set can be trained on: `examine_data`, before hours are spent; and `keep_confident` of extra ones."""

from ardor.diagnostics.data.confidence import Kept, keep_confident
from ardor.diagnostics.data.examination import examine_data
from ardor.diagnostics.data.report import DataReport

__all__ = ["DataReport", "Kept", "examine_data", "keep_confident"]
