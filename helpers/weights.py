"""Weights files: what a network was trained by, and the proof that it is still the same."""

import json
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from helpers.common.arguments import require
from helpers.common.files import (
    DamagedFileError,
    digest_bytes,
    digest_json,
    read_tensors,
    write_file,
    write_tensors,
)
from helpers.common.paths import PUBLISHED, WEIGHTS
from helpers.common.provenance import commit, versions
from helpers.network import UNet

VERSION = 1  # of the training; raise it with a change that alters the weights


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a network's weights; its key names the weights file.

    Attributes:
        dataset: name of the dataset; `source` is the digest of its files.
        training, validation: ids of the cases.
        seed: of the initial weights and the augmentation; each role has its own.
        augmentation: words of "elastic affine intensity grain world", as of `augmentation.augment`.
        precision: "bf16" (autocast) or "fp32".
        schedule: "constant"; "falling", a learning rate that falls to 0 over the last 40 % of the
            epochs; or "growing", images of half the size for half of the epochs, and the
            exponential average of the weights is kept (Tarvainen and Valpola, arXiv:1703.01780).
        epsilon: noise of the attacks that it is trained against [units of the images]; 0 for none.
        attack_steps: gradient steps of these attacks.
        mix: share of the images of a batch that are attacked.
        start: digest of the weights that it starts from; empty for random ones.
    """

    dataset: str
    source: str
    size: int
    num_classes: int
    training: tuple
    validation: tuple
    depth: int
    features: int
    epochs: int
    batch_size: int
    seed: int
    augmentation: str
    precision: str
    version: int = VERSION
    schedule: str = "constant"
    epsilon: float = 0.0
    attack_steps: int = 0
    mix: float = 1.0
    start: str = ""

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of the recipe, without what is as by default.

        Older recipes had no such fields; but the version has always been there.
        """
        later = {each.name: each.default for each in fields(self) if each.name != "version"}
        values = asdict(self).items()
        return digest_json({name: value for name, value in values if value != later.get(name)})


@dataclass(frozen=True)
class Trained:
    """A trained network, the digest of its weights, its recipe and its learning curve.

    Attributes:
        digest: of the weights; of a network of one's own, see `own.load_network`, of its code too.
        recipe: None where nobody knows it.
        history: one dict an epoch: epoch, loss (training), iou (validation, soft, mean of the
            structures), seconds.
        state: the digest of the weights as they are in memory, if `digest` is of more or of others.
    """

    network: nn.Module
    digest: str
    recipe: Recipe | None
    history: tuple
    state: str = ""

    def is_unchanged(self) -> bool:
        """Whether the weights are still those that it was made with."""
        return state_digest(self.network.state_dict()) == (self.state or self.digest)


def weights_path(recipe: Recipe, folder: Path = WEIGHTS) -> Path:
    """Where a recipe's weights are kept: in the folder, unless they are only in data/weights."""
    own = folder / f"{recipe.key[:16]}.safetensors"
    published = PUBLISHED / own.name
    return published if published.exists() and not own.exists() else own


def find_weights(digest: str, folder: Path = WEIGHTS) -> Path | None:
    """The weights file of a digest (or its beginning), in the folder or in data/weights."""
    start = f'"weights": "{digest}'.encode()
    for path in (*folder.glob("*.json"), *PUBLISHED.glob("*.json")):
        if start in path.read_bytes():
            return path.with_suffix(".safetensors")
    return None


def state_digest(state: dict) -> str:
    """SHA-256 of a state dict: names, types, shapes and values."""
    parts = []
    for name, value in sorted(state.items()):
        about = f"{name} {value.dtype} {tuple(value.shape)}"
        parts += [about.encode(), value.cpu().numpy().tobytes()]
    return digest_bytes(*parts)


def save_weights(path: Path, network: UNet, recipe: Recipe, history: list) -> None:
    """Write weights (safetensors) and a JSON side-car: digest, recipe, history and provenance.

    Averaged weights are rounded to 16 bits, which halves the file.
    """
    state = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
    if recipe.schedule == "growing":
        state = {n: x.half() if x.is_floating_point() else x for n, x in state.items()}
    card = {
        "weights": state_digest(state),
        "architecture": network.config,
        "recipe": asdict(recipe),
        "history": history,
        "versions": versions(),
        "commit": commit(),
        "threads": torch.get_num_threads(),
    }
    _write(path, save(state), json.dumps(card, indent=1).encode())


def install(name: str, weights: bytes, card: bytes, folder: Path = WEIGHTS) -> None:
    """Put a weights file and its side-car, trained elsewhere, where `train` looks for them."""
    if not (folder / name).exists():
        _write(folder / name, weights, card)


def _write(path, weights, card):
    """Both files, the weights last: where they are, the side-car is theirs."""
    write_file(path.with_suffix(".json"), card)
    write_file(path, weights)


def load_weights(path: Path) -> Trained:
    """Read a network written by `save_weights` and verify it.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file or its side-car is damaged, altered, or of another architecture.
    """
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}: run 02_training with the same parameters")
    try:
        state = load_file(path)
        card = json.loads(path.with_suffix(".json").read_bytes())
        digest = card["weights"]
        recipe = card["recipe"]
        require(state_digest(state) == digest, "digest", digest, "the weights have another")
        with torch.random.fork_rng():  # the initial weights use up random numbers
            network = UNet(**card["architecture"])
        network.load_state_dict(state)
        cases = {part: tuple(recipe[part]) for part in ("training", "validation")}
        history = tuple(card["history"])
        in_memory = state_digest(network.state_dict())
        return Trained(network.eval(), digest, Recipe(**recipe | cases), history, in_memory)
    except Exception as error:
        raise ValueError(
            f"{path} is damaged or was altered ({shorten(str(error), 200)}): delete it and its "
            ".json, and train again"
        ) from None


def write_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: Any,
    generator: Any,
    average: nn.Module,
    best: dict,
    history: list,
) -> None:
    """Keep a training, to go on with: its state, its best weights and its history so far."""
    parts: dict = optimizer.state_dict()["state"] | {
        "network": network.state_dict(),
        "average": average.state_dict(),
        "best": best,
        "generator": {"state": generator.get_state()},
    }
    arrays = {
        f"{part}/{name}": value.cpu().numpy()
        for part, state in parts.items()
        for name, value in state.items()
    }
    write_tensors(path, arrays, {"history": history})


def read_checkpoint(
    path: Path, network: nn.Module, optimizer: Any, generator: Any, average: nn.Module
) -> tuple[dict, list]:
    """Go on from a checkpoint: returns the best weights and the history so far.

    Both are empty without a whole checkpoint; training then starts anew.
    """
    try:
        arrays, about = read_tensors(path)
    except FileNotFoundError:
        return {}, []
    except DamagedFileError as error:
        print(f"{path.name} is damaged ({error}): training starts anew", file=sys.stderr)
        return {}, []
    parts: dict = defaultdict(dict)
    for key, array in arrays.items():
        part, name = key.split("/")
        parts[part][name] = torch.from_numpy(array)
    best = parts.pop("best")
    network.load_state_dict(parts.pop("network"))
    average.load_state_dict(parts.pop("average"))
    generator.set_state(parts.pop("generator")["state"])
    slots = {int(number): state for number, state in parts.items()}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})
    return best, about["history"]
