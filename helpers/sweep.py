"""Grids of attacks: crafted on one network, scored on another, at every noise level, beside their controls."""

import pandas as pd
import torch

from helpers.attack import fast_pgd, pgd, shuffle_noise, uniform_noise
from helpers.evaluation import iou_table
from helpers.loss import iou
from helpers.network import predict


def craft(
    networks, images, labels, *, ids, epsilons, loss, targeted=False, steps=100, seed=0, batch_size=20, **options
):  # fmt: skip
    """Adversarial images of every attack and noise level, and two controls of the same size.

    Args:
        networks: dict from the attack's name to the network it is crafted on, such as {"white-box": target,
            "black-box": surrogate}.
        images, labels, loss, targeted, steps, batch_size, **options: as in `attack.pgd`; all noise levels run as one
            batch.
        ids: the N cases; a case's random noise depends on its id and the seed alone.
        epsilons: the noise levels.
        seed: of the controls: "random-noise" is uniform in ±ε, "shuffled-noise" moves the first attack's noise to
            random places.

    Returns:
        dict from (attack, epsilon) to adversarial images (N, C, H, W).
    """
    keys = [(seed, id) for id in ids]
    n, levels = len(images), torch.tensor(epsilons, dtype=images.dtype)
    repeat = lambda tensor: tensor.repeat(len(levels), *[1] * (tensor.ndim - 1))  # noqa: E731
    region, step_size = options.get("region"), options.get("step_size")
    if region is not None and region.ndim == 3:
        options["region"] = repeat(region)
    if torch.is_tensor(step_size) and step_size.ndim == 1:
        options["step_size"] = repeat(step_size)
    crafted = {}
    for attack, network in networks.items():
        result = pgd(network, repeat(images), repeat(labels), loss=loss, epsilon=levels.repeat_interleave(n),
                     targeted=targeted, steps=steps, batch_size=batch_size, seed=keys * len(levels),
                     **options)  # fmt: skip
        parts = result.adv_images.view(len(levels), *images.shape)
        crafted |= {(attack, e): part for e, part in zip(epsilons, parts, strict=True)}
    value_range = options.get("value_range", (-1.0, 1.0))
    first = next(iter(networks))
    for epsilon in epsilons:
        noisy = images + uniform_noise(images, epsilon=epsilon, seed=keys)
        crafted["random-noise", epsilon] = noisy.clamp(*value_range)
        shuffled = shuffle_noise(images, crafted[first, epsilon], seed=keys, value_range=value_range)
        crafted["shuffled-noise", epsilon] = shuffled
    return crafted


def craft_each(network, images, targets, *, loss, epsilon, regions=None, batch_size=20, **options):
    """Adversarial images of several targets, or of one target under several noise regions, as one batch.

    Args:
        network, images, loss, epsilon, batch_size, **options: as in `attack.pgd`; the attack is targeted.
        targets: dict from a name to target label maps (N, H, W).
        regions: dict from the same names to bool (N, H, W), where noise is allowed; default everywhere.

    Returns:
        dict from the name to adversarial images (N, C, H, W).
    """
    if regions is not None:
        options["region"] = torch.cat([regions[name] for name in targets])
    result = pgd(network, images.repeat(len(targets), 1, 1, 1), torch.cat(list(targets.values())), loss=loss,
                 epsilon=epsilon, targeted=True, batch_size=batch_size, **options)  # fmt: skip
    return dict(zip(targets, result.adv_images.view(len(targets), *images.shape), strict=True))


def smallest_epsilon(network, images, labels, *, structure, reached=95.0, low=0.001, high=0.16, rounds=6, **options):
    """Smallest noise level of each case at which a targeted attack reaches an IoU, by bisection of log ε, batched.

    The attack is `fast_pgd`, and ends at the step that reaches the IoU.

    Args:
        network, images, labels: as in `attack.fast_pgd`.
        structure: class whose IoU with the target counts.
        reached: IoU × 100 that counts as success.
        low, high: the range of ε; it is halved `rounds` times on a logarithmic scale.
        **options: as in `attack.fast_pgd`; the attack is targeted.

    Returns:
        float (N,): the least ε that was tried and was enough, at most (high / low)^(1 / 2^rounds) times too high;
        infinity where none was. A case for which `low` is enough ends just above it.
    """

    def succeeds(epsilon):
        result = fast_pgd(network, images, labels, epsilon=epsilon, targeted=True, classes=[structure], stop_at=reached,
                          **options)  # fmt: skip
        return iou(predict(network, result.adv_images), labels, classes=[structure])[:, 0] >= reached

    lower, upper = (torch.full((len(images),), value, device=images.device) for value in (low, high))
    possible = succeeds(upper)
    for _ in range(rounds):
        middle = (lower * upper).sqrt()
        enough = succeeds(middle)
        possible |= enough
        lower, upper = torch.where(enough, lower, middle), torch.where(enough, middle, upper)
    return torch.where(possible, upper, torch.inf)


def score(network, crafted, labels, *, ids, structures, names=("attack", "epsilon")):
    """Predict every crafted image with the attacked network and compare with label maps.

    Args:
        network: the attacked network.
        crafted: dict from a key to images (N, C, H, W), as `craft` and `craft_each` make it.
        labels, ids, structures, names: as in `compare`.

    Returns:
        The table of `compare`, and a dict from the key to label maps (N, H, W).
    """
    predictions = {key: predict(network, images) for key, images in crafted.items()}
    return compare(predictions, labels, ids=ids, structures=structures, names=names), predictions


def compare(predictions, labels, *, ids, structures, names=("attack", "epsilon"), **columns):
    """Tidy IoU table of many predictions.

    Args:
        predictions: dict from a key to label maps (N, H, W).
        labels: int64 (N, H, W), or a dict of such from the same keys.
        ids, structures: as in `evaluation.iou_table`.
        names: of the columns that hold the parts of a key.
        **columns: constant columns to put in front.

    Returns:
        DataFrame with the constant columns, those of `names`, id, structure, iou.
    """
    tables = []
    for key, maps in predictions.items():
        parts = key if isinstance(key, tuple) else (key,)
        truth = labels[key] if isinstance(labels, dict) else labels
        about = columns | dict(zip(names, parts, strict=True))
        tables.append(iou_table(maps, truth, ids=ids, structures=structures, **about))
    return pd.concat(tables, ignore_index=True)
