"""For the tests and the notebooks alike."""


def pytest_collection_modifyitems(items):
    """Wait for a notebook cell's output longer than nbval's fixed 5 s, which a busy machine exceeds."""
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 60
