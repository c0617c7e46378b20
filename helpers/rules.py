"""Claims, how a rule decides them from our tables, and the table of verdicts."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from inspect import getfullargspec
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.tables import format_interval, markdown

RUN = ("dataset", "size", "depth", "weights", "steps", "seed", "precision")  # tell runs apart
SYMBOLS = ["small", "large"]
COLUMNS = ["claim", "paper", "ours", "rule", "verdict"]


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        notebook: number of the notebook that tests it.
        name: the claim in a few words.
        paper: what the paper says, or another one that it names.
        rule: the rule in words.
        otherwise: the likely reason if it does not hold.
        tables: names of the result tables (without .csv) that the rule reads.
        decide: function of those tables: whether it holds, or why that is open; our numbers.
    """

    notebook: str
    name: str
    paper: str
    rule: str
    otherwise: str
    tables: list
    decide: Callable


CLAIMS: list = []


def evaluate(
    results: Path,
    notebook: str | None = None,
    *,
    source: Mapping | None = None,
    claims: list = CLAIMS,
) -> pd.DataFrame:
    """Decide every claim whose tables are there.

    Args:
        notebook: only the claims of these notebooks, such as "04" or "03 04"; None for all.
        source: provenance of the run; tables of another run decide nothing. None: any run counts.
        claims: those to decide; default the paper's.

    Returns:
        claim, paper, ours, rule, verdict: "holds", "does not hold" with the likely reason, or "not
        decided by this run" with the reason where it is known.
    """
    needed = {results / f"{name}.csv" for claim in claims for name in claim.tables}
    types = dict.fromkeys(RUN, str)
    tables = {path.stem: pd.read_csv(path, dtype=types) for path in filter(Path.exists, needed)}
    rows = [
        decide(claim, *map(tables.get, claim.tables), source=source)
        for claim in claims
        if (notebook is None or claim.notebook in notebook.split())
        and tables.keys() >= set(claim.tables)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def report(results: Path, notebook: str, **options: Any) -> Any:
    """`evaluate` as a table for reading in a notebook (IPython Markdown)."""
    from IPython.display import Markdown

    return Markdown(markdown(evaluate(results, notebook, **options)))


def decide(claim: Claim, *tables: pd.DataFrame, source: Mapping | None = None) -> dict:
    """One row of `evaluate` from the claim's tables."""
    holds = ours = ""
    with suppress(KeyError, IndexError, ValueError):  # the run lacks what the rule needs
        for name, table in zip(claim.tables, tables, strict=True):
            holds = _why_open(name, table, source) or holds
        if not holds:
            holds, ours = claim.decide(*map(_with_text, tables))
    verdict = "holds" if holds else f"does not hold (likely: {claim.otherwise})"
    if isinstance(holds, str):
        verdict = "not decided by this run" + (f" ({holds})" if holds else "")
    return dict(zip(COLUMNS, (claim.name, claim.paper, ours, claim.rule, verdict), strict=True))


def _why_open(name, table, source):
    """Why a table decides nothing; of several networks those count that both runs name."""
    row = table.iloc[0]
    for column in RUN:
        said = [str(each.get(column, "")).split("/") for each in (row, source or row)]
        if any(len({*pair} - {"", "nan"}) > 1 for pair in zip(*said, strict=False)):
            return f"{name} is of another run"
    if str(row.get("dataset", "")).startswith("folder-"):
        return "other data"
    if name in ("table2", "table4") and "paper" in table and table["paper"].isna().all():
        return "another structure, size or noise"
    return ""


def _with_text(table):
    """The table with its means and their intervals as `text`, where it has some."""
    if not {"iou", "low"} <= {*table}:
        return table
    texts = map(format_interval, table["iou"], table["low"], table["high"])
    return table.assign(text=list(texts))


def rows_with(table: pd.DataFrame, column: str = "iou", **values: Any) -> pd.DataFrame:
    """The rows with these values; KeyError where there are none or the column lacks a number."""
    for name, value in values.items():
        table = table[table[name] == value]
    if table.empty or table[column].isna().any():
        raise KeyError(f"no {column} with {values}")
    return table


def first_with(table: pd.DataFrame, column: str = "iou", **values: Any) -> pd.Series:
    """The first of `rows_with` these values."""
    return rows_with(table, column, **values).iloc[0]


def by_symbol(table: pd.DataFrame, by: str, **values: Any) -> pd.DataFrame:
    """The rows with these values: one for each value of `by`, a column for each symbol."""
    wide = rows_with(table, **values).pivot(index=by, columns="symbol")
    if wide["iou"][SYMBOLS].isna().any(axis=None):
        raise KeyError("a symbol is missing")
    return wide


def claim(*texts: str, claims: list = CLAIMS) -> Callable:
    """Make a function the rule of a claim: texts are its notebook, name, paper, rule, otherwise.

    Its parameters are the tables that it reads, its keyword defaults the numbers in `rule`.
    """

    notebook, name, paper, rule, otherwise = texts

    def register(decide):
        parameters = getfullargspec(decide)
        text = rule.format(**parameters.kwonlydefaults or {})
        claims.append(Claim(notebook, name, paper, text, otherwise, parameters.args, decide))
        return decide

    return register
