"""Many attacks: finished results are taken from the store, an engine computes the rest."""

from helpers.sweep.compute import Result, compute_results, restore_images
from helpers.sweep.engine import LostEngine, open_engine, parse_engine, start_engine
from helpers.sweep.epsilon_search import smallest_epsilon
from helpers.sweep.experiment import (
    Experiment,
    Goal,
    Region,
    check_experiment,
    standard_grid,
    white_box,
)
from helpers.sweep.runner import SweepError, load_images, run
from helpers.sweep.store import Store
from helpers.sweep.suite import suite

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
    "open_engine",
    "parse_engine",
    "restore_images",
    "run",
    "smallest_epsilon",
    "standard_grid",
    "start_engine",
    "suite",
    "white_box",
]
