"""Figures of defences: what an attacker gains who knows them, gradients, and certificates."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from helpers.curves import BESIDE, CURVES, LEVEL
from helpers.plots import add_legend, image_grid, show_image, show_noise


def plot_arrows(
    table: pd.DataFrame, *, by: str, value: str, level: tuple[str, float], xlabel: str
) -> Figure:
    """An arrow for each defence, from an attacker who does not know it to one who does.

    Args:
        table: columns `by`, attacker ("oblivious" or "adaptive") and `value`, a row for each pair.
        by: the column of the defences.
        level: text and value of a line to compare with.
    """
    wide = table.pivot(index=by, columns="attacker", values=value).loc[table[by].unique()]
    height = 0.9 + 0.32 * len(wide)
    figure, ax = plt.subplots(figsize=(6.6, height), layout="constrained")
    text, where = level
    ax.axvline(where, **LEVEL | {"linestyle": "--"}, label=text)
    places = range(len(wide))
    ends = {"oblivious": CURVES["black-box"][0], "adaptive": CURVES["white-box"][0]}
    for place, (begin, end) in zip(places, wide[[*ends]].to_numpy(), strict=True):
        ax.annotate(
            "",
            xy=(end, place),
            xytext=(begin, place),
            arrowprops={"arrowstyle": "->", "color": "#666666", "shrinkA": 4, "shrinkB": 4},
        )
    for (name, colour), size in zip(ends.items(), (9, 5), strict=True):
        ax.plot(wide[name], places, "o", color=colour, markersize=size, label=f"{name} attacker")
    ax.set_yticks(places, wide.index)
    ax.invert_yaxis()
    ax.set(xlabel=xlabel, xlim=(-3, 103))
    ax.grid(axis="y", linewidth=0.4, color="#DDDDDD")
    ax.legend(**BESIDE)
    return figure


def plot_gradients(image: Any, outlines: Mapping, gradients: Mapping, structures: Any) -> Figure:
    """What networks outline under attack, and below it the loss's gradient at the clean image.

    Args:
        image: (H, W), the radiograph without attack.
        outlines: from the name of a network to the attacked image and the label map, (H, W) each.
        gradients: from the same names to (H, W); the 99th percentile is full colour.
        structures: names of classes 1 … K.
    """
    figure, axes = image_grid(["under attack", "gradient"], [*outlines], side=2.1)
    for column, name in zip(axes.T, outlines, strict=True):
        show_image(column[0], *outlines[name])
        gradient = np.asarray(gradients[name])
        show_noise(column[1], gradient, epsilon=float(np.quantile(np.abs(gradient), 0.99)))
    add_legend(figure, structures)
    return figure


def plot_certified(image: Any, maps: Mapping, structures: Sequence[str]) -> Figure:
    """What is proven of one case: outlines of the smoothed network, white where it abstains.

    Args:
        image: (H, W).
        maps: from (network, sigma) to label maps (H, W), −1 where it abstains.
        structures: names of classes 1 … K.
    """
    networks, sigmas = (list(dict.fromkeys(names)) for names in zip(*maps, strict=True))
    titles = [f"σ = {sigma:g}" for sigma in sigmas]
    figure, axes = image_grid(networks, titles, side=2.1)
    for line, network in zip(axes, networks, strict=True):
        for ax, sigma in zip(line, sigmas, strict=True):
            labels = np.asarray(maps[network, sigma])
            show_image(ax, image, labels.clip(min=0))
            veil = np.ones((*labels.shape, 4)) * [1, 1, 1, 0.75]
            veil[..., 3] *= labels < 0
            ax.imshow(veil, zorder=3, interpolation="nearest")
    add_legend(figure, structures)
    return figure
