"""Tasks of a sweep: experiments that share a batch, and how a worker computes them."""

import math
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch

from helpers.common.arguments import require
from helpers.data import Dataset
from helpers.defence import guard
from helpers.own import load_network
from helpers.sweep.compute import Result, batch_settings, compute_results
from helpers.sweep.experiment import Experiment, attack_of


class Shared(NamedTuple):
    """What the tasks of a sweep have in common.

    The dataset has the cases that are attacked; for workers, networks of one's own are their
    `Adapted.spec`, of which they are made anew.
    """

    dataset: Dataset
    networks: dict
    device: torch.device
    batch_size: int


def make_tasks(
    experiments: Collection[Experiment], batch_size: int, slots: int
) -> Iterator[list[Experiment]]:
    """Experiments of a batch each, which mostly share settings; fewer where slots would idle.

    Args:
        experiments: those to compute.
        batch_size: images at a time.
        slots: tasks at a time.
    """
    made: dict = {}
    for experiment in experiments:  # an attack is run once for all that is made of it
        made.setdefault(attack_of(experiment), []).append(experiment)
    if slots > 1:
        images = sum(len(e.ids) for e in experiments)
        batch_size = min(batch_size, math.ceil(images / (4 * slots)))
    task: list = []
    size = 0
    for attack in sorted(made, key=lambda each: str(batch_settings(each))):
        if task and size + len(attack.ids) > batch_size:
            yield task
            task, size = [], 0
        task = task + made[attack]
        size += len(attack.ids)
    yield task


def compute_task(shared: Shared, task: list[Experiment]) -> list[Result]:
    """Results of the experiments of a task. Runs in a worker, or here."""
    ids = list(dict.fromkeys(id for experiment in task for id in experiment.ids))
    cases = shared.dataset.take(ids)
    images, truth = (dict(zip(ids, part.to(shared.device), strict=True)) for part in cases)
    networks = {
        digest: (_load(network, digest) if isinstance(network, tuple) else network)
        for digest, network in shared.networks.items()
    }
    return compute_results(
        task,
        images,
        truth,
        structures=shared.dataset.structures,
        networks={digest: network.to(shared.device) for digest, network in networks.items()},
        batch_size=shared.batch_size,
    )


@lru_cache(maxsize=8)
def _load(spec, digest):
    """A network of one's own, made in a worker; it must be the one that was asked for."""
    trained = load_network(*spec[:3])
    if spec[3:]:
        defence, seed, copies = spec[3:]
        trained = guard(trained, defence, seed=seed, copies=copies)
    require(
        trained.digest == digest,
        "network",
        spec[0],
        "the worker makes another one of it: give it the same files and packages",
    )
    return trained.network
