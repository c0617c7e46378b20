"""The study's figures, from arrays and tables only: radiographs grey from −1 to 1, noise diverging at ±ε, contours."""

import json
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator
from matplotlib_inline.backend_inline import set_matplotlib_formats
from scipy.ndimage import find_objects

from helpers.common.files import atomic_write
from helpers.common.provenance import versions
from helpers.evaluation import display_window

# Okabe and Ito's colour-blind safe palette, in the order of the structures (close to the paper's hues)
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
plt.rcParams.update(
    {  # importing this module sets the style of every figure
        "figure.dpi": 100,
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
    }
)


if "ipykernel" in sys.modules:  # radiographs as JPEG keep a notebook small
    set_matplotlib_formats("jpeg", pil_kwargs={"quality": 60})


def save_figure(figure, path, provenance):
    """Write a figure as PNG with its provenance (a dict) in the metadata, whole or not at all."""
    notes = {"Software": json.dumps(versions()), "Description": json.dumps(provenance)}
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata=notes)


def image_grid(rows, columns, *, side=1.9):
    """Figure with rows × columns square axes without ticks.

    Returns:
        The figure and its axes (rows, columns).
    """
    size = side * columns, side * rows + 0.5
    figure, axes = plt.subplots(
        rows, columns, figsize=size, dpi=80, squeeze=False
    )  # of the picture in a notebook
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.02, wspace=0, hspace=0)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure, axes


def show_image(ax, image, *, title=None):
    """Radiograph (H, W), grey from −1 (black) to 1 (white)."""
    ax.imshow(np.asarray(image), cmap="gray", vmin=-1, vmax=1, interpolation="antialiased")
    ax.set_title(title or "", pad=3)


def show_noise(ax, noise, *, epsilon, title=None):
    """Noise (H, W) [units of the images], blue at −ε, white at 0, red at +ε."""
    ax.imshow(
        np.asarray(noise), cmap="RdBu_r", vmin=-epsilon, vmax=epsilon, interpolation="nearest"
    )
    ax.set_title(title or "", pad=3)


def show_contours(ax, labels, *, classes, reference=False):
    """Outlines of the classes of a label map (H, W): one colour a structure, or grey for truth and target."""
    for c in classes:
        mask = np.asarray(labels) == c
        if mask.any() and not mask.all():
            colour = REFERENCE if reference else COLOURS[(c - 1) % len(COLOURS)]
            padded = np.pad(mask.astype(float), 1)  # closes the outline at the border of the image
            at = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
            ax.contour(
                at[1],
                at[0],
                padded,
                levels=[0.5],
                colors=colour,
                linewidths=0.9 if reference else 1.3,
                zorder=(1 if reference else 2) - 0.01 * c,
            )  # where two meet, the earlier class is seen
    ax.set(xlim=(-0.5, np.shape(labels)[1] - 0.5), ylim=(np.shape(labels)[0] - 0.5, -0.5))


def add_legend(figure, structures, *, reference=None):
    """One line below the figure: the colours of the structures, and what the grey outline is."""
    lines = [
        Line2D([], [], color=COLOURS[k % len(COLOURS)], label=name)
        for k, name in enumerate(structures)
    ]
    if reference:
        lines.append(Line2D([], [], color=REFERENCE, label=reference))
    figure.legend(
        handles=lines,
        loc="outside lower center",
        ncols=len(lines),
        frameon=False,
        handlelength=1.4,
        columnspacing=1.2,
        fontsize=9,
    )


def plot_cases(images, labels, *, structures, titles, columns=6):
    """Contact sheet of radiographs with the outlines of their structures.

    Args:
        images: (N, 1, H, W).
        labels: (N, H, W), or None for the radiographs alone.
        structures: names of classes 1 … K.
        titles: N short texts.
    """
    figure, axes = image_grid(-(-len(images) // columns), min(columns, len(images)))
    for k, ax in enumerate(axes.flat):
        if k < len(images):
            show_image(ax, images[k, 0], title=titles[k])
            if labels is not None:
                show_contours(ax, labels[k], classes=range(1, len(structures) + 1))
        else:
            ax.set_visible(False)
    if labels is not None:
        add_legend(figure, structures)
    return figure


def plot_predictions(images, predictions, truth, *, structures, titles):
    """One row of radiographs with predicted outlines in colour and true ones in grey; images and maps are (N, H, W)."""
    figure, axes = image_grid(1, len(images))
    for ax, image, prediction, true, title in zip(
        axes[0], images, predictions, truth, titles, strict=True
    ):
        show_image(ax, image, title=title)
        show_contours(ax, true, classes=range(1, len(structures) + 1), reference=True)
        show_contours(ax, prediction, classes=range(1, len(structures) + 1))
    add_legend(figure, structures, reference="truth")
    return figure


def plot_attacks(attacks, *, structures, epsilon, target_name="target"):
    """Attacks in detail, a row each: image with clean prediction, noise × 1/ε, attacked image, prediction, target.

    Args:
        attacks: dict from the name of a row to image and adv_image (H, W), and clean prediction, prediction and target
            (label maps (H, W)).
        structures: names of classes 1 … K.
        epsilon: noise level, for the colour scale.
        target_name: title of the last column.

    Source: layout of the paper's Figure 1.
    """
    classes = range(1, len(structures) + 1)
    titles = (
        "no attack",
        f"noise × {1 / epsilon:.0f}",
        f"attacked, ε = {epsilon:g}",
        "prediction",
        target_name,
    )
    figure, axes = image_grid(len(attacks), 5, side=2.3)
    for line, (name, (image, adv_image, clean, prediction, target)) in zip(
        axes, attacks.items(), strict=True
    ):
        for ax, picture, title in zip(
            line, (image, None, adv_image, adv_image, image), titles, strict=True
        ):
            title = title if line[0] is axes[0, 0] else None
            if picture is None:
                show_noise(ax, adv_image - image, epsilon=epsilon, title=title)
            else:
                show_image(ax, picture, title=title)
        for ax, labels in ((line[0], clean), (line[3], prediction), (line[4], target)):
            show_contours(ax, labels, classes=classes)
        line[0].set_ylabel(name)
    add_legend(figure, structures)
    return figure


def plot_grid(
    crafted,
    predictions,
    references,
    *,
    case,
    rows,
    columns,
    structures,
    reference_name,
    title="ε = {:g}",
):
    """Attacked images of one case with predicted outlines: a row for each attack, a column for each noise level.

    Args:
        crafted: dict from (*row, column) to images (N, 1, H, W).
        predictions: dict from the same keys to label maps (N, H, W).
        references: label maps (N, H, W), or a dict of such from the same keys, drawn in grey.
        case: index of the case, 0 … N−1.
        rows: tuples, what the rows show.
        columns: numbers, what the columns show.
        structures: names of classes 1 … K.
        reference_name: what the grey outline is.
        title: of a column, to format its number with.

    Source: layout of the paper's Figures 3, 4 and 5.
    """
    classes = range(1, len(structures) + 1)
    figure, axes = image_grid(len(rows), len(columns), side=2.1 if len(columns) < 6 else 1.75)
    for line, row in zip(axes, rows, strict=True):
        for ax, column in zip(line, columns, strict=True):
            key = (*row, column)
            reference = references[key] if isinstance(references, dict) else references
            show_image(
                ax,
                crafted[key][case, 0].cpu(),
                title=title.format(column) if line[0] is axes[0, 0] else None,
            )
            show_contours(ax, reference[case].cpu(), classes=classes, reference=True)
            show_contours(ax, predictions[key][case].cpu(), classes=classes)
        line[0].set_ylabel(" · ".join(row))
    add_legend(figure, structures, reference=reference_name)
    return figure


def plot_curves(
    panels,
    *,
    x="epsilon",
    by="attack",
    xlabel="noise level ε",
    scale="log",
    levels=None,
    ylabel="mean IoU × 100",
):
    """Mean IoU against x: solid with its interval as a band, the paper's values hollow and dashed.

    Args:
        panels: dict from a title to a DataFrame with the columns x, by, n, iou, low, high and, if known, paper.
        x, by: the columns along the axis and between curves.
        xlabel, ylabel: of the axes.
        scale: of x, "log" or "linear".
        levels: dict from the title to (text, IoU) of a thin line, such as the IoU without attack.
    """
    columns = min(3, len(panels))
    lines, spare = (
        -(-len(panels) // columns),
        -len(panels) % columns,
    )  # the legend is in a spare place, or on the right
    size = 3.1 * columns + (0 if spare else 2.6), 3 * lines + 0.3
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=True)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, summary) in zip(axes.flat, panels.items(), strict=False):
        for position, (name, rows) in enumerate(
            summary.sort_values(x, kind="stable").groupby(by, sort=False)
        ):
            colour, marker = CURVES.get(name, tuple(CURVES.values())[position % len(CURVES)])
            ax.plot(rows[x], rows["iou"], color=colour, marker=marker, markersize=5, label=name)
            ax.fill_between(
                rows[x], rows["low"], rows["high"], color=colour, alpha=0.18, linewidth=0
            )
            if "paper" in rows and rows["paper"].notna().any():
                ax.plot(
                    rows[x],
                    rows["paper"],
                    color=colour,
                    marker=marker,
                    markersize=5,
                    linestyle="--",
                    markerfacecolor="white",
                    linewidth=1,
                    label=f"{name}, paper",
                )
        if levels:
            text, level = levels[title]
            ax.axhline(level, color="#999999", linewidth=1, linestyle=":", zorder=0, label=text)
        ticks = sorted(summary[x].unique())
        ax.set(xscale=scale, xlabel=xlabel, title=title)
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
    for line in axes:
        line[0].set(ylabel=ylabel, ylim=(-3, 103))
    where = {"loc": "center"} if spare else {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    about = _about(pd.concat(panels.values()))
    axes[-1, -1].legend(*ax.get_legend_handles_labels(), title=about, alignment="left", **where)
    return figure


def _about(summary):
    """How many cases the means of a table are of, for its figure."""
    return f"n = {'–'.join(str(n) for n in sorted({summary['n'].min(), summary['n'].max()}))}, bands: 95 %"


def plot_distribution(values, *, xlabel, unit="cases"):
    """Share of cases up to each value, one step curve for each name; one that ends below 100 % never got there.

    Args:
        values: dict from a name to N positive numbers, infinity for a case without one.
        xlabel: of the axis.
        unit: what is counted.
    """
    figure, ax = plt.subplots(figsize=(5.4, 3.0))
    for position, (name, numbers) in enumerate(values.items()):
        colour, marker = CURVES.get(name, tuple(CURVES.values())[position % len(CURVES)])
        numbers = np.sort(np.asarray(numbers, dtype=float))
        found = numbers[np.isfinite(numbers)]
        share = 100 * np.arange(1, len(found) + 1) / len(numbers)
        ax.step(
            found,
            share,
            where="post",
            color=colour,
            marker=marker,
            markersize=4,
            label=name,
            linestyle="--" if position % 2 else "-",
        )
    ax.set(xscale="log", xlabel=xlabel, ylabel=f"share of {len(numbers)} {unit} [%]", ylim=(0, 104))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def plot_learning_curves(histories):
    """Training loss and validation IoU against the epoch, and where the kept weights are.

    Args:
        histories: dict from the network's name to its history, as in `training.Trained`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.9))
    for (name, history), colour in zip(
        histories.items(), ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=False
    ):
        epochs = [row["epoch"] for row in history]
        best = max(history, key=lambda row: row["iou"])
        axes[0].plot(epochs, [row["loss"] for row in history], color=colour, label=name)
        axes[1].plot(epochs, [100 * row["iou"] for row in history], color=colour, label=name)
        axes[1].plot(
            best["epoch"],
            100 * best["iou"],
            "o",
            color=colour,
            label=f"kept, epoch {best['epoch']}",
        )
    axes[0].set(xlabel="epoch", ylabel="training loss (−soft IoU)")
    axes[1].set(xlabel="epoch", ylabel="validation soft IoU × 100")
    axes[0].legend()
    axes[1].legend()
    return figure


def plot_field(image, labels, moved_image, moved_labels, field, *, structures):
    """One elastic deformation: before, the field as arrows over its length, and after.

    Args:
        image, moved_image: (H, W).
        labels, moved_labels: label maps (H, W).
        field: (2, H, W) displacement in x and y [pixels].
        structures: names of classes 1 … K.
    """
    classes = range(1, len(structures) + 1)
    figure, axes = image_grid(1, 3, side=2.7)
    for ax, picture, outline in (
        (axes[0, 0], image, labels),
        (axes[0, 2], moved_image, moved_labels),
    ):
        show_image(ax, picture, title="before" if picture is image else "after")
        show_contours(ax, outline, classes=classes)
    x, y = np.asarray(field)
    shown = axes[0, 1].imshow(np.hypot(x, y), cmap="viridis", vmin=0)
    every = slice(x.shape[0] // 16 // 2, None, max(1, x.shape[0] // 16))
    at = np.arange(x.shape[0])[every]
    axes[0, 1].quiver(
        at, at, x[every, every], y[every, every], color="white", angles="xy", width=0.006
    )
    axes[0, 1].set_title("displacement", pad=3)
    figure.colorbar(shown, ax=axes[0, 1], label="pixels", shrink=0.8, pad=0.02)
    add_legend(figure, structures)
    return figure


def plot_missed(missed, *, title):
    """Maps of target pixels that an attack did not reach, one for each structure, all cropped to the same frame.

    Args:
        missed: dict from the structure to two maps (H, W): share of cases that missed the pixel, and share of cases
            whose target holds it. Shown is the share of targets that missed the pixel, where half of them hold it.
        title: what was done to the structures, written behind their names.
    """
    figure, axes = image_grid(1, len(missed), side=2.2)
    wanted = np.any([np.asarray(held) >= 0.5 for _, held in missed.values()], axis=0)
    frame = (find_objects(wanted.astype(int)) or [np.s_[:, :]])[0]
    for ax, (structure, (share, held)) in zip(axes[0], missed.items(), strict=True):
        share, held = np.asarray(share)[frame], np.asarray(held)[frame]
        often = held >= 0.5
        missed_share = np.divide(share, held, out=np.full(share.shape, np.nan), where=often)
        shown = ax.imshow(100 * missed_share, cmap="magma_r", vmin=0, vmax=100)
        ax.set_facecolor("#DDDDDD")
        ax.set_title(f"{structure} {title}", pad=3)
    figure.colorbar(shown, ax=axes[0], label="not reached [% of targets]", shrink=0.8, pad=0.01)
    return figure


def plot_settings(image, adv_images, clean, predictions, target, *, structures, epsilon):
    """Noise (top) and attacked image with predicted outlines (bottom) of one case, a column for each kind of attack.

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
    classes = range(1, len(structures) + 1)
    figure, axes = image_grid(2, 1 + len(adv_images), side=2.1)
    columns = {"no attack": (image, clean)} | {
        name: (adv_images[name], predictions[name]) for name in adv_images
    }
    for (top, bottom), (name, (picture, prediction)) in zip(axes.T, columns.items(), strict=True):
        show_noise(top, picture - image, epsilon=epsilon, title=name)
        show_image(bottom, picture)
        show_contours(bottom, target, classes=classes, reference=True)
        show_contours(bottom, prediction, classes=classes)
    axes[0, 0].set_ylabel(f"noise, ±{epsilon:g}")
    axes[1, 0].set_ylabel("prediction")
    add_legend(figure, structures, reference="target")
    return figure


def plot_margin(curve, levels, *, reach):
    """IoU against the margin around the bounding box in which noise is allowed.

    Args:
        curve: DataFrame with margin [pixels], n, iou, low, high.
        levels: Series from the setting to its IoU; "structure only" is drawn as a line.
        reach: half of the receptive field [pixels].
    """
    figure, ax = plt.subplots(figsize=(6.6, 3.0))
    colour, marker = CURVES["white-box"]
    ax.plot(curve["margin"], curve["iou"], color=colour, marker=marker, markersize=5)
    ax.fill_between(
        curve["margin"], curve["low"], curve["high"], color=colour, alpha=0.18, linewidth=0
    )
    ax.axhline(
        levels["structure only"],
        color="#999999",
        linestyle=":",
        linewidth=1,
        label="noise everywhere",
    )
    ax.axvline(reach, color="#999999", linestyle="--", linewidth=1, label="half receptive field")
    ax.set(xlabel="margin around the bounding box [pixels]", ylabel="IoU with the symbol × 100")
    ax.legend(title=_about(curve), loc="center left", bbox_to_anchor=(1.0, 0.5), alignment="left")
    return figure


def plot_windows(image, adv_image, *, centre, widths):
    """Image (top) and attacked image (bottom) in display windows.

    Args:
        image, adv_image: (H, W).
        centre: middle of the windows [units of the images].
        widths: of the windows, one for each column, see `evaluation.display_window`.
    """
    figure, axes = image_grid(2, len(widths), side=2.1)
    for line, picture, name in zip(axes, (image, adv_image), ("image", "attacked"), strict=True):
        for ax, width in zip(line, widths, strict=True):
            low, high = display_window(centre, width)
            ax.imshow(
                np.asarray(picture), cmap="gray", vmin=low, vmax=high, interpolation="antialiased"
            )
            ax.set_title(f"window {width:g}" if line[0] is axes[0, 0] else "", pad=3)
        line[0].set_ylabel(name)
    return figure
