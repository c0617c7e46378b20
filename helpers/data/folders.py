"""Folders: which file belongs to which case, in a copy of JSRT and SCR or in any folder."""

import csv
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path

import numpy as np

from helpers import phantom
from helpers.common.paths import DATA
from helpers.data.formats import (
    IMAGE_TYPES,
    MASK_TYPES,
    format_shape,
    read_grey,
    read_jsrt,
    read_mask,
)

JSRT_IDS = tuple(
    f"JPC{kind}N{i:03d}" for kind, last in (("L", 154), ("N", 93)) for i in range(1, last + 1)
)
HOW_TO = {
    "jsrt": "get the images from JSRT (db.jsrt.or.jp) and the SCR masks from Zenodo record "
    "7056076, then put both into data/jsrt or set JSRT_DIR to their folder (see data/README.md)",
    "folder": "put images/<id>.png and masks/<structure>/<id>.png into it (see data/README.md)",
}
Files = dict[str, Path]


@dataclass
class Source:
    """What a dataset is made from.

    Attributes:
        name: of the dataset.
        root: the folder of its files; None if it has none.
        masks: structure → id → file; the structures are the classes 1, 2, ….
        images: id → file.
        patients: id → patient, of all cases in their order.
        folds: id → 1 (for testing) or 2 (for training); empty if nobody has said.
        problems: lines about what is wrong.
        notes: lines about what is merely worth knowing.
    """

    name: str
    root: Path | None
    masks: dict[str, Files]
    images: Files = field(default_factory=dict)
    patients: dict = field(default_factory=dict)
    folds: dict = field(default_factory=dict)
    problems: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def files(self) -> list[Path]:
        """Images, then masks by case and structure."""
        masks = [files[id] for id in self.images for files in self.masks.values()]
        return [*self.images.values(), *masks]

    def enter(self, files: Files, id: str, path: Path) -> None:
        """Add a file; a second one of the same case is a problem."""
        if id in files:
            self.problems.append(f"{path} and {files[id]} have the same id: keep one of them")
        files.setdefault(id, path)


def scan(name: str, root: str | Path | None = None) -> Source:
    """The files of "jsrt" or "folder" by case, none of them read yet.

    Args:
        name: "jsrt" or "folder".
        root: the folder; of "jsrt", None is $JSRT_DIR or data/jsrt.

    Raises:
        FileNotFoundError: the folder is missing.
    """
    root = Path(root or os.environ.get("JSRT_DIR") or DATA / "jsrt").expanduser().resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}: {HOW_TO[name]}")
    source = _scan_jsrt(root) if name == "jsrt" else _scan_folder(root)
    if not (source.images and any(source.masks.values())):
        missing = "masks" if source.images else "images"
        source.problems.insert(0, f"{root} holds no {missing}: {HOW_TO[name]}")
        return source
    for structure, masks in source.masks.items():
        for id, image in source.images.items():
            if id not in masks:
                source.problems.append(
                    f"{image} has no {structure!r} mask: add one of that name, or remove the image"
                )
    stray = set().union(*source.masks.values()) - source.images.keys()
    if stray:
        listed = f"{len(stray)}, among them {min(stray)}"
        source.notes.append(f"cases with a mask but without an image, left out: {listed}")
    return source


def read_case(source: Source, id: str) -> tuple[np.ndarray | None, dict, list]:
    """A case at its files' sizes.

    A folder's masks must have their image's size; SCR's are smaller than JSRT's images, but all of
    one size.

    Returns:
        The image (h, h) in [−1, 1], None if it cannot be used; the masks (h, h) bool by structure;
        and a line about each file that cannot be used.
    """
    image, masks, problems = None, {}, []
    read = read_jsrt if source.name == "jsrt" else read_grey
    try:
        image = read(source.images[id])
    except (OSError, ValueError) as error:
        problems.append(str(error))
    for structure, files in source.masks.items():
        if id in files:
            try:
                masks[structure] = read_mask(files[id])
            except (OSError, ValueError) as error:
                problems.append(str(error))
    peers = masks.values() if source.name == "jsrt" or image is None else [image]
    side = max(map(len, peers), default=0)
    for structure, mask in masks.items():
        if mask.shape != (side, side):
            path, shape = source.masks[structure][id], format_shape(mask)
            problems.append(
                f"{path} is {shape} but should be {side}×{side}: export it at that size"
            )
    return image, masks, problems


def _scan_jsrt(root):
    """Images and masks by their names wherever they are; a mask's folder says its structure."""
    source = Source("jsrt", root, {structure: {} for structure in phantom.STRUCTURES})
    structures = {structure.replace(" ", ""): masks for structure, masks in source.masks.items()}
    images, folds = {}, defaultdict(set)
    for name in sorted(glob("**", root_dir=root, recursive=True)):
        path, plain = root / name, Path(re.sub("[ _-]", "", name.lower()))
        id, folder = path.stem.upper(), plain.parent.name
        if id not in JSRT_IDS:
            continue
        if folder in structures and plain.suffix in MASK_TYPES:
            source.enter(structures[folder], id, path)
        elif plain.suffix in (".img", *IMAGE_TYPES) and "mask" not in str(plain):
            source.enter(images, id, path)
        folds[id].update(re.findall("fold([12])/", str(plain)))
    for id in JSRT_IDS:
        if id in images:
            source.images[id] = images[id]
            source.patients[id] = id
            own = folds[id] or {2 - int(id[-3:]) % 2}
            source.folds[id] = int(min(own))
            if len(own) > 1:
                source.problems.append(
                    f"{images[id]} and its masks are in fold 1 and in fold 2: keep one fold"
                )
    return source


def _scan_folder(root):
    """images/<id>.png, masks/<structure>/<id>.png, and index.csv where there is one."""
    source = Source(f"folder-{root.name}", root, {})
    _enter_all(source, source.images, root / "images", IMAGE_TYPES)
    source.patients = {id: id for id in source.images}
    for folder in sorted(root.glob("masks/[!.]*/")):
        masks = {}
        _enter_all(source, masks, folder, MASK_TYPES)
        if masks:
            source.masks[folder.name] = masks
        else:
            source.notes.append(f"{folder} holds no masks: left out, it is no structure")
    if (root / "index.csv").is_file():
        _read_patients(source, root / "index.csv")
    return source


def _enter_all(source, files, folder, types):
    for path in sorted(folder.glob("[!.]*")):
        if path.suffix.lower() in types:
            source.enter(files, path.stem, path)


def _read_patients(source, path):
    """Each image's patient, from the one line that there must be for it."""
    patients = defaultdict(list)
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            id, patient = ((row.get(column) or "").strip() for column in ("id", "patient"))
            if patient:
                patients[id].append(patient)
    for id, image in source.images.items():
        if len(patients[id]) == 1:
            source.patients[id] = patients[id][0]
        else:
            source.problems.append(
                f"{path} has {len(patients[id])} patients for {image}: it needs the columns id and "
                f"patient, and one line {id},<patient>"
            )
