"""Padding: pictures that are not square are put into the middle of a black square."""

import numpy as np
from skimage.transform import resize_local_mean

from helpers.labels import OUTSIDE


def pad_to_square(pixels: np.ndarray, value: float = 0) -> np.ndarray:
    """Pixels (h, w) in the middle of a square of their longer side, `value` around them.

    An odd pixel goes below, or to the right.
    """
    side = max(pixels.shape)
    missing = [side - length for length in pixels.shape]
    around = [(rest // 2, rest - rest // 2) for rest in missing]
    return np.pad(pixels, around, constant_values=value)


def padded_part(shape: tuple[int, int], size: int) -> np.ndarray:
    """Which pixels of a padded picture, reduced to `size`, are padding by more than a half.

    Args:
        shape: height and width of the picture.
        size: height and width that the square is reduced to.

    Returns:
        bool (size, size).
    """
    rows, columns = (_covered(length, max(shape), size) >= 0.5 - 1e-9 for length in shape)
    return ~(rows[:, None] & columns)


def _covered(length, side, size):
    """Share (size,) of each pixel along an axis that the picture covers."""
    before = (side - length) // 2
    line = np.zeros(side)
    line[before : before + length] = 1
    return resize_local_mean(line, (size,), grid_mode=True, preserve_range=True)


def picture_box(labels: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a label map (h, w) that are the picture, without its padding."""
    inside = labels != OUTSIDE
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
