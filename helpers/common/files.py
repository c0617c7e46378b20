"""Where the study keeps its files, how it writes them, and where they come from."""

import hashlib
import json
import os
import secrets
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path, mode="wb"):
    """Open a temporary file beside `path` that takes its place when the block ends without an error.

    A reader sees the old file or the whole new one, never a part; after an error the old file stays.

    Args:
        path: the file to write; missing folders are made.
        mode: "wb" or "w" (UTF-8).

    Yields:
        The open file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with open(temporary, mode.replace("w", "x"), **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def digest_bytes(*parts):
    """SHA-256 (hexadecimal) of byte strings, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def digest_json(value):
    """SHA-256 (hexadecimal) of a value's canonical JSON: sorted keys, no spaces."""
    return digest_bytes(
        json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    )
