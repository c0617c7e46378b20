"""One attack as one picture, in a twentieth of a second: a slider must feel instant."""

import io
from collections.abc import Iterable
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from PIL import Image
from skimage.measure import regionprops

from helpers.labels import OUTSIDE
from helpers.plots import COLOURS, show_contours, show_image, show_noise

SIDE = 420  # of the radiograph, and of the noise on its right [pixels]
TOP = 25  # for titles above them [pixels]
DPI = 100


def draw(
    image: np.ndarray,
    noise: np.ndarray,
    labels: np.ndarray,
    reference: np.ndarray,
    *,
    classes: Iterable[int],
    limit: float,
    window: tuple[float, float] = (-1, 1),
    lines: Iterable[np.ndarray] = (),
) -> Figure:
    """A radiograph with numbered outlines in colour and dashed white ones, and its noise.

    Args:
        image: (H, W) [−1, 1].
        noise: (H, W) in the same units.
        labels: label map (H, W), outlined in colour with the number of each class.
        reference: label map (H, W), such as the target, outlined dashed and white; where it has
            padding, labels are not drawn.
        classes: those of `reference` to outline.
        limit: noise of the darkest colour, red above zero and blue below.
        window: the intensities that are black and white.
        lines: (K, 2) of x and y, such as calipers, drawn in yellow [pixels of the image].
    """
    width, height = 2 * SIDE + 10, SIDE + TOP
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.set_layout_engine("none")
    share = SIDE / width, SIDE / height
    left = figure.add_axes((0, 0, *share))
    right = figure.add_axes((1 - share[0], 0, *share))
    show_contours(left, np.where(np.isin(reference, [*classes]), reference, 0), reference=True)
    plt.setp(left.collections, edgecolor="white", linestyle="dashed", linewidth=1.8, zorder=4)
    seen = np.where(reference == OUTSIDE, 0, labels)
    show_image(left, image, seen, window=window)
    show_noise(right, noise, epsilon=limit)
    left.set_axis_off()
    right.set_axis_off()
    behind = {"facecolor": "black", "alpha": 0.5, "pad": 1, "linewidth": 0}
    for region in regionprops(seen):
        y, x = region.centroid
        left.text(x, y, str(region.label), color="white", ha="center", va="center", bbox=behind)
    for line in lines:
        left.plot(*np.transpose(line), color="yellow", linewidth=1.5, marker=".", zorder=5)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    file = io.BytesIO()
    figure.savefig(file)
    return file.getvalue()


def small_png(figure: Figure) -> bytes:
    """Likewise, cropped and in few colours, to be kept in a notebook."""
    whole, file = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, bbox_inches="tight")
    palette = Image.new("P", (1, 1))
    palette.putpalette(_few_colours())
    few = Image.open(whole).convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
    few.save(file, "PNG", optimize=True)
    return file.getvalue()


@cache
def _few_colours():
    """Bytes of a palette: greys, colours of the noise, and of lines, sharp or blurred over grey."""
    greys = np.linspace((0, 0, 0), (1, 1, 1), 100)
    noise = plt.get_cmap("RdBu_r")(np.linspace(0, 1, 80))[:, :3]
    lines = to_rgba_array([*COLOURS, "yellow"])[:, None, :3]
    blurred = [share * lines + (1 - share) * greys[[20, 50, 80]] for share in (0.4, 0.7)]
    each = [greys, noise, *lines.reshape(1, -1, 3), *np.reshape(blurred, (1, -1, 3))]
    return (255 * np.concatenate(each)).round().astype(np.uint8).tobytes()


def score_text(score: float) -> str:
    """IoU × 100 with one decimal, or "none" where there is nothing to compare."""
    return "none" if np.isnan(score) else f"{score:.1f}"
