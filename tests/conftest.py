"""What every test runs under: one torch thread, so that runs compare, and reproducible hypothesis examples."""

import torch
from hypothesis import settings

pytest_plugins = ["for_bench", "for_export", "for_gate"]  # fixtures that several files share

torch.set_num_threads(1)
settings.register_profile("ardor", deadline=None, derandomize=True, max_examples=40, print_blob=True)
settings.load_profile("ardor")
