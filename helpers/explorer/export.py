"""Files of attacked images: 16-bit PNG and DICOM, each with its provenance."""

import base64
import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from helpers.common.files import atomic_write
from helpers.common.provenance import versions
from helpers.data import read_grey
from helpers.explorer.attack_cache import AttackCache, Frame
from helpers.labels import picture_box

NAME = (
    "{case}_{attacker}_{goal[kind]}-{goal[ratio]:g}_{goal[structure]}_epsilon-{epsilon:g}"
    "_step-{steps}_{cell:.8}_"
)
EMPTY_TAGS = (  # a secondary capture must have them, and nothing here fills them
    "PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber "
    "ReferringPhysicianName SeriesNumber InstanceNumber"
)


def write_grey(path: Path, image: np.ndarray, about: dict, bits: int = 16) -> None:
    """Write an image as a grey PNG, which at 16 bits moves a pixel by at most 1 / 65535.

    Args:
        path: the file.
        image: (H, W); −1 becomes 0 and 1 becomes 65535 (at 8 bits 255).
        about: provenance, for the file's metadata.
        bits: 8 or 16.
    """
    grey = _grey(image) if bits == 16 else ((image.clip(-1, 1) + 1) * 127.5).round()
    notes = PngInfo()
    notes.add_text("Software", json.dumps(versions()))
    notes.add_text("Description", json.dumps(about))
    with atomic_write(path) as file:
        picture = Image.fromarray(grey.astype(f"uint{bits}"))
        picture.save(file, "PNG", pnginfo=notes)


def write_dicom(path: Path, image: np.ndarray, about: dict) -> None:
    """Write an image as a DICOM secondary capture of 16 bits.

    Its window is the whole range, so that viewers, and `data.load`, show −1 black and 1 white.

    Args:
        path: the file.
        image: (H, W) [−1, 1].
        about: provenance, for the image's comments.
    """
    from pydicom.dataset import Dataset  # half a second
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    record = Dataset()
    for tag in EMPTY_TAGS.split():
        setattr(record, tag, None)
    record.SOPClassUID = SecondaryCaptureImageStorage
    record.StudyInstanceUID = generate_uid()
    record.SeriesInstanceUID = generate_uid()
    record.Modality = "OT"
    record.ConversionType = "WSD"
    record.PatientName = "Adversarial^Attack"
    record.ImageComments = json.dumps(about)
    record.set_pixel_data(_grey(image), "MONOCHROME2", 16)
    record.VOILUTFunction = "LINEAR_EXACT"
    record.WindowCenter = 32767.5
    record.WindowWidth = 65535
    with atomic_write(path) as file:
        record.save_as(file, enforce_file_format=True)


FILES: dict[str, tuple[Callable, str]] = {
    "image": (write_grey, "image.png"),
    "dicom": (write_dicom, "image.dcm"),
}


def save(kind: str, frame: Frame, cache: AttackCache, folder: Path) -> str:
    """Write the attacked image of a frame to a file, without its padding.

    Args:
        kind: one of FILES.
        frame: the frame.
        cache: where it was taken from.
        folder: where the file is written.

    Returns:
        HTML that says where it was saved, with a link to download it.
    """
    experiment = frame.experiment
    (id,) = experiment.ids
    whole = experiment
    if experiment.attack == "fast pgd":  # whose steps depend on how many there are in all
        whole = replace(experiment, steps=cache.steps)
    about = cache.sources[id] | {
        "steps": experiment.steps if experiment.epsilon else 0,
        "case": id,
        "attacker": frame.attacker,
        "goal": {name: getattr(experiment.goal, name) for name in ("kind", "structure", "ratio")},
        "epsilon": experiment.epsilon,
        "cell": whole.key,
    }
    write, ending = FILES[kind]
    path = folder / re.sub(r"[^\w.-]+", "-", NAME.format(**about) + ending)
    write(path, frame.adv_image[picture_box(cache.truth[id].cpu().numpy())], about)
    data = base64.b64encode(path.read_bytes()).decode()
    link = f'<a href="data:;base64,{data}" download="{path.name}">{path.name}</a>'
    return f"Saved in {html.escape(folder.name)}, rounded to 16 bits: {link}"


FILE_TRIPS: dict[str, tuple[Callable, str]] = {
    "PNG, 8 bits": (partial(write_grey, bits=8), "image.png"),
    "DICOM, 16 bits": (write_dicom, "image.dcm"),
}


def round_trip(kind: str, images: torch.Tensor) -> torch.Tensor:
    """Images as they come back from files that are written, and read as a folder's are.

    Args:
        kind: one of FILE_TRIPS. A PNG does not say what −1 and 1 are: its lowest and highest value.
        images: (N, 1, H, W).

    Returns:
        Likewise.
    """
    write, name = FILE_TRIPS[kind]
    returned = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        for image in images[:, 0].cpu().numpy():
            write(path, image, {})
            returned.append(torch.from_numpy(read_grey(path)))
    return torch.stack(returned)[:, None]


def _grey(image):
    return ((image.astype(np.float64).clip(-1, 1) + 1) * 32767.5).round().astype(np.uint16)
