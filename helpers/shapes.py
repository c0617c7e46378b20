"""Shapes from PNG, SVG, polygons or the heart curve, as rasters."""

import base64
import io
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from fontTools.pens.basePen import BasePen
from fontTools.svgLib.path import parse_path
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import find_objects

FINENESS = 2048  # longest side of a drawn outline [pixels] before it is scaled


MOST_PIXELS = 16_000_000  # of a PNG file; a larger one is refused before it is decoded


PATH_DATA = r"\s*[Mm][-+\d.,\sEeMZLHVCSQTAmzlhvcsqta]*"


PNG_TEXT = "data:image/png;base64,"


def heart_curve(points=360):
    """The classic heart: x = 16 sin³t, y = 13 cos t − 5 cos 2t − 2 cos 3t − cos 4t, tip down.

    Args:
        points: number of corners.

    Returns:
        float64 (points, 2): x to the right, y down.
    """
    t = 2 * np.pi * np.arange(points) / points
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def read_shape(shape):
    """Any shape as a raster, trimmed to its bounding box.

    Args:
        shape: one of
            bool array (h, w), True inside;
            polygon, (K, 2) numbers x, y with y down, closed by itself;
            path of a .png: inside is where alpha is at least half, if any pixel is transparent, otherwise where the
                grey value is at least half of white (in an image of 0 and one other value: where it is not 0);
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
        suffix = Path(shape).suffix.lower()
        if str(shape).startswith(PNG_TEXT):
            raster = _read_png("the PNG", _from_base64(str(shape)))
        elif suffix == ".png":
            raster = _read_png(shape, Path(shape).read_bytes())
        elif suffix == ".svg" or re.fullmatch(PATH_DATA, str(shape)):
            raster = _fill(_outlines(_read_svg(shape) if suffix == ".svg" else shape))
        else:
            raise ValueError(
                f"shape {str(shape)!r} is unknown; give an array, a .png, an .svg or SVG path data"
            )
    else:
        array = np.asarray(shape)
        if array.dtype == bool and array.ndim == 2:
            raster = array
        elif (
            array.dtype.kind in "iuf"
            and array.shape[1:] == (2,)
            and len(array) > 2
            and np.isfinite(array).all()
        ):
            raster = _fill([array.astype(float)])
        else:
            raise ValueError(
                f"the shape is {array.dtype} {array.shape}; give a bool array (h, w) or a polygon (K, 2) of numbers"
            )
    if not raster.any():
        name = f"{str(shape)[:40]!r} " if isinstance(shape, str | os.PathLike) else ""
        raise ValueError(
            f"the shape {name}is empty: no area lies inside it; draw one that has an area"
        )
    return raster[find_objects(raster.astype(np.uint8))[0]]


def png_text(raster, *, most=512):
    """A shape as text that `read_shape` reads: a PNG of black and white.

    Args:
        raster: bool (h, w).
        most: longest side [pixels]; larger rasters are made smaller.
    """
    picture = Image.fromarray(np.asarray(raster, dtype=np.uint8) * 255)
    picture.thumbnail((most, most), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.point(lambda grey: 255 * (grey >= 128)).convert("1").save(file, "PNG", optimize=True)
    return PNG_TEXT + base64.b64encode(file.getvalue()).decode()


def _fill(outlines):
    """Raster of closed outlines, a list of (K, 2) x, y, by the even-odd rule, exact at the centre of each pixel."""
    low = np.concatenate(outlines).min(axis=0)
    span = np.concatenate(outlines).max(axis=0) - low
    scale = (FINENESS - 1) / (span.max() or 1)
    width, height = np.ceil(span * scale).astype(int) + 1
    edges = [np.stack([outline, np.roll(outline, -1, axis=0)], axis=1) for outline in outlines]
    (x0, y0), (x1, y1) = ((np.concatenate(edges) - low) * scale).transpose(1, 2, 0)
    rows, edge = (
        (y0 <= np.arange(height)[:, None]) != (y1 <= np.arange(height)[:, None])
    ).nonzero()
    x = x0[edge] + (rows - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    crossings = np.zeros((height, width + 1), dtype=np.int32)
    np.add.at(crossings, (rows, np.ceil(x - 1e-6).astype(int).clip(0, width)), 1)
    return crossings.cumsum(axis=1)[:, :width] % 2 == 1


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
        t = np.linspace(0, 1, 33)[1:, None]
        start, first, second, end = map(np.array, (self._getCurrentPoint(), first, second, end))
        curve = (
            (1 - t) ** 3 * start
            + 3 * (1 - t) ** 2 * t * first
            + 3 * (1 - t) * t**2 * second
            + t**3 * end
        )
        self.parts[-1].extend(map(tuple, curve))

    def _endPath(self):
        start, end = self.parts[-1][0], self.parts[-1][-1]
        if not np.allclose(start, end, rtol=1e-6):
            raise ValueError(
                f"it is not closed: a part that starts at {start} ends at {end}; end each part with Z"
            )


def _outlines(data):
    pen = _Outlines()
    try:
        parse_path(" ".join(data.split()), pen)
        outlines = [np.array(part, dtype=float) for part in pen.parts]
        if not outlines or not all(np.isfinite(outline).all() for outline in outlines):
            raise ValueError("it holds no finite outline")
    except (ValueError, IndexError, ArithmeticError) as error:
        shown = data if len(data) <= 40 else data[:40] + "…"
        raise ValueError(f"SVG path {shown!r}: {' '.join(str(error).split())}") from None
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
        return base64.b64decode(text.removeprefix(PNG_TEXT), validate=True)
    except ValueError as error:
        raise ValueError(f"the PNG is not base64 ({error})") from None


def _read_png(name, content):
    """Raster of a PNG file's bytes; `name` is for messages."""
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    if content[:8] == b"\x89PNG\r\n\x1a\n" and width * height > MOST_PIXELS:
        raise ValueError(
            f"{name}: {width} × {height} pixels are too many; make it {MOST_PIXELS:,} at most"
        )
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.has_transparency_data:
                alpha = np.asarray(image.convert("RGBA"))[..., 3]
                if alpha.min() < 255:
                    return alpha >= 128
            grey = np.asarray(image if image.mode.startswith("I") else image.convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        why = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{name}: not a PNG file that can be read ({why})") from None
    if grey.min() == 0 and len(np.unique(grey)) <= 2:
        return grey > 0
    return grey >= (32768 if grey.itemsize > 1 else 128)
