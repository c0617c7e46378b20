"""For the tests and the notebooks alike."""

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parent
RUNS = ROOT / "runs" / "tests"
os.environ["STUDY_RUNS"] = str(RUNS)  # leaves the results of your runs alone
LONGEST = (  # first; other notebooks would wait for the first one's phantoms
    "notebooks/04_heart_attack.ipynb",
    "tests/sweep/test_runner.py",
    "tests/test_notebooks.py",
)


def pytest_sessionstart():
    """Attacks that an earlier run of the tests has finished may be those of other code."""
    if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        threads = max(1, os.cpu_count() // int(processes))
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of the notebooks' kernels
    else:
        shutil.rmtree(RUNS / "cells", ignore_errors=True)


def pytest_xdist_auto_num_workers():
    """One more than cores, since many tests wait for processes that they started."""
    return os.cpu_count() + 1


def pytest_collection_modifyitems(items):
    """What takes longest comes first, so that all processes end together.

    Then notebooks, what waits, and the rest by size. nbval waits 5 s for the output of a cell,
    which a busy machine exceeds.
    """

    def place(item):
        name = item.path.relative_to(ROOT).as_posix()
        is_notebook = item.path.suffix == ".ipynb"
        waits = item.path.stem == "test_engine"
        return name not in LONGEST, not is_notebook, not waits, -item.path.stat().st_size, name

    items.sort(key=place)
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 60
