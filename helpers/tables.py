"""Tables for reading and for files, beside the paper's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.common.arguments import require_choice
from helpers.common.files import atomic_write

PAPER = Path(__file__).with_name("paper.csv")
EXACT = ("epsilon", "factor", "window")  # columns that keep all their digits: a study's settings
PAPER_STRUCTURES = ("heart", "left clavicle", "right clavicle", "left lung", "right lung")


def beside_paper(
    summary: pd.DataFrame, table: str, *, structures: Sequence = PAPER_STRUCTURES
) -> pd.DataFrame:
    """Add the column `paper`: the paper's value for each row, NaN where it has none.

    Args:
        summary: a table from `evaluation.summarise`.
        table: "clean", "table1", "table2", "table3" or "table4".
        structures: of the dataset; if they are not the paper's five, no value of the paper is
            comparable.

    Raises:
        ValueError: unknown table.
        KeyError: the summary lacks a column that the paper's table goes by.

    Source: the paper's Tables 1–4 and the clean IoUs in their captions.
    """
    tables = dict(list(pd.read_csv(PAPER).groupby("table", sort=False)))
    require_choice("table", table, tables)
    paper = tables[table].drop(columns="table").dropna(axis="columns", how="all")
    if tuple(structures) != PAPER_STRUCTURES:
        return summary.assign(paper=np.nan)
    return summary.merge(paper, how="left", on=list(paper.columns.drop("paper")))


def format_interval(iou: float, low: float, high: float) -> str:
    """Text such as "25.3 (22.1–28.4)": a mean with its interval, where it has one."""
    return f"{iou:.1f}" if np.isnan(low) else f"{iou:.1f} ({low:.1f}–{high:.1f})"


def side_by_side(summary: pd.DataFrame, *, columns: str) -> pd.DataFrame:
    """Wide table for reading: ours with its interval, below it the paper's value if there is one.

    Args:
        summary: a table from `evaluation.summarise` or `beside_paper`.
        columns: the column whose values become columns, such as "epsilon": numbers by size, names
            as they come.

    Returns:
        Texts such as "25.3 (22.1–28.4)".
    """
    keys = [name for name in summary if name not in (columns, "n", "iou", "low", "high", "paper")]
    text = list(map(format_interval, summary["iou"], summary["low"], summary["high"]))
    order = summary.groupby(keys, sort=False).ngroup()
    rows = summary.assign(text=text, source="ours", row=order)
    if "paper" in summary:
        known = rows.dropna(subset="paper")
        papers = known.assign(text=known["paper"].map("{:.1f}".format), source="paper")
        rows = pd.concat([rows, papers])
    wide = rows.pivot(index=["row", *keys, "source"], columns=columns, values="text")
    if not pd.api.types.is_numeric_dtype(summary[columns]):
        wide = wide[summary[columns].unique()]
    return wide.droplevel("row").fillna("")


def markdown(table: pd.DataFrame) -> str:
    """Markdown of a table of texts and numbers, without its index; what is missing stays empty."""
    rows = table.astype(object).fillna("").to_numpy()
    lines = [table.columns, ["---"] * len(table.columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write_table(
    path: Path,
    table: pd.DataFrame,
    provenance: Mapping,
    *,
    exact: Sequence = EXACT,
) -> None:
    """Write a table as CSV with two decimals, its provenance in the last columns.

    Args:
        provenance: constants, or a Series for what differs between rows.
        exact: columns that keep all their digits, where they are there; a study's settings.
    """
    digits = {name: table[name].map(str) for name in exact if name in table}
    with atomic_write(path, "w") as file:
        table.assign(**digits, **provenance).to_csv(
            file, index=False, float_format="%.2f", lineterminator="\n"
        )
