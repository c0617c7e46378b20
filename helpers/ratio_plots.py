"""Figures of the cardiothoracic ratio, from arrays and tables only."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from helpers.curves import BESIDE, LEVEL, plot_curves
from helpers.plots import add_legend, image_grid, show_image, show_noise
from helpers.ratio import ENLARGED, PUBLISHED, agreement, caliper_lines, calipers, diagnosis

COLOURS = {"enlarge": "#D55E00", "shrink": "#0072B2"}
BAND: dict = {"color": "#BBBBBB", "alpha": 0.35, "linewidth": 0, "label": "published limits"}


def show_reading(ax: Axes, image: Any, labels: Any, structures: Sequence[str], title: str) -> None:
    """Radiograph (H, W) with outlines, both calipers, and the ratio with its word as title."""
    show_image(ax, image, labels)
    (own,) = calipers(labels[None], structures).to_dict("records")
    for line in caliper_lines(own, len(labels) / 40):
        ax.plot(*line.T, color="white", linewidth=1.4, zorder=5)
    ax.set_title(f"{title}: {own['ratio']:.3f}, {diagnosis(own['ratio'])}", pad=3)


def plot_readings(cases: Mapping, *, structures: Sequence[str]) -> Figure:
    """Readings before and after an attack, a row for each case.

    The columns: image with clean prediction, noise, attacked image with prediction, target.

    Args:
        cases: from the name of a row to image and adv_image (H, W), and clean prediction,
            prediction and target (label maps (H, W)).
        structures: names of classes 1 … K.
    """
    figure, axes = image_grid([*cases], [""] * 4, side=2.6)
    for line, parts in zip(axes, cases.values(), strict=True):
        image, adv_image, clean, prediction, target = parts
        noise = adv_image - image
        epsilon = float(abs(noise).max())
        show_reading(line[0], image, clean, structures, "no attack")
        show_noise(line[1], noise, epsilon=epsilon)
        line[1].set_title(f"noise, ±{epsilon:.2g}", pad=3)
        show_reading(line[2], adv_image, prediction, structures, "attacked")
        show_reading(line[3], image, target, structures, "target")
    add_legend(figure, structures)
    return figure


def plot_agreement(measured: ArrayLike, reference: ArrayLike) -> Figure:
    """Bland–Altman: differences of N readings against their mean, with bias and limits.

    Source: Bland and Altman, Lancet 327:307 (1986).
    """
    figure, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    both = np.array([measured, reference], dtype=float)
    about = agreement(*both)
    ax.axhspan(*PUBLISHED, **BAND)
    ax.axhline(about["bias"], color="black", linewidth=1, label="bias")
    for name, label in {"limit_low": "limits of agreement", "limit_high": None}.items():
        ax.axhline(about[name], color="black", linewidth=1, linestyle="--", label=label)
    ax.plot(both.mean(axis=0), both[0] - both[1], "o", color="#0072B2", markersize=5)
    ax.axvline(ENLARGED, **LEVEL)
    title = "n = {n}, bias {bias:.3f}, limits {limit_low:.3f} … {limit_high:.3f}"
    ax.set(xlabel="mean of both ratios", ylabel="network − reference", title=title.format(**about))
    ax.legend(**BESIDE)
    return figure


def plot_least(table: pd.DataFrame) -> Figure:
    """Least ε that takes each case across .5, against its ratio without attack.

    Args:
        table: columns before, direction and epsilon; a case with infinity is not drawn.
    """
    figure, ax = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
    for direction, rows in table.groupby("direction", sort=False):
        found = np.isfinite(rows["epsilon"]).sum()
        label = f"{direction}, {found} of {len(rows)}"
        ax.plot(rows["before"], rows["epsilon"], "o", color=COLOURS[str(direction)], label=label)
    ax.axvline(ENLARGED, **LEVEL, zorder=0)
    ax.set(xlabel="ratio without attack", ylabel="least ε", ylim=(0, None))
    ax.legend(**BESIDE)
    return figure


def plot_shift(summary: pd.DataFrame) -> Figure:
    """Mean shift of the ratio against ε, a panel for each direction, with the published limits.

    Args:
        summary: columns direction, attack, epsilon, n, shift, low and high.
    """
    rows = summary.rename(columns={"shift": "iou"})
    panels = dict(list(rows.groupby("direction", sort=False)))
    figure = plot_curves(panels, ylabel="shift of the ratio", ylim=None)
    for ax in figure.axes:
        ax.axhspan(*PUBLISHED, **BAND, zorder=0)
    return figure
