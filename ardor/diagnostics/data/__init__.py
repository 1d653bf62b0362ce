"""Whether a data set can be trained on as it is: `examine_data`, before hours are spent."""

from ardor.diagnostics.data.examination import examine_data
from ardor.diagnostics.data.report import DataReport

__all__ = ["DataReport", "examine_data"]
