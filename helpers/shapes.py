"""Shapes from PNG, SVG, polygons or the heart curve, as rasters."""

import base64
import io
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from fontTools.misc.bezierTools import cubicPointAtT
from fontTools.pens.basePen import BasePen
from fontTools.svgLib.path import parse_path
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from scipy.ndimage import find_objects

FINENESS = 2048  # longest side of a drawn outline [pixels] before it is scaled
MOST_PIXELS = 16_000_000  # of a PNG file; a larger one is refused before it is decoded
PATH_DATA = r"\s*[Mm][-+\d.,\sEeMZLHVCSQTAmzlhvcsqta]*"
PNG_TEXT = "data:image/png;base64,"


def heart_curve(points: int = 360) -> np.ndarray:
    """The classic heart: x = 16 sin³t, y = 13 cos t − 5 cos 2t − 2 cos 3t − cos 4t, tip down.

    Args:
        points: number of corners.

    Returns:
        float64 (points, 2): x to the right, y down.
    """
    t = 2 * np.pi * np.arange(points) / points
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


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
    if isinstance(shape, str | os.PathLike):
        name = f"{str(shape)[:40]!r} "
        raster = _from_text(str(shape))
    else:
        name = ""
        raster = _from_array(np.asarray(shape))
    if not raster.any():
        raise ValueError(
            f"the shape {name}is empty: no area lies inside it; draw one that has an area"
        )
    return raster[find_objects(raster.astype(np.uint8))[0]]


def png_text(raster: np.ndarray, *, most: int = 512) -> str:
    """A shape as text that `read_shape` reads: a PNG of black and white.

    Args:
        raster: bool (h, w).
        most: longest side [pixels]; larger rasters are made smaller.
    """
    picture = Image.fromarray(np.asarray(raster, dtype=np.uint8) * 255)
    picture.thumbnail((most, most), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.convert("1", dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return PNG_TEXT + base64.b64encode(file.getvalue()).decode()


def _from_array(array):
    if array.dtype == bool and array.ndim == 2:
        return array
    numeric = array.dtype.kind in "iuf" and np.isfinite(array).all()
    if numeric and array.shape[1:] == (2,) and len(array) > 2:
        return _fill([array.astype(float)])
    raise ValueError(
        f"the shape is {array.dtype} {array.shape}; "
        "give a bool array (h, w) or a polygon (K, 2) of numbers"
    )


def _from_text(text):
    suffix = Path(text).suffix.lower()
    if text.startswith(PNG_TEXT):
        return _read_png("the PNG", _from_base64(text.removeprefix(PNG_TEXT)))
    if suffix == ".png":
        return _read_png(text, Path(text).read_bytes())
    if suffix == ".svg":
        return _fill(_outlines(_read_svg(text)))
    if re.fullmatch(PATH_DATA, text):
        return _fill(_outlines(text))
    raise ValueError(f"shape {text!r} is unknown; give an array, a .png, an .svg or SVG path data")


def _fill(outlines):
    """Raster of closed outlines, a list of (K, 2) x, y: even-odd, exact at each pixel's centre.

    `skimage.draw.polygon2mask` takes seconds for it and differs where an edge meets a centre.
    """
    starts = np.concatenate(outlines)
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
        if not np.allclose(start, end, rtol=1e-6):
            raise ValueError(
                f"it is not closed: a part that starts at {start} ends at {end}; "
                "end each part with Z"
            )


def _outlines(data):
    """The parts of SVG path data, (K, 2) each."""
    pen = _Outlines()
    try:
        parse_path(" ".join(data.split()), pen)
        outlines = [np.array(part, dtype=float) for part in pen.parts]
        if not outlines or not np.isfinite(np.concatenate(outlines)).all():
            raise ValueError("it holds no finite outline")
    except (ValueError, IndexError, ArithmeticError) as error:
        raise ValueError(f"SVG path {data[:40]!r}: {' '.join(str(error).split())}") from None
    return outlines


def _read_svg(path):
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: not an SVG file ({error})") from None
    found = root.findall(".//{*}path")
    if len(found) != 1:
        raise ValueError(f"{path}: found {len(found)} <path> elements; give a file with one")
    for element in root.iter():
        transform = element.get("transform", "")
        if found[0] in element.iter() and re.sub(r"translate\([^)]*\)", "", transform).strip():
            raise ValueError(
                f"{path}: transform {transform!r} would be lost; apply it to the path first"
            )
    return found[0].get("d", "")


def _from_base64(text):
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"the PNG is not base64 ({error})") from None


def _read_png(name, content):
    """Raster of a PNG file's bytes; `name` is for messages."""
    try:
        image = PngImageFile(io.BytesIO(content))  # the header; pixels are decoded later
        if image.width * image.height <= MOST_PIXELS:
            return _inside(image)
    except (OSError, SyntaxError, ValueError) as error:
        why = "unknown format" if isinstance(error, SyntaxError) else error
        raise ValueError(f"{name}: not a PNG file that can be read ({why})") from None
    raise ValueError(
        f"{name}: {image.width} × {image.height} pixels are too many; "
        f"make it {MOST_PIXELS:,} at most"
    )


def _inside(image):
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            return alpha >= 128
    grey = np.asarray(image if image.mode.startswith("I") else image.convert("L"))
    if grey.min() == 0 and len(np.unique(grey)) <= 2:
        return grey > 0
    return grey >= (32768 if grey.itemsize > 1 else 128)
