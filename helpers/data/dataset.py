"""Datasets: images, label maps and the split, of phantoms, of JSRT with SCR, or of any folder."""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from helpers import phantom
from helpers.common.files import digest_bytes, digest_json
from helpers.common.paths import DATA
from helpers.common.progress import progress_bar
from helpers.data.cache import load_or_build
from helpers.data.folders import JSRT_IDS, Source, read_case, scan
from helpers.data.formats import area_average

# Of what becomes of a file or a drawing: scaling, masks, overlaps. Raise it with a change that
# alters arrays.
VERSION = 1
CACHE = DATA / "cache"
PHANTOM_IDS = tuple(f"phantom-{case:03d}" for case in range(1, len(JSRT_IDS) + 1))


@dataclass(frozen=True)
class Dataset:
    """Images with their label maps, and who trains and is tested on which.

    Attributes:
        name: "phantom", "jsrt", or "folder-" and the folder's name.
        size: height and width [pixels].
        ids: the N names of the cases.
        structures: names of the classes 1, 2, …; 0 is the background.
        images: (N, 1, size, size) float32 in [−1, 1].
        labels: (N, size, size) int64, 0 … number of structures.
        split: "target-training", "target-validation", "surrogate-training",
            "surrogate-validation", "test" → ids.
        digest: SHA-256 of what the arrays are made from; the same on every machine.
        origin: the arguments of `load` that give this dataset again; None if it was put together
            by hand.
    """

    name: str
    size: int
    ids: tuple[str, ...]
    structures: tuple[str, ...]
    images: torch.Tensor
    labels: torch.Tensor
    split: dict[str, tuple[str, ...]]
    digest: str
    origin: dict[str, Any] | None = None

    @property
    def num_classes(self) -> int:
        """Number of structures plus one for the background."""
        return len(self.structures) + 1

    @property
    def classes(self) -> tuple[int, ...]:
        """Class indices of the structures: 1 … number of structures."""
        return tuple(range(1, self.num_classes))

    def class_of(self, structure: str) -> int:
        """The class index of a structure.

        Raises:
            ValueError: there is no such structure; the message names those there are.
        """
        if structure not in self.structures:
            known = ", ".join(self.structures)
            raise ValueError(f"there is no structure {structure!r}; choose from {known}")
        return self.structures.index(structure) + 1

    def take(self, which: str | Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (n, 1, size, size) and labels (n, size, size) of some cases, in order.

        Args:
            which: name of a part of the split, or ids.

        Raises:
            ValueError: there is no such part or case.
        """
        if isinstance(which, str):
            if which not in self.split:
                known = ", ".join(self.split)
                raise ValueError(
                    f"there is no split {which!r}: choose from {known}, or give a list of ids"
                )
            which = self.split[which]
        try:
            rows = torch.tensor([self._rows[id] for id in which], dtype=torch.long)
        except KeyError as error:
            raise ValueError(
                f"{self.name} has no case {error}: its ids go from {self.ids[0]} to {self.ids[-1]}"
            ) from None
        return self.images[rows], self.labels[rows]

    @cached_property
    def _rows(self):
        return {id: row for row, id in enumerate(self.ids)}


def load(
    name: str = "phantom",
    *,
    size: int = 512,
    root: str | Path | None = None,
    test_cases: int | None = 20,
    seed: int = 0,
    jitter: float = 1.0,
    cache: bool = True,
) -> Dataset:
    """A dataset at `size`; from the cache, if its sources have not changed since.

    Images are area averages. Of each mask, the pixels stay that it covers at least half; then
    overlaps are resolved (`label_map`). Masks of the size asked for are thus taken exactly.

    Args:
        name: "phantom" (drawn from the seed), "jsrt" (one's own copy of JSRT and SCR) or "folder"
            (any other).
        size: height and width [pixels], at least 32.
        root: where "jsrt" (default: $JSRT_DIR or data/jsrt) or "folder" is.
        test_cases: so many test cases at most, always the first ones of the same order; None: all.
        seed: of the split, and of the phantoms.
        jitter: strength of the observer's jitter in the phantoms' labels.
        cache: whether to read and write data/cache.

    Raises:
        FileNotFoundError: the folder is missing.
        ValueError: a value is out of range or a file cannot be used; the message names it.

    Source: paper, sections 2.3 and 2.4: of the official training subset (SCR's even-numbered
    images) 100 for training and 23 for validation, other 23 for the surrogate's; 20 of the
    odd-numbered for testing.
    """
    _check_arguments(name, size, root, test_cases, seed, jitter)
    if name == "phantom":
        source = _phantom_source()
        place = f"phantom-{size}-seed{seed}-jitter{float(jitter)}"
        make = partial(_draw_case, size=size, seed=seed, jitter=jitter)
        digest = partial(_digest, phantom.VERSION, seed, float(jitter))
        stamp = digest()
    else:
        source = _usable_source(name, root)
        root = str(source.root.resolve())
        place = f"{source.name}-{size}-{digest_bytes(root.encode())[:8]}"
        make = partial(_load_case, source, size=size)
        digest = partial(_content_digest, source)
        stamp = _stamp(source)
    split = split_cases(source, test_cases=test_cases, seed=seed)
    key = digest_json([VERSION, list(source.masks), source.patients, source.folds])
    build = partial(_build, source, make, size)
    if cache:
        path = CACHE / f"{place}.safetensors"
        arrays, found = load_or_build(path, key, stamp, digest, build)
    else:
        arrays, found = build(), digest()
    images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]).long()
    origin = {"name": name, "size": size, "root": root, "test_cases": test_cases}
    origin |= {"seed": seed, "jitter": jitter}
    ids, structures = tuple(source.patients), tuple(source.masks)
    return Dataset(source.name, size, ids, structures, images, labels, split, found, origin)


@lru_cache(maxsize=1)
def own_copy(digest: str, **origin: Any) -> Dataset | None:
    """This machine's own copy of a dataset, by the arguments of `load`; None if it has none."""
    try:
        dataset = load(**origin)
    except (OSError, ValueError, TypeError):
        return None
    return dataset if dataset.digest == digest else None


def label_map(masks: ArrayLike) -> np.ndarray:
    """One map of class indices from masks that may overlap: the earlier structure wins.

    Args:
        masks: (…, S, H, W), nonzero inside.

    Returns:
        (…, H, W) int64: 0 outside of all masks, else 1 … S.
    """
    inside = np.asarray(masks) != 0
    return np.where(inside.any(-3), inside.argmax(-3) + 1, 0)


def _check_arguments(name, size, root, test_cases, seed, jitter):
    if name not in ("phantom", "jsrt", "folder"):
        raise ValueError(f"there is no dataset {name!r}: choose phantom, jsrt or folder")
    for what, value, least, hint in (
        ("size", size, 32, "pixels"),
        ("test_cases", 1 if test_cases is None else test_cases, 1, "or None for all"),
        ("seed", seed, 0, "0 is the usual one"),
    ):
        if type(value) is not int or value < least:
            allowed = f"give a whole number, at least {least} ({hint})"
            raise ValueError(f"{what} is {value!r}: {allowed}")
    if type(jitter) not in (int, float) or not 0 <= jitter < math.inf:
        raise ValueError(f"jitter is {jitter!r}: give a number, at least 0 (1 is the usual one)")
    if name == "phantom" and root:
        raise ValueError(f"root is {str(root)!r}: leave it out, or choose jsrt or folder")
    if name == "folder" and not root:
        raise ValueError("root is missing: name the folder that holds images and masks")


def _usable_source(name, root):
    """The files of a folder; an error about the first problem, a warning about the first note."""
    source = scan(name, root)
    report = f"python -m helpers.data check --{name} {source.root}"
    if source.problems:
        raise ValueError(f"{source.problems[0]} (all problems: {report})")
    if source.notes:
        warnings.warn(f"{source.notes[0]} (all notes: {report})", stacklevel=3)
    return source


# ---- The split


def split_cases(source: Source, *, test_cases: int | None, seed: int) -> dict[str, tuple[str, ...]]:
    """Name of each part → ids.

    Folds say which cases may be tested on; without folds, a quarter of the cases is drawn. No
    patient is on both sides of a boundary. The order of a draw depends on the seed and the names
    only, so that 8 test cases are the first of 20.

    Raises:
        ValueError: there are too few cases.
    """
    ids, patients, folds = list(source.patients), source.patients, source.folds
    if folds:
        official = [id for id in ids if folds[id] == 1]
        count = len(official)
    else:
        official, count = ids, round(len(ids) / 4)
    test = _draw(official, patients, count, f"{seed} test")
    pool = _without(ids, test)
    count = round(len(pool) * 23 / 123)
    target = _draw(pool, patients, count, f"{seed} validation")
    surrogate = _draw(_without(pool, target), patients, count, f"{seed} validation")
    if not test or len(pool) <= len(target) + len(surrogate):
        need = (
            "one odd-numbered case and three even-numbered" if folds else "cases of four patients"
        )
        raise ValueError(
            f"{source.root} has too few cases to split ({len(ids)}, of "
            f"{len(set(patients.values()))} patients): add some, there must be at least {need}"
        )
    split = {}
    for network, validation in (("target", target), ("surrogate", surrogate)):
        training = _without(pool, validation)
        split[f"{network}-training"] = training
        split[f"{network}-validation"] = _without(pool, training)
    return split | {"test": tuple(test[:test_cases])}


def _draw(ids, patients, count, salt):
    """About `count` of the ids, a patient's all or none; one patient's if that is too few."""
    groups = defaultdict(list)
    for id in ids:
        groups[patients[id]].append(id)
    order = sorted(groups, key=lambda patient: digest_json([salt, patient]))
    drawn = []
    for group in map(groups.get, order):
        if len(drawn) + len(group) <= count:
            drawn += group
    return drawn or min(map(groups.get, order), key=len, default=[])


def _without(ids, others):
    """The ids that are not among the others, in their order."""
    others = set(others)
    return tuple(id for id in ids if id not in others)


# ---- The arrays and their digests


def _phantom_source():
    source = Source("phantom", None, dict.fromkeys(phantom.STRUCTURES, {}))
    for case, id in enumerate(PHANTOM_IDS, 1):
        source.patients[id] = id
        source.folds[id] = 2 - case % 2
    return source


def _draw_case(id, *, size, seed, jitter):
    case = PHANTOM_IDS.index(id) + 1
    image, masks = phantom.draw_case(case, size, seed=seed, jitter=jitter)
    return image, label_map(masks)


def _load_case(source, id, *, size):
    image, masks, problems = read_case(source, id)
    if problems:
        raise ValueError(problems[0])
    covered = np.stack([area_average(masks[structure], size) for structure in source.masks])
    return area_average(image, size), label_map(covered >= 0.5 - 1e-9)


def _build(source, make, size):
    """Images (N, 1, size, size) float32 and labels (N, size, size) uint8, made case by case."""
    ids = list(source.patients)
    images = np.empty((len(ids), 1, size, size), np.float32)
    labels = np.empty((len(ids), size, size), np.uint8)
    threads = 8 if source.root else 1  # drawing holds the interpreter's lock, reading does not
    cases = in_threads(make, ids, f"{source.name} at {size}", threads)
    # More threads sum in another order: other last bits, which attacks amplify.
    with threadpool_limits(1, "blas"):
        for row, (image, label) in enumerate(cases):
            images[row, 0], labels[row] = np.clip(image, -1, 1), label
    return {"images": images, "labels": labels}


def in_threads(function: Callable, items: Sequence, title: str, threads: int = 8) -> Iterator:
    """function(item) of each item, in order, with a progress bar."""
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(function, items)
        yield from progress_bar(iterable=results, desc=title, total=len(items))


def _content_digest(source):
    """Digest of the files' content and roles, wherever they are and whatever their dates."""
    digests = in_threads(lambda path: digest_bytes(path.read_bytes()), source.files(), "reading")
    kind, ids, structures = source.name.split("-")[0], list(source.images), list(source.masks)
    return _digest(kind, ids, structures, list(digests), source.patients, source.folds)


def _digest(*parts):
    """Digest with the version; the first version is left out, so that its digests stay."""
    return digest_json(parts if VERSION == 1 else [*parts, VERSION])


def _stamp(source):
    """Digest of the files' names, sizes and dates: while it stays, nobody reads their content."""
    parts = []
    for path in source.files():
        stat = path.stat()
        name = path.relative_to(source.root).as_posix()
        parts.append([name, stat.st_size, stat.st_mtime_ns])
    return digest_json(parts)
