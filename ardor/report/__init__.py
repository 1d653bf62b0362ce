"""Reports: verdicts per image to JSON, Markdown and one self-contained HTML page."""

from ardor.report.compare import comparison
from ardor.report.entry import Entry, Example
from ardor.report.gallery import examples
from ardor.report.page import write as write_page
from ardor.report.report import Report
from ardor.report.stats import Proportion, Summary, mean_sd, wilson

__all__ = [
    "Entry",
    "Example",
    "Proportion",
    "Report",
    "Summary",
    "comparison",
    "examples",
    "mean_sd",
    "wilson",
    "write_page",
]
