"""The papers' experiments by one command: cells are runs of `ardor train`, judged and laid out as tables.

tables.py    which cells a table has, each as the words of a command
scales.py    smoke, small and full: the nets, the epochs and how many images
labels.py    the study's method: which labels, in the inner and in the outer problem
cell.py      a cell's folder: how far it is, and what made it
work.py      take the cells that nobody has taken, until none is left
plan.py      what it will cost, before anything long starts
published.py the papers' figures
sheet.py     ours beside them, as CSV, Markdown and HTML
"""

from ardor.bench.plan import plan
from ardor.bench.sheet import write_sheets
from ardor.bench.tables import TABLES, Table, table_of
from ardor.bench.work import work

__all__ = ["TABLES", "Table", "plan", "table_of", "work", "write_sheets"]
