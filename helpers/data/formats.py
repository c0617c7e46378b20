"""Formats: one image file as grey values, one mask as true and false, one label map as numbers."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from skimage.transform import resize_local_mean

from helpers.common.arguments import require
from helpers.data.pictures import read_picture, refuse

DICOM_TYPES = (".dcm", ".dicom")
COPY_TYPES = (".png", ".tif", ".tiff")  # of JSRT's images
IMAGE_TYPES = (*COPY_TYPES, ".jpg", ".jpeg", ".bmp", *DICOM_TYPES)
MASK_TYPES = (*COPY_TYPES, ".gif", ".bmp", ".jpg", ".jpeg")
LONGEST = 10  # sides of an image; padding to a square would take too much memory
# Of how files are read. Raise it with a change that alters arrays: caches of files are made anew.
VERSION = 2


def read_jsrt(path: Path) -> np.ndarray:
    """Grey values (h, h) in [−1, 1], bones bright, of a JSRT image.

    The original .IMG is high where dark; a copy in another format is taken to be bright already.

    Raises:
        OSError, ValueError: the file cannot be read or used; the message names it.
    """
    if path.suffix.lower() == ".img":
        pixels, highest = _read_img(path), 4095
    else:
        pixels, highest = _read_opaque(path), 255
        wanted = "save it as 8- or 16-bit grey"
        require(pixels.dtype.kind == "u", f"the type of {path}", pixels.dtype.name, wanted)
        if pixels.dtype != np.uint8:
            highest = 4095 if pixels.max() <= 4095 else 65535
    _check_contrast(path, pixels)
    height, width = pixels.shape
    wanted = "crop or pad it to a square, and its masks alike"
    require(height == width, f"the size of {path}", format_shape(pixels.shape), wanted)
    return pixels * np.float32(2 / highest) - 1


@np.errstate(over="ignore", invalid="ignore")  # what overflows is refused
def read_grey(path: Path) -> np.ndarray:
    """Grey values (h, w) of an image, float32, its lowest at −1 and its highest at 1.

    Where a DICOM file states a window, that says what is −1 and what is 1.

    Raises:
        ValueError: the file cannot be read or used; the message names it.
    """
    if is_dicom(path):
        from helpers.data.dicom import read_dicom  # half a second, only where there is DICOM

        grey = read_dicom(path)
        _check_contrast(path, grey)
    else:
        pixels = _read_opaque(path).astype(np.float64)
        _check_contrast(path, pixels)
        low, high = pixels.min(), pixels.max()
        grey = ((pixels - low) / (high - low) * 2 - 1).astype(np.float32)
    lost = not np.isfinite(grey).all()
    refuse(lost, path, "holds NaN or values too far apart", "repair or remove it")
    is_strip = max(grey.shape) > LONGEST * min(grey.shape)
    problem = f"is {format_shape(grey.shape)}, over {LONGEST} times as long as it is wide"
    refuse(is_strip, path, problem, "crop it, and its masks alike")
    return grey


def read_mask(path: Path) -> np.ndarray:
    """Mask (h, w) bool of a file that holds 0 and one other value, as grey or as opacity.

    Raises:
        ValueError: the file cannot be read or used; the message names it.
    """
    pixels, opacity = read_picture(path)
    if opacity is not None:
        differ = pixels.any() and ((pixels != 0) != (opacity != 0)).any()
        problem = "has another mask in its opacity than in its colours"
        refuse(differ, path, problem, "save it without transparency")
        pixels = opacity
    values = np.unique(pixels)
    problem = f"is not binary, its first values are {values[:4].tolist()}"
    advice = "save it as 0 outside and 255 inside, with sharp edges and not as JPEG"
    refuse(np.count_nonzero(values) > 1, path, problem, advice)
    return pixels != 0


def read_label_map(path: Path, values: Collection[int]) -> np.ndarray:
    """Whole numbers (h, w) of a label map; of a palette, its indices.

    Args:
        path: the file.
        values: those that have a name.

    Raises:
        ValueError: the file cannot be read or used; the message names it.
    """
    pixels = _read_opaque(path, stored=True)
    unnamed = [value for value in np.unique(pixels).tolist() if value not in values]
    problem = f"holds the value {unnamed[0]}, which has no name" if unnamed else ""
    refuse(problem, path, problem, "add the value, a whole number, and its name to labels.csv")
    return pixels.astype(np.int64)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its suffix, or has the mark of one whatever it is called."""
    if path.suffix.lower() in DICOM_TYPES:
        return True
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def area_average(pixels: np.ndarray, size: int) -> np.ndarray:
    """Float64 (size, size), each the mean of the area of `pixels` (n, n) that it covers.

    Any ratio of the sizes is exact; pixels of the size asked for stay as they are.
    """
    exact = pixels.astype(np.float64)
    return resize_local_mean(exact, (size, size), grid_mode=True, preserve_range=True)


def format_shape(shape: Sequence[int]) -> str:
    """Width and height, such as "2048×2048", of a shape (height, width)."""
    return "{1}×{0}".format(*shape)


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


def _read_opaque(path, stored=False):
    """Values (h, w) of a file that is opaque everywhere."""
    pixels, opacity = read_picture(path, stored=stored)
    refuse(opacity is not None, path, "is partly transparent", "save it without transparency")
    return pixels


def _check_contrast(path, pixels):
    wanted = "put an intact copy in its place"
    require(np.ptp(pixels), f"every value of {path}", pixels[0, 0].item(), wanted)
