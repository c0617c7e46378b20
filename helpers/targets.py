"""Target label maps (heart symbol, resized structure, any shape) and regions for the noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import center_of_mass, maximum_filter
from torch import Tensor

from helpers.common.arguments import require, require_choice, whole_number
from helpers.labels import OUTSIDE, counted
from helpers.network import receptive_field
from helpers.shapes import heart_curve, read_shape

SMALL, LARGE = 0.34, 2.25  # area of the paper's heart symbols / area of the heart
LARGEST = 8  # a shape may span so many images in each direction


@dataclass(frozen=True)
class Target:
    """Label maps to bend a segmentation to.

    Attributes:
        labels: int64 (N, H, W), every pixel with one class; OUTSIDE where the truth has it.
        shapes: bool (N, H, W), the shape as drawn; parts of it may lie beneath other structures.
        cut: float32 (N,), share of the shape's area that the picture's border cuts off [percent].
    """

    labels: Tensor
    shapes: Tensor
    cut: Tensor


def heart_symbol(
    labels: Tensor,
    structure: str,
    structures: Sequence,
    *,
    area_ratio: float = SMALL,
    ids: Sequence = (),
) -> Target:
    """Targets in which a heart symbol stands where a structure was.

    Args:
        labels, structure, structures, area_ratio, ids: see `place_shape`, which gets the
            `heart_curve`.

    Returns:
        See `place_shape`.

    Source: paper, section 3.2 and Tables 2 and 3, whose overlaps with the true heart fix SMALL and
    LARGE.
    """
    shape = heart_curve()
    return place_shape(labels, structure, structures, shape, area_ratio=area_ratio, ids=ids)


def place_shape(
    labels: Tensor,
    structure: str,
    structures: Sequence,
    shape: Any,
    *,
    area_ratio: float = 1.0,
    ids: Sequence = (),
) -> Target:
    """Targets in which a shape, upright, takes the place of a structure, centre on centre of mass.

    The structure's other pixels become background. Where the shape meets other structures, the
    earlier class wins. What leaves the picture is cut off. No label maps give an empty target.

    Args:
        labels: int64 (N, H, W), classes 1 … K in the order of `structures`; what is not `counted`
            may be there too.
        structure: the name of the one to replace.
        structures: the K names.
        shape: see `read_shape`.
        area_ratio: area of the shape / area of the structure in the same image.
        ids: the N names of the cases for error messages; default their numbers from 0.

    Returns:
        The label maps, the shapes as drawn, and how much the border cuts off.

    Raises:
        ValueError: labels, names, shape or ratio are not sensible, a case lacks the structure, or
            its target would have no pixel of it. The message names the value or the case.

    Source: paper, section 3: the target stands at the centre of mass of the true structure.
    """
    raster = read_shape(shape)
    integral = np.pad(raster, (1, 0)).cumsum(axis=0).cumsum(axis=1)
    middle = center_of_mass(raster)
    wanted = f"give one above 0, for a shape of {LARGEST} images in each direction at most"

    def draw(own):
        area = area_ratio * own.sum()
        spanned = raster.size * area / integral[-1, -1]
        require(0 < spanned <= LARGEST**2 * own.size, "area_ratio", area_ratio, wanted)
        return _with_area(integral, middle, center_of_mass(own), area)

    return _replace(labels, structure, structures, draw, ids)


def resize_structure(
    labels: Tensor,
    structure: str,
    structures: Sequence,
    *,
    factor: float | tuple[float, float],
    ids: Sequence = (),
) -> Target:
    """Targets in which a structure is zoomed about its centre of mass; freed pixels background.

    Args:
        labels, structure, structures, ids: see `place_shape`.
        factor: new length / old length, or one down and one across; 1 gives back `labels`. Nearest
            neighbour.

    Returns:
        See `place_shape`.

    Raises:
        ValueError: as `place_shape`.

    Source: paper, section 3.3; the factor is a length, since lungs at 1.8 reach the corners of the
    image.
    """
    factors = factor if isinstance(factor, tuple) else (factor, factor)
    for each in factors:
        require(0 < each <= LARGEST, "factor", each, f"it must be above 0, {LARGEST} at most")

    def draw(own):
        picks, corner = [], []
        axes = zip(own.shape, center_of_mass(own), factors, strict=True)
        for length, centre, zoom in axes:
            first, edges = _edges(length, centre, centre, zoom)
            source = np.floor(edges[:-1] + 0.5 / zoom)  # the centre of each new pixel
            picks.append(source.clip(-1, length).astype(int) + 1)
            corner.append(first)
        return np.argwhere(np.pad(own, 1)[np.ix_(*picks)]) + corner

    return _replace(labels, structure, structures, draw, ids)


# Regions: where noise is allowed. A mask of one's own, bool (N, H, W), is a region as it is.


def everywhere(masks: Tensor) -> Tensor:
    """The whole image, as bool (N, H, W) like `masks`."""
    return torch.ones_like(masks, dtype=torch.bool)


def bounding_box(masks: Tensor, *, margin: float = 0, ids: Sequence = ()) -> Tensor:
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
    margin = whole_number("margin", margin, 0)
    _check_masks(masks, ids)
    boxes = torch.zeros_like(masks)
    for box, mask in zip(boxes, masks, strict=True):
        first, last = mask.nonzero().aminmax(dim=0)
        top, left = (first - margin).clamp(min=0)
        bottom, right = last + margin + 1
        box[top:bottom, left:right] = True
    return boxes


def receptive_field_region(masks: Tensor, *, depth: int, ids: Sequence = ()) -> Tensor:
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
    side = receptive_field(whole_number("depth", depth)) + 1
    _check_masks(masks, ids)
    grown = maximum_filter(masks.cpu(), size=(1, side, side), mode="constant")
    return torch.from_numpy(grown).to(masks.device)


# Rasters


def _replace(labels, structure, structures, draw, ids):
    """Target in which a shape takes the place of a structure.

    Args:
        draw: function from the structure's mask (H, W) to the pixels (row, column) of the shape,
            also those outside the image.
    """
    require_choice("structure", structure, structures)
    _check_maps("labels", labels, torch.int64)
    known = (labels >= 0) & (labels <= len(structures))
    strange = labels[counted(labels) & ~known].tolist()
    require(not strange, "class of labels", strange[:1], "there is no such structure")
    number = structures.index(structure) + 1
    own = labels == number
    picture = (labels != OUTSIDE).cpu().numpy()
    _check_each(own, ids, f"has no pixel of {structure!r}; leave the case out")
    shapes, cut = np.zeros(labels.shape, dtype=bool), []
    for shape, mask, part in zip(shapes, own.cpu().numpy(), picture, strict=True):
        pixels = draw(mask)
        inside = pixels[((pixels >= 0) & (pixels < mask.shape)).all(axis=1)]
        inside = inside[part[tuple(inside.T)]]
        shape[tuple(inside.T)] = True
        cut.append(100 * (1 - len(inside) / max(len(pixels), 1)))
    drawn = torch.from_numpy(shapes).to(labels.device)
    rest = torch.where(own, 0, labels)
    visible = drawn & ((rest == 0) | (rest > number))
    _check_each(visible, ids, f"has no free pixel for this {structure!r}; give another size")
    return Target(torch.where(visible, number, rest), drawn, torch.tensor(cut))


def _with_area(integral, middle, centre, area):
    """Pixels (row, column) of a shape scaled to an area [pixels], its point `middle` on `centre`.

    As many pixels as the area asks for, those first that the scaled shape covers most.

    Args:
        integral: (h + 1, w + 1), area of the shape above and left of each pixel corner.
    """
    scale = math.sqrt(area / integral[-1, -1])
    corner, covered = [], integral
    for here, there in zip(middle, centre, strict=True):  # rows, then columns
        length = len(covered) - 1
        first, edges = _edges(length, here, there, scale)
        edges = edges.clip(0, length)
        low = np.minimum(edges.astype(int), length - 1)
        between = (covered[low + 1] - covered[low]) * (edges - low)[:, None]
        covered = np.diff(covered[low] + between, axis=0).T
        corner.append(first)
    order = np.argsort(-(covered * scale**2).round(6), axis=None, kind="stable")
    most = np.unravel_index(order[: round(area)], covered.shape)
    return np.column_stack(most) + corner


def _edges(length, here, there, scale):
    """Along an axis: the first new pixel, and the new pixels' edges in old ones."""
    first = math.floor(there + (-0.5 - here) * scale)
    last = math.floor(there + (length - 0.5 - here) * scale)
    return first, here + 0.5 + (np.arange(first, last + 3) - 0.5 - there) / scale


# Checks


def _check_masks(masks, ids):
    _check_maps("masks", masks, torch.bool)
    _check_each(masks, ids, "has an empty mask; leave the case out")


def _check_maps(name, maps, dtype):
    found = maps.dtype, tuple(maps.shape)
    fits = maps.dtype == dtype and maps.ndim == 3
    require(fits, f"type and shape of {name}", found, f"give a torch tensor, {dtype} (N, H, W)")


def _check_each(masks, ids, problem):
    ids = ids or range(len(masks))
    require(len(ids) == len(masks), "ids", ids, "give one for each label map")
    for id, mask in zip(ids, masks, strict=True):
        if not mask.any():
            raise ValueError(f"case {id} {problem}")
