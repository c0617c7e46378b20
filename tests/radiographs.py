"""Small copies of JSRT and folders for the tests of datasets, and how they are looked at."""

import numpy as np
import torch
from PIL import Image
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset

from helpers import phantom

FIVE = phantom.STRUCTURES
CASES = {"JPCLN001": 1, "JPCLN002": 2, "JPCLN004": 4, "JPCNN002": 156}  # one to test on


def blow_up(pixels, times):
    return np.repeat(np.repeat(pixels, times, axis=-2), times, axis=-1)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_scr(root, cases, *, folder="scratch/fold{fold}/masks/{structure}", suffix=".gif"):
    for id, (_, masks) in cases.items():
        for structure, mask in zip(FIVE, masks, strict=True):
            fold, underscored = 2 - int(id[-3:]) % 2, structure.replace(" ", "_")
            place = root / folder.format(fold=fold, structure=structure, underscored=underscored)
            write(
                place / f"{id}{suffix}",
                blow_up(mask, 1024 // mask.shape[-1]).astype(np.uint8) * 255,
            )


def write_jsrt(root, cases, **layout):
    """JSRT and SCR in their true formats: 12-bit big-endian .IMG, high where dark; 1024×1024 masks."""
    for id, (image, _) in cases.items():
        dark = 4095 - np.rint((blow_up(image, 8) + 1) / 2 * 4095)
        (root / "All247images").mkdir(parents=True, exist_ok=True)
        (root / "All247images" / f"{id}.IMG").write_bytes(dark.astype(">u2").tobytes())
    write_scr(root, cases, **layout)
    return root


def message(error, *parts):
    """The error's text, which must be one line with these parts in it."""
    text = str(error.value)
    assert "\n" not in text and text.strip()
    for part in parts:
        assert str(part) in text, text
    return text


def same(one, other):
    arrays = torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    return arrays and one.digest == other.digest


def write_dicom(path, pixels, **changes):
    """A radiograph (h, w) of 8 or 16 bits as an uncompressed DICOM file; `changes` are its tags."""
    record = Dataset()
    record.SOPClassUID = uid.ComputedRadiographyImageStorage
    record.SOPInstanceUID = uid.generate_uid()
    record.Modality = "CR"
    bits = 8 * pixels.itemsize
    record.set_pixel_data(pixels, "MONOCHROME2", bits)
    for name, value in changes.items():
        setattr(record, name, value)
    record.file_meta = FileMetaDataset()
    record.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    record.save_as(path, enforce_file_format=True)
    return path
