"""Phantoms as the world's radiographs vary: pose, disease, devices, film and detector."""

import math
from functools import lru_cache

import torch
from torch import Generator, Tensor
from torch.nn import functional

from helpers.phantom import STRUCTURES

HEART, *CLAVICLES, LEFT_LUNG, RIGHT_LUNG = range(1, len(STRUCTURES) + 1)
LUNGS = LEFT_LUNG, RIGHT_LUNG


class Dice:
    """Random numbers of one sample, from a seed of its own."""

    def __init__(self, seed: int) -> None:
        self.generator = Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers from `low` to `high`."""
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def number(self, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        return self.uniform(low, high).item()

    def chance(self, probability: float) -> bool:
        """True in this share of all draws."""
        return self.number(0, 1) < probability

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator)

    def field(self, cells: float, size: int) -> Tensor:
        """Smooth noise (size, size) of unit variance with so many grains across."""
        weights = _weights(math.ceil(cells), size)
        count = weights.shape[1]
        return weights @ self.normal(count, count) @ weights.T


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
    images, Billot et al. (SynthSeg), arXiv:2107.09559.
    """
    seeds = torch.randint(2**62, (len(images),), generator=generator).tolist()
    changed = torch.empty_like(images)
    moved = torch.empty_like(labels)
    for row, seed in enumerate(seeds):
        image = images[row, 0].cpu()
        label = labels[row].cpu()
        changed[row, 0], moved[row] = _change(image, label, Dice(seed))
    return changed, moved


def _change(image, label, dice):
    image = (image + 1) / 2
    image = _tissue(image, label, dice)
    if all((label == structure).any() for structure in (HEART, *LUNGS)):
        image = _diseases(image, label, dice)
        image = _bowel(image, label, dice)
    image, label = _pose(image, label, dice)
    image = _devices(image, dice)
    image = _film(image, dice)
    image, label = _borders(image, label, dice)
    image = _detector(image, dice)
    return 2 * _stretch(image) - 1, label


def _stretch(image):
    """From the minimum to the maximum, as 0 to 1."""
    low, high = image.aminmax()
    span = (high - low).clamp(min=1e-6)
    return ((image - low) / span).clamp(0, 1)


# ---- The patient


def _tissue(image, label, dice):
    """Other densities of the structures."""
    offsets = 0.1 * dice.normal(len(STRUCTURES) + 1)
    offsets[CLAVICLES] += dice.number(0, 0.3)  # bones that are seen, or the place is learnt instead
    return image + _blur(offsets[label], 0.015)


def _diseases(image, label, dice):
    """In a lung: denser patterns, consolidation, and an effusion that rises at the wall."""
    size = len(image)
    dense = image[label == HEART].mean()
    x, y = _axes(size)
    for lung in LUNGS:
        mask = label == lung
        inside = _blur(mask.float(), 0.01)
        if dice.chance(0.4):
            strength = dice.number(0, 0.06)
            pattern = dice.field(dice.number(10, 48), size)
            image = image + strength * inside * pattern
        if dice.chance(0.4):
            spots = torch.sigmoid(4 * dice.field(4, size) - dice.number(0, 6))
            strength = dice.number(0.2, 0.7)
            image = torch.lerp(image, dense, strength * inside * spots)
        if dice.chance(0.1):
            top, foot = y[mask.any(dim=1)].aminmax()
            outwards = x - 0.5 if lung == LEFT_LUNG else 0.5 - x
            height = dice.number(0, 0.15)
            level = torch.lerp(foot, top, height) - outwards.clamp(min=0) ** 2
            softness = dice.number(0.01, 0.04)
            fluid = torch.sigmoid((y - level) / softness)
            image = torch.lerp(image, dense, inside * fluid)
    return image


def _bowel(image, label, dice):
    """Gas below the lungs."""
    if dice.chance(0.5):
        return image
    size = len(image)
    y = _axes(size)[1]
    foot = y[(label == RIGHT_LUNG).any(dim=1)].amax()
    belly = torch.sigmoid((y - foot) / 0.02)
    bubbles = dice.field(dice.number(5, 16), size)
    gas = torch.sigmoid(6 * bubbles - dice.number(4, 9))
    return image - dice.number(0.1, 0.6) * belly * gas


def _pose(image, label, dice):
    """Turn, zoom, cut and bend; let the heart grow and the diaphragm rise. Labels move alike."""
    size = len(image)
    shape = [1, 1, size, size]
    grid = functional.affine_grid(_affine(dice)[None], shape, align_corners=False)[0]
    bends = [dice.field(6, size), dice.field(6, size)]
    grid = grid + 0.05 * torch.stack(bends, dim=-1)
    for structure in (HEART, *LUNGS):
        places = 2 * (label == structure).nonzero().flip(1) / size - 1
        if dice.chance(0.5) or not len(places):
            continue
        if structure == HEART:  # grow or shrink around its middle
            away = grid - places.mean(dim=0)
            bell = torch.exp(-away.square().sum(dim=-1, keepdim=True) / 0.18)
            grid = grid - dice.number(-0.3, 0.4) * bell * away
        else:  # rise or sink around the dome
            dome = torch.stack([places[:, 0].mean(), places[:, 1].max()])
            away = (grid - dome) ** 2 / torch.tensor([0.12, 0.25])
            bell = torch.exp(-away.sum(dim=-1))
            grid[..., 1] += dice.number(-0.1, 0.4) * bell
    edge = "border" if dice.chance(0.4) else "zeros"
    beyond = dice.number(0, 1) if dice.chance(0.3) else 0.0
    image = _sample(image - beyond, grid, "bilinear", edge) + beyond
    return image, _sample(label.float(), grid, "nearest", "zeros").long()


def _affine(dice):
    """A map (2, 3) from output to input coordinates in [−1, 1]."""
    angle = math.radians(dice.number(-14, 14))
    scale = math.exp(dice.number(-0.25, 0.35))  # above 1, the patient is smaller
    aspect = math.exp(dice.number(-0.2, 0.2))
    shear = dice.number(-0.1, 0.1)
    cos = scale * math.cos(angle)
    sin = scale * math.sin(angle)
    across = [cos * aspect, shear - sin, dice.number(-0.3, 0.3)]
    down = [sin, cos / aspect, dice.number(-0.4, 0.4)]
    return torch.tensor([across, down])


def _sample(plane, grid, mode, edge):
    moved = functional.grid_sample(plane[None, None], grid[None], mode, edge, align_corners=False)
    return moved[0, 0]


# ---- On the patient


def _devices(image, dice):
    """Tubes and wires, letters, and metal: electrodes, pacemakers, prostheses."""
    size = len(image)
    width = dice.number(0.002, 0.006)
    plate = torch.zeros(size, size)
    for _ in range(int(dice.number(0, 4))):
        knots = dice.uniform(-0.1, 1.1, 4, 2)
        _draw(plate, _bow(knots, 3 * size), dice.number(0.1, 0.6))
    for _ in range(int(dice.number(0, 3))):
        corner = dice.uniform(0.02, 0.95, 2)
        height = dice.number(0.02, 0.06)
        knots = corner + height * dice.uniform(0, 1, 4, 2)
        _draw(plate, _bow(knots, size), dice.number(0.3, 1))
    image = image + _blur(plate, width) * width * size * math.sqrt(2 * math.pi)
    x, y = _axes(size)
    for _ in range(int(dice.number(0, 4))):
        radius = math.exp(dice.number(-5, -2.2))
        power = dice.number(2, 6)
        across = (x - dice.number(0, 1)).abs() / radius
        down = (y - dice.number(0, 1)).abs() / radius * dice.number(0.6, 1.5)
        inside = 1 - across**power - down**power
        image = image + dice.number(0.1, 0.6) * torch.sigmoid(8 * inside)
    return image


def _bow(knots, n):
    """`n` points (n, 2) of the Bézier curve of four knots (4, 2)."""
    t = torch.linspace(0, 1, n)[:, None]
    s = 1 - t
    return torch.cat([s**3, 3 * t * s**2, 3 * t**2 * s, t**3], dim=1) @ knots


def _draw(plate, points, height):
    places = (points * len(plate)).floor().long()
    seen = ((places >= 0) & (places < len(plate))).all(dim=1)
    plate[places[seen, 1], places[seen, 0]] = height


# ---- The film and the detector


def _film(image, dice):
    """Uneven exposure and scatter, and another response."""
    size = len(image)
    image = image * torch.exp(0.2 * dice.field(3, size))
    image = image + 0.12 * dice.field(4, size) + 0.04 * dice.field(12, size)
    gamma = math.exp(dice.number(-1, 1))
    image = _stretch(image) ** gamma
    steps = torch.exp(0.7 * dice.normal(7))
    curve = functional.pad(steps.cumsum(dim=0), (1, 0)) / steps.sum()
    place = 6.999 * image
    low = place.long()
    return torch.lerp(curve[low], curve[low + 1], place - low)


def _borders(image, label, dice):
    """Collimation: beyond it nothing is seen, and nothing labelled."""
    if dice.chance(0.6):
        return image, label
    x, y = _axes(len(image))
    tilt = dice.number(-0.05, 0.05)
    left, right, top, bottom = dice.uniform(-0.1, 0.12, 4)
    across = x + tilt * y
    down = y - tilt * x
    seen = (across > left) & (across < 1 - right)
    seen = seen & (down > top) & (down < 1 - bottom)
    shade = dice.number(0, 1) if dice.chance(0.3) else float(dice.chance(0.5))
    return torch.where(seen, image, shade), torch.where(seen, label, 0)


def _detector(image, dice):
    """Edges enhanced or blurred, noise, and clipping."""
    if dice.chance(0.4):
        detail = image - _blur(image, dice.number(0.01, 0.12))
        image = image + dice.number(0, 1.5) * detail
    image = _blur(image, dice.number(0.001, 0.0094))
    image = image + dice.number(0, 0.04) * dice.normal(*image.shape)
    if dice.chance(0.5):
        ends = torch.tensor([dice.number(0, 0.02), dice.number(0.98, 1)])
        low, high = image[::3, ::3].flatten().quantile(ends).tolist()
        image = image.clamp(low, high)
    return image


def _axes(size):
    """Columns (size,) and rows (size, 1) of the pixels' centres [image widths]."""
    axis = (torch.arange(size) + 0.5) / size
    return axis, axis[:, None]


def _blur(plane, sigma):
    """Gaussian blur of a plane (H, H); sigma in image widths."""
    x, y = _axes(len(plane))
    kernel = torch.exp(-0.5 * ((x - y) / sigma) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    return kernel @ plane @ kernel.T
