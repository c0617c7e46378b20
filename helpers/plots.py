"""The study's figures, from arrays and tables only.

Radiographs are grey from −1 to 1, noise diverges at ±ε, label maps are contours. `Any` stands for
an array or a tensor.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator
from scipy.ndimage import find_objects

from helpers.common.files import atomic_write
from helpers.common.provenance import versions
from helpers.evaluation import display_window

STYLE = Path(__file__).with_name("study.mplstyle")
# Okabe and Ito's colour-blind safe palette, in the order of the structures
COLOURS = ("#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#F0E442", "#E69F00", "#0072B2")
REFERENCE = "#D9D9D9"  # contours of the truth or the target
CURVES = {  # colour and marker of a curve
    "white-box": ("#D55E00", "o"),
    "black-box": ("#0072B2", "s"),
    "random-noise": ("#666666", "^"),
    "shuffled-noise": ("#009E73", "v"),
    "small": ("#882255", "D"),
    "large": ("#44AA99", "P"),
}
LEVEL = {"color": "#999999", "linewidth": 1, "linestyle": ":"}  # a value to compare with
BESIDE = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}  # a legend right of its axes


def use_style() -> None:
    """Set the study's style for all figures that follow; in a notebook, JPEG keeps them small."""
    plt.style.use(STYLE)
    if "ipykernel" in sys.modules:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 60})


def save_figure(figure: Figure, path: str | Path, provenance: Mapping) -> None:
    """Write a figure as PNG with its provenance in the metadata, whole or not at all."""
    notes = {"Software": json.dumps(versions()), "Description": json.dumps(provenance)}
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata=notes)


def image_grid(
    rows: Sequence[str], columns: Sequence[str], *, side: float = 1.9
) -> tuple[Figure, np.ndarray]:
    """Figure with square axes without ticks, for pictures.

    Args:
        rows: what is on the left of each row.
        columns: what is above each column.
        side: of each of the axes [inches].

    Returns:
        The figure and its axes (rows, columns).
    """
    size = side * len(columns), side * len(rows) + 0.5
    figure, axes = _subplots(len(rows), len(columns), size, dpi=80)  # of the notebook's picture
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.02, wspace=0, hspace=0)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for ax, name in zip(axes[0], columns, strict=True):
        ax.set_title(name, pad=3)
    for ax, name in zip(axes[:, 0], rows, strict=True):
        ax.set_ylabel(name)
    return figure, axes


def _subplots(rows, columns, size, **options):
    """Axes (rows, columns) in a layout that makes room for legends outside of them."""
    options |= {"figsize": size, "squeeze": False, "layout": "constrained"}
    return plt.subplots(rows, columns, **options)


def show_image(
    ax: Axes, image: Any, labels: Any = None, *, reference: Any = None, window: Any = (-1, 1)
) -> None:
    """Radiograph in grey with outlines.

    Args:
        image: (H, W).
        labels: label map (H, W), outlined in colour.
        reference: label map (H, W) of the truth or the target, outlined in grey below.
        window: the intensities that are black and white.
    """
    low, high = window
    ax.imshow(np.asarray(image), cmap="gray", vmin=low, vmax=high, interpolation="antialiased")
    if reference is not None:
        show_contours(ax, reference, reference=True)
    if labels is not None:
        show_contours(ax, labels)


def show_noise(ax: Axes, noise: Any, *, epsilon: float) -> None:
    """Noise (H, W) [units of the images], blue at −ε, white at 0, red at +ε."""
    pixels = np.asarray(noise)
    ax.imshow(pixels, cmap="RdBu_r", vmin=-epsilon, vmax=epsilon, interpolation="nearest")


def show_contours(ax: Axes, labels: Any, *, reference: bool = False) -> None:
    """Outlines of a label map (H, W): one colour a structure, or grey for truth and target."""
    labels = np.asarray(labels)
    height, width = labels.shape
    for c in np.unique(labels[labels > 0]):
        mask = labels == c
        if mask.all():
            continue
        ax.contour(
            np.pad(mask.astype(float), 1),  # closes the outline at the border of the image
            levels=[0.5],
            extent=(-1, width, -1, height),
            colors=REFERENCE if reference else COLOURS[(c - 1) % len(COLOURS)],
            linewidths=0.9 if reference else 1.3,
            zorder=(1 if reference else 2) - 0.01 * c,  # where two meet, the earlier class is seen
        )
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def add_legend(figure: Figure, structures: Iterable[str], *, reference: str = "") -> None:
    """One line below the figure: the colours of the structures, and what the grey outline is."""
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(structures)}
    if reference:
        colours[reference] = REFERENCE
    figure.legend(
        handles=[Line2D([], [], color=colour, label=name) for name, colour in colours.items()],
        loc="outside lower center",
        ncols=len(colours),
        handlelength=1.4,
        columnspacing=1.2,
    )


def plot_cases(
    images: Any,
    labels: Any | None,
    *,
    structures: Sequence[str],
    titles: Sequence[str],
    columns: int = 6,
) -> Figure:
    """Contact sheet of radiographs with the outlines of their structures.

    Args:
        images: (N, 1, H, W).
        labels: (N, H, W), or None for the radiographs alone.
        structures: names of classes 1 … K.
        titles: N short texts.
    """
    rows = math.ceil(len(titles) / columns)
    figure, axes = image_grid([""] * rows, [""] * min(columns, len(titles)))
    for k, (ax, title) in enumerate(zip(axes.flat, titles, strict=False)):
        show_image(ax, images[k][0], None if labels is None else labels[k])
        ax.set_title(title, pad=3)
    for ax in axes.flat[len(titles) :]:
        ax.set_visible(False)
    if labels is not None:
        add_legend(figure, structures)
    return figure


def plot_predictions(
    images: Any,
    predictions: Any,
    truth: Any,
    *,
    structures: Sequence[str],
    titles: Sequence[str],
) -> Figure:
    """One row of radiographs with predicted outlines in colour and true ones in grey.

    Args:
        images, predictions, truth: (N, H, W).
        structures: names of classes 1 … K.
        titles: N short texts.
    """
    figure, axes = image_grid([""], titles)
    for ax, image, labels, true in zip(axes[0], images, predictions, truth, strict=True):
        show_image(ax, image, labels, reference=true)
    add_legend(figure, structures, reference="truth")
    return figure


def plot_attacks(
    attacks: Mapping[str, Sequence],
    *,
    structures: Sequence[str],
    epsilon: float,
    target_name: str = "target",
) -> Figure:
    """Attacks in detail, a row each.

    The columns: image with clean prediction, noise × 1/ε, attacked image, prediction, target.

    Args:
        attacks: dict from the name of a row to image and adv_image (H, W), and clean prediction,
            prediction and target (label maps (H, W)).
        structures: names of classes 1 … K.
        epsilon: noise level, for the colour scale.
        target_name: title of the last column.

    Source: layout of the paper's Figure 1.
    """
    noise, attacked = f"noise × {1 / epsilon:.0f}", f"attacked, ε = {epsilon:g}"
    titles = ["no attack", noise, attacked, "prediction", target_name]
    figure, axes = image_grid(list(attacks), titles, side=2.3)
    for line, attack in zip(axes, attacks.values(), strict=True):
        image, adv_image, clean, prediction, target = attack
        show_image(line[0], image, clean)
        show_noise(line[1], adv_image - image, epsilon=epsilon)
        show_image(line[2], adv_image)
        show_image(line[3], adv_image, prediction)
        show_image(line[4], image, target)
    add_legend(figure, structures)
    return figure


def plot_grid(
    crafted: Mapping,
    predictions: Mapping,
    references: Any,
    *,
    case: int,
    rows: Sequence[Sequence[str]],
    columns: Mapping[Any, str],
    structures: Sequence[str],
    reference_name: str,
) -> Figure:
    """Attacked images of one case with predicted outlines.

    A row for each attack, a column for each noise level.

    Args:
        crafted: dict from (*row, column) to images (N, 1, H, W).
        predictions: dict from the same keys to label maps (N, H, W).
        references: label maps (N, H, W), or a dict of such from the same keys, drawn in grey.
        case: index of the case, 0 … N−1.
        rows: what the rows show.
        columns: what the columns show, such as noise levels, each with its title.
        structures: names of classes 1 … K.
        reference_name: what the grey outline is.

    Source: layout of the paper's Figures 3, 4 and 5.
    """
    side = 2.1 if len(columns) < 6 else 1.75
    figure, axes = image_grid([*map(" · ".join, rows)], list(columns.values()), side=side)
    for line, row in zip(axes, rows, strict=True):
        for ax, column in zip(line, columns, strict=True):
            key = (*row, column)
            reference = references[key] if isinstance(references, dict) else references
            show_image(ax, crafted[key][case, 0], predictions[key][case], reference=reference[case])
    add_legend(figure, structures, reference=reference_name)
    return figure


def plot_settings(
    image: Any,
    adv_images: Mapping,
    clean: Any,
    predictions: Mapping,
    target: Any,
    *,
    structures: Sequence[str],
    epsilon: float,
) -> Figure:
    """Noise (top) and attacked image with predicted outlines (bottom) of one case.

    A column for each kind of attack.

    Args:
        image: (H, W).
        adv_images: dict from the kind of attack to (H, W).
        clean: label map (H, W) predicted without attack.
        predictions: dict from the kind of attack to label map (H, W).
        target: label map (H, W), drawn in grey.
        structures: names of classes 1 … K.
        epsilon: noise level, for the colour scale.

    Source: layout of the paper's Figure 2.
    """
    shown = {"no attack": image, **adv_images}
    figure, axes = image_grid([f"noise, ±{epsilon:g}", "prediction"], list(shown), side=2.1)
    for (top, bottom), (name, picture) in zip(axes.T, shown.items(), strict=True):
        show_noise(top, picture - image, epsilon=epsilon)
        show_image(bottom, picture, predictions.get(name, clean), reference=target)
    add_legend(figure, structures, reference="target")
    return figure


def plot_windows(image: Any, adv_image: Any, *, centre: float, widths: Sequence[float]) -> Figure:
    """Image (top) and attacked image (bottom) in display windows.

    Args:
        image, adv_image: (H, W).
        centre: middle of the windows [units of the images].
        widths: of the windows, one for each column, see `evaluation.display_window`.
    """
    titles = [f"window {width:g}" for width in widths]
    figure, axes = image_grid(["image", "attacked"], titles, side=2.1)
    for (top, bottom), width in zip(axes.T, widths, strict=True):
        window = display_window(centre, width)
        show_image(top, image, window=window)
        show_image(bottom, adv_image, window=window)
    return figure


def plot_field(
    image: Any,
    labels: Any,
    moved_image: Any,
    moved_labels: Any,
    field: Any,
    *,
    structures: Sequence[str],
) -> Figure:
    """One elastic deformation: before, the field as arrows over its length, and after.

    Args:
        image, moved_image: (H, W).
        labels, moved_labels: label maps (H, W).
        field: (2, H, W) displacement in x and y [pixels].
        structures: names of classes 1 … K.
    """
    titles = ["before", "displacement", "after"]
    figure, ((before, middle, after),) = image_grid([""], titles, side=2.7)
    show_image(before, image, labels)
    show_image(after, moved_image, moved_labels)
    x, y = np.asarray(field)
    shown = middle.imshow(np.hypot(x, y), cmap="viridis", vmin=0)
    step = max(1, len(x) // 16)
    at = np.arange(len(x) // 32, len(x), step)
    arrows = np.ix_(at, at)
    middle.quiver(at, at, x[arrows], y[arrows], color="white", angles="xy", width=0.006)
    figure.colorbar(shown, ax=middle, label="pixels", shrink=0.8, pad=0.02)
    add_legend(figure, structures)
    return figure


def plot_missed(missed: Mapping[str, Any], *, title: str) -> Figure:
    """Maps of target pixels that an attack did not reach, one for each structure.

    All are cropped to the same frame. Shown is the share of targets that missed the pixel, where half of the targets hold it.

    Args:
        missed: dict from the structure to two maps (H, W): share of cases that missed the pixel,
            and share of cases whose target holds it.
        title: what was done to the structures, written behind their names.
    """
    figure, axes = image_grid([""], [f"{name} {title}" for name in missed], side=2.2)
    share, held = np.stack([*missed.values()], axis=1)  # each (structures, H, W)
    often = held >= 0.5
    frame = (find_objects(often.any(axis=0).astype(int)) or [np.s_[:, :]])[0]
    percent = 100 * (np.where(often, share, np.nan) / held)
    for ax, structure in zip(axes[0], percent, strict=True):
        shown = ax.imshow(structure[frame], cmap="magma_r", vmin=0, vmax=100)
        ax.set_facecolor("#DDDDDD")
    figure.colorbar(shown, ax=axes[0], label="not reached [% of targets]", shrink=0.8, pad=0.01)
    return figure


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
    panels: Mapping[str, pd.DataFrame],
    *,
    x: str = "epsilon",
    by: str = "attack",
    xlabel: str = "noise level ε",
    scale: str = "log",
    levels: Mapping[str, tuple] | None = None,
    ylabel: str = "mean IoU × 100",
) -> Figure:
    """Mean IoU against x: solid with its interval as a band, the paper's values hollow and dashed.

    Args:
        panels: dict from a title to a DataFrame with the columns x, by, n, iou, low, high and, if
            known, paper.
        x, by: the columns along the axis and between curves.
        scale: of x, "log" or "linear".
        levels: dict from the title to (text, IoU) of a thin line, such as the IoU without attack.
    """
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    spare = rows * columns > len(panels)  # a place for the legend, else it is on the right
    size = (3.1 * columns + (0 if spare else 2.6), 3 * rows + 0.3)
    figure, axes = _subplots(rows, columns, size, sharey=True)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, summary) in zip(axes.flat, panels.items(), strict=False):
        _draw_curves(ax, summary.sort_values(x, kind="stable"), x, by)
        if levels:
            text, level = levels[title]
            ax.axhline(level, **LEVEL, zorder=0, label=text)
        ax.set(xscale=scale, xticks=summary[x].unique(), xlabel=xlabel, title=title)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    for line in axes:
        line[0].set(ylabel=ylabel, ylim=(-3, 103))
    about = _about(pd.concat(panels.values()))
    where = {"loc": "center"} if spare else BESIDE
    axes[-1, -1].legend(*ax.get_legend_handles_labels(), title=about, alignment="left", **where)
    return figure


def _draw_curves(ax, summary, x, by):
    """The curves of one panel, and the paper's values where it has some."""
    for position, (name, rows) in enumerate(summary.groupby(by, sort=False)):
        style = _curve_style(name, position)
        _draw_band(ax, x, rows, **style, label=name)
        if "paper" in rows and rows["paper"].notna().any():
            style |= {"markersize": 5, "markerfacecolor": "white", "linestyle": "--"}
            ax.plot(rows[x], rows["paper"], **style, linewidth=1, label=f"{name}, paper")


def plot_margin(curve: pd.DataFrame, levels: Mapping[str, float], *, reach: float) -> Figure:
    """IoU against the margin around the bounding box in which noise is allowed.

    Args:
        curve: columns margin [pixels], n, iou, low, high.
        levels: from the setting to its IoU; "structure only" is drawn as a line.
        reach: half of the receptive field [pixels].
    """
    figure, ((ax,),) = _subplots(1, 1, (6.6, 3.0))
    _draw_band(ax, "margin", curve, **_curve_style("white-box", 0))
    ax.axhline(levels["structure only"], **LEVEL, label="noise everywhere")
    ax.axvline(reach, **LEVEL | {"linestyle": "--"}, label="half receptive field")
    ax.set(xlabel="margin around the bounding box [pixels]", ylabel="IoU with the symbol × 100")
    ax.legend(title=_about(curve), alignment="left", **BESIDE)
    return figure


def plot_distribution(values: Mapping, *, xlabel: str) -> Figure:
    """Share of cases up to each value, one step curve for each name.

    A curve that ends below 100 % is of cases of which some never got there.

    Args:
        values: dict from a name to N positive numbers, infinity for a case without one.
    """
    figure, ((ax,),) = _subplots(1, 1, (5.4, 3.0))
    for position, (name, each) in enumerate(values.items()):
        numbers = np.sort(np.asarray(each, dtype=float))
        found = numbers[np.isfinite(numbers)]
        share = 100 * np.arange(1, len(found) + 1) / len(numbers)
        style = _curve_style(name, position) | {"linestyle": "--" if position % 2 else "-"}
        ax.step(found, share, where="post", markersize=4, label=name, **style)
    ax.set(xscale="log", xlabel=xlabel, ylabel=f"share of {len(numbers)} cases [%]", ylim=(0, 104))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.legend(**BESIDE)
    return figure


def plot_learning_curves(histories: Mapping[str, Sequence]) -> Figure:
    """Training loss and validation IoU against the epoch, and where the kept weights are.

    Args:
        histories: dict from the network's name to its history, as in `training.Trained`.
    """
    figure, ((losses, ious),) = _subplots(1, 2, (7.6, 2.9))
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
    for (name, rows), colour in zip(histories.items(), colours, strict=False):
        history = pd.DataFrame(rows).set_index("epoch")
        percent = 100 * history["iou"]
        best = percent.idxmax()
        losses.plot(history["loss"], color=colour, label=name)
        ious.plot(percent, color=colour, label=name)
        ious.plot(best, percent[best], "o", color=colour, label=f"kept, epoch {best}")
    losses.set(xlabel="epoch", ylabel="training loss (−soft IoU)")
    ious.set(xlabel="epoch", ylabel="validation soft IoU × 100")
    losses.legend()
    ious.legend()
    return figure
