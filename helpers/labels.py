"""Values of a label map that are no class: they count neither in a loss nor in an IoU."""

from torch import Tensor

UNLABELLED = 255  # nobody said what this pixel is; noise is allowed there
OUTSIDE = -100  # padding around a picture that is not square: it takes no noise


def counted(labels: Tensor) -> Tensor:
    """Where label maps have a class: bool, of the same shape."""
    return (labels != UNLABELLED) & (labels != OUTSIDE)
