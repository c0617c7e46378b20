"""Target label maps (heart symbol, resized structure, any shape) and regions for the noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from scipy.ndimage import center_of_mass
from torch import Tensor
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
        cut: float32 (N,), share of the shape's area that the image's border cuts off [percent].
    """

    labels: Tensor
    shapes: Tensor
    cut: Tensor


def heart_symbol(
    labels: Tensor,
    structure: str,
    structures: Sequence[str],
    *,
    area_ratio: float = SMALL,
    **options: Any,
) -> Target:
    """Targets in which a heart symbol stands where a structure was.

    Args:
        labels, structure, structures, area_ratio, **options: see `place_shape`, which gets the
            `heart_curve`.

    Returns:
        See `place_shape`.

    Source: paper, section 3.2 and Tables 2 and 3, whose overlaps with the true heart fix SMALL and
    LARGE.
    """
    shape = heart_curve()
    return place_shape(labels, structure, structures, shape, area_ratio=area_ratio, **options)


def place_shape(
    labels: Tensor,
    structure: str,
    structures: Sequence[str],
    shape: Any,
    *,
    area_ratio: float = 1.0,
    shift: Sequence[float] = (0, 0),
    **options: Any,
) -> Target:
    """Targets in which a shape, upright, takes the place of a structure, centre on centre of mass.

    The structure's other pixels become background. Where the shape meets other structures, the
    earlier class wins. What leaves the image is cut off. No label maps give an empty target.

    Args:
        labels: int64 (N, H, W), classes 1 … K in the order of `structures`.
        structure: the name of the one to replace.
        structures: the K names.
        shape: see `read_shape`.
        area_ratio: area of the shape / area of the structure in the same image.
        shift: pixels to the right and down to move the shape from the centre of mass.
        ids: the N names of the cases for error messages; default their numbers from 0.
        others: label maps (N, H, W) to take the other structures from, such as the network's clean
            predictions; default `labels`.
        on_top: draw the shape over all other structures.

    Returns:
        The label maps, the shapes as drawn, and how much the border cuts off.

    Raises:
        ValueError: labels, names, shape or numbers are not sensible, a case lacks the structure, or
            its target would have no pixel of it. The message names the value or the case.

    Source: paper, section 3: the target stands at the centre of mass of the true structure.
    """
    raster = read_shape(shape)
    integral = np.pad(raster, (1, 0)).cumsum(axis=0).cumsum(axis=1)
    middle = center_of_mass(raster)
    _check_ratio("area_ratio", area_ratio, "the shape's area / the structure's area")
    if np.shape(shift) != (2,) or not (np.abs(shift) < 1e6).all():
        raise ValueError(f"shift is {shift}; give pixels to the right and down, such as (0, 0)")

    def draw(own):
        centre = np.add(center_of_mass(own), shift[::-1])
        area = area_ratio * own.sum()
        return _with_area(integral, middle, centre, area=area, limit=LARGEST * own.size)

    return _replace(labels, structure, structures, draw, **options)


def resize_structure(
    labels: Tensor,
    structure: str,
    structures: Sequence[str],
    *,
    factor: float,
    **options: Any,
) -> Target:
    """Targets in which a structure is zoomed about its centre of mass; freed pixels background.

    Args:
        labels, structure, structures, **options: see `place_shape`; `ids`, `others` and `on_top`
            are possible.
        factor: new length / old length; 1 gives back `labels`. Nearest neighbour.

    Returns:
        See `place_shape`.

    Raises:
        ValueError: as `place_shape`.

    Source: paper, section 3.3; the factor is a length, since lungs at 1.8 reach the corners of the
    image.
    """
    _check_ratio("factor", factor, "new length / old length")

    def draw(own):
        return _zoom(own, center_of_mass(own), scale=factor, limit=LARGEST * own.size)

    return _replace(labels, structure, structures, draw, **options)


# Regions: where noise is allowed. A mask of one's own, bool (N, H, W), is a region as it is.


def everywhere(masks: Tensor) -> Tensor:
    """The whole image, as bool (N, H, W) like `masks`."""
    return torch.ones_like(masks, dtype=torch.bool)


def bounding_box(
    masks: Tensor,
    *,
    margin: float = 0,
    ids: Sequence | None = None,
) -> Tensor:
    """The bounding box of each mask.

    Args:
        masks: bool (N, H, W).
        margin: pixels to add on each side.
        ids: the N names of the cases for error messages.

    Returns:
        bool (N, H, W).

    Raises:
        ValueError: `masks` are not bool (N, H, W), one is empty, or the margin is not a whole
            number of 0 or more.

    Source: paper, Figure 2, "Heart BBox".
    """
    if not (margin >= 0 and margin % 1 == 0):
        raise ValueError(f"margin is {margin}; give a whole number of pixels, 0 or more")
    _check_masks(masks, ids)
    boxes = torch.zeros_like(masks)
    for box, mask in zip(boxes, masks, strict=True):
        first, last = mask.nonzero().aminmax(dim=0)
        top, left = (first - int(margin)).clamp(min=0)
        bottom, right = last + int(margin)
        box[top : bottom + 1, left : right + 1] = True
    return boxes


def receptive_field_region(masks: Tensor, *, depth: int, ids: Sequence | None = None) -> Tensor:
    """What a `UNet` sees from each mask: the mask grown by half the receptive field on every side.

    Every network of this depth sees that far on all sides; according to a pixel's place in the grid
    of strides, it sees up to 2**depth − 1 pixels further on some (see `network.receptive_field`).

    Args:
        masks: bool (N, H, W).
        depth: of the U-Net.
        ids: the N names of the cases for error messages.

    Returns:
        bool (N, H, W).

    Raises:
        ValueError: `masks` are not bool (N, H, W), one is empty, or the depth is not a whole number
            of 1 or more.

    Source: paper, Figure 2, "Receptive Field".
    """
    if type(depth) is not int or depth < 1:
        raise ValueError(
            f"depth is {depth!r}; give the number of downsamplings of the U-Net, 1 or more"
        )
    _check_masks(masks, ids)
    radius = receptive_field(depth) // 2
    grown = masks[:, None].float()
    grown = max_pool2d(grown, (2 * radius + 1, 1), stride=1, padding=(radius, 0))
    grown = max_pool2d(grown, (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return grown[:, 0].bool()


# Rasters


def _replace(labels, structure, structures, draw, *, ids=None, others=None, on_top=False):
    """Target in which a shape takes the place of a structure.

    Args:
        draw: function from the structure's mask (H, W) to the pixels (row, column) of the shape,
            also those outside the image. It may raise a ValueError that says what the shape does.
    """
    if structure not in structures:
        raise ValueError(
            f"there is no structure {structure!r}; choose from {', '.join(structures)}"
        )
    others = labels if others is None else others
    for name, maps in (("labels", labels), ("others", others)):
        _check_tensor(name, maps, torch.int64, labels)
        if maps.numel() and not 0 <= maps.min() <= maps.max() <= len(structures):
            raise ValueError(
                f"{name} hold classes {maps.min()} … {maps.max()}; "
                f"{len(structures)} structures have 0 … {len(structures)}"
            )
    ids = range(len(labels)) if ids is None else list(ids)
    if len(ids) != len(labels):
        raise ValueError(f"there are {len(ids)} ids for {len(labels)} label maps")
    number = list(structures).index(structure) + 1
    own = labels == number
    _check_each(own, ids, f" has no pixel of {structure!r}; leave the case out")
    shapes, cut = np.zeros(labels.shape, dtype=bool), []
    for id, mask, shape in zip(ids, own.cpu().numpy(), shapes, strict=True):
        try:
            cut.append(_paste(shape, draw(mask)))
        except ValueError as error:
            raise ValueError(f"case {id}, {structure!r}: the shape {error}") from None
    shapes = torch.from_numpy(shapes).to(labels.device)
    rest = torch.where(others == number, 0, others)
    visible = shapes & ((rest == 0) | (rest > number) | on_top)
    where = "lies wholly beneath other structures; move it, or draw it with on_top=True"
    _check_each(visible, ids, f", {structure!r}: the shape {where}")
    return Target(torch.where(visible, number, rest), shapes, torch.tensor(cut).float())


def _paste(canvas, pixels):
    """Set pixels (row, column); returns the share of them that lies outside [percent]."""
    inside = pixels[((pixels >= 0) & (pixels < canvas.shape)).all(axis=1)]
    if not len(pixels):
        raise ValueError("has no pixel at this size")
    if not len(inside):
        raise ValueError("lies wholly outside the image; move it back")
    canvas[tuple(inside.T)] = True
    return 100 * (1 - len(inside) / len(pixels))


def _zoom(raster, centre, *, scale, limit):
    """Pixels (row, column) of the raster scaled about a point; nearest neighbour."""
    picks, corner = [], []
    for first, edges, length in _edges(raster.shape, centre, centre, scale, limit):
        source = np.floor(edges[:-1] + 0.5 / scale)  # the centre of each new pixel
        inside = (source >= 0) & (source < length)
        picks.append(source[inside].astype(int))
        corner.append(first + inside.argmax())
    return np.argwhere(raster[np.ix_(*picks)]) + corner


def _with_area(integral, middle, centre, *, area, limit):
    """Pixels (row, column) of a shape scaled to an area [pixels], its point `middle` on `centre`.

    As many pixels as the area asks for, those first that the scaled shape covers most.

    Args:
        integral: (h + 1, w + 1), area of the shape above and left of each pixel corner.
    """
    scale = math.sqrt(area / integral[-1, -1])
    corner, covered = [], integral
    shape = np.subtract(integral.shape, 1)
    for first, edges, length in _edges(shape, middle, centre, scale, limit):  # rows, then columns
        edges = edges.clip(0, length)
        low = np.minimum(edges.astype(int), length - 1)
        between = (covered[low + 1] - covered[low]) * (edges - low)[:, None]
        covered = np.diff(covered[low] + between, axis=0).T
        corner.append(first)
    order = np.argsort(-(covered * scale**2).round(6), axis=None, kind="stable")
    most = np.unravel_index(order[: round(area)], covered.shape)
    return np.stack(most, axis=1) + corner


def _edges(shape, middle, centre, scale, limit):
    """For both axes: the first new pixel, the new pixels' edges in old ones, and the old length."""
    height, width = np.multiply(shape, scale)
    if height * width > limit:
        raise ValueError(f"would span {height:.3g} × {width:.3g} pixels; make it smaller")
    for here, there, length in zip(middle, centre, shape, strict=True):
        first = math.floor(there + (-0.5 - here) * scale)
        last = math.floor(there + (length - 0.5 - here) * scale)
        edges = here + 0.5 + (np.arange(first, last + 3) - 0.5 - there) / scale
        yield first, edges, length


# Checks


def _check_ratio(name, value, meaning):
    if not (isinstance(value, Real) and 0 < value < math.inf):
        raise ValueError(f"{name} is {value!r}; it must be above 0: {meaning}")


def _check_masks(masks, ids):
    _check_tensor("masks", masks, torch.bool, masks)
    ids = range(len(masks)) if ids is None else ids
    _check_each(masks, ids, " has an empty mask; leave the case out")


def _check_tensor(name, value, dtype, like):
    """Raise unless `value` is (N, H, W) of this type and of the shape of another one."""
    if not torch.is_tensor(value):
        found = type(value).__name__
    elif value.dtype != dtype or value.ndim != 3 or value.shape != like.shape:
        found = f"{value.dtype} {tuple(value.shape)}"
    else:
        return
    shape = "(N, H, W)" if value is like else f"{tuple(like.shape)} like the labels"
    raise ValueError(f"{name} are {found}; give a torch tensor, {dtype} {shape}")


def _check_each(masks, ids, problem):
    for id, mask in zip(ids, masks, strict=True):
        if not mask.any():
            raise ValueError(f"case {id}{problem}")
