"""Pictures: the values of one PNG, TIFF, JPEG, BMP or GIF file, as the file states them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from imagecodecs import jpeg8_decode, png_decode
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "BMP", "GIF")
TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CUT = ("cannot be read (cut off within its pixels)", "put an intact copy in its place")


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


def is_cut_jpeg(data: bytes) -> bool:
    """Whether the end of a JPEG is missing; its decoders would fill up with grey."""
    last_scan = data.rfind(b"\xff\xda")
    return b"\xff\xd9" not in data[last_scan:]


def read_picture(path: Path, *, stored: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey values, upright and high where the picture is bright, and opacity.

    Args:
        path: the file; its content, not its name, says what it is.
        stored: whether numbers are wanted as they are stored, as of a label map: indices of a
            palette, and values of 2 or 4 bits not stretched to 8.

    Returns:
        (h, w) numbers; and (h, w) opacity, None where the picture is opaque everywhere. Of a colour
        file whose channels are equal, one of them. Of one that has a single colour and an opacity,
        zeros: the opacity says all.

    Raises:
        UnusableFileError: the file is damaged, in colour, holds several pictures, or NaN.
    """
    with reading(path):
        with open(path, "rb") as file:
            is_tiff = file.read(4) in TIFF_MARKS
        read = _read_tiff if is_tiff else _read_common
        pixels, has_opacity = read(path, stored)
    channels, opacity = np.atleast_3d(pixels), None
    if has_opacity:
        channels, opacity = channels[..., :-1], channels[..., -1]
        if (opacity == _opaque(opacity.dtype)).all():
            opacity = None
        elif (channels == channels[0, 0]).all():
            channels = np.zeros_like(channels)
    known = channels.dtype.kind in "buif" and np.isfinite(channels).all()
    refuse(not known, path, "holds NaN, infinite or complex values", "repair or remove it")
    several = (channels != channels[..., :1]).any()
    refuse(several, path, "is in colour", "save it as grey")
    return channels[..., 0], opacity


def _opaque(dtype):
    """The opacity of what is not transparent at all."""
    return 1 if dtype.kind == "f" else np.iinfo(dtype).max


def _is_known(path):
    """Whether Pillow knows a file; a JPEG of more than 8 bits it does not."""
    try:
        Image.open(path, formats=FORMATS).close()
    except UnidentifiedImageError:
        return False
    return True


def _read_deep_jpeg(path):
    """Values (h, w) of a JPEG of more than 8 bits, or without loss."""
    data = path.read_bytes()
    known = f"{', '.join(FORMATS)}, TIFF or DICOM"
    advice = "put an intact copy in one of these formats in its place"
    refuse(not data.startswith(b"\xff\xd8"), path, f"cannot be read (no {known})", advice)
    refuse(is_cut_jpeg(data), path, *CUT)
    return jpeg8_decode(data)


def _read_common(path, stored):
    """Values (h, w) or (h, w, channels) of what is no TIFF; whether one channel is opacity."""
    if not _is_known(path):
        return _read_deep_jpeg(path), False
    with Image.open(path, formats=FORMATS) as file:
        count = getattr(file, "n_frames", 1)
        refuse(count > 1, path, f"holds {count} pictures", "save one alone")
        refuse(file.mode == "CMYK", path, "is in colour", "save it as grey")
        depth = path.read_bytes()[24] if file.format == "PNG" else 8
        upright = ImageOps.exif_transpose(file)
    see_through = file.has_transparency_data and not (stored and file.mode == "P")
    if depth == 16 and (file.mode != "I;16" or see_through):
        turned = file.getexif().get(ExifTags.Base.Orientation, 1) != 1
        refuse(turned, path, "is stored mirrored or turned (EXIF)", "save it upright")
        pixels = png_decode(path.read_bytes())  # Pillow would keep 8 bits
        return pixels, pixels.shape[2] in (2, 4)
    if see_through:
        return np.asarray(upright.convert("RGBA")), True
    if file.mode == "P" and not stored:  # indices are no grey values
        upright = upright.convert("RGB")
    pixels = np.asarray(upright)
    if stored and file.mode == "L" and depth < 8:
        pixels = pixels // (255 // (2**depth - 1))
    return pixels, False


def _read_tiff(path, stored):
    """Values (h, w) or (h, w, channels) of a TIFF of one picture; whether one is opacity."""
    from tifffile import PHOTOMETRIC, TiffFile

    with TiffFile(path) as file:
        page = file.pages.first
        several = len(file.series) > 1 or file.series[0].size != page.size
        refuse(several, path, "holds several pictures", "save one alone")
        ends = np.add(page.dataoffsets, page.databytecounts)
        refuse(ends.max() > file.filehandle.size, path, *CUT)
        pixels = page.asarray()
    turned = page.tags.valueof("Orientation", 1) != 1
    refuse(turned, path, "is stored mirrored or turned (Orientation)", "save it upright")
    if page.axes[0] == "S":  # channels one after the other
        pixels = np.moveaxis(pixels, 0, -1)
    if page.photometric == PHOTOMETRIC.PALETTE and not stored:
        pixels = np.moveaxis(page.colormap[:, pixels], 0, -1)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        refuse(stored, path, "has 0 as white", "save its labels with 0 as black")
        pixels = _inverted(pixels, page.bitspersample)
    unknown = len(page.extrasamples) > 1 or 0 in page.extrasamples
    refuse(unknown, path, "has channels of unknown meaning", "save it as grey")
    return pixels, bool(page.extrasamples)


def _inverted(pixels, bits):
    """Values that are high where these are low; whole numbers without a sign stay such."""
    if pixels.dtype.kind == "b":
        return ~pixels
    if pixels.dtype.kind == "u":
        return pixels.dtype.type(2**bits - 1) - pixels
    return -pixels.astype(np.float64)
