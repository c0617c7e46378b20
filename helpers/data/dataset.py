"""Datasets: images, label maps and the split, of phantoms, of JSRT with SCR, or of any folder."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from helpers import phantom
from helpers.common.arguments import require, require_choice, whole_number
from helpers.common.files import digest_bytes, digest_json, read_tensors, write_tensors
from helpers.common.paths import DATA
from helpers.common.progress import progress_bar
from helpers.data import formats
from helpers.data.cases import label_map, make_case
from helpers.data.folders import JSRT_IDS, Source, scan
from helpers.data.split import Split, spare_cases, split_cases

# Of what becomes of a file or a drawing: scaling, masks, overlaps. Raise it with a change that
# alters arrays.
VERSION = 1
CACHE = DATA / "cache"
VARIETIES = (1.0, 1.5, 2.0, 2.5, 3.0)  # of further phantoms, in turn
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
        labels: (N, size, size) int64, 0 … number of structures; UNLABELLED where a label map says
            so, OUTSIDE in the padding of pictures that are not square (see `helpers.labels`).
        split: "target-training", "target-validation", "surrogate-training",
            "surrogate-validation", "test" → ids.
        digest: SHA-256 of what the arrays are made from; the same on every machine.
        spare: cases in no part of the split, of no patient who is in one.
        origin: the arguments of `load` that give this dataset again; None if it was put together
            by hand.
    """

    name: str
    size: int
    ids: tuple[str, ...]
    structures: tuple[str, ...]
    images: torch.Tensor
    labels: torch.Tensor
    split: Split
    digest: str
    origin: dict | None = None
    spare: tuple[str, ...] = ()

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
        require_choice("structure", structure, self.structures)
        return self.structures.index(structure) + 1

    def take(self, which: str | Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (n, 1, size, size) and labels (n, size, size) of some cases, in order.

        Args:
            which: name of a part of the split, or ids.

        Raises:
            ValueError: there is no such part or case.
        """
        if isinstance(which, str):
            require_choice("split", which, self.split)
            which = self.split[which]
        rows = {id: row for row, id in enumerate(self.ids)}
        unknown = [id for id in which if id not in rows]
        wanted = f"{self.name} has {self.ids[0]} to {self.ids[-1]}"
        require(not unknown, "unknown cases", unknown, wanted)
        chosen = [rows[id] for id in which]
        return self.images[chosen], self.labels[chosen]


def load(
    name: str = "phantom",
    *,
    size: int = 512,
    root: str | Path | None = None,
    test_cases: int | None = 20,
    seed: int = 0,
    jitter: float = 1.0,
    extra: int = 0,
    masks: bool = True,
) -> Dataset:
    """A dataset at `size`; from the cache, if its sources have not changed since.

    Images are area averages. Of each mask, the pixels stay that it covers at least half; then
    overlaps are resolved (`label_map`). Masks of the size asked for are thus taken exactly.
    A picture that is not square is put into the middle of a square of its longer side, with −1
    (black) around it and OUTSIDE in its label map; it is never stretched.

    Args:
        name: "phantom" (drawn from the seed), "jsrt" (one's own copy of JSRT and SCR), "folder"
            (any other) or "example" (one radiograph without masks, which pydicom-data brings).
        size: height and width [pixels], at least 32.
        root: where "jsrt" (default: $JSRT_DIR or data/jsrt) or "folder" is.
        test_cases: so many test cases at most, always the first ones of the same order; None: all.
        seed: of the split, and of the phantoms.
        jitter: strength of the observer's jitter in the phantoms' labels.
        extra: number of further phantoms of a greater variety (see `phantom.draw_case`), all for
            both networks' training.
        masks: whether to read masks. Without them nothing is known of the pixels (UNLABELLED).

    Raises:
        FileNotFoundError: the folder is missing.
        ValueError: a value is out of range, a file cannot be used, or a structure is in no case;
            the message names it.

    Warns:
        UserWarning: files of the folder are left out; the warning names them.

    Source: paper, sections 2.3 and 2.4: of the official training subset (SCR's even-numbered
    images) 100 for training and 23 for validation, other 23 for the surrogate's; 20 of the
    odd-numbered for testing.
    """
    require_choice("dataset", name, ("phantom", "jsrt", "folder", "example"))
    size = whole_number("size", size, 32)
    seed = whole_number("seed", seed, 0)
    if test_cases is not None:
        test_cases = whole_number("test_cases", test_cases)
    jitter = float(jitter)
    require(0 <= jitter < math.inf, "jitter", jitter, "give a number of 0 or more")
    extra = whole_number("extra", extra, 0)
    require(name == "phantom" or not extra, "extra", extra, "only phantoms can be drawn: give 0")
    _check_places(name, root, masks)
    if name == "phantom":
        source = _phantom_source()
        place = f"seed{seed}-jitter{jitter}"
    else:
        source = _usable_source(name, root, masks)
        root = str(source.root) if name != "example" else None
        place = digest_bytes(f"{source.root}{'' if masks else ' alone'}".encode())[:8]
    split = split_cases(source, test_cases, seed)
    if extra:
        place += f"-extra{extra}"
        _add_phantoms(source, split, extra)
    path = CACHE / f"{source.name}-{size}-{place}.safetensors"
    images, labels, digest = _arrays(path, source, size, seed, jitter)
    _check_structures(source, labels, size)
    origin = {"name": name, "size": size, "root": root, "test_cases": test_cases}
    origin |= {"seed": seed, "jitter": jitter, "extra": extra, "masks": masks}
    ids, structures = tuple(source.patients), tuple(source.masks)
    spare = spare_cases(source, split)
    return Dataset(source.name, size, ids, structures, images, labels, split, digest, origin, spare)


def _check_places(name, root, masks):
    fits = name in ("jsrt", "folder") if root else name != "folder"
    wanted = "give one with the dataset folder, and none with phantom or example"
    require(fits, "root", root, wanted)
    wanted = "only the dataset folder can do without"
    require(masks or name in ("folder", "example"), "masks", masks, wanted)


def _check_structures(source, labels, size):
    """An error about a structure that no case has."""
    for number, structure in enumerate(source.masks if source.root else (), start=1):
        if not (labels == number).any():
            raise ValueError(
                f"no case of {source.root} has a pixel of {structure!r} at size {size}: repair its "
                "masks, take a larger size if it is small, or rename structures that cover it, so "
                "that they come later"
            )


@lru_cache(maxsize=1)
def own_copy(digest: str, **origin: Any) -> Dataset | None:
    """This machine's own copy of a dataset, by the arguments of `load`; None if it has none."""
    try:
        dataset = load(**origin)
    except (OSError, ValueError, TypeError):
        return None
    return dataset if dataset.digest == digest else None


def _phantom_source():
    source = Source("phantom", None, dict.fromkeys(phantom.STRUCTURES, {}))
    source.patients = {id: id for id in PHANTOM_IDS}
    source.folds = {id: 2 - case % 2 for case, id in enumerate(PHANTOM_IDS, 1)}
    return source


def _add_phantoms(source, split, extra):
    """Further cases for both networks to train on."""
    first = len(PHANTOM_IDS) + 1
    ids = tuple(f"phantom-{case:03d}" for case in range(first, first + extra))
    source.patients |= {id: id for id in ids}
    for role in ("target", "surrogate"):
        split[f"{role}-training"] += ids


def _usable_source(name, root, masks):
    """The files of a folder; an error about the first problem, warnings about what is left out."""
    source = scan(name, root, masks)
    hint = f"(`python -m helpers.data check --{name} {source.root}` lists all)"
    if source.problems:
        raise ValueError(f"{source.problems[0]} {hint}")
    if source.unused:
        warnings.warn(f"{_list_unused(source)} {hint}", stacklevel=3)
    for note in source.notes:
        warnings.warn(f"{note} {hint}", stacklevel=3)
    return source


def _list_unused(source):
    """One line: how many files are left out and how many cases remain, and the first ten files."""
    named = [f"{path.relative_to(source.root)} ({why})" for path, why in source.unused.items()]
    kept, left_out = len(source.images), len(named)
    counts = f"{left_out} files left out, {kept} cases remain"
    more = ", …" if left_out > 10 else ""
    return f"{source.root}: {counts}: {', '.join(named[:10])}{more}"


# ---- The arrays and their digest


def _arrays(path, source, size, seed, jitter):
    """Images, labels and their digest, from the cache if no source has changed since."""
    stamps = []
    for file in source.files():
        stat = file.stat()
        stamps.append([str(file), stat.st_size, stat.st_mtime_ns])
    parts: list = [(VERSION, phantom.VERSION), list(source.masks), source.patients, source.folds]
    if source.root:
        parts += [formats.VERSION, list(source.values.items())]
    key = digest_json([*parts, stamps])
    try:
        arrays, saved = read_tensors(path)
    except (OSError, ValueError):  # none, or a damaged one
        saved = {}
    if saved.get("key") != key:
        arrays = _build(source, partial(_make_case, source, size, seed, jitter), size)
        saved = {"key": key, "digest": _digest(source, seed, jitter)}
        try:
            write_tensors(path, arrays, saved)
        except OSError as error:
            text = f"{path} could not be written, so the next load takes as long: {error}"
            warnings.warn(text, stacklevel=3)
    images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    return images, labels.long(), saved["digest"]


def _build(source, make, size):
    """Images (N, 1, size, size) float32 and labels (N, size, size), made case by case."""
    threads = 8 if source.root else 1  # drawing holds the interpreter's lock, reading does not
    cases = in_threads(make, list(source.patients), f"{source.name} at {size}", threads)
    # More threads sum in another order: other last bits, which attacks amplify.
    with threadpool_limits(1, "blas"):
        images, labels = zip(*cases, strict=True)
    labels = np.stack(labels)
    kind = np.uint8 if labels.min() >= 0 else np.int16  # OUTSIDE is below 0
    return {"images": np.stack(images)[:, None], "labels": labels.astype(kind)}


def _make_case(source, size, seed, jitter, id):
    if source.root:
        image, labels = make_case(source, id, size)
    else:
        case = int(id.removeprefix("phantom-"))
        is_further = case > len(PHANTOM_IDS)
        variety = VARIETIES[case % len(VARIETIES)] if is_further else 1.0
        image, masks = phantom.draw_case(case, size, seed=seed, jitter=jitter, variety=variety)
        labels = label_map(masks)
    return np.clip(image, -1, 1).astype(np.float32), labels


def in_threads(function: Callable, items: Sequence, title: str, threads: int = 8) -> Iterator:
    """function(item) of each item, in order, with a progress bar."""
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(function, items)
        yield from progress_bar(iterable=results, desc=title, total=len(items))


def _digest(source, seed, jitter):
    """Digest of a drawing's settings, or of files' content and roles wherever the files are.

    The first version is left out, so that its digests stay.
    """
    parts = [phantom.VERSION, seed, jitter]
    if source.root:
        contents = in_threads(
            lambda path: digest_bytes(path.read_bytes()), source.files(), "reading"
        )
        kind = source.name.split("-")[0]
        parts = [kind, list(source.images), list(source.masks), list(contents)]
        parts += [source.patients, source.folds]
        if source.values:
            parts.append(list(source.values.items()))
        if formats.VERSION > 2:  # likewise
            parts.append(formats.VERSION)
    return digest_json(parts if VERSION == 1 else [*parts, VERSION])
