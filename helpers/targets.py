"""Target label maps (heart symbol, resized structure, any shape) and the regions that noise may be restricted to."""

import base64
import io
import math
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from fontTools.pens.basePen import BasePen
from fontTools.svgLib.path import parse_path
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import find_objects
from torch.nn.functional import max_pool2d

from helpers.network import receptive_field

SMALL, LARGE = 0.34, 2.25  # area of the paper's heart symbols / area of the heart
FINENESS = 2048  # longest side of a drawn outline [pixels] before it is scaled
LARGEST = 64  # a shape may span so many times the image's pixels
MOST_PIXELS = 16_000_000  # of a PNG file; a larger one is refused before it is decoded
PATH_DATA = r"\s*[Mm][-+\d.,\sEeMZLHVCSQTAmzlhvcsqta]*"
PNG_TEXT = "data:image/png;base64,"


@dataclass(frozen=True)
class Target:
    """Label maps to bend a segmentation to.

    Attributes:
        labels: int64 (N, H, W), every pixel with one class.
        shapes: bool (N, H, W), the shape as drawn; parts of it may lie beneath other structures.
        cut: float32 (N,), share of the shape's area that the border of the image cuts off [percent].
    """

    labels: torch.Tensor
    shapes: torch.Tensor
    cut: torch.Tensor


def heart_symbol(labels, structure, structures, *, area_ratio=SMALL, **options):
    """Targets in which a heart symbol stands where a structure was: `place_shape` with the `heart_curve`.

    Args:
        labels, structure, structures, area_ratio, **options: see `place_shape`.

    Returns:
        Target.

    Source: paper, section 3.2 and Tables 2 and 3, whose overlaps with the true heart fix SMALL and LARGE.
    """
    return place_shape(labels, structure, structures, heart_curve(), area_ratio=area_ratio, **options)


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


def place_shape(labels, structure, structures, shape, *, area_ratio=1.0, shift=(0, 0), **options):
    """Targets in which a shape, upright and centre of mass on centre of mass, takes the place of a structure.

    The structure's other pixels become background. Where the shape meets other structures, the earlier class wins.
    What leaves the image is cut off. No label maps give an empty target.

    Args:
        labels: int64 (N, H, W), classes 1 … K in the order of `structures`.
        structure: the name of the one to replace.
        structures: the K names.
        shape: see `read_shape`.
        area_ratio: area of the shape / area of the structure in the same image.
        shift: pixels to the right and down to move the shape from the centre of mass.
        ids: the N names of the cases for error messages; default their numbers from 0.
        others: label maps (N, H, W) to take the other structures from, such as the network's clean predictions;
            default `labels`.
        on_top: draw the shape over all other structures.

    Returns:
        Target.

    Raises:
        ValueError: labels, names, shape or numbers are not sensible, a case lacks the structure, or its target would
            have no pixel of it. The message names the value or the case.

    Source: paper, section 3: the target stands at the centre of mass of the true structure.
    """
    raster = read_shape(shape)
    middle, integral = _sums(raster.tobytes(), raster.shape)
    if not (isinstance(area_ratio, Real) and 0 < area_ratio < math.inf):
        raise ValueError(f"area_ratio is {area_ratio!r}; it must be above 0: the shape's area / the structure's area")
    if np.shape(shift) != (2,) or not (np.abs(shift) < 1e6).all():
        raise ValueError(f"shift is {shift}; give pixels to the right and down, such as (0, 0)")

    def draw(own):
        centre = np.add(_centre(own), shift[::-1])
        return _with_area(integral, middle, centre, area=area_ratio * own.sum(), limit=LARGEST * own.size)

    return _replace(labels, structure, structures, draw, **options)


def resize_structure(labels, structure, structures, *, factor, **options):
    """Targets in which a structure is zoomed about its centre of mass; nearest neighbour, freed pixels background.

    Args:
        labels, structure, structures, **options: see `place_shape`; `ids`, `others` and `on_top` are possible.
        factor: new length / old length; 1 gives back `labels`.

    Returns:
        Target.

    Raises:
        ValueError: as `place_shape`.

    Source: paper, section 3.3; the factor is a length, since lungs at 1.8 reach the corners of the image.
    """
    if not (isinstance(factor, Real) and 0 < factor < math.inf):
        raise ValueError(f"factor is {factor!r}; it must be above 0: new length / old length")

    def draw(own):
        return _zoom(own, _centre(own), _centre(own), scale=factor, limit=LARGEST * own.size)

    return _replace(labels, structure, structures, draw, **options)


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
            raise ValueError(f"shape {str(shape)!r} is unknown; give an array, a .png, an .svg or SVG path data")
    else:
        array = np.asarray(shape)
        if array.dtype == bool and array.ndim == 2:
            raster = array
        elif array.dtype.kind in "iuf" and array.shape[1:] == (2,) and len(array) > 2 and np.isfinite(array).all():
            raster = _fill([array.astype(float)])
        else:
            raise ValueError(
                f"the shape is {array.dtype} {array.shape}; give a bool array (h, w) or a polygon (K, 2) of numbers"
            )
    if not raster.any():
        name = f"{str(shape)[:40]!r} " if isinstance(shape, str | os.PathLike) else ""
        raise ValueError(f"the shape {name}is empty: no area lies inside it; draw one that has an area")
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


# Regions: where noise is allowed. A mask of one's own, bool (N, H, W), is a region as it is.


def everywhere(masks):
    """The whole image, as bool (N, H, W) like `masks`."""
    return torch.ones_like(masks, dtype=torch.bool)


def bounding_box(masks, *, margin=0, ids=None):
    """The bounding box of each mask.

    Args:
        masks: bool (N, H, W).
        margin: pixels to add on each side.
        ids: the N names of the cases for error messages.

    Returns:
        bool (N, H, W).

    Raises:
        ValueError: `masks` are not bool (N, H, W), one is empty, or the margin is not a whole number of 0 or more.

    Source: paper, Figure 2, "Heart BBox".
    """
    if not (0 <= margin < math.inf and int(margin) == margin):
        raise ValueError(f"margin is {margin}; give a whole number of pixels, 0 or more")
    boxes, margin = torch.zeros_like(_check_masks(masks, ids)), int(margin)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        top, left = max(0, rows.min() - margin), max(0, columns.min() - margin)
        box[top : rows.max() + margin + 1, left : columns.max() + margin + 1] = True
    return boxes


def around(masks, *, depth, ids=None):
    """What a `UNet` sees from the pixels of each mask: the mask grown by half the receptive field on every side.

    Every network of this depth sees that far on all sides; according to a pixel's place in the grid of strides, it sees
    up to 2**depth − 1 pixels further on some (see `network.receptive_field`).

    Args:
        masks: bool (N, H, W).
        depth: of the U-Net.
        ids: the N names of the cases for error messages.

    Returns:
        bool (N, H, W).

    Raises:
        ValueError: `masks` are not bool (N, H, W), one is empty, or the depth is not a whole number of 1 or more.

    Source: paper, Figure 2, "Receptive Field".
    """
    if type(depth) is not int or depth < 1:
        raise ValueError(f"depth is {depth!r}; give the number of downsamplings of the U-Net, 1 or more")
    radius = receptive_field(depth) // 2
    grown = _check_masks(masks, ids)[:, None].float()
    grown = max_pool2d(grown, (2 * radius + 1, 1), stride=1, padding=(radius, 0))
    grown = max_pool2d(grown, (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return grown[:, 0].bool()


# Rasters


def _replace(labels, structure, structures, draw, *, ids=None, others=None, on_top=False):
    """Target in which `draw(own mask)` → (raster, its top left corner) takes the place of a structure in each case."""
    number, ids, others = _check(labels, structure, structures, ids, others)
    shapes, cut = np.zeros(labels.shape, dtype=bool), np.zeros(len(labels), dtype=np.float32)
    for index, own in enumerate((labels == number).cpu().numpy()):
        if not own.any():
            raise ValueError(f"case {ids[index]} has no pixel of {structure!r}; leave the case out")
        try:
            raster, (top, left) = draw(own)
            inside = raster[max(0, -top) : max(0, len(own) - top), max(0, -left) : max(0, own.shape[1] - left)]
            if not inside.any():
                where = "lies wholly outside the image; move it back" if raster.any() else "has no pixel at this size"
                raise ValueError(f"the shape {where}")
        except ValueError as error:
            raise ValueError(f"case {ids[index]}, {structure!r}: {error}") from None
        top, left = max(0, top), max(0, left)
        shapes[index, top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        cut[index] = 100 * (1 - inside.sum() / raster.sum())
    shapes = torch.from_numpy(shapes).to(labels.device)
    rest = torch.where(others == number, 0, others)
    visible = shapes if on_top else shapes & ((rest == 0) | (rest > number))
    for index in (~visible.flatten(1).any(dim=1)).nonzero().flatten().tolist():
        where = "lies wholly beneath other structures; move it, or draw it with on_top=True"
        raise ValueError(f"case {ids[index]}, {structure!r}: the shape {where}")
    return Target(torch.where(visible, number, rest), shapes, torch.from_numpy(cut))


def _centre(raster):
    """Centre of mass (row, column)."""
    return [raster.sum(axis=1 - axis) @ np.arange(length) / raster.sum() for axis, length in enumerate(raster.shape)]


@lru_cache(maxsize=2)
def _sums(content, size):
    """Centre of mass of a raster, and the area above and left of each of its pixels' corners: int64 (h + 1, w + 1)."""
    raster = np.frombuffer(content, dtype=bool).reshape(size)
    return _centre(raster), np.pad(raster, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)


def _zoom(raster, middle, centre, *, scale, limit):
    """The raster scaled, its point `middle` on `centre` (row, column), and the top left corner; nearest neighbour."""
    picks, corner = [], []
    for first, edges, length in _edges(raster.shape, middle, centre, scale, limit):
        source = np.floor(edges[:-1] + 0.5 / scale)  # the centre of each new pixel
        inside = (source >= 0) & (source < length)
        picks.append(source[inside].astype(int))
        corner.append(first + int(inside.argmax()))
    return raster[np.ix_(*picks)], corner


def _with_area(integral, middle, centre, *, area, limit):
    """As `_zoom`, but to an area [pixels]: of the pixels, so many are taken as it asks, those most covered first.

    Args:
        integral: (h + 1, w + 1), area of the shape above and left of each pixel corner.
    """
    scale, corner, covered = math.sqrt(area / integral[-1, -1]), [], integral
    shape = [length - 1 for length in integral.shape]
    for axis, (first, edges, length) in enumerate(_edges(shape, middle, centre, scale, limit)):
        edges = edges.clip(0, length)
        low = np.minimum(edges.astype(int), length - 1)
        covered = np.moveaxis(covered, axis, -1)
        covered = covered[..., low] + (covered[..., low + 1] - covered[..., low]) * (edges - low)
        covered = np.moveaxis(np.diff(covered), -1, axis)
        corner.append(first)
    most = np.argsort(-(covered * scale**2).round(6), axis=None, kind="stable")[: round(area)]
    raster = np.zeros(covered.shape, dtype=bool)
    raster.flat[most] = True
    return raster, corner


def _edges(shape, middle, centre, scale, limit):
    """For both axes: the first new pixel, the edges of the new pixels in old ones (0 … length), and the old length."""
    height, width = (length * scale for length in shape)
    if height * width > limit:
        raise ValueError(f"the shape would span {height:.3g} × {width:.3g} pixels; make it smaller")
    for here, there, length in zip(middle, centre, shape, strict=True):
        first, last = (math.floor(there + (edge - here) * scale) for edge in (-0.5, length - 0.5))
        yield first, here + 0.5 + (np.arange(first, last + 3) - 0.5 - there) / scale, length


def _fill(outlines):
    """Raster of closed outlines, a list of (K, 2) x, y, by the even-odd rule, exact at the centre of each pixel."""
    low = np.concatenate(outlines).min(axis=0)
    span = np.concatenate(outlines).max(axis=0) - low
    scale = (FINENESS - 1) / (span.max() or 1)
    width, height = np.ceil(span * scale).astype(int) + 1
    edges = [np.stack([outline, np.roll(outline, -1, axis=0)], axis=1) for outline in outlines]
    (x0, y0), (x1, y1) = ((np.concatenate(edges) - low) * scale).transpose(1, 2, 0)
    rows, edge = ((y0 <= np.arange(height)[:, None]) != (y1 <= np.arange(height)[:, None])).nonzero()
    x = x0[edge] + (rows - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    crossings = np.zeros((height, width + 1), dtype=np.int32)
    np.add.at(crossings, (rows, np.ceil(x - 1e-6).astype(int).clip(0, width)), 1)
    return crossings.cumsum(axis=1)[:, :width] % 2 == 1


# Files


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
        curve = (1 - t) ** 3 * start + 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3 * end
        self.parts[-1].extend(map(tuple, curve))

    def _endPath(self):
        start, end = self.parts[-1][0], self.parts[-1][-1]
        if not np.allclose(start, end, rtol=1e-6):
            raise ValueError(f"it is not closed: a part that starts at {start} ends at {end}; end each part with Z")


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
            raise ValueError(f"{path}: transform {transform!r} would be lost; apply it to the path first")
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
        raise ValueError(f"{name}: {width} × {height} pixels are too many; make it {MOST_PIXELS:,} at most")
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


# Checks


def _check(labels, structure, structures, ids, others):
    """Class of the structure, names of the cases, label maps of the other structures."""
    structures = list(structures)
    if structure not in structures:
        raise ValueError(f"there is no structure {structure!r}; choose from {', '.join(structures)}")
    for name, maps in (("labels", labels), ("others", labels if others is None else others)):
        if not torch.is_tensor(maps):
            raise ValueError(f"{name} are {type(maps).__name__}; give a torch tensor, int64 (N, H, W)")
        if maps.dtype != torch.int64 or maps.ndim != 3 or maps.shape != labels.shape:
            raise ValueError(f"{name} are {maps.dtype} {tuple(maps.shape)}; give int64 (N, H, W) like the labels")
        low, high, last = *(maps.aminmax() if maps.numel() else (0, 0)), len(structures)
        if low < 0 or high > last:
            raise ValueError(f"{name} hold classes {low} … {high}; {last} structures have 0 … {last}")
    ids = list(range(len(labels))) if ids is None else list(ids)
    if len(ids) != len(labels):
        raise ValueError(f"there are {len(ids)} ids for {len(labels)} label maps")
    return structures.index(structure) + 1, ids, labels if others is None else others


def _check_masks(masks, ids=None):
    if not torch.is_tensor(masks):
        raise ValueError(f"masks are {type(masks).__name__}; give a torch tensor, bool (N, H, W)")
    if masks.dtype != torch.bool or masks.ndim != 3:
        raise ValueError(f"masks are {masks.dtype} {tuple(masks.shape)}; give bool (N, H, W)")
    for index in (~masks.flatten(1).any(dim=1)).nonzero().flatten().tolist():
        raise ValueError(f"case {index if ids is None else ids[index]} has an empty mask; leave the case out")
    return masks
