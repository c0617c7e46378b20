"""The paper's claims, each with the rule that decides from our tables whether it holds here."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from IPython.display import Markdown

from helpers.tables import format_interval, markdown


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        name: the claim in a few words.
        notebook: number of the notebook that tests it.
        tables: names of the result tables (without .csv) that the rule reads.
        paper: what the paper says.
        rule: the rule in words.
        decide: function of those tables that returns (holds, our numbers as text).
        otherwise: the likely reason if it does not hold.
    """

    name: str
    notebook: str
    tables: tuple
    paper: str
    rule: str
    decide: Callable
    otherwise: str


def evaluate(results, notebook=None, *, source=None):
    """Decide every claim whose tables are there.

    Args:
        results: folder of the result tables.
        notebook: only the claims of this notebook, such as "04".
        source: provenance of the run (`evaluation.provenance`); tables of another dataset, size, depth, seed or target
            network count as not there. None takes them as they are. table2 and table4 do not count either if they have
            none of the paper's numbers: they are of another structure, size or noise level.

    Returns:
        DataFrame with claim, paper, ours, rule, verdict ("holds", "does not hold", with the likely reason, or "not
        decided by this run", with the reason where all the numbers are there).
    """
    tables = {
        path.stem: pd.read_csv(path, dtype={"weights": str})
        for path in sorted(results.glob("*.csv"))
    }
    if source:
        same_run = lambda table: len(table) == 0 or _identity(table.iloc[0]) == _identity(source)  # noqa: E731
        tables = {name: table for name, table in tables.items() if same_run(table)}
    for name in ("table2", "table4"):
        if "paper" in tables.get(name, ()) and tables[name]["paper"].isna().all():
            del tables[name]
    rows = [
        decide(claim, *(tables[name] for name in claim.tables))
        for claim in CLAIMS
        if claim.notebook == (notebook or claim.notebook) and set(claim.tables) <= set(tables)
    ]
    return pd.DataFrame(rows, columns=["claim", "paper", "ours", "rule", "verdict"])


def _identity(source):
    """What two tables of one run share: dataset, size, depth, seed and the attacked network."""
    return [
        str(source.get(name)).split("/")[0]
        for name in ("dataset", "size", "depth", "seed", "weights")
    ]


def report(results, notebook, *, source):
    """`judge` as a table for reading in a notebook (IPython Markdown)."""
    return Markdown(markdown(evaluate(results, notebook, source=source)))


def decide(claim, *tables):
    """One row of `judge` from the claim's tables; "not decided" where the run lacks what the rule needs."""
    try:
        holds, ours = claim.decide(*tables)
        verdict = "holds" if holds else f"does not hold (likely: {claim.otherwise})"
    except _UndecidedError as error:
        why, ours = error.args
        verdict = f"not decided by this run ({why})"
    except (KeyError, IndexError, ValueError):
        ours, verdict = "", "not decided by this run"
    return {
        "claim": claim.name,
        "paper": claim.paper,
        "ours": ours,
        "rule": claim.rule,
        "verdict": verdict,
    }


class _UndecidedError(ValueError):
    """Why a rule cannot decide, and our numbers as text."""


def _pick(table, **values):
    """The rows in which every column has the value; KeyError where there are none."""
    for name, value in values.items():
        table = table[table[name] == value]
    if table.empty:
        raise KeyError(f"no row with {values}")
    return table


def _numbers(table, column, **values):
    """The column's numbers in the rows of `_pick`; KeyError where there are none, or where one is not known."""
    numbers = _pick(table, **values)[column]
    if numbers.isna().any():
        raise KeyError(f"no {column} with {values}")
    return numbers


def _iou(table, **values):
    return float(_numbers(table, "iou", **values).iloc[0])


def _shown(table, **values):
    row = _pick(table, **values).iloc[0]
    return format_interval(row["iou"], row["low"], row["high"])


def _untargeted_collapses(table1):
    where = {"attack": "white-box", "epsilon": 0.02}
    return _iou(table1, **where) < 10, _shown(table1, **where)


def _black_box_weak(table1, clean):
    where, start = (
        {"attack": "black-box", "epsilon": 0.04},
        {"network": "target", "structure": "mean"},
    )
    holds = _iou(table1, **where) > _iou(clean, **start) / 2
    return holds, f"{_shown(table1, **where)} of {_shown(clean, **start)}"


def _targeted_succeeds(table2):
    rows = _pick(table2, compared_with="target", attack="white-box", epsilon=0.04)
    holds = min(_iou(rows, symbol=name) for name in SYMBOLS) >= 95
    return holds, ", ".join(f"{name} {_shown(rows, symbol=name)}" for name in SYMBOLS)


def _large_is_harder(table2):
    rows = _pick(table2, compared_with="target", attack="white-box")
    _numbers(rows, "iou")
    reached = {s: _pick(rows, symbol=s).query("iou >= 95")["epsilon"].min() for s in SYMBOLS}
    if all(np.isnan(epsilon) for epsilon in reached.values()):
        raise _UndecidedError("neither symbol reaches 95", "")
    text = ", ".join(f"{s} at {e:g}" if e == e else f"{s} never" for s, e in reached.items())
    small, large = np.nan_to_num(list(reached.values()), nan=np.inf)
    if small != large:
        return small < large, text
    before = rows[rows["epsilon"] == rows[rows["epsilon"] < small]["epsilon"].max()]
    own, other = (_pick(before, symbol=name).iloc[0] for name in SYMBOLS)
    parts = ", ".join(f"{name} {_shown(before, symbol=name)}" for name in SYMBOLS)
    text = f"both at {small:g}; at {own['epsilon']:g} {parts}"
    if not (own["low"] > other["high"] or other["low"] > own["high"]):
        raise _UndecidedError("the intervals overlap", text)
    return own["iou"] > other["iou"], text


def _black_box_targeted_fails(table2):
    rows, gains = _pick(table2, compared_with="target"), {}
    for name in SYMBOLS:
        start = _iou(rows, symbol=name, attack="no attack", epsilon=0.0)
        for epsilon in _pick(rows, symbol=name, attack="black-box")["epsilon"]:
            where = {"symbol": name, "attack": "black-box", "epsilon": epsilon}
            text = f"{name} at ε = {epsilon:g}: {_shown(rows, **where)}, no attack {start:.1f}"
            gains[text] = _iou(rows, **where) - start
    most = max(gains, key=gains.get)
    return gains[most] < 10, most


def _one_step_fails(ways):
    gain = lambda way, name: (
        _iou(ways, way=way, symbol=name) - _iou(ways, way="no attack", symbol=name)
    )  # noqa: E731
    if min(gain("PGD", name) for name in SYMBOLS) < 10:
        raise _UndecidedError("PGD fails too", "")
    holds = all(gain("FGSM", name) < gain("PGD", name) / 2 for name in SYMBOLS)
    texts = [
        f"{n} {_shown(ways, way='FGSM', symbol=n)}, PGD {_iou(ways, way='PGD', symbol=n):.1f}"
        for n in SYMBOLS
    ]
    return holds, "; ".join(texts)


def _basis_does_not_matter(ways):
    basis = _pick(ways, way="targets from predictions")
    differences = [
        _iou(basis, symbol=name) - _iou(ways, way="PGD", symbol=name) for name in SYMBOLS
    ]
    texts = [
        f"{name} {_shown(basis, symbol=name)}, {by:+.1f}"
        for name, by in zip(SYMBOLS, differences, strict=True)
    ]
    return max(map(abs, differences)) <= 3, "; ".join(texts)


def _others_stay(table4):
    resized = table4[table4["factor"] != 1]
    worst = resized.loc[_numbers(resized, "others").idxmin()]
    where = f"{worst['structure']} × {worst['factor']}"
    return round(worst["others"], 1) >= 98.9, f"at least {worst['others']:.1f} ({where})"


def _lungs_fail_most(table4):
    resized = table4[table4["factor"] != 1]
    lung = resized["structure"].str.contains("lung").astype(bool)
    _numbers(
        resized[lung], "iou", factor=1.8
    )  # not decided without a lung at 1.8, nor without anything else
    _numbers(resized[~lung], "iou")
    worst = resized.loc[[resized["iou"].idxmin()]]
    structure, factor = worst[["structure", "factor"]].iloc[0]
    return "lung" in structure and factor == 1.8, f"{structure} × {factor}: {_shown(worst)}"


def _clavicle_disturbs_lung(clavicle_shrinking):
    share = _numbers(clavicle_shrinking, "disturbed", factor=0.4).mean()
    return share > 50, f"{share:.0f} % of cases"


def _heart_only_harms(restriction):
    all_, only = (
        float(_numbers(restriction, "others", setting=name).iloc[0])
        for name in ("all", "structure only")
    )
    return only < all_ - 2, f"{only:.1f}, all attacked {all_:.1f}"


def _less(restriction, setting):
    """How much the IoU falls when noise is restricted, and both as text."""
    less = _iou(restriction, setting="structure only") - _iou(restriction, setting=setting)
    return (
        less,
        f"{_shown(restriction, setting=setting)}, unrestricted {_shown(restriction, setting='structure only')}",
    )


def _field_is_enough(restriction, energy):
    less, text = _less(restriction, "receptive field")
    if _numbers(energy, "beyond", setting="(pixels)").max() == 0:
        raise _UndecidedError("the receptive field is all of the image", text)
    return less <= 2, text


def _box_is_not(restriction):
    less, text = _less(restriction, "bounding box")
    return less > 5, text


SYMBOLS = ("small", "large")
CLAIMS = (
    Claim(
        "untargeted white-box noise collapses the segmentation",
        "03",
        ("table1",),
        "0.8 at ε = 0.02",
        "IoU below 10 at ε = 0.02",
        _untargeted_collapses,
        "how little noise is enough depends on the network",
    ),
    Claim(
        "untargeted black-box noise is weak",
        "03",
        ("table1", "clean"),
        "74.7 of 90.3 at ε = 0.04",
        "more than half of the clean IoU is left at ε = 0.04",
        _black_box_weak,
        "target and surrogate have learned nearly the same",
    ),
    Claim(
        "white-box noise draws the symbol",
        "04",
        ("table2",),
        "small 97.8, large 95.2 at ε = 0.04",
        "both symbols reach 95 at ε = 0.04",
        _targeted_succeeds,
        "100 steps do not get to the end: more of them, or steps that shrink, do; networks differ in that",
    ),
    Claim(
        "the large symbol is harder than the small one",
        "04",
        ("table2",),
        "0.02 and 0.04 for 95",
        "the small one reaches 95 at a lower noise level of the table; if at the same, is ahead at the one before, "
        "intervals apart",
        _large_is_harder,
        "which part of the symbol resists depends on the network",
    ),
    Claim(
        "black-box noise does not draw it",
        "04",
        ("table2",),
        "completely unsuccessful",
        "IoU with the symbol rises by less than 10 over no attack at every noise level",
        _black_box_targeted_fails,
        "target and surrogate have learned nearly the same",
    ),
    Claim(
        "one step (FGSM) does not draw it",
        "04",
        ("heart_attack_ways",),
        "did not succeed",
        "it gains less than half of what PGD gains over no attack, for both symbols",
        _one_step_fails,
        "the loss is nearly linear within ε",
    ),
    Claim(
        "targets from predictions do as well",
        "04",
        ("heart_attack_ways",),
        "did not substantially differ",
        "IoU within 3 of that with targets from the truth",
        _basis_does_not_matter,
        "in one of few cases the prediction is far from the truth",
    ),
    Claim(
        "resizing leaves the other structures alone",
        "05",
        ("table4",),
        "98.9 or higher",
        "IoU of the others with their target at least 98.9 everywhere",
        _others_stay,
        "pixels that a shrunken organ leaves go to its neighbours, and one that grows takes some of theirs",
    ),
    Claim(
        "extreme enlargement of a lung fails most",
        "05",
        ("table4",),
        "left lung × 1.8: 78.3",
        "the lowest IoU of the table is a lung's at factor 1.8",
        _lungs_fail_most,
        "where a lung is to shrink the network is sure and the gradient of the IoU flat; steps that follow the "
        "cross-entropy get further",
    ),
    Claim(
        "shrinking a clavicle disturbs its lung",
        "05",
        ("clavicle_shrinking",),
        "in most test images",
        "in more than half of the cases at 0.4 over 5 % of the freed pixels turn into lung",
        _clavicle_disturbs_lung,
        "the network has not learned that clavicle and lung are adjacent",
    ),
    Claim(
        "attacking the heart alone harms the others",
        "06",
        ("noise_restriction",),
        "shown in its Figure 2",
        "IoU of the others more than 2 below that of the attack on all",
        _heart_only_harms,
        "the network needs little of the surroundings to find the others",
    ),
    Claim(
        "noise within the receptive field is enough",
        "06",
        ("noise_restriction", "noise_energy"),
        "segmentation unchanged",
        "IoU at most 2 below that of unrestricted noise",
        _field_is_enough,
        "where the heart is predicted far from the true one, noise nearby does not get there",
    ),
    Claim(
        "noise within the bounding box is not",
        "06",
        ("noise_restriction",),
        "heart-symbol shaping disrupted",
        "IoU more than 5 below that of unrestricted noise",
        _box_is_not,
        "the symbol lies well inside the box, and so does most of what its pixels see",
    ),
)
