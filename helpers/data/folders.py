"""Folders: which file belongs to which case, in a copy of JSRT and SCR or in any folder."""

import csv
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mode

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
    patients: dict[str, str] = field(default_factory=dict)
    folds: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

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
    root = Path(root or os.environ.get("JSRT_DIR") or DATA / "jsrt").expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}: {HOW_TO[name]}")
    source = _scan_jsrt(root) if name == "jsrt" else _scan_folder(root)
    for kind, found in (("images", source.images), ("masks", any(source.masks.values()))):
        if not found:
            source.problems.insert(0, f"{root} holds no {kind}: {HOW_TO[name]}")
            return source
    for structure, masks in source.masks.items():
        for id, image in source.images.items():
            if id not in masks:
                source.problems.append(
                    f"{image} has no {structure!r} mask: add one of that name, or remove the image"
                )
    found = [item for masks in source.masks.values() for item in masks.items()]
    stray = [path for id, path in found if id not in source.images]
    if stray:
        listed = f"{len(stray)}, among them {stray[0]}"
        source.notes.append(f"masks without an image, left out: {listed}")
    return source


def read_case(
    source: Source, id: str
) -> tuple[np.ndarray | None, dict[str, np.ndarray], list[str]]:
    """A case at its files' sizes.

    Returns:
        The image (h, w) in [−1, 1], None if it cannot be used; the usable masks (h, w) bool by
        structure; and a line about each file that cannot be used.
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
    if image is not None:
        problems += _size_problems(source, id, image, masks)
    return image, masks, problems


def _size_problems(source, id, image, masks):
    """Lines about what is not square or does not fit.

    A folder's masks must have their image's size; SCR's are smaller than JSRT's images, but all of
    one size.
    """
    side = len(image)
    if image.shape != (side, side):
        shape = format_shape(image)
        return [f"{source.images[id]} is {shape}: crop or pad it to a square, and its masks alike"]
    if source.name == "jsrt" and masks:
        side = mode(map(len, masks.values()))
    return [
        f"{source.masks[structure][id]} is {format_shape(mask)} but should be {side}×{side}: "
        "export it at that size"
        for structure, mask in masks.items()
        if mask.shape != (side, side)
    ]


def _scan_jsrt(root):
    """Images and masks by their names wherever they are; a mask's folder says its structure."""
    source = Source("jsrt", root, {structure: {} for structure in phantom.STRUCTURES})
    structures = {_plain(structure): masks for structure, masks in source.masks.items()}
    images, folds = {}, defaultdict(set)
    for path in _walk(root):
        id, suffix = path.stem.upper(), path.suffix.lower()
        if suffix not in (".img", *MASK_TYPES) or not re.match("JPC[LN]N", id):
            continue
        folders = [_plain(folder) for folder in path.relative_to(root).parts[:-1]]
        masks = structures.get(_plain(path.parent.name))
        if id not in JSRT_IDS:
            source.notes.append(f"{path} is none of JSRT's 247: left out")
        elif masks is not None and suffix in MASK_TYPES:
            source.enter(masks, id, path)
        elif suffix in (".img", *IMAGE_TYPES) and "mask" not in " ".join(folders):
            source.enter(images, id, path)
        else:
            source.notes.append(f"{path} is neither an image nor in a structure's folder: left out")
            continue
        folds[id] |= {"fold1", "fold2"}.intersection(folders)
    for number, id in enumerate(JSRT_IDS, 1):
        if id in images:
            source.images[id] = images[id]
            source.patients[id] = id
            own = folds[id] or {f"fold{2 - number % 2}"}
            source.folds[id] = int(min(own)[-1])
            if len(own) > 1:
                source.problems.append(
                    f"{images[id]} and its masks are in fold 1 and in fold 2: keep one fold"
                )
    return source


def _scan_folder(root):
    """images/<id>.png, masks/<structure>/<id>.png, and index.csv where there is one."""
    source = Source(f"folder-{root.resolve().name}", root, {})
    for path in _entries(root / "images"):
        if path.suffix.lower() in IMAGE_TYPES:
            source.enter(source.images, path.stem, path)
            source.patients[path.stem] = path.stem
    for folder in filter(Path.is_dir, _entries(root / "masks")):
        masks = {}
        for path in _entries(folder):
            if path.suffix.lower() in MASK_TYPES:
                source.enter(masks, path.stem, path)
        if masks:
            source.masks[folder.name] = masks
        else:
            source.notes.append(f"{folder} holds no masks: left out, it is no structure")
    if (root / "index.csv").is_file():
        _read_patients(source, root / "index.csv")
    return source


def _read_patients(source, path):
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or []
        if not {"id", "patient"} <= set(columns):
            found = ", ".join(columns) or "none"
            source.problems.append(f"{path} has the columns {found}: it needs id and patient")
            return
        named = set()
        for row in rows:
            id, patient = ((row[column] or "").strip() for column in ("id", "patient"))
            if id in named:
                source.problems.append(f"{path} has several lines for {id}: keep one")
            elif id not in source.images:
                source.notes.append(f"{path} lists {id}, of which there is no image")
            elif patient:
                source.patients[id] = patient
                named.add(id)
    for id, image in source.images.items():
        if id not in named:
            source.problems.append(
                f"{path} names no patient for {image}: add the line {id},<patient>"
            )


def _entries(folder):
    """What is in a folder, in order of the names, hidden entries left out."""
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))


def _walk(folder):
    """All files below a folder, in order of their names."""
    for path in _entries(folder):
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def _plain(name):
    return re.sub("[ _-]", "", name.lower())
