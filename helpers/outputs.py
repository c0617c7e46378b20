"""What a segmentation network returns, whatever its form, as logits and as label maps."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from helpers.common.arguments import require
from helpers.loss import with_background

KEYS = ("out", "logits")
ACTIVATIONS = ("softmax", "sigmoid")


def logits_of(network: Any, x: Tensor) -> Tensor:
    """Logits in float32 of a copy of x, since a network may change its input in place.

    A single small image, which torch rounds in another way in float32, gets a twin.

    Args:
        network: any callable from images to an answer that `to_logits` knows.
        x: images (N, C, H, W).
    """
    alone = len(x) == 1 and x.numel() <= 20480 and x.dtype == torch.float32
    twins = x.repeat(2, 1, 1, 1) if alone else x.clone()
    return to_logits(network(twins), twins.shape, network)[: len(x)]


def label_maps(logits: Tensor) -> Tensor:
    """The class of the largest logit, int64 (N, H, W); of one channel, class 1 above 0."""
    return with_background(logits).argmax(dim=1)


def to_logits(answer: Any, shape: Sequence[int], network: Any) -> Tensor:
    """What a network returned for images, as logits.

    Taken are a tensor; `out` or `logits` of a dict or an object; the first of a list or tuple. A
    smaller map, such as a quarter of the images' size, is interpolated bilinearly.

    One channel is a sigmoid's: the structure, against a background of 0. Several are a softmax's,
    unless the attribute `activation` of the network is "sigmoid", or its `structures` (names) are
    as many as the channels: then a background of 0 is put in front. Of an image for which a sigmoid
    network returns numbers from 0 to 1 alone, they are probabilities, and turned back into logits.

    Args:
        answer: what the network returned.
        shape: of the images, (N, C, H, W).
        network: it may have the attributes `activation` and `structures`.

    Returns:
        float32 (N, K, H, W); K = 1 for one structure against background.

    Raises:
        ValueError: the answer cannot be turned into logits; the message names it.
    """
    logits = _tensor(answer)
    if logits.ndim == 3:  # one channel, without its axis
        logits = logits[:, None]
    fits = logits.ndim == 4 and len(logits) == shape[0] and logits.is_floating_point()
    found = f"{logits.dtype} {tuple(logits.shape)}"
    require(fits, "the network's answer", found, f"it must return logits ({shape[0]}, K, H, W)")
    return _resized(_with_activation(logits.float(), network), shape[2:])


def _tensor(answer):
    """The tensor in an answer."""
    if torch.is_tensor(answer):
        return answer
    for key in KEYS:
        if isinstance(answer, Mapping) and key in answer:
            return _tensor(answer[key])
        if hasattr(answer, key):
            return _tensor(getattr(answer, key))
    if isinstance(answer, list | tuple) and answer:
        return _tensor(answer[0])
    found = type(answer).__name__
    if isinstance(answer, Mapping):
        found = f"{found} of {', '.join(map(str, answer))}"
    wanted = "hand in a network that returns logits (N, K, H, W), alone, first, or called out"
    raise ValueError(f"the network's answer is {found!r}; {wanted}")


def _with_activation(logits, network):
    channels = logits.shape[1]
    activation = _activation(network, channels)
    if activation == "softmax":
        return logits
    likely = (logits >= 0) & (logits <= 1)
    likely = likely.flatten(1).all(dim=1)[:, None, None, None]
    logits = torch.where(likely, logits.logit(eps=1e-6), logits)
    return logits if channels == 1 else torch.cat([torch.zeros_like(logits[:, :1]), logits], 1)


def _activation(network, channels):
    said = getattr(network, "activation", None)  # of other networks a module, or something else
    if said in ACTIVATIONS:
        return said
    named = len(class_names(getattr(network, "structures", None)) or ()) == channels
    return "sigmoid" if named or channels == 1 else "softmax"


def class_names(structures: Any) -> list | None:
    """Names of a network's classes after the background, from its `structures`.

    None where these are no list: of other networks, they may be a module or something else.

    Raises:
        ValueError: the background is among them, and not the first.
    """
    if not isinstance(structures, list | tuple):
        return None
    names = [*structures]
    if names and str(names[0]).lower() == "background":
        names = names[1:]
    is_class = "background" not in [str(name).lower() for name in names]
    require(is_class, "structures", [*structures], "the background comes first, or is left out")
    return names


def _resized(logits, size):
    """Logits of the images' size; a smaller map must be a whole fraction of it."""
    if logits.shape[2:] == size:
        return logits
    fractions = [[math.ceil(side / k) for side in size] for k in range(2, 65)]
    whole = list(logits.shape[2:]) in fractions
    wanted = f"for images of {tuple(size)} it must return these, or a half, a third, … of them"
    require(whole, "size of the network's answer", tuple(logits.shape[2:]), wanted)
    return interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
