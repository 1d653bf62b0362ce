"""The papers' tables, studies and sweeps: cells are training runs, evaluated and laid out as tables.

tables.py       which cells a table has, each as a config
field.py        every method, and every ingredient of a recipe
scales.py       smoke, small and full: nets, epochs and number of images
label_study.py  the study's method: which labels, in the inner and in the outer problem
cell.py         a cell: one net and its evaluations
cells.py        a cell's folder: its state and what it was made from
worker.py       make one cell
coordinator.py  run cells in the order of their needs, in this process
ray_engine.py   on Ray, several at once
axes.py         options that vary in a sweep, and their values
sweep.py        the cells of a sweep
trials.py       cells that Optuna suggests
sweep_sheet.py  a sweep's figures
cost.py         the cost, before anything long starts
published.py    the papers' figures
rows.py         the figures of each row, over its seeds
notes.py        the remarks below a table
figures.py      the figures of the variance gap
sheet.py        all of it as CSV, Markdown and HTML
"""

from ardor.experiments.coordinator import make_only, work
from ardor.experiments.cost import plan
from ardor.experiments.sheet import write_sheets
from ardor.experiments.sweep import grid, run_sweep
from ardor.experiments.tables import TABLES, Table, table_of

__all__ = ["TABLES", "Table", "grid", "make_only", "plan", "run_sweep", "table_of", "work", "write_sheets"]
