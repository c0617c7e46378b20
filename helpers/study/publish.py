"""Publish a finished run (tables, figures, numbers in the README, outputs), or compare it with what is published."""

import json
import re
from functools import partial

import numpy as np
import pandas as pd

from helpers.claims import evaluate
from helpers.common.files import atomic_write
from helpers.common.paths import PUBLISHED, WEIGHTS
from helpers.common.provenance import commit
from helpers.tables import markdown, side_by_side, write_table
from helpers.training import find_weights

MAIN = (
    "full",
    "quick",
)  # these profiles are published to figures/ itself, any other to figures/<profile>/
WIDGET = "application/vnd.jupyter.widget-view+json"
ACROSS = {  # what becomes columns
    "clean": "structure",
    "networks": "network",
    "steps": "steps",
    "table1": "epsilon",
    "table2": "epsilon",
    "table3": "epsilon",
    "table4": "factor",
    "resizing_ways": "factor",
}
KEYS = (
    "id",
    "symbol",
    "setting",
    "window",
    "claim",
)  # what a row is about, in tables without a column n


def _place(folder, figures):
    return figures if folder.name in MAIN else figures / folder.name


def publish_files(folder, names, figures):
    """Copy files of a run, all or none, and return where they are now; verdicts are decided anew, by the present rules.

    Args:
        folder: of the run, named after its profile.
        names: the files to copy.
        figures: the folder of published figures.
    """
    place = _place(folder, figures)
    contents = {place / name: (folder / name).read_bytes() for name in names}
    for path, content in contents.items():
        with atomic_write(path) as file:
            file.write(content)
    if "verdicts.csv" in names and len(
        verdicts := pd.read_csv(place / "verdicts.csv", dtype=str).fillna("")
    ):
        source = verdicts.loc[0, "dataset":].to_dict() | {"commit": commit()}
        write_table(place / "verdicts.csv", evaluate(place, source=source), source)
    return list(contents)


def compare(folder, figures):
    """How far the tables of a run are from the published ones: what this machine makes of the same parameters.

    Args:
        folder: of the run, named after its profile.
        figures: the folder of published figures.

    Returns:
        DataFrame with a row for each published table of such a run: table, rows (that both have), missing (of the
        published ones), equal (the same digits), difference (the greatest, of the value that has an interval, else of
        any number), outside (rows whose value is not in the published interval, or whose verdict is another; NaN for
        a table that has neither).

    Raises:
        ValueError: they have no table in common, or no row of one of them.
    """
    place, found, alike = _place(folder, figures), [], set()
    read = partial(pd.read_csv, dtype=str, keep_default_na=False)
    about = lambda table: tuple(
        table.iloc[0].get(name) for name in ("dataset", "size", "depth", "seed")
    )  # noqa: E731
    paths = {path: folder / path.name for path in sorted(place.glob("*.csv"))}
    for path, own in paths.items():
        if not own.exists():
            continue
        known, ours = read(path), read(own)
        if not len(known) and not len(ours):  # of a run that has nothing to say there
            continue
        alike |= {about(table) for table in (known, ours) if len(table)}
        keys = (
            list(known.loc[:, :"n"]) if "n" in known else [name for name in KEYS if name in known]
        )
        if list(known) != list(ours) or (both := known[keys].merge(ours[keys])).empty:
            raise ValueError(
                f"{own} has other rows than {path}: they were made with other parameters"
            )
        missing = len(known) - len(both)
        known, ours = (
            both.merge(table.loc[:, :"dataset"], validate="one_to_one") for table in (known, ours)
        )
        values = (
            ["share" if "share" in known else "iou"]
            if "low" in known
            else known.columns.difference(keys)
        )
        before, now = (
            table[values].apply(pd.to_numeric, errors="coerce") for table in (known, ours)
        )
        differs = (known != ours).any(axis=1)
        outside = (known["verdict"] != ours["verdict"]).sum() if "verdict" in known else np.nan
        if "low" in known:
            low, high = (pd.to_numeric(known[name], errors="coerce") for name in ("low", "high"))
            outside = (differs & ~now[values[0]].between(low, high)).sum()
        greatest = (now - before).abs().max(axis=None)
        found.append([path.name, len(both), missing, (~differs).sum(), greatest, outside])
    if not found:
        raise ValueError(
            f"{folder} and {place} have no table in common: run the profile, or publish it"
        )
    lacking = {path: read(path) for path, own in paths.items() if not own.exists()}
    found += [
        [path.name, 0, len(table), 0, np.nan, np.nan]
        for path, table in lacking.items()
        if len(table) and about(table) in alike
    ]
    return pd.DataFrame(
        found, columns=["table", "rows", "missing", "equal", "difference", "outside"]
    )


def publish_weights(folder, *, weights=WEIGHTS, place=PUBLISHED):
    """Put the networks of a run's clean.csv into data/weights, in place of earlier ones for the same size of image.

    Args:
        folder: of the run.
        weights: folder of trained weights.
        place: where they go.

    Returns:
        Their paths.

    Raises:
        ValueError: one is missing.
    """
    digests = pd.read_csv(folder / "clean.csv", dtype=str).loc[0, "weights"].split("/")
    found = {digest: find_weights(digest, weights) for digest in digests}
    if None in found.values():
        raise ValueError(
            f"{weights} lacks the network {min(d for d in digests if not found[d])}: train it again"
        )
    paths = [path for own in found.values() for path in (own, own.with_suffix(".json"))]
    contents = {place / path.name: path.read_bytes() for path in paths}
    size = lambda path: json.loads(path.read_text(encoding="utf-8"))["recipe"]["size"]  # noqa: E731
    earlier = [
        path
        for path in place.glob("*.json")
        if path not in contents and size(path) == size(paths[1])
    ]
    for path, content in contents.items():
        with atomic_write(path) as file:
            file.write(content)
    for path in earlier:
        path.with_suffix(".safetensors").unlink(missing_ok=True)
        path.unlink()
    return list(contents)


def publish_summary(folder, names, figures):
    """Write figures/<profile>.csv, one table of a run on a dataset of one's own, and return its path in a list.

    Its columns are goal, attack, epsilon, n, iou, low, high and the provenance: IoU of all structures with the truth
    (untargeted), of the symbol with its target, and of the other structures with theirs.

    Args:
        folder, names, figures: as in `publish_files`; of those, clean.csv, tables 1 to 3 and steps.csv count.

    Raises:
        ValueError: none of them is.
    """
    goals = {
        "clean.csv": lambda t: t[(t["network"] == "target") & (t["structure"] == "mean")].assign(
            goal="untargeted", attack="no attack", epsilon="0.0"
        ),
        "table1.csv": lambda t: t.assign(goal="untargeted"),
        "table2.csv": lambda t: t[t["compared_with"] == "target"].assign(
            goal=t["symbol"] + " symbol"
        ),
        "table3.csv": lambda t: t.assign(goal=t["symbol"] + " symbol: the others"),
        "steps.csv": lambda t: t[t["schedule"] == "faster"].assign(
            goal=t["symbol"] + " symbol", attack="white-box, " + t["steps"] + " faster steps"
        ),
    }
    parts = [
        take(pd.read_csv(folder / name, dtype=str, keep_default_na=False))
        for name, take in goals.items()
        if name in names
    ]
    if not parts:
        raise ValueError(f"{folder} has none of {', '.join(goals)}: run 02, 03 or 04")
    columns = parts[0].columns
    origin = [
        name
        for name in columns[columns.get_loc("dataset") :]
        if name not in ("goal", "attack", "epsilon")
    ]
    path = figures / f"{folder.name}.csv"
    with atomic_write(path, "w") as file:
        columns = ["goal", "attack", "epsilon", "n", "iou", "low", "high", *origin]
        pd.concat(parts)[columns].to_csv(file, index=False, lineterminator="\n")
    return [path]


def renew_readme(readme, figures):
    """Write each published table anew between its marks ``<!-- FILE -->`` and ``<!-- end -->``.

    Args:
        readme: path of the README; FILE is relative to `figures`, such as deep/table1.csv.
        figures: the folder of published figures; a table that is not there leaves its place as it is.

    Returns:
        The README's path in a list; an empty list if there is none.
    """

    def table(match):
        path = figures / match[1]
        return (
            f"<!-- {match[1]} -->\n{markdown_table(path)}\n<!-- end -->"
            if path.exists()
            else match[0]
        )

    if not readme.exists():
        return []
    text = re.sub(
        r"<!-- (\S+\.csv) -->.*?<!-- end -->",
        table,
        readme.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    with atomic_write(readme, "w") as file:
        file.write(text)
    return [readme]


def renew_outputs(notebook, executed):
    """Give a notebook the outputs of its executed copy, but for what the batch run added, for warnings (they name
    paths of the machine) and for widgets. Returns its path."""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    cells = [
        cell for cell in cells if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]
    renewed, count = json.loads(notebook.read_text(encoding="utf-8")), 0
    for cell, ran in zip(renewed["cells"], cells, strict=True):
        if cell["cell_type"] == "code":
            count += 1
            outputs = [{**output} for output in ran["outputs"] if output.get("name") != "stderr"]
            for output in outputs:
                if "execution_count" in output:
                    output["execution_count"] = count
                if WIDGET in output.get(
                    "data", {}
                ):  # of a kernel that is gone; the picture beside it stays
                    output["data"] = {
                        kind: content for kind, content in output["data"].items() if kind != WIDGET
                    }
            cell.update(execution_count=count, outputs=outputs)
    with atomic_write(notebook, "w") as file:
        file.write(json.dumps(renewed, indent=1, ensure_ascii=False) + "\n")
    return notebook


def markdown_table(path):
    """Markdown of a result table (CSV) for reading, with its provenance in a line below."""
    frame = pd.read_csv(
        path, dtype=dict.fromkeys(("size", "depth", "weights", "steps", "seed", "commit"), str)
    )
    end = frame.columns.get_loc("dataset")
    facts = [f"{name} {value}" for name, value in frame.iloc[0, end:].dropna().items()]
    table = frame.iloc[:, :end]
    across = ACROSS.get(path.stem, "epsilon" if "goal" in table else None)
    if across:
        facts = [f"n = {table['n'].max()}", *facts]
        table = side_by_side(
            table.drop(columns="others", errors="ignore"), columns=across
        ).reset_index()
    return f"{markdown(table)}\n\n*{', '.join(facts)}.*"
