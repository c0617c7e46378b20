"""Training of the segmentation networks: augmentation, resumable loop, weights files."""

import json
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from helpers.augmentation import AUGMENTATIONS, augment
from helpers.common.files import atomic_write, digest_bytes, digest_json
from helpers.common.paths import PUBLISHED, WEIGHTS
from helpers.common.progress import format_duration, log, progress_bar
from helpers.common.provenance import commit, versions
from helpers.loss import iou_loss, soft_iou
from helpers.network import UNet, evaluating, find_device, find_precision

VERSION = 1  # of this training; raise it with a change that alters the weights


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a network's weights; its key names the weights file.

    Attributes:
        dataset: name of the dataset; `source` is the digest of its files.
        training, validation: ids of the cases.
        seed: of the initial weights and the augmentation; target and surrogate each have their own.
        augmentation: words of "elastic affine intensity", each applied to half of the samples.
        precision: "bf16" (autocast) or "fp32".
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

    @property
    def key(self):
        """SHA-256 of the canonical JSON of the recipe."""
        return digest_json(asdict(self))


@dataclass(frozen=True)
class Trained:
    """A trained network, the digest of its weights, its recipe and its learning curve.

    Attributes:
        history: one dict an epoch: epoch, loss (training), iou (validation, soft, mean of the structures), seconds.
    """

    network: UNet
    digest: str
    recipe: Recipe
    history: tuple


def make_recipe(
    dataset,
    role,
    *,
    depth,
    epochs,
    features=16,
    batch_size=4,
    seed=0,
    augmentation="elastic",
    precision="auto",
):
    """Recipe of the network called `role` ("target" or "surrogate") on a dataset.

    `precision` is "fp32" or "bf16"; "auto" is fp32, so that a recipe is the same on every machine.

    Raises:
        ValueError: an unknown role, augmentation or precision, or a number below 1.
    """
    roles = [name.removesuffix("-training") for name in dataset.split if name.endswith("-training")]
    if role not in roles:
        raise ValueError(f"role {role!r} is unknown; this dataset has {', '.join(sorted(roles))}")
    unknown = set(augmentation.split()) - set(AUGMENTATIONS)
    if unknown:
        raise ValueError(
            f"augmentation {min(unknown)!r} is unknown; choose words of {' '.join(AUGMENTATIONS)!r}"
        )
    precision = "fp32" if precision == "auto" else find_precision(precision)
    for name, value in {
        "depth": depth,
        "features": features,
        "epochs": epochs,
        "batch_size": batch_size,
    }.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    if dataset.size % 2**depth:
        raise ValueError(
            f"size {dataset.size} is not divisible by {2**depth} (2**depth): choose another size or a smaller depth"
        )
    return Recipe(
        dataset=dataset.name,
        source=dataset.digest,
        size=dataset.size,
        num_classes=dataset.num_classes,
        training=dataset.split[f"{role}-training"],
        validation=dataset.split[f"{role}-validation"],
        depth=depth,
        features=features,
        epochs=epochs,
        batch_size=batch_size,
        seed=len(roles) * seed + roles.index(role) + 1,
        augmentation=" ".join(word for word in AUGMENTATIONS if word in augmentation.split()),
        precision=precision,
    )


def train(dataset, role, *, folder=WEIGHTS, device="cpu", **settings):
    """Train the network called `role`, or load it if the same recipe was trained before or comes with the study.

    Soft-IoU loss over all classes with the background, Adadelta(lr=1.0), the weights of the best validation epoch. A
    checkpoint is written after each epoch: killed at any moment, the same call goes on and ends with the same weights.
    If another process trains the same, its weights are waited for.

    Args:
        dataset: a `helpers.data.Dataset`.
        role: "target" or "surrogate".
        folder: where weights and checkpoints are kept, under the key of their recipe.
        device: where to train, as in `network.find_device`.
        **settings: depth, epochs and the other arguments of `make_recipe`.

    Returns:
        Trained, with the network in evaluation mode on `device`.

    Raises:
        ValueError: a setting is wrong, or a weights file is damaged.

    Source: paper, section 2.4. Differs: batch size and number of epochs, which the paper does not say.
    """
    recipe = make_recipe(dataset, role, **settings)
    path = weights_path(recipe, folder)
    if not path.exists():
        with _alone(role, path.with_suffix(".lock")):
            if not path.exists():
                _fit(recipe, dataset, role, path, find_device(device))
    trained = load_weights(path)
    if trained.recipe != recipe:
        raise ValueError(
            f"{path.name} was trained by another recipe than its name says: delete it and train again"
        )
    trained.network.to(find_device(device))
    return trained


def weights_path(recipe, folder=WEIGHTS):
    """Where the weights of a recipe are kept: in the folder, unless they are only in data/weights."""
    own, published = (place / f"{recipe.key[:16]}.safetensors" for place in (folder, PUBLISHED))
    return published if published.exists() and not own.exists() else own


def find_weights(digest, folder=WEIGHTS):
    """The weights file of a digest (or its beginning); None if it is neither in the folder nor in data/weights."""
    for path in (*sorted(folder.glob("*.json")), *sorted(PUBLISHED.glob("*.json"))):
        try:
            if json.loads(path.read_text(encoding="utf-8"))["weights"].startswith(digest):
                return path.with_suffix(".safetensors")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


def install(name, weights, card, folder=WEIGHTS):
    """Put the bytes of a weights file and its side-car, trained elsewhere, where `train` looks for them."""
    for path, content in (((folder / name).with_suffix(".json"), card), (folder / name, weights)):
        if not path.exists():
            with atomic_write(path) as file:
                file.write(content)


def state_digest(state):
    """SHA-256 of a state dict: names, types, shapes and values."""
    parts = []
    for name, value in sorted(state.items()):
        parts += [
            f"{name} {value.dtype} {tuple(value.shape)}".encode(),
            value.contiguous().cpu().numpy().tobytes(),
        ]
    return digest_bytes(*parts)


def save_weights(path, network, recipe, history):
    """Write weights (safetensors) and beside them a JSON side-car: digest, recipe, history and provenance."""
    state = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
    card = {
        "weights": state_digest(state),
        "architecture": network.config,
        "recipe": asdict(recipe),
        "history": history,
    }
    with atomic_write(path.with_suffix(".json"), "w") as file:
        json.dump(
            card | {"versions": versions(), "commit": commit(), "threads": torch.get_num_threads()},
            file,
            indent=1,
        )
    with atomic_write(path) as file:
        file.write(save(state))


def load_weights(path):
    """Read a network written by `save_weights` and verify it.

    Returns:
        Trained, on the CPU in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file or its side-car is damaged, altered, or of another architecture.
    """
    advice = (
        f"delete {path.name} and {path.with_suffix('.json').name} in {path.parent} and train again"
    )
    try:
        if not path.exists():
            raise FileNotFoundError(
                f"no weights at {path}: run 02_training with the same parameters"
            )
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with (
            torch.random.fork_rng()
        ):  # initial weights, which go, would use up numbers of the global generator
            network = UNet(**card["architecture"])
        digest, history = card["weights"], tuple(card["history"])
        recipe = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in card["recipe"].items()
        }
        recipe = Recipe(**recipe)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        if not path.exists():
            raise
        raise ValueError(f"{path.name} is damaged ({error}): {advice}") from None
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if shapes != {name: tuple(value.shape) for name, value in state.items()}:
        raise ValueError(
            f"{path.name} holds weights of another architecture than {card['architecture']}: {advice}"
        )
    if state_digest(state) != digest:
        raise ValueError(
            f"{path.name} was altered (its digest is not {str(digest)[:12]}…): {advice}"
        )
    network.load_state_dict(state)
    return Trained(network.eval(), digest, recipe, history)


# --- augmentation -----------------------------------------------------------------------------------------------------


# --- the loop ---------------------------------------------------------------------------------------------------------


@contextmanager
def _alone(role, path):
    """Wait until no other process is in this block; the operating system lets go of one that dies."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        log(f"{role}: waiting for another process, which trains the same network")
        lock.acquire()
    try:
        yield
        path.unlink(missing_ok=True)
    finally:
        lock.release()


def _fit(recipe, dataset, role, path, device):
    with torch.random.fork_rng():  # the initial weights come from the global generator
        torch.manual_seed(recipe.seed)
        network = UNet(num_classes=recipe.num_classes, depth=recipe.depth, features=recipe.features)
    network = network.to(device, memory_format=torch.channels_last)
    best = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.Adadelta(network.parameters(), lr=1.0)
    generator = torch.Generator().manual_seed(recipe.seed)
    checkpoint = path.with_suffix(".checkpoint")
    history = _resume(checkpoint, network, optimizer, generator, best)
    training = [part.to(device) for part in dataset.take(recipe.training)]
    validation = [part.to(device) for part in dataset.take(recipe.validation)]
    for epoch in _progress(role, history, recipe.epochs):
        started = time.monotonic()
        loss = _epoch(network, optimizer, generator, *training, recipe)
        iou = _validate(network, *validation, recipe)
        if not np.isfinite(loss):
            raise ValueError(
                f"the training loss of epoch {epoch} is {loss}: look at the images, or try another seed"
            )
        if iou > max((row["iou"] for row in history), default=-1):
            best = {name: value.clone() for name, value in network.state_dict().items()}
        history.append(
            {"epoch": epoch, "loss": loss, "iou": iou, "seconds": time.monotonic() - started}
        )
        _write_checkpoint(checkpoint, network, optimizer, generator, best, history)
    network.load_state_dict(best)
    save_weights(path, network, recipe, history)
    checkpoint.unlink(missing_ok=True)


def _epoch(network, optimizer, generator, images, labels, recipe):
    network.train()
    losses = []
    for chosen in torch.randperm(len(images), generator=generator).split(recipe.batch_size):
        x, y = augment(images[chosen], labels[chosen], generator, recipe.augmentation)
        optimizer.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            logits = network(x.contiguous(memory_format=torch.channels_last))
        loss = iou_loss(logits, y, classes=range(recipe.num_classes))
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.cat(losses).mean().item()


@torch.no_grad()
def _validate(network, images, labels, recipe):
    classes, batches = (
        range(1, recipe.num_classes),
        zip(images.split(16), labels.split(16), strict=True),
    )
    with (
        evaluating(network),
        torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"),
    ):
        return (
            torch.cat([soft_iou(network(x), y, classes=classes) for x, y in batches]).mean().item()
        )


def _write_checkpoint(path, network, optimizer, generator, best, history):
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
    tensors["generator"] = generator.get_state()
    tensors["history"] = torch.tensor(
        list(json.dumps(history).encode()), dtype=torch.uint8
    )  # under the digest too
    with atomic_write(path) as file:
        tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
        file.write(save(tensors, {"digest": state_digest(tensors)}))


def _resume(path, network, optimizer, generator, best):
    """Fill everything from the checkpoint and return the history so far; without a whole checkpoint, start anew."""
    try:
        with safe_open(path, "pt") as file:
            tensors, metadata = (
                {name: file.get_tensor(name) for name in file.keys()},
                file.metadata(),
            )
        if state_digest(tensors) != (metadata or {}).get("digest"):
            raise SafetensorError("its digest does not hold")
    except FileNotFoundError:
        return []
    except (SafetensorError, OSError) as error:
        print(f"{path.name} is damaged ({error}): training starts anew", file=sys.stderr)
        return []
    part = lambda prefix: {
        n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)
    }  # noqa: E731
    network.load_state_dict(part("network."))
    best.update({name: value.to(best[name].device) for name, value in part("best.").items()})
    state = {}
    for name, value in part("optimizer.").items():
        index, slot = name.split(".")
        state.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    generator.set_state(tensors["generator"])
    return json.loads(bytes(tensors["history"].tolist()))


def _progress(role, history, epochs):
    """Epoch numbers still to do: a bar in a notebook or terminal, a line an epoch in batch (to STUDY_LOG if set)."""
    bar = progress_bar(total=epochs, initial=len(history), desc=role, unit="epoch")
    for epoch in range(len(history) + 1, epochs + 1):
        yield epoch
        row = history[-1]
        left = (epochs - epoch) * float(np.mean([past["seconds"] for past in history]))
        text = f"loss {row['loss']:.3f}, validation IoU {100 * row['iou']:.1f}"
        bar.set_postfix_str(text, refresh=False)
        bar.update()
        if bar.disable:
            log(
                f"{role}: epoch {epoch}/{epochs}, {text}, {row['seconds']:.1f} s, {format_duration(left)} left"
            )
    bar.close()
