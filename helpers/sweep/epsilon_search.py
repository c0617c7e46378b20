"""The smallest noise level at which an attack succeeds."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from helpers.common.paths import EXPERIMENTS
from helpers.data import Dataset
from helpers.sweep.runner import Networks, load_images, run


def smallest_epsilon(
    experiments: Mapping,
    dataset: Dataset,
    networks: Networks,
    *,
    reached: float | Callable[[str, Tensor], bool] = 95.0,
    low: float = 0.001,
    high: float = 0.16,
    rounds: int = 6,
    **options: Any,
) -> dict:
    """Smallest noise level of each case at which targeted attacks reach an IoU, by bisection.

    Each round is a sweep of its own, of experiments of one case, which end once they are past the
    IoU; where it is not reached, attacks go on until more steps gain next to nothing. A case that
    fails at `high` is searched below it too.

    Args:
        experiments: each with a target; its ε does not matter. With an IoU to reach, nor do attack
            and steps: it is `fast_pgd` of "auto" steps.
        dataset, networks, **options: as in `run`.
        reached: IoU × 100 of the goal's structure that counts as success, or a function of a case's
            id and label map (H, W) that says whether it is one; that needs noise=True.
        low, high: the range of ε; it is halved `rounds` times on a logarithmic scale.
        rounds: of bisection, after one at `high`.

    Returns:
        From the same names to float (N,): the least ε that was tried and was enough, at most
        (high / low)^(1 / 2^rounds) times too high; infinity where none was. A case for
        which `low` is enough ends just above it.
    """
    change: dict = {}
    if not callable(reached):  # the attack's own precision may count a pixel more than the judge
        beyond = min(reached + 1, 100.0)
        change = {"attack": "fast pgd", "steps": "auto", "stop_at": beyond}
    single = {
        (name, id): replace(e, ids=(id,), **change)
        for name, e in experiments.items()
        for id in e.ids
    }
    best = dict.fromkeys(single, math.inf)
    failed = dict.fromkeys(single, low)
    tried = dict.fromkeys(single, high)
    for _ in range(rounds + 1):
        now = {key: replace(single[key], epsilon=epsilon) for key, epsilon in tried.items()}
        table = run(now, dataset, networks, names=("name", "case"), **options)
        if callable(reached):
            _, maps = load_images(now, dataset, store=options.get("store", EXPERIMENTS))
            success = {key: reached(key[1], labels[0]) for key, labels in maps.items()}
        else:
            scores = table.set_index(["name", "case", "structure", "compared_with"])["iou"]
            targets = {key: (*key, e.goal.structure, "target") for key, e in now.items()}
            success = {key: scores[target] >= reached for key, target in targets.items()}
        for key, epsilon in tried.items():
            if success[key]:
                best[key] = epsilon
            elif epsilon < high:
                failed[key] = epsilon
            tried[key] = round(math.sqrt(failed[key] * min(best[key], high)), 9)
    return {name: np.array([best[name, id] for id in e.ids]) for name, e in experiments.items()}
