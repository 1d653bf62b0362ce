"""Figures of runs, evaluations and measurements, as matplotlib Figures.

They are made without pyplot, and matplotlib's settings stay as they were. A notebook shows the last one of a cell;
`figure.savefig("curves.png")` writes it. Each function takes one result, or several as a dict of names to results.
"""

from ardor.plot.proportions import accuracies
from ardor.plot.radii import radius, variance_gap
from ardor.plot.training import curves

__all__ = ["accuracies", "curves", "radius", "variance_gap"]
