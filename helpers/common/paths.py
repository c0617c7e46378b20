"""Where the study keeps its files."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


DATA, FIGURES, NOTEBOOKS = (ROOT / name for name in ("data", "figures", "notebooks"))


RUNS = Path(os.environ.get("STUDY_RUNS") or ROOT / "runs")  # tests keep theirs apart


WEIGHTS = ROOT / "runs" / "weights"


PUBLISHED = (
    DATA / "weights"
)  # the networks of the profiles quick and full, which come with the study


EXPERIMENTS = RUNS / "cells"  # store of finished attacks, of all profiles


def run_folder(profile):
    """Folder of the results of a profile, in RUNS.

    Raises:
        ValueError: the name is not one of a folder in there.
    """
    if Path(profile).name != profile or profile in ("", ".", ".."):
        raise ValueError(
            f"profile {profile!r} leaves {RUNS}; give the name of a folder, such as quick"
        )
    return RUNS / profile
