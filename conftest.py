"""For the tests and the notebooks alike."""

import os
import shutil
from pathlib import Path

RUNS = Path(__file__).parent / "runs" / "tests"
os.environ["STUDY_RUNS"] = str(RUNS)  # leaves the results of your runs alone
LONGEST = (
    "04_heart_attack",
    "test_sweep",
    "test_notebooks",
)  # other notebooks would wait for the first one's phantoms


def pytest_sessionstart():
    """Attacks that an earlier run of the tests has finished may be those of other code."""
    if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        os.environ["OMP_NUM_THREADS"] = str(
            max(1, os.cpu_count() // int(processes))
        )  # of the notebooks' kernels
    else:
        shutil.rmtree(RUNS / "cells", ignore_errors=True)


def pytest_xdist_auto_num_workers():
    """One more than cores, since many tests wait for processes that they started."""
    return os.cpu_count() + 1


def pytest_collection_modifyitems(items):
    """What takes longest comes first, so that all processes end together; then notebooks, what waits, the rest by size.

    nbval waits 5 s for the output of a cell, which a busy machine exceeds.
    """
    items.sort(
        key=lambda item: (
            item.path.stem not in LONGEST,
            item.path.suffix != ".ipynb",
            item.path.stem != "test_engine",
            -item.path.stat().st_size,
            item.path,
        )
    )
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 60
