"""A grid of experiments: finished results come from the store, an engine computes the rest."""

import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from helpers.common.paths import EXPERIMENTS
from helpers.common.progress import format_duration, log, progress_bar
from helpers.data import Dataset, load
from helpers.sweep.compute import Result, batch_settings, compute_results, restore_images
from helpers.sweep.engine import Engine, LostEngine, open_engine
from helpers.sweep.experiment import Experiment, attack_of, check_experiment
from helpers.sweep.report import command_alone, result_table
from helpers.sweep.store import Store, read_failure
from helpers.training import Trained, find_weights, load_weights, state_digest

BATCH = {"cpu": 8, "cuda": 64}  # images of 256×256 at a time


class SweepError(RuntimeError):
    """Experiments failed, or the sweep could not go on; what is finished is in the store."""


def run(
    experiments: Mapping[Any, Experiment],
    dataset: Dataset,
    networks: Iterable[Trained] | Mapping[str, nn.Module],
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
    named = {
        name if isinstance(name, tuple) else (name,): experiment
        for name, experiment in experiments.items()
    }
    for name in named:
        if len(name) != len(names):
            found = f"names has {len(names)} columns: {', '.join(names)}"
            raise ValueError(f"experiments are named by {name}, {found}")
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
        sweep.compute(missing, engine, weights, batch_size)
    rows = [(name, e, sweep.results[e.key]) for name, e in named.items()]
    return result_table(rows, names, dataset.structures)


def _check(experiment, dataset, known, weights):
    short = experiment.key[:12]
    asked = (experiment.dataset, experiment.source, experiment.size)
    if asked != (dataset.name, dataset.digest, dataset.size):
        named = f"{experiment.dataset} {experiment.size} ({experiment.source[:12]})"
        found = f"{dataset.name} {dataset.size} ({dataset.digest[:12]})"
        raise ValueError(f"experiment {short} is of {named}, the dataset is {found}")
    for id in experiment.ids:
        if id not in known:
            asker = f"which experiment {short} asks for"
            raise ValueError(f"dataset {dataset.name} has no case {id!r}, {asker}")
    check_experiment(experiment, structures=dataset.structures, weights=weights)


def _networks(networks, experiments):
    """{digest: network} of all that the experiments name, as far as they can be found."""
    if isinstance(networks, Mapping):
        found = dict(networks)
    else:
        found = {trained.digest: trained.network for trained in networks}
        for digest, network in found.items():
            if state_digest(network.state_dict()) != digest:
                advice = "was changed after its training: load it again"
                raise ValueError(f"network {digest[:12]} {advice}")
    asked = {digest for e in experiments for digest in (e.attacked, e.crafted_on)}
    for digest in asked - found.keys():
        if path := find_weights(digest):
            found[digest] = load_weights(path).network
    return found


def load_images(
    experiments: Mapping[Any, Experiment], dataset: Dataset, *, store: str | Path = EXPERIMENTS
) -> tuple[dict[Any, torch.Tensor], dict[Any, torch.Tensor]]:
    """What experiments look like that `run` has computed with noise=True.

    Args:
        experiments, dataset, store: as in `run`.

    Returns:
        Two dicts from the names of the experiments: to adversarial images (N, C, H, W), see
        `restore_images`; and to uint8 (N, H, W), what the attacked network sees.

    Raises:
        ValueError: the store lacks one, or its noise.
    """
    shelf, adv_images, predictions = Store(store), {}, {}
    for name, experiment in experiments.items():
        result = shelf.read(experiment, noise=True)
        if result is None:
            advice = "run the sweep with noise=True"
            raise ValueError(f"experiment {name} is not in {shelf.folder}: {advice}")
        adv_images[name] = restore_images(dataset.take(experiment.ids)[0], result)
        predictions[name] = torch.from_numpy(result.predictions)
    return adv_images, predictions


def smallest_epsilon(
    experiments: Mapping[Any, Experiment],
    dataset: Dataset,
    networks: Iterable[Trained] | Mapping[str, nn.Module],
    *,
    reached: float = 95.0,
    low: float = 0.001,
    high: float = 0.16,
    rounds: int = 6,
    **options: Any,
) -> dict[Any, np.ndarray]:
    """Smallest noise level of each case at which targeted attacks reach an IoU, by bisection.

    Each round is a sweep of its own, of experiments of one case, which end once they are past the
    IoU.

    Args:
        experiments: each with a target; its ε does not matter.
        dataset, networks, **options: as in `run`.
        reached: IoU × 100 of the goal's structure that counts as success.
        low, high: the range of ε; it is halved `rounds` times on a logarithmic scale.
        rounds: of bisection, after one at `high`.

    Returns:
        From the same names to float (N,): the least ε that was tried and was enough, at most
        (high / low)^(1 / 2^rounds) times too high; infinity for a case that `high` is not enough
        for. A case for which `low` is enough ends just above it.
    """
    # the attack's own precision may count a pixel more than the judge
    beyond = min(reached + 1, 100.0)
    single = {
        (name, id): replace(experiment, ids=(id,), stop_at=beyond)
        for name, experiment in experiments.items()
        for id in experiment.ids
    }
    best = dict.fromkeys(single, math.inf)
    bounds = dict.fromkeys(single, (low, high))
    tried = dict.fromkeys(single, high)
    for _ in range(rounds + 1):
        now = {key: replace(single[key], epsilon=epsilon) for key, epsilon in tried.items()}
        table = run(now, dataset, networks, **options | {"names": ("name", "case")})
        targets = table[table["compared_with"] == "target"]
        scores = targets.set_index(["name", "case", "structure"])["iou"]
        for key, epsilon in tried.items():
            least, most = bounds[key]
            if scores[*key, single[key].goal.structure] >= reached:
                best[key] = epsilon
                bounds[key] = (least, epsilon)
            else:
                bounds[key] = (epsilon, most)
        tried = {
            key: round(math.sqrt(least * most), 9)
            for key, (least, most) in bounds.items()
            if best[key] < math.inf
        }
    return {name: np.array([best[name, id] for id in e.ids]) for name, e in experiments.items()}


class _Task(NamedTuple):
    experiments: list[Experiment]
    cases: tuple | None = None  # ids, images and labels, for a worker without the data


class _Sweep:
    """The results of a grid: found in the store, or computed."""

    def __init__(self, store, dataset, noise):
        self.store = store
        self.dataset = dataset
        self.noise = noise
        self.results: dict[str, Result] = {}
        self.failed: list[str] = []

    def look_up(self, experiment):
        """Whether the store has the experiment."""
        result = self.store.read(experiment, noise=self.noise, arrays=False)
        if result is not None:
            self.results[experiment.key] = result
            self.store.forget_failure(experiment)
        return result is not None

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
        self.total = len(self.results) + len(missing)
        self.progress = _Progress(self.total, len(self.results))
        process = partial(self._process, engine, shared)
        try:
            failures = process(_tasks(missing.values(), most, engine.slots))
            for experiment, _ in failures:
                for _, error in process([_Task([experiment])]):
                    self._record(experiment, error)
        except KeyboardInterrupt:
            print(f"\n{self._finished()}; the same call goes on from there", file=sys.stderr)
            raise
        except LostEngine as error:
            advice = "start a scheduler and run the same again"
            raise LostEngine(f"{error}; {self._finished()}: {advice}") from None
        except OSError as error:
            problem = f"the store cannot be written ({error.strerror or error})"
            advice = "mend that and run the same again"
            raise SweepError(f"{problem}; {self._finished()}: {advice}") from None
        finally:
            self.progress.bar.close()
        if self.failed:
            count = f"{len(self.failed)} of {self.total} experiments failed"
            lines = [f"{count}, the others are in {self.store.folder}", *self.failed]
            raise SweepError("\n  ".join(lines))

    def _process(self, engine, shared, tasks):
        """Keep the results of tasks; the experiments of those that fail, each with its error."""
        queue, failures = deque(tasks), []

        def next_task():
            return queue.popleft() if queue else None

        for task, results, error in engine.map(_compute, next_task, shared):
            if error is not None:
                failures += [(experiment, error) for experiment in task.experiments]
            elif results is None:
                ids = _ids(task)
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
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        alone = command_alone(self.store, experiment.key)
        self.failed.append(f"{experiment.key[:12]} ({path}): {why}\n    alone: {alone}")
        self.progress.show(len(self.results), len(self.failed))

    def _finished(self):
        count = f"{len(self.results)} of {self.total} experiments"
        return f"{count} are finished in {self.store.folder}"


def _tasks(experiments, batch_size, slots):
    """Tasks of a batch each, of experiments that share one; smaller where workers would idle."""
    groups: dict[tuple, dict[Experiment, list[Experiment]]] = {}
    for experiment in experiments:
        attack = attack_of(experiment)  # it is run once for all that is made of it
        group = groups.setdefault(batch_settings(attack), {})
        group.setdefault(attack, []).append(experiment)
    if slots > 1:
        images = sum(len(attack.ids) for group in groups.values() for attack in group)
        batch_size = min(batch_size, math.ceil(images / (4 * slots)))
    for group in groups.values():
        part, size = [], 0
        for attack, made in group.items():
            if part and size + len(attack.ids) > batch_size:
                yield _Task(part)
                part, size = [], 0
            part = part + made
            size += len(attack.ids)
        yield _Task(part)


class _Progress:
    """A bar in a notebook or terminal, otherwise a log line every ten seconds."""

    def __init__(self, total, done):
        self.total, self.before = total, done
        self.start = time.monotonic()
        self.logged = -math.inf
        self.bar = progress_bar(total=total, initial=done, desc="experiments", unit="experiment")

    def show(self, done, failed):
        now = time.monotonic()
        self.bar.set_postfix_str(f"{failed} failed" if failed else "", refresh=False)
        self.bar.update(done - self.bar.n)
        left = self.total - done - failed
        if self.bar.disable and (now > self.logged + 10 or not left):
            self.logged = now
            seconds = left * (now - self.start) / max(1, done - self.before)
            count = f"{done} of {self.total} experiments, {failed} failed, {left} left"
            log(f"{count}, about {format_duration(seconds)}")


def _compute(shared, task):
    """Results of a task, or None without a copy of the data. Runs in a worker, or here."""
    if task.cases:
        ids, *cases = task.cases
    else:
        data = shared["dataset"]
        if data is None and shared["origin"]:
            data = _own_copy(shared["digest"], **shared["origin"])
        if data is None:
            return None
        ids = _ids(task)
        cases = data.take(ids)
    device = shared["device"]
    images, truth = (dict(zip(ids, part.to(device), strict=True)) for part in cases)
    return compute_results(
        task.experiments,
        images,
        truth,
        structures=shared["structures"],
        networks={digest: network.to(device) for digest, network in shared["networks"].items()},
        batch_size=shared["batch_size"],
    )


def _ids(task):
    return list(dict.fromkeys(id for experiment in task.experiments for id in experiment.ids))


@lru_cache(maxsize=1)
def _own_copy(digest, **origin):
    """This machine's copy of the dataset, or None."""
    try:
        data = load(**origin)
    except (OSError, ValueError, TypeError):
        return None
    return data if data.digest == digest else None


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
        count = f"{len(found)} experiments that begin with {key!r}"
        raise ValueError(f"{shelf.folder}/failed has {count}; `status` lists them")
    record = read_failure(found[0])[1]
    if record["origin"] is None:
        problem = "the dataset of this experiment was put together by hand"
        raise ValueError(f"{problem}: run the sweep again that made it")
    experiment, data = Experiment.read(record["cell"]), load(**record["origin"])
    networks = _networks({}, [experiment])
    _check(experiment, data, data.ids, networks)
    cases = (dict(zip(experiment.ids, part, strict=True)) for part in data.take(experiment.ids))
    about = {"structures": data.structures, "networks": networks}
    (result,) = compute_results([experiment], *cases, **about)
    shelf.write(experiment, result, noise=True)
    return result
