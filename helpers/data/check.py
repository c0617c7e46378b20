"""The report on a copy on disk, before anything is trained on it."""

from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from helpers.data.cases import label_map, read_case
from helpers.data.dataset import in_threads
from helpers.data.folders import JSRT_IDS, scan
from helpers.data.formats import format_shape
from helpers.data.split import split_cases
from helpers.labels import UNLABELLED


def check(name: str, root: str | Path | None = None) -> bool:
    """Look through all files of "jsrt" or "folder", print a report, and tell whether all is well.

    Files that would be left out are problems, too, though training would start without them.

    Args:
        name: "jsrt" or "folder".
        root: the folder; of "jsrt", None is $JSRT_DIR or data/jsrt.

    Raises:
        FileNotFoundError: the folder is missing.
    """
    source = scan(name, root)
    patients = set(source.patients.values())
    counted = f"{len(source.images)} images of {len(patients)} patients"
    print(f"Dataset {source.name} in {source.root}: {counted}", flush=True)
    if name == "jsrt":
        missing = [id for id in JSRT_IDS if id not in source.images]
        print(f"  {len(missing)} of 247 images are missing:", ", ".join(missing[:5]) or "none")
    _print_sizes(source)
    try:
        split = split_cases(source)
        parts = [f"{len(ids)} {part}" for part, ids in split.items()]
        print("  split:", ", ".join(parts))
    except ValueError as error:
        source.problems.append(str(error))
    unused = [f"{path} is left out: {reason}" for path, reason in source.unused.items()]
    for title, lines in (("Notes", source.notes), ("Problems", source.problems + unused)):
        if lines:
            print(f"{title} ({len(lines)}, at most 20 are shown):", *lines[:20], sep="\n  ")
    if source.problems:
        print("Training cannot start before the problems are solved.")
    elif unused:
        print(f"Training would start without these {len(unused)} files.")
    else:
        print("Training can start.")
    return not (source.problems or unused)


def _print_sizes(source):
    """Read all files; print how many there are of each size, and note what is odd or wrong."""
    sizes = defaultdict(Counter)
    covered: dict = defaultdict(float)
    left: set = set()
    cases = in_threads(partial(read_case, source), list(source.images), "checking")
    for id, (image, masks, problems) in zip(source.images, cases, strict=True):
        source.problems += problems
        if image is not None:
            sizes["images"][format_shape(image.shape)] += 1
        masks.pop(UNLABELLED, None)
        for structure, mask in masks.items():
            sizes[f"{structure} masks"][format_shape(mask.shape)] += 1
            share = mask.mean()
            covered[structure] += share
            if not 0 < share < 0.6:
                path = source.masks[structure][id]
                source.notes.append(
                    f"{structure} in {path} covers {share:.0%} of the image: is it right?"
                )
        if masks and not problems:
            labels = label_map(np.stack(list(masks.values())))
            left.update(name for number, name in enumerate(masks, 1) if (labels == number).any())
        elif problems:  # nobody knows what would be left
            left.update(masks)
    for number, (name, shares) in enumerate(covered.items()):
        if not shares:
            source.problems.append(f"structure {name!r} is empty in every case")
        elif name not in left:
            earlier = ", ".join(list(covered)[:number])
            source.problems.append(
                f"structure {name!r} is covered by earlier ones ({earlier}) in every case: rename "
                "those that cover it, so that they come later"
            )
    for kind, counts in sizes.items():
        listed = [f"{size} ({count})" for size, count in counts.most_common(5)]
        print(f"  {counts.total()} {kind}:", ", ".join(listed))
