"""Settings of all tests: repeatable properties, no windows."""

import matplotlib
import pytest
import torch
from hypothesis import settings

matplotlib.use("Agg")
settings.register_profile("study", derandomize=True, deadline=None)
settings.load_profile("study")


@pytest.fixture
def one_thread():
    """Let torch compute on one thread, as the workers of a sweep do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
