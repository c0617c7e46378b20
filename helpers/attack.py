"""Fast gradient sign method and projected gradient descent (L∞) on any segmentation network and any loss."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from helpers.loss import check_labels
from helpers.network import native_bf16

PRECISIONS = ("auto", "bf16", "fp32")


@dataclass(frozen=True)
class AttackResult:
    """What an attack made.

    Attributes:
        adv_images: (N, C, H, W), within ε of the images and within the value range.
        loss: (steps, N) loss of each image before each step; the first row is that of the starting point.
    """

    adv_images: torch.Tensor
    loss: torch.Tensor


def pgd(
    network, images, labels, *, loss, epsilon, targeted=False, steps=100, step_size=None, random_start=False,
    region=None, value_range=(-1.0, 1.0), precision="auto", batch_size=8, seed=0,
):  # fmt: skip
    """Projected gradient descent: signed gradient steps, clipped to ε and to the valid range after each.

    Untargeted, the loss between prediction and `labels` is raised; targeted, the loss to the target `labels` is
    lowered. The attack works on a frozen copy of the network in evaluation mode; the network handed in is not touched.
    An image's result does not depend on the others in its batch. No images give an empty result.

    Args:
        network: module from images to logits (N, K, H, W).
        images: float32 (N, C, H, W) within `value_range`.
        labels: int64 (N, H, W): the truth, or the target if `targeted`.
        loss: function of (logits, labels) that returns (N,), lower where the prediction fits the labels better.
        epsilon: largest noise per pixel [units of the images]: a number, or (N,) one for each image.
        steps: number of gradient steps.
        step_size: [units of the images], a number or (N,); default epsilon / 20, the paper's.
        random_start: start at uniform noise of ±ε (drawn image by image from `seed`) rather than at the image.
        region: bool (H, W) or (N, H, W), where noise is allowed; default everywhere.
        value_range: least and greatest valid pixel.
        precision: of the gradients: "bf16", "fp32", or "auto" for bf16 where the processor has it.
        batch_size: images at a time.

    Returns:
        AttackResult.

    Raises:
        ValueError: shapes, classes or ranges do not fit, or ε or steps are not sensible.

    Source: paper, equations 2 and 3, section 3 (100 steps of ε/20, no random start); Madry et al., arXiv:1706.06083.
    """
    epsilon, region = _check(images, labels, epsilon, steps, region, value_range)
    images, steps = images.detach(), int(steps)
    step_size = epsilon / 20 if step_size is None else _per_image("step_size", step_size, images)
    frozen = frozen_copy(network, precision=precision, example=images[:1])
    start = images
    if random_start:
        start = images + uniform_noise(images, epsilon=epsilon, seed=seed)
    parts = [
        _ascend(frozen, *part, loss=loss, sign=-1 if targeted else 1, steps=steps, value_range=value_range)
        for part in zip(
            *(t.split(batch_size) for t in (images, start, labels, epsilon, step_size, region)), strict=True
        )
        if len(part[0])
    ]
    if not parts:
        return AttackResult(images.clone(), torch.empty(steps, 0))
    return AttackResult(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts], dim=1))


def fgsm(network, images, labels, *, loss, epsilon, **options):
    """Fast gradient sign method: `pgd` with one step of ε.

    Args:
        network, images, labels, loss, epsilon, **options: see `pgd`.

    Returns:
        AttackResult.

    Source: paper, equation 1; Goodfellow et al., arXiv:1412.6572.
    """
    return pgd(network, images, labels, loss=loss, epsilon=epsilon, steps=1, step_size=epsilon, **options)


def uniform_noise(images, *, epsilon, seed=0):
    """Noise drawn uniformly from ±ε: image i of a batch gets the same noise whatever ε is.

    Args:
        images: (N, C, H, W), for the shape.
        epsilon: a number or (N,) [units of the images].
        seed: seed of the noise.

    Returns:
        float32 (N, C, H, W).
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(images.shape, generator=generator).to(images) * 2 - 1
    return noise * _per_image("epsilon", epsilon, images)[:, None, None, None]


def shuffle_noise(images, adv_images, *, seed=0, value_range=(-1.0, 1.0)):
    """Adversarial images whose noise keeps its values but loses its places: a control for what the structure does.

    Args:
        images, adv_images: (N, C, H, W).
        seed: seed of the permutation, another one for each image.
        value_range: the result is clipped to it.

    Returns:
        (N, C, H, W).
    """
    generator = torch.Generator().manual_seed(seed)
    noise = (adv_images - images).flatten(1)
    shuffled = torch.empty_like(noise)
    for new, row in zip(shuffled, noise, strict=True):
        new.copy_(row[torch.randperm(len(row), generator=generator).to(row.device)])
    return (images + shuffled.view_as(images)).clamp(*value_range)


def round_to_bits(images, bits, *, value_range=(-1.0, 1.0)):
    """Images as a file of so many bits per pixel would keep them.

    Args:
        images: (N, C, H, W) within `value_range`.
        bits: 1 or more; JSRT has 12, a PNG for the screen 8.
        value_range: least and greatest valid pixel.

    Returns:
        (N, C, H, W), at most half a grey level off.
    """
    low, high = value_range
    level = (high - low) / (2**bits - 1)
    return ((images - low) / level).round() * level + low


def frozen_copy(network, *, precision="auto", example=None):
    """Copy of a network for attacks: evaluation mode, no weight gradients.

    Args:
        network: any module; it stays as it is.
        precision: "bf16" (weights and activations), "fp32", or "auto" for bf16 where the processor has it.
        example: images (N, C, H, W); batch norms are folded into convolutions if the logits of these stay the same.

    Returns:
        A module from float images to logits.

    Raises:
        ValueError: unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    frozen = copy.deepcopy(network).eval().requires_grad_(False)
    if example is not None and len(example):
        frozen = _folded(frozen, example)
    device = next((p.device for p in frozen.parameters()), torch.device("cpu"))
    if precision == "bf16" or precision == "auto" and native_bf16(device):
        frozen = frozen.to(torch.bfloat16)
    return frozen.to(memory_format=torch.channels_last)


@torch.no_grad()
def _folded(network, example):
    folded = copy.deepcopy(network)
    for module in list(folded.modules()):
        if isinstance(module, nn.Sequential):
            _fold_batch_norms(module)
    before, after = network(example), folded(example)
    same = torch.allclose(before, after, rtol=1e-3, atol=1e-4 * float(before.abs().max()))
    return folded if same else network


def _fold_batch_norms(sequence):
    for index in range(len(sequence) - 1):
        first, second = sequence[index], sequence[index + 1]
        if isinstance(first, nn.Conv2d | nn.ConvTranspose2d) and isinstance(second, nn.BatchNorm2d):
            if second.running_mean is None or isinstance(first, nn.ConvTranspose2d) and first.groups > 1:
                continue
            sequence[index] = fuse_conv_bn_eval(first, second, transpose=isinstance(first, nn.ConvTranspose2d))
            sequence[index + 1] = nn.Identity()


def _ascend(network, images, start, labels, epsilon, step_size, region, *, loss, sign, steps, value_range):
    dtype = next((p.dtype for p in network.parameters()), images.dtype)
    low = (images - epsilon[:, None, None, None] * region).clamp(min=value_range[0])
    high = (images + epsilon[:, None, None, None] * region).clamp(max=value_range[1])
    adv_images = torch.minimum(torch.maximum(start, low), high)
    step, losses = sign * step_size[:, None, None, None], []
    for index in range(steps):
        with torch.enable_grad():
            x = adv_images.detach().to(dtype, memory_format=torch.channels_last).requires_grad_()
            logits = network(x)
            if index == 0:
                check_labels(logits, labels)
            value = loss(logits, labels)
            if value.shape != (len(images),):
                raise ValueError(f"loss has shape {tuple(value.shape)}; give one number per image ({len(images)})")
            if index == 0 and not torch.isfinite(value).all():
                raise ValueError(f"loss is {value.tolist()}; the network or the loss fails on these images")
            (gradient,) = torch.autograd.grad(value.sum(), x)
        losses.append(value.detach())
        moved = adv_images + step * gradient.to(images.dtype).sign()
        adv_images = torch.minimum(torch.maximum(moved, low), high)
    return adv_images, torch.stack(losses)


def _per_image(name, value, images):
    value = torch.as_tensor(value, dtype=images.dtype, device=images.device)
    if value.ndim > 1 or value.ndim == 1 and len(value) != len(images):
        raise ValueError(f"{name} has shape {tuple(value.shape)}; give a number or one per image ({len(images)})")
    if not torch.isfinite(value).all() or (value < 0).any():
        raise ValueError(f"{name} is {value.tolist()}; it must be 0 or more, in the units of the images")
    return value.expand(len(images))


def _check(images, labels, epsilon, steps, region, value_range):
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; give floating point (N, C, H, W)")
    low, high = value_range
    if images.numel() and not (images.min() >= low and images.max() <= high):  # also for NaN
        raise ValueError(f"images reach {images.min():.3g} … {images.max():.3g}; the valid range is {low} … {high}")
    if labels.shape != (len(images), *images.shape[2:]) or labels.dtype != torch.int64:
        raise ValueError(
            f"labels are {labels.dtype} {tuple(labels.shape)}; give int64 {(len(images), *images.shape[2:])}"
        )
    if not 1 <= steps < float("inf") or int(steps) != steps:
        raise ValueError(f"steps is {steps}; give a whole number of 1 or more")
    if region is None:
        region = torch.ones(images.shape[2:], dtype=torch.bool)
    if region.dtype != torch.bool or region.shape not in (images.shape[2:], labels.shape):
        raise ValueError(f"region is {region.dtype} {tuple(region.shape)}; give bool {tuple(labels.shape)} or (H, W)")
    region = region.to(images.device).expand(labels.shape)[:, None]
    return _per_image("epsilon", epsilon, images), region
