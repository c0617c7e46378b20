"""Settings of all tests: repeatable properties, no windows."""

import matplotlib
from hypothesis import settings

matplotlib.use("Agg")
settings.register_profile("study", derandomize=True, deadline=None)
settings.load_profile("study")
