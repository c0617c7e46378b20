"""Losses of a segmentation: soft intersection over union, and others that attacks are made with.

A loss takes logits (N, C, H, W) and labels int64 (N, H, W) and returns (N,): lower where the
prediction fits the labels better. An untargeted attack raises its loss to the truth; a targeted one
lowers its loss to the target. Pixels whose label is not `labels.counted` are left out; an image
without any other has a loss of 0. One channel is a sigmoid's: class 1, against a background of 0.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from helpers.common.arguments import require
from helpers.labels import OUTSIDE, UNLABELLED, counted

Loss = Callable[[Tensor, Tensor], Tensor]


def soft_iou(
    logits: Tensor,
    labels: Tensor,
    *,
    classes: Iterable[int],
    smooth: float = 1e-6,
) -> Tensor:
    """Intersection over union of softmax probabilities and labels, per image and class.

    Args:
        logits: (N, C, H, W), before softmax; computed in float32 whatever their type.
        labels: int64 (N, H, W), 0 … C−1, or a value that is not `labels.counted`.
        classes: the K class indices that count.
        smooth: added to intersection and union [pixels]; a class absent from both scores 1.

    Returns:
        (N, K) float32, each in [0, 1].

    Raises:
        ValueError: the shapes do not match, or a class index is not below C.
    """
    logits = with_background(logits)
    mask = check_labels(logits, labels)
    classes = check_classes(classes, logits.shape[1]).to(logits.device)
    truth = (labels[:, None] == classes[:, None, None]).float()  # (N, K, H, W)
    probabilities = logits.float().softmax(dim=1).index_select(1, classes)
    if mask is not None:
        probabilities = probabilities * mask[:, None]
    intersection = (probabilities * truth).sum(dim=(2, 3))
    union = probabilities.sum(dim=(2, 3)) + truth.sum(dim=(2, 3)) - intersection
    return (intersection + smooth) / (union + smooth)


def iou_loss(logits: Tensor, labels: Tensor, *, classes: Iterable[int]) -> Tensor:
    """Negative `soft_iou` of each image, averaged over `classes`.

    Args:
        logits, labels: as of `soft_iou`.
        classes: all of them in training, the structures in an attack.

    Returns:
        (N,), each in [−1, 0].

    Source: paper, sections 2.4 and 3 (the loss J). Differs: per image, so that a batch does not
    couple its images.
    """
    scores = soft_iou(logits, labels, classes=classes).mean(dim=1)
    return -scores * counted(labels).flatten(1).any(dim=1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image, mean of its pixels: (N,), each ≥ 0.

    Source: Goodfellow et al., arXiv:1412.6572; per pixel for dense prediction: Xie et al.,
    arXiv:1703.08603.
    """
    logits = with_background(logits).float()
    mask = counted(labels)
    known = labels.masked_fill(~mask, OUTSIDE)
    losses = torch.nn.functional.cross_entropy(
        logits, known, reduction="none", ignore_index=OUTSIDE
    )
    return _mean_of_counted(losses, mask)


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
    logits = with_background(logits).float()
    mask = counted(labels)
    known = labels.masked_fill(~mask, 0)[:, None]
    own = logits.gather(1, known)[:, 0]
    other = logits.scatter(1, known, -torch.inf).amax(dim=1)
    margin = other - own
    if logits.shape[1] > 2:
        ordered = logits.topk(3, dim=1).values
        margin = margin / (ordered[:, 0] - ordered[:, 2] + 1e-12)
    return _mean_of_counted(margin, mask)


def _mean_of_counted(values, mask):
    """Mean of each image's pixels (N, H, W) that are in the mask; 0 where none is."""
    return values.where(mask, 0).sum(dim=(1, 2)) / mask.sum(dim=(1, 2)).clamp(min=1)


def with_background(logits: Tensor) -> Tensor:
    """Logits of two classes, the background's 0, of the one channel of a sigmoid network.

    Logits of several channels are returned as they are.
    """
    if logits.shape[1] != 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


def check_classes(classes: Iterable[int], count: int = 2**16) -> Tensor:
    """Class indices as int64 (K,); a ValueError unless they are one or more of 0 … count − 1."""
    indices = [*classes]
    known = [index in range(count) and not isinstance(index, bool) for index in indices]
    require(indices and all(known), "classes", classes, f"give one or more of 0 … {count - 1}")
    return torch.tensor(indices, dtype=torch.int64, device="cpu")


def check_labels(logits: Tensor, labels: Tensor) -> Tensor | None:
    """Raise a ValueError unless labels are int64, match the logits (N, C, H, W) and are below C.

    Returns:
        Where the labels are `labels.counted`, bool (N, H, W); None if they all are.
    """
    count = max(2, logits.shape[1])
    check_tensor("labels", labels, torch.int64, (len(logits), *logits.shape[2:]))
    mask = counted(labels)
    wrong = labels[mask & ((labels < 0) | (labels >= count))]
    if len(wrong):
        wanted = f"the network has 0 … {count - 1}; write {UNLABELLED} where there is no label"
        raise ValueError(f"a class of the labels is {wrong[0]}; {wanted}")
    return None if mask.all() else mask


def check_tensor(name: str, value: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> None:
    """Raise a ValueError unless it is a tensor of this type and shape."""
    found = f"{value.dtype} {tuple(value.shape)}"  # arrays too: their types have other names
    wanted = f"{dtype} {tuple(shape)}"
    require(found == wanted, name, found, f"give a tensor {wanted}")
