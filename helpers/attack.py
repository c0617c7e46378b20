"""Fast gradient sign method and projected gradient descent (L∞) on any segmentation network and any loss."""

import copy
import inspect
import warnings
import zlib
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from helpers.loss import check_labels, cross_entropy, iou
from helpers.network import native_bf16

PRECISIONS = ("auto", "bf16", "fp32")
KEEP = ("last", "loss", "iou")


@dataclass(frozen=True)
class AttackResult:
    """What an attack made, and how it went.

    Attributes:
        adv_images: (N, C, H, W), within ε of the images and within the value range.
        loss: (steps + 1, N) loss of each image before each step and after the last; NaN once an image was stopped.
        iou: (steps + 1, N) mean IoU × 100 of `classes` between prediction and labels, likewise; None without `classes`.
        zero_gradients: (steps, N) share of the pixels whose gradient is zero [percent], likewise.
        taken: int64 (N,), the steps after which `adv_images` was kept.
        warnings: what speaks against trusting the result, one line each.
    """

    adv_images: torch.Tensor
    loss: torch.Tensor
    iou: torch.Tensor | None
    zero_gradients: torch.Tensor
    taken: torch.Tensor
    warnings: tuple = ()


def pgd(
    network, images, labels, *, loss, epsilon, targeted=False, steps=100, step_size=None, schedule=None, momentum=0.0,
    guide=None, warmup=0, random_start=False, restarts=1, keep="last", classes=None, stop_at=None, region=None,
    value_range=(-1.0, 1.0), precision="auto", batch_size=8, seed=0,
):  # fmt: skip
    """Projected gradient descent: signed gradient steps, clipped to ε and to the valid range after each.

    Untargeted, the loss between prediction and `labels` is raised; targeted, the loss to the target `labels` is
    lowered. The attack works on a frozen copy of the network in evaluation mode; the network handed in is not touched.
    An image's result does not depend on the others in its batch. No images give an empty result. Whatever speaks
    against trusting the result is warned of and kept in it.

    Args:
        network: module from images to logits (N, K, H, W).
        images: float32 (N, C, H, W) within `value_range`.
        labels: int64 (N, H, W): the truth, or the target if `targeted`.
        loss: function of (logits, labels) that returns (N,), lower where the prediction fits the labels better.
        epsilon: largest noise per pixel [units of the images]: a number, or (N,) one for each image.
        steps: number of gradient steps.
        step_size: [units of the images], a number or (N,); default epsilon / 20, the paper's.
        schedule: function of the share of the steps done, 0 … 1, that returns a factor of the step size; default 1.
        momentum: share of the last direction that is added to the gradient (each divided by its mean absolute value).
        guide: loss whose gradient is followed, while `loss` measures; default `loss`. One that takes `progress` is told
            the share of the steps done.
        warmup: steps over which the allowed noise grows from 0 to ε.
        random_start: start at `uniform_noise` of `seed` rather than at the image.
        restarts: attacks of each image, the second and later from a random start; the best by `keep` stays.
        keep: the iterate that is returned, of each image: "last", or the best by "loss" or by "iou" (of `classes`).
        classes: class indices whose IoU is recorded and decides; default none.
        stop_at: IoU × 100 at which an image is done and leaves the batch (untargeted: at or below it).
        region: bool (H, W) or (N, H, W), where noise is allowed; default everywhere.
        value_range: least and greatest valid pixel.
        precision: of the gradients: "bf16", "fp32", or "auto" for bf16 where the processor has it.
        batch_size: images at a time; it bounds the memory and changes no result.
        seed: of random starts, and of the random noise that the attack is compared with: as in `uniform_noise`.

    Returns:
        AttackResult; IoU and loss are those of the copy in its precision.

    Raises:
        ValueError: shapes, classes or ranges do not fit, or ε or steps are not sensible.

    Source: paper, equations 2 and 3, section 3 (100 steps of ε/20, no random start); Madry et al., arXiv:1706.06083;
    momentum: Dong et al., arXiv:1710.06081.
    """
    epsilon, region = _check(images, labels, epsilon, steps, region, value_range)
    if keep not in KEEP:
        raise ValueError(f"keep is {keep!r}; choose one of {', '.join(KEEP)}")
    if classes is None and (keep == "iou" or stop_at is not None):
        raise ValueError("classes is None; name the classes whose IoU decides")
    if not 1 <= restarts == int(restarts):
        raise ValueError(f"restarts is {restarts}; give a whole number of 1 or more")
    if _told(loss, 0):
        raise ValueError("loss changes from step to step: hand it in as guide, and a loss that measures beside it")
    images, steps = images.detach(), int(steps)
    step_size = epsilon / 20 if step_size is None else _per_image("step_size", step_size, images)
    frozen = frozen_copy(network, precision=precision, example=images[:1])
    about = {"loss": loss, "guide": guide, "sign": -1 if targeted else 1, "steps": steps, "momentum": momentum,
             "schedule": schedule or (lambda done: 1.0), "warmup": warmup, "keep": keep, "classes": classes,
             "stop_at": stop_at, "value_range": value_range, "batch_size": batch_size}  # fmt: skip
    noise, limits = uniform_noise(images, epsilon=epsilon, seed=seed), epsilon[:, None, None, None] * region
    start = images + noise if random_start else images
    result, score = _in_parts(frozen, images, start, labels, limits, step_size, **about)
    for restart in range(1, int(restarts)):
        start = images + uniform_noise(
            images, epsilon=epsilon, seed=[(restart, key) for key in _keys(seed, len(images))]
        )
        again, scored = _in_parts(frozen, images, start, labels, limits, step_size, **about)
        result, score = _better(result, again, scored > score), torch.maximum(score, scored)
    found = _doubts(network, frozen, images, noise * region, labels, result, limits, **about)
    for text in found:
        warnings.warn(text, stacklevel=2)
    return replace(result, warnings=tuple(found))


def fgsm(network, images, labels, *, loss, epsilon, **options):
    """Fast gradient sign method: `pgd` with one step of ε.

    Args:
        network, images, labels, loss, epsilon, **options: see `pgd`.

    Returns:
        AttackResult.

    Source: paper, equation 1; Goodfellow et al., arXiv:1412.6572.
    """
    return pgd(network, images, labels, loss=loss, epsilon=epsilon, steps=1, step_size=epsilon, **options)


def fast_pgd(network, images, labels, *, loss, epsilon, targeted=False, steps=30, **options):
    """`pgd` that gets in 30 steps beyond where 100 steps of ε/20 end: long strides first, with momentum.

    The step size falls evenly from 0.7 ε to 0; momentum is 0.75. In the first 60 % of the steps the gradient is not
    that of `loss`, which is nearly flat where the network is sure: targeted, it is that of the cross-entropy,
    untargeted, that of `loss` of the logits divided by 4.

    Args:
        network, images, labels, loss, epsilon, targeted, steps, **options: see `pgd`.

    Returns:
        AttackResult.

    Source: ours; momentum: Dong et al., arXiv:1710.06081.
    """

    def guide(logits, labels, *, progress):
        if progress >= 0.6:
            return loss(logits, labels)
        return cross_entropy(logits, labels) if targeted else loss(logits / 4, labels)

    ours = {"guide": guide, "momentum": 0.75, "step_size": epsilon, "schedule": lambda done: 0.7 * (1 - done)}
    return pgd(network, images, labels, loss=loss, epsilon=epsilon, targeted=targeted, steps=steps, **ours | options)


def uniform_noise(images, *, epsilon, seed=0):
    """Noise drawn uniformly from ±ε: image i of a batch gets the same noise whatever ε is.

    Args:
        images: (N, C, H, W), for the shape.
        epsilon: a number or (N,) [units of the images].
        seed: a number, by which an image gets its noise by its place in the batch; or N keys, such as the cases' ids.

    Returns:
        float32 (N, C, H, W).
    """
    noise = torch.empty(images.shape)
    for row, generator in zip(noise, _generators(seed, len(images)), strict=True):
        row.uniform_(-1, 1, generator=generator)
    return noise.to(images) * _per_image("epsilon", epsilon, images)[:, None, None, None]


def shuffle_noise(images, adv_images, *, seed=0, value_range=(-1.0, 1.0)):
    """Adversarial images whose noise keeps its values but loses its places: a control for what the structure does.

    Args:
        images, adv_images: (N, C, H, W).
        seed: of the permutations, as in `uniform_noise`.
        value_range: the result is clipped to it.

    Returns:
        (N, C, H, W).
    """
    noise = (adv_images - images).flatten(1)
    shuffled = torch.empty_like(noise)
    for new, row, generator in zip(shuffled, noise, _generators(seed, len(images)), strict=True):
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


def _in_parts(frozen, *tensors, batch_size, **about):
    """The AttackResult and the score of each image, `batch_size` images at a time."""
    parts = [_ascend(frozen, *part, **about) for part in zip(*(t.split(batch_size) for t in tensors), strict=True)]
    adv_images, loss, reached, zeros, taken, score = zip(*parts, strict=True)
    reached = None if about["classes"] is None else torch.cat(reached, dim=1)
    loss, zeros = torch.cat(loss, dim=1), torch.cat(zeros, dim=1)
    return AttackResult(torch.cat(adv_images), loss, reached, zeros, torch.cat(taken)), torch.cat(score)


def _ascend(
    network, images, start, labels, limits, step_size, *, loss, guide, sign, steps, momentum, schedule, warmup, keep,
    classes, stop_at, value_range,
):  # fmt: skip
    n, dtype = len(images), next((p.dtype for p in network.parameters()), images.dtype)
    column = lambda: torch.full((steps + 1, n), torch.nan, device=images.device)  # noqa: E731
    losses, reached, zeros = column(), column(), column()[1:]
    kept, taken = images.clone(), torch.zeros(n, dtype=torch.int64, device=images.device)
    best = torch.full((n,), -torch.inf, device=images.device)
    left, adv_images, direction = torch.arange(n, device=images.device), start, torch.zeros_like(images)
    stride = sign * step_size[:, None, None, None]
    for index in range(steps + 1 if n else 0):
        allowed = limits * min(1, index / warmup) if warmup else limits
        adv_images = torch.minimum(torch.maximum(adv_images, images - allowed), images + allowed).clamp(*value_range)
        with torch.set_grad_enabled(index < steps):
            x = adv_images.detach().to(dtype, memory_format=torch.channels_last).requires_grad_(index < steps)
            logits = network(x)
            if index == 0:
                check_labels(logits, labels)
            value = loss(logits, labels)
            if index == 0:
                _check_loss(value, n)
            followed = value if guide is None else guide(logits, labels, **_told(guide, index / steps))
            total = followed.sum()
        losses[index, left] = score = value.detach()
        score, done = sign * score, torch.zeros(len(left), dtype=torch.bool, device=images.device)
        if classes is not None:
            overlap = iou(logits.detach().argmax(dim=1), labels, classes=classes).nanmean(dim=1)
            reached[index, left] = overlap
            score = -sign * overlap if keep == "iou" else score
            if stop_at is not None:
                done = overlap >= stop_at if sign < 0 else overlap <= stop_at
        score = torch.where(done, torch.inf, score)
        better = ~(score < best[left]) | (keep == "last")
        best[left] = torch.where(better, score, best[left])
        taken[left] = torch.where(better, index, taken[left])
        kept[left] = torch.where(better[:, None, None, None], adv_images, kept[left])
        if index == steps:
            break
        (gradient,) = torch.autograd.grad(total, x)
        zeros[index, left] = 100 * (gradient == 0).flatten(1).float().mean(dim=1)
        gradient = gradient.to(images.dtype)
        if momentum:
            gradient = gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
        direction = momentum * direction + gradient
        adv_images = adv_images + schedule(index / steps) * stride * direction.sign()
        if stop_at is not None and done.any():
            if done.all():
                break
            state = (images, labels, limits, stride, left, adv_images, direction)
            images, labels, limits, stride, left, adv_images, direction = (part[~done] for part in state)
    return kept, losses, reached, zeros, taken, best


def _told(loss, progress):
    """The keyword arguments of a loss beside logits and labels."""
    try:
        return {"progress": progress} if "progress" in inspect.signature(loss).parameters else {}
    except ValueError:  # some built-in functions have no signature
        return {}


def _check_loss(value, n):
    if value.shape != (n,):
        raise ValueError(f"loss has shape {tuple(value.shape)}; give one number per image ({n})")
    if not torch.isfinite(value).all():
        raise ValueError(f"loss is {value.tolist()}; the network or the loss fails on these images")


def _better(result, again, won):
    """Of each image, what the second attack made where it won, else what the first did."""
    pick = lambda first, second, shape: None if first is None else torch.where(won.view(shape), second, first)  # noqa: E731
    shapes = {"adv_images": (-1, 1, 1, 1), "loss": (1, -1), "iou": (1, -1), "zero_gradients": (1, -1), "taken": (-1,)}
    return AttackResult(**{name: pick(getattr(result, name), getattr(again, name), s) for name, s in shapes.items()})


@torch.no_grad()
def _doubts(network, frozen, images, noise, labels, result, limits, *, loss, sign, batch_size, value_range, **_):
    """What speaks against trusting a result. Source: the checks of AutoAttack (Croce and Hein, arXiv:2003.01690)."""
    if not len(images):
        return []
    dtype = next((p.dtype for p in frozen.parameters()), images.dtype)
    noisy = (images + noise).clamp(*value_range).to(dtype, memory_format=torch.channels_last)
    logits, again = frozen(noisy[:1]).float(), frozen(noisy[:1]).float()
    kept = result.loss.gather(0, result.taken[None])[0]
    free = (limits.flatten(1).amax(dim=1) > 0) & (result.taken > 0)  # noise is allowed, and was needed
    count = lambda which: f"{int(which.sum())} of {len(images)} images"  # noqa: E731
    doubts = [
        (any(module.training for module in network.modules()),
         "the network is in training mode: it was attacked as it is in evaluation mode"),
        (not torch.equal(logits, again), "the network answers the same image differently each time: average over that"),
        (logits.min() >= 0 and (logits.sum(dim=1) - 1).abs().max() < 1e-2,
         "the network seems to return probabilities: hand in one that returns logits"),
        ((which := (result.zero_gradients[0] == 100)).any(), f"{count(which)} have no gradient: the attack cannot see"),
    ]  # fmt: skip
    parts = zip(noisy.split(batch_size), labels.split(batch_size), strict=True)
    random = torch.cat([loss(frozen(x), y) for x, y in parts])
    doubts += [
        ((which := free & (sign * kept <= sign * result.loss[0])).any(),
         f"the loss of {count(which)} is no better than without attack: take more steps, or smaller ones"),
        ((which := free & (sign * kept < sign * random)).any(),
         f"on {count(which)} random noise of the same size does better: take more steps; gradients may be masked"),
    ]  # fmt: skip
    return [text for found, text in doubts if found]


def _keys(seed, n):
    """What the random numbers of each of n images come from."""
    keys = [(seed, place) for place in range(n)] if isinstance(seed, int) else list(seed)
    if len(keys) != n:
        raise ValueError(f"seed has {len(keys)} keys; give a number or one key per image ({n})")
    return keys


def _generators(seed, n):
    return [torch.Generator().manual_seed(zlib.crc32(repr(key).encode())) for key in _keys(seed, n)]


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
