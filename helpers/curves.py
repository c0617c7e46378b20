"""Figures of numbers, from tables only: curves with their intervals, distributions, learning."""

import math
from collections.abc import Mapping
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, PercentFormatter

CURVES = {  # colour and marker of a curve
    "white-box": ("#D55E00", "o"),
    "black-box": ("#0072B2", "s"),
    "random-noise": ("#666666", "^"),
    "shuffled-noise": ("#009E73", "v"),
    "small": ("#882255", "D"),
    "large": ("#44AA99", "P"),
}
LEVEL: dict = {"color": "#999999", "linewidth": 1, "linestyle": ":"}  # a value to compare with
BESIDE: dict = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}  # a legend right of its axes


def _curve_style(name, position):
    """Colour and marker of a curve, by its name or else by its position among the others."""
    colour, marker = CURVES.get(name, [*CURVES.values()][position % len(CURVES)])
    return {"color": colour, "marker": marker}


def _draw_band(ax, x, summary, *, color, marker, label=None):
    """Mean IoU against a column, with its interval as a band."""
    ax.plot(summary[x], summary["iou"], color=color, marker=marker, markersize=5, label=label)
    band = summary["low"], summary["high"]
    ax.fill_between(summary[x], *band, color=color, alpha=0.18, linewidth=0)


def _about(summary):
    """How many cases the means of a table are of, for its figure."""
    counts = sorted({summary["n"].min(), summary["n"].max()})
    return f"n = {'–'.join(map(str, counts))}, bands: 95 %"


def plot_curves(
    panels: Mapping,
    *,
    x: str = "epsilon",
    by: str = "attack",
    xlabel: str = "noise level ε",
    scale: str = "log",
    levels: Mapping | None = None,
    ylabel: str = "mean IoU × 100",
    ylim: tuple[float, float] | None = (-3, 103),
) -> Figure:
    """Mean IoU against x: solid with its interval as a band, the paper's values hollow and dashed.

    Args:
        panels: dict from a title to a DataFrame with the columns x, by, n, iou, low, high and, if
            known, paper.
        x, by: the columns along the axis and between curves.
        scale: of x, "log" or "linear".
        levels: dict from the title to (text, IoU) of a thin line, such as the IoU without attack.
        ylim: of the axis; None for what the curves need.
    """
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (3.1 * columns + 2.6, 3 * rows + 0.3)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    for ax, (title, summary) in zip(axes.flat, panels.items(), strict=False):
        curves = summary.sort_values(x, kind="stable").groupby(by, sort=False)
        for position, (name, each) in enumerate(curves):
            style = _curve_style(name, position)
            _draw_band(ax, x, each, **style, label=name)
            if "paper" in each and each["paper"].notna().any():
                style |= {"markersize": 5, "markerfacecolor": "white", "linestyle": "--"}
                ax.plot(each[x], each["paper"], **style, linewidth=1, label=f"{name}, paper")
        if levels:
            text, level = levels[title]
            ax.axhline(level, **LEVEL, zorder=0, label=text)
        ax.set(xscale=scale, xticks=summary[x].unique(), xlabel=xlabel, title=title)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    plt.setp(axes[:, 0], ylabel=ylabel)
    if ylim:
        plt.setp(axes[:, 0], ylim=ylim)
    ax.legend(title=_about(pd.concat(panels.values())), alignment="left", **BESIDE)
    return figure


def plot_margin(curve: pd.DataFrame, levels: Mapping, *, reach: float) -> Figure:
    """IoU against the margin around the bounding box in which noise is allowed.

    Args:
        curve: columns margin [pixels], n, iou, low, high.
        levels: from the setting to its IoU; "structure only" is drawn as a line.
        reach: half of the receptive field [pixels].
    """
    figure, ax = plt.subplots(figsize=(6.6, 3.0), layout="constrained")
    _draw_band(ax, "margin", curve, **_curve_style("white-box", 0))
    ax.axhline(levels["structure only"], **LEVEL, label="noise everywhere")
    ax.axvline(reach, **LEVEL | {"linestyle": "--"}, label="half receptive field")
    ax.set(xlabel="margin around the bounding box [pixels]", ylabel="IoU with the symbol × 100")
    ax.legend(title=_about(curve), alignment="left", **BESIDE)
    return figure


def plot_ladder(table: pd.DataFrame, *, limit: float, top: pd.Series | None = None) -> Figure:
    """Gain over no attack of each step of a ladder: a dot for each network, the mean with its bar.

    Args:
        table: columns step, symbol, target ("all" for the mean), gain, gain_low, gain_high.
        limit: the gain that counts, as a line.
        top: gain of a white-box attack by symbol, written beside the title.
    """
    symbols = table["symbol"].unique()
    size = (1.9 + 3.3 * len(symbols), 0.8 + 0.3 * table["step"].nunique())
    figure, axes = plt.subplots(
        1, len(symbols), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for ax, symbol in zip(axes[0], symbols, strict=True):
        ax.axvline(0, **LEVEL | {"linestyle": "-"}, label="no attack")
        ax.axvline(limit, **LEVEL | {"linestyle": "--"}, label=f"gain of {limit:g}")
        markers = cycle("sDv^<>")
        for name, rows in table[table["symbol"] == symbol].groupby("target", sort=False):
            places = rows["gain"], rows["step"]
            if name == "all":
                style = {"fmt": "o", "color": CURVES["black-box"][0], "capsize": 2, "zorder": 3}
                ax.errorbar(*places, xerr=_bars(rows, "gain"), **style, label="mean, 95 %")
            else:
                style = {
                    "color": "#999999",
                    "markersize": 4,
                    "label": f"network {name}",
                    "zorder": 4,
                }
                ax.plot(*places, next(markers), **style)
        note = "" if top is None else f" (white-box {top[symbol]:+.0f})"
        ax.set(title=f"{symbol} symbol{note}", xlabel="gain of IoU × 100 over no attack")
        ax.grid(axis="y", linewidth=0.4, color="#DDDDDD")
    axes[0, 0].invert_yaxis()
    axes[0, -1].legend(**BESIDE)
    return figure


def _bars(rows, column):
    """Lengths (2, N) of the error bars of a column, from those with _low and _high behind."""
    return [rows[column] - rows[f"{column}_low"], rows[f"{column}_high"] - rows[column]]


def plot_points(
    table: pd.DataFrame, *, x: str, y: str, by: str, xlabel: str, ylabel: str
) -> Figure:
    """A named point for each row, from left to right, with its interval along y where there is one.

    Args:
        table: columns x, y, y with _low and _high behind its name, and by, the names.
    """
    figure, ax = plt.subplots(figsize=(6.6, 3.4), layout="constrained")
    ax.axhline(0, **LEVEL)
    markers = cycle("osDv^P<>X")
    colours = plt.get_cmap("viridis_r")(np.linspace(0.15, 1, len(table)))
    groups = table.sort_values(x).groupby(by, sort=False)
    for (name, row), colour in zip(groups, colours, strict=True):
        style = {"color": colour, "marker": next(markers), "linestyle": "none", "markersize": 6}
        ax.errorbar(row[x], row[y], yerr=_bars(row, y), capsize=2, label=name, **style)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend(**BESIDE)
    return figure


def plot_distribution(values: Mapping, *, xlabel: str) -> Figure:
    """Share of cases up to each value, one step curve for each name.

    A curve that ends below 100 % is of cases of which some never got there.

    Args:
        values: dict from a name to N positive numbers, infinity for a case without one.
    """
    figure, ax = plt.subplots(figsize=(5.4, 3.0), layout="constrained")
    for position, (name, each) in enumerate(values.items()):
        style = _curve_style(name, position) | {"linestyle": "--" if position % 2 else "-"}
        ax.ecdf(np.asarray(each, dtype=float), markersize=4, label=name, **style)
    ax.set(xscale="log", xlabel=xlabel, ylabel=f"share of {len(each)} cases [%]", ylim=(0, 1.04))
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.legend(**BESIDE)
    return figure


def plot_learning_curves(histories: Mapping) -> Figure:
    """Training loss and validation IoU against the epoch, and where the kept weights are.

    Args:
        histories: dict from the network's name to its history, as in `training.Trained`.
    """
    figure, (losses, ious) = plt.subplots(1, 2, figsize=(7.6, 2.9), layout="constrained")
    for position, (name, rows) in enumerate(histories.items()):
        history = pd.DataFrame(rows).set_index("epoch")
        percent = 100 * history["iou"]
        best = percent.idxmax()
        colour = _curve_style(name, position)["color"]
        losses.plot(history["loss"], color=colour, label=name)
        ious.plot(percent, color=colour, label=name)
        ious.plot(best, percent[best], "o", color=colour, label=f"kept, epoch {best}")
    losses.set(xlabel="epoch", ylabel="training loss (−soft IoU)")
    ious.set(xlabel="epoch", ylabel="validation soft IoU × 100")
    losses.legend()
    ious.legend()
    return figure
