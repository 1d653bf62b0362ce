"""What every test runs under: one torch thread, so that runs compare, and reproducible hypothesis examples."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("ardor", deadline=None, derandomize=True, max_examples=40, print_blob=True)
settings.load_profile("ardor")
