"""The generated tables in the project's Markdown pages."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from helpers.common.files import write_file
from helpers.common.paths import FIGURES, ROOT
from helpers.tables import format_interval, markdown, side_by_side

READMES = (ROOT / "README.md", FIGURES / "README.md", ROOT / "tests/benchmarks/README.md")
# Columns that are not numbers, even if they look like them.
TEXTS = ("id", "structure", "size", "depth", "weights", "steps", "seed", "commit")
ACROSS = {  # what becomes columns
    "attack_strength": "attack",
    "clean": "structure",
    "filters": "attacker",
    "networks": "network",
    "steps": "steps",
    "suite": "network",
    "table1": "epsilon",
    "table2": "epsilon",
    "table3": "epsilon",
    "table4": "factor",
    "resizing_ways": "factor",
}
HEADLINE = Path(__file__).with_name("template") / "headline.csv"  # rows, and where they are


def renew_readme(files: Sequence = READMES, figures: Path = FIGURES) -> list:
    """Write the published tables anew between their marks ``<!-- FILE -->`` and ``<!-- end -->``.

    Args:
        files: Markdown pages; FILE is relative to `figures`, such as deep/table1.csv, or the word
            headline. A table that is not there leaves its place as it is.
        figures: the folder of published tables.

    Returns:
        Those of the pages that exist.
    """

    def renew(match):
        name = match[1]
        try:
            table = headline(figures) if name == "headline" else markdown_table(figures / name)
        except FileNotFoundError:
            return match[0]
        return f"<!-- {name} -->\n{table}\n<!-- end -->"

    found = [path for path in files if path.exists()]
    for path in found:
        text = path.read_text(encoding="utf-8")
        marked = re.compile(r"<!-- (\S+\.csv|headline) -->.*?<!-- end -->", re.DOTALL)
        write_file(path, marked.sub(renew, text))
    return found


def headline(figures: Path) -> str:
    """Markdown of the study's main numbers beside the paper's: IoU × 100 of the profile full.

    Raises:
        FileNotFoundError: clean.csv or one of tables 1 to 3 is not in `figures`.
    """
    rows = []
    for line in pd.read_csv(HEADLINE).fillna("").itertuples():
        table = pd.read_csv(figures / f"{line.table}.csv")
        row = table.query(line.row).iloc[0]
        here = format_interval(row["iou"], row["low"], row["high"])
        if line.without:
            here += f"; without attack {table.query(line.without)['iou'].item():.1f}"
        rows.append({"IoU × 100": line.what, "paper": row["paper"], "here (profile full)": here})
    return markdown(pd.DataFrame(rows))


def markdown_table(path: Path) -> str:
    """Markdown of a result table (CSV) for reading, with its provenance in a line below.

    Raises:
        FileNotFoundError: there is no such file.
    """
    table, facts = readable_table(path)
    notes: list = []
    if "verdict" in table:
        table, notes = _split_verdicts(table)
    return "\n".join([markdown(table), "", *notes, f"*{', '.join(facts)}.*"])


def readable_table(path: Path) -> tuple[pd.DataFrame, list]:
    """A result table (CSV) for reading, and what its provenance says.

    Raises:
        FileNotFoundError: there is no such file.
    """
    frame = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str))
    end = frame.columns.get_loc("dataset")
    facts = [f"{name} {value}" for name, value in frame.iloc[0, end:].dropna().items()]
    table = frame.iloc[:, :end]
    if "target" in table:  # networks that were attacked, and the mean of all
        table = table[table["target"] == "all"].drop(columns="target")
    across = ACROSS.get(path.stem, "epsilon" if "goal" in table else None)
    if across:
        facts.insert(0, f"n = {table['n'].max()}")
        table = table.drop(columns=["others", "won"], errors="ignore")
        table = side_by_side(table, columns=across).reset_index()
    return table, facts


def _split_verdicts(table):
    """Verdicts in two words each, and a list of their rules and reasons."""
    parts = table["verdict"].str.removesuffix(")").str.partition(" (")
    reasons = ("; " + parts[2]).where(parts[2] != "", "")
    notes = "- *" + table["claim"] + "*: " + table["rule"] + reasons
    words = parts[0].str.removesuffix(" by this run")
    short = table[["claim", "paper", "ours"]].assign(verdict=words)
    return short, ["The rules, and likely reasons:", "", *notes, ""]
