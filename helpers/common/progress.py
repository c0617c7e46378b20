"""Progress: one bar in a notebook or terminal, one log in batch."""

import math
import os
import sys

from tqdm.auto import tqdm


def progress_bar(**options):
    """A tqdm bar in a notebook or terminal; in batch it is disabled, and lines are for `tell`."""
    interactive = not os.environ.get("STUDY_LOG") and (
        sys.stderr.isatty() or "ipykernel" in sys.modules
    )
    return tqdm(leave=False, disable=not interactive, **options)


def log(line):
    """Print a line of progress, or (in a batch run) add it to the file named by STUDY_LOG."""
    if log := os.environ.get("STUDY_LOG"):
        with open(log, "a", encoding="utf-8") as file:
            print(line, file=file)
    else:
        print(line, flush=True)


def format_duration(seconds):
    """Text of a time, such as "1:05" or "2:00:00"."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        if minutes >= 60
        else f"{minutes}:{seconds:02}"
    )
