"""Anybody's network, made ready for an attack: its fastest faithful copy."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from helpers.network import find_precision


def frozen_copy(
    network: nn.Module, *, precision: str = "auto", example: Tensor | None = None
) -> nn.Module:
    """Copy of a network for attacks: evaluation mode, no weight gradients.

    Args:
        network: any module from images to logits; it stays as it is.
        precision: of weights and activations, as in `find_precision`.
        example: images (N, C, H, W); batch norms are folded into convolutions if the logits of
            these stay the same.

    Returns:
        A module from `input_of` images to logits.

    Raises:
        ValueError: unknown precision, or the network does not return a tensor.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    precision = find_precision(precision, device)
    frozen = copy.deepcopy(network).eval().requires_grad_(False).float()
    if example is not None and len(example):
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
    if not torch.is_tensor(before):
        found = type(before).__name__
        raise ValueError(
            f"the network returns a {found}; hand in one that returns logits (N, K, H, W)"
        )
    folded = copy.deepcopy(network)
    for module in list(folded.modules()):
        if type(module) is nn.Sequential:  # a subclass may use its parts in another order
            _fold_batch_norms(module)
    try:
        after = folded(example.clone())
    except Exception:  # it uses its batch norms in some other way
        return network
    tolerance = 1e-4 * float(before.nan_to_num().abs().max())
    same = torch.allclose(before, after, rtol=1e-3, atol=tolerance)
    return folded if same else network


def _fold_batch_norms(sequence):
    for index in range(len(sequence) - 1):
        first, second = sequence[index], sequence[index + 1]
        transposed = type(first) is nn.ConvTranspose2d
        plain = type(first) is nn.Conv2d or (transposed and first.groups == 1)
        plain = plain and not first._forward_pre_hooks
        if plain and type(second) is nn.BatchNorm2d and second.running_mean is not None:
            sequence[index] = fuse_conv_bn_eval(first, second, transpose=transposed)
            sequence[index + 1] = nn.Identity()
