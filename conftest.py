"""For the tests and the notebooks alike."""

import os
import shutil
from pathlib import Path

RUNS = Path(__file__).parent / "runs" / "tests"
os.environ["STUDY_RUNS"] = str(RUNS)  # leaves the results of your runs alone


def pytest_sessionstart():
    """Attacks that an earlier run of the tests has finished may be those of other code."""
    if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        os.environ["OMP_NUM_THREADS"] = str(max(1, os.cpu_count() // int(processes)))  # of the notebooks' kernels
    else:
        shutil.rmtree(RUNS / "cells", ignore_errors=True)


def pytest_collection_modifyitems(items):
    """The notebook that trains the networks comes first: while others run, the tests of the package are done.

    nbval waits 5 s for the output of a cell, which a busy machine exceeds.
    """
    items.sort(key=lambda item: item.path.stem != "02_training")
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 60
