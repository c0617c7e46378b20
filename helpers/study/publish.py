"""Publish a finished run: its tables and figures, networks, outputs, and the pages' numbers."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from helpers.common import paths
from helpers.common.files import write_file
from helpers.common.paths import PUBLISHED, WEIGHTS
from helpers.study import readme
from helpers.study.parameters import Names, find_notebooks, resolve
from helpers.study.runner import finished_files
from helpers.weights import find_weights

PATIENT = "_on_a_patient.png"  # pictures of somebody, shown in notebooks and the README alone
WIDGET = "application/vnd.jupyter.widget-view+json"
FURTHER = ("transfer_networks.csv", "robust.csv")  # tables of further networks, by their digests


def publish(profile: str, only: Names = ()) -> list:
    """Publish a run, or some notebooks of it, and renew the tables in the pages.

    Of quick, the outputs go into the notebooks, and the README's picture of a patient to
    figures/patients/. Of full, tables go to figures/, and the pictures of phantoms; of another
    profile the tables, to figures/<profile>/, but no verdicts on a folder's data, which are open.
    Of quick and full also the networks, to data/weights.

    Args:
        profile: the run's.
        only: numbers or names of notebooks; empty for all.

    Returns:
        The paths written.

    Raises:
        ValueError: a notebook has not finished with the profile's parameters and its present
            cells, a file is not as the run left it, or a network is missing. Nothing is copied.
    """
    folder = paths.RUNS / profile
    values = resolve(paths.NOTEBOOKS, profile, only=only)
    chosen = {path: values[path] for path in find_notebooks(paths.NOTEBOOKS, only)}
    names = [name for each in chosen.items() for name in finished_files(folder, *each)]
    datasets = {own.get("dataset") for own in chosen.values()}
    kinds = (".csv", ".png") if profile == "full" and datasets == {"phantom"} else (".csv",)
    patient = [folder / name for name in names if name == "04_on_a_patient.png"]
    useless = (PATIENT, "verdicts.csv") if datasets == {"folder"} else (PATIENT,)
    names = [name for name in names if name.endswith(kinds) and not name.endswith(useless)]
    written = []
    if profile in ("quick", "full") and "clean.csv" in names:
        written += publish_weights(folder, names)
    if profile == "quick":
        written += [_renew_outputs(notebook, folder / notebook.name) for notebook in chosen]
        written += copy_files(patient, paths.FIGURES / "patients")
    else:
        place = paths.FIGURES if profile == "full" else paths.FIGURES / profile
        written += copy_files([folder / name for name in names], place)
    return written + readme.renew_readme(readme.READMES, paths.FIGURES)


def copy_files(files: Sequence[Path], place: Path) -> list:
    """Copy files to a folder, each whole or not at all; returns where they are now."""
    return [write_file(place / path.name, path.read_bytes()) for path in files]


def publish_weights(
    folder: Path, names: Sequence[str], *, weights: Path = WEIGHTS, place: Path = PUBLISHED
) -> list:
    """Ship the networks of a run's clean.csv and of its `FURTHER` tables.

    Args:
        folder: of the run.
        names: of the run's files; others may lie there since an earlier one.
        weights: folder of trained weights.
        place: where they go.

    Returns:
        Their paths.

    Raises:
        ValueError: one is missing.
    """
    files: list = []
    digests = pd.read_csv(folder / "clean.csv", dtype=str).loc[0, "weights"].split("/")
    for further in [folder / name for name in FURTHER if name in names]:
        digests += [*pd.read_csv(further, dtype=str)["digest"]]
    for digest in dict.fromkeys(digests):
        path = find_weights(digest, weights)
        if path is None:
            raise ValueError(f"{weights} lacks the network {digest}: train it again")
        files += [path, path.with_suffix(".json")]
    return copy_files(files, place)


def _renew_outputs(notebook, executed):
    """Give a notebook the outputs of its executed copy, and return its path.

    Left out are what the batch run added, warnings (they name paths of the machine) and widgets
    (their kernel is gone; the picture beside one stays).
    """
    renewed = _read_json(notebook)
    pairs = zip(_code_cells(renewed), _code_cells(_read_json(executed)), strict=True)
    for count, (cell, copy) in enumerate(pairs, 1):
        cell["execution_count"] = count
        cell["outputs"] = [each for each in copy["outputs"] if each.get("name") != "stderr"]
        for output in cell["outputs"]:
            output.get("data", {}).pop(WIDGET, None)
            if "execution_count" in output:
                output["execution_count"] = count
    return write_file(notebook, json.dumps(renewed, indent=1, ensure_ascii=False) + "\n")


def _code_cells(notebook):
    """The code cells, without the one that a batch run adds."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [each for each in cells if "injected-parameters" not in each["metadata"].get("tags", [])]


def _read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))
