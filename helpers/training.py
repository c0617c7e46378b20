"""Training of the segmentation networks: recipes and a loop that can be killed and resumed."""

import math
import time
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import avg_pool2d
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from helpers.augmentation import AUGMENTATIONS, augment
from helpers.common.arguments import require, require_choice, whole_number
from helpers.common.paths import WEIGHTS
from helpers.common.progress import format_duration, log, progress_bar, wait_for_lock
from helpers.data import Dataset, own_copy
from helpers.labels import counted
from helpers.loss import cross_entropy, iou_loss, soft_iou
from helpers.network import UNet, evaluating, find_device, find_precision
from helpers.noise import uniform_noise
from helpers.phantom import STRUCTURES
from helpers.weights import (
    VERSION,
    Recipe,
    Trained,
    find_weights,
    install,
    load_weights,
    read_checkpoint,
    save_weights,
    weights_path,
    write_checkpoint,
)

ROLES = ("target", "surrogate")
SCHEDULES = ("constant", "falling", "growing")
MEMORY = 0.999  # of the average of weights, a step


def make_recipe(
    dataset: Dataset,
    role: str,
    *,
    depth: int,
    epochs: int,
    seed: int = 0,
    augmentation: str = "elastic",
    precision: str = "auto",
    schedule: str = "constant",
    **others: Any,
) -> Recipe:
    """Recipe of the network called `role` on a dataset.

    Args:
        role: "target" or "surrogate".
        precision: "fp32" or "bf16"; "auto" is fp32, so that a recipe is the same on every machine.
        schedule: as of `Recipe`.
        **others: `features` of the first level (default 16), `batch_size` (default 4); to train
            against attacks, `epsilon`, `attack_steps` (default 3) and `mix`; `start`.

    Raises:
        ValueError: an unknown role, augmentation, precision or schedule, or a number below 1.
        TypeError: a setting that does not exist.
    """
    require_choice("role", role, ROLES)
    require_choice("schedule", schedule, SCHEDULES)
    words = augmentation.split()
    for word in words:
        require_choice("augmentation", word, AUGMENTATIONS)
    if "world" in words:
        wanted = f"the augmentation world needs {', '.join(STRUCTURES)}"
        require(dataset.structures == STRUCTURES, "structures", dataset.structures, wanted)
        wanted = "pixels without a label, such as padding, cannot be drawn anew: leave world out"
        require(counted(dataset.labels).all(), "augmentation", "world", wanted)
    numbers = _find_numbers(depth=depth, epochs=epochs, **others)
    multiple = 2**depth * (2 if schedule == "growing" else 1)
    wanted = f"it is not divisible by {multiple} (2**depth): choose another, or a smaller depth"
    require(dataset.size % multiple == 0, "size", dataset.size, wanted)
    return Recipe(
        dataset=dataset.name,
        source=dataset.digest,
        size=dataset.size,
        num_classes=dataset.num_classes,
        training=dataset.split[f"{role}-training"],
        validation=dataset.split[f"{role}-validation"],
        seed=len(ROLES) * seed + ROLES.index(role) + 1,
        augmentation=" ".join(word for word in AUGMENTATIONS if word in words),
        precision="fp32" if precision == "auto" else find_precision(precision),
        version=VERSION,
        schedule=schedule,
        **numbers,
    )


def _find_numbers(**given):
    """The numbers of a recipe, checked; without an ε there are no steps of attacks."""
    found = {"features": 16, "batch_size": 4, "epsilon": 0.0, "attack_steps": 3, "mix": 1.0} | given
    epsilon = found["epsilon"] = float(found["epsilon"])
    require(0 <= epsilon < math.inf, "epsilon", epsilon, "give 0, or the noise to train against")
    require(0 < found["mix"] <= 1, "mix", found["mix"], "give a share above 0, up to 1")
    for name in ("depth", "epochs", "features", "batch_size", "attack_steps"):
        found[name] = whole_number(name, found[name])
    return found if epsilon else found | {"attack_steps": 0}


def train(
    dataset: Dataset,
    role: str,
    *,
    folder: Path = WEIGHTS,
    device: str | torch.device = "cpu",
    **settings: Any,
) -> Trained:
    """Train the network called `role`, or load it if the same recipe was trained before.

    Soft-IoU loss over all classes with the background, Adadelta(lr=1.0), the weights of the best
    validation epoch. With the augmentation world, the cases of validation are changed by it too,
    once; with an ε, images of training (`mix` of each batch) and validation are attacked. After
    each epoch a checkpoint is written: the same call goes on and ends with the same weights. If
    another process trains the same network, its weights are waited for.

    Args:
        role: "target" or "surrogate".
        folder: of weights and checkpoints; those that come with the study are found too.
        device: where to train, as in `network.find_device`.
        **settings: depth, epochs and the other arguments of `make_recipe`.

    Returns:
        The network in evaluation mode on `device`.

    Raises:
        ValueError: a setting is wrong, or a weights file is damaged.

    Source: paper, section 2.4; batch size and number of epochs are ours.
    """
    recipe, device = make_recipe(dataset, role, **settings), find_device(device)
    path = weights_path(recipe, folder)
    if not path.exists():
        lock = path.with_suffix(".lock")
        told = f"{role}: waiting for another process, which trains the same network"
        with wait_for_lock(lock, told):
            if not path.exists():
                _fit(recipe, dataset, role, path, device)
            lock.unlink(missing_ok=True)
    trained = load_weights(path)
    wanted = "its recipe is another than its name says: delete it and train again"
    require(trained.recipe == recipe, "weights file", path.name, wanted)
    trained.network.to(device)
    return trained


def train_all(
    dataset: Dataset,
    roles: Iterable,
    *,
    engine: Any = None,
    folder: Path = WEIGHTS,
    device: str | torch.device = "cpu",
    **settings: Any,
) -> dict:
    """`train` several networks, side by side where an engine has workers.

    Args:
        roles: such as ("target", "surrogate"), or (role, seed) pairs.
        engine: an open engine of `helpers.sweep`, on whose device is trained; None trains here.
        folder, device, **settings: as in `train`.

    Returns:
        The networks by role, on the engine's device.

    Raises:
        RuntimeError: training killed its workers, one after the other.
        ConnectionError: (as `sweep.LostEngine`) the scheduler has gone.
    """
    asked = {}
    for role in roles:
        name, seed = (role, settings.get("seed", 0)) if isinstance(role, str) else role
        asked[role] = settings | {"role": name, "seed": seed}
    if engine is not None:
        device = engine.device
        if not engine.in_process:
            _train_in_workers(dataset, asked.values(), engine, folder, device)
    return {
        role: train(dataset, folder=folder, device=device, **task) for role, task in asked.items()
    }


def _train_in_workers(dataset, tasks, engine, folder, device):
    """Fetch the weights that are missing; those of a worker without the data stay missing."""
    missing = iter(
        [task for task in tasks if not weights_path(make_recipe(dataset, **task), folder).exists()]
    )
    if dataset.origin:
        dataset = replace(dataset, images=None, labels=None)
    shared = dataset, {"folder": folder, "device": device}
    for task, files, error in engine.map(_train_task, lambda: next(missing, None), shared):
        if type(error).__name__ == "KilledWorker":  # Dask's, which may not be installed
            raise RuntimeError(
                f"workers were killed while they trained the {task['role']} network: start "
                "fewer, give each more memory or time, or train without an engine"
            )
        if error:
            raise error
        if files:
            install(*files, folder)


def _train_task(shared, task):
    """Runs in a worker: the arguments of `install`, or None without the data."""
    dataset, options = shared
    if dataset.origin:
        own = own_copy(dataset.digest, **dataset.origin)
        if own is None:
            return None
        dataset = replace(own, split=dataset.split)
    trained = train(dataset, **options, **task)
    path = weights_path(trained.recipe, options["folder"])
    return path.name, path.read_bytes(), path.with_suffix(".json").read_bytes()


def _fit(recipe, dataset, role, path, device):
    with torch.random.fork_rng():  # the initial weights come from the global generator
        torch.manual_seed(recipe.seed)
        network = UNet(num_classes=recipe.num_classes, depth=recipe.depth, features=recipe.features)
    if recipe.start:
        network.load_state_dict(_find_network(recipe.start, path.parent).state_dict())
    network = network.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adadelta(network.parameters(), lr=1.0)
    generator = torch.Generator().manual_seed(recipe.seed)
    checkpoint = path.with_suffix(".checkpoint")
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(MEMORY), use_buffers=True)
    grows = recipe.schedule == "growing"
    judged = average.module if grows else network
    state = network, optimizer, generator, average
    best, history = read_checkpoint(checkpoint, *state)
    training, validation = _take_cases(dataset, recipe, device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    bar = progress_bar(total=recipe.epochs, initial=len(history), desc=role, unit="epoch")
    for epoch in range(len(history) + 1, recipe.epochs + 1):
        started = time.monotonic()
        optimizer.param_groups[0]["lr"] = _rate(recipe, epoch)
        step = 2 if grows and epoch <= recipe.epochs / 2 else 1
        loss = _epoch(state, *training, recipe, autocast, step)
        iou = _validate(judged, *validation, recipe, autocast)
        what = f"the training loss of epoch {epoch} is {loss}, the validation IoU"
        require(math.isfinite(loss + iou), what, iou, "look at the images, or try another seed")
        if all(iou > row["iou"] for row in history):
            best = deepcopy(judged.state_dict())
        row = {"epoch": epoch, "loss": loss, "iou": iou, "seconds": time.monotonic() - started}
        history.append(row)
        write_checkpoint(checkpoint, *state, best, history)
        _report(bar, role, recipe.epochs, row)
    bar.close()
    network.load_state_dict(best)
    save_weights(path, network, recipe, history)
    checkpoint.unlink(missing_ok=True)


def _rate(recipe, epoch):
    """Learning rate of an epoch: 1, of a falling schedule down to 0 over the last 40 %."""
    left = (recipe.epochs - epoch + 1) / (0.4 * recipe.epochs)
    return min(1.0, left) if recipe.schedule == "falling" else 1.0


def _take_cases(dataset, recipe, device):
    """Images and labels of training and of validation, which the world changes only once."""
    training, validation = (
        [part.to(device) for part in dataset.take(cases)]
        for cases in (recipe.training, recipe.validation)
    )
    if "world" in recipe.augmentation:
        fixed = torch.Generator().manual_seed(recipe.seed)
        validation = augment(*validation, fixed, recipe.augmentation)
    return training, validation


def _find_network(digest, folder):
    path = find_weights(digest, folder)
    require(path, "start", digest[:12], "there are no such weights: train them first")
    return load_weights(path).network


def _epoch(state, images, labels, recipe, autocast, step):
    """Train on all images once, `step` times smaller; returns the mean loss."""
    network, optimizer, generator, average = state
    network.train()
    losses = []
    for chosen in torch.randperm(len(images), generator=generator).split(recipe.batch_size):
        x = avg_pool2d(images[chosen], step)
        x, y = augment(x, labels[chosen, ::step, ::step], generator, recipe.augmentation)
        if recipe.epsilon:
            seed = int(torch.randint(2**31, (), generator=generator))
            k = math.ceil(recipe.mix * len(x))
            x = torch.cat([_attacked(network, x[:k], y[:k], recipe, seed), x[k:]])
        optimizer.zero_grad()
        with autocast:
            logits = network(x.contiguous(memory_format=torch.channels_last))
        loss = iou_loss(logits, y, classes=range(recipe.num_classes))
        loss.mean().backward()
        optimizer.step()
        average.update_parameters(network)
        losses.append(loss.detach())
    return torch.cat(losses).mean().item()


@torch.enable_grad()
def _attacked(network, images, labels, recipe, seed):
    """Images with noise that raises the network's cross-entropy, in evaluation mode."""
    epsilon = recipe.epsilon
    noise = uniform_noise(images, epsilon=epsilon, seed=seed)
    with evaluating(network):
        for _ in range(recipe.attack_steps):
            x = (images + noise).clamp(-1, 1).requires_grad_()
            loss = cross_entropy(network(x), labels).sum()
            (gradient,) = torch.autograd.grad(loss, x)
            step = 2.5 * epsilon / recipe.attack_steps * gradient.sign()
            noise = (noise + step).clamp(-epsilon, epsilon)
    return (images + noise).clamp(-1, 1)


@torch.no_grad()
def _validate(network, images, labels, recipe, autocast):
    """Mean soft IoU of the structures."""
    scores = []
    if recipe.epsilon:
        keys = [(recipe.seed, place) for place in range(len(images))]
        parts = [slice(k, k + recipe.batch_size) for k in range(0, len(keys), recipe.batch_size)]
        made = [_attacked(network, images[p], labels[p], recipe, keys[p]) for p in parts]
        images = torch.cat(made)
    with evaluating(network), autocast:
        for x, y in zip(images.split(16), labels.split(16), strict=True):
            logits = network(x)
            scores.append(soft_iou(logits, y, classes=range(1, logits.shape[1])))
    return torch.cat(scores).mean().item()


def _report(bar, role, epochs, row):
    """Move the bar in a notebook or terminal; log a line in batch."""
    text = "loss {loss:.3f}, validation IoU {iou:.1%}, {seconds:.1f} s".format_map(row)
    bar.set_postfix_str(text, refresh=False)
    bar.update()
    if bar.disable:
        rest = format_duration((epochs - row["epoch"]) * row["seconds"])
        log(f"{role}: epoch {row['epoch']}/{epochs}, {text}, {rest} left")
