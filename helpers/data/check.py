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
    patients = set(source.patients.values())
    total = f"{len(patients)} patients"
    if name == "jsrt":
        total = "247"
        _note_missing(source)
    _print_counts(source, total)
    try:
        split = split_cases(source, test_cases=20, seed=0)
        parts = [f"{len(ids)} {part}" for part, ids in split.items()]
        print("  split:", ", ".join(parts))
    except ValueError as error:
        source.problems.append(str(error))
    for title, lines in (("Notes", source.notes), ("Problems", source.problems)):
        if lines:
            print(f"{title} ({len(lines)}):", *lines[:SHOWN], sep="\n  ")
        if len(lines) > SHOWN:
            print(f"  and {len(lines) - SHOWN} more")
    if source.problems:
        print("Training cannot start before the problems are solved.")
        return False
    print("Training can start.")
    return True


def _note_missing(source):
    missing = [id for id in JSRT_IDS if id not in source.images]
    if missing:
        listed = ", ".join(missing[:5])
        if len(missing) > 5:
            listed += ", …"
        source.notes.insert(0, f"{len(missing)} of 247 images are missing: {listed}")


def _print_counts(source, total):
    """Read all files; print how many there are of each size, and note what is odd or wrong."""
    sizes = {"images": Counter(), "masks": Counter()}
    found = dict.fromkeys(source.masks, 0)
    cases = in_threads(partial(read_case, source), list(source.images), "checking")
    for id, (image, masks, problems) in zip(source.images, cases, strict=True):
        source.problems += problems
        if image is not None:
            sizes["images"][format_shape(image)] += 1
        for structure, mask in masks.items():
            found[structure] += 1
            sizes["masks"][format_shape(mask)] += 1
            path = source.masks[structure][id]
            share = mask.mean()
            if share == 0:
                source.notes.append(f"{path} is empty")
            elif share > 0.6:
                source.notes.append(f"{path} covers {share:.0%} of the image: is it inverted?")
    print(f"  {len(source.images)} images of {total}")
    listed = [f"{count} {structure}" for structure, count in found.items()]
    print("  masks:", ", ".join(listed) or "none")
    for kind, counts in sizes.items():
        listed = [f"{size} ({count})" for size, count in counts.most_common(5)]
        print(f"  size of {kind}:", ", ".join(listed) or "unknown")
