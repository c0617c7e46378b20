"""Cases: the files of one case as an image and a label map."""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from helpers.data.folders import Source
from helpers.data.formats import (
    area_average,
    format_shape,
    read_grey,
    read_jsrt,
    read_label_map,
    read_mask,
)
from helpers.data.padding import pad_to_square
from helpers.labels import OUTSIDE, UNLABELLED


def make_case(source: Source, id: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A case at `size`: area averages, padded to a square if need be.

    Returns:
        The image (size, size) in [−1, 1], −1 where it is padded; and the label map, with OUTSIDE
        there.

    Raises:
        ValueError: a file cannot be used; the message names it.
    """
    image, masks, problems = read_case(source, id)
    if image is None or problems:
        raise ValueError(problems[0])
    half = {name: _covers_half(mask, size) for name, mask in masks.items()}
    if source.masks:
        labels = label_map(np.stack([half[structure] for structure in source.masks]))
        labels[(labels == 0) & half.get(UNLABELLED, False)] = UNLABELLED
    else:
        labels = np.full((size, size), UNLABELLED)
    grey = area_average(pad_to_square(image, -1), size)
    padding = ~_covers_half(np.ones(image.shape, dtype=bool), size)
    grey[padding] = -1
    labels[padding] = OUTSIDE
    return grey, labels


def _covers_half(mask, size):
    return area_average(pad_to_square(mask), size) >= 0.5 - 1e-9


def label_map(masks: ArrayLike) -> np.ndarray:
    """One map of class indices from masks that may overlap: the earlier structure wins.

    Args:
        masks: (…, S, H, W), nonzero inside.

    Returns:
        (…, H, W) int64: 0 outside of all masks, else 1 … S.
    """
    inside = np.asarray(masks) != 0
    return np.where(inside.any(-3), inside.argmax(-3) + 1, 0)


def read_case(source: Source, id: str) -> tuple[np.ndarray | None, dict, list]:
    """A case at its files' sizes.

    A folder's masks must have their image's size; SCR's are smaller than JSRT's images, but all of
    one size.

    Returns:
        The image (h, w) in [−1, 1], None if it cannot be used; the masks (h, w) bool by structure,
        of label maps with UNLABELLED too; and a line about each file that cannot be used.
    """
    problems: list[str] = []
    read = read_jsrt if source.name == "jsrt" else read_grey
    image = _attempt(read, source.images[id], problems)
    paths = {structure: files[id] for structure, files in source.masks.items() if id in files}
    read = partial(read_label_map, values=source.values) if source.values else read_mask
    maps = {path: _attempt(read, path, problems) for path in dict.fromkeys(paths.values())}
    maps = {path: pixels for path, pixels in maps.items() if pixels is not None}
    problems += _misfits(source, image, maps)
    if source.values:
        masks = _masks_of(source, *maps.values()) if maps else {}
    else:
        masks = {structure: maps[path] for structure, path in paths.items() if path in maps}
    return image, masks, problems


def _attempt(read, path, problems):
    """What a function reads; None if it cannot, with a problem the more."""
    try:
        return read(path)
    except (OSError, ValueError) as error:
        problems.append(str(error))
        return None


def _misfits(source: Source, image: np.ndarray | None, maps: dict[Path, np.ndarray]) -> list:
    """A line about each map of another size than it must have."""
    shape = max((pixels.shape for pixels in maps.values()), default=())
    if source.name == "jsrt":
        shape = (max(shape, default=0),) * 2
    elif image is not None:
        shape = image.shape
    return [
        f"{path} is {format_shape(pixels.shape)} but should be {format_shape(shape)}: "
        "export it at that size"
        for path, pixels in maps.items()
        if pixels.shape != shape
    ]


def _masks_of(source, numbers):
    """Masks of the structures and of UNLABELLED from a label map."""
    names = [*source.masks, UNLABELLED]
    values = {name: [v for v, own in source.values.items() if own == name] for name in names}
    return {name: np.isin(numbers, own) for name, own in values.items() if own}
