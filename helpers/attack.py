"""Fast gradient sign method and projected gradient descent (L∞) on any segmentation network and any loss."""

import inspect
import math
import warnings
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from helpers.adapters import frozen_copy, logits_of
from helpers.checks import _doubts, _reached
from helpers.evaluation import iou
from helpers.loss import check_classes, check_labels, cross_entropy
from helpers.noise import _keys, _per_image, _whole, uniform_noise

VERSION = 1  # of attacks, losses, targets and regions; raise it with a change that alters what a cell comes to
KEEP = ("last", "loss", "iou")


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack made, and how it went. Histories are of the attempt that won, NaN once an image was stopped.

    Attributes:
        adv_images: (N, C, H, W), within ε of the images and within the value range.
        loss: (steps + 1, N) loss of each image at the start, and after each step.
        iou: (steps + 1, N) mean IoU × 100 of `classes` between prediction and labels, likewise, NaN where neither has
            any of them; None without `classes`.
        zero_gradients: (steps, N) share of the values in the region whose gradient is zero [percent].
        taken: int64 (N,), the steps after which `adv_images` was kept.
        doubts: what speaks against trusting the result, a dict from a sentence to bool (N,): which images it is about.
    """

    adv_images: torch.Tensor
    loss: torch.Tensor
    iou: torch.Tensor | None
    zero_gradients: torch.Tensor
    taken: torch.Tensor
    doubts: dict = field(default_factory=dict)

    @property
    def warnings(self):
        """The doubts, a line each, with the number of images where it is not all: a tuple."""
        count = lambda which: "" if which.all() else f"{int(which.sum())} of {len(which)} images: "  # noqa: E731
        return tuple(f"{count(which)}{text}" for text, which in self.doubts.items())


def pgd(
    network,
    images,
    labels,
    *,
    loss,
    epsilon,
    targeted=False,
    steps=100,
    step_size=None,
    schedule=None,
    momentum=0.0,
    guide=None,
    warmup=0,
    random_start=False,
    restarts=1,
    keep="last",
    classes=None,
    stop_at=None,
    region=None,
    value_range=(-1.0, 1.0),
    precision="auto",
    batch_size=8,
    seed=0,
    observe=None,
):
    """Projected gradient descent: signed gradient steps, clipped to ε and to the valid range after each.

    Untargeted, the loss between prediction and `labels` is raised; targeted, the loss to the target `labels` is
    lowered. The attack works on a frozen copy of the network in evaluation mode; the network handed in is not touched.
    An image's result does not depend on the others in its batch (unless the network couples them). No images give an
    empty result. Whatever speaks against trusting the result is warned of and kept in it.

    Args:
        network: module from images to logits (N, K, H, W).
        images: float32 (N, C, H, W) within `value_range`.
        labels: int64 (N, H, W): the truth, or the target if `targeted`.
        loss: function of (logits, labels) that returns (N,), lower where the prediction fits the labels better.
        epsilon: largest noise per pixel [units of the images]: a number, or (N,) one for each image.
        steps: number of gradient steps.
        step_size: [units of the images], a number or (N,); default epsilon / 20, the paper's.
        schedule: function of the share of the steps done, 0 … below 1, that returns a factor of the step size.
        momentum: share of the last direction that is added to the gradient (each divided by its mean absolute value).
        guide: loss whose gradient is followed, while `loss` measures; default `loss`. If it has parameters without a
            default called `progress` and `targeted`, it is told the share of the steps done and the goal.
        warmup: steps over which the allowed noise grows to ε.
        random_start: start at `uniform_noise` of `seed` rather than at the image.
        restarts: attempts at each image, the second and later from a random start. The best by `keep` wins (by loss, if
            that is "last"); an image that was stopped needs no other.
        keep: the iterate that is returned, of each image: "last", or the best by "loss" or by "iou" (of `classes`).
        classes: class indices whose IoU is recorded and decides; default none.
        stop_at: IoU × 100 at which an image is done and leaves the batch, kept as it is (untargeted: at or below it).
            Classes that are neither in prediction nor labels count 100.
        region: bool (H, W) or (N, H, W), where noise is allowed; default everywhere.
        value_range: least and greatest valid pixel.
        precision: of the gradients: "bf16", "fp32", or "auto" for bf16 where the device multiplies it in hardware.
        batch_size: images at a time; it bounds the memory and changes no result.
        seed: of random starts, and of the random noise that the attack is compared with: as in `uniform_noise`.
        observe: function of (step, adv_images, logits) of the images in the batch, called at the start and after each
            step: to follow an attack, or to end it with an exception.

    Returns:
        AttackResult; IoU and loss are those of the copy in its precision.

    Raises:
        ValueError: shapes, classes or ranges do not fit, an option is not sensible, or no gradient reaches the images.

    Source: paper, equations 2 and 3, section 3 (100 steps of ε/20, no random start); Madry et al., arXiv:1706.06083;
    momentum: Dong et al., arXiv:1710.06081.
    """
    epsilon, region = _check(images, labels, epsilon, region, value_range)
    _check_options(loss, guide, schedule, momentum, keep, classes, stop_at)
    steps, restarts, batch_size = (
        _whole("steps", steps),
        _whole("restarts", restarts),
        _whole("batch_size", batch_size),
    )
    warmup = _whole("warmup", warmup, least=0, most=steps)
    images = images.detach()
    step_size = epsilon / 20 if step_size is None else _per_image("step_size", step_size, images)
    frozen = frozen_copy(network, precision=precision, example=images[:1])
    about = {
        "loss": loss,
        "guide": guide,
        "targeted": targeted,
        "steps": steps,
        "momentum": momentum,
        "keep": keep,
        "schedule": schedule or (lambda done: 1.0),
        "warmup": warmup,
        "classes": classes,
        "stop_at": stop_at,
        "value_range": value_range,
        "batch_size": batch_size,
        "observe": observe,
    }
    keys, limits = _keys(seed, len(images)), epsilon[:, None, None, None] * region
    start = images + uniform_noise(images, epsilon=epsilon, seed=keys) if random_start else images
    result, score = _in_parts(frozen, images, start, labels, limits, step_size, **about)
    if not result.loss[0].isfinite().all():
        raise ValueError(
            f"loss is {result.loss[0].tolist()}; the network or the loss fails on these images"
        )
    for restart in range(1, restarts):
        todo = score < torch.inf
        if todo.any():
            start = images + uniform_noise(
                images, epsilon=epsilon, seed=[(restart, key) for key in keys]
            )
            tensors = (part[todo] for part in (images, start, labels, limits, step_size))
            again, scored = _in_parts(frozen, *tensors, **about)
            result, score = _better(result, score, again, scored, todo)
    noise = uniform_noise(images, epsilon=1.0, seed=[("control", key) for key in keys]) * limits
    clean = None if random_start or restarts > 1 else result.loss[0]
    found = _doubts(network, frozen, images, noise, labels, result, limits, clean, **about)
    result = replace(result, doubts=found)
    for text in result.warnings:
        warnings.warn(text, stacklevel=2)
    return result


def fgsm(network, images, labels, *, loss, epsilon, **options):
    """Fast gradient sign method: `pgd` with one step of ε.

    Args:
        network, images, labels, loss, epsilon, **options: see `pgd`; not steps and step_size.

    Returns:
        AttackResult.

    Source: paper, equation 1; Goodfellow et al., arXiv:1412.6572.
    """
    return pgd(
        network, images, labels, loss=loss, epsilon=epsilon, steps=1, step_size=epsilon, **options
    )


def fast_pgd(network, images, labels, *, loss, epsilon, targeted=False, steps=30, **options):
    """`pgd` that gets about as far in 30 steps as in 100 of ε/20: longer strides, momentum, another loss first.

    Targeted: steps of 0.15 ε, from 60 % of the steps on falling to 0; momentum 0.3; for 80 % of the steps the gradient
    is that of the cross-entropy. Untargeted: steps falling from 0.7 ε to 0; momentum 0.5; for 60 % of the steps the
    logits are divided by 4. For the gradient of `loss` is nearly flat where the network is sure; where it is not, plain
    `pgd` may do better.

    Args:
        network, images, labels, loss, epsilon, targeted, steps, **options: see `pgd`.

    Returns:
        AttackResult.

    Source: ours; momentum: Dong et al., arXiv:1710.06081.
    """
    first, momentum = (0.8, 0.3) if targeted else (0.6, 0.5)

    def guide(logits, labels, *, progress):
        if progress >= first:
            return loss(logits, labels)
        return cross_entropy(logits, labels) if targeted else loss(logits / 4, labels)

    def schedule(done):  # in ε / 20
        return 3 * min(1, (1 - done) / 0.4) if targeted else 14 * (1 - done)

    ours = {"guide": guide, "momentum": momentum, "schedule": schedule}
    return pgd(
        network,
        images,
        labels,
        loss=loss,
        epsilon=epsilon,
        targeted=targeted,
        steps=steps,
        **ours | options,
    )


def shortened(
    network,
    images,
    labels,
    result,
    adv_images,
    *,
    loss,
    epsilon,
    steps,
    targeted=False,
    region=None,
    precision="auto",
    batch_size=8,
    seed=0,
):
    """What `pgd` would have come to with fewer steps of the same size, from what a longer attack passed through.

    For plain attacks: from the image on, without schedule, momentum and `stop_at`, the last iterate kept.

    Args:
        network, images, labels, loss, epsilon, targeted, region, precision, batch_size, seed: of the longer attack.
        result: its AttackResult.
        adv_images: what its `observe` was handed after `steps` steps.
        steps: from 1 to those of the longer attack.

    Returns:
        AttackResult.
    """
    epsilon, region = _check(images, labels, epsilon, region, (-1.0, 1.0))
    steps = _whole("steps", steps, most=len(result.zero_gradients))
    frozen = frozen_copy(network, precision=precision, example=images[:1])
    limits = epsilon[:, None, None, None] * region
    noise = (
        uniform_noise(
            images, epsilon=1.0, seed=[("control", key) for key in _keys(seed, len(images))]
        )
        * limits
    )
    loss_so_far, zeros = result.loss[: steps + 1], result.zero_gradients[:steps]
    result = AttackResult(
        adv_images, loss_so_far, None, zeros, torch.full_like(result.taken, steps)
    )
    found = _doubts(
        network,
        frozen,
        images,
        noise,
        labels,
        result,
        limits,
        result.loss[0],
        loss=loss,
        targeted=targeted,
        steps=steps,
        stop_at=None,
        value_range=(-1.0, 1.0),
        batch_size=batch_size,
    )
    return replace(result, doubts=found)


def _in_parts(frozen, *tensors, batch_size, **about):
    """The AttackResult and the score of each image, `batch_size` images at a time."""
    parts = [
        _ascend(frozen, *part, **about)
        for part in zip(*(t.split(batch_size) for t in tensors), strict=True)
    ]
    adv_images, loss, reached, zeros, taken, score = zip(*parts, strict=True)
    reached = None if about["classes"] is None else torch.cat(reached, dim=1)
    loss, zeros = torch.cat(loss, dim=1), torch.cat(zeros, dim=1)
    return AttackResult(torch.cat(adv_images), loss, reached, zeros, torch.cat(taken)), torch.cat(
        score
    )


def _ascend(
    network,
    images,
    start,
    labels,
    limits,
    step_size,
    *,
    loss,
    guide,
    targeted,
    steps,
    momentum,
    keep,
    schedule,
    warmup,
    classes,
    stop_at,
    value_range,
    observe,
):
    n, dtype = len(images), next((p.dtype for p in network.parameters()), images.dtype)
    losses, overlaps = torch.full((2, steps + 1, n), torch.nan, device=images.device)
    zeros = torch.full((steps, n), torch.nan, device=images.device)
    kept, taken = images.clone(), torch.zeros(n, dtype=torch.int64, device=images.device)
    best = torch.full((n,), -torch.inf, device=images.device)
    left, adv_images, direction = (
        torch.arange(n, device=images.device),
        start,
        torch.zeros_like(images),
    )
    sign = -1 if targeted else 1
    for index in range(steps + 1 if n else 0):
        allowed = limits * (min(1, max(index, 1) / warmup) if warmup else 1)
        adv_images = torch.minimum(
            torch.maximum(adv_images, images - allowed), images + allowed
        ).clamp(*value_range)
        x = (
            adv_images.detach()
            .to(dtype, memory_format=torch.channels_last)
            .requires_grad_(index < steps)
        )
        with torch.set_grad_enabled(index < steps):
            logits = logits_of(network, x)
            if index == 0:
                check_labels(logits, labels)
                check_classes(classes if classes is not None else (0,), logits.shape[1])
            followed = value = loss(logits, labels)
            if guide and index < steps:
                followed = guide(
                    logits, labels, **_told(guide, progress=index / steps, targeted=targeted)
                )
            if index == 0:
                _check_losses(value, followed, n)
            total = followed.sum()
        if observe:
            observe(index, adv_images, logits.detach())
        value, done = (
            value.detach().float(),
            torch.zeros(len(left), dtype=torch.bool, device=images.device),
        )
        losses[index, left], score = value, sign * value
        if classes is not None:
            overlap = iou(logits.detach().argmax(dim=1), labels, classes=classes).nanmean(dim=1)
            overlaps[index, left] = overlap
            score = -sign * overlap.nan_to_num(100) if keep == "iou" else score
            done = _reached(overlap, stop_at, targeted) & value.isfinite()
        score = torch.where(value.isfinite(), torch.where(done, torch.inf, score), -torch.inf)
        better = (score >= best[left]) | (keep == "last")
        best[left] = torch.where(better, score, best[left])
        taken[left] = torch.where(better, index, taken[left])
        kept[left] = torch.where(better[:, None, None, None], adv_images, kept[left])
        if index == steps or stop_at is not None and done.all():
            break
        gradient = _gradient(total, x).to(images.dtype)
        zeros[index, left] = (
            100 * ((gradient == 0) & (limits > 0)).flatten(1).sum(dim=1) / _size(limits, gradient)
        )
        if momentum:
            gradient = gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
        direction = momentum * direction + gradient
        stride = sign * _factor(schedule, index / steps) * step_size[:, None, None, None]
        adv_images = adv_images + stride * direction.sign()
        if stop_at is not None and done.any():
            state = (images, labels, limits, step_size, left, adv_images, direction)
            images, labels, limits, step_size, left, adv_images, direction = (
                part[~done] for part in state
            )
    return kept, losses, overlaps, zeros, taken, best


def _gradient(total, x):
    """Gradient of the sum of losses; not a number counts as zero."""
    gradient = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    if gradient is None:
        raise ValueError(
            "no gradient reaches the images: the network or the loss is not differentiable"
        )
    return gradient.nan_to_num(0)


def _size(limits, gradient):
    """How many values of each image may change, at least 1."""
    return ((limits > 0).flatten(1).sum(dim=1) * gradient.shape[1]).clamp(min=1)


def _factor(schedule, done):
    factor = float(schedule(done))
    if not math.isfinite(factor):
        raise ValueError(
            f"schedule returns {factor} after {done:.0%} of the steps; it must return a finite factor"
        )
    return factor


def _told(function, **facts):
    """Those of the facts that a loss asks for: parameters of these names that have no default."""
    function = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # some built-in functions have no signature
        return {}
    asked = {
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
    }
    return {name: value for name, value in facts.items() if name in asked}


def _better(result, score, again, scored, todo):
    """The result with the second attempt at the images `todo` put in where it won, and the scores."""
    won = scored > score[todo]
    here, there, new = todo.nonzero()[won, 0], won.nonzero()[:, 0], {}
    for name, axis in {
        "adv_images": 0,
        "loss": 1,
        "iou": 1,
        "zero_gradients": 1,
        "taken": 0,
    }.items():
        if (old := getattr(result, name)) is not None:
            new[name] = old.index_copy(axis, here, getattr(again, name).index_select(axis, there))
    return replace(result, **new), score.index_copy(0, here, scored[won])


def _check_losses(value, followed, n):
    for name, found in (("loss", value), ("guide", followed)):
        if not torch.is_tensor(found) or found.shape != (n,):
            shape = tuple(found.shape) if torch.is_tensor(found) else type(found).__name__
            raise ValueError(f"{name} has shape {shape}; give one number per image ({n})")


def _check_options(loss, guide, schedule, momentum, keep, classes, stop_at):
    for name, value in (("loss", loss), ("guide", guide), ("schedule", schedule)):
        if not (callable(value) or value is None and name != "loss"):
            raise ValueError(f"{name} is {value!r}; give a function")
    if _told(loss, progress=0, targeted=False):
        raise ValueError(
            "loss changes with the step or the goal: hand it in as guide, and one that measures as loss"
        )
    if not (isinstance(momentum, int | float) and 0 <= momentum < math.inf):
        raise ValueError(f"momentum is {momentum!r}; give a number of 0 or more")
    if keep not in KEEP:
        raise ValueError(f"keep is {keep!r}; choose one of {', '.join(KEEP)}")
    if classes is None and (keep == "iou" or stop_at is not None):
        raise ValueError("classes is None; name the classes whose IoU decides")
    if stop_at is not None and not (isinstance(stop_at, int | float) and 0 <= stop_at <= 100):
        raise ValueError(f"stop_at is {stop_at!r}; give an IoU from 0 to 100")


def _check(images, labels, epsilon, region, value_range):
    if not torch.is_tensor(images) or images.ndim != 4 or images.dtype != torch.float32:
        found = (
            f"{images.dtype} {tuple(images.shape)}"
            if torch.is_tensor(images)
            else type(images).__name__
        )
        raise ValueError(f"images are {found}; give a torch.float32 tensor (N, C, H, W)")
    if len(value_range) != 2 or not value_range[0] < value_range[1]:
        raise ValueError(
            f"value_range is {value_range}; give the least and the greatest valid pixel"
        )
    low, high = value_range
    if images.numel() and not (images.min() >= low and images.max() <= high):  # also for NaN
        raise ValueError(
            f"images reach {images.min():.6g} … {images.max():.6g}; the valid range is {low} … {high}"
        )
    expected = (len(images), *images.shape[2:])
    if not torch.is_tensor(labels) or labels.shape != expected or labels.dtype != torch.int64:
        found = (
            f"{labels.dtype} {tuple(labels.shape)}"
            if torch.is_tensor(labels)
            else type(labels).__name__
        )
        raise ValueError(f"labels are {found}; give a torch.int64 tensor {expected}")
    if region is None:
        region = torch.ones(images.shape[2:], dtype=torch.bool)
    if (
        not torch.is_tensor(region)
        or region.dtype != torch.bool
        or region.shape not in (images.shape[2:], labels.shape)
    ):
        found = (
            f"{region.dtype} {tuple(region.shape)}"
            if torch.is_tensor(region)
            else type(region).__name__
        )
        raise ValueError(
            f"region is {found}; give a torch.bool tensor {tuple(labels.shape)} or (H, W)"
        )
    region = region.to(images.device).expand(labels.shape)[:, None]
    return _per_image("epsilon", epsilon, images), region
