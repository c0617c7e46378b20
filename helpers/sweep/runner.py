"""A grid of experiments: finished results come from the store, an engine computes the rest."""

import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from helpers.common.paths import EXPERIMENTS
from helpers.common.progress import format_duration, log, progress_bar
from helpers.data import Dataset, load
from helpers.sweep.compute import Result, compute_results, restore_images
from helpers.sweep.engine import Engine, LostEngine, open_engine
from helpers.sweep.experiment import Experiment, check_experiment
from helpers.sweep.report import describe_failure, result_table
from helpers.sweep.store import Store, read_failure
from helpers.sweep.tasks import Task, compute_task, make_tasks
from helpers.weights import Trained, find_weights, load_weights, state_digest

BATCH = {"cpu": 8, "cuda": 64}  # images of 256×256 at a time
Networks = Iterable[Trained] | Mapping[str, nn.Module]


class SweepError(RuntimeError):
    """Experiments failed, or the sweep could not go on; what is finished is in the store."""


def run(
    experiments: Mapping,
    dataset: Dataset,
    networks: Networks,
    *,
    store: str | Path = EXPERIMENTS,
    engine: Engine | str = "",
    names: Sequence[str] = ("attack", "epsilon"),
    noise: bool = False,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Compute the experiments that the store lacks, and return the table of all.

    Killed at any moment, the same call goes on where it was. An experiment that fails is retried
    once, alone, and reported at the end; the others continue.

    Args:
        experiments: from the parts of a name, such as ("white-box", 0.04); all on one dataset.
        dataset: the one that the experiments name.
        networks: those that take part, or a dict from digest to network; what is missing is looked
            up in the folders of weights.
        store: folder of the results.
        engine: who computes, and on which device: an open engine, or the text of one that
            `open_engine` starts on the CPU.
        names: of the columns that hold the parts of a name.
        noise: whether the store is to keep the noise too, for `load_images`.
        batch_size: images at a time; default 8 of 256×256 (on a GPU 64, which take 5 GiB), more
            of smaller ones.

    Returns:
        A row for each experiment, case, structure and comparison: the columns of `names`, id,
        structure, compared_with ("target" or "truth"), iou, linf, loss, warnings, seconds,
        experiment (its key), commit, torch, device, threads.

    Raises:
        ValueError: an experiment does not fit the dataset, its weights are nowhere or were changed,
            or engine or store cannot be used.
        SweepError: experiments failed, or the store could not be written; the message says what to
            do.
        LostEngine: the scheduler has gone. What is finished is kept.
    """
    named = {n if isinstance(n, tuple) else (n,): e for n, e in experiments.items()}
    for name in named:
        if len(name) != len(names):
            raise ValueError(
                f"experiments are named by {name}, names has {len(names)} columns: "
                f"{', '.join(names)}"
            )
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise ValueError(f"batch_size is {batch_size!r}; give a whole number of 1 or more")
    weights = _networks(networks, named.values())
    known = frozenset(dataset.ids)
    for experiment in named.values():
        _check(experiment, dataset, known, weights)
    sweep = _Sweep(Store(store), dataset, noise)
    missing = {e.key: e for e in named.values() if not sweep.look_up(e)}
    if missing:
        engine = open_engine(engine) if isinstance(engine, str) else engine
        sweep.compute(list(missing.values()), engine, weights, batch_size)
    rows = [(name, e, sweep.results[e.key]) for name, e in named.items()]
    return result_table(rows, names, dataset.structures)


def _check(experiment, dataset, known, weights):
    asked = (experiment.dataset, experiment.source, experiment.size)
    if asked != (dataset.name, dataset.digest, dataset.size):
        raise ValueError(
            f"experiment {experiment.key[:12]} is of {experiment.dataset} {experiment.size} "
            f"({experiment.source[:12]}), the dataset is {dataset.name} {dataset.size} "
            f"({dataset.digest[:12]})"
        )
    for id in experiment.ids:
        if id not in known:
            raise ValueError(
                f"dataset {dataset.name} has no case {id!r}, which experiment "
                f"{experiment.key[:12]} asks for"
            )
    check_experiment(experiment, structures=dataset.structures, weights=weights)


def _networks(networks, experiments):
    """{digest: network} of all that the experiments name, as far as they can be found."""
    if isinstance(networks, Mapping):
        found = dict(networks)
    else:
        found = {trained.digest: trained.network for trained in networks}
        for digest, network in found.items():
            if state_digest(network.state_dict()) != digest:
                raise ValueError(
                    f"network {digest[:12]} was changed after its training: load it again"
                )
    asked = {digest for e in experiments for digest in (e.attacked, e.crafted_on)}
    for digest in asked - found.keys():
        if path := find_weights(digest):
            trained = load_weights(path)
            found[trained.digest] = trained.network
    return found


def load_images(
    experiments: Mapping, dataset: Dataset, *, store: str | Path = EXPERIMENTS
) -> tuple[dict, dict]:
    """What experiments look like that `run` has computed with noise=True.

    Args:
        experiments, dataset, store: as in `run`.

    Returns:
        Two dicts from the names of the experiments: to adversarial images (N, C, H, W), see
        `restore_images`; and to uint8 (N, H, W), what the attacked network sees.

    Raises:
        ValueError: the store lacks one, or its noise.
    """
    adv_images, predictions = {}, {}
    for name, experiment in experiments.items():
        result = Store(store).read(experiment, noise=True)
        if result is None:
            raise ValueError(f"experiment {name} is not in {store}: run the sweep with noise=True")
        adv_images[name] = restore_images(dataset.take(experiment.ids)[0], result)
        predictions[name] = torch.from_numpy(result.predictions)
    return adv_images, predictions


class _Sweep:
    """The results of a grid: found in the store, or computed."""

    def __init__(self, store, dataset, noise):
        self.store = store
        self.dataset = dataset
        self.noise = noise
        self.results = {}
        self.failed = []

    def look_up(self, experiment):
        """Whether the store has the experiment."""
        result = self.store.read(experiment, noise=self.noise, arrays=False)
        if result is None:
            return False
        self.results[experiment.key] = result
        self.store.forget_failure(experiment)
        return True

    def compute(self, missing, engine, networks, batch_size):
        """Compute what is missing; a task that fails is retried, each of its experiments alone."""
        most = BATCH[engine.device.type]
        most = batch_size or max(1, min(4 * most, most * 256**2 // self.dataset.size**2))
        shared = {
            "structures": self.dataset.structures,
            "networks": networks,
            "device": engine.device,
            "batch_size": most,
            "origin": self.dataset.origin,
            "digest": self.dataset.digest,
            "dataset": self.dataset if engine.in_process else None,
        }
        self.progress = _Progress(len(self.results) + len(missing), len(self.results))
        process = partial(self._process, engine, shared)
        try:
            for experiment, _ in process(make_tasks(missing, most, engine.slots)):
                for _, error in process([Task([experiment])]):
                    self._record(experiment, error)
        except KeyboardInterrupt:
            print(f"\n{self._finished()}; the same call goes on from there", file=sys.stderr)
            raise
        except LostEngine as error:
            raise LostEngine(
                f"{error}; {self._finished()}: start a scheduler and run the same again"
            ) from None
        except OSError as error:
            raise SweepError(
                f"the store cannot be written ({error.strerror or error}); {self._finished()}: "
                "mend that and run the same again"
            ) from None
        finally:
            self.progress.bar.close()
        if self.failed:
            raise SweepError(
                f"{len(self.failed)} of {self.progress.total} experiments failed, the others are "
                f"in {self.store.folder}\n  " + "\n  ".join(self.failed)
            )

    def _process(self, engine, shared, tasks):
        """Keep the results of tasks; the experiments of those that fail, each with its error."""
        queue, failures = deque(tasks), []

        def next_task():
            return queue.popleft() if queue else None

        for task, results, error in engine.map(compute_task, next_task, shared):
            if error is not None:
                failures += [(experiment, error) for experiment in task.experiments]
            elif results is None:
                ids = task.ids()
                queue.appendleft(task._replace(cases=(ids, *self.dataset.take(ids))))
            else:
                self._keep(task.experiments, results)
        return failures

    def _keep(self, experiments, results):
        write = partial(self.store.write, noise=self.noise)
        with ThreadPoolExecutor(8) as pool:  # nearly all of the time is waiting for the disk
            list(pool.map(write, experiments, results))
        for experiment, result in zip(experiments, results, strict=True):
            self.results[experiment.key] = replace(result, predictions=None, noise=None)
        self.progress.show(len(self.results), len(self.failed))

    def _record(self, experiment, error):
        path = self.store.write_failure(experiment, error, self.dataset.origin)
        self.failed.append(describe_failure(path))
        self.progress.show(len(self.results), len(self.failed))

    def _finished(self):
        return (
            f"{len(self.results)} of {self.progress.total} experiments are finished in "
            f"{self.store.folder}"
        )


class _Progress:
    """A bar in a notebook or terminal, otherwise a log line every ten seconds."""

    def __init__(self, total, done):
        self.total = total
        self.before = done
        self.start = time.monotonic()
        self.logged = -math.inf
        self.bar = progress_bar(total=total, initial=done, desc="experiments")

    def show(self, done, failed):
        now = time.monotonic()
        self.bar.update(done - self.bar.n)
        left = self.total - done - failed
        if self.bar.disable and (now > self.logged + 10 or not left):
            self.logged = now
            rest = left * (now - self.start) / max(1, done - self.before)
            log(
                f"{done} of {self.total} experiments, {failed} failed, {left} left, about "
                f"{format_duration(rest)}"
            )


def rerun_failed(store: str | Path, key: str) -> Result:
    """Compute an experiment that failed once more, here; its error is not caught.

    Args:
        store: folder of the results.
        key: first characters of the experiment's key.

    Raises:
        ValueError: no record of a failure begins with the key, or more than one; or the dataset or
            the networks are not there.
    """
    shelf = Store(store)
    found = shelf.failures(key)
    if len(found) != 1:
        raise ValueError(
            f"{store}/failed has {len(found)} experiments that begin with {key!r}; `status` lists "
            "them"
        )
    record = read_failure(found[0])
    if record["origin"] is None:
        raise ValueError(
            "the dataset of this experiment was put together by hand: run the sweep again that "
            "made it"
        )
    experiment, data = Experiment.read(record["cell"]), load(**record["origin"])
    networks = _networks({}, [experiment])
    _check(experiment, data, data.ids, networks)
    cases = (dict(zip(experiment.ids, part, strict=True)) for part in data.take(experiment.ids))
    about = {"structures": data.structures, "networks": networks}
    (result,) = compute_results([experiment], *cases, **about)
    shelf.write(experiment, result, noise=True)
    return result
