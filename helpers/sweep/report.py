"""What a store holds: the table of results, the status, and the command line."""

import json
import shlex
import sys
from functools import lru_cache

import numpy as np
import pandas as pd

from helpers.sweep.store import Store

COMPARISONS = ("target", "truth")


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
    "cell",
    *ABOUT,
)


def _row(outcome):
    """What the table needs of an outcome, small: (N, 2 · S + 2) numbers, warnings, seconds and provenance."""
    numbers = np.column_stack(
        [*(outcome.iou[name] for name in COMPARISONS), outcome.linf, outcome.loss]
    )
    about = tuple(outcome.about.get(name, "") for name in ABOUT)
    return numbers, _shared(outcome.warnings), outcome.seconds, _shared(about)


@lru_cache(maxsize=256)
def _shared(value):
    """The same object for equal values."""
    return value


def _table(rows, cells, structures, names):
    """The tidy table of rows, a dict from the names of the cells, in their order."""
    if not rows:
        return pd.DataFrame(columns=[*names, *COLUMNS])
    numbers, doubts, seconds, about = zip(*rows.values(), strict=True)
    numbers, pairs = np.concatenate(numbers), len(structures) * len(COMPARISONS)
    sizes = [pairs * len(cell.ids) for cell in cells]
    of_cell = lambda values: np.repeat(np.array(values, dtype=object), sizes)  # noqa: E731
    of_case = lambda values: np.repeat(np.array(values, dtype=object), pairs)  # noqa: E731
    columns = {
        column: of_cell([name[place] for name in rows]) for place, column in enumerate(names)
    }
    columns["id"] = of_case([id for cell in cells for id in cell.ids])
    columns["structure"] = np.tile(
        np.repeat(np.array(structures, dtype=object), len(COMPARISONS)), len(numbers)
    )
    columns["compared_with"] = np.tile(
        np.array(COMPARISONS, dtype=object), len(numbers) * len(structures)
    )
    iou = (
        numbers[:, :pairs].reshape(-1, len(COMPARISONS), len(structures)).transpose(0, 2, 1).ravel()
    )
    columns |= {
        "iou": iou,
        "linf": np.repeat(numbers[:, -2], pairs),
        "loss": np.repeat(numbers[:, -1], pairs),
        "warnings": of_case([text for texts in doubts for text in texts]),
        "seconds": np.repeat(np.array(seconds, dtype=np.float32), sizes),
        "cell": of_cell([cell.key for cell in cells]),
    }
    columns |= {
        name: of_cell(values) for name, values in zip(ABOUT, zip(*about, strict=True), strict=True)
    }
    return pd.DataFrame(columns).infer_objects()


def status(store):
    """(text, healthy): how many cells a store holds, of what, and what failed; whether nothing failed."""
    store = Store(store)
    cells = cases = seconds = size = 0
    for key in store.keys():
        cell, outcome = store.read_key(key)
        if cell is not None:
            cells, cases, seconds = (
                cells + 1,
                cases + len(cell.ids),
                seconds + outcome.seconds * len(cell.ids),
            )
            size += store.path(key).stat().st_size
    failed = sorted((store.folder / "failed").glob("*.json"))
    damaged = list((store.folder / "damaged").glob("*"))
    lines = [
        f"{store.folder}: {cells} cells, {cases} attacked cases, {seconds / 3600:.2f} hours of computing, "
        f"{size / 2**20:.1f} MiB; {len(failed)} failed, {len(damaged)} damaged"
    ]
    for path in failed:
        try:
            error = _failure(path)["error"].strip().splitlines()[-1]
        except ValueError as problem:
            lines.append(f"  {problem}")
        else:
            lines.append(f"  {path.stem[:12]}: {error}\n    alone: {_alone(store, path.stem)}")
    return "\n".join(lines), not failed


def _failure(path):
    """The record of a cell that failed.

    Raises:
        ValueError: it is damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"error": str, "cell": dict, "origin": dict | None}
        if all(isinstance(record[name], kind) for name, kind in kinds.items()):
            return record
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path} is damaged: delete it, and run the sweep again")


def export(store):
    """The table of all sound cells of a store, with the parts of each cell as columns."""
    store, tables = Store(store), []
    for key in store.keys():
        cell, outcome = store.read_key(key)
        if cell is None:
            continue
        parts = cell.values() | {f"goal_{name}": value for name, value in vars(cell.goal).items()}
        parts |= {f"region_{name}": value for name, value in vars(cell.region).items()}
        names = [name for name in parts if name not in ("ids", "goal", "region")]
        parts["classes"] = " ".join(map(str, cell.classes))
        structures = [str(c) for c in range(1, outcome.iou["target"].shape[1] + 1)]
        tables.append(
            _table({tuple(parts[name] for name in names): _row(outcome)}, [cell], structures, names)
        )
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def _alone(store, key):
    """The command that computes a failed cell alone."""
    return shlex.join(
        [sys.executable, "-m", "helpers.sweep", "run", str(store.folder.absolute()), key[:12]]
    )
