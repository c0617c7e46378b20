"""What a store holds: the table of results, the status, and the export."""

import shlex
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from helpers.common.files import digest_json
from helpers.sweep.store import Store

ABOUT = ("commit", "torch", "device", "threads")
SCORES = ("id", "structure", "compared_with", "iou", "linf", "loss", "warnings")


def result_table(
    entries: Iterable[tuple], names: Sequence[str], structures: Sequence[str] = ()
) -> pd.DataFrame:
    """The tidy table that `run` returns.

    Args:
        entries: (parts of the name, Experiment, Result) of each experiment.
        names: of the columns that hold the parts.
        structures: names of the classes 1 … S; default their numbers.
    """
    rows = []
    for name, experiment, result in entries:
        classes = structures or range(1, result.iou["target"].shape[1] + 1)
        about = [result.about.get(column, "") for column in ABOUT]
        end = (result.seconds, experiment.key, *about)
        cases = zip(experiment.ids, result.linf, result.loss, result.warnings, strict=True)
        for case, (id, *values) in enumerate(cases):
            for (k, structure), compared in product(enumerate(classes), ("target", "truth")):
                iou = result.iou[compared][case, k]
                rows.append((*name, id, structure, compared, iou, *values, *end))
    table = pd.DataFrame(rows, columns=[*names, *SCORES, "seconds", "experiment", *ABOUT])
    return table.astype(dict.fromkeys(("iou", "linf", "loss", "seconds"), "float32"))


def status(folder: Path) -> tuple[str, bool]:
    """What a store holds and what failed, as text; and whether nothing failed."""
    store = Store(folder)
    found = _read_all(store)
    cases = sum(len(experiment.ids) for experiment, _ in found)
    failed = [describe_failure(store, record) for record in store.failures()]
    damaged = len(list(store.folder.glob("damaged/*")))
    counts = f"{len(found)} experiments, {cases} attacked cases, {len(failed)} failed"
    return "\n  ".join([f"{store.folder}: {counts}, {damaged} damaged", *failed]), not failed


def _read_all(store):
    pairs = map(store.read_key, store.keys())
    return list(filter(None, pairs))


def export(folder: Path) -> pd.DataFrame:
    """The table of all sound results of a store, with the fields of each experiment as columns."""
    found = _read_all(Store(folder))
    if not found:
        return result_table([], [])
    fields = pd.json_normalize([experiment.values() for experiment, _ in found], sep="_")
    fields["classes"] = [" ".join(map(str, classes)) for classes in fields["classes"]]
    fields = fields.drop(columns="ids")
    fields = fields.rename(columns={"loss": "loss_function"})
    rows = ((name, *pair) for name, pair in zip(fields.values, found, strict=True))
    return result_table(rows, list(fields))


def describe_failure(store: Store, record: dict) -> str:
    """The error in a record of a failure, and the command that computes the experiment alone."""
    error = record["error"].strip().splitlines()[-1]
    key, folder = digest_json(record["cell"])[:12], str(store.folder.absolute())
    alone = shlex.join([sys.executable, "-m", "helpers.sweep", "run", folder, key])
    return f"{key}: {error[:200]}\n    alone: {alone}"
