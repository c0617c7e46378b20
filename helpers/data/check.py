"""The report on a copy on disk, before anything is trained on it."""

from collections import Counter
from functools import partial
from pathlib import Path

from helpers.data.dataset import in_threads, split_cases
from helpers.data.folders import JSRT_IDS, read_case, scan
from helpers.data.formats import format_shape

SHOWN = 20  # lines of each kind


def check(name: str, root: str | Path | None = None) -> bool:
    """Look through all files of "jsrt" or "folder", print a report, and tell whether to train.

    Args:
        name: "jsrt" or "folder".
        root: the folder; of "jsrt", None is $JSRT_DIR or data/jsrt.

    Raises:
        FileNotFoundError: the folder is missing.
    """
    source = scan(name, root)
    print(f"Dataset {source.name} in {source.root}", flush=True)
    total = f"{len(set(source.patients.values()))} patients"
    if name == "jsrt":
        total = "247"
        missing = [id for id in JSRT_IDS if id not in source.images]
        if missing:
            listed = ", ".join(missing[:5])
            source.notes.insert(0, f"{len(missing)} of 247 images are missing: {listed}, …")
    image_sizes, mask_sizes, found = _read_all(source)
    print(f"  {len(source.images)} images of {total}")
    print("  masks:", ", ".join(f"{found[structure]} {structure}" for structure in source.masks))
    for kind, sizes in (("images", image_sizes), ("masks", mask_sizes)):
        common = ", ".join(f"{size} ({n})" for size, n in sizes.most_common(5))
        print(f"  size of {kind}:", common or "unknown")
    try:
        split = split_cases(source, test_cases=20, seed=0)
        print("  split:", ", ".join(f"{len(ids)} {part}" for part, ids in split.items()))
    except ValueError as error:
        source.problems.append(str(error))
    for title, lines in (("Notes", source.notes), ("Problems", source.problems)):
        if lines:
            print(f"{title} ({len(lines)}):", *lines[:SHOWN], sep="\n  ")
        if len(lines) > SHOWN:
            print(f"  and {len(lines) - SHOWN} more")
    outlook = "cannot start before the problems are solved" if source.problems else "can start"
    print(f"Training {outlook}.")
    return not source.problems


def _read_all(source):
    """Counts of the images' sizes, of the masks' sizes and of each structure's masks."""
    image_sizes, mask_sizes, found = Counter(), Counter(), Counter()
    cases = in_threads(partial(read_case, source), list(source.images), "checking")
    for id, (image, masks, problems) in zip(source.images, cases, strict=True):
        source.problems += problems
        if image is not None:
            image_sizes[format_shape(image)] += 1
        for structure, mask in masks.items():
            mask_sizes[format_shape(mask)] += 1
            found[structure] += 1
            path, share = source.masks[structure][id], mask.mean()
            if share == 0:
                source.notes.append(f"{path} is empty")
            elif share > 0.6:
                source.notes.append(f"{path} covers {share:.0%} of the image: is it inverted?")
    return image_sizes, mask_sizes, found
