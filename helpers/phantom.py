"""Synthetic posterior–anterior chest radiographs with true masks.

A case is an anatomy sampled from a seed, in coordinates that know no pixels: x from the midline to
the image's right (the patient's left), y downwards, lengths in image widths. Attenuations of
tissue, air and bone are summed along each ray, then exposed, scattered and developed like film. A
case (`a` in the formulas) has the same anatomy at every size.
"""

from itertools import pairwise
from numbers import Real
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy import (
    arange,
    arctan2,
    clip,
    column_stack,
    concatenate,
    cos,
    cumsum,
    deg2rad,
    exp,
    float32,
    gradient,
    hypot,
    linspace,
    maximum,
    minimum,
    pi,
    sin,
    sqrt,
    where,
)
from numpy.linalg import inv, norm
from pandas import read_csv
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from helpers.common.arguments import require, whole_number

# Raise it with a change that alters a drawing. The first is the digest of this file's text at the
# time when that was the version, so that the networks and results of then are still found.
VERSION = "9f8af950f13335b76ed8bddebb1f79cb55488b636fddd0ea2ec7d3729547a659"
# How patients and exposures differ, in order of the draws: means and standard deviations, or
# ranges; the share of the patients that have such a thing. Lengths in image widths.
TABLE = Path(__file__).with_suffix(".csv")
EXACT = dict.fromkeys(["low", "high", "share"], float)
POPULATION = read_csv(TABLE, converters=EXACT).groupby("part")
STRUCTURES = ("heart", "left clavicle", "right clavicle", "left lung", "right lung")
LEFT, RIGHT = SIDES = 1, -1  # the patient's side, as the sign of x

RIB_CAGE = PchipInterpolator(  # width by height, both relative
    [-0.3, 0, 0.08, 0.2, 0.35, 0.55, 0.8, 1, 1.5],
    [0.3, 0.46, 0.62, 0.77, 0.885, 0.96, 1, 0.99, 0.93],
)


def draw_case(
    case: int, size: int, *, seed: int = 0, jitter: float = 1.0, variety: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one synthetic radiograph and the masks of its five structures.

    Args:
        case: number of the case, 0 or more; with `seed` it decides the anatomy, the film and the
            observer.
        size: height and width [pixels], 32 or more.
        seed: 0 or more; another seed is another population.
        jitter: strength of the observer's smooth deviations in the masks; 0 draws the true ones, of
            the same image.
        variety: how far patients differ: factor of the standard deviations of their anatomy. Above
            1, clavicles are higher too, as in patients who lie or are bent, and the diaphragm's
            domes differ more.

    Returns:
        The image, float32 (size, size) in [−1, 1], bright where dense; and the masks, bool
        (5, size, size) in the order of `STRUCTURES`. Clavicles and lungs overlap. Left and right
        are the patient's: the right lung is on the image's left.

    Raises:
        ValueError: `case`, `size` or `seed` is not a whole number in its range, or `jitter` or
            `variety` not a number from 0.
    """
    case = whole_number("case", case, 0)
    size = whole_number("size", size, 32)
    seed = whole_number("seed", seed, 0)
    for name, value in {"jitter": jitter, "variety": variety}.items():
        fits = isinstance(value, Real) and 0 <= value < np.inf
        require(fits, name, value, "give a finite number of 0 or more")
    body, texture, noise, observer = np.random.default_rng([seed, case]).spawn(4)
    a = _sample_anatomy(body, variety)
    _add_pixels(a, size)
    a.texture = texture
    image = _develop(_attenuation(a), a, noise)
    return image, _masks(a, jitter, observer)


# ------------------------------------------------------------------------------------------ anatomy
def _sample_anatomy(rng, variety):
    """One patient and one exposure: outlines, bones and numbers. The order of the draws counts."""
    a = SimpleNamespace(variety=variety)

    def normal(mean, sd):
        return mean + variety * sd * min(max(rng.standard_normal(), -2), 2)

    def draw(part):
        for row in POPULATION.get_group(part).itertuples():
            value = 0.0
            if row.share == 1 or rng.random() < row.share:
                sample = normal if row.drawn == "normal" else rng.uniform
                value = sample(row.low, row.high)
            setattr(a, row.name, value)

    draw("body")
    higher = normal(0.019, 0.009 + 0.005 * (variety - 1))
    a.dome = {RIGHT: a.diaphragm, LEFT: a.diaphragm + higher}
    a.angle = {side: a.dome[side] + normal(0.085, 0.013) for side in SIDES}  # costophrenic
    a.lungs = _lungs(a, rng, normal)
    draw("lungs")
    a.heart_centre, a.heart = _heart(a, rng, normal)
    draw("heart")
    a.clavicle_tubes, a.clavicles = _clavicles(a, normal)
    draw("ribs")
    a.ribs = _ribs(a, normal)
    draw("trunk")
    a.arms = rng.random() < 0.3
    draw("rest")
    a.marker = rng.choice([0, 0, RIGHT, LEFT])  # the side that a letter names, or none
    draw("marks")
    a.patch = rng.random() < 0.15
    a.collimation = rng.uniform(0, 0.02, 4) * (rng.random() < 0.2)
    return a


def _half_width(y, a):
    """Half of the rib cage's inner width at height `y`."""
    return a.cage * RIB_CAGE((y - a.apex) / (a.angle[RIGHT] - a.apex))


def _dome(x, a, side):
    """Height of the diaphragm's dome at distance |x| from the midline."""
    t = clip((abs(x) - 0.04) / (a.cage - 0.04), -0.2, 1.1) - 0.42
    fall = (a.angle[side] - a.dome[side]) * (maximum(t, 0) / 0.58) ** 2.3
    return a.dome[side] + fall + 0.16 * minimum(t, 0) ** 2


def _lungs(a, rng, normal):
    """Closed outlines (701, 2) of all that holds air, the part behind the heart included."""
    knob = 0.065 + normal(0.022, 0.008)  # of the aorta
    form = rng.integers(2**31)
    apex_x = [0.060, 0.072, 0.098, 0.135, 0.170, 0.203]
    apex_y = np.add(a.apex, [0.085, 0.045, 0.013, 0, 0.007, 0.030])
    lungs = []
    for side, corner, x, y in (
        (
            LEFT,
            0.10,
            [0.055, 0.06, 0.09, 0.078, knob, 0.062],
            [0.60, 0.50, 0.425, 0.385, 0.325, 0.27],
        ),
        (RIGHT, 0.07, [0.070, 0.075, 0.080, 0.072, 0.062], [0.60, 0.52, 0.44, 0.34, 0.26]),
    ):
        wall_y = linspace(a.apex + 0.075, a.angle[side] - 0.012, 12)
        wall_x = _half_width(wall_y, a) + a.asymmetry * side * (wall_y - a.apex)
        upper = column_stack([[*x, *apex_x, *wall_x], [*y, *apex_y, *wall_y]])
        foot = linspace(wall_x[-1] - 0.008, corner, 60)
        lower = column_stack([foot, _dome(foot, a, side)])
        outline = _closed([*_curve(upper, 160), *lower], 700) * (side, 1)
        lung = _wander(np.random.default_rng(form), outline, 0.004, 0.11)  # both sides alike
        lungs.append(concatenate([lung, lung[:1]]))
    return lungs


def _heart(a, rng, normal):
    """The heart's centre (2,) and its outline (360, 2), in which each direction occurs once.

    Its width comes from the cardiothoracic ratio, and it rests on the left dome.
    """
    ratio = 0.475 + clip(normal(0, 0.042), -0.09 * a.variety, 0.1 * a.variety)
    width = ratio * 2 * a.cage
    height = normal(0.338, 0.014) * (ratio / 0.475) ** 0.4
    bottom = a.dome[LEFT] + normal(0.030, 0.008)
    middle = width * normal(0.155, 0.025), bottom - height / 2
    axis = normal(0.60, 0.10)
    t = linspace(-pi, pi, 360, endpoint=False)
    turned = t - axis
    r = 1 + 0.11 * cos(2 * turned) + 0.075 * cos(3 * turned) - 0.015 * cos(4 * turned)
    r += sum(wave * cos(k * (t + 7 * axis)) for k, wave in enumerate(rng.normal(0, 0.012, 4), 2))
    outline = column_stack([r * cos(t), r * sin(t)])
    stretch = (width, height) / np.ptp(outline, 0)
    centre = middle - stretch * (outline.max(0) + outline.min(0)) / 2
    return centre, centre + stretch * outline


def _clavicles(a, normal):
    """Both clavicles as tubes (160, 4) from sternum to shoulder, and their outlines (300, 2)."""
    thickness = normal(0.0209, 0.0013)
    start = normal(0.070, 0.006)
    height = a.apex + normal(0.105 - 0.018 * (a.variety - 1), 0.012)
    rise = {side: normal(0.065, 0.025) for side in SIDES}
    bend = {side: normal(0.016, 0.006) for side in SIDES}
    t = linspace(0, 1, 160)
    x = start + (0.42 - start) * t
    radius = thickness * (1 + 0.22 * _bump(t, 0.15) + 0.12 * t)
    turn = linspace(pi, 0, 20)[1:-1]  # around the medial end
    tubes = []
    outlines = []
    for side in SIDES:
        y = height - rise[side] * t - bend[side] * sin(2 * pi * t) + 0.3 * side * a.asymmetry
        tubes.append(column_stack([side * x, y, radius, _ramp(linspace(7, 0, 160))]))
        drawn = x < _half_width(y, a) + 0.004  # over the ribs
        line = side * x + 1j * y
        across = 1j * gradient(line)
        across *= radius / abs(across)
        end = line[0] + across[0] * exp(1j * turn)
        outline = concatenate([(line + across)[drawn], (line - across)[drawn][::-1], end])
        outlines.append(_closed(column_stack([outline.real, outline.imag]), 300))
    return tubes, outlines


def _ribs(a, normal):
    """Posterior and anterior halves of eleven pairs of ribs, each a helix, as tubes (n, 4)."""
    space = normal(0.060, 0.002)
    slope = normal(1, 0.12)
    first = a.apex + normal(0.018, 0.008)
    posterior = []
    anterior = []
    for k in range(11):
        drop = slope * (0.055 + 0.090 * (1 - exp(-k / 2.5)) + 0.004 * k)
        start = first + space * k
        width = _half_width(start + drop, a) + 0.006
        phi = linspace(0.04, deg2rad(146 - 4 * k), 140)  # from the spine around to the front
        rise = drop * (0.55 * (1 - cos(phi)) + 0.45 * phi / (pi / 2))
        helix = column_stack([width * sin(phi), start + rise, 0.75 * width * cos(phi)])
        step = gradient(helix, axis=0)
        path = norm(step, axis=1) / norm(step[:, :2], axis=1)  # of the ray
        weight = minimum(path, 1.7) * _ramp(phi, -0.02, 0.3) * _ramp(phi, phi[-1], -0.3)
        front = _ramp(phi, deg2rad(75), deg2rad(30))
        for half, share, radius in (
            (posterior, 1 - front, 0.0115),
            (anterior, 0.85 * front, 0.0130),
        ):
            radii = np.full(140, radius + 0.0003 * k)
            tube = column_stack([helix[:, :2], radii, weight * share])[share > 0]
            half += [tube, tube * (-1, 1, 1, 1)]
    return posterior, anterior


# ----------------------------------------------------------------------------------------- geometry
def _add_pixels(a, size):
    """Place a case on a film of one size.

    It gets `x` and `y` (size, size), the coordinates of the pixels' centres; `edge` (size,), the
    place of the centres along an edge [image widths]; and `unit`, the pixels in a unit of length.
    """
    angle = deg2rad(a.rotation)
    c = cos(angle)
    s = sin(angle)
    a.turn = a.scale * np.array([[c, -s], [s, c]])
    a.size = size
    a.unit = a.scale * size
    a.edge = (arange(size) + 0.5) / size
    a.middle = a.middle_x, a.middle_y
    film = np.meshgrid(*(a.edge - middle for middle in a.middle))
    a.x, y = float32(np.tensordot(inv(a.turn), film, 1))
    a.y = y + 0.5


def _pixels(a, points):
    """Row and column (n, 2) of points (n, 2) x, y; whole numbers are the pixels' centres."""
    place = ((points - (0, 0.5)) @ a.turn.T + a.middle) * a.size - 0.5
    return np.flip(place, 1)


def _curve(points, n):
    """`n` evenly spaced points (n, 2) of a curve through the given ones that does not overshoot."""
    along = np.r_[0, cumsum(norm(np.diff(points, axis=0), axis=1))]
    return PchipInterpolator(along, points)(linspace(0, along[-1], n))


def _closed(points, n):
    """`n` evenly spaced points (n, 2) of a closed curve through the given ones."""
    return _curve([*points, points[0]], n + 1)[:-1]


def _wander(rng, points, rms, length):
    """Points (n, 2) displaced by a smooth random field of that rms and correlation length."""
    knots = arange(-0.7, 1.2, length)
    weights = _weights(points, knots, 0.7 * length)
    noise = rng.standard_normal((2, len(knots), len(knots)))
    return points + rms * ((weights[:, 0] @ noise) * weights[:, 1]).sum(2).T


def _weights(at, knots, width, dtype=float):
    """Weight (…, k) of each knot of a smooth random field; their squares sum to 1."""
    weights = exp(-0.5 * ((at[..., None] - knots) / width) ** 2).astype(dtype)
    return weights / norm(weights, axis=-1, keepdims=True)


def _fill(a, outline):
    """Mask (size, size) of the pixels whose centres lie within a closed outline (even–odd rule)."""
    y, x = _pixels(a, outline).T
    above = y <= arange(a.size)[:, None]
    row, start = np.nonzero(above != np.roll(above, -1, axis=1))  # where a row crosses an edge
    end = (start + 1) % len(x)
    crossing = x[start] + (row - y[start]) / (y[end] - y[start]) * (x[end] - x[start])
    inside = np.zeros((a.size, a.size), bool)
    np.logical_xor.at(inside, row, arange(a.size) >= crossing[:, None])
    return inside


def _nearest(a, lines):
    """Each pixel's distance from the nearest of the lines, and that point's further columns.

    A line's rows are x, y and whatever else is known of the points along it.
    """
    points = concatenate(lines)
    tangent = concatenate([gradient(line[:, :2], axis=0) for line in lines])
    step = norm(tangent, axis=1, keepdims=True)
    table = float32(column_stack([tangent / step, 1.5 * step, points]))
    cells = max(128, a.size // 2)
    seeds = np.floor((_pixels(a, points[:, :2]) + 0.5) * (cells / a.size)).astype(int)
    seen = ((seeds >= 0) & (seeds < cells)).all(1)
    grid = np.full((cells, cells), -1)
    grid[*seeds[seen].T] = np.flatnonzero(seen)
    nearest = distance_transform_edt(grid < 0, return_distances=False, return_indices=True)
    pick = arange(a.size) * cells // a.size
    # The index is coarse, but the distance is perpendicular to the line there.
    index = grid[*nearest][np.ix_(pick, pick)]
    tx, ty, reach, px, py, *more = np.take(table.T, index, 1)
    dx = a.x - px
    dy = a.y - py
    beyond = maximum(abs(dx * tx + dy * ty) - reach, 0)
    return hypot(dx * ty - dy * tx, beyond), *more


def _tubes(a, tubes):
    """The ray's path through bones with a dense cortex around marrow; 1 if solid.

    A tube's rows are x, y, radius and weight of the points along its middle.
    """
    distance, radius, weight = _nearest(a, tubes)
    d = distance / radius
    return weight * (_chord(d) - 0.42 * _chord(d / 0.76))


def _chord(d):
    """Chord of a sphere or tube at distance `d` [radii] from its middle, 1 in the middle."""
    return sqrt(maximum(1 - d * d, 0))


def _ramp(x, start=0, width=1):
    """Smooth step from 0 at `start` to 1 at `start + width`."""
    t = clip((x - start) / width, 0, 1)
    return t * t * (3 - 2 * t)


def _bump(t, width):
    """Bell of height 1 around t = 0."""
    return exp(-((t / width) ** 2))


def _strokes(a, points, radius, step):
    """Soft strokes through points (n, 2) that are `step` apart; 1 in a straight one's middle."""
    place = _pixels(a, points)
    place = place[((place >= 0) & (place < a.size - 1)).all(1)]
    low = place.astype(int)
    plate = np.zeros((a.size, a.size))
    for corner in np.ndindex(2, 2):  # each pixel's share of a point between four
        share = where(corner, place - low, 1 - (place - low))
        np.add.at(plate, (*(low + corner).T,), share.prod(1))
    peak = sqrt(2 * pi) * 0.6 * radius * a.unit**2
    return peak * _blur(a, float32(step * plate), max(0.6 * radius, 0.45 / a.unit))


def _blur(a, field, length):
    """Gaussian blur with sigma `length`, on a coarser grid where that makes no difference."""
    sigma = a.unit * length
    factor = int(clip(sigma // 1.6, 1, a.size // 16))
    if factor == 1:
        return gaussian_filter(field, sigma, truncate=3)
    whole = np.pad(field, (0, -a.size % factor), "edge")
    cells = len(whole) // factor
    coarse = whole.reshape(cells, factor, cells, factor).mean((1, 3))
    at = clip((arange(a.size) + 0.5) / factor - 0.5, 0, cells - 1)
    linear = float32(maximum(1 - abs(at[:, None] - arange(cells)), 0))
    return linear @ gaussian_filter(coarse, sigma / factor, mode="nearest") @ linear.T


def _field(a, n):
    """Smooth noise of unit variance with about `n` grains across the image, alike at every size."""
    weights = _weights(a.edge * n, arange(-2, n + 3), 0.7, float32)
    return weights @ a.texture.standard_normal((n + 5, n + 5), float32) @ weights.T


# ------------------------------------------------------------------------------------- attenuations
def _attenuation(a):
    """Sum of all attenuations along each ray (size, size)."""
    flesh = a.thickness * _body(a)
    air = _air(a)
    total = flesh * (1 + 0.012 * _field(a, 9)) - a.air * air
    total -= _airways(a) + a.stomach * _stomach(a)
    total += _vessels(a) * a.vessels * _ramp(1.6 * air) + a.breast * _breasts(a)
    flesh = _ramp(flesh, 0.4, 0.6)  # where it hides bones
    ribs = sum(_tubes(a, half) for half in a.ribs)
    total += a.rib_density * flesh * ribs * (0.32 + 0.68 * _ramp(2 * air))
    total += a.clavicle_density * flesh * _tubes(a, a.clavicle_tubes)
    return maximum(total + _spine(a) + _scapulae(a), 0)


def _body(a):
    """Soft tissue of trunk, shoulders, neck and arms without lungs; 1 where it is thickest."""
    x = abs(a.x)
    y = a.y
    trunk = a.cage + a.flesh + 0.03 * (y - 0.6) + 0.35 * _ramp(y, 0.45, -0.25)
    shoulder = a.shoulder - 0.05 + 0.55 * maximum(x - 0.11, 0) ** 1.25
    body = sqrt(maximum(1 - (x / trunk) ** 3.5, 0) * clip((y - shoulder) / 0.22, 0, 1))
    neck = 0.66 * _chord(x / (0.125 + 0.1 * _ramp(y, -0.02, 0.2))) * _ramp(y, 0.5, -0.4)
    body = maximum(body * (0.80 + 0.20 * _ramp(y, 0.1, 0.6)), neck)
    return maximum(body, 0.5 * _chord((x - trunk - 0.075) / 0.06)) if a.arms else body


def _air(a):
    """Air of both lungs, also behind the diaphragm, without the heart; 1 in the deepest lung."""
    x = abs(a.x)
    y = a.y
    inside = sum(_fill(a, lung) for lung in a.lungs)
    (distance,) = _nearest(a, a.lungs)
    depth = _chord(clip(1 - distance / 0.125, 0, 1)) * (0.55 + 0.45 * _ramp(y, a.apex, 0.30))
    depth *= clip(0.5 + where(inside, 1, -1) * distance * a.unit, 0, 1)
    below = maximum(y - where(a.x > 0, _dome(x, a, LEFT), _dome(x, a, RIGHT)), 0)
    width = float32(_half_width(y[:, :1], a))
    wall = _ramp(x, width, -0.03) * _ramp(x, 0.04, 0.05)
    depth = maximum(depth, a.recess * wall * _bump(below, 0.05) * (y > 0.6))
    spokes = a.heart - a.heart_centre
    angle = arctan2(*spokes.T[::-1])
    radius = norm(spokes, axis=1)
    dx = a.x - a.heart_centre[0]
    dy = y - a.heart_centre[1]
    border = float32(np.interp(arctan2(dy, dx), angle, radius, period=2 * pi))
    beat = _chord(0.99 * hypot(dx, dy) / border) ** 1.2  # moving, so softer than a sphere
    grain = 1 + 0.037 * _field(a, 16) + 0.028 * _field(a, 80)
    return grain * (depth - minimum(a.heart_depth * beat, 0.88 * depth))


def _airways(a):
    """Trachea and main bronchi."""

    def lean(y):
        return a.trachea * (_ramp(y, 0.02, 0.25) + 0.4 * sin(9 * y))

    width = 0.0165 + 0.004 * _ramp(a.y, 0.30, 0.07)
    trachea = _chord((a.x - lean(a.y)) / width) ** 1.3 * _ramp(a.y, 0.395, -0.07)
    fork = lean(0.35), 0.35
    t = linspace(0, 1, 80)[:, None]
    bronchi = concatenate([fork + t * (-0.085, 0.09), fork + t * (0.10, 0.07)])
    return 0.27 * trachea + 0.12 * _strokes(a, bronchi, 0.013, 0.0015)


def _vessels(a):
    """Hila, and from each two trees of vessels, arteries and veins, that fork and thin."""
    total = 0
    trees = []
    for side, x, y in ((RIGHT, -0.098, 0.447), (LEFT, 0.105, 0.425)):
        total += 0.16 * exp(-(((a.x - x) / 0.03) ** 2) - ((a.y - y) / 0.055) ** 2)
        for spread in (0.02, 0.035):
            fan = np.r_[linspace(-1.35, 0.5, 5), linspace(0.55, 1.5, 5)]
            angle = fan + a.texture.normal(0, 0.12, 10)
            start = a.texture.normal(0, spread, (10, 2)) * (0.7, 1.8)
            tree = _tree(a.texture, start, angle)
            trees += [(path * (side, 1) + (x, y), radius) for path, radius in tree]
    points, radii = map(concatenate, zip(*trees, strict=True))
    for high, low in pairwise((0.0085, 0.0058, 0.0038, 0.0024, 0)):
        radius = max((low + high) / 2, 0.0014)
        chosen = points[(radii > low) & (radii <= high)]
        total += 0.27 * radius / 0.0085 * _strokes(a, chosen, radius, 0.002)
    return total


def _tree(rng, start, angle):
    """Yield points (n, 2) and radii (n,) of each generation of vessels that grow to positive x."""
    radius = 0.0085 * rng.uniform(0.6, 1, len(start))
    while len(start):
        bend = angle + cumsum(rng.normal(0, 0.05, (24, len(start))), 0)
        path = start + cumsum(0.002 * np.dstack([cos(bend), sin(bend)]), 0)
        yield path.reshape(-1, 2), np.outer(linspace(1, 0.9, 24), radius).ravel()
        keep = (rng.random(len(start)) < 0.93) & (radius > 0.0016)
        fork = rng.normal(0.38, 0.13, keep.sum())
        start = np.repeat(path[-1, keep], 2, 0)
        angle = bend[-1, keep]
        angle = column_stack([angle + 0.5 * fork, angle - fork]).ravel()
        thinner = rng.uniform((0.78, 0.6), (0.92, 0.82), (len(fork), 2))
        radius = (radius[keep, None] * thinner).ravel()


def _spine(a):
    """Vertebral bodies with end plates, pedicles, spinous and transverse processes."""
    count = a.vertebra + a.y / (0.046 + 0.007 * a.y)
    v = 2 * (count % 1) - 1  # −1 … 1 from end plate to end plate
    middle = a.spine_curve * sin(2 * pi * a.y + a.vertebra)
    u = abs(a.x - middle) / (0.034 + 0.010 * a.y)
    body = maximum(1 - (u / (0.93 + 0.07 * v * v)) ** 4, 0) ** 0.7
    body *= (
        0.62
        + 0.16 * _bump(abs(v) - 0.80, 0.10)  # end plates
        - 0.24 * _bump(abs(v) - 1, 0.10)  # gaps
        + 0.18 * _bump(hypot((u - 0.62) / 0.22, (v + 0.25) / 0.42) - 0.8, 0.35)  # pedicles
        + 0.18 * (_bump(u, 0.16) * _bump(v - 0.35, 0.45))  # spinous process
    )
    transverse = _bump(u - 1.25, 0.5) * _bump(v + 0.2, 0.38)
    return a.spine_density * (body + 0.12 * transverse)


def _scapulae(a):
    """Shoulder blades with denser borders, and the upper arms."""

    def both(line):
        return [(line + (a.scapula + side * a.asymmetry, 0)) * (side, 1) for side in SIDES]

    x = [0.285, 0.335, 0.365, 0.392, 0.425, 0.44, 0.36, 0.285]
    y = [0.185, 0.33, 0.47, 0.44, 0.27, 0.19, 0.16, 0.185]
    blade = _curve(column_stack([x, y]), 600)
    t = linspace(0, 1, 120)[:, None]
    ridge = (0.29, 0.215) + t * (0.15, -0.08)
    shaft = (0.485, 0.21) + t * (0.06, 0.25)
    area = sum(_fill(a, outline) for outline in both(blade))
    total = 0.07 * _blur(a, float32(area), 0.004)
    for line, radius, step, density in (
        (blade, 0.008, 0.0016, 0.06),
        (ridge, 0.012, 0.0014, 0.10),
        (shaft, 0.035, 0.0021, 0.25),
    ):
        total += density * _strokes(a, concatenate(both(line)), radius, step)
    return total


def _breasts(a):
    """Both breasts, denser towards their lower border."""
    down = a.y - a.breast_y
    half = _chord(hypot(abs(a.x) - a.breast_x, down) / a.breast_radius) ** 0.8
    return half * clip(0.35 + 0.65 * down / a.breast_radius, 0, 1)


def _stomach(a):
    """Gas that follows the left dome above and ends softly below."""
    wobble = _field(a, 9)
    across = _chord((a.x - a.stomach_x + 0.012 * wobble) / a.stomach_width)
    top = _dome(a.x, a, LEFT) + 0.018 + 0.003 * wobble
    floor = top + a.stomach_height * (0.25 + 0.75 * across) + 0.008 * _field(a, 5)
    gas = across * _ramp(a.y, top, 0.022) * _ramp((floor - a.y) / 0.045 + 0.5)
    return gas * (1 + 0.1 * wobble)


# --------------------------------------------------------------------------------------------- film
def _develop(attenuation, a, noise):
    """Exposure, scatter, film response, noise, marks: float32 (size, size) in [−1, 1]."""
    exposure = exp(a.tilt_x * a.x + a.tilt_y * (a.y - 0.5) - attenuation)
    density = np.log(exposure + a.scatter * _blur(a, minimum(exposure, 0.6), 0.07) + 0.004)
    chest = slice(int(0.15 * a.size), int(0.85 * a.size), 2)
    low, high = np.percentile(density[chest, chest], (7, 88))  # mediastinum and lung
    value = a.contrast * ((high - density) / (high - low) - 0.5) + a.brightness
    value += 0.02 * _field(a, 6) + 0.013 * _field(a, 110)
    grain = noise.standard_normal(density.shape, float32) * exp(-0.35 * (density - density.mean()))
    value += 2.2 * a.noise * clip(a.size / 512, 0.2, 1) * grain  # larger pixels average quanta
    grey = np.tanh(gaussian_filter(value, max(0.001 * a.unit, 0.3)))
    return float32(clip(_on_film(grey, a), -1, 1))


def _on_film(grey, a):
    """Label patch, side marker and collimation edges, where the case has them."""
    if a.patch:
        grey += 0.95 * (0.92 - grey) * _window(a, 0.005, (0.02, 0.05), (0.025, 0.165))
    if a.marker:
        t = linspace(0, 1, 60)[:, None]
        strokes = [t * (0, 2) - (0, 1)]
        if a.marker == LEFT:
            strokes += [t * (1, 0) + (0, 1)]
        else:
            bow = column_stack([sin(pi * t), -0.5 - 0.5 * cos(pi * t)])
            strokes += [bow, t * (0.8, 1) + (0.2, 0)]
        letter = 0.016 * concatenate(strokes) + (a.marker * a.marker_x, a.marker_y)
        grey += (0.95 - grey) * minimum(_strokes(a, letter, 0.004, 0.0006), 1)
    left, right, top, bottom = a.collimation
    return grey + (0.9 - grey) * (1 - _window(a, 0.006, (top, 1 - bottom), (left, 1 - right)))


def _window(a, soft, *spans):
    """1 between (low, high) of the rows and of the columns, and softly 0 outside."""
    sides = [
        _ramp((a.edge - low) / soft + 1) * _ramp((high - a.edge) / soft + 1) for low, high in spans
    ]
    return np.outer(*sides)


# ------------------------------------------------------------------------------------------- labels
def _masks(a, jitter, rng):
    """The five masks (5, size, size), as drawn by an observer whose hand wanders smoothly."""
    # What the hand strays by at a jitter of 1: rms and correlation length [image widths].
    masks = [_fill(a, _wander(rng, a.heart, jitter * 0.0061, 0.12))]
    masks += [_fill(a, _wander(rng, each, jitter * 0.0025, 0.05)) for each in a.clavicles]
    for outline in a.lungs:
        both = _wander(rng, concatenate([outline, a.heart]), jitter * 0.0026, 0.10)
        lung, hole = np.split(both, [len(outline)])
        parts, _ = label(_fill(a, lung) & ~_fill(a, hole))
        masks.append(parts == np.bincount(parts[parts > 0]).argmax())
    return np.stack(masks)
