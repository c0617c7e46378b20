"""Target label maps (heart symbol, resized structure, any shape) and the regions that noise may be restricted to."""

import math
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real

import numpy as np
import torch
from torch.nn.functional import max_pool2d

from helpers.network import receptive_field
from helpers.shapes import heart_curve, read_shape

SMALL, LARGE = 0.34, 2.25  # area of the paper's heart symbols / area of the heart
LARGEST = 64  # a shape may span so many times the image's pixels


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
    return place_shape(
        labels, structure, structures, heart_curve(), area_ratio=area_ratio, **options
    )


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
        raise ValueError(
            f"area_ratio is {area_ratio!r}; it must be above 0: the shape's area / the structure's area"
        )
    if np.shape(shift) != (2,) or not (np.abs(shift) < 1e6).all():
        raise ValueError(f"shift is {shift}; give pixels to the right and down, such as (0, 0)")

    def draw(own):
        centre = np.add(_centre(own), shift[::-1])
        return _with_area(
            integral, middle, centre, area=area_ratio * own.sum(), limit=LARGEST * own.size
        )

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


def receptive_field_region(masks, *, depth, ids=None):
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
        raise ValueError(
            f"depth is {depth!r}; give the number of downsamplings of the U-Net, 1 or more"
        )
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
            inside = raster[
                max(0, -top) : max(0, len(own) - top), max(0, -left) : max(0, own.shape[1] - left)
            ]
            if not inside.any():
                where = (
                    "lies wholly outside the image; move it back"
                    if raster.any()
                    else "has no pixel at this size"
                )
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
    return [
        raster.sum(axis=1 - axis) @ np.arange(length) / raster.sum()
        for axis, length in enumerate(raster.shape)
    ]


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


# Files


# Checks


def _check(labels, structure, structures, ids, others):
    """Class of the structure, names of the cases, label maps of the other structures."""
    structures = list(structures)
    if structure not in structures:
        raise ValueError(
            f"there is no structure {structure!r}; choose from {', '.join(structures)}"
        )
    for name, maps in (("labels", labels), ("others", labels if others is None else others)):
        if not torch.is_tensor(maps):
            raise ValueError(
                f"{name} are {type(maps).__name__}; give a torch tensor, int64 (N, H, W)"
            )
        if maps.dtype != torch.int64 or maps.ndim != 3 or maps.shape != labels.shape:
            raise ValueError(
                f"{name} are {maps.dtype} {tuple(maps.shape)}; give int64 (N, H, W) like the labels"
            )
        low, high, last = *(maps.aminmax() if maps.numel() else (0, 0)), len(structures)
        if low < 0 or high > last:
            raise ValueError(
                f"{name} hold classes {low} … {high}; {last} structures have 0 … {last}"
            )
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
        raise ValueError(
            f"case {index if ids is None else ids[index]} has an empty mask; leave the case out"
        )
    return masks
