"""Functions that distrust the model and the data: each returns a finding with its evidence, or None.

Each has one threshold, the constant above it, and a section in docs/findings.md. A point is 1 % of all images judged.
`of_data`, `of_net`, `of_file`, `of_report` and `of_recipe` gather what can be seen there; what one disease does to
other figures is not reported as a second one: `without_consequences`. `ardor.diagnostics` runs the
attacks that `of_report` judges.
"""

from ardor.evaluation.checks.attacks import black_box as black_box
from ardor.evaluation.checks.attacks import few_classes as few_classes
from ardor.evaluation.checks.attacks import more_steps as more_steps
from ardor.evaluation.checks.attacks import of_report as of_report
from ardor.evaluation.checks.attacks import one_step_wins as one_step_wins
from ardor.evaluation.checks.attacks import pgd_above_autoattack as pgd_above_autoattack
from ardor.evaluation.checks.attacks import record as record
from ardor.evaluation.checks.attacks import restarts as restarts
from ardor.evaluation.checks.attacks import sweep as sweep
from ardor.evaluation.checks.data import image_range as image_range
from ardor.evaluation.checks.data import of_data as of_data
from ardor.evaluation.checks.data import selection as selection
from ardor.evaluation.checks.exported import few_calibration as few_calibration
from ardor.evaluation.checks.exported import gradients_simulated as gradients_simulated
from ardor.evaluation.checks.exported import hidden_by_quantisation as hidden_by_quantisation
from ardor.evaluation.checks.exported import of_file as of_file
from ardor.evaluation.checks.exported import saturated as saturated
from ardor.evaluation.checks.net import batch_mates as batch_mates
from ardor.evaluation.checks.net import constant as constant
from ardor.evaluation.checks.net import float16 as float16
from ardor.evaluation.checks.net import logits_of as logits_of
from ardor.evaluation.checks.net import nan_gradients as nan_gradients
from ardor.evaluation.checks.net import of_net as of_net
from ardor.evaluation.checks.net import probabilities as probabilities
from ardor.evaluation.checks.net import randomised as randomised
from ardor.evaluation.checks.net import training_mode as training_mode
from ardor.evaluation.checks.net import zero_gradients as zero_gradients
from ardor.evaluation.checks.recipe import of_recipe as of_recipe
