"""What every test runs under: one torch thread, so that runs compare, and reproducible hypothesis examples."""

import pytest
import torch
from hypothesis import settings

pytest_plugins = ["for_bench", "for_export", "for_gate"]  # fixtures that several files share

torch.set_num_threads(1)
settings.register_profile("ardor", deadline=None, derandomize=True, max_examples=40, print_blob=True)
settings.load_profile("ardor")


@pytest.fixture(autouse=True, scope="session")
def freed_memory_goes_back():
    """What a command does to the allocator cannot be taken back, and tests of memory run in the same process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ardor.engine.threads.keep_memory", lambda: False)
        yield
