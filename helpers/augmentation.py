"""Random changes to training images: the paper's elastic deformation, affine maps and intensities."""

from functools import cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch.nn import functional

GRID = 32  # side of the coarse grid on which elastic fields are drawn; its cells are 1/6 of the filter's sigma


AUGMENTATIONS = ("elastic", "affine", "intensity")


@cache
def _smoothing(sigma):
    """GRID×GRID matrix that smooths a line of grid values as `scipy.ndimage.gaussian_filter` does, with its border."""
    return torch.from_numpy(gaussian_filter1d(np.eye(GRID), sigma * GRID / 512, axis=0)).float()


def elastic_field(n, size, generator, *, magnitude=1000.0, sigma=100.0):
    """Random displacement fields for elastic deformation.

    Uniform noise U(−magnitude, magnitude) per pixel of a 512×512 image, smoothed with a Gaussian filter: drawn on a
    coarse grid (a cell is the mean of the pixels in it) and interpolated, which is the same field but for detail far
    below sigma.

    Args:
        n: number of fields.
        size: side of the images [pixels]; the field scales with it.
        generator: torch.Generator that the noise is drawn from.
        magnitude, sigma: [pixels of a 512×512 image].

    Returns:
        (n, 2, size, size) displacement in x and y [pixels of the image].

    Source: paper, section 2.4.
    """
    noise = torch.randn(n, 2, GRID, GRID, generator=generator) * (magnitude / 3**0.5 * GRID / 512)
    smooth = _smoothing(sigma)
    field = smooth @ noise @ smooth.T * (size / 512)
    return functional.interpolate(field, size=(size, size), mode="bicubic", align_corners=False)


def warp(images, labels, field, *, matrix=None):
    """Move the pixels of images (cubic spline) and labels (nearest neighbour), repeating the border.

    Args:
        images: (N, 1, H, H).
        labels: (N, H, H) int64.
        field: (N, 2, H, H) displacement in x and y [pixels].
        matrix: (N, 2, 3) affine maps from output to input coordinates in [−1, 1]; None for the identity.

    Returns:
        The moved images and labels.

    Source: paper, section 2.4.
    """
    if matrix is None:
        matrix = torch.eye(2, 3).expand(len(images), 2, 3)
    grid = functional.affine_grid(matrix.to(images), list(images.shape), align_corners=False)
    grid = grid + field.permute(0, 2, 3, 1).to(images) * (2 / images.shape[-1])
    moved = functional.grid_sample(
        images, grid, mode="bicubic", padding_mode="border", align_corners=False
    )
    classes = functional.grid_sample(
        labels[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False
    )
    return moved.clamp(-1, 1), classes[:, 0].long()


def augment(images, labels, generator, augmentation):
    """Random changes to a batch, each kind to half of the samples.

    elastic: the paper's deformation. affine: rotation ±10°, scale .87–1.15, aspect ±5 %, shift ±8 %. intensity:
    gamma .63–1.6, contrast .7–1.3, brightness ±.2.

    Args:
        images, labels: (N, 1, H, H) in [−1, 1] and (N, H, H).
        generator: torch.Generator; the same numbers are drawn whatever is switched on.
        augmentation: words of "elastic affine intensity".

    Returns:
        The changed images and labels.
    """
    n, words = len(images), augmentation.split()
    half = torch.rand(n, 3, generator=generator) < 0.5
    draw = torch.rand(n, 8, generator=generator) * 2 - 1
    field = elastic_field(n, images.shape[-1], generator)
    chosen = half & torch.tensor([word in words for word in AUGMENTATIONS])
    matrix = torch.where(chosen[:, 1, None, None], _affine(draw), torch.eye(2, 3))
    moving = chosen[:, 0] | chosen[:, 1]
    if moving.any():
        field = field * chosen[:, 0, None, None, None]
        images, labels = images.clone(), labels.clone()
        images[moving], labels[moving] = warp(
            images[moving], labels[moving], field[moving], matrix=matrix[moving]
        )
    gamma, gain, shift = 1.6 ** draw[:, 5], 1 + 0.3 * draw[:, 6], 0.2 * draw[:, 7]
    changed = ((images + 1) / 2).clamp(0, 1) ** gamma[:, None, None, None].to(images) * 2 - 1
    changed = (
        changed * gain[:, None, None, None].to(images) + shift[:, None, None, None].to(images)
    ).clamp(-1, 1)
    return torch.where(chosen[:, 2, None, None, None].to(images.device), changed, images), labels


def _affine(draw):
    angle, scale, aspect = draw[:, 0] * np.pi / 18, 1.15 ** draw[:, 1], 1.05 ** draw[:, 2]
    rows = [
        angle.cos() * scale * aspect,
        -angle.sin() * scale,
        0.16 * draw[:, 3],
        angle.sin() * scale,
        angle.cos() * scale / aspect,
        0.16 * draw[:, 4],
    ]
    return torch.stack(rows, dim=1).reshape(-1, 2, 3)
