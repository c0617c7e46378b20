"""What a store holds: the table of results, the status, and the export."""

import shlex
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from helpers.sweep.compute import Result
from helpers.sweep.experiment import Experiment
from helpers.sweep.store import Store, read_failure

ABOUT = ("commit", "torch", "device", "threads")
COLUMNS = (
    "id",
    "structure",
    "compared_with",
    "iou",
    "linf",
    "loss",
    "warnings",
    "seconds",
    "experiment",
    *ABOUT,
)


def result_table(
    entries: Iterable[tuple[tuple, Experiment, Result]],
    names: Sequence[str],
    structures: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The tidy table that `run` returns.

    Args:
        entries: the parts of each name, the experiment and its result.
        names: of the columns that hold the parts.
        structures: names of the classes 1 … S; default their numbers.
    """
    rows = []
    for name, experiment, result in entries:
        classes = structures or [str(k + 1) for k in range(result.iou["target"].shape[1])]
        about = [result.about.get(column, "") for column in ABOUT]
        end = (result.seconds, experiment.key, *about)
        for case, id in enumerate(experiment.ids):
            values = (result.linf[case], result.loss[case], result.warnings[case], *end)
            for (k, structure), compared in product(enumerate(classes), ("target", "truth")):
                rows.append((*name, id, structure, compared, result.iou[compared][case, k], *values))
    table = pd.DataFrame(rows, columns=[*names, *COLUMNS])
    numbers = ("iou", "linf", "loss", "seconds")
    return table.astype(dict.fromkeys(numbers, "float32")) if rows else table


def status(folder: str | Path) -> tuple[str, bool]:
    """What a store holds and what failed, as text; and whether nothing failed."""
    store = Store(folder)
    sound = [found for key in store.keys() if (found := store.read_key(key))]
    cases = sum(len(experiment.ids) for experiment, _ in sound)
    hours = sum(result.seconds * len(experiment.ids) for experiment, result in sound) / 3600
    size = sum(store.path(experiment.key).stat().st_size for experiment, _ in sound) / 2**20
    failed = store.failures()
    damaged = list((store.folder / "damaged").glob("*"))
    lines = [
        f"{store.folder}: {len(sound)} experiments, {cases} attacked cases, "
        f"{hours:.2f} hours of computing, {size:.1f} MiB; {len(failed)} failed, "
        f"{len(damaged)} damaged"
    ]
    for path in failed:
        try:
            error = read_failure(path)[0]
        except ValueError as problem:
            lines.append(f"  {problem}")
        else:
            alone = command_alone(store, path.stem)
            lines.append(f"  {path.stem[:12]}: {error}\n    alone: {alone}")
    return "\n".join(lines), not failed


def export(folder: str | Path) -> pd.DataFrame:
    """The table of all sound results of a store, with the fields of each experiment as columns."""
    store = Store(folder)
    entries, names = [], []
    for key in store.keys():
        if found := store.read_key(key):
            experiment, result = found
            fields = experiment.values()
            fields["classes"] = " ".join(map(str, experiment.classes))
            for part in ("goal", "region"):
                values = fields.pop(part)
                fields |= {f"{part}_{name}": value for name, value in values.items()}
            del fields["ids"]
            names = list(fields)
            entries.append((tuple(fields.values()), experiment, result))
    return result_table(entries, names)


def command_alone(store: Store, key: str) -> str:
    """The command that computes a failed experiment alone."""
    folder = str(store.folder.absolute())
    return shlex.join([sys.executable, "-m", "helpers.sweep", "run", folder, key[:12]])
