"""DICOM: one radiograph as a viewer shows it."""

from pathlib import Path

import imagecodecs
import numpy as np
from pydicom import dcmread, uid
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_rescale, apply_windowing

from helpers.data.pictures import UnusableFileError, reading

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
JPEG_END = b"\xff\xd9"
# The same decoder on every machine; pydicom would take whichever is installed.
DECODERS = {
    uid.JPEGBaseline8Bit: imagecodecs.jpeg8_decode,
    uid.JPEGExtended12Bit: imagecodecs.jpeg8_decode,
    uid.JPEGLossless: imagecodecs.jpeg8_decode,
    uid.JPEGLosslessSV1: imagecodecs.jpeg8_decode,
    uid.JPEGLSLossless: imagecodecs.jpegls_decode,
    uid.JPEGLSNearLossless: imagecodecs.jpegls_decode,
    uid.JPEG2000Lossless: imagecodecs.jpeg2k_decode,
    uid.JPEG2000: imagecodecs.jpeg2k_decode,
    uid.HTJ2KLossless: imagecodecs.htj2k_decode,
    uid.HTJ2KLosslessRPCL: imagecodecs.htj2k_decode,
    uid.HTJ2K: imagecodecs.htj2k_decode,
}


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
        _check_record(path, record)
        stored = _stored_values(path, record)
        padding = _is_padding(record, stored)
        shown = _shown_values(record, stored, padding)
    if record.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    shown[padding] = 0
    return (shown * 2 - 1).astype(np.float32)


def _check_record(path, record):
    if not any(name in record for name in PIXELS):
        raise UnusableFileError(
            f"{path} has no pixels (it is no image, or cut off): put an image in its place"
        )
    frames = record.get("NumberOfFrames") or 1
    if frames > 1:
        raise UnusableFileError(f"{path} has {frames} frames: save one of them as a file")
    kind = record.get("PhotometricInterpretation")
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnusableFileError(f"{path} is in colour ({kind}): save it as grey, MONOCHROME2")
    if kind == "MONOCHROME2" and record.get("PresentationLUTShape") == "INVERSE":
        raise UnusableFileError(
            f"{path} contradicts itself (MONOCHROME2, but Presentation LUT Shape INVERSE): "
            "correct one of them"
        )


def _stored_values(path, record):
    """Values (h, w) before any look-up."""
    syntax = record.file_meta.get("TransferSyntaxUID")
    if syntax not in DECODERS:
        return record.pixel_array
    frame = next(generate_frames(record.PixelData, number_of_frames=1))
    if syntax in uid.JPEGTransferSyntaxes and JPEG_END not in frame[-3:]:
        raise UnusableFileError(f"{path} is cut off within its pixels: put an intact copy there")
    pixels = DECODERS[syntax](frame)
    wanted = record.Rows, record.Columns
    if pixels.shape != wanted:
        raise UnusableFileError(f"{path} holds {pixels.shape} pixels, but should {wanted}")
    if record.PixelRepresentation and pixels.dtype.kind == "u":
        sign = 1 << (record.BitsStored - 1)
        pixels = (pixels.astype(np.int64) ^ sign) - sign
    return pixels


def _is_padding(record, stored):
    """Where pixels (h, w) are no part of the radiograph, by the padding value or its range."""
    first = record.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = record.get("PixelPaddingRangeLimit", first)
    return (stored >= min(first, last)) & (stored <= max(first, last))


def _shown_values(record, stored, padding):
    """Values (h, w) float64 from 0 to 1, the ends of the window; as MONOCHROME2."""
    if record.get("ModalityLUTSequence"):
        values = _look_up(record, record.ModalityLUTSequence[0], stored)
    else:
        values = apply_rescale(stored, record)
    if record.get("VOILUTSequence"):
        item = record.VOILUTSequence[0]
        return _look_up(record, item, values) / (2.0 ** item.LUTDescriptor[2] - 1)
    ends = values[~padding].min(), values[~padding].max()
    if record.get("WindowWidth"):
        ends = apply_windowing(np.array([-np.inf, np.inf]), record)
        values = apply_windowing(values, record)
    low, high = np.float64(ends)
    return (values - low) / ((high - low) or 1)


def _look_up(record, item, values):
    """Entries of a table; values before its first and after its last take those.

    Not pydicom's `apply_voi`, whose index overflows if the entries have 8 bits.
    """
    count, first, _ = item.LUTDescriptor
    table = item.LUTData
    if isinstance(table, bytes):
        order = "<" if record.original_encoding[1] else ">"
        table = np.frombuffer(table, "u1" if len(table) == count else f"{order}u2")
    index = np.rint(values).astype(np.int64) - first
    return np.asarray(table)[index.clip(0, len(table) - 1)]
