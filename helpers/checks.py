"""What speaks against trusting the result of an attack."""

import torch
from torch import Tensor

from helpers.adapters import Frozen
from helpers.recorder import Batch, Recorder


@torch.no_grad()
def find_warnings(
    frozen: Frozen,
    recorder: Recorder,
    batch: Batch,
    noisy: Tensor,
    clean: Tensor | None,
) -> dict[str, Tensor]:
    """What speaks against trusting the result of an attack.

    Args:
        frozen: the copy of the network that was attacked.
        recorder: of the attack.
        batch: all the images.
        noisy: (N, C, H, W), the images with random noise of the same size.
        clean: (N,), loss of the images without attack; None if it is not known yet.

    Returns:
        A dict from a sentence to bool (N,), which images it is about.

    Source: the checks of AutoAttack (Croce and Hein, arXiv:2003.01690).
    """
    if not len(noisy):
        return {}
    options = recorder.options
    size = options.batch_size

    def losses(images):
        parts = zip(images.split(size), batch.labels.split(size), strict=True)
        return torch.cat([options.loss(frozen(x), y).float() for x, y in parts])

    if clean is None:
        clean = losses(batch.images)
    found = _of_network(frozen, noisy[:1], frozen(noisy[:size])) | _of_images(batch)
    found |= _of_result(batch, recorder, clean, losses(noisy))
    everyone = torch.ones_like(recorder.failed)
    return {
        text: everyone & which
        for text, which in found.items()
        if torch.as_tensor(which, device=everyone.device).any()
    }


def _of_network(frozen, image, logits):
    """Findings about the network, from its answers to an image and to the batch it is first of."""
    alone = frozen(image)
    repeatable = torch.equal(alone, logits[:1]) or torch.equal(alone, frozen(image))
    tolerance = 0.01 * float(logits.nan_to_num().abs().max())
    similar = torch.allclose(alone, logits[:1], rtol=0.1, atol=tolerance)
    several = logits.shape[1] > 1  # those of one channel are turned back into logits
    return {
        "the network is in training mode: it was attacked as it is in evaluation mode": (
            frozen.in_training
        ),
        "the network answers the same image differently each time: average over that": (
            not repeatable
        ),
        "the network's answer to an image depends on its batch: attack one image at a time": (
            repeatable and not similar
        ),
        "the network seems to return probabilities: hand in one that returns logits": (
            several and 0 <= logits.min() and logits.max() <= 1
        ),
    }


def _of_images(batch):
    """Findings about the images, from where noise may take them."""
    shifted = (batch.images >= 0).all() and (batch.lowest < 0).any()
    return {"no image is below 0, but noise may be: is value_range (0, 1)?": shifted}


def _of_result(batch, recorder, clean, random):
    """Findings about each image, from its loss without attack and with random noise."""
    sign = recorder.options.sign
    reached = sign * recorder.loss.gather(0, recorder.taken[None])[0]
    spared = (recorder.taken == 0) & (recorder.score == torch.inf)  # done before the first step
    attacked = (batch.limits > 0).flatten(1).any(dim=1) & ~spared
    return {
        "the loss is not a number at some steps: these steps do not count": recorder.failed,
        "no gradient: the attack cannot see": attacked & recorder.blind,
        "the loss is no better than without attack: take more steps, or smaller ones": (
            attacked & (reached <= sign * clean)
        ),
        "random noise of the same size does better: take more steps; gradients may be masked": (
            attacked & (reached < sign * random)
        ),
    }
