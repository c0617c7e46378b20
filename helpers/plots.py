"""The study's figures, from arrays and tables only.

Radiographs are grey from −1 to 1, noise diverges at ±ε, label maps are contours.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from scipy.ndimage import find_objects

from helpers.common.files import atomic_write
from helpers.common.provenance import versions
from helpers.evaluation import display_window
from helpers.labels import UNLABELLED

Names = Sequence[str]
STYLE = Path(__file__).with_name("study.mplstyle")
# Okabe and Ito's colour-blind safe palette, in the order of the structures
COLOURS = ("#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#F0E442", "#E69F00", "#0072B2")
REFERENCE = "#D9D9D9"  # contours of the truth or the target


def use_style() -> None:
    """Set the study's style for all figures that follow; in a notebook, JPEG keeps them small."""
    plt.style.use(STYLE)
    if "ipykernel" in sys.modules:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 50})


def save_figure(figure: Figure, path: Path, provenance: Mapping) -> None:
    """Write a figure as PNG with its provenance in the metadata, whole or not at all."""
    notes = {"Software": json.dumps(versions()), "Description": json.dumps(provenance)}
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata=notes)


def image_grid(rows: Names, columns: Names, *, side: float = 1.9) -> tuple[Figure, np.ndarray]:
    """Figure and its square axes (rows, columns) for pictures.

    Args:
        rows: what is written on the left of each row.
        columns: what is written above each column.
        side: of each of the axes [inches].
    """
    layout = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.04, wspace=0, hspace=0)
    height, width = len(rows), len(columns)
    size = side * width, side * height + 0.5
    figure, axes = plt.subplots(height, width, figsize=size, dpi=80, layout=layout, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for ax, name in zip(axes[0], columns, strict=True):
        ax.set_title(name, pad=3)
    for ax, name in zip(axes[:, 0], rows, strict=True):
        ax.set_ylabel(name)
    return figure, axes


def show_image(
    ax: Axes, image: Any, labels: Any = None, *, reference: Any = None, window: Any = (-1, 1)
) -> None:
    """Radiograph (H, W) in grey with outlines.

    Args:
        labels: label map (H, W), outlined in colour.
        reference: label map (H, W) of the truth or the target, outlined in grey below.
        window: the intensities that are black and white.
    """
    low, high = window
    ax.imshow(np.asarray(image), cmap="gray", vmin=low, vmax=high)
    if reference is not None:
        show_contours(ax, reference, reference=True)
    if labels is not None:
        show_contours(ax, labels)


def show_noise(ax: Axes, noise: Any, *, epsilon: float) -> None:
    """Noise (H, W) [units of the images], blue at −ε, white at 0, red at +ε."""
    ax.imshow(
        np.asarray(noise), cmap="RdBu_r", vmin=-epsilon, vmax=epsilon, interpolation="nearest"
    )


def show_contours(ax: Axes, labels: Any, *, reference: bool = False) -> None:
    """Outlines of a label map (H, W): one colour a structure, or grey for truth and target."""
    labels = np.asarray(labels)
    height, width = labels.shape
    for c in np.unique(labels[(labels > 0) & (labels != UNLABELLED)]):
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


def add_legend(figure: Figure, structures: Names, *, reference: str = "") -> None:
    """Below the figure: the colours of the structures, and what the grey outline is."""
    colours = dict(zip(structures, cycle(COLOURS)))
    if reference:
        colours[reference] = REFERENCE
    lines = [Line2D([], [], color=colour) for colour in colours.values()]
    rows = np.ceil(1.25 * len(colours) / figure.get_figwidth())  # an entry takes so many inches
    figure.legend(
        lines,
        colours,
        loc="outside lower center",
        ncols=int(np.ceil(len(colours) / rows)),
        handlelength=1.4,
        columnspacing=1.2,
    )


def plot_cases(
    images: Any,
    labels: Any,
    *,
    structures: Names,
    titles: Names,
    side: float = 1.9,
) -> Figure:
    """Contact sheet of radiographs with the outlines of their structures.

    Args:
        images: (N, 1, H, W).
        labels: (N, H, W), or None for the radiographs alone.
        structures: names of classes 1 … K.
        titles: N short texts.
        side: of each of the axes [inches].
    """
    number = len(titles)
    figure, axes = image_grid([""] * ((number + 5) // 6), [""] * min(6, number), side=side)
    for k, title in enumerate(titles):
        show_image(axes.flat[k], images[k][0], None if labels is None else labels[k])
        axes.flat[k].set_title(title, pad=3)
    for ax in axes.flat[number:]:
        ax.set_visible(False)
    if labels is not None:
        add_legend(figure, structures)
    return figure


def plot_predictions(
    images: Any,
    predictions: Any,
    truth: Any,
    *,
    structures: Names,
    titles: Names,
) -> Figure:
    """One row of radiographs (N, H, W) with predicted outlines in colour and true ones in grey."""
    figure, axes = image_grid([""], titles)
    for ax, image, labels, true in zip(axes[0], images, predictions, truth, strict=True):
        show_image(ax, image, labels, reference=true)
    add_legend(figure, structures, reference="truth")
    return figure


def plot_attacks(
    attacks: Mapping,
    *,
    structures: Names,
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
    noise = f"noise × {1 / epsilon:.0f}"
    titles = ["no attack", noise, f"attacked, ε = {epsilon:g}", "prediction", target_name]
    figure, axes = image_grid([*attacks], titles, side=2.3)
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
    rows: Sequence[Names],
    columns: Mapping,
    structures: Names,
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
    structures: Names,
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


def plot_windows(image: Any, adv_image: Any, *, centre: float, widths: Sequence) -> Figure:
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
    structures: Names,
) -> Figure:
    """One elastic deformation: before, the field as arrows over its length, and after.

    Args:
        image, moved_image: (H, W).
        labels, moved_labels: label maps (H, W).
        field: (2, H, W) displacement in x and y [pixels].
        structures: names of classes 1 … K.
    """
    figure, axes = image_grid([""], ["before", "displacement", "after"], side=2.7)
    before, middle, after = axes[0]
    show_image(before, image, labels)
    show_image(after, moved_image, moved_labels)
    x, y = np.asarray(field)
    shown = middle.imshow(np.hypot(x, y), vmin=0)
    at = np.arange(len(x) // 32, len(x), max(1, len(x) // 16))
    arrows = np.ix_(at, at)
    middle.quiver(at, at, x[arrows], y[arrows], color="white", angles="xy", width=0.006)
    figure.colorbar(shown, ax=middle, label="pixels", shrink=0.8, pad=0.02)
    add_legend(figure, structures)
    return figure


def plot_missed(missed: Mapping, *, title: str) -> Figure:
    """Maps of target pixels that an attack did not reach, one for each structure.

    Shown is the share of targets that missed the pixel, where half of them hold it.

    Args:
        missed: from the structure to two maps (H, W): share of cases that missed the pixel, and
            share of cases whose target holds it. All are cropped to the same frame.
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
