"""Tables for reading and for files, beside the paper's."""

from pathlib import Path

import numpy as np
import pandas as pd

from helpers.common.files import atomic_write

PAPER = Path(__file__).with_name("paper.csv")


# columns of tables that are not rounded
EXACT = ("epsilon", "factor", "window", "ssim", "seconds_per_image_step", "seconds_per_image")


PAPER_STRUCTURES = ("heart", "left clavicle", "right clavicle", "left lung", "right lung")


def beside_paper(summary, table, *, structures=PAPER_STRUCTURES):
    """Add the column `paper`: the paper's value for each row, NaN where it has none.

    Args:
        summary: a table from `summarise`.
        table: "clean", "table1", "table2", "table3" or "table4".
        structures: of the dataset; if they are not the paper's five, no value of the paper is comparable.

    Raises:
        ValueError: unknown table.

    Source: the paper's Tables 1–4 and the clean IoUs in their captions.
    """
    paper = pd.read_csv(PAPER)
    if table not in set(paper["table"]):
        raise ValueError(
            f"table {table!r} is unknown; choose one of {', '.join(paper['table'].unique())}"
        )
    paper = paper[paper["table"] == table].dropna(axis="columns", how="all").drop(columns="table")
    keys = [column for column in paper.columns if column != "paper"]
    if missing := [key for key in keys if key not in summary.columns]:
        raise ValueError(
            f"the summary has no column {missing[0]!r}; {table} of the paper goes by {', '.join(keys)}"
        )
    if tuple(structures) != PAPER_STRUCTURES:
        return summary.assign(paper=np.nan)
    return summary.merge(paper, how="left", on=keys)


def format_interval(iou, low, high):
    """Text such as "25.3 (22.1–28.4)": a mean with its interval, where it has one."""
    return f"{iou:.1f} ({low:.1f}–{high:.1f})" if low == low else f"{iou:.1f}"


def side_by_side(summary, *, columns):
    """Wide table for reading: ours with its interval, and the paper's value below where there is one.

    Args:
        summary: a table from `summarise` or `beside_paper`.
        columns: the column whose values become columns, such as "epsilon": numbers by size, names as they come.

    Returns:
        DataFrame of texts such as "25.3 (22.1–28.4)".
    """
    keys = [
        name
        for name in summary.columns
        if name not in (columns, "n", "iou", "low", "high", "paper")
    ]
    ours = [format_interval(row.iou, row.low, row.high) for row in summary.itertuples()]
    parts = [summary[[*keys, columns]].assign(source="ours", text=ours)]
    if "paper" in summary:
        known = summary[summary["paper"].notna()]
        parts.append(
            known[[*keys, columns]].assign(source="paper", text=known["paper"].map("{:.1f}".format))
        )
    rows = (
        pd.concat(parts).set_index([*keys, "source", columns])["text"].unstack(columns).fillna("")
    )
    if not pd.api.types.is_numeric_dtype(summary[columns]):
        rows = rows[[value for value in summary[columns].unique() if value in rows.columns]]
    keys = summary[keys].drop_duplicates().itertuples(index=False)
    wanted = [(*key, source) for key in keys for source in ("ours", "paper")]
    return rows.reindex([key for key in wanted if key in rows.index])


def markdown(table):
    """Markdown of a DataFrame of texts and numbers, without its index; what is missing stays empty."""
    cells = table.astype(object).fillna("").astype(str).to_numpy().tolist()
    lines = [[*map(str, table.columns)], ["---"] * table.shape[1], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_table(path, table, provenance):
    """Write a table as CSV (two decimals, but what is in EXACT), its provenance in the last columns."""
    with atomic_write(path, "w") as file:
        exact = {name: table[name].map(str) for name in EXACT if name in table}
        table.assign(**exact, **provenance).to_csv(
            file, index=False, float_format="%.2f", lineterminator="\n"
        )
