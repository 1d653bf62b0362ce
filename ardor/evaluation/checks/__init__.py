"""Functions that distrust the model and the data: each returns a finding with its evidence, or None.

Each has one threshold, the constant above it, and a section in docs/findings.md. A point is 1 % of all images judged.
`data.of_data`, `net.of_net`, `exported.of_file`, `attacks.of_report` and `recipe.of_recipe` gather the findings of
each; a mere consequence of another finding is left out: `findings.without_consequences`.
"""

from ardor.evaluation.checks import attacks, data, exported, net, recipe

__all__ = ["attacks", "data", "exported", "net", "recipe"]
