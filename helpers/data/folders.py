"""Folders: which file belongs to which case, in a copy of JSRT and SCR or in any folder."""

import csv
import os
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path

from pydicom.data import get_testdata_file

from helpers import phantom
from helpers.common.arguments import require
from helpers.common.paths import DATA
from helpers.data.formats import COPY_TYPES, IMAGE_TYPES, MASK_TYPES, is_dicom
from helpers.labels import UNLABELLED

JSRT_IDS = tuple(
    f"JPC{kind}N{i:03d}" for kind, last in (("L", 154), ("N", 93)) for i in range(1, last + 1)
)
HOW_TO = {
    "jsrt": "get the images from JSRT (db.jsrt.or.jp) and the SCR masks from Zenodo record "
    "7056076, then put both into data/jsrt or set JSRT_DIR to their folder (see data/README.md)",
    "folder": "put images/<id>.png and masks/<structure>/<id>.png into it, or labels/<id>.png and "
    "labels.csv (see data/README.md); without masks, 03 to 06 and 09 take truth=network",
}
# Layouts of the public sets of Montgomery and Shenzhen, below a folder CXR_png of images.
MONTGOMERY = {"left lung": "ManualMask/leftMask", "right lung": "ManualMask/rightMask"}
SHENZHEN = ("mask", "masks")
BACKGROUND = "background"
# Names of rows in tables of results, and what is read back from them as missing.
COLUMNS = (BACKGROUND, "mean", "the others", "source", "network", "low", "high")
TAKEN = (*COLUMNS, "#n/a", "#na", "<na>", "n/a", "na", "nan", "none", "null")
NO_CLASS = ("ignore", "void", "unlabelled", "unlabeled")
VALUES = "the columns value and name, separated by commas, and for each value a line like 1,heart"
PATIENTS = "the columns id and patient, separated by commas, and a line for each image"
CLUTTER = ("__macosx", "thumbs.db", "desktop.ini")  # of file managers, beside hidden files
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
        values: of label maps, value → structure, BACKGROUND or UNLABELLED; empty where there are
            masks.
        problems: lines about what is wrong.
        unused: files that take no part → why.
        notes: lines about what is merely worth knowing.
    """

    name: str
    root: Path | None
    masks: dict[str, Files]
    images: Files = field(default_factory=dict)
    patients: dict = field(default_factory=dict)
    folds: dict = field(default_factory=dict)
    values: dict[int, str | int] = field(default_factory=dict)
    problems: list = field(default_factory=list)
    unused: dict[Path, str] = field(default_factory=dict)
    notes: list = field(default_factory=list)

    def files(self) -> list[Path]:
        """Images, then masks by case and structure, or label maps by case."""
        masks = [files[id] for id in self.images for files in self.masks.values()]
        return list(dict.fromkeys([*self.images.values(), *masks]))

    def enter(self, files: Files, id: str, path: Path) -> None:
        """Add a file; a second one of the same case is a problem."""
        if id in files:
            self.problems.append(f"{path} and {files[id]} have the same id: keep one of them")
        files.setdefault(id, path)


def scan(name: str, root: str | Path | None = None, masks: bool = True) -> Source:
    """The files of "jsrt", "folder" or "example" by case, none of them read yet.

    Args:
        name: "jsrt", "folder" or "example".
        root: the folder; of "jsrt", None is $JSRT_DIR or data/jsrt.
        masks: whether to look for the masks of a folder.

    Raises:
        FileNotFoundError: the folder is missing.
    """
    if name == "example":
        return _scan_example()
    root = Path(root or os.environ.get("JSRT_DIR") or DATA / "jsrt").expanduser().resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}: {HOW_TO[name]}")
    source = _scan_jsrt(root) if name == "jsrt" else _scan_folder(root, masks)
    found = any(source.masks.values()) or not masks
    if not source.images or not (found or source.problems):
        missing = "masks" if source.images else "images"
        source.problems.insert(0, f"{root} holds no {missing}: {HOW_TO[name]}")
        return source
    if len(source.masks) >= UNLABELLED:
        most = UNLABELLED - 1
        text = f"{root} has {len(source.masks)} structures: leave {most} or fewer"
        source.problems.append(text)
    lower = [name.lower() for name in source.masks]
    for name in source.masks:
        problem = "which tables use otherwise" if name.lower() in TAKEN else ""
        if lower.count(name.lower()) > 1:
            problem = "and another that differs in capitals alone"
        if problem:
            source.problems.append(f"{root} has a structure {name!r}, {problem}: rename it")
    for kind, files in _kinds(source).items():
        for id, image in source.images.items():
            if id not in files:
                source.problems.append(
                    f"{image} has no {kind}: add one of that name and a type that is read "
                    "(.png, .tif, .gif, .bmp), or remove the image"
                )
    stray = set().union(*source.masks.values()) - source.images.keys()
    if stray:
        listed = f"{len(stray)}, among them {min(stray)}"
        source.notes.append(f"cases with a mask but without an image, left out: {listed}")
    return source


def _kinds(source):
    """What an image must have, in words → its files by id."""
    if source.values and source.masks:
        return {"label map": next(iter(source.masks.values()))}
    return {f"{structure!r} mask": files for structure, files in source.masks.items()}


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
        elif plain.suffix in (".img", *COPY_TYPES) and "mask" not in str(plain):
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


def _scan_example():
    """The chest radiograph (CR, 15 bits, MONOCHROME1) that comes with pydicom-data (MIT)."""
    path = Path(get_testdata_file("RG1_UNCI.dcm", download=False) or "")
    if not path.is_file():
        raise FileNotFoundError(
            "the example radiograph is missing: install it with pip install pydicom-data"
        )
    return Source("example", path.parent, {}, {path.stem: path}, {path.stem: path.stem})


def _scan_folder(root, masks):
    """Images, masks or label maps, and index.csv where there is one."""
    source = Source(f"folder-{root.name}", root, {})
    public = root / "CXR_png"
    is_public = public.is_dir() and not (root / "images").is_dir()
    _enter_images(source, public if is_public else root / "images")
    if not masks:
        pass
    elif is_public:
        _scan_public(source, root)
    elif (root / "labels").is_dir():
        _scan_labels(source, root)
    else:
        _scan_masks(source, root)
    source.patients = {id: id for id in source.images}
    if (root / "index.csv").is_file():
        _read_patients(source, root / "index.csv")
    return source


def _scan_masks(source, root):
    """masks/<structure>/<id>.png"""
    for folder in _visible(root / "masks"):
        masks = {}
        _enter_masks(source, masks, folder)
        if masks:
            source.masks[_plain(folder.name)] = masks
        elif _visible(folder):
            source.problems.append(
                f"{folder} holds no masks that can be read: put .png, .tif, .gif or .bmp files "
                "right into it, or remove it"
            )
        else:
            source.notes.append(f"{folder} holds no masks: left out, it is no structure")


def _scan_labels(source, root):
    """labels/<id>.png, and the names of their values in labels.csv."""
    if (root / "masks").is_dir():
        source.problems.append(f"{root} has both masks and labels: move one of the folders away")
    files = {}
    _enter_masks(source, files, root / "labels")
    path = root / "labels.csv"
    if not path.is_file():
        source.problems.append(f"there is no {path}: write one with {VALUES}")
        return
    try:
        source.values = _read_values(path)
    except ValueError as error:
        source.problems.append(str(error))
        return
    for name in source.values.values():
        if name not in (BACKGROUND, UNLABELLED):
            source.masks[name] = files
    if not source.masks:
        source.problems.append(f"{path} names no structure: it needs {VALUES}")


def _read_values(path):
    """What each value of the label maps is; 0 is background unless a line says otherwise."""
    values = {}
    for text, name in _rows(path, ("value", "name"), VALUES):
        fits = re.fullmatch(r"-?\d+", text) and name
        require(fits, f"a line of {path}", f"{text},{name}", f"the file needs {VALUES}")
        value, name = int(text), _plain(name)
        if value in values:
            raise ValueError(f"{path} names the value {value} twice: keep one line")
        if name.lower() == BACKGROUND:
            name = BACKGROUND
        values[value] = UNLABELLED if name.lower() in NO_CLASS else name
    values.setdefault(0, BACKGROUND)
    return values


def _scan_public(source, root):
    """Masks of the public sets of Montgomery (both lungs) and Shenzhen (some images have none)."""
    if (root / "ManualMask").is_dir():
        for structure, folder in MONTGOMERY.items():
            _enter_masks(source, source.masks.setdefault(structure, {}), root / folder)
        return
    masks = source.masks.setdefault("lungs", {})
    for name in SHENZHEN:
        _enter_masks(source, masks, root / name)
    if masks:
        for id in sorted(source.images.keys() - masks.keys()):
            source.unused[source.images.pop(id)] = "it has no mask"


def _enter_images(source, folder):
    """Enter the images of a folder, and say why others take no part."""
    for path in _visible(folder):
        if path.is_file() and path.suffix.lower() in IMAGE_TYPES:
            source.enter(source.images, _plain(path.stem), path)
        elif path.is_file() and is_dicom(path):  # often called by a number with dots
            source.enter(source.images, _plain(path.name), path)
        else:
            source.unused[path] = _why_unused(path)


def _enter_masks(source, files, folder):
    """Enter the masks or label maps of a folder, <id>.png or <id>_mask.png."""
    for path in _visible(folder):
        id = _plain(path.stem)
        if id not in source.images:
            id = id.removesuffix("_mask")
        if path.is_file() and path.suffix.lower() in MASK_TYPES:
            source.enter(files, id, path)
        else:
            source.unused[path] = _why_unused(path)


def _why_unused(path):
    """Why nothing is read from a path."""
    if path.is_dir():
        return "it is a folder: move its files up"
    if not path.is_file():
        return "it is no file but perhaps a broken link: mend or remove it"
    return f"{path.suffix or 'a file without a suffix'} is not read"


def _visible(folder):
    """What is in a folder, in order, without the clutter of file managers."""
    return [
        path
        for path in sorted(folder.glob("*"))
        if not path.name.startswith(".") and path.name.lower() not in CLUTTER
    ]


def _plain(name):
    """A name with its accents as part of letters; some systems write them behind (Unicode NFD)."""
    return unicodedata.normalize("NFC", name)


def _rows(path, columns, wanted):
    """What each line of a table has in some columns; an error if it is none, or lacks them."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            table.fieldnames = [name.strip().lower() for name in table.fieldnames or []]
            rows = list(table)
    except UnicodeError:
        raise ValueError(f"{path} is not in UTF-8: save it so, with {wanted}") from None
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read ({error}): save it anew, with {wanted}") from None
    fits, header = set(columns) <= set(table.fieldnames), ",".join(table.fieldnames)
    require(fits, f"the first line of {path}", header, f"the file needs {wanted}")
    return [[(row[column] or "").strip() for column in columns] for row in rows]


def _read_patients(source, path):
    """Each image's patient, from the one line that there must be for it."""
    patients = defaultdict(list)
    try:
        rows = _rows(path, ("id", "patient"), PATIENTS)
    except ValueError as error:
        source.problems.append(str(error))
        return
    for id, patient in rows:
        if patient:
            patients[_plain(id)].append(_plain(patient))
    for id, image in source.images.items():
        if len(patients[id]) == 1:
            source.patients[id] = patients[id][0]
        else:
            source.problems.append(
                f"{path} has {len(patients[id])} patients for {image}: it needs the columns id and "
                f"patient, and one line {id},<patient>"
            )
