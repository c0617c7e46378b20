"""What speaks against trusting the result of an attack."""

import torch
from torch import nn

from helpers.adapters import logits_of


@torch.no_grad()
def _doubts(
    network,
    frozen,
    images,
    noise,
    labels,
    result,
    limits,
    clean,
    *,
    loss,
    targeted,
    steps,
    stop_at,
    value_range,
    batch_size,
    **_,
):
    """What speaks against trusting a result: a dict from a sentence to the images that it is about.

    Source: the checks of AutoAttack (Croce and Hein, arXiv:2003.01690).
    """
    if not len(images):
        return {}
    sign, dtype = -1 if targeted else 1, next((p.dtype for p in frozen.parameters()), images.dtype)
    answer = lambda images: logits_of(frozen, images.to(dtype, memory_format=torch.channels_last))  # noqa: E731

    def losses_of(images, labels):
        parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        return [loss(answer(x), y).float() for x, y in parts if len(x)]

    noisy, kept = (images + noise).clamp(*value_range), result.loss.gather(0, result.taken[None])[0]
    logits, alone = answer(noisy[:batch_size]), answer(noisy[:1])
    same = torch.equal(alone, logits[:1])
    repeats = same or torch.equal(alone, answer(noisy[:1]))
    overlap = kept if result.iou is None else result.iou.gather(0, result.taken[None])[0]
    stopped = _reached(overlap, stop_at, targeted)
    free = (limits.flatten(1).amax(dim=1) > 0) & ~(stopped & (result.taken == 0))  # to be attacked
    before = torch.arange(steps + 1, device=images.device)[:, None] <= torch.where(
        stopped, result.taken, steps
    )
    clean = torch.cat(losses_of(images, labels)) if clean is None else clean
    random = torch.cat(
        [
            loss(logits, labels[:batch_size]).float(),
            *losses_of(noisy[batch_size:], labels[batch_size:]),
        ]
    )
    sensitive = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    doubts = {
        "the network is in training mode: it was attacked as it is in evaluation mode": any(
            module.training and isinstance(module, sensitive) for module in network.modules()
        ),
        "the network answers the same image differently each time: average over that": not repeats,
        "the network's answer to an image depends on its batch: attack one image at a time": repeats
        and not torch.allclose(alone, logits[:1], rtol=0.1, atol=0.01 * float(logits.abs().max())),
        "the network seems to return probabilities: hand in one that returns logits": bool(
            logits.min() >= 0 and (logits.sum(dim=1) - 1).abs().max() < 1e-2
        ),
        "the loss is not a number at some steps: these steps do not count": (
            ~result.loss.isfinite() & before
        ).any(dim=0),
        "no gradient: the attack cannot see": free & (result.zero_gradients[0] == 100),
        "the loss is no better than without attack: take more steps, or smaller ones": free
        & (sign * kept <= sign * clean),
        "random noise of the same size does better: take more steps; gradients may be masked": free
        & (sign * kept < sign * random),
    }
    everyone = torch.ones(len(images), dtype=torch.bool, device=images.device)
    doubts = {text: everyone & found for text, found in doubts.items()}
    return {text: which for text, which in doubts.items() if which.any()}


def _reached(overlap, stop_at, targeted):
    """Whether an image is done: nothing to find counts as found."""
    if stop_at is None:
        return torch.zeros_like(overlap, dtype=torch.bool)
    overlap = overlap.nan_to_num(100)
    return overlap >= stop_at if targeted else overlap <= stop_at
