"""Shapes from PNG, SVG, polygons or the heart curve, as rasters."""

import base64
import io
import os
import re
from pathlib import Path
from textwrap import shorten
from typing import Any
from xml.etree import ElementTree

import numpy as np
from fontTools.misc.bezierTools import cubicPointAtT
from fontTools.pens.basePen import BasePen
from fontTools.svgLib.path import parse_path
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from scipy.ndimage import find_objects

from helpers.common.arguments import require

FINENESS = 2048  # longest side of a drawn outline [pixels] before it is scaled
MOST_PIXELS = 16_000_000  # of a PNG file; a larger one is refused before it is decoded
PATH_DATA = r"\s*[Mm][-+\d.,\sEeMZLHVCSQTAmzlhvcsqta]*"
MOVES = r"(\s|translate\([^)]*\))*"  # the transforms that leave a shape as it is
PNG_TEXT = "data:image/png;base64,"


def heart_curve() -> np.ndarray:
    """The classic heart: x = 16 sin³t, y = 13 cos t − 5 cos 2t − 2 cos 3t − cos 4t, tip down.

    Returns:
        float64 (360, 2): x to the right, y down.
    """
    t = 2 * np.pi * np.arange(360) / 360
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.column_stack([16 * np.sin(t) ** 3, -y])


def read_shape(shape: Any) -> np.ndarray:
    """Any shape as a raster, trimmed to its bounding box.

    Args:
        shape: one of
            bool array (h, w), True inside;
            polygon, (K, 2) numbers x, y with y down, closed by itself;
            path of a .png: inside is where alpha is at least half, if any pixel is transparent,
                otherwise where the grey value is at least half of white (in an image of 0 and one
                other value: where it is not 0);
            path of an .svg with one <path>, of which nothing but the path data is read;
            SVG path data, such as "M0 0 H9 V9 Z", every part closed;
            text of a .png file: "data:image/png;base64,…", see `png_text`.
            Outlines are filled by the even-odd rule: a part inside a part is a hole.

    Returns:
        bool (h, w).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a shape, a file that cannot be read, an open path, or no area inside.
    """
    try:
        raster = _raster(shape)
        window = find_objects(raster.astype(np.uint8))
        if not window:
            raise ValueError("it is empty: no area lies inside it; draw one that has an area")
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, LookupError, ArithmeticError, ValueError) as error:
        given = "PNG" if str(shape).startswith(PNG_TEXT) else shape
        name, reason = (shorten(str(text), 200, placeholder=" …") for text in (given, error))
        raise ValueError(f"shape {name}: {reason}") from None
    return raster[window[0]]


def png_text(raster: np.ndarray) -> str:
    """A shape as text that `read_shape` reads: a PNG of black and white.

    Args:
        raster: bool (h, w); one with a side of more than 512 pixels is made smaller.
    """
    picture = Image.fromarray(raster.astype(np.uint8) * 255)
    picture.thumbnail((512, 512), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.convert("1", dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return PNG_TEXT + base64.b64encode(file.getvalue()).decode()


def _raster(shape):
    text = str(shape) if isinstance(shape, str | os.PathLike) else ""
    suffix = Path(text).suffix.lower()
    if text.startswith(PNG_TEXT):
        return _read_png(base64.b64decode(text.removeprefix(PNG_TEXT), validate=True))
    if suffix == ".png":
        return _read_png(Path(text).read_bytes())
    if suffix == ".svg":
        return _draw(_read_svg(text))
    if re.fullmatch(PATH_DATA, text):
        return _draw(text)
    array = np.asarray(shape)
    if array.dtype == bool and array.ndim == 2:
        return array
    if array.dtype.kind in "iuf" and array.shape[1:] == (2,) and len(array) > 2:
        return _fill([array.astype(float)])
    raise ValueError(
        f"{array.dtype} {array.shape} is no shape; give a bool array (h, w), a polygon (K, 2) of "
        "numbers, a .png, an .svg or SVG path data"
    )


def _fill(outlines):
    """Raster of closed outlines, a list of (K, 2) x, y: even-odd, exact at each pixel's centre.

    `skimage.draw.polygon2mask` takes seconds for it and differs where an edge meets a centre.
    """
    starts = np.concatenate(outlines)
    if not np.isfinite(starts).all():
        raise ValueError("a corner is not finite; give numbers")
    ends = np.concatenate([np.roll(outline, -1, axis=0) for outline in outlines])
    low = starts.min(axis=0)
    span = starts.max(axis=0) - low
    scale = (FINENESS - 1) / (span.max() or 1)
    width, height = np.ceil(span * scale).astype(int) + 1
    x0, y0 = ((starts - low) * scale).T
    x1, y1 = ((ends - low) * scale).T
    centres = np.arange(height)[:, None]
    rows, edge = ((y0 <= centres) != (y1 <= centres)).nonzero()
    x = x0[edge] + (rows - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    columns = np.ceil(x - 1e-6).astype(int).clip(0, width)
    crossings = np.zeros((height, width + 1), dtype=bool)
    np.logical_xor.at(crossings, (rows, columns), True)
    return np.logical_xor.accumulate(crossings, axis=1)[:, :width]


class _Outlines(BasePen):
    """Collects the parts of a path as closed polygons."""

    def __init__(self):
        super().__init__()
        self.parts = []

    def _moveTo(self, point):
        self.parts.append([point])

    def _lineTo(self, point):
        self.parts[-1].append(point)

    def _curveToOne(self, first, second, end):
        start = self._getCurrentPoint()
        for step in range(1, 33):
            self._lineTo(cubicPointAtT(start, first, second, end, step / 32))

    def _endPath(self):
        start, *_, end = self.parts[-1]
        closed = np.allclose(start, end, rtol=1e-6)
        require(closed, "end of a part", end, f"it is not closed: end what starts at {start} by Z")


def _draw(data):
    """Raster of SVG path data."""
    pen = _Outlines()
    parse_path(" ".join(data.split()), pen)
    return _fill(pen.parts)


def _read_svg(path):
    root = ElementTree.parse(path).getroot()
    found = root.findall(".//{*}path[@d!='']")
    require(len(found) == 1, "number of <path d=…> elements", len(found), "give a file with one")
    for element in root.iter():
        transform = element.get("transform", "")
        kept = found[0] not in element.iter() or re.fullmatch(MOVES, transform)
        require(kept, "transform", transform, "it would be lost: apply it to the path first")
    return found[0].get("d")


def _read_png(content):
    image = PngImageFile(io.BytesIO(content))  # the header; pixels are decoded later
    size = image.width * image.height
    require(size <= MOST_PIXELS, "number of pixels", size, f"make it {MOST_PIXELS:,} at most")
    return _inside(image)


def _inside(image):
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            return alpha >= 128
    deep = image.mode.startswith("I")  # 16 bits
    grey = np.asarray(image if deep else image.convert("L"))
    if grey.min() == 0 and len(np.unique(grey)) <= 2:
        return grey > 0
    return grey >= (32768 if deep else 128)
