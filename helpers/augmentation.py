"""Random changes to training images: the paper's elastic deformation, and others."""

import math
from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Generator, Tensor
from torch.nn import functional

from helpers.world import randomise

GRID = 32  # side of the coarse grid of elastic fields; its cells are 1/6 of the filter's sigma
MILD = ("elastic", "affine", "intensity")
GRAIN = 0.06  # largest standard deviation of the noise of grain
AUGMENTATIONS = (*MILD, "grain", "world")


# (GRID, GRID): smooths a line of grid values as `gaussian_filter1d` with the paper's sigma does.
SMOOTHING = torch.from_numpy(gaussian_filter1d(np.eye(GRID), 100 * GRID / 512, axis=0)).float()


def elastic_field(
    n: int,
    size: int,
    generator: Generator,
) -> Tensor:
    """Random displacement fields for elastic deformation.

    Uniform noise U(−1000, 1000) per pixel of a 512×512 image, smoothed with a Gaussian filter of
    sigma 100 pixels. It is drawn on a coarse grid (a cell is the mean of the pixels in it) and
    interpolated: the same field but for detail far below sigma.

    Args:
        n: number of fields.
        size: side of the images [pixels]; the field scales with it.
        generator: the source of the noise.

    Returns:
        (n, 2, size, size) displacement in x and y [pixels of the image].

    Source: paper, section 2.4.
    """
    deviation = 1000 / 3**0.5 * GRID / 512
    noise = torch.randn(n, 2, GRID, GRID, generator=generator) * deviation
    field = SMOOTHING @ noise @ SMOOTHING.T * (size / 512)
    return functional.interpolate(field, size=(size, size), mode="bicubic", align_corners=False)


def warp(
    images: Tensor,
    labels: Tensor,
    field: Tensor,
    *,
    matrix: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Move the pixels of images (cubic spline) and labels (nearest), repeating the border.

    Args:
        images: (N, 1, H, H).
        labels: (N, H, H) int64.
        field: (N, 2, H, H) displacement in x and y [pixels].
        matrix: (N, 2, 3) affine maps from output to input coordinates in [−1, 1]; None for the
            identity.

    Returns:
        The moved images and labels.

    Source: paper, section 2.4.
    """
    if matrix is None:
        matrix = torch.eye(2, 3).expand(len(images), 2, 3)
    grid = functional.affine_grid(matrix.to(images), list(images.shape), align_corners=False)
    grid = grid + field.permute(0, 2, 3, 1).to(images) * (2 / images.shape[-1])
    sample = partial(
        functional.grid_sample,
        grid=grid,
        padding_mode="border",
        align_corners=False,
    )
    moved = sample(images, mode="bicubic")
    classes = sample(labels[:, None].float(), mode="nearest")
    return moved.clamp(-1, 1), classes[:, 0].long()


def augment(
    images: Tensor,
    labels: Tensor,
    generator: Generator,
    augmentation: str,
) -> tuple[Tensor, Tensor]:
    """Random changes to a batch: grain and world to all samples, each of the others to half.

    elastic: the paper's deformation. affine: rotation ±10°, scale .87–1.15, aspect ±5 %, shift
    ±8 %. intensity: gamma .63–1.6, contrast .7–1.3, brightness ±.2. grain: Gaussian noise, its
    standard deviation 0–.06 in each image. world: `world.randomise`.

    Args:
        images, labels: (N, 1, H, H) in [−1, 1] and (N, H, H).
        generator: the same numbers are drawn whatever is switched on; more of them for grain and
            world.
        augmentation: words of "elastic affine intensity grain world".

    Returns:
        The changed images and labels.
    """
    n = len(images)
    half = torch.rand(n, 3, generator=generator) < 0.5
    draw = torch.rand(n, 8, generator=generator) * 2 - 1
    field = elastic_field(n, images.shape[-1], generator)
    chosen = half & torch.tensor([word in augmentation for word in MILD])
    elastic, affine, intensity = chosen[..., None, None].unbind(dim=1)  # (N, 1, 1) each
    matrix = affine_maps(draw, affine)
    moving = (elastic | affine).to(images.device)
    if moving.any():
        moved, classes = warp(images, labels, field * elastic[:, None], matrix=matrix)
        images = torch.where(moving[:, None], moved, images)
        labels = torch.where(moving, classes, labels)
    images = change_intensity(images, draw[:, 5:], intensity)
    if "grain" in augmentation:
        images = add_grain(images, generator)
    return randomise(images, labels, generator) if "world" in augmentation else (images, labels)


def add_grain(images: Tensor, generator: Generator) -> Tensor:
    """Images (N, 1, H, W) with Gaussian noise, its standard deviation 0–GRAIN in each image."""
    deviation = GRAIN * torch.rand(len(images), 1, 1, 1, generator=generator)
    noise = torch.randn(images.shape, generator=generator) * deviation
    return (images + noise.to(images)).clamp(-1, 1)


def change_intensity(images: Tensor, draw: Tensor, chosen: Tensor) -> Tensor:
    """Images (N, 1, H, W) with gamma, contrast and brightness by numbers (N, 3) in [−1, 1].

    Those that are not chosen, bool (N, 1, 1), stay as they are.
    """
    gamma, gain, shift = draw[..., None, None, None].unbind(dim=1)  # (N, 1, 1, 1) each
    changed = ((images + 1) / 2).clamp(0, 1)
    black = changed == 0  # whose power has an infinite gradient
    changed = changed.masked_fill(black, 1) ** (1.6**gamma).to(images)
    changed = changed.masked_fill(black, 0) * 2 - 1
    changed = changed * (1 + 0.3 * gain).to(images)
    changed = changed + (0.2 * shift).to(images)
    return torch.where(chosen[:, None].to(images.device), changed.clamp(-1, 1), images)


def affine_maps(draw: Tensor, chosen: Tensor) -> Tensor:
    """(N, 2, 3) maps, as of `warp`, from the first five columns of numbers in [−1, 1].

    Where not chosen, bool (N, 1, 1), it is the identity.
    """
    turn, scale, aspect, right, down = draw[:, :5].unbind(dim=1)
    angle = turn * math.pi / 18
    scale = 1.15**scale
    aspect = 1.05**aspect
    rows = [
        angle.cos() * scale * aspect,
        -angle.sin() * scale,
        0.16 * right,
        angle.sin() * scale,
        angle.cos() * scale / aspect,
        0.16 * down,
    ]
    maps = torch.stack(rows, dim=1).reshape(-1, 2, 3)
    return torch.where(chosen, maps, torch.eye(2, 3))
