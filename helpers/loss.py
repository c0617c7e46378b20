"""Soft intersection over union, and the loss made of it."""

import torch


def soft_iou(logits, labels, *, classes, smooth=1e-6):
    """Intersection over union of softmax probabilities and labels, per image and class.

    Args:
        logits: (N, C, H, W), before softmax; computed in float32 whatever their type.
        labels: (N, H, W) int64, 0 … C−1.
        classes: the K class indices that count.
        smooth: added to intersection and union [pixels]; a class absent from both scores 1.

    Returns:
        (N, K) float32, each in [0, 1].

    Raises:
        ValueError: the shapes do not match, or a class index is not below C.
    """
    check_labels(logits, labels)
    classes = torch.as_tensor(classes, device=logits.device)
    if classes.ndim != 1 or not len(classes) or classes.min() < 0 or classes.max() >= logits.shape[1]:
        raise ValueError(f"classes {classes.tolist()} must be one or more of 0 … {logits.shape[1] - 1}")
    truth = labels[:, None] == classes[:, None, None]  # (N, K, H, W)
    probabilities = logits.float().softmax(dim=1)[:, classes]
    intersection = (probabilities * truth).sum(dim=(2, 3))
    union = probabilities.sum(dim=(2, 3)) + truth.sum(dim=(2, 3)) - intersection
    return (intersection + smooth) / (union + smooth)


def iou_loss(logits, labels, *, classes, smooth=1e-6):
    """Negative soft intersection over union of each image, averaged over `classes`.

    Args:
        logits: (N, C, H, W), before softmax.
        labels: (N, H, W) int64, 0 … C−1.
        classes: the class indices that count: all of them in training, the structures in an attack.
        smooth: added to intersection and union [pixels]; a class absent from both scores 1.

    Returns:
        (N,), each in [−1, 0].

    Raises:
        ValueError: the shapes do not match, or a class index is not below C.

    Source: paper, sections 2.4 and 3 (the loss J). Differs: per image, so that a batch does not couple its images.
    """
    return -soft_iou(logits, labels, classes=classes, smooth=smooth).mean(dim=1)


def check_labels(logits, labels):
    """Raise a ValueError unless labels (N, H, W) are int64, match logits (N, C, H, W) and hold classes below C only."""
    expected = (logits.shape[0], *logits.shape[2:])
    if labels.shape != expected:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, the logits ask for {expected}")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype}; convert them with labels.long()")
    if labels.numel() and (labels.min() < 0 or labels.max() >= logits.shape[1]):
        raise ValueError(
            f"labels hold class {int(labels.max() if labels.max() >= logits.shape[1] else labels.min())}, "
            f"the network knows 0 … {logits.shape[1] - 1}"
        )
