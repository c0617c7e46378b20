"""A grid of experiments: finished results come from the store, an engine computes the rest."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from helpers.common.arguments import require, whole_number
from helpers.common.paths import EXPERIMENTS
from helpers.common.progress import log, progress_bar
from helpers.data import Dataset, load
from helpers.labels import OUTSIDE
from helpers.sweep.compute import Result, restore_images
from helpers.sweep.engine import Engine, open_engine
from helpers.sweep.experiment import Experiment, check_experiment
from helpers.sweep.report import describe_failure, result_table
from helpers.sweep.store import Store
from helpers.sweep.tasks import Shared, compute_task, make_tasks
from helpers.weights import Trained, find_weights, load_weights

BATCH = {"cpu": 8, "cuda": 64}  # images of 256×256 at a time
Networks = Iterable[Trained] | Mapping[str, nn.Module]


class SweepError(RuntimeError):
    """Experiments failed; the others are in the store."""


def run(
    experiments: Mapping,
    dataset: Dataset,
    networks: Networks,
    *,
    store: Path = EXPERIMENTS,
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
        SweepError: experiments failed; the message says what to do.
        OSError: the store could not be written. What is finished is kept.
        LostEngine: the scheduler has gone. What is finished is kept.
    """
    named = {n if isinstance(n, tuple) else (n,): e for n, e in experiments.items()}
    require(
        all(len(name) == len(names) for name in named),
        "names",
        names,
        "give a column for each part of an experiment's name",
    )
    if batch_size is not None:
        whole_number("batch_size", batch_size)
    weights = _networks(networks, named.values(), dataset)
    shelf = Store(store)
    results = {e.key: shelf.read(e, noise=noise, arrays=False) for e in named.values()}
    missing = {e.key: e for e in named.values() if results[e.key] is None}
    if missing:
        engine = open_engine(engine) if isinstance(engine, str) else engine
        most = BATCH[engine.device.type]
        usual = max(1, min(4 * most, most * 256**2 // dataset.size**2))
        if not engine.in_process:  # each worker makes networks of one's own anew
            own = {key: getattr(network, "spec", None) for key, network in weights.items()}
            weights |= {key: spec for key, spec in own.items() if spec}
        ids = tuple({id: None for e in missing.values() for id in e.ids})
        images, labels = dataset.take(ids)
        cases = replace(dataset, ids=ids, images=images, labels=labels)
        shared = Shared(cases, weights, engine.device, batch_size or usual)
        results |= _compute(missing, engine, shared, shelf, noise, len(results))
    rows = [(name, e, results[e.key]) for name, e in named.items()]
    return result_table(rows, names, dataset.structures)


def _networks(networks, experiments, dataset):
    """{digest: network} of all that the experiments name; they fit these and the dataset."""
    if isinstance(networks, Mapping):
        found = dict(networks)
    else:
        found = {}
        for trained in networks:
            require(
                trained.is_unchanged(),
                "network",
                trained.digest[:12],
                "it was changed after its training: load it again",
            )
            found[trained.digest] = trained.network
    asked = {digest for e in experiments for digest in (e.attacked, *e.surrogates)}
    for digest in asked - found.keys():
        if path := find_weights(digest):
            trained = load_weights(path)
            found[trained.digest] = trained.network
    for experiment in experiments:
        check_experiment(experiment, dataset, found)
    return found


def load_images(
    experiments: Mapping, dataset: Dataset, *, store: Path = EXPERIMENTS
) -> tuple[dict, dict]:
    """What experiments look like that `run` has computed with noise=True.

    Args:
        experiments, dataset, store: as in `run`.

    Returns:
        Two dicts from the names of the experiments: to adversarial images (N, C, H, W), see
        `restore_images`; and to uint8 (N, H, W), what the attacked network sees, background in
        the padding.

    Raises:
        ValueError: the store lacks one, or its noise.
    """
    adv_images, predictions = {}, {}
    for name, experiment in experiments.items():
        result = Store(store).read(experiment, noise=True)
        if result is None:
            raise ValueError(f"experiment {name} is not in {store}: run the sweep with noise=True")
        images, truth = dataset.take(experiment.ids)
        adv_images[name] = restore_images(images, result)
        predictions[name] = torch.from_numpy(result.predictions).masked_fill(truth == OUTSIDE, 0)
    return adv_images, predictions


def _compute(missing, engine, shared, store, noise, total):
    """Results of what is missing, by key, all of them in the store."""
    results, failed, logged = {}, [], time.monotonic()
    before = total - len(missing)
    bar = progress_bar(total=total, initial=before, desc="experiments")
    try:
        for experiment, result, error in _attempts(missing.values(), engine, shared):
            if error:
                record = store.write_failure(experiment, error, shared.dataset.origin)
                failed.append(describe_failure(store, record))
                continue
            store.write(experiment, result, noise=noise)
            results[experiment.key] = replace(result, predictions=None, noise=None)
            bar.update()
            if bar.disable and time.monotonic() > logged + 10:
                logged = time.monotonic()
                log(f"{before + len(results)} of {total} experiments")
    except (KeyboardInterrupt, OSError) as error:
        finished = f"{before + len(results)} of {total} experiments are finished in {store.folder}"
        error.add_note(f"{finished}: run the same again")
        raise
    finally:
        bar.close()
    if failed:
        text = f"{len(failed)} of {total} experiments failed, the others are in {store.folder}"
        raise SweepError("\n  ".join([text, *failed]))
    return results


def _attempts(experiments, engine, shared):
    """Experiment, result and error of each; those that fail are retried at the end, alone."""
    failed: list = []
    tasks = make_tasks(experiments, shared.batch_size, engine.slots)
    for task, results, error in engine.map(compute_task, lambda: next(tasks, None), shared):
        if error:
            failed += task
        else:
            yield from zip(task, results, repeat(None))
    alone = ([experiment] for experiment in failed)
    for task, results, error in engine.map(compute_task, lambda: next(alone, None), shared):
        yield task[0], results and results[0], error


def rerun_failed(store: Path, key: str) -> Result:
    """Compute an experiment that failed once more, here; its error is not caught.

    Args:
        store: folder of the results.
        key: first characters of the experiment's key.

    Raises:
        ValueError: no record of a failure begins with the key, or more than one; or the dataset or
            the networks are not there.
    """
    shelf = Store(store)
    records = shelf.failures(key)
    require(
        len(records) == 1,
        "key",
        key,
        f"{len(records)} experiments that failed begin so; `status` lists them",
    )
    origin = records[0]["origin"]
    require(origin, "origin", origin, "the data were put together by hand: run that sweep again")
    try:
        experiment, data = Experiment.read(records[0]["cell"]), load(**origin)
    except (TypeError, KeyError) as error:
        text = f"experiment {key} is of another version of this software: run the sweep again"
        raise ValueError(text) from error
    networks = _networks({}, [experiment], data)
    shared = Shared(data, networks, torch.device("cpu"), BATCH["cpu"])
    (result,) = compute_task(shared, [experiment])
    shelf.write(experiment, result, noise=True)
    return result
