"""Intersection over union, soft and hard, the loss made of it, and the other losses that attacks are made with.

A loss takes logits (N, C, H, W) and labels int64 (N, H, W) and returns (N,): lower where the prediction fits the labels
better. An untargeted attack raises its loss to the truth, a targeted one lowers its loss to the target. The weighted
losses (SegPGD, CosPGD) guide an attack but do not measure it, since their weights follow the prediction.
"""

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
    classes = check_classes(classes, logits.shape[1])
    consecutive = bool((classes.diff() == 1).all())  # a slice needs no copy
    of_classes = slice(int(classes[0]), int(classes[-1]) + 1) if consecutive else classes
    truth = (labels[:, None] == classes.to(labels.device)[:, None, None]).float()  # (N, K, H, W)
    probabilities = logits.float().softmax(dim=1)[:, of_classes]
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


def cross_entropy(logits, labels):
    """Cross-entropy of each image, mean of its pixels.

    Args:
        logits: (N, C, H, W), before softmax.
        labels: (N, H, W) int64, 0 … C−1.

    Returns:
        (N,), each ≥ 0.

    Source: Goodfellow et al., arXiv:1412.6572; per pixel for dense prediction: Xie et al., arXiv:1703.08603.
    """
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none").mean(
        dim=(1, 2)
    )


def margin_loss(logits, labels):
    """Difference of logits ratio (DLR) of each image, mean of its pixels.

    The greatest other logit minus that of the label, over the distance of the greatest to the third greatest logit: it
    does not change if all logits are scaled. Of two classes it is the plain difference.

    Args:
        logits: (N, C, H, W) of two classes or more.
        labels: (N, H, W) int64, 0 … C−1.

    Returns:
        (N,); a pixel counts below 0 where it has its label, and above where not.

    Source: Croce and Hein, arXiv:2003.01690, equation 6. Differs: a targeted attack lowers the same ratio with its
    target as label, where theirs also needs the truth.
    """
    logits = logits.float()
    ordered = logits.topk(min(3, logits.shape[1]), dim=1).values
    scale = ordered[:, 0] - ordered[:, 2] + 1e-12 if logits.shape[1] > 2 else 1
    own = logits.gather(1, labels[:, None])[:, 0]
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return ((other - own) / scale).mean(dim=(1, 2))


def segpgd_loss(logits, labels, *, progress, targeted):
    """Cross-entropy in which pixels already won count less at first, and as much as the others at the end.

    Args:
        logits: (N, C, H, W), before softmax.
        labels: (N, H, W) int64, 0 … C−1.
        progress: share of the steps done, 0 … 1.
        targeted: whether a pixel is won when it has its label, or when it has not; `attack.pgd` tells its guide both.

    Returns:
        (N,), each ≥ 0.

    Source: Gu et al., arXiv:2207.12391, equation 4 and λ = (t − 1) / 2T. Differs: `targeted` is ours.
    """
    won = (logits.argmax(dim=1) == labels) == targeted
    weight = torch.where(won, progress / 2, 1 - progress / 2)
    return (
        weight * torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    ).mean(dim=(1, 2))


def cospgd_loss(logits, labels, *, targeted):
    """Cross-entropy weighted by how alike probabilities and labels are (1 minus that, if targeted): cosine similarity.

    Args:
        logits: (N, C, H, W), before softmax.
        labels: (N, H, W) int64, 0 … C−1.
        targeted: which of the two weights; `attack.pgd` tells it its guide.

    Returns:
        (N,), each ≥ 0.

    Source: Agnihotri et al., arXiv:2302.02213, section 3; no gradient flows through the weight.
    """
    probabilities = logits.detach().float().softmax(dim=1)
    alike = probabilities.gather(1, labels[:, None])[:, 0] / probabilities.norm(dim=1)
    weight = 1 - alike if targeted else alike
    return (
        weight * torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    ).mean(dim=(1, 2))


def check_classes(classes, count=None):
    """Class indices as an int64 tensor (K,); a ValueError unless they are one or more whole numbers 0 … count − 1."""
    try:
        found = torch.as_tensor([*classes])
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(0)
    whole = (
        found.ndim == 1
        and len(found)
        and not found.is_floating_point()
        and found.dtype != torch.bool
    )
    if not whole or found.min() < 0 or count is not None and found.max() >= count:
        wanted = "one or more class indices" if count is None else f"one or more of 0 … {count - 1}"
        raise ValueError(f"classes {classes!r} must be {wanted}")
    return found.long()


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
