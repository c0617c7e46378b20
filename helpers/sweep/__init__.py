"""Many attacks: what is finished is taken from the store, the rest is computed, here or by workers."""

from helpers.sweep.compute import Result, compute_results, restore_images
from helpers.sweep.engine import LostEngine, parse, start_engine
from helpers.sweep.experiment import (
    Experiment,
    Goal,
    Region,
    check_experiment,
    standard_grid,
    white_box,
)
from helpers.sweep.runner import SweepError, load_images, run, smallest_epsilon, train_all
from helpers.sweep.store import Store

__all__ = [
    "Experiment",
    "Goal",
    "LostEngine",
    "Region",
    "Result",
    "Store",
    "SweepError",
    "check_experiment",
    "compute_results",
    "load_images",
    "parse",
    "restore_images",
    "run",
    "smallest_epsilon",
    "standard_grid",
    "start_engine",
    "train_all",
    "white_box",
]
