"""Progress: a bar in a notebook or terminal, lines of a log in batch; and waiting for others.

The one switch is the environment variable STUDY_LOG, the path of the log.
"""

import math
import os
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm.auto import tqdm


def progress_bar(**options: Any) -> tqdm:
    """A tqdm bar, disabled where nobody would see it; there, `log` lines instead."""
    seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(leave=False, disable=bool(os.environ.get("STUDY_LOG")) or not seen, **options)


def log(line: str) -> None:
    """Add a line to the log, or print it where there is none. Never raises.

    A job on another machine inherits the variable, but not the folder that it names.
    """
    try:
        with open(os.environ["STUDY_LOG"], "a", encoding="utf-8") as file:
            print(line, file=file)
    except (KeyError, OSError):
        with suppress(OSError, ValueError):  # a closed pipe, a terminal without the characters
            print(line, flush=True)


def wait_for_lock(path: Path, told: str) -> Any:
    """Hold a lock in a `with` block; `told` is logged if another process has it until then.

    A process that dies loses it.
    """
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        log(told)
        return lock.acquire()


def format_duration(seconds: float) -> str:
    """Text of a time, such as "01:05" or "2:00:00"."""
    return str(timedelta(seconds=math.ceil(seconds))).removeprefix("0:")
