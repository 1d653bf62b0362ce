"""What every test runs under: one torch thread, so that runs compare, and reproducible hypothesis examples."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("ardor", deadline=None, derandomize=True, max_examples=40, print_blob=True)
settings.load_profile("ardor")


@pytest.fixture(autouse=True)
def freed_memory_goes_back(request, monkeypatch):
    """What a command does to the allocator cannot be taken back, and tests of memory run in the same process."""
    if request.path.name != "test_threads.py":
        monkeypatch.setattr("ardor.threads.keep_memory", lambda: False)
