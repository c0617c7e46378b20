"""Pictures of one attack in milliseconds, as PNG bytes from arrays: for sliders that must feel instant."""

import io
from pathlib import Path

import contourpy
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from helpers.common.files import atomic_write
from helpers.evaluation import display_window
from helpers.plots import COLOURS

SIDE = 420  # of a picture [pixels]
FINER = 2  # times larger while lines are drawn, for smooth edges
DASH, GAP = 12, 9  # of the reference's outline [pixels of the larger picture]


def radiograph(
    image,
    labels,
    reference,
    *,
    window=(0.0, 2.0),
    classes,
    reference_classes,
    corners=(),
    side=SIDE,
):
    """A radiograph with the outlines of a label map, numbered and in the structures' colours, and dashed white ones.

    Args:
        image: (H, W) [−1, 1].
        labels: label map (H, W), outlined in colour; each outline bears the number of its class.
        reference: label map (H, W), such as the target, outlined dashed and white.
        window: centre and width of the display window [units of the images].
        classes, reference_classes: the classes to outline.
        corners: (x, y) of a polygon that is being drawn [pixels of the picture].
        side: of the picture [pixels].

    Returns:
        PIL image, RGB, (side, side).
    """
    low, high = display_window(*window)
    grey = (
        ((np.asarray(image, dtype=np.float32) - low) * (255 / (high - low)))
        .clip(0, 255)
        .astype(np.uint8)
    )
    large = (
        Image.fromarray(grey)
        .resize((side * FINER, side * FINER), Image.Resampling.BICUBIC)
        .convert("RGB")
    )
    pen, scale = ImageDraw.Draw(large), side * FINER / grey.shape[1]
    for c in reversed(classes):  # where two meet, the earlier class is seen
        for line in _outlines(labels == c, scale):
            pen.line(line.ravel().tolist(), fill="black", width=7)
            pen.line(line.ravel().tolist(), fill=COLOURS[(c - 1) % len(COLOURS)], width=5)
    for c in reference_classes:
        for line in _outlines(reference == c, scale):
            for dash in _dashes(line):
                pen.line(dash, fill="black", width=6)
                pen.line(dash, fill="white", width=3)
    for c in classes:
        _write_number(pen, labels == c, c, scale)
    drawn = [(x * FINER, y * FINER) for x, y in corners]
    for width, colour in ((9, "black"), (5, "yellow")):
        pen.line(drawn, fill=colour, width=width)
        for corner in drawn:
            pen.circle(corner, width + 3, fill=colour)
    return large.reduce(FINER)


def noise_map(noise, *, limit, side=SIDE):
    """Noise, blue at −limit, white at 0, red at +limit and beyond.

    Args:
        noise: (H, W).
        limit: above 0, in the same units.
        side: of the picture [pixels].

    Returns:
        PIL image with a palette, (side, side).
    """
    index = (np.asarray(noise) * (127 / limit)).clip(-127, 127).round().astype(np.int16) + 127
    picture = Image.fromarray(index.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
    picture.putpalette(_PALETTE)
    return picture


def png(picture):
    """Bytes of a PIL image as PNG, packed fast rather than small."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def sheet(pictures, title, captions, rows, *, foot=""):
    """One picture of everything: pictures side by side between a title and bars of IoU.

    Args:
        pictures: PIL images of one size.
        title: a line of text.
        captions: a line for each picture.
        rows: (name, class number, IoU × 100 or NaN) for each bar.
        foot: last line.

    Returns:
        PIL image, RGB.
    """
    gap, line, side = 10, 24, pictures[0].width
    width = (side + gap) * len(pictures) + gap
    height = gap + line + side + line + line * len(rows) + (line if foot else 0) + gap
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    pen.text((gap, gap), title, fill="black", font=_BIG)
    for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        at = gap + k * (side + gap), gap + line
        page.paste(picture.convert("RGB"), at)
        pen.text((at[0], at[1] + side + 4), caption, fill="black", font=_SMALL)
    top, left, right = gap + line + side + line + 4, gap + 130, width - gap - 60
    for k, (name, number, score) in enumerate(rows):
        y = top + k * line
        pen.text((gap, y), f"{number} {name}", fill="black", font=_SMALL)
        pen.rectangle((left, y + 3, right, y + line - 9), outline="#BBBBBB")
        if np.isfinite(score):
            pen.rectangle(
                (left, y + 3, left + (right - left) * score / 100, y + line - 9),
                fill=COLOURS[(number - 1) % len(COLOURS)],
                outline="black",
            )
        pen.text(
            (right + 8, y), "none" if np.isnan(score) else f"{score:.1f}", fill="black", font=_SMALL
        )
    pen.text((gap, top + len(rows) * line), foot, fill="#444444", font=_SMALL)
    return page


def write_grey(path, image, notes):
    """Write an image (H, W) [−1, 1] as a 16-bit grey PNG: −1 is 0, 1 is 65535, so a pixel moves by at most 1 / 65535.

    Args:
        path: the file.
        image: float (H, W).
        notes: dict of texts for the file's metadata.
    """
    grey = (
        ((np.asarray(image, dtype=np.float64).clip(-1, 1) + 1) * 32767.5).round().astype(np.uint16)
    )
    about = PngInfo()
    for name, text in notes.items():
        about.add_text(name, text)
    with atomic_write(path) as file:
        Image.fromarray(grey).save(file, "PNG", pnginfo=about)


def read_grey(path):
    """The image, float32 (H, W) [−1, 1], of a file that `write_grey` wrote."""
    with Image.open(path, formats=["PNG"]) as picture:
        if not picture.mode.startswith("I"):
            raise ValueError(f"{path} has mode {picture.mode}; give a 16-bit grey PNG")
        return (np.asarray(picture, dtype=np.float64) / 32767.5 - 1).astype(np.float32)


_PALETTE = (
    (matplotlib.colormaps["RdBu_r"](np.linspace(0, 1, 255))[:, :3] * 255)
    .round()
    .astype(np.uint8)
    .tobytes()
)


def _outlines(mask, scale):
    """Outlines of a mask (H, W) as arrays (K, 2) of x, y in a picture `scale` times larger."""
    if not mask.any():
        return []
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    lines = contourpy.contour_generator(z=np.pad(part, 1).astype(np.float32)).lines(0.5)
    return [(line + (columns[0] - 0.5, rows[0] - 0.5)) * scale for line in lines]


def _dashes(line):
    """Polylines [x, y, x, y, …], a dash each."""
    along = np.concatenate([[0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    for start in np.arange(0, along[-1], DASH + GAP):
        at = np.linspace(start, min(start + DASH, along[-1]), 4)
        yield np.stack([np.interp(at, along, axis) for axis in line.T], axis=1).ravel().tolist()


def _write_number(pen, mask, number, scale):
    """Write the number of a class at the mask's centre of mass."""
    if mask.any():
        rows, columns = mask.nonzero()
        at = (columns.mean() + 0.5) * scale, (rows.mean() + 0.5) * scale
        pen.text(
            at,
            str(number),
            fill="white",
            font=_FONT,
            anchor="mm",
            stroke_width=3,
            stroke_fill="black",
        )


_TYPE = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
_FONT, _BIG, _SMALL = (ImageFont.truetype(_TYPE, size) for size in (26, 14, 12))
