"""Synthetic posterior–anterior chest radiographs with true masks.

A case is an anatomy sampled from a seed, in coordinates that know no pixels: x from the midline to the image's right
(the patient's left), y downwards, lengths in image widths. Attenuations of tissue, air and bone are summed along each
ray, then exposed, scattered and developed like film. A case has the same anatomy at every size.
"""

from types import SimpleNamespace

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

# Raise it with a change that alters a drawing. The first is the digest of this file's text at the time when that was the
# version, so that the networks and results of then are still found.
VERSION = "9f8af950f13335b76ed8bddebb1f79cb55488b636fddd0ea2ec7d3729547a659"
STRUCTURES = ("heart", "left clavicle", "right clavicle", "left lung", "right lung")
LEFT, RIGHT = 1, -1  # the patient's side, as the sign of x

# What makes a case hard: (low, high) of a uniform distribution, unless said otherwise.
HEART_JITTER = (
    0.0061,
    0.12,
)  # an observer's deviation at jitter=1: rms and correlation length [image widths]
CLAVICLE_JITTER = 0.0025, 0.05
LUNG_JITTER = 0.0026, 0.10
HEART_DEPTH = (
    0.85,
    1.15,
)  # air that the heart displaces [deepest lung]; where it is less than all, lung shines through
RECESS_DEPTH = 0.10, 0.35  # lung behind the diaphragm [deepest lung]
CLAVICLE_DENSITY = 0.26, 0.44  # attenuation along the clavicle's middle
RIB_DENSITY = 0.22, 0.36
SCATTER = 0.12, 0.45  # share of the exposure that comes back blurred
CONTRAST = 0.75, 1.15  # slope of the film's response
NOISE = 0.004, 0.011  # quantum noise, in units of the grey range, at 512 pixels
LUNG_FORM = (
    0.004,
    0.11,
)  # how one lung's border differs from the next: rms and correlation length [image widths]


def draw_case(case, size, *, seed=0, jitter=1.0):
    """Draw one synthetic radiograph and the masks of its five structures.

    Args:
        case: number of the case, 0 or more; with `seed` it decides the anatomy, the film and the observer.
        size: height and width [pixels], 32 or more.
        seed: 0 or more; another seed is another population.
        jitter: strength of the observer's smooth deviations in the masks; 0 draws the true ones, of the same image.

    Returns:
        image: float32 (size, size) in [−1, 1], bright where dense.
        masks: bool (5, size, size) in the order of `STRUCTURES`. Clavicles and lungs overlap. Left and right are the
            patient's: the right lung is on the image's left.

    Raises:
        ValueError: `case`, `size` or `seed` is not a whole number in its range, or `jitter` not a number from 0.
    """
    for name, value, least in (("case", case, 0), ("size", size, 32), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
    if (
        isinstance(jitter, bool)
        or not isinstance(jitter, (int, float, np.number))
        or not 0 <= jitter < np.inf
    ):
        raise ValueError(f"jitter must be a finite number of at least 0, not {jitter!r}")
    streams = np.random.SeedSequence([int(seed), int(case)]).spawn(4)
    body, texture, noise, observer = (np.random.default_rng(stream) for stream in streams)
    anatomy = _sample_anatomy(body)
    canvas = _canvas(int(size), anatomy)
    image = _develop(_attenuation(canvas, anatomy, texture), canvas, anatomy, texture, noise)
    return image, _masks(canvas, anatomy, jitter, observer)


# ------------------------------------------------------------------------------------------------------ anatomy
def _sample_anatomy(rng):
    """One patient and one exposure, as named numbers."""
    uniform = lambda low, high: float(rng.uniform(low, high))  # noqa: E731
    normal = lambda mean, sd: float(mean + sd * np.clip(rng.standard_normal(), -2, 2))  # noqa: E731
    chance = lambda p: bool(rng.random() < p)  # noqa: E731
    a = SimpleNamespace()
    # Position, rib cage and lungs.
    a.rotation, a.scale, a.shift = (
        np.deg2rad(uniform(-3, 3)),
        normal(1, 0.025),
        (normal(0, 0.01), normal(0, 0.01)),
    )
    a.cage, a.apex, a.asymmetry = normal(0.388, 0.013), normal(0.095, 0.012), normal(0, 0.012)
    dome = normal(0.704, 0.024)
    a.dome = {RIGHT: dome, LEFT: dome + normal(0.019, 0.009)}
    a.angle = {side: a.dome[side] + normal(0.085, 0.013) for side in (LEFT, RIGHT)}  # costophrenic
    a.knob, a.form, a.air = normal(0.022, 0.008), int(rng.integers(2**31)), normal(1.62, 0.10)
    a.recess, a.vessels = uniform(*RECESS_DEPTH), uniform(0.75, 1.3)
    # Heart: width from the cardiothoracic ratio, resting on the left dome.
    ratio = float(np.clip(normal(0.475, 0.042), 0.385, 0.575))
    a.heart_size = np.array([ratio * 2 * a.cage, normal(0.338, 0.014) * (ratio / 0.475) ** 0.4])
    bottom = a.dome[LEFT] + normal(0.030, 0.008)
    a.heart_centre = np.array(
        [a.heart_size[0] * normal(0.155, 0.025), bottom - a.heart_size[1] / 2]
    )
    a.heart_axis, a.heart_waves, a.heart_depth = (
        normal(0.60, 0.10),
        rng.normal(0, 0.012, 4),
        uniform(*HEART_DEPTH),
    )
    # Bones.
    a.clavicle_density, a.clavicle_radius = uniform(*CLAVICLE_DENSITY), normal(0.0209, 0.0013)
    a.clavicle_start = normal(0.070, 0.006), a.apex + normal(0.105, 0.012)
    a.clavicle_rise = {side: normal(0.065, 0.025) for side in (LEFT, RIGHT)}
    a.clavicle_bend = {side: normal(0.016, 0.006) for side in (LEFT, RIGHT)}
    a.rib_density, a.rib_step, a.rib_drop = (
        uniform(*RIB_DENSITY),
        normal(0.060, 0.002),
        normal(1, 0.12),
    )
    a.rib_start, a.scapula = a.apex + normal(0.018, 0.008), normal(0, 0.02)
    a.spine_density, a.spine_curve, a.vertebra = (
        uniform(0.18, 0.32),
        normal(0, 0.005),
        uniform(0, 6),
    )
    # Soft tissue.
    a.thickness, a.flesh, a.shoulder, a.arms = (
        normal(2.7, 0.25),
        normal(0.095, 0.025),
        normal(0, 0.025),
        chance(0.3),
    )
    a.breast = uniform(0.15, 0.40) if chance(0.45) else 0.0
    a.breast_shape = normal(0.205, 0.012), normal(0.60, 0.025), normal(0.125, 0.012)
    a.trachea, a.stomach = normal(-0.006, 0.006), uniform(0.25, 0.60) if chance(0.8) else 0.0
    a.stomach_shape = normal(0.165, 0.02), normal(0.095, 0.014), normal(0.055, 0.014)
    # Film.
    a.scatter, a.contrast, a.noise = uniform(*SCATTER), uniform(*CONTRAST), uniform(*NOISE)
    a.brightness, a.tilt = normal(0, 0.035), (normal(0, 0.06), normal(0, 0.05))
    a.marker = str(rng.choice(["", "", "R", "L"]))
    a.marker_place = uniform(0.38, 0.44) * (LEFT if a.marker == "L" else RIGHT), uniform(0.06, 0.2)
    a.patch, a.collimation = chance(0.15), rng.uniform(0, 0.02, 4) * chance(0.2)
    return a


def _half_width(y, a):
    """Half of the rib cage's inner width at height `y`."""
    height, width = (
        [-0.3, 0, 0.08, 0.2, 0.35, 0.55, 0.8, 1, 1.5],
        [0.3, 0.46, 0.62, 0.77, 0.885, 0.96, 1, 0.99, 0.93],
    )
    return a.cage * PchipInterpolator(height, width)((y - a.apex) / (a.angle[RIGHT] - a.apex))


def _dome(x, a, side):
    """Height of the diaphragm's dome at distance |x| from the midline."""
    t = np.clip((np.abs(x) - 0.04) / (a.cage - 0.04), -0.2, 1.1) - 0.42
    fall = (a.angle[side] - a.dome[side]) * (np.maximum(t, 0) / 0.58) ** 2.3
    return a.dome[side] + fall + 0.16 * np.minimum(t, 0) ** 2


def _lung(a, side):
    """Closed outline (700, 2) of all that holds air, the part behind the heart included."""
    if side == RIGHT:
        edge = [(0.070, 0.60), (0.075, 0.52), (0.080, 0.44), (0.072, 0.34), (0.062, 0.26)]
    else:
        edge = [
            (0.055, 0.60),
            (0.060, 0.50),
            (0.090, 0.425),
            (0.078, 0.385),
            (0.065 + a.knob, 0.325),
            (0.062, 0.27),
        ]
    apex = [
        (0.060, 0.085),
        (0.072, 0.045),
        (0.098, 0.013),
        (0.135, 0),
        (0.170, 0.007),
        (0.203, 0.030),
    ]
    wall_y = np.linspace(a.apex + 0.075, a.angle[side] - 0.012, 12)
    wall = np.stack([_half_width(wall_y, a) + a.asymmetry * side * (wall_y - a.apex), wall_y], 1)
    upper = _curve([*edge, *(np.array(apex) + (0, a.apex)), *wall], 160)
    foot = np.linspace(wall[-1, 0] - 0.008, 0.07 if side == RIGHT else 0.10, 60)
    outline = np.concatenate([upper, np.stack([foot, _dome(foot, a, side)], 1), upper[:1]])
    return _wander(np.random.default_rng(a.form), LUNG_FORM, _curve(outline, 701)[:-1] * (side, 1))[
        0
    ]


def _heart(a):
    """Centre (2,) of the heart and its closed outline (360, 2), in which each direction occurs once."""
    t = np.linspace(-np.pi, np.pi, 361)[:-1]
    turned = t - a.heart_axis
    r = 1 + 0.11 * np.cos(2 * turned) + 0.075 * np.cos(3 * turned) - 0.015 * np.cos(4 * turned)
    r += sum(wave * np.cos(k * (t + 7 * a.heart_axis)) for k, wave in enumerate(a.heart_waves, 2))
    outline = r[:, None] * np.stack([np.cos(t), np.sin(t)], 1)
    stretch = a.heart_size / np.ptp(outline, axis=0)
    centre = a.heart_centre - stretch * (outline.max(0) + outline.min(0)) / 2
    return centre, centre + stretch * outline


def _clavicle(a, side):
    """Line (160, 2) from sternum to shoulder, radius (160,), and the outline (300, 2) as readers draw it."""
    (x, y), t = a.clavicle_start, np.linspace(0, 1, 160)
    x = x + (0.42 - x) * t
    y = (
        y
        - a.clavicle_rise[side] * t
        - a.clavicle_bend[side] * np.sin(2 * np.pi * t)
        + 0.3 * side * a.asymmetry
    )
    radius = a.clavicle_radius * (1 + 0.22 * np.exp(-((t / 0.15) ** 2)) + 0.12 * t)
    line, drawn = np.stack([side * x, y], 1), x < _half_width(y, a) + 0.004  # over the ribs
    across = np.gradient(line, axis=0)[:, ::-1] * (-1, 1)
    across *= (radius / np.linalg.norm(across, axis=1))[:, None]
    t = np.linspace(-np.pi / 2, np.pi / 2, 20)[:, None]  # the round medial end
    end = line[0] + np.sin(t) * across[0] + np.cos(t) * across[0, ::-1] * (-1, 1)
    outline = np.concatenate([(line + across)[drawn], (line - across)[drawn][::-1], end[1:-1]])
    return line, radius, _curve([*outline, outline[0]], 301)[:-1]


def _ribs(a):
    """Posterior and anterior halves of eleven pairs of ribs, each a helix, as tubes (line, radius, weight)."""
    posterior, anterior = [], []
    for k in range(11):
        drop = a.rib_drop * (0.055 + 0.090 * (1 - np.exp(-k / 2.5)) + 0.004 * k)
        start = a.rib_start + a.rib_step * k
        width = _half_width(start + drop, a) + 0.006
        phi = np.linspace(
            0.04, np.deg2rad(146 - 4 * k), 140
        )  # from the spine around the side to the front
        rise = drop * (0.55 * (1 - np.cos(phi)) + 0.45 * phi / (np.pi / 2))
        helix = np.stack([width * np.sin(phi), start + rise, 0.75 * width * np.cos(phi)], 1)
        step = np.gradient(helix, axis=0)
        along = np.linalg.norm(step, axis=1) / np.linalg.norm(
            step[:, :2], axis=1
        )  # the ray's path through the rib
        weight = (
            np.minimum(along, 1.7) * _ramp((phi + 0.02) / 0.3) * _ramp((phi[-1] - phi) / 0.3)
        )  # cartilage is clear
        front = _ramp((phi - np.deg2rad(75)) / np.deg2rad(30))
        for side in (LEFT, RIGHT):
            for half, share, radius in (
                (posterior, 1 - front, 0.0115),
                (anterior, 0.85 * front, 0.0130),
            ):
                part = share > 0
                half.append(
                    (helix[part, :2] * (side, 1), radius + 0.0003 * k, (weight * share)[part])
                )
    return posterior, anterior


# ----------------------------------------------------------------------------------------------------- geometry
def _canvas(size, a):
    """The pixel grid: coordinates x, y (size, size) of the pixels' centres, and the ways back to pixels."""
    cos, sin = a.scale * np.cos(a.rotation), a.scale * np.sin(a.rotation)
    turn, middle = np.array([[cos, -sin], [sin, cos]]), np.array([0.5, 0.5]) + a.shift
    edge = (np.arange(size) + 0.5) / size
    x, y = np.tensordot(
        np.linalg.inv(turn), np.meshgrid(edge - middle[0], edge - middle[1]), 1
    ).astype(np.float32)
    pixels = lambda points: ((np.asarray(points) - (0, 0.5)) @ turn.T + middle) * size - 0.5  # noqa: E731
    return SimpleNamespace(
        size=size, x=x, y=y + np.float32(0.5), edge=edge, pixels=pixels, unit=a.scale * size
    )


def _curve(points, n):
    """`n` evenly spaced points (n, 2) of a curve through the given ones that does not overshoot."""
    along = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    return PchipInterpolator(along, points)(np.linspace(0, along[-1], n))


def _wander(rng, strength, *outlines, scale=1.0):
    """Outlines displaced by one smooth random field; `strength` is its rms, times `scale`, and correlation length."""
    (rms, length), points = strength, np.concatenate(outlines)
    knots = np.arange(-0.7, 1.2, length)
    weights = np.exp(-0.5 * ((points[:, :, None] - knots) / (0.7 * length)) ** 2)
    weights /= np.linalg.norm(weights, axis=2, keepdims=True)
    noise = rng.standard_normal((2, len(knots), len(knots)))
    moved = points + scale * rms * ((weights[:, 0] @ noise) * weights[:, 1]).sum(2).T
    return np.split(moved, np.cumsum([len(outline) for outline in outlines])[:-1])


def _fill(canvas, outline):
    """Mask (size, size) of the pixels whose centres lie within a closed outline (even–odd rule)."""
    size, p = canvas.size, canvas.pixels(outline)
    q = np.roll(p, -1, axis=0)
    first, last = np.sort(np.clip(np.ceil([p[:, 1], q[:, 1]]), 0, size).astype(int), axis=0)
    edge = np.repeat(np.arange(len(p)), last - first)  # one entry for each row that an edge crosses
    row = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
    x = p[edge, 0] + (row - p[edge, 1]) / (q[edge, 1] - p[edge, 1]) * (q[edge, 0] - p[edge, 0])
    column = np.clip(np.ceil(x), 0, size).astype(int)
    toggles = np.bincount(row * (size + 1) + column, minlength=size * (size + 1)).astype(np.uint8)
    return np.cumsum(toggles.reshape(size, size + 1)[:, :-1], axis=1, dtype=np.uint8) % 2 == 1


def _nearest(canvas, lines):
    """For each pixel the index of the nearest of all the lines' points, and the exact distance from that line."""
    points = np.concatenate(lines)
    tangent = np.concatenate([np.gradient(line, axis=0) for line in lines])
    step = np.linalg.norm(tangent, axis=1, keepdims=True)
    table = np.concatenate([points, tangent / step, 1.5 * step], axis=1).astype(np.float32)
    cells = max(128, canvas.size // 2)
    seeds = np.floor((canvas.pixels(points) + 0.5) * (cells / canvas.size)).astype(int)
    seen = ((seeds >= 0) & (seeds < cells)).all(1)
    grid = np.full((cells, cells), -1)
    grid[seeds[seen, 1], seeds[seen, 0]] = np.flatnonzero(seen)
    row, column = distance_transform_edt(grid < 0, return_distances=False, return_indices=True)
    pick = (np.arange(canvas.size) * cells) // canvas.size
    index = grid[row, column][
        pick[:, None], pick
    ]  # coarse, but the distance is perpendicular to the line there
    px, py, tx, ty, reach = np.take(table.T, index, axis=1)
    dx, dy = canvas.x - px, canvas.y - py
    beyond = np.maximum(np.abs(dx * tx + dy * ty) - reach, 0)
    return index, np.hypot(dx * ty - dy * tx, beyond)


def _tubes(canvas, tubes):
    """The ray's path through bones (line, radius, weight) with a dense cortex around marrow; 1 if solid."""
    index, distance = _nearest(canvas, [line for line, _, _ in tubes])
    table = [
        np.stack(np.broadcast_arrays(radius, weight, line[:, 0])[:2], 1)
        for line, radius, weight in tubes
    ]
    radius, weight = np.take(np.concatenate(table).astype(np.float32).T, index, axis=1)
    d = distance / radius
    return weight * (_chord(d) - 0.42 * _chord(d / 0.76))


def _chord(d):
    """Chord of a sphere or tube at distance `d` [radii] from its middle, 1 in the middle."""
    return np.sqrt(np.maximum(1 - d * d, 0))


def _ramp(t):
    """Smooth step from 0 (at t = 0) to 1 (at t = 1)."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _strokes(canvas, points, radius, step):
    """Soft strokes through points (n, 2) that lie `step` apart; 1 in the middle of a straight one."""
    size, p = canvas.size, canvas.pixels(points)
    p = p[((p >= 0) & (p < size - 1)).all(1)]
    low = p.astype(int)
    (x, y), first = (p - low).T, low @ (1, size)
    where = np.concatenate([first, first + 1, first + size, first + size + 1])
    share = np.concatenate([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y])
    plate = step * np.bincount(where, share, size * size).reshape(size, size)
    peak = np.sqrt(2 * np.pi) * 0.6 * radius * canvas.unit**2
    return peak * _blur(canvas, plate.astype(np.float32), max(0.6 * radius, 0.45 / canvas.unit))


def _blur(canvas, field, length):
    """Gaussian blur with sigma `length`, on a coarser grid where that makes no difference."""
    sigma = canvas.unit * length
    factor = int(np.clip(sigma // 1.6, 1, canvas.size // 16))
    if factor == 1:
        return gaussian_filter(field, sigma, truncate=3)
    cells = -(-canvas.size // factor)
    whole = np.pad(field, (0, cells * factor - canvas.size), mode="edge")
    coarse = whole.reshape(cells, factor, cells, factor).mean((1, 3))
    at = np.clip((np.arange(canvas.size) + 0.5) / factor - 0.5, 0, cells - 1)
    linear = np.maximum(1 - np.abs(at[:, None] - np.arange(cells)), 0).astype(np.float32)
    return linear @ gaussian_filter(coarse, sigma / factor, mode="nearest") @ linear.T


def _field(canvas, rng, n):
    """Smooth noise of unit variance with about `n` grains across the image, the same at every size."""
    weights = np.exp(-0.5 * ((canvas.edge[:, None] * n - np.arange(-2, n + 3)) / 0.7) ** 2).astype(
        np.float32
    )
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return weights @ rng.standard_normal((n + 5, n + 5), dtype=np.float32) @ weights.T


# ------------------------------------------------------------------------------------------------- attenuations
def _attenuation(canvas, a, rng):
    """Sum of all attenuations along each ray (size, size)."""
    body, air = _body(canvas, a), _air(canvas, a, rng)
    total = a.thickness * body * (1 + 0.012 * _field(canvas, rng, 9)) - a.air * air
    total -= _airways(canvas, a) + a.stomach * _stomach(canvas, a, rng)
    total += _vessels(canvas, a, rng) * a.vessels * _ramp(1.6 * air) + a.breast * _breasts(
        canvas, a
    )
    flesh = _ramp((a.thickness * body - 0.4) / 0.6)
    ribs = sum(_tubes(canvas, half) for half in _ribs(a))  # posterior and anterior
    total += a.rib_density * flesh * ribs * (0.32 + 0.68 * _ramp(2 * air))
    clavicles = [(*_clavicle(a, side)[:2], _ramp(np.linspace(7, 0, 160))) for side in (LEFT, RIGHT)]
    total += a.clavicle_density * flesh * _tubes(canvas, clavicles)
    return np.maximum(total + _spine(canvas, a) + _scapulae(canvas, a), 0)


def _body(canvas, a):
    """Soft tissue of trunk, shoulders, neck and arms without lungs; 1 where it is thickest."""
    x, y = np.abs(canvas.x), canvas.y
    trunk = a.cage + a.flesh + 0.03 * (y - 0.6) + 0.35 * _ramp((0.45 - y) / 0.25)
    shoulder = a.shoulder - 0.05 + 0.55 * np.maximum(x - 0.11, 0) ** 1.25
    body = np.sqrt(np.maximum(1 - (x / trunk) ** 3.5, 0) * np.clip((y - shoulder) / 0.22, 0, 1))
    neck = 0.66 * _chord(x / (0.125 + 0.1 * _ramp((y + 0.02) / 0.2))) * _ramp((0.5 - y) / 0.4)
    body = np.maximum(body * (0.80 + 0.20 * _ramp((y - 0.1) / 0.6)), neck)
    return np.maximum(body, 0.5 * _chord((x - trunk - 0.075) / 0.06)) if a.arms else body


def _air(canvas, a, rng):
    """Air of both lungs, with what lies behind the diaphragm, after the heart took its place; 1 in the deepest lung."""
    x, y, lungs = np.abs(canvas.x), canvas.y, [_lung(a, side) for side in (LEFT, RIGHT)]
    inside = _fill(canvas, lungs[0]) | _fill(canvas, lungs[1])
    _, distance = _nearest(canvas, [np.concatenate([lung, lung[:1]]) for lung in lungs])
    depth = _chord(np.clip(1 - distance / 0.125, 0, 1)) * (0.55 + 0.45 * _ramp((y - a.apex) / 0.30))
    depth *= np.clip(0.5 + np.where(inside, 1, -1) * distance * canvas.unit, 0, 1)
    below = np.maximum(y - np.where(canvas.x > 0, _dome(x, a, LEFT), _dome(x, a, RIGHT)), 0)
    wall = _ramp((_half_width(y[:, :1], a).astype(np.float32) - x) / 0.03) * _ramp(
        (x - 0.04) / 0.05
    )
    depth = np.maximum(depth, a.recess * wall * np.exp(-((below / 0.05) ** 2)) * (y > 0.6))
    centre, outline = _heart(a)
    angle, radius = (
        np.arctan2(*(outline - centre).T[::-1]),
        np.linalg.norm(outline - centre, axis=1),
    )
    dx, dy = canvas.x - centre[0], canvas.y - centre[1]
    border = np.interp(np.arctan2(dy, dx), angle, radius, period=2 * np.pi).astype(np.float32)
    heart = (
        a.heart_depth * _chord(0.99 * np.hypot(dx, dy) / border) ** 1.2
    )  # softer than a sphere: it beats
    grain = 1 + 0.037 * _field(canvas, rng, 16) + 0.028 * _field(canvas, rng, 80)
    return grain * (depth - np.minimum(heart, 0.88 * depth))


def _airways(canvas, a):
    """Trachea and main bronchi."""
    lean = lambda y: a.trachea * (_ramp((y - 0.02) / 0.25) + 0.4 * np.sin(9 * y))  # noqa: E731
    width = 0.0165 + 0.004 * _ramp((canvas.y - 0.30) / 0.07)
    trachea = _chord((canvas.x - lean(canvas.y)) / width) ** 1.3 * _ramp((0.395 - canvas.y) / 0.07)
    fork, t = (float(lean(0.35)), 0.35), np.linspace(0, 1, 80)[:, None]
    bronchi = np.concatenate([fork + t * (-0.085, 0.09), fork + t * (0.10, 0.07)])
    return 0.27 * trachea + 0.12 * _strokes(canvas, bronchi, 0.013, 0.0015)


def _vessels(canvas, a, rng):
    """Hila, and from each two trees of vessels, arteries and veins, that fork and thin."""
    total, trees = 0, []
    for side, x, y in ((RIGHT, -0.098, 0.447), (LEFT, 0.105, 0.425)):
        total = total + 0.16 * np.exp(
            -(((canvas.x - x) / 0.03) ** 2) - ((canvas.y - y) / 0.055) ** 2
        )
        for spread in (0.02, 0.035):
            angle = np.r_[np.linspace(-1.35, 0.5, 5), np.linspace(0.55, 1.5, 5)] + rng.normal(
                0, 0.12, 10
            )
            tree = _tree(rng, rng.normal(0, spread, (10, 2)) * (0.7, 1.8), angle)
            trees += [(path * (side, 1) + (x, y), radius) for path, radius in tree]
    points, radii = map(np.concatenate, zip(*trees, strict=True))
    for low, high in ((0.0058, 0.0085), (0.0038, 0.0058), (0.0024, 0.0038), (0, 0.0024)):
        radius = max((low + high) / 2, 0.0014)
        chosen = points[(radii > low) & (radii <= high)]
        total += 0.27 * radius / 0.0085 * _strokes(canvas, chosen, radius, 0.002)
    return total


def _tree(rng, start, angle, step=0.002):
    """Yield the points (n, 2) and radii (n,) of each generation of vessels that grow towards positive x."""
    radius = 0.0085 * rng.uniform(0.6, 1, len(start))
    while len(start):
        bend = angle + np.cumsum(rng.normal(0, 0.05, (24, len(start))), axis=0)
        path = start + np.cumsum(step * np.stack([np.cos(bend), np.sin(bend)], -1), axis=0)
        yield path.reshape(-1, 2), (np.linspace(1, 0.9, 24)[:, None] * radius).ravel()
        keep = (rng.random(len(start)) < 0.93) & (radius > 0.0016)
        fork = rng.normal(0.38, 0.13, keep.sum())
        start, angle = np.repeat(path[-1, keep], 2, axis=0), bend[-1, keep]
        angle = np.stack([angle + 0.5 * fork, angle - fork], 1).ravel()
        radius = (
            radius[keep, None] * rng.uniform((0.78, 0.6), (0.92, 0.82), (keep.sum(), 2))
        ).ravel()


def _spine(canvas, a):
    """Vertebral bodies with end plates, pedicles, spinous and transverse processes."""
    count = a.vertebra + canvas.y / (0.046 + 0.007 * canvas.y)
    v = 2 * (count - np.floor(count)) - 1  # −1 … 1 from end plate to end plate
    u = (canvas.x - a.spine_curve * np.sin(2 * np.pi * canvas.y + a.vertebra)) / (
        0.034 + 0.010 * canvas.y
    )
    body = np.maximum(1 - np.abs(u / (0.93 + 0.07 * v * v)) ** 4, 0) ** 0.7
    bump = lambda t, width: np.exp(-((t / width) ** 2))  # noqa: E731
    plate, gap = bump(np.abs(v) - 0.80, 0.10), bump(np.abs(v) - 1, 0.10)
    pedicle = bump(np.hypot((np.abs(u) - 0.62) / 0.22, (v + 0.25) / 0.42) - 0.8, 0.35)
    spinous, transverse = (
        bump(u, 0.16) * bump(v - 0.35, 0.45),
        bump(np.abs(u) - 1.25, 0.5) * bump(v + 0.2, 0.38),
    )
    body *= 0.62 + 0.16 * plate - 0.24 * gap + 0.18 * pedicle + 0.18 * spinous
    return a.spine_density * (body + 0.12 * transverse)


def _scapulae(canvas, a):
    """Shoulder blades with denser borders, and the upper arms."""
    corners = [
        (0.285, 0.185),
        (0.335, 0.33),
        (0.365, 0.47),
        (0.392, 0.44),
        (0.425, 0.27),
        (0.44, 0.19),
        (0.36, 0.16),
    ]
    blade, t = _curve([*corners, corners[0]], 600), np.linspace(0, 1, 120)[:, None]
    ridge, shaft = (0.29, 0.215) + t * (0.15, -0.08), (0.485, 0.21) + t * (0.06, 0.25)
    place = lambda line, side: (line + (a.scapula + side * a.asymmetry, 0)) * (side, 1)  # noqa: E731
    area = (_fill(canvas, place(blade, LEFT)) | _fill(canvas, place(blade, RIGHT))).astype(
        np.float32
    )
    total = 0.07 * _blur(canvas, area, 0.004)
    parts = (blade, 0.008, 0.0016, 0.06), (ridge, 0.012, 0.0014, 0.10), (shaft, 0.035, 0.0021, 0.25)
    for line, radius, step, density in parts:
        total += density * _strokes(
            canvas, np.concatenate([place(line, LEFT), place(line, RIGHT)]), radius, step
        )
    return total


def _breasts(canvas, a):
    """Both breasts, denser towards their lower border."""
    x, y, radius = a.breast_shape
    half = _chord(np.hypot(np.abs(canvas.x) - x, canvas.y - y) / radius) ** 0.8
    return half * np.clip(0.35 + 0.65 * (canvas.y - y) / radius, 0, 1)


def _stomach(canvas, a, rng):
    """Gas that follows the left dome above and ends softly below."""
    (middle, width, height), wobble = a.stomach_shape, _field(canvas, rng, 9)
    across = _chord((canvas.x - middle + 0.012 * wobble) / width)
    top = _dome(canvas.x, a, LEFT) + 0.018 + 0.003 * wobble
    floor = top + height * (0.25 + 0.75 * across) + 0.008 * _field(canvas, rng, 5)
    return (
        across
        * _ramp((canvas.y - top) / 0.022)
        * _ramp((floor - canvas.y) / 0.045 + 0.5)
        * (1 + 0.1 * wobble)
    )


# --------------------------------------------------------------------------------------------------------- film
def _develop(attenuation, canvas, a, texture, noise):
    """Exposure, scatter, film response, noise and what lies on the film: float32 (size, size) in [−1, 1]."""
    size = canvas.size
    exposure = np.exp(a.tilt[0] * canvas.x + a.tilt[1] * (canvas.y - 0.5) - attenuation)
    density = np.log(exposure + a.scatter * _blur(canvas, np.minimum(exposure, 0.6), 0.07) + 0.004)
    chest = slice(int(0.15 * size), int(0.85 * size), 2)
    low, high = np.percentile(density[chest, chest], (7, 88))  # mediastinum and lung
    value = a.contrast * ((high - density) / (high - low) - 0.5) + a.brightness
    value += 0.02 * _field(canvas, texture, 6) + 0.013 * _field(canvas, texture, 110)
    grain = noise.standard_normal((size, size), dtype=np.float32) * np.exp(
        -0.35 * (density - density.mean())
    )
    value += 2.2 * a.noise * np.clip(size / 512, 0.2, 1) * grain  # larger pixels average the quanta
    grey = np.tanh(gaussian_filter(value, max(0.001 * canvas.unit, 0.3)))
    return np.clip(_on_film(grey, canvas, a), -1, 1).astype(np.float32)


def _on_film(grey, canvas, a):
    """Label patch, side marker and collimation edges, where the case has them."""
    window = lambda low, high, soft: (
        _ramp((canvas.edge - low) / soft + 1) * _ramp((high - canvas.edge) / soft + 1)
    )  # noqa: E731
    if a.patch:
        grey = grey + 0.95 * (0.92 - grey) * np.outer(
            window(0.02, 0.05, 0.005), window(0.025, 0.165, 0.005)
        )
    if a.marker:
        t = np.linspace(0, 1, 60)[:, None]
        bow = np.concatenate([np.sin(np.pi * t), -0.5 - 0.5 * np.cos(np.pi * t)], 1)
        rest = [t * (1, 0) + (0, 1)] if a.marker == "L" else [bow, t * (0.8, 1) + (0.2, 0)]
        letter = 0.016 * np.concatenate([t * (0, 2) - (0, 1), *rest]) + a.marker_place
        grey = grey + (0.95 - grey) * np.minimum(_strokes(canvas, letter, 0.004, 0.0006), 1)
    left, right, top, bottom = a.collimation
    return grey + (0.9 - grey) * (
        1 - np.outer(window(top, 1 - bottom, 0.006), window(left, 1 - right, 0.006))
    )


# ------------------------------------------------------------------------------------------------------- labels
def _masks(canvas, a, jitter, rng):
    """The five masks (5, size, size), as drawn by an observer whose hand wanders smoothly."""
    _, heart = _heart(a)
    masks = [_fill(canvas, *_wander(rng, HEART_JITTER, heart, scale=jitter))]
    for side in (LEFT, RIGHT):
        masks.append(
            _fill(canvas, *_wander(rng, CLAVICLE_JITTER, _clavicle(a, side)[2], scale=jitter))
        )
    for side in (LEFT, RIGHT):
        lung, hole = _wander(rng, LUNG_JITTER, _lung(a, side), heart, scale=jitter)
        parts, _ = label(_fill(canvas, lung) & ~_fill(canvas, hole))
        masks.append(parts == 1 + np.bincount(parts.ravel())[1:].argmax())
    return np.stack(masks)
