"""Checks on the net, the data and the attacks: each returns a finding with its evidence, or None.

Each has one threshold, the constant above it, and a section in docs/concepts/findings.md. A point is 1 % of all images
judged.
`data.of_data`, `net.of_net`, `exported.of_file`, `attacks.of_report` and `recipe.of_recipe` return all findings of
each; a consequence of another finding is removed by `findings.without_consequences`.
"""

from ardor.evaluation.checks import attacks, data, exported, net, recipe

__all__ = ["attacks", "data", "exported", "net", "recipe"]
