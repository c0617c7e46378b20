"""Noise that is no attack, for comparison, and the rounding of image files."""

import math
import zlib
from numbers import Integral

import torch


def uniform_noise(images, *, epsilon, seed=0):
    """Noise drawn uniformly from ±ε: image i of a batch gets the same noise whatever ε is.

    Args:
        images: (N, C, H, W), for the shape.
        epsilon: a number or (N,) [units of the images].
        seed: a number, by which an image gets its noise by its place in the batch; or N keys, such as the cases' ids.

    Returns:
        (N, C, H, W), of the type of `images`.
    """
    noise = torch.empty(images.shape)
    for row, generator in zip(noise, _generators(seed, len(images)), strict=True):
        row.uniform_(-1, 1, generator=generator)
    return noise.to(images) * _per_image("epsilon", epsilon, images)[:, None, None, None]


def shuffle_noise(images, adv_images, *, seed=0, value_range=(-1.0, 1.0)):
    """Adversarial images whose noise keeps its values (but for the clipping) and loses its places: a control.

    Args:
        images, adv_images: (N, C, H, W).
        seed: of the permutations, as in `uniform_noise`.
        value_range: the result is clipped to it.

    Returns:
        (N, C, H, W).
    """
    noise = (adv_images - images).flatten(1)
    shuffled = torch.empty_like(noise)
    for new, row, generator in zip(shuffled, noise, _generators(seed, len(images)), strict=True):
        new.copy_(row[torch.randperm(len(row), generator=generator).to(row.device)])
    return (images + shuffled.view_as(images)).clamp(*value_range)


def round_to_bits(images, bits, *, value_range=(-1.0, 1.0)):
    """Images as a file of so many bits per pixel would keep them.

    Args:
        images: (N, C, H, W) within `value_range`.
        bits: 1 or more; JSRT has 12, a PNG for the screen 8.
        value_range: least and greatest valid pixel.

    Returns:
        (N, C, H, W), at most half a grey level off.
    """
    low, high = value_range
    level = (high - low) / (2 ** _whole("bits", bits) - 1)
    return (((images - low) / level).round() * level + low).clamp(low, high)


def _keys(seed, n):
    """What the random numbers of each of n images come from."""
    if isinstance(seed, Integral):
        return [(int(seed), place) for place in range(n)]
    keys = [key.item() if hasattr(key, "item") else key for key in seed]
    if len(keys) != n:
        raise ValueError(f"seed has {len(keys)} keys; give a number or one key per image ({n})")
    return keys


def _generators(seed, n):
    return [torch.Generator().manual_seed(zlib.crc32(repr(key).encode())) for key in _keys(seed, n)]


def _per_image(name, value, images):
    value = torch.as_tensor(value, dtype=images.dtype, device=images.device).detach()
    if value.ndim > 1 or value.ndim == 1 and len(value) != len(images):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; give a number or one per image ({len(images)})"
        )
    if not torch.isfinite(value).all() or (value < 0).any():
        raise ValueError(
            f"{name} is {value.tolist()}; it must be 0 or more, in the units of the images"
        )
    return value.expand(len(images))


def _whole(name, value, least=1, most=math.inf):
    """`value` as an integer, if it is a whole number in the range."""
    try:
        if least <= value <= most and int(value) == value:
            return int(value)
    except (TypeError, ValueError, OverflowError):
        pass
    upper = f"from {least} to {most}" if most < math.inf else f"of {least} or more"
    raise ValueError(f"{name} is {value!r}; give a whole number {upper}")
