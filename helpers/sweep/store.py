"""Content-addressed result store: one verified file per experiment, under the experiment's key."""

import json
import time
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from traceback import format_exception

import numpy as np

from helpers.common.arguments import require
from helpers.common.files import digest_json, read_tensors, write_file, write_tensors
from helpers.sweep.compute import Result
from helpers.sweep.experiment import Experiment

FORMAT = 1


class Store:
    """Results of experiments in a folder, made if need be, and records of those that failed.

    A file is used only if its digest holds and it is of the experiment that is asked for; otherwise
    it is moved to the folder `damaged`, with a warning. Several processes may use a store at once:
    files are replaced whole.

    Raises:
        ValueError: the folder holds a newer format.
        OSError: the folder or a file cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        mark = self.folder / "format.json"
        expected = json.dumps({"format": FORMAT})
        if not mark.exists():
            write_file(mark, expected)
        found = mark.read_text(encoding="utf-8")
        require(
            found == expected,
            str(mark),
            found,
            "name another folder; update this software if it is newer, delete it if damaged",
        )

    def path(self, key: str) -> Path:
        """The file of the experiment with a key."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def keys(self) -> list[str]:
        """The keys of all files, sorted, whether they are sound or not."""
        return sorted(path.stem for path in self.folder.glob("[0-9a-f][0-9a-f]/*.safetensors"))

    def write(self, experiment: Experiment, result: Result, *, noise: bool = False) -> None:
        """Keep a result, with or without its noise, and forget that the experiment failed before.

        A result whose noise another run has kept meanwhile stays as it is.

        Raises:
            OSError: no space, or no permission.
        """
        packed: dict = {"predictions": result.predictions}
        if noise:
            packed["noise"] = result.noise
        elif self.read(experiment, noise=True, arrays=False):
            return
        arrays = {name: _pack(array) for name, array in packed.items()}
        arrays |= {f"iou.{name}": values for name, values in result.iou.items()}
        arrays |= {"linf": result.linf, "loss": result.loss}
        about = {
            "cell": experiment.values(),
            "shapes": {name: array.shape for name, array in packed.items()},
            "warnings": result.warnings,
            "seconds": result.seconds,
            "about": result.about,
            "format": FORMAT,
        }
        write_tensors(self.path(experiment.key), arrays, about)
        self._failure(experiment.key).unlink(missing_ok=True)

    def read(
        self, experiment: Experiment, *, noise: bool = False, arrays: bool = True
    ) -> Result | None:
        """The result of an experiment; None if there is none that is sound.

        Where there is one, the record of an earlier failure is deleted.

        Args:
            experiment: what was computed.
            noise: whether the noise is needed; a result without it then counts as none.
            arrays: if False, predictions and noise are left out.
        """
        found = self._read(experiment.key)
        if found is None or (noise and "noise" not in found[0]):
            return None
        self._failure(experiment.key).unlink(missing_ok=True)
        return _result(found, arrays)

    def read_key(self, key: str) -> tuple[Experiment, Result] | None:
        """Experiment and result without predictions and noise of a key; None if not sound."""
        found = self._read(key)
        try:
            return found and (Experiment.read(found[1]["cell"]), _result(found, False))
        except (TypeError, ValueError, KeyError) as error:
            text = f"{self.path(key)} is of another version of this software, and is left alone"
            warnings.warn(f"{text} ({error})", stacklevel=2)
            return None

    def _read(self, key):
        path = self.path(key)
        try:
            arrays, about = read_tensors(path)
            if digest_json(about["cell"]) != key:
                raise ValueError("it is the file of another experiment")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError) as error:
            place = self.folder / "damaged" / f"{key}.{time.time_ns()}.safetensors"
            place.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another run has moved it
                path.replace(place)
            text = f"{path} is damaged ({error}); moved to damaged/{place.name}"
            warnings.warn(f"{text}, and a sweep computes it again", stacklevel=3)
            return None
        return arrays, about

    def _failure(self, key):
        return self.folder / "failed" / f"{key}.json"

    def failures(self, start: str = "") -> list[dict]:
        """Records of experiments that failed, whose keys begin with `start`."""
        paths = sorted((self.folder / "failed").glob(f"{start}*.json"))
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def write_failure(
        self, experiment: Experiment, error: BaseException, origin: dict | None
    ) -> dict:
        """Record that an experiment failed.

        Args:
            experiment: what was to be computed.
            error: what it raised.
            origin: the arguments of `data.load` that give its dataset again.

        Returns:
            The record: "cell" (the experiment's values), "error" and "origin".

        Raises:
            OSError: no space, or no permission.
        """
        text = "".join(format_exception(error))
        record = {"cell": experiment.values(), "error": text, "origin": origin}
        write_file(self._failure(experiment.key), json.dumps(record, indent=1))
        return record


def _result(found, whole):
    arrays, about = found
    unpacked: dict = {"predictions": None, "noise": None}
    for name, shape in about["shapes"].items() if whole else ():
        kind = np.int8 if name == "noise" else np.uint8
        values = np.frombuffer(bytearray(zlib.decompress(arrays[name])), kind)
        unpacked[name] = values.reshape(shape)
    return Result(
        iou={name: arrays[f"iou.{name}"] for name in ("target", "truth")},
        linf=arrays["linf"],
        loss=arrays["loss"],
        warnings=tuple(about["warnings"]),
        seconds=about["seconds"],
        about=about["about"],
        **unpacked,
    )


def _pack(array):
    return np.frombuffer(zlib.compress(np.ascontiguousarray(array), 1), np.uint8)
