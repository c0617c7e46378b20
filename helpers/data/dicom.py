"""DICOM: one radiograph as a viewer shows it."""

from pathlib import Path

import numpy as np
from imagecodecs import jpeg2k_decode, jpeg8_decode, jpegls_decode
from pydicom import dcmread, uid
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_rescale, apply_windowing

from helpers.data.pictures import CUT, is_cut_jpeg, reading, refuse

# The same decoders on every machine; pydicom would take whichever are installed.
DECODERS: dict = dict.fromkeys(uid.JPEGTransferSyntaxes, jpeg8_decode)
DECODERS |= dict.fromkeys(uid.JPEGLSTransferSyntaxes, jpegls_decode)
DECODERS |= dict.fromkeys(uid.JPEG2000TransferSyntaxes, jpeg2k_decode)
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
GREY = ("MONOCHROME1", "MONOCHROME2")


def read_dicom(path: Path) -> np.ndarray:
    """Grey values (h, w) in [−1, 1], float32, as a viewer shows them.

    Modality look-up or rescaling, then the first VOI look-up or window, which says what is black
    and what is white; without one, the least and the greatest value are. MONOCHROME1 is inverted,
    and pixels of the padding value are black.

    Raises:
        UnusableFileError: the file is damaged, has no pixels, several frames or colours.
    """
    with reading(path):
        record = dcmread(path, force=True)
        missing = not any(name in record for name in PIXELS)
        refuse(missing, path, "has no pixels (it is no image, or cut off)", "put one in its place")
        frames = record.get("NumberOfFrames") or 1
        refuse(frames > 1, path, f"has {frames} frames", "save one of them alone")
        kind = record.get("PhotometricInterpretation")
        refuse(not kind, path, "has no PhotometricInterpretation", f"add it ({GREY[1]})")
        refuse(kind not in GREY, path, f"is in colour ({kind})", "save it as grey (MONOCHROME2)")
        inverse = kind == GREY[1] and record.get("PresentationLUTShape") == "INVERSE"
        refuse(inverse, path, "is MONOCHROME2, but of INVERSE shape", "correct one of them")
        half = record.get("WindowWidth") and record.get("WindowCenter") is None
        refuse(half, path, "has a WindowWidth but no WindowCenter", "add or remove one of them")
        stored = _stored_values(path, record)
        several = stored.ndim != 2
        refuse(several, path, f"has values of shape {stored.shape}", "save one grey frame alone")
        padding = _padding(record, stored)
        refuse(padding.all(), path, "is padding everywhere", "put an intact copy in its place")
        shown = _shown_values(record, stored, padding)
    if kind == GREY[0]:
        shown = 1 - shown
    return np.where(padding, -1, shown * 2 - 1).astype(np.float32)


def _padding(record, stored):
    """Where the pixels (h, w) are none of the image, bool: one value, or a range of them."""
    value = record.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    low, high = sorted((value, record.get("PixelPaddingRangeLimit", value)))
    return (stored >= low) & (stored <= high)


def _stored_values(path, record):
    """Values (h, w) before any look-up."""
    syntax = record.file_meta.get("TransferSyntaxUID")
    if syntax not in DECODERS:
        return record.pixel_array
    frame, *more = generate_frames(record.PixelData, number_of_frames=1)
    refuse(more, path, "has several frames", "save one of them alone")
    refuse(syntax in uid.JPEGTransferSyntaxes and is_cut_jpeg(frame), path, *CUT)
    pixels = DECODERS[syntax](frame)
    if record.PixelRepresentation and pixels.dtype.kind == "u":
        sign = 1 << (record.BitsStored - 1)
        pixels = (pixels.astype(np.int64) ^ sign) - sign
    return pixels


def _shown_values(record, stored, padding):
    """Values (h, w) float64 from 0 to 1, the ends of the window; as of MONOCHROME2."""
    if record.get("ModalityLUTSequence"):
        values = _look_up(record, record.ModalityLUTSequence[0], stored)
    else:
        values = apply_rescale(stored, record)
    ends = values[~padding]
    low, high = ends.min(), ends.max()
    if record.get("VOILUTSequence"):
        item = record.VOILUTSequence[0]
        values = _look_up(record, item, values)
        low, high = 0, 2 ** item.LUTDescriptor[2] - 1
    elif record.get("WindowWidth"):
        low, high = apply_windowing(np.array([-np.inf, np.inf]), record)
        values = apply_windowing(values, record)
    return (values - np.float64(low)) / (np.float64(high) - low or 1)


def _look_up(record, item, values):
    """Entries of a table; values before its first and after its last take those.

    Not pydicom's `apply_voi`, whose index overflows where the entries have 8 bits.
    """
    count, first, _ = item.LUTDescriptor
    table = item.LUTData
    if isinstance(table, bytes):
        order = "<" if record.original_encoding[1] else ">"
        table = np.frombuffer(table, "u1" if len(table) == count else f"{order}u2")
    index = np.rint(values).astype(np.int64) - first
    return np.asarray(table)[index.clip(0, len(table) - 1)]
