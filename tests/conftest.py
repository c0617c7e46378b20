"""Settings of all tests: repeatable properties, no windows."""

import matplotlib
import torch
from hypothesis import settings

matplotlib.use("Agg")
torch.set_num_threads(1)  # as workers do; small networks gain nothing by more
settings.register_profile("study", derandomize=True, deadline=None)
settings.load_profile("study")
