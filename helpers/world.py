"""Phantoms as the world's radiographs vary: pose, disease, devices, film and detector."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

BACKGROUND, HEART, LEFT_LUNG, RIGHT_LUNG = 0, 1, 4, 5


class Dice:
    """Random numbers of one sample, from a seed of its own."""

    def __init__(self, seed: int) -> None:
        self.generator = Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, n: int = 1) -> Tensor:
        """Numbers (n,) from `low` to `high`."""
        return low + (high - low) * torch.rand(n, generator=self.generator)

    def number(self, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        return self.uniform(low, high).item()

    def count(self, most: int) -> range:
        """A range of 0 to `most` items."""
        return range(int(self.number(0, most + 1)))

    def chance(self, probability: float) -> bool:
        """True in this share of all cases."""
        return self.number(0, 1) < probability

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self.generator)

    def field(self, cells: int, size: int) -> Tensor:
        """Smooth noise (size, size) with so many grains across."""
        return _resize(self.normal(cells, cells), size)


def randomise(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Each sample as another patient, device and film might show it, with its labels.

    Args:
        images, labels: (N, 1, H, H) in [−1, 1] and (N, H, H), of phantoms.
        generator: gives each sample its seed.

    Returns:
        The changed images, each scaled from its minimum to its maximum, and the labels.

    Source: domain randomisation after Tobin et al., arXiv:1703.06907, and for medical images
    Billot et al. (SynthSeg), arXiv:2107.09559.
    """
    seeds = torch.randint(2**62, (len(images),), generator=generator).tolist()
    changed = []
    for image, label, seed in zip(images.cpu(), labels.cpu(), seeds, strict=True):
        changed.append(_change((image[0] + 1) / 2, label, Dice(seed)))
    parts = [torch.stack(part) for part in zip(*changed, strict=True)]
    return parts[0][:, None].to(images.device), parts[1].to(labels.device)


def _change(image, label, dice):
    image = _tissue(image, label, dice)
    image, label = _pose(image, label, dice)
    image = _devices(image, dice)
    image = _film(image, dice)
    image, label = _borders(image, label, dice)
    image = _detector(image, dice)
    low, high = image.min(), image.max()
    return (image - low) / (high - low).clamp(min=1e-6) * 2 - 1, label


# ---- The patient


def _tissue(image, label, dice):
    """Other densities of the structures, diseases of the lungs, and gas in the bowel."""
    size = len(image)
    offsets = 0.1 * dice.normal(int(label.max()) + 1)
    image = image + _blur(offsets[label], 0.015 * size)
    dense = image[label == HEART].mean() if (label == HEART).any() else image.mean()
    rows = torch.linspace(0, 1, size)[:, None]
    for side in (LEFT_LUNG, RIGHT_LUNG):
        lung = label == side
        if not lung.any():
            continue
        inside = _blur(lung.float(), 0.01 * size)
        if dice.chance(0.5):  # patterns of the interstitium
            grains = int(dice.number(12, 48))
            image = image + inside * dice.number(0, 0.06) * dice.field(grains, size)
        if dice.chance(0.4):  # consolidation
            spots = torch.sigmoid(4 * dice.field(5, size) - dice.number(0, 6))
            image = image + inside * spots * dice.number(0.2, 1) * (dense - image)
        if dice.chance(0.2):  # an effusion, higher at the wall
            top, foot = lung.any(1).nonzero().aminmax()
            level = foot - dice.number(0.05, 0.4) * (foot - top)
            wall = torch.linspace(-1, 1, size) * (1 if side == LEFT_LUNG else -1)
            level = level / size - 0.15 * wall.clamp(min=0) ** 2
            fluid = torch.sigmoid((rows - level) / dice.number(0.01, 0.04))
            image = image + inside * fluid * (dense - image)
    if dice.chance(0.5) and (label >= LEFT_LUNG).any():
        foot = (label >= LEFT_LUNG).any(1).nonzero().max() / size
        belly = torch.sigmoid((rows - foot) / 0.02)
        gas = torch.sigmoid(6 * dice.field(int(dice.number(6, 16)), size) - dice.number(4, 9))
        image = image - belly * gas * dice.number(0.1, 0.6)
    return image


def _pose(image, label, dice):
    """Turn, zoom, cut and bend; let the heart grow and the diaphragm rise. Labels move alike."""
    size = len(image)
    matrix = _affine(dice)
    grid = functional.affine_grid(matrix[None], [1, 1, size, size], align_corners=False)[0]
    grid = grid + 2 * 0.03 * torch.stack([dice.field(6, size), dice.field(6, size)], dim=-1)
    for structure in (HEART, LEFT_LUNG, RIGHT_LUNG):
        places = (label == structure).nonzero().flip(1).float()
        if dice.chance(0.4) and len(places):
            x, y = ((places + 0.5) / size * 2 - 1).unbind(1)
            if structure == HEART:  # about its middle
                away = grid - torch.stack([x.mean(), y.mean()])
                bell = torch.exp(-away.square().sum(-1, keepdim=True) / 0.18)
                grid = grid - dice.number(-0.3, 0.4) * bell * away
            else:  # up or down around the dome
                away = grid - torch.stack([x.mean(), y.max()])
                bell = torch.exp(-(away**2 / torch.tensor([0.12, 0.25])).sum(-1))
                grid = grid + torch.stack([0 * bell, bell * dice.number(-0.1, 0.3)], dim=-1)
    edge = "border" if dice.chance(0.4) else "zeros"
    fill = dice.number(0, 1) * dice.chance(0.3)  # else black
    moved = _sample(image - fill, grid, "bilinear", edge) + fill
    return moved, _sample(label.float(), grid, "nearest", "zeros").long()


def _affine(dice):
    angle = math.radians(dice.number(-14, 14))
    scale = math.exp(dice.number(-0.25, 0.35))  # above 1: a smaller patient
    aspect = math.exp(dice.number(-0.13, 0.13))
    shear = dice.number(-0.1, 0.1)
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    rows = [
        [cos * aspect, shear - sin, dice.number(-0.3, 0.3)],
        [sin, cos / aspect, dice.number(-0.4, 0.4)],
    ]
    return torch.tensor(rows)


def _sample(plane, grid, mode, edge):
    plane, grid = plane[None, None], grid[None]
    return functional.grid_sample(plane, grid, mode, edge, align_corners=False)[0, 0]


# ---- What lies on the patient


def _devices(image, dice):
    """Tubes, wires with electrodes, letters and metal."""
    size = len(image)
    for _ in dice.count(3):  # tubes and wires
        line = _curve(dice.uniform(-0.1, 1.1, 8).reshape(4, 2), 3 * size)
        image = image + dice.number(0.1, 0.6) * _stroke(line, dice.number(0.002, 0.008), size)
    for _ in dice.count(2):  # letters
        corner, height = dice.uniform(0.02, 0.95, 2), dice.number(0.01, 0.05)
        path = functional.interpolate(dice.uniform(0, 1, 10).reshape(1, 2, 5), size, mode="linear")
        line = corner + height * path[0].T
        image = image + dice.number(0.3, 1) * _stroke(line, 0.003, size)
    for _ in dice.count(3):  # electrodes, pacemakers, pads, prostheses
        place, radius = dice.uniform(0, 1, 2), math.exp(dice.number(-5, -2.2))
        axis = torch.linspace(0, 1, size)
        x, y = axis - place[0], (axis[:, None] - place[1]) * dice.number(0.6, 1.5)
        power = dice.number(2, 6)
        shape = (x.abs() / radius) ** power + (y.abs() / radius) ** power
        image = image + dice.number(0.1, 0.6) * torch.sigmoid(8 * (1 - shape))
    return image


def _curve(knots, n):
    """`n` points (n, 2) of the Bézier curve of four knots (4, 2)."""
    t = torch.linspace(0, 1, n)[:, None]
    a, b, c, d = knots
    return a * (1 - t) ** 3 + 3 * b * t * (1 - t) ** 2 + 3 * c * t**2 * (1 - t) + d * t**3


def _stroke(points, radius, size):
    """A line (size, size) of height 1 through points x, y in image widths."""
    places = (points * size).long()
    places = places[((places >= 0) & (places < size)).all(1)]
    plate = torch.zeros(size, size)
    plate[places[:, 1], places[:, 0]] = 1
    plate = _blur(plate, max(radius * size, 0.5))
    return plate / plate.max().clamp(min=1e-6)


# ---- The film and the detector


def _film(image, dice):
    """Uneven exposure and another response."""
    size = len(image)
    image = image * torch.exp(0.2 * dice.field(3, size))
    image = image + 0.12 * dice.field(4, size) + 0.04 * dice.field(12, size)
    low, high = image.min(), image.max()
    image = ((image - low) / (high - low)).clamp(0, 1) ** math.exp(dice.number(-1, 1))
    steps = torch.exp(0.7 * dice.normal(7))
    curve = torch.cat([torch.zeros(1), steps.cumsum(0)]) / steps.sum()
    place = image * 6.999
    below = place.long()
    return torch.lerp(curve[below], curve[below + 1], place - below)


def _borders(image, label, dice):
    """Collimation: nothing is seen beyond it, and nothing labelled."""
    if dice.chance(0.6):
        return image, label
    size = len(image)
    axis = torch.linspace(0, 1, size)
    left, right, top, bottom = dice.uniform(-0.1, 0.12, 4)
    tilt = dice.number(-0.05, 0.05)
    x, y = axis + tilt * axis[:, None], axis[:, None] - tilt * axis
    open = (x > left) & (x < 1 - right) & (y > top) & (y < 1 - bottom)
    shade = dice.number(0, 1) if dice.chance(0.3) else float(dice.chance(0.5))
    return torch.where(open, image, shade), torch.where(open, label, BACKGROUND)


def _detector(image, dice):
    """Edges enhanced or blurred, noise, and clipping."""
    size = len(image)
    if dice.chance(0.4):
        coarse = _blur(image, dice.number(0.01, 0.12) * size)
        image = image + dice.number(0, 1.5) * (image - coarse)
    image = _blur(image, dice.number(0, 0.0094) * size)
    image = image + dice.number(0, 0.04) * dice.normal(size, size)
    if dice.chance(0.5):
        values = image[::3, ::3].flatten()
        ends = torch.tensor([dice.number(0, 0.02), dice.number(0.98, 1)])
        image = image.clamp(*values.quantile(ends).tolist())
    return image


def _blur(plane, sigma):
    """Gaussian blur, on a coarser grid where sigma is large."""
    if sigma < 0.3:
        return plane
    size = len(plane)
    factor = max(int(sigma / 2), 1)
    cells = math.ceil(size / factor)
    sigma = sigma * cells / size
    reach = min(math.ceil(2.5 * sigma), cells - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    plane = plane[None, None]
    if factor > 1:
        plane = functional.interpolate(plane, (cells, cells), mode="area")
    plane = functional.pad(plane, [reach] * 4, mode="reflect")
    plane = functional.conv2d(plane, kernel[None, None, None])
    plane = functional.conv2d(plane, kernel[None, None, :, None])[0, 0]
    return _resize(plane, size) if factor > 1 else plane


def _resize(plane, size):
    plane = plane[None, None]
    return functional.interpolate(plane, (size, size), mode="bicubic", align_corners=False)[0, 0]
