"""Padding: a picture that is not square is put into the middle of a square."""

import numpy as np


def pad_to_square(pixels: np.ndarray, value: float = 0) -> np.ndarray:
    """Pixels (h, w) in the middle of a square of their longer side, `value` around them.

    An odd pixel goes below, or to the right.
    """
    around = []
    for length in pixels.shape:
        missing = max(pixels.shape) - length
        around.append((missing // 2, missing - missing // 2))
    return np.pad(pixels, around, constant_values=value)
