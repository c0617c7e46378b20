"""A store of finished cells that cannot lie: one file each, under the cell's key, with digests that are verified."""

import json
import os
import warnings
import zlib
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from helpers.common.files import atomic_write, digest_bytes, digest_json
from helpers.sweep.compute import Result
from helpers.sweep.experiment import Experiment

FORMAT = 1


class Store:
    """Outcomes of cells in a folder, made if need be.

    A file is used only if it says the format, the cell and the digest that it should; otherwise it is moved to the
    folder `damaged`, with a warning. Several processes may use a store at once.

    Raises:
        ValueError: the folder cannot be written, or holds a newer format; or (on reading) a file cannot be read, or has
            a newer format.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        mark = self.folder / "format.json"
        try:
            if not mark.exists():
                with atomic_write(mark, "w") as file:
                    json.dump({"format": FORMAT}, file)
            found = int(json.loads(mark.read_text(encoding="utf-8"))["format"])
        except OSError as error:
            raise ValueError(
                f"store {self.folder} cannot be used ({error.strerror}): name another folder"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{mark} is damaged: delete it, and every cell will be verified when it is read"
            ) from None
        if found > FORMAT:
            raise ValueError(
                f"store {self.folder} has format {found}, newer than {FORMAT}: update this software, or "
                "name another folder"
            )

    def path(self, key):
        """Of the cell with a key."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def keys(self):
        """Of all files, sorted, whether they are sound or not."""
        return sorted(path.stem for path in self.folder.glob("[0-9a-f][0-9a-f]/*.safetensors"))

    def write(self, cell, outcome, *, noise=False):
        """Keep an outcome, with or without its noise; a half-written file never has the name of a cell.

        Raises:
            OSError: no space, or no permission.
        """
        arrays = {f"iou.{name}": values for name, values in outcome.iou.items()}
        arrays |= {
            "linf": outcome.linf,
            "loss": outcome.loss,
            "predictions": _pack(outcome.predictions),
        }
        shapes = {"predictions": outcome.predictions.shape}
        if noise:
            arrays["noise"], shapes["noise"] = _pack(outcome.noise), outcome.noise.shape
        about = {
            "cell": cell.values(),
            "shapes": shapes,
            "warnings": outcome.warnings,
            "seconds": outcome.seconds,
            "about": outcome.about,
            "format": FORMAT,
        }
        text = json.dumps(about, sort_keys=True)
        with atomic_write(self.path(cell.key)) as file:
            file.write(save(arrays, {"about": text, "digest": _digest(arrays, text)}))

    def read(self, cell, *, noise=False, arrays=True):
        """The outcome of a cell, or None if the store has none that is sound (and, if asked, has its noise).

        Args:
            cell: a Cell.
            noise: whether the noise is needed.
            arrays: without, predictions and noise stay packed and are left out.
        """
        return self._read(cell.key, noise, arrays, cell)[1]

    def read_key(self, key):
        """(cell, outcome) of a file; (None, None) if it is not sound."""
        return self._read(key, False, False, None)

    def _read(self, key, noise, arrays, cell, again=3):
        path = self.path(key)
        try:
            with path.open("rb") as file:
                stamp = _stamp(file.fileno())
            with safe_open(path, "numpy") as file:
                found, metadata = (
                    {name: file.get_tensor(name) for name in file.keys()},
                    file.metadata() or {},
                )
            if metadata.get("digest") != _digest(found, metadata.get("about", "")):
                raise ValueError("its digest does not hold")
            about = json.loads(metadata["about"])
            if digest_json(about["cell"]) != key:
                raise ValueError("it is the file of another cell")
            if (newer := about["format"]) > FORMAT:
                raise _NewerError(
                    f"{path} has format {newer}, newer than {FORMAT}: update this software"
                )
            if noise and "noise" not in found:
                return cell, None
            shapes = about["shapes"]
            predictions = (
                _unpack(found["predictions"], shapes["predictions"], np.uint8) if arrays else None
            )
            kept = (
                _unpack(found["noise"], shapes["noise"], np.int8)
                if arrays and "noise" in found
                else None
            )
        except FileNotFoundError:
            return None, None
        except OSError as error:
            why = error.strerror or error
            raise ValueError(f"{path} cannot be read ({why}): mend that, or move it away") from None
        except _NewerError:
            raise
        except (SafetensorError, ValueError, KeyError, TypeError, zlib.error) as error:
            if (text := self._set_aside(path, stamp, error)) is None and again:
                return self._read(key, noise, arrays, cell, again - 1)
            warnings.warn(
                f"{path.name} in {self.folder} {text or 'changes while it is read'}", stacklevel=3
            )
            return None, None
        if cell is None:
            try:
                cell = Experiment.read(about["cell"])
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                text = f"is of another version of this software ({error}), and is left alone"
                warnings.warn(f"{path.name} in {self.folder} {text}", stacklevel=3)
                return None, None
        scores = {name: found[f"iou.{name}"] for name in ("target", "truth")}
        outcome = Result(
            scores,
            found["linf"],
            found["loss"],
            tuple(about["warnings"]),
            predictions,
            kept,
            about["seconds"],
            about["about"],
        )
        return cell, outcome

    def _set_aside(self, path, stamp, error):
        """Move a file that cannot be used, and say so; None if another process has put a new one there meanwhile."""
        folder = self.folder / "damaged"
        try:
            folder.mkdir(exist_ok=True)
            place = _new_file(folder / f"{path.stem}.{n}.safetensors" for n in count(1))
            try:
                os.replace(path, place)
            except OSError:
                place.unlink()
                raise
            if _stamp(place) != stamp:
                os.replace(place, path)
                return None
        except FileNotFoundError:
            return None
        except OSError as problem:
            return f"is not used ({error}), and cannot be moved away ({problem.strerror}); a sweep computes it again"
        return f"is not used ({error}); it was moved to damaged/{place.name}, and a sweep computes it again"

    @contextmanager
    def claimed(self, keys):
        """Keep other processes from computing the same cells while the block runs.

        The operating system takes the claims of a process that dies away from it; no clock is asked.

        Yields:
            Those of the keys that no other process has.
        """
        with ExitStack() as stack:
            mine = []
            for key in keys:
                lock = FileLock(self.folder / "claims" / f"{key}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                stack.callback(self._release, key, lock)
                mine.append(key)
            yield mine

    def _release(self, key, lock):
        if self.path(
            key
        ).exists():  # whoever gets hold of the file that goes will look for the cell first
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


class _NewerError(ValueError):
    """A sound file of a newer format: not damaged."""


def _stamp(file):
    """What tells a file from one that was put in its place."""
    found = os.stat(file)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _new_file(paths):
    """The first of the paths where there was no file; now there is an empty one."""
    for path in paths:
        try:
            path.touch(exist_ok=False)
            return path
        except FileExistsError:
            continue


def _pack(array):
    return np.frombuffer(zlib.compress(np.ascontiguousarray(array).tobytes(), 1), dtype=np.uint8)


def _unpack(packed, shape, kind):
    return np.frombuffer(zlib.decompress(packed.tobytes()), dtype=kind).reshape(shape).copy()


def _digest(arrays, text):
    parts = [text.encode()]
    for name, array in sorted(arrays.items()):
        parts += [f"{name} {array.dtype.str} {array.shape}".encode(), array.tobytes()]
    return digest_bytes(*parts)
