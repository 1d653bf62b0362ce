"""Reports of one or more nets as Markdown and as one self-contained HTML page."""

from ardor.reporting.entry import Example, PageEntry
from ardor.reporting.gallery import examples
from ardor.reporting.page import write as write_page
from ardor.reporting.table import comparison

__all__ = ["Example", "PageEntry", "comparison", "examples", "write_page"]
