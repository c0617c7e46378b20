"""Publish a finished run: its tables and figures, networks, outputs, and the pages' numbers."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.common import paths
from helpers.common.files import atomic_write
from helpers.common.paths import PUBLISHED, WEIGHTS
from helpers.study import readme
from helpers.study.parameters import Names, Parameters, find_notebooks, resolve, source_digest
from helpers.study.runner import (
    digest_file,
    display_path,
    find_changes,
    read_record,
    resume_command,
)
from helpers.weights import find_weights

WIDGET = "application/vnd.jupyter.widget-view+json"


def publish(profile: str, only: Names = ()) -> list[Path]:
    """Publish a run, or some notebooks of it, and renew the tables in the pages.

    Of quick, the outputs go into the notebooks. Of full, tables go to figures/, and the pictures of
    phantoms; of another profile the tables, to figures/<profile>/. Of quick and full also the
    networks, to data/weights.

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
    notebooks = find_notebooks(paths.NOTEBOOKS, only)
    names: list[str] = []
    for notebook in notebooks:
        names += _finished_files(folder, notebook, values[notebook])
    if profile != "full" or any(values[each].get("dataset") != "phantom" for each in notebooks):
        names = [name for name in names if name.endswith(".csv")]
    written = []
    if profile in ("quick", "full") and "clean.csv" in names:
        written += publish_weights(folder)
    if profile == "quick":
        written += [renew_outputs(notebook, folder / notebook.name) for notebook in notebooks]
    else:
        place = published_folder(profile)
        written += _write({place / name: (folder / name).read_bytes() for name in names})
    return written + readme.renew_readme(readme.READMES, paths.FIGURES)


def published_folder(profile: str) -> Path:
    """Where the tables of a profile are published."""
    return paths.FIGURES if profile == "full" else paths.FIGURES / profile


def _finished_files(folder: Path, notebook: Path, wanted: Parameters) -> list[str]:
    """Names of the files that a notebook made; an error if it did not finish as it would now."""
    record = read_record(folder, notebook)
    if not record:
        problem = f"{notebook.stem} has not finished in {display_path(folder)}"
    elif record["source"] != source_digest(notebook) or find_changes(record["parameters"], wanted):
        problem = f"{notebook.stem} in {display_path(folder)} ran with other parameters or cells"
    else:
        files = record["files"]
        changed = [folder / name for name in files if digest_file(folder / name) != files[name]]
        if not changed:
            return list(files)
        problem = f"{display_path(changed[0])} is not as the run left it"
    raise ValueError(f"{problem}; run {resume_command(folder.name, [notebook.stem[:2]])}")


def _write(contents: dict[Path, bytes]) -> list[Path]:
    for path, content in contents.items():
        with atomic_write(path) as file:
            file.write(content)
    return list(contents)


def publish_weights(
    folder: Path, *, weights: Path = WEIGHTS, place: Path = PUBLISHED
) -> list[Path]:
    """Ship the networks of a run's clean.csv, instead of earlier ones for the same size of image.

    Args:
        folder: of the run.
        weights: folder of trained weights.
        place: where they go.

    Returns:
        Their paths.

    Raises:
        ValueError: one is missing.
    """
    contents: dict[Path, bytes] = {}
    sizes = set()
    for digest in pd.read_csv(folder / "clean.csv", dtype=str).loc[0, "weights"].split("/"):
        path = find_weights(digest, weights)
        if path is None:
            raise ValueError(f"{weights} lacks the network {digest}: train it again")
        about = path.with_suffix(".json")
        sizes.add(_read_json(about)["recipe"]["size"])
        contents |= {place / own.name: own.read_bytes() for own in (path, about)}
    for about in place.glob("*.json"):
        if about not in contents and _read_json(about)["recipe"]["size"] in sizes:
            about.with_suffix(".safetensors").unlink(missing_ok=True)
            about.unlink()
    return _write(contents)


def renew_outputs(notebook: Path, executed: Path) -> Path:
    """Give a notebook the outputs of its executed copy, and return its path.

    Left out are what the batch run added, warnings (they name paths of the machine) and widgets
    (their kernel is gone; the picture beside one stays).
    """
    renewed = _read_json(notebook)
    own = [cell for cell in renewed["cells"] if cell["cell_type"] == "code"]
    made = [
        cell["outputs"]
        for cell in _read_json(executed)["cells"]
        if cell["cell_type"] == "code"
        and "injected-parameters" not in cell["metadata"].get("tags", [])
    ]
    for count, (cell, outputs) in enumerate(zip(own, made, strict=True), 1):
        cell["execution_count"] = count
        cell["outputs"] = [output for output in outputs if output.get("name") != "stderr"]
        for output in cell["outputs"]:
            output.get("data", {}).pop(WIDGET, None)
            if "execution_count" in output:
                output["execution_count"] = count
    with atomic_write(notebook, "w") as file:
        file.write(json.dumps(renewed, indent=1, ensure_ascii=False) + "\n")
    return notebook


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def compare(profile: str) -> pd.DataFrame:
    """How far the means of a run are from the published ones, in tables with intervals.

    Returns:
        A row for each table that both have: table, rows (published), missing (of these, here),
        outside (means that are not in the published interval).

    Raises:
        ValueError: they have no such table in common.
    """
    rows = []
    for path in sorted(published_folder(profile).glob("*.csv")):
        own = paths.RUNS / profile / path.name
        published = pd.read_csv(path)
        if "low" in published and own.exists():
            keys = list(published.loc[:, :"n"])
            both = published.merge(pd.read_csv(own), on=keys, suffixes=("", "_here"))
            here = both["share_here" if "share" in both else "iou_here"]
            outside = ~here.between(both["low"], both["high"])
            rows.append([path.name, len(published), len(published) - len(both), outside.sum()])
    if not rows:
        raise ValueError(f"nothing to compare: run the profile {profile}, or publish it")
    return pd.DataFrame(rows, columns=["table", "rows", "missing", "outside"])
