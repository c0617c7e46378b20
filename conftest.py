"""For the tests and the notebooks alike."""

import os
from pathlib import Path

os.environ["STUDY_RUNS"] = str(Path(__file__).parent / "runs" / "tests")  # leaves the results of your runs alone


def pytest_collection_modifyitems(items):
    """Wait for a notebook cell's output longer than nbval's fixed 5 s, which a busy machine exceeds."""
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 60
