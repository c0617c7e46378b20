"""Noise that is no attack, for comparison, and the rounding of image files."""

import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from operator import index

import torch
from torch import Tensor

from helpers.common.arguments import require, whole_number

Seed = int | Iterable[Hashable]


def uniform_noise(images: Tensor, *, epsilon: float | Tensor, seed: Seed = 0) -> Tensor:
    """Noise drawn uniformly from ±ε; an image gets the same noise, scaled, whatever ε is.

    Args:
        images: (N, C, H, W), for the shape.
        epsilon: a number or (N,) [units of the images].
        seed: a number, by which an image gets its noise by its place in the batch; or N keys, such
            as the ids of the cases.

    Returns:
        (N, C, H, W), of the type of `images`.
    """
    noise = torch.empty(images.shape, dtype=torch.float32, device="cpu")
    for row, generator in zip(noise, generators(seed, len(images)), strict=True):
        row.uniform_(-1, 1, generator=generator)
    return noise.to(images) * per_image("epsilon", epsilon, images)


def shuffle_noise(
    images: Tensor,
    adv_images: Tensor,
    *,
    seed: Seed = 0,
    within: Tensor | None = None,
) -> Tensor:
    """Adversarial images whose noise keeps its values and loses its places: a control.

    Args:
        images, adv_images: (N, C, H, W).
        seed: of the permutations, as in `uniform_noise`.
        within: bool (N, H, W), the pixels that change places; None for all.

    Returns:
        (N, C, H, W) within [−1, 1].
    """
    noise = adv_images - images
    places = torch.ones_like(noise, dtype=torch.bool)
    if within is not None:
        places &= within[:, None]
    for row, place, generator in zip(noise, places, generators(seed, len(images)), strict=True):
        values = row[place]
        row[place] = values[torch.randperm(len(values), generator=generator, device="cpu")]
    return (images + noise).clamp(-1, 1)


def scramble_phases(
    images: Tensor,
    adv_images: Tensor,
    *,
    seed: Seed = 0,
    within: Tensor | None = None,
) -> Tensor:
    """Adversarial images whose noise keeps its amplitude spectrum and loses its phases: a control.

    Where that makes it larger than the largest noise of the image, it is clipped to this.

    Args:
        images, adv_images: (N, C, H, W).
        seed: of the phases, which are those of white noise; as in `uniform_noise`.
        within: bool (N, H, W), each a rectangle, outside of which there is no noise; None for all.

    Returns:
        (N, C, H, W) within [−1, 1].
    """
    noise = adv_images - images
    if within is None:
        within = torch.ones_like(noise[:, 0], dtype=torch.bool)
    for row, inside, generator in zip(noise, within, generators(seed, len(images)), strict=True):
        sides = len(row), int(inside.any(dim=1).sum()), int(inside.any(dim=0).sum())
        values = row[:, inside].reshape(sides)
        white = torch.empty(sides, dtype=torch.float32, device="cpu").normal_(generator=generator)
        phases = torch.fft.fft2(white.to(values)).angle()
        made = torch.fft.ifft2(torch.polar(torch.fft.fft2(values).abs(), phases)).real
        most = float(values.abs().max())
        row[:, inside] = made.clamp(-most, most).flatten(1)
    return (images + noise).clamp(-1, 1)


def jitter(sigma: float) -> Callable[[Tensor, Tensor, Sequence], tuple[Tensor, Tensor]]:
    """A `transform` of `attack.pgd`: other Gaussian noise on each image, copy and step.

    Args:
        sigma: [units of the images].

    Source: Athalye et al., arXiv:1802.00420 (expectation over transformations).
    """

    def transform(images: Tensor, labels: Tensor, keys: Sequence) -> tuple[Tensor, Tensor]:
        shape = images.shape[1:]
        noise = [torch.randn(shape, generator=each) for each in generators(keys, len(images))]
        return images + sigma * torch.stack(noise).to(images), labels

    return transform


def round_to_bits(images: Tensor, bits: int) -> Tensor:
    """Images as a file of so many bits per pixel would keep them.

    Args:
        images: (N, C, H, W) within [−1, 1].
        bits: 1 or more; JSRT has 12, a PNG for the screen 8.

    Returns:
        (N, C, H, W), at most half a grey level off.
    """
    level = 2 / (2 ** whole_number("bits", bits) - 1)
    return (((images + 1) / level).round() * level - 1).clamp(-1, 1)


def random_keys(seed: Seed, n: int) -> list:
    """The key that decides the random numbers of each of n images."""
    if not isinstance(seed, Iterable):
        return [(index(seed), place) for place in range(n)]
    keys = [key.item() if hasattr(key, "item") else key for key in seed]
    require(len(keys) == n, "seed", keys, f"give a number or one key per image ({n})")
    return keys


def generators(seed: Seed, n: int) -> Iterator[torch.Generator]:
    """A generator for each of n images, from its key alone."""
    for key in random_keys(seed, n):
        yield torch.Generator().manual_seed(zlib.crc32(repr(key).encode()))


def per_image(name: str, value: float | Tensor, images: Tensor) -> Tensor:
    """An argument that is one number or one for each image, as (N, 1, 1, 1) like the images."""
    value = torch.as_tensor(value, dtype=images.dtype, device=images.device).detach()
    n = len(images)
    fits = value.shape in ((), (n,)) and (value.isfinite() & (value >= 0)).all()
    wanted = f"give a number of 0 or more [units of the images], or one per image ({n})"
    require(fits, name, value.tolist(), wanted)
    return value.expand(n)[:, None, None, None]
