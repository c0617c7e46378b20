"""A grid of attacks: what is finished is taken from the store, the rest is computed, here or by Dask workers.

``python -m helpers.sweep status STORE`` ; with ``--help`` the rest.
"""

import json
import math
import sys
import time
import traceback
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import numpy as np
import torch

from helpers.common import files, paths, progress
from helpers.common.progress import format_duration
from helpers.data import load
from helpers.network import find_device
from helpers.sweep.compute import compute_results, restore_images
from helpers.sweep.engine import LostEngine, start_engine
from helpers.sweep.experiment import (
    Experiment,
    attack_of,
    check_experiment,
)
from helpers.sweep.report import _alone, _failure, _row, _table
from helpers.sweep.store import Store
from helpers.training import (
    find_weights,
    install,
    load_weights,
    make_recipe,
    state_digest,
    train,
    weights_path,
)

BATCH = {"cpu": 8, "cuda": 64}  # images of 256×256 at a time


class SweepError(RuntimeError):
    """Cells failed, or the sweep could not go on; what is finished is in the store."""


def run(
    cells,
    dataset,
    networks,
    *,
    store=paths.EXPERIMENTS,
    engine="",
    names=("attack", "epsilon"),
    noise=False,
    device="cpu",
    batch_size=None,
):
    """Compute the cells that the store lacks, and return the table of all.

    Killed at any moment, the same call goes on where it was. Cells that fail do not stop the others: each is tried a
    second time, alone, and told of at the end.

    Args:
        cells: dict from the parts of a name, such as ("white-box", 0.04), to Cell; all of one dataset.
        dataset: the `data.Dataset` that the cells name.
        networks: the `training.Trained` that take part, or a dict from digest to network; what is missing is looked up
            in runs/weights.
        store: folder.
        engine: who computes, see `helpers.engine`.
        names: of the columns that hold the parts of a name.
        noise: whether the store is to keep the noise too, for `cells.rebuild`.
        device: "cpu", "cuda" or "auto", in this process and in workers.
        batch_size: images at a time; default 8 of 256×256 (on a GPU 64, which take 5 GiB), more of smaller ones.

    Returns:
        DataFrame, a row for each cell, case, structure and comparison: the columns of `names`, id, structure,
        compared_with ("target" or "truth"), iou, linf, loss, warnings, seconds, cell (its key), commit, torch, device,
        threads.

    Raises:
        ValueError: a cell does not fit the dataset, its weights are nowhere or were changed, or engine or store cannot
            be used.
        SweepError: cells failed, or the store could not be written; the message says what to do.
        LostEngine: the scheduler has gone. What is finished is kept.
    """
    cells = {name if isinstance(name, tuple) else (name,): cell for name, cell in cells.items()}
    for name in cells:
        if len(name) != len(names):
            raise ValueError(
                f"cells are named by {name}, names has {len(names)} columns: {', '.join(names)}"
            )
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise ValueError(f"batch_size is {batch_size!r}; give a whole number of 1 or more")
    networks = _networks(networks, cells.values())
    known = frozenset(dataset.ids)
    for cell in cells.values():
        _check_dataset(cell, dataset)
        if unknown := [id for id in cell.ids if id not in known]:
            raise ValueError(
                f"dataset {dataset.name} has no case {unknown[0]!r}, which cell {cell.key[:12]} asks for"
            )
    for cell in {replace(cell, ids=("",)): cell for cell in cells.values()}.values():
        check_experiment(cell, structures=dataset.structures, weights=networks)
    work = _Work(cells, dataset, networks, Store(store), noise, find_device(device), batch_size)
    if work.todo:
        work.do(engine)
    rows = [work.rows[cell.key] for cell in cells.values()]
    return _table(
        dict(zip(cells, rows, strict=True)), list(cells.values()), dataset.structures, names
    )


def _check_dataset(cell, dataset):
    if (cell.dataset, cell.source, cell.size) != (dataset.name, dataset.digest, dataset.size):
        named = f"{cell.dataset} {cell.size} ({cell.source[:12]})"
        found = f"{dataset.name} {dataset.size} ({dataset.digest[:12]})"
        raise ValueError(f"cell {cell.key[:12]} is of {named}, the dataset is {found}")


def load_images(cells, dataset, *, store=paths.EXPERIMENTS):
    """What the cells look like: adversarial images (from noise that was kept, see `cells.rebuild`) and label maps.

    Args:
        cells: dict from a name to Cell, that `run` has computed with noise=True.
        dataset, store: as in `run`.

    Returns:
        Two dicts from the same names: to (N, C, H, W), and to uint8 (N, H, W), what the attacked network sees.
    """
    store, adv_images, predictions = Store(store), {}, {}
    for name, cell in cells.items():
        outcome = store.read(cell, noise=True)
        if outcome is None:
            raise ValueError(f"cell {name} is not in {store.folder}: run the sweep with noise=True")
        adv_images[name] = restore_images(dataset.take(cell.ids)[0], outcome)
        predictions[name] = torch.from_numpy(outcome.predictions)
    return adv_images, predictions


def smallest_epsilon(cells, *args, reached=95.0, low=0.001, high=0.16, rounds=6, **options):
    """Smallest noise level of each case at which targeted attacks reach an IoU, by bisection of log ε.

    Each round is a sweep of its own, of cells of one case, which end once they are past the IoU.

    Args:
        cells: dict from a name to a Cell with a target; its ε does not matter.
        *args, **options: dataset and networks, and what else `run` takes.
        reached: IoU × 100 of the goal's structure that counts as success.
        low, high: the range of ε; it is halved `rounds` times on a logarithmic scale.

    Returns:
        dict from the same names to float (N,): the least ε that was tried and was enough, at most
        (high / low)^(1 / 2^rounds) times too high; infinity where none was. A case for which `low` is enough ends just
        above it.
    """
    beyond = min(
        reached + 1, 100.0
    )  # the attack's own precision may count a pixel more than the judge
    single = {
        (name, id): replace(cell, ids=(id,), stop_at=beyond)
        for name, cell in cells.items()
        for id in cell.ids
    }
    bounds, best = {key: (low, high) for key in single}, dict.fromkeys(single, math.inf)
    for index in range(rounds + 1):
        tried = {
            key: high if index == 0 else round(math.sqrt(a * b), 9)
            for key, (a, b) in bounds.items()
        }
        now = {key: replace(cell, epsilon=tried[key]) for key, cell in single.items()}
        table = run(now, *args, **options | {"names": ("name", "case")})
        structures = {key: cell.goal.structure for key, cell in single.items()}
        own = table[table["compared_with"] == "target"].set_index(["name", "case", "structure"])[
            "iou"
        ]
        for key, (a, b) in bounds.items():
            enough = own[(*key, structures[key])] >= reached
            best[key] = tried[key] if enough else best[key]
            bounds[key] = (a, b) if index == 0 else (a, tried[key]) if enough else (tried[key], b)
    return {name: np.array([best[name, id] for id in cell.ids]) for name, cell in cells.items()}


def train_all(dataset, roles, *, engine="", folder=paths.WEIGHTS, device="cpu", **settings):
    """`training.train` of several networks, side by side where the engine has workers.

    Args:
        dataset, folder, device, **settings: as in `training.train`.
        roles: such as ("target", "surrogate"), or (role, seed) pairs.
        engine: who trains, see `helpers.engine`.

    Returns:
        dict from the roles to Trained.

    Raises:
        LostEngine: no scheduler answers, or it has gone.
        RuntimeError: training killed its workers, one after the other.
    """
    asked = {
        role: (role, settings) if isinstance(role, str) else (role[0], settings | {"seed": role[1]})
        for role in roles
    }
    device = find_device(device)
    missing = deque(
        role
        for role, (name, values) in asked.items()
        if not weights_path(make_recipe(dataset, name, **values), folder).exists()
    )
    if missing:
        shared = {
            "origin": dataset.origin,
            "digest": dataset.digest,
            "folder": folder,
            "device": device,
            "dataset": None if engine and dataset.origin else dataset,
        }
        following = lambda: asked[missing.popleft()] if missing else None  # noqa: E731
        try:
            with start_engine(engine, device=device) as place:
                for (role, _), trained, error in place.map(_train, following, shared):
                    if (
                        type(error).__name__ == "KilledWorker"
                    ):  # Dask's, which is imported only where it is used
                        raise RuntimeError(
                            f"workers were killed while they trained the {role} network: start fewer, give each more "
                            "memory or time, or train without an engine"
                        )
                    if error:
                        raise error
                    if (
                        trained is not None
                    ):  # else the worker has no copy of the data: it is trained here
                        install(*trained, folder)
        except LostEngine as error:
            raise LostEngine(f"{error}: start a scheduler and run the same again") from None
    make = partial(train, dataset, folder=folder, device=device)
    return {role: make(name, **values) for role, (name, values) in asked.items()}


def _train(shared, task):
    role, settings = task
    data = _data(shared)
    if data is None:
        return None
    trained = train(data, role, folder=shared["folder"], device=shared["device"], **settings)
    path = weights_path(trained.recipe, shared["folder"])
    return path.name, path.read_bytes(), path.with_suffix(".json").read_bytes()


@dataclass(frozen=True)
class _Task:
    cells: tuple
    again: bool = False  # its cell failed before
    cases: tuple | None = field(
        default=None, compare=False
    )  # images and labels, for a worker without the data


class _Work:
    """The cells of a sweep that are not finished, and how they become so."""

    def __init__(self, cells, dataset, networks, store, noise, device, batch_size):
        self.dataset, self.networks, self.store, self.noise, self.device = (
            dataset,
            networks,
            store,
            noise,
            device,
        )
        most = BATCH[device.type]
        self.batch_size = batch_size or max(1, min(4 * most, most * 256**2 // dataset.size**2))
        self.rows, self.failed, self.elsewhere, self.claims = {}, {}, [], {}
        self.todo = {}
        for cell in cells.values():
            if cell.key not in self.rows and cell.key not in self.todo and not self._look(cell):
                self.todo[cell.key] = cell
        self.total, self.before = len(self.rows) + len(self.todo), len(self.rows)

    def do(self, engine):
        """Compute what is left."""
        self.status, self.queue, self.slots = Status(self.total, self.before), deque(), 1
        try:
            # nearly all that writing takes is waiting for the disk
            with (
                start_engine(engine, device=self.device) as place,
                ThreadPoolExecutor(8) as self.disk,
            ):
                self.slots = place.slots
                self.queue.extend(self._chunks())
                shared = {
                    "structures": self.dataset.structures,
                    "networks": self.networks,
                    "device": self.device,
                    "batch_size": self.batch_size,
                    "origin": self.dataset.origin,
                    "digest": self.dataset.digest,
                    "dataset": self.dataset if place.slots == 1 and not engine else None,
                }
                while self.queue:
                    for task, found, error in place.map(_compute, self._next, shared):
                        self._take(task, found, error)
                    if self.elsewhere:  # another process is at them
                        time.sleep(0.5)
                        self.queue.extend(self.elsewhere)
                        self.elsewhere.clear()
        except KeyboardInterrupt:
            print(f"\n{self._finished()}; the same call goes on from there", file=sys.stderr)
            raise
        except LostEngine as error:
            raise LostEngine(
                f"{error}; {self._finished()}: start a scheduler and run the same again"
            ) from None
        finally:
            for claim in self.claims.values():
                claim.close()
            self.status.close()
        if self.failed:
            self._report()

    def _chunks(self):
        """Tasks of a batch each, of cells that have the most in common; smaller where there are workers to feed."""
        alike = {}
        for cell in self.todo.values():
            start = attack_of(cell)  # an attack is run once for all that is made of it
            group = alike.setdefault(
                (start.crafted_on, start.attack, start.steps, start.loss, start.classes), {}
            )
            group.setdefault(start, []).append(cell)
        images = sum(len(start.ids) for group in alike.values() for start in group)
        most = (
            min(self.batch_size, math.ceil(images / (4 * self.slots)))
            if self.slots > 1
            else self.batch_size
        )
        for group in alike.values():
            chunk, size = [], 0
            for start, cells in group.items():
                if chunk and size + len(start.ids) > most:
                    yield _Task(tuple(chunk))
                    chunk, size = [], 0
                chunk, size = chunk + cells, size + len(start.ids)
            yield _Task(tuple(chunk))

    def _next(self):
        """The next task whose cells nobody has claimed or finished meanwhile; None if there is none for now.

        A cell that failed runs alone: where it kills its worker, no other cell is to blame.
        """
        while self.queue and not (
            self.claims and (self.queue[0].again or any(task.again for task in self.claims))
        ):
            task, claim = self.queue.popleft(), ExitStack()
            cells = [cell for cell in task.cells if not self._look(cell)]
            try:
                mine = set(claim.enter_context(self.store.claimed([cell.key for cell in cells])))
            except OSError as error:
                raise self._no_store(error) from None
            if others := tuple(cell for cell in cells if cell.key not in mine):
                self.elsewhere.append(replace(task, cells=others))
            if cells := tuple(cell for cell in cells if cell.key in mine and not self._look(cell)):
                task = replace(task, cells=cells)
                self.claims[task] = claim
                return task
            claim.close()
            self._show()

    def _take(self, task, found, error):
        """Keep what a task came to, or try its cells again one by one."""
        with self.claims.pop(task):
            if error is None and found is None:
                ids = list(dict.fromkeys(id for cell in task.cells for id in cell.ids))
                try:
                    task = replace(task, cases=(ids, *self.dataset.take(ids)))
                except (OSError, ValueError) as problem:
                    error = problem
            if error is None and found is None:
                self.queue.appendleft(task)
            elif error is None:
                self._write(task.cells, found)
            elif task.again:
                (cell,) = task.cells
                try:
                    self.failed[cell.key] = self._record(cell, error)
                except OSError as problem:
                    raise self._no_store(problem) from None
            else:
                self.queue.extend(_Task((cell,), again=True) for cell in task.cells)
        self._show()

    def _write(self, cells, outcomes):
        keep = partial(self.store.write, noise=self.noise)
        try:
            list(self.disk.map(keep, cells, outcomes))
            for cell in cells:
                self._forget(cell)
        except OSError as error:
            raise self._no_store(error) from None
        for cell, outcome in zip(cells, outcomes, strict=True):
            self._keep(cell, outcome)

    def _show(self):
        self.status.show(len(self.rows), len(self.failed))

    def _look(self, cell):
        """Whether the store has the cell; its rows are kept then."""
        outcome = self.store.read(cell, noise=self.noise, arrays=False)
        if outcome is not None:
            self._keep(cell, outcome)
            with suppress(OSError):
                self._forget(cell)
        return outcome is not None

    def _keep(self, cell, outcome):
        self.rows[cell.key] = _row(outcome)

    def _failure(self, cell):
        return self.store.folder / "failed" / f"{cell.key}.json"

    def _forget(self, cell):
        """Remove what an earlier run, or a driver that was slower, has written of a failure."""
        self._failure(cell).unlink(missing_ok=True)

    def _record(self, cell, error):
        """Write down a cell that fails, and return the first line of the error."""
        text = "".join(traceback.format_exception(error))
        with files.atomic_write(self._failure(cell), "w") as file:
            json.dump(
                {"cell": cell.values(), "error": text, "origin": self.dataset.origin},
                file,
                indent=1,
            )
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]

    def _report(self):
        count = f"{len(self.failed)} of {self.total} cells failed, the others are in {self.store.folder}"
        lines = [
            f"{key[:12]} ({self._failure(self.todo[key])}): {text}\n    alone: {_alone(self.store, key)}"
            for key, text in self.failed.items()
        ]
        raise SweepError("\n  ".join([count, *lines]))

    def _finished(self):
        return f"{len(self.rows)} of {self.total} cells are finished in {self.store.folder}"

    def _no_store(self, error):
        why = error.strerror or error
        return SweepError(
            f"the store cannot be written ({why}); {self._finished()}: mend that and run the same again"
        )


class Status:
    """One line on how a sweep goes: a bar in a notebook or terminal, otherwise a line every few seconds."""

    def __init__(self, total, done):
        self.total, self.before, self.start, self.told = total, done, time.monotonic(), -math.inf
        self.bar = progress.progress_bar(total=total, initial=done, desc="cells", unit="cell")

    def show(self, done, failed):
        """Bring the bar up to date, or print a line if the last one is ten seconds old or all is done."""
        now = time.monotonic()
        self.bar.set_postfix_str(f"{failed} failed" if failed else "", refresh=False)
        self.bar.update(done - self.bar.n)
        if self.bar.disable and (now > self.told + 10 or done + failed == self.total):
            new, self.told = done - self.before, now
            rate = new / max(now - self.start, 1e-9)
            rest = self.total - done - failed
            eta = f", {format_duration(rest / rate)} left" if new else ""
            text = f"{done} of {self.total} cells, {failed} failed, {rest} left, {60 * rate:.1f} a minute{eta}"
            progress.log(text)

    def close(self):
        """Remove the bar."""
        self.bar.close()


def _compute(shared, task):
    """Outcomes of a task's cells, or None without a copy of the data. Runs in a worker, or here."""
    if task.cases is not None:
        ids, images, truth = task.cases
    else:
        ids = list(dict.fromkeys(id for cell in task.cells for id in cell.ids))
        data = _data(shared)
        if data is None:
            return None
        try:
            images, truth = data.take(ids)
        except (OSError, ValueError):
            _own_copy.cache_clear()  # the next try looks at the files again
            raise
    device = find_device(shared["device"])
    cases = [dict(zip(ids, part.to(device), strict=True)) for part in (images, truth)]
    networks = {digest: network.to(device) for digest, network in shared["networks"].items()}
    return compute_results(
        task.cells,
        *cases,
        structures=shared["structures"],
        networks=networks,
        batch_size=shared["batch_size"],
    )


def _data(shared):
    """The dataset that was sent along, or this machine's own copy of it, or None."""
    if shared["dataset"] is not None or shared["origin"] is None:
        return shared["dataset"]
    return _own_copy(shared["digest"], **shared["origin"])


@lru_cache(maxsize=1)
def _own_copy(digest, **origin):
    try:
        data = load(**origin)
    except (OSError, ValueError, TypeError):
        return None
    return data if data.digest == digest else None


def _networks(networks, cells):
    """{digest: network} of all that the cells name, as far as they can be found."""
    if not isinstance(networks, dict):
        for trained in networks:
            if state_digest(trained.network.state_dict()) != trained.digest:
                raise ValueError(
                    f"network {trained.digest[:12]} was changed after its training: load it again"
                )
        networks = {trained.digest: trained.network for trained in networks}
    for digest in {digest for cell in cells for digest in (cell.attacked, cell.crafted_on)} - set(
        networks
    ):
        path = find_weights(digest)
        if path is not None:
            trained = load_weights(path)
            networks = networks | {trained.digest: trained.network}
    return networks


# --- the command line -------------------------------------------------------------------------------------------------


def rerun_failed(store, key):
    """Compute a cell that failed once more, here, with its own copy of the data; errors are not caught."""
    folder = Store(store).folder
    found = sorted((folder / "failed").glob(f"{key}*.json"))
    if len(found) != 1:
        raise ValueError(
            f"{folder}/failed has {len(found)} cells that begin with {key!r}; `status` lists them"
        )
    record = _failure(found[0])
    if record["origin"] is None:
        raise ValueError(
            "the dataset of this cell was put together by hand: run the sweep again that made it"
        )
    cell, data = Experiment.read(record["cell"]), load(**record["origin"])
    _check_dataset(cell, data)
    networks = _networks({}, [cell])
    check_experiment(cell, structures=data.structures, weights=networks)
    shared = {
        "structures": data.structures,
        "networks": networks,
        "device": torch.device("cpu"),
        "dataset": data,
        "batch_size": BATCH["cpu"],
    }
    (outcome,) = _compute(shared, _Task((cell,)))
    Store(store).write(cell, outcome, noise=True)  # whoever asks for the cell may want it
    found[0].unlink()
    return outcome
