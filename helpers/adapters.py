"""Anybody's network, made ready for an attack: its fastest faithful copy."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from helpers.common.arguments import require
from helpers.network import find_precision


def frozen_copy(network: nn.Module, *, example: Tensor, precision: str = "auto") -> nn.Module:
    """Copy of a network for attacks: evaluation mode, no weight gradients.

    Args:
        network: any module from images to logits; it stays as it is.
        example: images (N, C, H, W); batch norms are folded into convolutions if the logits of
            these stay the same.
        precision: of weights and activations, as in `find_precision`.

    Returns:
        A module from `input_of` images to logits.

    Raises:
        ValueError: unknown precision, or the network does not return a tensor.
    """
    precision = find_precision(precision, example.device)
    frozen = copy.deepcopy(network).eval().requires_grad_(False).float()
    if len(example):
        frozen = _folded(frozen, example)
    if precision == "bf16":
        frozen = frozen.bfloat16()
    return frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def input_of(frozen: nn.Module, images: Tensor) -> Tensor:
    """Images in the type and memory format of a frozen copy."""
    types = (p.dtype for p in frozen.parameters() if p.is_floating_point())
    return images.to(next(types, images.dtype), memory_format=torch.channels_last)


def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    """Logits in float32 of a copy of x, since a network may change its input in place.

    A single small image, which torch rounds in another way in float32, gets a twin.
    """
    alone = len(x) == 1 and x.numel() <= 20480 and x.dtype == torch.float32
    twins = x.repeat(2, 1, 1, 1) if alone else x.clone()
    return network(twins)[: len(x)].float()


@torch.no_grad()
def _folded(network, example):
    """The network with batch norms folded, or as it is where that would change its logits."""
    before = network(example.clone())
    wanted = "hand in a network that returns logits (N, K, H, W)"
    require(torch.is_tensor(before), "type of the network's answer", type(before).__name__, wanted)
    folded = copy.deepcopy(network)
    try:
        for module in folded.modules():
            if type(module) is nn.Sequential:  # a subclass may use its parts in another order
                _fold_batch_norms(module)
        after = folded(example.clone())
    except Exception:  # these cannot be folded, or it uses them in some other way
        return network
    tolerance = 1e-4 * float(before.nan_to_num().abs().max())
    same = torch.allclose(before, after, rtol=1e-3, atol=tolerance)
    return folded if same else network


def _fold_batch_norms(sequence):
    for index, (first, second) in enumerate(pairwise(sequence)):
        transposed = type(first) is nn.ConvTranspose2d
        if type(second) is nn.BatchNorm2d and (transposed or type(first) is nn.Conv2d):
            sequence[index] = fuse_conv_bn_eval(first, second, transposed)
            sequence[index + 1] = nn.Identity()
