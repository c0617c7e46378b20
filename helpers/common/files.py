"""Files that are whole or not there: atomic writing, digests, and the one verified tensor file."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save


class DamagedFileError(ValueError):
    """A file is not as it was written."""


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file beside `path` that replaces it when the block ends without an error.

    A reader sees the old file or the whole new one, never a part; after an error the old one stays.

    Args:
        path: the file to write; missing folders are made.
        mode: "wb" or "w" (UTF-8).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    text: Any = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with open(temporary, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_file(path: Path, content: str | bytes) -> Path:
    """Write a whole file by `atomic_write`; returns its path."""
    with atomic_write(path, "w" if isinstance(content, str) else "wb") as file:
        file.write(content)
    return path


def digest_bytes(*parts: bytes) -> str:
    """SHA-256 (hexadecimal) of byte strings, one after the other."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 (hexadecimal) of a value's canonical JSON: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return digest_bytes(text.encode())


def write_tensors(path: Path, arrays: Mapping, about: Mapping) -> None:
    """Write arrays and a description (JSON) as one safetensors file with a digest of both.

    Raises:
        OSError: no space, or no permission.
    """
    text = json.dumps(about, sort_keys=True)
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_file(path, save(arrays, {"about": text, "digest": _digest(arrays, text)}))


def read_tensors(path: Path) -> tuple[dict, dict]:
    """The arrays and the description of a file that `write_tensors` wrote.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it is not as it was written.
        OSError: it cannot be read.
    """
    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise DamagedFileError(str(error)) from None
    text = metadata.get("about", "")
    if metadata.get("digest") != _digest(arrays, text):
        raise DamagedFileError("its digest does not hold")
    return arrays, json.loads(text)


def _digest(arrays, text):
    parts = [text.encode()]
    for name, array in sorted(arrays.items()):
        parts += [f"{name} {array.dtype.str} {array.shape}".encode(), array.tobytes()]
    return digest_bytes(*parts)
