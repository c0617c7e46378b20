"""Tasks of a sweep: experiments that share a batch, and how a worker computes them."""

import math
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn

from helpers.common.arguments import require
from helpers.data import Dataset, own_copy
from helpers.own import Adapted, load_network
from helpers.sweep.compute import Result, batch_settings, compute_results
from helpers.sweep.experiment import Experiment, attack_of


class Task(NamedTuple):
    """Experiments, and for a worker without the data the images and labels of their cases."""

    experiments: list[Experiment]
    cases: tuple | None = None

    def ids(self) -> list[str]:
        """The cases of the experiments, each once."""
        return list(dict.fromkeys(id for e in self.experiments for id in e.ids))


class Shared(NamedTuple):
    """What the tasks of a sweep have in common.

    For a worker with its own copy, the dataset has no images. For any worker, networks of one's own
    are tuples, see `for_worker`.
    """

    dataset: Dataset
    networks: dict
    device: torch.device
    batch_size: int


def make_tasks(experiments: Collection[Experiment], batch_size: int, slots: int) -> Iterator[Task]:
    """Tasks of a batch each, of experiments that share one; smaller where slots would idle.

    Args:
        experiments: those to compute.
        batch_size: images at a time.
        slots: tasks at a time.
    """
    groups: dict = {}
    for experiment in experiments:
        attack = attack_of(experiment)  # it is run once for all that is made of it
        group = groups.setdefault(batch_settings(attack), {})
        group.setdefault(attack, []).append(experiment)
    if slots > 1:
        images = sum(len(e.ids) for e in experiments)
        batch_size = min(batch_size, math.ceil(images / (4 * slots)))
    for group in groups.values():
        part: list = []
        size = 0
        for attack, made in group.items():
            if part and size + len(attack.ids) > batch_size:
                yield Task(part)
                part, size = [], 0
            part = part + made
            size += len(attack.ids)
        yield Task(part)


def compute_task(shared: Shared, task: Task) -> list[Result]:
    """Results of a task; none without a copy of the data. Runs in a worker, or here."""
    data, device = shared.dataset, shared.device
    cases, ids = task.cases, task.ids()
    if cases is None:
        if data.images is None:
            data = data.origin and own_copy(data.digest, **data.origin)
        if not data:
            return []
        cases = data.take(ids)
    images, truth = (dict(zip(ids, part.to(device), strict=True)) for part in cases)
    return compute_results(
        task.experiments,
        images,
        truth,
        structures=shared.dataset.structures,
        networks={
            digest: (_load(network, digest) if isinstance(network, tuple) else network).to(device)
            for digest, network in shared.networks.items()
        },
        batch_size=shared.batch_size,
    )


def for_worker(network: nn.Module) -> Any:
    """What a worker is sent for a network: of one's own, how it is made anew, see `own`."""
    return network.spec if isinstance(network, Adapted) and network.spec else network


@lru_cache(maxsize=8)
def _load(spec, digest):
    """A network of one's own, made in a worker; it must be the one that was asked for."""
    trained = load_network(*spec)
    advice = "the worker makes another one of it: give it the same files and packages"
    require(trained.digest == digest, "network", spec[0], advice)
    return trained.network
