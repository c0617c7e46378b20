"""The paper's claims, each with the rule that decides from our tables whether it holds here."""

import math
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
    """One claim of the paper.

    Attributes:
        notebook, name: number of the notebook that tests it; the claim in a few words.
        paper: what the paper says.
        rule, otherwise: the rule in words; the likely reason if it does not hold.
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
    results: Path, notebook: str = "", *, source: Mapping | None = None, claims: list = CLAIMS
) -> pd.DataFrame:
    """Decide every claim whose tables are there.

    Args:
        notebook: only the claims of this notebook, such as "04".
        source: provenance of the run; tables of another run decide nothing. None: any run counts.
        claims: those to decide; default the paper's.

    Returns:
        claim, paper, ours, rule, verdict: "holds", "does not hold", or "not decided by this run",
        with the reason where it is known.
    """
    needed = {results / f"{name}.csv" for claim in claims for name in claim.tables}
    types = dict.fromkeys(RUN, str)
    tables = {path.stem: pd.read_csv(path, dtype=types) for path in filter(Path.exists, needed)}
    rows = [
        decide(claim, *map(tables.get, claim.tables), source=source)
        for claim in claims
        if notebook in ("", claim.notebook) and tables.keys() >= set(claim.tables)
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
    """Why a table decides nothing; of several networks the first, which was attacked, counts."""
    row = table.iloc[0]
    for column in RUN:
        values = {str(each.get(column, "")).split("/")[0] for each in (row, source or row)}
        if len(values - {"", "nan"}) > 1:
            return f"{name} is of another run"
    if str(row.get("dataset", "")).startswith("folder-"):
        return "other data"
    if name in ("table2", "table4") and "paper" in table and table["paper"].isna().all():
        return "another structure, size or noise"
    return ""


def _with_text(table):
    """The table with its means and their intervals as `text`, where it has some."""
    if "iou" not in table:
        return table
    texts = map(format_interval, table["iou"], table["low"], table["high"])
    return table.assign(text=list(texts))


def _rows(table, column="iou", **values):
    """The rows with these values; KeyError where there are none or the column lacks a number."""
    for name, value in values.items():
        table = table[table[name] == value]
    if table.empty or table[column].isna().any():
        raise KeyError(f"no {column} with {values}")
    return table


def _first(table, column="iou", **values):
    return _rows(table, column, **values).iloc[0]


def _by_symbol(table, by, **values):
    """The rows with these values: one for each value of `by`, a column for each symbol."""
    wide = _rows(table, **values).pivot(index=by, columns="symbol")
    if wide["iou"][SYMBOLS].isna().any(axis=None):
        raise KeyError("a symbol is missing")
    return wide


def _join(texts, separator=", "):
    return separator.join(f"{symbol} {texts[symbol]}" for symbol in SYMBOLS)


def register(*texts: str, claims: list = CLAIMS) -> Callable:
    """Make a function the rule of a claim: texts are its notebook, name, paper, rule, otherwise.

    Its parameters are the tables that it reads, its keyword defaults the numbers in `rule`.
    """
    notebook, name, paper, rule, otherwise = texts

    def keep(decide):
        parameters = getfullargspec(decide)
        text = rule.format(**parameters.kwonlydefaults or {})
        claims.append(Claim(notebook, name, paper, text, otherwise, parameters.args, decide))
        return decide

    return keep


@register(
    "03",
    "untargeted white-box noise collapses the segmentation",
    "0.8 at ε = 0.02",
    "IoU below {limit} at ε = {epsilon}",
    "how little noise is enough depends on the network",
)
def _collapses(table1, *, limit=10, epsilon=0.02):
    row = _first(table1, attack="white-box", epsilon=epsilon)
    return row.iou < limit, row.text


@register(
    "03",
    "untargeted black-box noise is weak",
    "74.7 of 90.3 at ε = 0.04",
    "more than half of the clean IoU is left at ε = {epsilon}",
    "target and surrogate have learned nearly the same",
)
def _is_weak(table1, clean, *, epsilon=0.04):
    row = _first(table1, attack="black-box", epsilon=epsilon)
    start = _first(clean, network="target", structure="mean")
    return row.iou > start.iou / 2, f"{row.text} of {start.text}"


@register(
    "04",
    "white-box noise draws the symbol",
    "small 97.8, large 95.2 at ε = 0.04",
    "both symbols reach {wanted} at ε = {epsilon}",
    "100 steps do not get to the end: more of them, or steps that shrink, do; networks "
    "differ in that",
)
def _draws_symbol(table2, *, wanted=95, epsilon=0.04):
    row = _by_symbol(table2, "epsilon", compared_with="target", attack="white-box").loc[epsilon]
    return row["iou"].min() >= wanted, _join(row["text"])


@register(
    "04",
    "the large symbol is harder than the small one",
    "0.02 and 0.04 for 95",
    "the small one reaches {wanted} at a lower noise level of the table; if at the same, is "
    "ahead at the one before, intervals apart",
    "which part of the symbol resists depends on the network",
)
def _large_is_harder(table2, *, wanted=95):
    rows = _by_symbol(table2, "epsilon", compared_with="target", attack="white-box")
    reached = rows["iou"][SYMBOLS] >= wanted
    levels = reached.idxmax().where(reached.any(), math.inf)
    small, large = levels
    if small == large == math.inf:
        return f"neither symbol reaches {wanted}", ""
    if small != large:
        return small < large, _join(levels.map("at {:g}".format).replace("at inf", "never"))
    before = rows[rows.index < small].iloc[-1]
    text = f"both at {small:g}; at {before.name:g} {_join(before['text'])}"
    if not before["low"].max() > before["high"].min():
        return "the intervals overlap", text
    return before["iou"]["small"] > before["iou"]["large"], text


@register(
    "04",
    "black-box noise does not draw it",
    "completely unsuccessful",
    "IoU with the symbol rises by less than {limit} over no attack at every noise level",
    "target and surrogate have learned nearly the same",
)
def _black_box_fails(table2, *, limit=10):
    start = _by_symbol(table2, "epsilon", compared_with="target", attack="no attack")["iou"]
    rows = _by_symbol(table2, "epsilon", compared_with="target", attack="black-box")
    gains = (rows["iou"] - start.loc[0.0])[SYMBOLS].unstack()
    symbol, epsilon = gains.idxmax()
    text = f"{symbol} at ε = {epsilon:g}: {rows['text'][symbol][epsilon]}"
    return gains.max() < limit, f"{text}, no attack {start[symbol][0.0]:.1f}"


@register(
    "04",
    "one step (FGSM) does not draw it",
    "did not succeed",
    "it gains less than half of what PGD gains over no attack, for both symbols",
    "the loss is nearly linear within ε",
)
def _one_step_fails(heart_attack_ways, *, least=10):
    rows = _by_symbol(heart_attack_ways, "way")
    gains = rows["iou"] - rows["iou"].loc["no attack"]
    if gains.loc["PGD"].min() < least:
        return "PGD fails too", ""
    pgd = rows["iou"].loc["PGD"].map(", PGD {:.1f}".format)
    holds = gains.loc["FGSM"] < gains.loc["PGD"] / 2
    return holds.all(), _join(rows["text"].loc["FGSM"] + pgd, "; ")


@register(
    "04",
    "targets from predictions do as well",
    "did not substantially differ",
    "IoU within {limit} of that with targets from the truth",
    "in one of few cases the prediction is far from the truth",
)
def _basis_does_not_matter(heart_attack_ways, *, limit=3):
    rows, basis = _by_symbol(heart_attack_ways, "way"), "targets from predictions"
    more = rows["iou"].loc[basis] - rows["iou"].loc["PGD"]
    text = _join(rows["text"].loc[basis] + more.map(", {:+.1f}".format), "; ")
    return more.abs().max() <= limit, text


@register(
    "05",
    "resizing leaves the other structures alone",
    "98.9 or higher",
    "IoU of the others with their target at least {limit} everywhere",
    "pixels that a shrunken organ leaves go to its neighbours, and one that grows takes "
    "some of theirs",
)
def _others_stay(table4, *, limit=98.9):
    resized = _rows(table4[table4["factor"] != 1], "others")
    worst = resized.loc[resized["others"].idxmin()]
    text = f"at least {worst.others:.1f} ({worst['structure']} × {worst['factor']})"
    return round(worst.others, 1) >= limit, text


@register(
    "05",
    "extreme enlargement of a lung fails most",
    "left lung × 1.8: 78.3",
    "the lowest IoU of the table is a lung's at factor {factor}",
    "where a lung is to shrink the other structures outweigh it in the loss; attacked alone, or "
    "with the cross-entropy, it gets further (resizing_ways.csv)",
)
def _lungs_fail_most(table4, *, factor=1.8):
    resized = table4[table4["factor"] != 1]
    is_lung = resized["structure"].str.contains("lung").astype(bool)
    _rows(resized[is_lung], factor=factor)  # not decided without a lung, nor without others
    _rows(resized[~is_lung])
    worst = resized.loc[resized["iou"].idxmin()]
    holds = "lung" in worst.structure and worst.factor == factor
    return holds, f"{worst.structure} × {worst.factor}: {worst.text}"


@register(
    "05",
    "shrinking a clavicle disturbs its lung",
    "in most test images",
    "in more than half of the cases at {factor} over 5 % of the freed pixels turn into lung",
    "the network has not learned that clavicle and lung are adjacent",
)
def _clavicle_disturbs_lung(clavicle_shrinking, *, factor=0.4):
    share = _rows(clavicle_shrinking, "disturbed", factor=factor)["disturbed"].mean()
    return share > 50, f"{share:.0f} % of cases"


@register(
    "06",
    "attacking the heart alone harms the others",
    "shown in its Figure 2",
    "IoU of the others more than {limit} below that of the attack on all",
    "the network needs little of the surroundings to find the others",
)
def _heart_only_harms(noise_restriction, *, limit=2):
    together = _first(noise_restriction, "others", setting="all").others
    alone = _first(noise_restriction, "others", setting="structure only").others
    return alone < together - limit, f"{alone:.1f}, all attacked {together:.1f}"


def _loss(restriction, setting):
    """How much the IoU falls when noise is restricted, and both as text."""
    free = _first(restriction, setting="structure only")
    bound = _first(restriction, setting=setting)
    return free.iou - bound.iou, f"{bound.text}, unrestricted {free.text}"


@register(
    "06",
    "noise within the receptive field is enough",
    "segmentation unchanged",
    "IoU at most {limit} below that of unrestricted noise",
    "where the heart is predicted far from the true one, noise nearby does not get there",
)
def _field_is_enough(noise_restriction, noise_energy, *, limit=2):
    loss, text = _loss(noise_restriction, "receptive field")
    if _rows(noise_energy, "beyond", setting="(pixels)")["beyond"].max() == 0:
        return "the receptive field is all of the image", text
    return loss <= limit, text


@register(
    "06",
    "noise within the bounding box is not",
    "heart-symbol shaping disrupted",
    "IoU more than {limit} below that of unrestricted noise",
    "the symbol lies well inside the box, and so does most of what its pixels see",
)
def _box_is_not(noise_restriction, *, limit=5):
    loss, text = _loss(noise_restriction, "bounding box")
    return loss > limit, text
