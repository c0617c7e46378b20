"""Losses of a segmentation: soft intersection over union, and others that attacks are made with.

A loss takes logits (N, C, H, W) and labels int64 (N, H, W) and returns (N,): lower where the
prediction fits the labels better. An untargeted attack raises its loss to the truth; a targeted one
lowers its loss to the target. A guide also takes the share of the steps done: `segpgd` and `cospgd`
make guides, which lead an attack but do not measure it, since their weights follow the prediction.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]
Guide = Callable[[Tensor, Tensor, float], Tensor]


def soft_iou(
    logits: Tensor, labels: Tensor, *, classes: Iterable[int], smooth: float = 1e-6
) -> Tensor:
    """Intersection over union of softmax probabilities and labels, per image and class.

    Args:
        logits: (N, C, H, W), before softmax; computed in float32 whatever their type.
        labels: int64 (N, H, W), 0 … C−1.
        classes: the K class indices that count.
        smooth: added to intersection and union [pixels]; a class absent from both scores 1.

    Returns:
        (N, K) float32, each in [0, 1].

    Raises:
        ValueError: the shapes do not match, or a class index is not below C.
    """
    check_labels(logits, labels)
    classes = check_classes(classes, logits.shape[1])
    chosen: slice | Tensor = classes
    if (classes.diff() == 1).all():  # a slice needs no copy
        chosen = slice(int(classes[0]), int(classes[-1]) + 1)
    truth = (labels[:, None] == classes.to(labels.device)[:, None, None]).float()  # (N, K, H, W)
    probabilities = logits.float().softmax(dim=1)[:, chosen]
    intersection = (probabilities * truth).sum(dim=(2, 3))
    union = probabilities.sum(dim=(2, 3)) + truth.sum(dim=(2, 3)) - intersection
    return (intersection + smooth) / (union + smooth)


def iou_loss(
    logits: Tensor, labels: Tensor, *, classes: Iterable[int], smooth: float = 1e-6
) -> Tensor:
    """Negative `soft_iou` of each image, averaged over `classes`.

    Args:
        logits, labels, smooth: as of `soft_iou`.
        classes: all of them in training, the structures in an attack.

    Returns:
        (N,), each in [−1, 0].

    Source: paper, sections 2.4 and 3 (the loss J). Differs: per image, so that a batch does not
    couple its images.
    """
    return -soft_iou(logits, labels, classes=classes, smooth=smooth).mean(dim=1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image, mean of its pixels: (N,), each ≥ 0.

    Source: Goodfellow et al., arXiv:1412.6572; per pixel for dense prediction: Xie et al.,
    arXiv:1703.08603.
    """
    return _pixel_cross_entropy(logits, labels).mean(dim=(1, 2))


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio (DLR) of each image, mean of its pixels.

    The greatest other logit minus that of the label, over the distance of the greatest to the third
    greatest logit: it does not change if all logits are scaled. Of two classes it is the plain
    difference.

    Returns:
        (N,); a pixel counts below 0 where it has its label, and above where not.

    Source: Croce and Hein, arXiv:2003.01690, equation 6. Differs: a targeted attack lowers the same
    ratio with its target as label, where theirs also needs the truth.
    """
    logits = logits.float()
    own = logits.gather(1, labels[:, None])[:, 0]
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    margin = other - own
    if logits.shape[1] > 2:
        ordered = logits.topk(3, dim=1).values
        margin = margin / (ordered[:, 0] - ordered[:, 2] + 1e-12)
    return margin.mean(dim=(1, 2))


def segpgd(targeted: bool) -> Guide:
    """SegPGD: a guide that weights pixels which are won already less, until the last step.

    Args:
        targeted: whether a pixel is won when it has its label, or when it has not.

    Returns:
        A cross-entropy with a weight for each pixel, (N,), each ≥ 0.

    Source: Gu et al., arXiv:2207.12391, equation 4 and λ = (t − 1) / 2T. Differs: `targeted`.
    """

    def guide(logits, labels, progress):
        won = (logits.argmax(dim=1) == labels) == targeted
        weight = torch.where(won, progress / 2, 1 - progress / 2)
        return (weight * _pixel_cross_entropy(logits, labels)).mean(dim=(1, 2))

    return guide


def cospgd(targeted: bool) -> Guide:
    """CosPGD: a guide that weights pixels by how alike their probabilities and label are.

    Args:
        targeted: whether the weight is 1 minus the cosine similarity, or the similarity.

    Returns:
        A cross-entropy with a weight for each pixel, (N,), each ≥ 0.

    Source: Agnihotri et al., arXiv:2302.02213, section 3; no gradient flows through the weight.
    """

    def guide(logits, labels, progress):
        probabilities = logits.detach().float().softmax(dim=1)
        alike = probabilities.gather(1, labels[:, None])[:, 0] / probabilities.norm(dim=1)
        weight = 1 - alike if targeted else alike
        return (weight * _pixel_cross_entropy(logits, labels)).mean(dim=(1, 2))

    return guide


def check_classes(classes: Iterable[int], count: int | None = None) -> Tensor:
    """Class indices as int64 (K,); a ValueError unless they are one or more of 0 … count − 1."""
    try:
        found = torch.as_tensor([*classes])
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(0)
    whole = found.ndim == 1 and found.dtype != torch.bool and not found.is_floating_point()
    if not whole or found.min() < 0 or (count is not None and found.max() >= count):
        wanted = "one or more class indices" if count is None else f"one or more of 0 … {count - 1}"
        raise ValueError(f"classes {classes!r} must be {wanted}")
    return found.long()


def check_labels(logits: Tensor, labels: Tensor) -> None:
    """Raise a ValueError unless labels are int64, match the logits (N, C, H, W) and are below C."""
    count = logits.shape[1]
    shape = [len(logits), *logits.shape[2:]]
    check_tensor("labels are", labels, torch.int64, f"{tuple(shape)}", shape)
    if not labels.numel():
        return
    for label in map(int, reversed(labels.aminmax())):
        if not 0 <= label < count:
            raise ValueError(f"labels hold class {label}, the network knows 0 … {count - 1}")


def check_tensor(
    what: str, value: object, dtype: torch.dtype, wanted: str, *shapes: Sequence[int]
) -> None:
    """Raise a ValueError unless it is a tensor of this type and of one of these shapes.

    Without `shapes`, any of four dimensions will do.
    """
    found = type(value).__name__
    if torch.is_tensor(value):
        found = f"{value.dtype} {tuple(value.shape)}"
        fits = list(value.shape) in shapes if shapes else value.ndim == 4
        if fits and value.dtype == dtype:
            return
    raise ValueError(f"{what} {found}; give a {dtype} tensor {wanted}")


def _pixel_cross_entropy(logits, labels):
    return functional.cross_entropy(logits.float(), labels, reduction="none")
