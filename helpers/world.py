"""Phantoms as the world's radiographs vary: pose, disease, devices, film and detector."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from helpers.phantom import STRUCTURES

HEART, *CLAVICLES, LEFT_LUNG, RIGHT_LUNG = range(1, len(STRUCTURES) + 1)
LUNGS = LEFT_LUNG, RIGHT_LUNG


def _normal(rng, *shape):
    """Standard normal numbers."""
    return torch.from_numpy(rng.standard_normal(shape, np.float32))


def _field(rng, cells, image):
    """Smooth noise (H, H) of unit variance with so many grains across an image (H, H)."""
    weights = _weights(math.ceil(cells), len(image))
    count = weights.shape[1]
    return weights @ _normal(rng, count, count) @ weights.T


@lru_cache(maxsize=64)
def _weights(cells, size):
    """Weight (size, cells + 4) of each knot of a smooth field; their squares sum to 1."""
    place = (torch.arange(size) + 0.5) * cells / size
    knots = torch.arange(-2, cells + 2) + 0.5
    away = (place[:, None] - knots) / 0.8
    return functional.normalize(torch.exp(-(away**2)), dim=1)


def randomise(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Each phantom as another patient, device and film might show it, with its labels.

    Args:
        images, labels: (N, 1, H, H) in [−1, 1] and (N, H, H).
        generator: gives each sample its seed, so that samples do not depend on their batch.

    Returns:
        The changed images, each scaled from its minimum to its maximum, and the labels, which
        moved with the pixels; 0 beyond the picture.

    Source: domain randomisation, Tobin et al., arXiv:1703.06907; for the segmentation of medical
    images, Billot et al. (SynthSeg), arXiv:2107.09559. Zoom as in nnU-Net (.7–1.4, Isensee et al.,
    arXiv:1809.10486), whose gamma of .7–1.5 is exceeded: films differ more (.37–2.7). The other
    ranges are of our own making.
    """
    seeds = torch.randint(2**62, (len(images),), generator=generator).tolist()
    changed = torch.empty_like(images)
    moved = torch.empty_like(labels)
    for row, seed in enumerate(seeds):
        image = images[row, 0].cpu()
        label = labels[row].cpu()
        changed[row, 0], moved[row] = _change(image, label, np.random.default_rng(seed))
    return changed, moved


def _change(image, label, rng):
    image = (image + 1) / 2
    image = _tissue(image, label, rng)
    if all((label == structure).any() for structure in (HEART, *LUNGS)):
        image, label = _diseases(image, label, rng)
        image = _outside(image, label, rng)
    image, label = _pose(image, label, rng)
    image = _devices(image, rng)
    image = _film(image, rng)
    image, label = _borders(image, label, rng)
    image = _detector(image, rng)
    return 2 * _stretch(image) - 1, label


def _stretch(image):
    """From the minimum to the maximum, as 0 to 1."""
    low, high = image.aminmax()
    span = (high - low).clamp(min=1e-6)
    return ((image - low) / span).clamp(0, 1)


# ---- The patient


def _tissue(image, label, rng):
    """Other densities of the structures."""
    offsets = 0.05 * _normal(rng, len(STRUCTURES) + 1)
    offsets[CLAVICLES] += rng.uniform(0, 0.3)  # bones that are seen, or the place is learnt instead
    return image + _blur(offsets[label], 0.015)


def _diseases(image, label, rng):
    """In a lung: denser patterns, consolidation, and an effusion that rises at the wall.

    An observer outlines the lung above an effusion, as far as it is seen.
    """
    seen = label
    dense = image[label == HEART].mean()
    x, y = _axes(image)
    for lung in LUNGS:
        mask = label == lung
        inside = _blur(mask.float(), 0.01)
        if rng.random() < 0.4:
            strength = rng.uniform(0, 0.06)
            pattern = _field(rng, rng.uniform(10, 48), image)
            image = image + strength * inside * pattern
        if rng.random() < 0.3:
            spots = torch.sigmoid(4 * _field(rng, 4, image) - rng.uniform(0, 6))
            strength = rng.uniform(0.1, 0.5)
            image = torch.lerp(image, dense, strength * inside * spots)
        if rng.random() < 0.1:
            top, foot = y[mask.any(dim=1)].aminmax()
            outwards = x - 0.5 if lung == LEFT_LUNG else 0.5 - x
            height = rng.uniform(0, 0.15)
            level = torch.lerp(foot, top, height) - outwards.clamp(min=0) ** 2
            softness = rng.uniform(0.01, 0.04)
            fluid = torch.sigmoid((y - level) / softness)
            image = torch.lerp(image, dense, inside * fluid)
            seen = seen.masked_fill(mask & (fluid > 0.5), 0)
    return image, seen


def _outside(image, label, rng):
    """Gas, fat and bones around the lungs: blobs, dark and bright, and fine patterns."""
    chest = (label > 0).float()
    around = (1 - _blur(chest, 0.02) * 2).clamp(min=0)
    for _ in range(2):
        if rng.random() < 0.6:
            grains = _field(rng, rng.uniform(4, 16), image)
            blobs = torch.sigmoid(6 * grains - rng.uniform(3, 9))
            image = image + rng.uniform(-0.6, 0.4) * around * blobs
        if rng.random() < 0.5:
            pattern = _field(rng, rng.uniform(8, 64), image)
            image = image + rng.uniform(0, 0.08) * around * pattern
    return image


def _pose(image, label, rng):
    """Turn, zoom, cut and bend; labels go along."""
    shape = [1, 1, *image.shape]
    grid = functional.affine_grid(_affine(rng)[None], shape, align_corners=False)[0]
    bends = [_field(rng, 6, image), _field(rng, 6, image)]
    grid = grid + 0.03 * torch.stack(bends, dim=-1)
    edge = "border" if rng.random() < 0.4 else "zeros"
    beyond = rng.uniform(0, 1) if rng.random() < 0.3 else 0.0
    image = _sample(image - beyond, grid, "bilinear", edge) + beyond
    return image, _sample(label.float(), grid, "nearest", "zeros").long()


def _affine(rng):
    """A map (2, 3) from output to input coordinates in [−1, 1]."""
    angle = math.radians(rng.uniform(-14, 14))
    scale = math.exp(rng.uniform(-0.3, 0.2))  # above 1, the patient is smaller
    aspect = math.exp(rng.uniform(-0.2, 0.2))
    shear = rng.uniform(-0.1, 0.1)
    cos = scale * math.cos(angle)
    sin = scale * math.sin(angle)
    across = [cos * aspect, shear - sin, rng.uniform(-0.2, 0.2)]
    down = [sin, cos / aspect, rng.uniform(-0.3, 0.3)]
    return torch.tensor([across, down])


def _sample(plane, grid, mode, edge):
    moved = functional.grid_sample(plane[None, None], grid[None], mode, edge, align_corners=False)
    return moved[0, 0]


# ---- On the patient


def _devices(image, rng):
    """Tubes and wires, letters, and metal: electrodes, pacemakers, prostheses."""
    size = len(image)
    width = rng.uniform(0.002, 0.006)
    plate = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(4)):
        knots = rng.uniform(-0.1, 1.1, (4, 2))
        _draw(plate, _bow(knots, 3 * size), rng.uniform(0.1, 0.6))
    for _ in range(rng.integers(3)):
        corner = rng.uniform(0.02, 0.95, 2)
        height = rng.uniform(0.02, 0.06)
        knots = corner + height * rng.uniform(0, 1, (4, 2))
        _draw(plate, _bow(knots, size), rng.uniform(0.3, 1))
    lines = _blur(torch.from_numpy(plate), width) * width * size * math.sqrt(2 * math.pi)
    image = image + lines
    x, y = _axes(image)
    for _ in range(rng.integers(4)):
        radius = math.exp(rng.uniform(-5, -2.5))
        power = rng.uniform(2, 6)
        across = (x - rng.uniform(0, 1)).abs() / radius
        down = (y - rng.uniform(0, 1)).abs() / radius * rng.uniform(0.6, 1.5)
        inside = 1 - across**power - down**power
        image = image + rng.uniform(0.1, 0.6) * torch.sigmoid(8 * inside)
    return image


def _bow(knots, n):
    """`n` points (n, 2) of the Bézier curve of four knots (4, 2)."""
    t = np.linspace(0, 1, n)
    s = 1 - t
    return np.stack([s**3, 3 * t * s**2, 3 * t**2 * s, t**3], axis=1) @ knots


def _draw(plate, points, height):
    places = np.floor(points * len(plate)).astype(int)
    seen = ((places >= 0) & (places < len(plate))).all(axis=1)
    x, y = places[seen].T
    plate[y, x] = height


# ---- The film and the detector


def _film(image, rng):
    """Uneven exposure and scatter, and another response."""
    image = image * torch.exp(0.15 * _field(rng, 3, image))
    image = image + 0.07 * _field(rng, 4, image) + 0.03 * _field(rng, 12, image)
    gamma = math.exp(rng.uniform(-0.8, 0.8))
    image = _stretch(image) ** gamma
    steps = torch.exp(0.5 * _normal(rng, 7))
    curve = functional.pad(steps.cumsum(dim=0), (1, 0)) / steps.sum()
    place = 6.999 * image
    low = place.long()
    return torch.lerp(curve[low], curve[low + 1], place - low)


def _borders(image, label, rng):
    """Collimation: beyond it nothing is seen, and nothing labelled."""
    if rng.random() < 0.6:
        return image, label
    x, y = _axes(image)
    tilt = rng.uniform(-0.05, 0.05)
    left, right, top, bottom = rng.uniform(-0.1, 0.12, 4)
    across = x + tilt * y
    down = y - tilt * x
    seen = (across > left) & (across < 1 - right)
    seen = seen & (down > top) & (down < 1 - bottom)
    shade = rng.uniform(0, 1) if rng.random() < 0.3 else rng.integers(2).item()
    return torch.where(seen, image, shade), torch.where(seen, label, 0)


def _detector(image, rng):
    """Edges enhanced or blurred, noise, and clipping."""
    if rng.random() < 0.4:
        detail = image - _blur(image, rng.uniform(0.01, 0.12))
        image = image + rng.uniform(0, 1.5) * detail
    image = _blur(image, rng.uniform(0.001, 0.0094))
    image = image + rng.uniform(0, 0.04) * _normal(rng, *image.shape)
    if rng.random() < 0.5:
        ends = torch.tensor([rng.uniform(0, 0.02), rng.uniform(0.98, 1)])
        low, high = image[::3, ::3].flatten().quantile(ends).tolist()
        image = image.clamp(low, high)
    return image


def _axes(image):
    """Columns (H,) and rows (H, 1) of the pixels' centres of an image (H, H) [image widths]."""
    axis = (torch.arange(len(image)) + 0.5) / len(image)
    return axis, axis[:, None]


def _blur(plane, sigma):
    """Gaussian blur of a plane (H, H); sigma in image widths."""
    x, y = _axes(plane)
    kernel = torch.exp(-0.5 * ((x - y) / sigma) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    return kernel @ plane @ kernel.T
