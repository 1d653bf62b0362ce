"""What every test runs under: one torch thread, so that runs compare, and reproducible hypothesis examples."""

import torch
from hypothesis import settings

from ardor.cli.commands.train import TrainWords
from ardor.cli.main import parse

pytest_plugins = ["for_bench", "for_export", "for_gate"]  # fixtures that several files share

torch.set_num_threads(1)
settings.register_profile("ardor", deadline=None, derandomize=True, max_examples=40, print_blob=True)
settings.load_profile("ardor")


def job_of(words):
    """The run that `ardor train WORDS` would train."""
    _, bound, more = parse(["train", *words])
    return bound.arguments.get("words", TrainWords()).job(bound.arguments.get("recipe"), more["overrides"])
