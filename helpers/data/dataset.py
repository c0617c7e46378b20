"""Datasets: images, label maps and the split, from phantoms, from JSRT with SCR, or from any folder of one's own.

`python -m helpers.data check` looks through a copy on disk before anything is trained on it.
"""

import argparse
import csv
import json
import math
import os
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from helpers import phantom
from helpers.common.files import atomic_write, digest_bytes, digest_json
from helpers.common.paths import DATA

VERSION = 1  # of what becomes of a file or a drawing: scaling, masks, overlaps. Raise it with a change that alters arrays
CACHE = DATA / "cache"
JSRT_IDS = tuple(
    f"JPC{kind}N{i:03d}" for kind, last in (("L", 154), ("N", 93)) for i in range(1, last + 1)
)
PHANTOM_IDS = tuple(f"phantom-{case:03d}" for case in range(1, len(JSRT_IDS) + 1))
IMAGE_TYPES, MASK_TYPES = (".png", ".tif", ".tiff"), (".png", ".tif", ".tiff", ".gif", ".bmp")
HOW_TO = {
    "jsrt": "get the images from JSRT (db.jsrt.or.jp) and the SCR masks from Zenodo record 7056076, then put both into "
    "data/jsrt or set JSRT_DIR to their folder (see data/README.md)",
    "folder": "put images/<id>.png and masks/<structure>/<id>.png into it (see data/README.md)",
}


@dataclass(frozen=True)
class Dataset:
    """Images with their label maps, and who trains and is tested on which.

    Attributes:
        name: "phantom", "jsrt", or "folder-" and the folder's name.
        size: height and width [pixels].
        ids: the N names of the cases.
        structures: names of the classes 1, 2, …; 0 is the background.
        images: (N, 1, size, size) float32 in [−1, 1]; None if they are read when they are asked for.
        labels: (N, size, size) int64, 0 … number of structures; likewise.
        split: "target-training", "target-validation", "surrogate-training", "surrogate-validation", "test" → ids.
        digest: SHA-256 of what the arrays are made from; the same on every machine.
        origin: the arguments of `load` that give this dataset again; None if it was put together by hand.
        read: function from an id to image and label (size, size), if they are read when they are asked for.
    """

    name: str
    size: int
    ids: tuple
    structures: tuple
    images: torch.Tensor | None
    labels: torch.Tensor | None
    split: dict
    digest: str
    origin: dict | None = None
    read: Callable | None = None

    @property
    def num_classes(self):
        """Number of structures plus one for the background."""
        return len(self.structures) + 1

    @property
    def classes(self):
        """Class indices of the structures: 1 … number of structures."""
        return tuple(range(1, self.num_classes))

    def class_of(self, structure):
        """The class index of a structure; a ValueError names those there are."""
        if structure not in self.structures:
            raise ValueError(
                f"there is no structure {structure!r}; choose from {', '.join(self.structures)}"
            )
        return self.structures.index(structure) + 1

    def take(self, which):
        """Images (n, 1, size, size) and labels (n, size, size) of a split, by name, or of a sequence of ids, in order.

        Raises:
            ValueError: there is no such split or case, or a file that is read now has changed since the dataset was
                loaded, or cannot be used.
        """
        if isinstance(which, str) and which not in self.split:
            raise ValueError(
                f"there is no split {which!r}: choose from {', '.join(self.split)}, or give a list of ids"
            )
        wanted = list(self.split[which] if isinstance(which, str) else which)
        for id in wanted:
            if id not in self._rows:
                raise ValueError(
                    f"{self.name} has no case {id!r}: its ids go from {self.ids[0]} to {self.ids[-1]}"
                )
        if self.read:
            images, labels = _build(self.read, wanted, self.size, None, None)
            return images, labels.long()
        index = torch.tensor([self._rows[id] for id in wanted], dtype=torch.long)
        return self.images[index], self.labels[index]

    @cached_property
    def _rows(self):
        return {id: row for row, id in enumerate(self.ids)}


@dataclass
class Source:
    """What a dataset is made from, what is wrong with it (`problems`) and what is merely worth knowing (`notes`)."""

    name: str
    root: Path | None
    structures: tuple
    images: dict = field(default_factory=dict)  # id → path
    masks: dict = field(default_factory=dict)  # (id, structure) → path
    patients: dict = field(default_factory=dict)  # id → patient
    folds: dict = field(
        default_factory=dict
    )  # id → 1 (for testing) or 2 (for training); empty: nobody has said
    extras: list = field(default_factory=list)  # further files that decide something
    problems: list = field(default_factory=list)
    notes: list = field(default_factory=list)


def load(
    name="phantom",
    *,
    size=512,
    root=None,
    test_cases=20,
    seed=0,
    jitter=1.0,
    cache=True,
    stream=False,
):
    """A dataset at `size`; from the cache, if its sources have not changed since.

    Images are area averages. Of each mask, the pixels stay that it covers at least half; then overlaps are resolved
    (`label_map`). Masks of the size asked for are thus taken exactly.

    Args:
        name: "phantom" (drawn from the seed), "jsrt" (one's own copy of JSRT and SCR) or "folder" (any other).
        size: height and width [pixels], at least 32.
        root: where "jsrt" (default: $JSRT_DIR or data/jsrt) or "folder" is.
        test_cases: so many test cases at most, always the first ones of the same order; None: all there are.
        seed: of the split, and of the phantoms.
        jitter: strength of the observer's jitter in the phantoms' labels.
        cache: whether to read and write data/cache.
        stream: whether to read a case when it is asked for, and again the next time: for more than fit into memory.
            A case whose files have changed since is an error then.

    Raises:
        FileNotFoundError: the folder is missing.
        ValueError: a value is out of range or a file cannot be used; the message names it.

    Source: paper, sections 2.3 and 2.4: of the official training subset (SCR's even-numbered images) 100 for training
    and 23 for validation, other 23 for the surrogate's; 20 of the odd-numbered for testing.
    """
    _check_arguments(name, size, root, test_cases, seed, jitter)
    if name == "phantom":
        source = _phantom_source()
        stamp = digest_json(_versioned([phantom.VERSION, seed, float(jitter)]))
        digest, make = lambda: stamp, partial(_draw_case, size=size, seed=seed, jitter=jitter)
        place = f"phantom-{size}-seed{seed}-jitter{float(jitter)}"
    else:
        source = _scan(name, root)
        if source.problems:
            more = f" ({len(source.problems) - 1} more: python -m helpers.data check --{name} {source.root})"
            raise ValueError(source.problems[0] + more * (len(source.problems) > 1))
        make = partial(_load_case, source, size=size)
        if stream:  # before anything else is asked of the files: a change after that is noticed
            make = partial(
                _load_unchanged,
                source,
                {id: _case_stamp(source, id) for id in source.images},
                size=size,
            )
        stamp, digest = _stamp(source), partial(_content_digest, source)
        place = f"{source.name}-{size}-{digest_bytes(str(source.root.resolve()).encode())[:8]}"
    split = _split(source, test_cases=test_cases, seed=seed)
    about = {
        "ids": list(source.patients),
        "structures": list(source.structures),
        "version": VERSION,
    }
    path = CACHE / f"{place}.safetensors"
    found = (None, None, _streamed_digest(path, about, stamp, digest, cache)) if stream else None
    if cache and not stream:
        found = _read_cache(path, about, stamp, digest)
    if found is None:
        threads = (
            1 if name == "phantom" else None
        )  # drawing holds the interpreter's lock, reading does not
        found = *_build(make, about["ids"], size, f"{source.name} at {size}", threads), digest()
        if cache:
            _write_cache(path, *found, about, stamp)
    images, labels, digest = found
    origin = {
        "name": name,
        "size": size,
        "root": None if source.root is None else str(source.root.resolve()),
        "test_cases": test_cases,
        "seed": seed,
        "jitter": jitter,
        "stream": stream,
    }
    arrays = (None, None) if stream else (images, labels.long())
    return Dataset(
        source.name,
        size,
        tuple(source.patients),
        tuple(source.structures),
        *arrays,
        split,
        digest,
        origin,
        make if stream else None,
    )


def label_map(masks):
    """One map of class indices from masks that may overlap: the earlier structure wins.

    Args:
        masks: (…, S, H, W), nonzero inside.

    Returns:
        (…, H, W) int64 array: 0 outside of all masks, else 1 … S.
    """
    masks = np.asarray(masks) != 0
    return np.where(masks.any(-3), masks.argmax(-3) + 1, 0)


def _check_arguments(name, size, root, test_cases, seed, jitter):
    if name not in ("phantom", "jsrt", "folder"):
        raise ValueError(f"there is no dataset {name!r}: choose phantom, jsrt or folder")
    if type(size) is not int or size < 32:
        raise ValueError(f"size is {size!r}: give a whole number of pixels, at least 32")
    if test_cases is not None and (type(test_cases) is not int or test_cases < 1):
        raise ValueError(
            f"test_cases is {test_cases!r}: give a whole number, at least 1, or None for all"
        )
    if type(seed) is not int or seed < 0:
        raise ValueError(f"seed is {seed!r}: give a whole number, at least 0")
    if type(jitter) not in (int, float) or not 0 <= jitter < math.inf:
        raise ValueError(
            f"jitter is {jitter!r}: give a number, at least 0 (1 is the usual strength)"
        )
    if name == "phantom" and root:
        raise ValueError(
            f"root is {str(root)!r} but phantoms need none: leave it out, or choose jsrt or folder"
        )
    if name == "folder" and not root:
        raise ValueError("root is missing: name the folder that holds images and masks")


# ---- The split


def _split(source, *, test_cases, seed):
    """Name of each part → ids. Folds say which cases may be tested on; without folds, a quarter of the cases is drawn.

    No patient is on both sides of a boundary. The order of a draw depends on the seed and the names only, so that 8
    test cases are the first of 20.
    """
    ids, patients, folds = list(source.patients), source.patients, source.folds
    official = [id for id in ids if folds[id] == 1] if folds else ids
    test = _draw(
        official, patients, len(official) if folds else round(len(ids) / 4), f"{seed} test"
    )
    pool = [id for id in ids if id not in set(test)]
    count = round(len(pool) * 23 / 123)
    target = _draw(pool, patients, count, f"{seed} validation")
    surrogate = _draw(
        [id for id in pool if id not in target], patients, count, f"{seed} validation"
    )
    if not test or len(pool) <= len(target) + len(surrogate):
        need = (
            "one odd-numbered case and three even-numbered" if folds else "cases of four patients"
        )
        raise ValueError(
            f"{source.root} has too few cases to split ({len(ids)}, of {len(set(patients.values()))} patients): "
            f"add some, there must be at least {need}"
        )
    split = {}
    for network, chosen in (("target", target), ("surrogate", surrogate)):
        split[f"{network}-training"] = tuple(id for id in pool if id not in chosen)
        split[f"{network}-validation"] = tuple(id for id in pool if id in chosen)
    return split | {"test": tuple(test[:test_cases])}


def _draw(ids, patients, count, salt):
    """About `count` of the ids, a patient's all or none; at least one patient's if there are any."""
    groups = {}
    for id in ids:
        groups.setdefault(patients[id], []).append(id)
    order = sorted(groups, key=lambda patient: digest_json([salt, patient]))
    drawn = []
    for patient in order:
        drawn += groups[patient] if len(drawn) + len(groups[patient]) <= count else []
    return drawn or min((groups[patient] for patient in order), key=len, default=[])


# ---- Which file belongs to which case


def _phantom_source():
    folds = {id: 2 - case % 2 for case, id in enumerate(PHANTOM_IDS, 1)}
    return Source(
        "phantom", None, phantom.STRUCTURES, patients={id: id for id in PHANTOM_IDS}, folds=folds
    )


def _scan(name, root=None):
    """The files of "jsrt" or "folder" by case, none of them read yet."""
    default = os.environ.get("JSRT_DIR") or DATA / "jsrt"
    root = Path(root or default).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}: {HOW_TO[name]}")
    source = _scan_jsrt(root) if name == "jsrt" else _scan_folder(root)
    for kind, files in (("images", source.images), ("masks", source.masks)):
        if not files:
            source.problems.insert(0, f"{root} holds no {kind}: {HOW_TO[name]}")
            return source
    for id, image in source.images.items():
        for structure in source.structures:
            if (id, structure) not in source.masks:
                source.problems.append(
                    f"{image} has no {structure!r} mask: add one of that name, or remove the image"
                )
    stray = [path for (id, _), path in source.masks.items() if id not in source.images]
    source.notes += (
        [f"masks without an image, left out: {len(stray)}, among them {stray[0]}"] if stray else []
    )
    return source


def _scan_jsrt(root):
    """Images and masks wherever they are below root: a mask by its structure's folder, both by their names."""
    source = Source("jsrt", root, phantom.STRUCTURES)
    structures = {_plain(structure): structure for structure in source.structures}
    images, folds = {}, {}
    for path in _files(root):
        id, suffix = path.stem.upper(), path.suffix.lower()
        folders = [_plain(part) for part in path.relative_to(root).parts[:-1]]
        structure = structures.get(_plain(path.parent.name))
        if suffix not in (".img", *MASK_TYPES) or not re.match("JPC[LN]N", id):
            continue
        if id not in JSRT_IDS:
            source.notes.append(f"{path} is none of JSRT's 247: left out")
        elif structure and suffix in MASK_TYPES:
            _enter(source, source.masks, (id, structure), path)
        elif suffix in (".img", *IMAGE_TYPES) and not any("mask" in folder for folder in folders):
            _enter(source, images, id, path)
        else:
            source.notes.append(f"{path} is neither an image nor in a structure's folder: left out")
            continue
        folds.setdefault(id, set()).update(
            int(folder[-1]) for folder in folders if folder in ("fold1", "fold2")
        )
    source.images = {id: images[id] for id in JSRT_IDS if id in images}
    source.patients = {id: id for id in source.images}
    for number, id in enumerate(JSRT_IDS, 1):
        if id in images:
            source.folds[id] = min(folds[id], default=2 - number % 2)
            if len(folds[id]) > 1:
                source.problems.append(
                    f"{images[id]} and its masks are in fold 1 and in fold 2: keep one fold"
                )
    return source


def _scan_folder(root):
    """images/<id>.png, masks/<structure>/<id>.png, and index.csv where there is one."""
    folders = sorted(
        path for path in root.glob("masks/*") if path.is_dir() and not path.name.startswith(".")
    )
    source = Source(f"folder-{root.resolve().name}", root, tuple(path.name for path in folders))
    for path in _files(root / "images", deep=False):
        if path.suffix.lower() in IMAGE_TYPES:
            _enter(source, source.images, path.stem, path)
    for folder in folders:
        for path in _files(folder, deep=False):
            if path.suffix.lower() in MASK_TYPES:
                _enter(source, source.masks, (path.stem, folder.name), path)
    source.patients = {id: id for id in source.images}
    if (root / "index.csv").is_file():
        source.extras.append(root / "index.csv")
        _read_patients(source, root / "index.csv")
    return source


def _read_patients(source, path):
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.DictReader(file)
        if not {"id", "patient"} <= set(columns := rows.fieldnames or []):
            source.problems.append(
                f"{path} has the columns {', '.join(columns) or 'none'}: it needs id and patient"
            )
            return
        patients = [((row["id"] or "").strip(), (row["patient"] or "").strip()) for row in rows]
    for id, times in Counter(id for id, _ in patients).items():
        if times > 1:
            source.problems.append(f"{path} has {times} lines for {id}: keep one")
    patients = {id: patient for id, patient in patients if patient}
    for id, image in source.images.items():
        if id not in patients:
            source.problems.append(
                f"{path} names no patient for {image}: add the line {id},<patient>"
            )
    source.notes += [
        f"{path} lists {id}, of which there is no image"
        for id in patients
        if id not in source.images
    ]
    source.patients = {id: patients.get(id, id) for id in source.images}


def _enter(source, files, key, path):
    if key in files:
        source.problems.append(f"{path} and {files[key]} have the same id: keep one of them")
    files.setdefault(key, path)


def _files(root, deep=True):
    """Files below root in order of their names, hidden ones left out."""
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(folders) if deep else []
        found += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    return found


def _plain(name):
    return re.sub(r"[ _-]", "", name.lower())


# ---- Pixels


def _draw_case(id, *, size, seed, jitter):
    image, masks = phantom.draw_case(PHANTOM_IDS.index(id) + 1, size, seed=seed, jitter=jitter)
    return image, label_map(masks)


def _load_case(source, id, *, size):
    image, masks, problems = _read_case(source, id)
    if problems:
        raise ValueError(problems[0])
    covered = np.stack([_area_average(masks[structure], size) for structure in source.structures])
    return _area_average(image, size), label_map(covered >= 0.5 - 1e-9)


def _load_unchanged(source, stamps, id, *, size):
    """The case as it was when the dataset was loaded: its digest stands for that."""
    case = _load_case(source, id, size=size)
    if _case_stamp(source, id) != stamps[id]:
        raise ValueError(
            f"files of case {id!r} in {source.root} have changed since they were loaded: load them again"
        )
    return case


def _read_case(source, id):
    """A case at its files' sizes: image (h, w) in [−1, 1] or None, masks {structure: (h, w) bool}, and problems."""
    pixels, problems = {}, []
    files = {structure: source.masks.get((id, structure)) for structure in source.structures}
    for structure, path in {None: source.images[id], **files}.items():
        if path is None:
            continue
        try:
            read = _mask if structure else _jsrt_image if source.name == "jsrt" else _folder_image
            pixels[structure] = read(path)
        except (OSError, ValueError) as error:
            problems.append(str(error))
    image = pixels.pop(None, None)
    return image, pixels, problems + _size_problems(source, id, image, pixels)


def _size_problems(source, id, image, masks):
    """A folder's masks must have their image's size; SCR's are smaller than JSRT's images, but all of one size."""
    if image is not None and image.shape[0] != image.shape[1]:
        return [
            f"{source.images[id]} is {_shape(image)}: crop or pad it to a square, and its masks alike"
        ]
    common = (
        Counter(mask.shape for mask in masks.values()).most_common(1)[0][0] if masks else (0, 0)
    )
    side = max(common) if source.name == "jsrt" or image is None else len(image)
    return [
        f"{source.masks[id, structure]} is {_shape(mask)} but should be {side}×{side}: export it at that size"
        for structure, mask in masks.items()
        if mask.shape != (side, side)
    ]


def _jsrt_image(path):
    """(2048, 2048) in [−1, 1], bones bright, of an .IMG; copies in other formats are taken to be bright already."""
    if path.suffix.lower() == ".img":
        data = path.read_bytes()
        if len(data) != 2 * 2048 * 2048:
            raise ValueError(
                f"{path} has {len(data)} bytes, a JSRT .IMG has {2 * 2048 * 2048}: copy it again"
            )
        raw = np.frombuffer(data, ">u2").reshape(2048, 2048)
        if raw.max() > 4095 and (raw.byteswap().max() <= 4095 or (raw > 4095).mean() > 0.001):
            raise ValueError(
                f"{path} has values up to {raw.max()}, 12 bits end at 4095: use the big-endian original"
            )
        pixels, highest = 4095 - np.minimum(raw, 4095), 4095
    else:
        pixels = _pixels(path)
        if pixels.dtype.kind not in "ui" or pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(
                f"{path} is neither 8- nor 16-bit ({pixels.dtype}): save it as 8- or 16-bit grey"
            )
        highest = 255 if pixels.dtype == np.uint8 else 4095 if pixels.max() <= 4095 else 65535
    _refuse_blank(path, pixels)
    return pixels * np.float32(2 / highest) - 1


def _folder_image(path):
    """(h, w) float32, the lowest value at −1 and the highest at 1."""
    pixels = _pixels(path).astype(np.float64)
    _refuse_blank(path, pixels)
    low, high = pixels.min(), pixels.max()
    return ((pixels - low) / (high - low) * 2 - 1).astype(np.float32)


def _refuse_blank(path, pixels):
    if pixels.min() == pixels.max():
        raise ValueError(
            f"{path} has the value {pixels.min():g} everywhere: put an intact copy in its place"
        )


def _mask(path):
    """(h, w) bool."""
    pixels = _pixels(path)
    if not ((pixels == 0) | (pixels == pixels.max())).all():
        values = np.unique(pixels)
        listed = ", ".join(f"{value:g}" for value in values[:4]) + ", …" * (len(values) > 4)
        raise ValueError(
            f"{path} is not binary, its values are {listed}: save it as 0 outside and 255 inside"
        )
    return pixels != 0


def _pixels(path):
    """Grey values of an image file, (h, w); of a colour file whose channels are equal, one of them."""
    try:
        with Image.open(path) as file:
            shown = (
                file.convert("RGB") if file.mode in ("P", "PA") else file
            )  # a palette's indices are no grey values
            pixels = np.asarray(shown)
            opaque = pixels[..., :-1] if shown.mode in ("LA", "RGBA") else pixels
    except Exception as error:  # Pillow raises many kinds of errors on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} cannot be read ({reason}): put an intact copy in its place"
        ) from error
    if opaque.ndim == 3:
        if (opaque != opaque[..., :1]).any():
            raise ValueError(f"{path} is in colour: save it as grey")
        opaque = opaque[..., 0]
    if not np.isfinite(opaque).all():
        raise ValueError(f"{path} holds NaN or infinite values: repair or remove it")
    return opaque


def _area_average(pixels, size):
    """(size, size) float64: each pixel the mean of the area of `pixels` (n, n) that it covers, at any ratio."""
    weights = _area_weights(len(pixels), size)
    return (weights @ (weights @ pixels.astype(np.float64)).T).T


@lru_cache
def _area_weights(n, size):
    """(size, n) sparse: the share that each of n pixels has in each of `size` equal stretches."""
    edges, pixels = np.linspace(0, n, size + 1), np.arange(n)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return csr_array(np.clip(overlap, 0, None) * (size / n))


def _build(make, ids, size, title, threads):
    """Images (N, 1, size, size) float32 and labels (N, size, size) uint8, made case by case."""
    images, labels = (
        np.empty((len(ids), 1, size, size), np.float32),
        np.empty((len(ids), size, size), np.uint8),
    )
    with threadpool_limits(
        1, "blas"
    ):  # more threads sum in another order: other last bits, which attacks amplify
        for row, (image, label) in enumerate(_each(make, ids, title, threads)):
            images[row, 0], labels[row] = np.clip(image, -1, 1), label
    return torch.from_numpy(images), torch.from_numpy(labels)


def _each(function, items, title, threads=None):
    """function(item) of each item, in order, on so many threads; with a progress bar where somebody can see it."""
    silent = (
        bool(os.environ.get("TQDM_DISABLE")) or None
    )  # None: silent unless on a terminal or in a notebook
    silent = silent or title is None
    with ThreadPoolExecutor(threads or min(8, os.cpu_count())) as pool:
        yield from tqdm(
            pool.map(function, items), desc=title, total=len(items), leave=False, disable=silent
        )


def _shape(pixels):
    return f"{pixels.shape[1]}×{pixels.shape[0]}"


# ---- The cache


def _stamp(source):
    """Digest of the files' names, sizes and dates: as long as it is the same, their content is not looked at."""
    stats = [(path.relative_to(source.root).as_posix(), path.stat()) for path in _used(source)]
    return digest_json([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])


def _case_stamp(source, id):
    """The same of one case, in a few bytes."""
    stats = [
        path.stat()
        for path in (source.images[id], *(source.masks[id, own] for own in source.structures))
    ]
    return hash(tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


def _content_digest(source):
    """Digest of the files' content and roles, wherever they are and whatever their dates."""
    paths = _used(source)
    digests = list(_each(lambda path: digest_bytes(path.read_bytes()), paths, "reading"))[
        : -len(source.extras) or None
    ]
    kind, ids, structures = source.name.split("-")[0], list(source.images), list(source.structures)
    return digest_json(_versioned([kind, ids, structures, digests, source.patients, source.folds]))


def _versioned(parts):
    """What a digest is made from; the first version is left out, so that its digests stay."""
    return parts if VERSION == 1 else [*parts, VERSION]


def _used(source):
    masks = [source.masks[id, structure] for id in source.images for structure in source.structures]
    return [*source.images.values(), *masks, *source.extras]


def _read_cache(path, about, stamp, digest):
    """Images, labels and digest of an intact cache file that still holds; None if there is none."""
    try:
        with safe_open(path, framework="pt") as file:
            saved = json.loads(file.metadata()["about"])
            images = file.get_tensor(
                "images"
            ).clone()  # not left mapped to a file that somebody may replace
            labels = file.get_tensor("labels")
        if saved["about"] != about or saved["checksum"] != _checksum(images, labels):
            return None
        if saved["stamp"] != stamp:
            if saved["digest"] != digest():
                return None
            _write_cache(path, images, labels, saved["digest"], about, stamp)
        return images, labels, saved["digest"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _write_cache(path, images, labels, digest, about, stamp):
    saved = {
        "about": about,
        "stamp": stamp,
        "digest": digest,
        "checksum": _checksum(images, labels),
    }
    try:
        with atomic_write(path) as file:
            file.write(save({"images": images, "labels": labels}, {"about": json.dumps(saved)}))
    except OSError as error:
        warnings.warn(
            f"{path} could not be written, so the next load takes as long: {error}", stacklevel=3
        )


def _streamed_digest(path, about, stamp, digest, cache):
    """Digest of the content, kept beside the cache as long as names, sizes and dates of the files are the same."""
    if not cache:
        return digest()
    path = path.with_suffix(".digest.json")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if (saved["about"], saved["stamp"]) == (about["version"], stamp):
            return saved["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = digest()
    with atomic_write(path, "w") as file:
        json.dump({"about": about["version"], "stamp": stamp, "digest": found}, file)
    return found


def _checksum(images, labels):
    return zlib.crc32(labels.numpy(), zlib.crc32(images.numpy()))


# ---- python -m helpers.data check


def check(name, root=None):
    """Look through all files of "jsrt" or "folder", print a report, and tell whether training could start.

    Raises:
        FileNotFoundError: the folder is missing.
    """
    source = _scan(name, root)
    print(f"Dataset {source.name} in {source.root}", flush=True)
    sizes, counts = {"images": Counter(), "masks": Counter()}, Counter()
    for image, masks, problems, notes in _each(
        partial(_look, source), list(source.images), "checking"
    ):
        sizes["images"].update(image)
        sizes["masks"].update(masks.values())
        counts.update(masks.keys())
        source.problems += problems
        source.notes += notes
    if name == "jsrt" and (missing := [id for id in JSRT_IDS if id not in source.images]):
        listed = ", ".join(missing[:5]) + ", …" * (len(missing) > 5)
        source.notes.insert(0, f"{len(missing)} of 247 images are missing: {listed}")
    groups = "247" if name == "jsrt" else f"{len(set(source.patients.values()))} patients"
    print(f"  {len(source.images)} images of {groups}")
    print(
        "  masks:",
        ", ".join(f"{counts[structure]} {structure}" for structure in source.structures) or "none",
    )
    for kind, shapes in sizes.items():
        print(
            f"  size of {kind}:",
            ", ".join(f"{shape} ({n})" for shape, n in shapes.most_common(5)) or "unknown",
        )
    if source.images:
        try:
            split = _split(source, test_cases=20, seed=0)
            print("  split:", ", ".join(f"{len(ids)} {part}" for part, ids in split.items()))
        except ValueError as error:
            source.problems.append(str(error))
    for title, lines in (("Notes", source.notes), ("Problems", source.problems)):
        if lines:
            more = [f"and {len(lines) - 20} more"] * (len(lines) > 20)
            print(f"{title} ({len(lines)}):", *lines[:20], *more, sep="\n  ")
    print(
        "Training cannot start before the problems are solved."
        if source.problems
        else "Training can start."
    )
    return not source.problems


def _look(source, id):
    """Of one case: [size of the image] (empty if unreadable), {structure: size of its mask}, problems and notes."""
    image, masks, problems = _read_case(source, id)
    notes = []
    for structure, mask in masks.items():
        if not mask.any():
            notes.append(f"{source.masks[id, structure]} is empty")
        elif mask.mean() > 0.6:
            notes.append(
                f"{source.masks[id, structure]} covers {mask.mean():.0%} of the image: is it inverted?"
            )
    shapes = {structure: _shape(mask) for structure, mask in masks.items()}
    return [] if image is None else [_shape(image)], shapes, problems, notes


def main(arguments=None):
    """Command line; returns the exit status: 0 if training could start, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.data", description="Look after datasets on disk."
    )
    command = parser.add_subparsers(required=True, metavar="check").add_parser(
        "check",
        help="report what is missing or unusable in a dataset",
        description="Read every file of a dataset and report counts, sizes and unusable files by name. The exit status "
        "is 0 if training could start and 1 if not. Without an option: the JSRT copy in $JSRT_DIR or data/jsrt.",
    )
    which = command.add_mutually_exclusive_group()
    which.add_argument("--jsrt", metavar="DIR", help="a copy of JSRT with the masks of SCR")
    which.add_argument(
        "--folder",
        metavar="DIR",
        help="a dataset of images/<id>.png and masks/<structure>/<id>.png",
    )
    chosen = parser.parse_args(arguments)
    try:
        ready = (
            check("jsrt", chosen.jsrt)
            if chosen.folder is None
            else check("folder", chosen.folder or ".")
        )
        return 0 if ready else 1
    except FileNotFoundError as error:
        print(error)
        return 1
