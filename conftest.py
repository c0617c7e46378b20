"""For the tests and the notebooks alike."""

import os
import shutil
from pathlib import Path

RUNS = Path(__file__).parent / "runs" / "tests"
os.environ["STUDY_RUNS"] = str(RUNS)  # leaves the results of your runs alone


def pytest_sessionstart():
    """Attacks that an earlier run of the tests has finished may be those of other code."""
    shutil.rmtree(RUNS / "cells", ignore_errors=True)


def pytest_collection_modifyitems(items):
    """Wait for a notebook cell's output longer than nbval's fixed 5 s, which a busy machine exceeds."""
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 60
