"""Pictures: the values of one PNG, TIFF, JPEG, BMP or GIF file, as the file states them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "BMP", "GIF")
TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG_MARK = b"\xff\xd8"
ORIENTATION = 0x0112  # the tag of EXIF and TIFF


class UnusableFileError(ValueError):
    """A file that cannot be read or used; the message names it and says what to do."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a library raises about a damaged file into an UnusableFileError."""
    try:
        yield
    except UnusableFileError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnusableFileError(
            f"{path} cannot be read ({reason}): put an intact copy in its place"
        ) from error


def read_picture(path: Path, *, stored: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey values, upright and high where the picture is bright, and opacity.

    Args:
        path: the file; its content, not its name, says what it is.
        stored: whether numbers are wanted as they are stored, as of a label map: indices of a
            palette, and values of 2 or 4 bits not stretched to 8.

    Returns:
        (h, w) numbers; and (h, w) opacity, None where the file has none. Of a colour file whose
        channels are equal, one of them. Of one that has a single colour and an opacity, zeros: the
        opacity says all.

    Raises:
        UnusableFileError: the file is damaged, in colour, holds several pictures, or NaN.
    """
    with reading(path):
        with open(path, "rb") as file:
            is_tiff = file.read(4) in TIFF_MARKS
        read = _read_tiff if is_tiff else _read_common
        channels, opacity, orientation = read(path, stored)
    if opacity is not None and (channels == channels[0, 0]).all():
        channels = np.zeros_like(channels)
    if channels.dtype.kind not in "buif" or not np.isfinite(channels).all():
        raise UnusableFileError(f"{path} holds NaN, infinite or complex values: repair or remove it")
    if (channels != channels[..., :1]).any():
        raise UnusableFileError(f"{path} is in colour: save it as grey")
    values = _upright(channels[..., 0], orientation)
    return values, None if opacity is None else _upright(opacity, orientation)


def _upright(pixels, orientation):
    """A picture turned and mirrored as its orientation (1 … 8) asks for."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.T
    if orientation in (3, 4, 7, 8):
        pixels = np.flipud(pixels)
    if orientation in (2, 3, 6, 7):
        pixels = np.fliplr(pixels)
    return pixels


def _read_common(path, stored):
    """Channels (h, w, k), opacity and orientation of a file that Pillow reads."""
    try:
        file = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        pixels, orientation = _read_deep_jpeg(path), 1
    else:
        with file:
            orientation = file.getexif().get(ORIENTATION, 1)
            pixels = _pillow_pixels(path, file, stored)
    pixels = np.atleast_3d(pixels)
    if pixels.shape[2] in (2, 4):
        return pixels[..., :-1], pixels[..., -1], orientation
    return pixels, None, orientation


def _read_deep_jpeg(path):
    """Values of a JPEG of more than 8 bits, which Pillow does not read."""
    data = path.read_bytes()
    if not data.startswith(JPEG_MARK):
        raise UnusableFileError(
            f"{path} cannot be read (it is empty, or no image): put an intact copy in its place"
        )
    from imagecodecs import jpeg8_decode

    return jpeg8_decode(data)


def _pillow_pixels(path, file, stored):
    """Values (h, w) or (h, w, channels)."""
    count = getattr(file, "n_frames", 1)
    if count > 1:
        raise UnusableFileError(f"{path} holds {count} pictures: save one alone")
    if file.mode == "CMYK":
        raise UnusableFileError(f"{path} is in colour: save it as grey")
    depth = path.read_bytes()[24] if file.format == "PNG" else 8
    if depth == 16 and (file.mode != "I;16" or file.has_transparency_data):
        from imagecodecs import png_decode  # Pillow would keep 8 bits

        return png_decode(path.read_bytes())
    if file.mode == "P" and stored:
        return np.asarray(file)
    if file.has_transparency_data:
        return np.asarray(file.convert("RGBA"))
    if file.mode == "P":  # indices of a palette are no grey values
        return np.asarray(file.convert("RGB"))
    pixels = np.asarray(file)
    if stored and file.mode == "L" and depth < 8:
        return pixels // (255 // (2**depth - 1))
    return pixels


def _read_tiff(path, stored):
    """Channels (h, w, k), opacity and orientation of a TIFF of one picture."""
    from tifffile import PHOTOMETRIC, TiffFile

    with TiffFile(path) as file:
        series = [each for each in file.series if not each.keyframe.is_reduced]
        page = series[0].keyframe
        if len(series) > 1 or series[0].size != page.size:
            raise UnusableFileError(f"{path} holds several pictures: save one alone")
        pixels = page.asarray()
    orientation = page.tags.valueof(ORIENTATION, 1)
    if page.axes[0] == "S":  # channels one after the other
        pixels = np.moveaxis(pixels, 0, -1)
    if page.photometric == PHOTOMETRIC.PALETTE and not stored:
        pixels = np.moveaxis(page.colormap[:, pixels], 0, -1)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        if stored:
            raise UnusableFileError(f"{path} has 0 as white: save its labels with 0 as black")
        pixels = _inverted(pixels, page.bitspersample)
    pixels = np.atleast_3d(pixels)
    if page.extrasamples:
        if len(page.extrasamples) > 1 or not page.extrasamples[0]:
            raise UnusableFileError(f"{path} has channels of unknown meaning: save it as grey")
        return pixels[..., :-1], pixels[..., -1], orientation
    return pixels, None, orientation


def _inverted(pixels, bits):
    """Values that are high where these are low; whole numbers without a sign stay such."""
    if pixels.dtype.kind == "b":
        return ~pixels
    if pixels.dtype.kind == "u":
        return pixels.dtype.type(2**bits - 1) - pixels
    return -pixels.astype(np.float64)
