"""The worst case of several attacks, image by image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from helpers.attack import fast_pgd, pgd
from helpers.common.arguments import require
from helpers.evaluation import iou
from helpers.loss import cross_entropy, iou_loss, margin_loss
from helpers.network import Network, predict
from helpers.recorder import AttackResult

Attack = Callable[..., AttackResult]


@dataclass(frozen=True, eq=False)
class WorstCase:
    """The best that any of several attacks made of each image.

    Attributes:
        adv_images: (N, C, H, W).
        iou: (N,), mean IoU × 100 of the classes between the network's own prediction and the
            labels.
        winners: N names, of the attack that made each.
        by_attack: from the name of each attack to its IoU × 100, (N,).
    """

    adv_images: Tensor
    iou: Tensor
    winners: tuple[str, ...]
    by_attack: dict[str, Tensor]


def suite(classes: Sequence[int]) -> dict[str, Attack]:
    """Attacks that differ in loss, steps and start, by name.

    Args:
        classes: class indices that the IoU counts.

    Source: the reason for several, and for their worst case per image: Croce and Hein,
    arXiv:2003.01690 (classification), and Croce et al., arXiv:2306.12941 (segmentation).
    """
    overlap = partial(iou_loss, classes=classes)
    falling: dict[str, Any] = {"direction": "adam", "momentum": 0.5, "schedule": _falling}
    return {
        "faster PGD": partial(fast_pgd, loss=overlap),
        "faster PGD, random start": partial(fast_pgd, loss=overlap, random_start=True),
        "IoU": partial(pgd, loss=overlap, **falling),
        "cross-entropy": partial(pgd, loss=cross_entropy, **falling),
        "margin": partial(pgd, loss=margin_loss, **falling),
        "PGD": partial(pgd, loss=overlap),
    }


def _falling(progress):
    """From ε to 0, in units of ε / 20."""
    return 20 * (1 - progress)


def worst_case(
    network: Network,
    images: Tensor,
    labels: Tensor,
    *,
    classes: Sequence[int],
    targeted: bool = False,
    attacks: Mapping[str, Attack] | None = None,
    batch_size: int = 8,
    **options: Any,
) -> WorstCase:
    """Attack all images in several ways, and keep of each image what the network fares worst with.

    Args:
        network, images, labels, targeted, batch_size: as in `attack.pgd`.
        classes: class indices whose mean IoU decides, at every step and between attacks.
        attacks: functions like `attack.pgd`, by name; default `suite`.
        **options: epsilon, steps and other options of `attack.pgd`, for all attacks.

    Returns:
        WorstCase, by the predictions of the network itself in float32.

    Raises:
        ValueError: there is no attack, or as `attack.pgd`.
    """
    attacks = suite(classes) if attacks is None else attacks
    require(attacks, "attacks", attacks, "give one or more, by name")
    options |= {"classes": classes, "targeted": targeted, "keep": "iou", "batch_size": batch_size}
    made, by_attack = [], {}
    for name, attack in attacks.items():
        adv_images = attack(network, images, labels, **options).adv_images
        prediction = predict(network, adv_images, batch_size=batch_size)
        by_attack[name] = iou(prediction, labels, classes=classes).nanmean(dim=1)
        made.append(adv_images)
    scores = torch.stack([*by_attack.values()])  # (attacks, N)
    gains = scores.nan_to_num(100) if targeted else -scores.nan_to_num(100)
    best = gains.argmax(dim=0)
    cases = torch.arange(len(images), device=best.device)
    names = tuple(attacks)
    winners = tuple(names[k] for k in best.tolist())
    return WorstCase(torch.stack(made)[best, cases], scores[best, cases], winners, by_attack)
