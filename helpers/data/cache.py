"""The cache: arrays of a dataset with the digest of what they were made from."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from helpers.common.files import read_tensors, write_tensors

Arrays = dict[str, np.ndarray]


def load_or_build(
    path: Path, key: str, stamp: str, digest: Callable[[], str], build: Callable[[], Arrays]
) -> tuple[Arrays, str]:
    """Arrays, and the digest of their sources' content, from the cache file if it still holds.

    A cache that cannot be written is only a warning.

    Args:
        path: the cache file.
        key: says what the arrays are of; another one has them built anew.
        stamp: changes whenever a source may have changed; then `digest` decides.
        digest: reads the sources' content, which may take long.
        build: makes the arrays.
    """
    try:
        arrays, saved = read_tensors(path)
    except (OSError, ValueError):  # none, or a damaged one
        arrays, saved = {}, {}
    fresh = saved | {"key": key, "stamp": stamp}
    if saved == fresh:
        return arrays, saved["digest"]
    if saved.get("key") != key or saved["digest"] != digest():
        arrays, fresh["digest"] = build(), digest()
    try:
        write_tensors(path, arrays, fresh)
    except OSError as error:
        text = f"{path} could not be written, so the next load takes as long: {error}"
        warnings.warn(text, stacklevel=3)
    return arrays, fresh["digest"]
