"""Where the study keeps its files."""

import os
from pathlib import Path

from helpers.common.arguments import require

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
FIGURES = ROOT / "figures"
NOTEBOOKS = ROOT / "notebooks"
RUNS = Path(os.environ.get("STUDY_RUNS") or ROOT / "runs").absolute()  # tests keep theirs apart
WEIGHTS = ROOT / "runs/weights"
PUBLISHED = DATA / "weights"  # the networks that come with the study
EXPERIMENTS = RUNS / "cells"  # finished attacks, found by their old folder's name


def run_folder(profile: str) -> Path:
    """Folder of the results of a profile, in RUNS.

    Raises:
        ValueError: the name is not one of a folder in there.
    """
    require(
        Path(profile).name == profile and profile not in ("", ".."),
        "profile",
        profile,
        "give the name of a folder, such as quick",
    )
    return RUNS / profile
