"""Pictures: the values of one PNG, TIFF, JPEG, BMP or GIF file, as the file states them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from imagecodecs import png_decode
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "BMP", "GIF")
TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


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


def refuse(found: object, path: Path, problem: str, advice: str) -> None:
    """Raise an UnusableFileError if a problem with a file was found."""
    if found:
        raise UnusableFileError(f"{path} {problem}: {advice}")


def read_picture(path: Path, *, stored: bool = False) -> np.ndarray:
    """Grey values (h, w), upright and high where the picture is bright.

    Args:
        path: the file; its content, not its name, says what it is.
        stored: whether numbers are wanted as they are stored, as of a label map: indices of a
            palette.

    Raises:
        UnusableFileError: the file is damaged, in colour, partly transparent, holds several
            pictures, or NaN.
    """
    with reading(path):
        with open(path, "rb") as file:
            is_tiff = file.read(4) in TIFF_MARKS
        read = _read_tiff if is_tiff else _read_common
        pixels, has_opacity = read(path, stored)
        channels = np.atleast_3d(pixels)
        if has_opacity:
            opaque = channels[..., -1] == np.iinfo(channels.dtype).max
            refuse(not opaque.all(), path, "is partly transparent", "save it without transparency")
            channels = channels[..., :-1]
        known = channels.dtype.kind in "buif" and np.isfinite(channels).all()
        refuse(not known, path, "holds NaN, infinite or complex values", "repair or remove it")
        several = (channels != channels[..., :1]).any()
        refuse(several, path, "is in colour", "save it as grey")
    return channels[..., 0]


def _read_common(path, stored):
    """Values (h, w) or (h, w, channels) of what is no TIFF; whether one channel is opacity."""
    with Image.open(path, formats=FORMATS) as file:
        count = getattr(file, "n_frames", 1)
        refuse(count > 1, path, f"holds {count} pictures", "save one alone")
        refuse(file.mode == "CMYK", path, "is in colour", "save it as grey")
        upright = ImageOps.exif_transpose(file)
    if file.format == "PNG" and path.read_bytes()[24] == 16:
        pixels = png_decode(path.read_bytes())  # Pillow would keep 8 bits of colours
        return pixels, np.atleast_3d(pixels).shape[2] in (2, 4)
    if file.mode == "P" and stored:
        return np.asarray(upright), False
    see_through = file.has_transparency_data
    if see_through or file.mode == "P":  # indices are no grey values
        upright = upright.convert("RGBA" if see_through else "RGB")
    return np.asarray(upright), see_through


def _read_tiff(path, stored):
    """Values (h, w) or (h, w, channels) of a TIFF of one picture; whether one is opacity."""
    from tifffile import PHOTOMETRIC, TiffFile

    with TiffFile(path) as file:
        page = file.pages.first
        several = len(file.series) > 1 or file.series[0].size != page.size
        refuse(several, path, "holds several pictures", "save one alone")
        pixels = page.asarray()
    turned = page.tags.valueof("Orientation", 1) != 1
    refuse(turned, path, "is stored mirrored or turned (Orientation)", "save it upright")
    if page.axes[0] == "S":  # channels one after the other
        pixels = np.moveaxis(pixels, 0, -1)
    if page.photometric == PHOTOMETRIC.PALETTE and not stored:
        pixels = np.moveaxis(page.colormap[:, pixels], 0, -1)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        refuse(stored, path, "has 0 as white", "save its labels with 0 as black")
        top = 2**page.bitspersample - 1 if pixels.dtype.kind in "bu" else 0
        pixels = top - pixels.astype(np.float64)
    unknown = len(page.extrasamples) > 1 or 0 in page.extrasamples
    refuse(unknown, path, "has channels of unknown meaning", "save it as grey")
    return pixels, bool(page.extrasamples)
