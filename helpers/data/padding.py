"""Padding: a picture that is not square is put into the middle of a square."""

import numpy as np

from helpers.labels import OUTSIDE


def pad_to_square(pixels: np.ndarray, value: float = 0) -> np.ndarray:
    """Pixels (h, w) in the middle of a square of their longer side, `value` around them.

    An odd pixel goes below, or to the right.
    """
    around = []
    for length in pixels.shape:
        missing = max(pixels.shape) - length
        around.append((missing // 2, missing - missing // 2))
    return np.pad(pixels, around, constant_values=value)


def picture_box(labels: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a label map (H, W) that are the picture, without its padding."""
    rows, columns = np.nonzero(labels != OUTSIDE)
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
