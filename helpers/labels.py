"""Values of a label map that are no class: they count neither in a loss nor in an IoU."""

import numpy as np
from torch import Tensor

UNLABELLED = 255  # nobody said what this pixel is; noise is allowed there
OUTSIDE = -100  # padding around a picture that is not square: it takes no noise


def counted(labels: Tensor) -> Tensor:
    """Where label maps have a class: bool, of the same shape."""
    return (labels != UNLABELLED) & (labels != OUTSIDE)


def picture_box(labels: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a label map (H, W) that are the picture, without its padding."""
    rows, columns = np.nonzero(labels != OUTSIDE)
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
