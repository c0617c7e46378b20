"""Formats: one image file as grey values, one mask file as true and false."""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage.transform import resize_local_mean

IMAGE_TYPES = (".png", ".tif", ".tiff")
MASK_TYPES = (*IMAGE_TYPES, ".gif", ".bmp")
JSRT_SIDE = 2048


def read_jsrt(path: Path) -> np.ndarray:
    """Grey values (h, w) in [−1, 1], bones bright, of a JSRT image.

    The original .IMG is high where dark; a copy in another format is taken to be bright already.

    Raises:
        OSError, ValueError: the file cannot be read or used; the message names it.
    """
    if path.suffix.lower() == ".img":
        raw = _read_img(path)
        pixels, highest = 4095 - np.minimum(raw, 4095), 4095
    else:
        pixels = _read_pixels(path)
        if pixels.dtype.kind not in "ui" or pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(
                f"{path} is neither 8- nor 16-bit ({pixels.dtype}): save it as 8- or 16-bit grey"
            )
        highest = 255
        if pixels.dtype != np.uint8:
            highest = 4095 if pixels.max() <= 4095 else 65535
    _refuse_blank(path, pixels)
    return pixels * np.float32(2 / highest) - 1


def read_grey(path: Path) -> np.ndarray:
    """Grey values (h, w) of an image, float32, its lowest at −1 and its highest at 1.

    Raises:
        ValueError: the file cannot be read or used; the message names it.
    """
    pixels = _read_pixels(path).astype(np.float64)
    _refuse_blank(path, pixels)
    low, high = pixels.min(), pixels.max()
    return ((pixels - low) / (high - low) * 2 - 1).astype(np.float32)


def read_mask(path: Path) -> np.ndarray:
    """Mask (h, w) bool of a file that holds 0 and one other value.

    Raises:
        ValueError: the file cannot be read or used; the message names it.
    """
    pixels = _read_pixels(path)
    if not ((pixels == 0) | (pixels == pixels.max())).all():
        values = np.unique(pixels)
        listed = ", ".join(f"{value:g}" for value in values[:4]) + ", …" * (len(values) > 4)
        raise ValueError(
            f"{path} is not binary, its values are {listed}: save it as 0 outside and 255 inside"
        )
    return pixels != 0


def area_average(pixels: np.ndarray, size: int) -> np.ndarray:
    """Float64 (size, size), each the mean of the area of `pixels` (n, n) that it covers.

    Any ratio of the sizes is exact; pixels of the size asked for stay as they are.
    """
    exact = pixels.astype(np.float64)
    return resize_local_mean(exact, (size, size), grid_mode=True, preserve_range=True)


def format_shape(pixels: np.ndarray) -> str:
    """Width and height, such as "2048×2048"."""
    return "{1}×{0}".format(*pixels.shape)


def _read_img(path):
    """Raw values (2048, 2048) of an .IMG: big-endian, 12 bits, no header."""
    data = path.read_bytes()
    if len(data) != 2 * JSRT_SIDE**2:
        raise ValueError(
            f"{path} has {len(data)} bytes, a JSRT .IMG has {2 * JSRT_SIDE**2}: copy it again"
        )
    raw = np.frombuffer(data, ">u2").reshape(JSRT_SIDE, JSRT_SIDE)
    if (raw > 4095).mean() > 0.001:  # a few stray values occur; swapped bytes give many
        raise ValueError(
            f"{path} has values up to {raw.max()}, 12 bits end at 4095: use the big-endian original"
        )
    return raw


def _read_pixels(path):
    """Values (h, w) of an image file; of a colour file whose channels are equal, of one of them."""
    try:
        with Image.open(path) as file:
            if file.mode in ("P", "PA"):  # a palette's indices are no grey values
                file = file.convert("RGB")
            pixels = np.asarray(file)
            if file.mode in ("LA", "RGBA"):
                pixels = pixels[..., :-1]
    except Exception as error:  # Pillow raises many kinds of errors on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} cannot be read ({reason}): put an intact copy in its place"
        ) from error
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise ValueError(f"{path} is in colour: save it as grey")
        pixels = pixels[..., 0]
    if not np.isfinite(pixels).all():
        raise ValueError(f"{path} holds NaN or infinite values: repair or remove it")
    return pixels


def _refuse_blank(path, pixels):
    if pixels.min() == pixels.max():
        raise ValueError(
            f"{path} has the value {pixels.min():g} everywhere: put an intact copy in its place"
        )
