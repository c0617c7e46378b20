"""Settings of all tests: repeatable properties, no windows. A process that only hands out tests imports no torch."""

import os

import pytest
from hypothesis import settings

settings.register_profile("study", derandomize=True, deadline=None)
settings.load_profile("study")


def pytest_configure(config):
    """What workers side by side start, such as kernels, shares the cores: twice the threads take three times as long."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // workers)))


def pytest_collection_modifyitems(items):
    """No windows; one thread, as in workers, for small networks gain nothing by more; tests marked gpu need one."""
    import matplotlib
    import torch

    matplotlib.use("Agg")
    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_terminal_summary(terminalreporter):
    """Print what tests have measured, also those of other processes."""
    for report in sum(terminalreporter.stats.values(), []):
        for name, text in report.user_properties if getattr(report, "when", "") == "call" else ():
            terminalreporter.write_line(f"{name}: {text}")
