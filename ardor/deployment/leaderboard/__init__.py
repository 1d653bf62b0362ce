"""Nets with their figures as files that are checked: entries of the package and of a leaderboard, and its page.

entry = leaderboard.make_entry("runs/rslad", "digits-cnn8-rslad")     # evaluates what the run has no report of
entry.save("leaderboard/digits-cnn8-rslad.json")
print(leaderboard.page(leaderboard.entries("leaderboard")))
"""

from ardor.deployment.leaderboard.entry import (
    ENTRY,
    RECIPE,
    Entry,
    entries,
    load_entry,
    shipped_entry,
    unevaluated,
)
from ardor.deployment.leaderboard.make import make_entry, recheck, recipe_of, require_name
from ardor.deployment.leaderboard.page import page

__all__ = [
    "ENTRY", "RECIPE", "Entry", "entries", "load_entry", "make_entry", "page", "recheck", "recipe_of",
    "require_name", "shipped_entry", "unevaluated",
]  # fmt: skip
