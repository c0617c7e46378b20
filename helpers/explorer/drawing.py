"""Pictures of one attack in milliseconds, as PNG bytes: for sliders that must feel instant."""

import io
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import find_contours, regionprops

from helpers.evaluation import display_window
from helpers.labels import OUTSIDE
from helpers.plots import COLOURS

SIDE = 420  # of a picture [pixels]
FINER = 2  # times larger while lines are drawn, for smooth edges
DASH = 12  # of the reference's outline [pixels of the larger picture]

_COLOUR_MAP = matplotlib.colormaps["RdBu_r"]
_FONT = ImageFont.load_default(26)


def radiograph(
    image: np.ndarray,
    labels: np.ndarray,
    reference: np.ndarray,
    *,
    classes: Iterable[int],
    window: tuple[float, float] = (0.0, 2.0),
    corners: Sequence[tuple[float, float]] = (),
    widths: Iterable[np.ndarray] = (),
) -> Image.Image:
    """A radiograph with numbered outlines in the structures' colours, and dashed white ones.

    Args:
        image: (H, W) [−1, 1].
        labels: label map (H, W), outlined in colour with the number of each class.
        reference: label map (H, W), such as the target, outlined dashed and white; where it has
            padding, labels are not drawn.
        classes: those of `reference` to outline.
        window: centre and width of the display window [units of the images].
        corners: (x, y) of a polygon that is being drawn [pixels of the picture].
        widths: lines (K, 2) of x and y, such as calipers, drawn in yellow [pixels of the image].

    Returns:
        RGB, (SIDE, SIDE).
    """
    labels = np.where(reference == OUTSIDE, 0, labels)
    low, high = display_window(*window)
    grey = ((image - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    side = SIDE * FINER
    large = Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC).convert("RGB")
    pen = ImageDraw.Draw(large)
    scale = side / len(grey)
    for c in range(labels.max(), 0, -1):  # where two meet, the earlier class is seen
        for line in _outlines(labels == c, scale):
            _stroke(pen, line, colour_of(c), 5)
    dash = max(1, round(DASH / scale))  # corners of the outline, which are about a pixel apart
    for c in classes:
        for line in _outlines(reference == c, scale):
            for start in range(0, len(line), 2 * dash):
                _stroke(pen, line[start : start + dash + 1], "white", 3)
    for region in regionprops(labels):
        y, x = (np.array(region.centroid) + 0.5) * scale
        number = str(region.label)
        pen.text((x, y), number, "white", _FONT, "mm", stroke_width=3, stroke_fill="black")
    for line in widths:
        _stroke(pen, (line + 0.5) * scale, "yellow", 4)
    drawn = np.multiply(corners, FINER)
    pen.line(drawn.ravel().tolist(), fill="yellow", width=5)
    for corner in drawn:
        pen.circle(corner, 8, fill="yellow", outline="black")
    return large.reduce(FINER)


def noise_map(noise: np.ndarray, *, limit: float) -> Image.Image:
    """Noise, blue at −limit, white at 0, red at +limit and beyond.

    Args:
        noise: (H, W).
        limit: above 0, in the same units.

    Returns:
        RGB, (SIDE, SIDE).
    """
    colours = _COLOUR_MAP(noise / (2 * limit) + 0.5, bytes=True)
    picture = Image.fromarray(colours).convert("RGB")
    return picture.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def png(picture: Image.Image, compress_level: int = 1) -> bytes:
    """A picture as PNG: by default packed fast, with compress_level=9 small."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=compress_level)
    return file.getvalue()


def colour_of(number: int) -> str:
    """The colour of a class of this number."""
    return COLOURS[(number - 1) % len(COLOURS)]


def numbered(structures: Iterable[str]) -> list[str]:
    """Names of classes 1 … with their numbers."""
    return [f"{number} {name}" for number, name in enumerate(structures, start=1)]


def sheet(
    pictures: Sequence[Image.Image],
    title: str,
    captions: Sequence[str],
    scores: pd.Series,
    *,
    foot: str,
) -> Image.Image:
    """Pictures side by side, between a title and bars of IoU.

    Args:
        pictures: two of one size.
        title: a line of text.
        captions: a line for each picture.
        scores: IoU × 100, or NaN, of each structure, in the order of their classes.
        foot: the line below the bars.

    Returns:
        RGB.
    """
    figure = Figure(figsize=(8.7, 6.3), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplot_mosaic("AB;CC", height_ratios=(3, 1))
    for ax, picture, caption in zip(axes.values(), pictures, captions, strict=False):
        ax.imshow(picture)
        ax.set_title(caption, fontsize=8)
        ax.set_axis_off()
    ax = axes["C"]
    bars = ax.barh(numbered(scores.index), scores.fillna(0), color=COLOURS, edgecolor="black")
    ax.bar_label(bars, scores.map(score_text), padding=4)
    ax.set(xlim=(0, 106), xticks=[], xlabel=foot)
    ax.spines[:].set_visible(False)
    ax.invert_yaxis()
    file = io.BytesIO()
    figure.savefig(file, dpi=76)
    return Image.open(file).convert("RGB")


def score_text(score: float) -> str:
    """IoU × 100 with one decimal, or "none" where there is nothing to compare."""
    return "none" if np.isnan(score) else f"{score:.1f}"


def _stroke(pen, line, colour, width):
    """Draw a line (K, 2) with a black rim."""
    points = line.ravel().tolist()
    pen.line(points, fill="black", width=width + 2)
    pen.line(points, fill=colour, width=width)


def _outlines(mask, scale):
    """Outlines of a mask (H, W) as arrays (K, 2) of x, y in a picture `scale` times larger."""
    lines = find_contours(np.pad(mask, 1), 0.5)
    return [(line[:, ::-1] - 0.5) * scale for line in lines]
