"""Grids of attacks: crafted on one network, scored on another, at every noise level, beside their controls."""

import pandas as pd
import torch

from helpers.attack import pgd, shuffle_noise, uniform_noise
from helpers.evaluation import iou_table
from helpers.network import predict


def craft(networks, images, labels, *, epsilons, loss, targeted=False, steps=100, seed=0, batch_size=20, **options):
    """Adversarial images of every attack and noise level, and two controls of the same size.

    Args:
        networks: dict from the attack's name to the network it is crafted on, such as {"white-box": target,
            "black-box": surrogate}.
        images, labels, loss, targeted, steps, batch_size, **options: as in `attack.pgd`; all noise levels run as one
            batch.
        epsilons: the noise levels.
        seed: of the controls: "random-noise" is uniform in ±ε, "shuffled-noise" moves the first attack's noise to
            random places.

    Returns:
        dict from (attack, epsilon) to adversarial images (N, C, H, W).
    """
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
                     targeted=targeted, steps=steps, batch_size=batch_size, seed=seed, **options)  # fmt: skip
        parts = result.adv_images.view(len(levels), *images.shape)
        crafted |= {(attack, e): part for e, part in zip(epsilons, parts, strict=True)}
    value_range = options.get("value_range", (-1.0, 1.0))
    first = next(iter(networks))
    for epsilon in epsilons:
        noisy = images + uniform_noise(images, epsilon=epsilon, seed=seed)
        crafted["random-noise", epsilon] = noisy.clamp(*value_range)
        shuffled = shuffle_noise(images, crafted[first, epsilon], seed=seed, value_range=value_range)
        crafted["shuffled-noise", epsilon] = shuffled
    return crafted


def score(network, crafted, labels, *, ids, structures):
    """Predict every crafted image with the attacked network and compare with label maps.

    Args:
        network: the attacked network.
        crafted: dict from (attack, epsilon) to images (N, C, H, W), as `craft` makes it.
        labels: int64 (N, H, W).
        ids, structures: as in `evaluation.iou_table`.

    Returns:
        The tidy table (attack, epsilon, id, structure, iou), and a dict from (attack, epsilon) to label maps (N, H, W).
    """
    predictions = {key: predict(network, images) for key, images in crafted.items()}
    tables = [
        iou_table(maps, labels, ids=ids, structures=structures, attack=attack, epsilon=epsilon)
        for (attack, epsilon), maps in predictions.items()
    ]
    return pd.concat(tables, ignore_index=True), predictions
