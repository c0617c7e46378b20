"""Formats: one image file as grey values, one mask file as true and false."""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage.transform import resize_local_mean

from helpers.common.arguments import require

IMAGE_TYPES = (".png", ".tif", ".tiff")
MASK_TYPES = (*IMAGE_TYPES, ".gif", ".bmp")


def read_jsrt(path: Path) -> np.ndarray:
    """Grey values (h, h) in [−1, 1], bones bright, of a JSRT image.

    The original .IMG is high where dark; a copy in another format is taken to be bright already.

    Raises:
        OSError, ValueError: the file cannot be read or used; the message names it.
    """
    if path.suffix.lower() == ".img":
        pixels, highest = _read_img(path), 4095
    else:
        pixels, highest = _read_pixels(path), 255
        wanted = "save it as 8- or 16-bit grey"
        require(pixels.dtype.kind == "u", f"the type of {path}", pixels.dtype.name, wanted)
        if pixels.dtype != np.uint8:
            highest = 4095 if pixels.max() <= 4095 else 65535
    _check_image(path, pixels)
    return pixels * np.float32(2 / highest) - 1


def read_grey(path: Path) -> np.ndarray:
    """Grey values (h, h) of an image, float32, its lowest at −1 and its highest at 1.

    Raises:
        ValueError: the file cannot be read or used; the message names it.
    """
    pixels = _read_pixels(path).astype(np.float64)
    _check_image(path, pixels)
    low, high = pixels.min(), pixels.max()
    return ((pixels - low) / (high - low) * 2 - 1).astype(np.float32)


def read_mask(path: Path) -> np.ndarray:
    """Mask (h, w) bool of a file that holds 0 and one other value.

    Raises:
        ValueError: the file cannot be read or used; the message names it.
    """
    pixels = _read_pixels(path)
    values = np.unique(pixels)
    if np.count_nonzero(values) > 1:
        raise ValueError(
            f"{path} is not binary, its first values are {values[:4].tolist()}: "
            "save it as 0 outside and 255 inside"
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
    """Values (2048, 2048), bones bright, of an .IMG: big-endian, 12 bits, no header."""
    data = path.read_bytes()
    wanted = "copy it again, a JSRT .IMG has 8388608 bytes"
    require(len(data) == 2 * 2048**2, f"the size of {path}", len(data), wanted)
    raw = np.frombuffer(data, ">u2").reshape(2048, 2048)
    stray = (raw > 4095).mean()  # a few such values occur; swapped bytes give many
    wanted = "12 bits end at 4095: use the big-endian original"
    require(stray <= 0.001, f"the highest value of {path}", int(raw.max()), wanted)
    return 4095 - np.minimum(raw, 4095)


def _read_pixels(path):
    """Values (h, w) of an image file; of a colour file whose channels are equal, of one of them."""
    try:
        with Image.open(path) as file:
            if file.mode in ("P", "PA", "LA", "RGBA"):  # a palette's indices are no grey values
                file = file.convert("RGB")
            pixels = np.asarray(file)
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


def _check_image(path, pixels):
    height, width = pixels.shape
    wanted = "crop or pad it to a square, and its masks alike"
    require(height == width, f"the size of {path}", format_shape(pixels), wanted)
    wanted = "put an intact copy in its place"
    require(np.ptp(pixels), f"every value of {path}", pixels[0, 0].item(), wanted)
