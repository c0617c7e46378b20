"""Where the study keeps its files, how it writes them, and where they come from."""

import hashlib
import json
import math
import os
import platform
import secrets
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parent.parent
DATA, FIGURES, NOTEBOOKS = (ROOT / name for name in ("data", "figures", "notebooks"))
RUNS = Path(os.environ.get("STUDY_RUNS") or ROOT / "runs")  # tests keep theirs apart
WEIGHTS = ROOT / "runs" / "weights"
PUBLISHED = DATA / "weights"  # the networks of the profiles quick and full, which come with the study
CELLS = RUNS / "cells"  # store of finished attacks, of all profiles


def run_folder(profile):
    """Folder of the results of a profile, in RUNS.

    Raises:
        ValueError: the name is not one of a folder in there.
    """
    if Path(profile).name != profile or profile in ("", ".", ".."):
        raise ValueError(f"profile {profile!r} leaves {RUNS}; give the name of a folder, such as quick")
    return RUNS / profile


@contextmanager
def replacing(path, mode="wb"):
    """Open a temporary file beside `path` that takes its place when the block ends without an error.

    A reader sees the old file or the whole new one, never a part; after an error the old file stays.

    Args:
        path: the file to write; missing folders are made.
        mode: "wb" or "w" (UTF-8).

    Yields:
        The open file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with open(temporary, mode.replace("w", "x"), **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def progress_bar(**options):
    """A tqdm bar in a notebook or terminal; in batch it is disabled, and lines are for `tell`."""
    interactive = not os.environ.get("STUDY_LOG") and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    return tqdm(leave=False, disable=not interactive, **options)


def tell(line):
    """Print a line of progress, or (in a batch run) add it to the file named by STUDY_LOG."""
    if log := os.environ.get("STUDY_LOG"):
        with open(log, "a", encoding="utf-8") as file:
            print(line, file=file)
    else:
        print(line, flush=True)


def clock(seconds):
    """Text of a time, such as "1:05" or "2:00:00"."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


def digest_bytes(*parts):
    """SHA-256 (hexadecimal) of byte strings, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def digest_json(value):
    """SHA-256 (hexadecimal) of a value's canonical JSON: sorted keys, no spaces."""
    return digest_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def commit():
    """The project's git commit, with "+" if `helpers` or notebooks differ from it; "unknown" outside a git clone."""
    try:
        run = lambda *args: subprocess.run(  # noqa: E731
            ["git", "-C", ROOT, *args], capture_output=True, text=True, check=True
        ).stdout.strip()
        return run("rev-parse", "--short=10", "HEAD") + (
            "+" if run("status", "--porcelain", "--", "helpers", "notebooks") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions():
    """Versions of what decides a number: Python and the numerical packages, as a dict of strings."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "numpy", "scipy")}
