"""Fast gradient sign method and projected gradient descent (L∞), for any network and any loss."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from helpers.adapters import frozen_copy, input_of, logits_of
from helpers.checks import find_warnings
from helpers.loss import Guide, Loss, cross_entropy
from helpers.noise import Seed, per_image, random_keys, require, uniform_noise, whole_number
from helpers.recorder import Batch, Objective, Recorder

VERSION = 1  # of attacks, losses, targets and regions: raise it with a change that alters results


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack made, and how it went.

    Histories are of the attempt that won, NaN once an image was stopped.

    Attributes:
        adv_images: (N, C, H, W), within ε of the images and within the value range.
        loss: (steps + 1, N) loss of each image at the start and after each step.
        iou: (steps + 1, N) mean IoU × 100 of `classes` between prediction and labels, likewise;
            NaN where neither has any of them. None without `classes`.
        zero_gradients: (steps, N) share of the values in the region without gradient [percent].
        taken: int64 (N,), the number of steps after which `adv_images` was kept.
        findings: what speaks against trusting the result: a dict from a sentence to bool (N,),
            which images it is about.
    """

    adv_images: Tensor
    loss: Tensor
    iou: Tensor | None
    zero_gradients: Tensor
    taken: Tensor
    findings: dict[str, Tensor] = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The findings, a line each, with the number of images where it is not all."""
        lines = []
        for text, which in self.findings.items():
            count = "" if which.all() else f"{int(which.sum())} of {len(which)} images: "
            lines.append(count + text)
        return tuple(lines)


def pgd(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    loss: Loss,
    epsilon: float | Tensor,
    targeted: bool = False,
    steps: int = 100,
    step_size: float | Tensor | None = None,
    schedule: Callable[[float], float] | None = None,
    momentum: float = 0.0,
    guide: Guide | None = None,
    random_start: bool = False,
    restarts: int = 1,
    keep: str = "last",
    classes: Sequence[int] | None = None,
    stop_at: float | None = None,
    region: Tensor | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    precision: str = "auto",
    batch_size: int = 8,
    seed: Seed = 0,
    observe: Callable[[int, Tensor, Tensor], object] | None = None,
) -> AttackResult:
    """Projected gradient descent: signed gradient steps, clipped to ε and to the valid range.

    Untargeted, it raises the loss between prediction and `labels`; targeted, it lowers the loss
    between prediction and the target `labels`. It attacks a frozen copy of the network in
    evaluation mode; the network itself is not touched. An image's result does not depend on the
    others in its batch, unless the network couples them. No images give an empty result. Whatever
    speaks against trusting the result is warned of and kept in it.

    Args:
        network: module from images to logits (N, K, H, W).
        images: float32 (N, C, H, W) within `value_range`.
        labels: int64 (N, H, W): the truth, or the target if `targeted`.
        loss: function of (logits, labels) that returns (N,), lower for a better fit.
        epsilon: largest noise per pixel [units of the images], one number or (N,).
        targeted: whether `labels` are what the network is made to see.
        steps: number of gradient steps.
        step_size: [units of the images], one number or (N,); default epsilon / 20, the paper's.
        schedule: function of the share of the steps done, 0 … below 1, that returns a factor of
            the step size.
        momentum: share of the last direction that is added to the gradient, each divided by its
            mean absolute value.
        guide: function of (logits, labels, share of the steps done), whose gradient is followed
            while `loss` measures; default `loss`.
        random_start: start at `uniform_noise` of `seed` rather than at the image.
        restarts: attempts at each image, the second and later from a random start. The best by
            `keep` wins (by loss, if that is "last"); an image that is done needs no other.
        keep: the iterate that is returned: "last", or the best by "loss" or "iou" (of `classes`).
        classes: class indices whose IoU is recorded and decides; default none.
        stop_at: IoU × 100 at which an image is done and leaves the batch, kept as it is
            (untargeted: at or below it). Classes in neither prediction nor labels count 100.
        region: bool (H, W) or (N, H, W), where noise is allowed; default everywhere.
        value_range: least and greatest valid pixel.
        precision: of the gradients: "bf16", "fp32", or "auto" as in `network.find_precision`.
        batch_size: images at a time; it bounds the memory and changes no result.
        seed: of random starts, and of the random noise that the attack is compared with: as in
            `uniform_noise`.
        observe: function of (step, adv_images, logits) of the images in the batch, called at the
            start and after each step: to follow an attack, or to end it with an exception.

    Returns:
        AttackResult; IoU and loss are those of the copy in its precision.

    Raises:
        ValueError: shapes, classes or ranges do not fit, an option is not sensible, or no gradient
            reaches the images.

    Source: paper, equations 2 and 3, section 3 (100 steps of ε/20, no random start); Madry et al.,
    arXiv:1706.06083; momentum: Dong et al., arXiv:1710.06081.
    """
    batch = _make_batch(images, labels, epsilon, step_size, region, value_range)
    objective = Objective(loss, guide, targeted, keep, classes, stop_at)
    frozen = frozen_copy(network, precision=precision, example=images[:1])
    ascent = _Ascent(frozen, objective, steps, momentum, schedule, value_range, batch_size, observe)
    keys = random_keys(seed, len(images))
    best = _best_attempt(ascent, batch, keys, random_start, restarts)
    noisy = _randomised(batch, [("control", key) for key in keys], value_range)
    clean = None if random_start or restarts > 1 else best.loss[0]
    findings = find_warnings(network, frozen, batch, best, noisy, clean, ascent.batch_size)
    overlap = None if classes is None else best.iou
    result = AttackResult(
        best.adv_images, best.loss, overlap, best.zero_gradients, best.taken, findings
    )
    for line in result.warnings:
        warnings.warn(line, stacklevel=2)
    return result


def fgsm(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    loss: Loss,
    epsilon: float | Tensor,
    **options: Any,
) -> AttackResult:
    """Fast gradient sign method: `pgd` with one step of ε.

    Args:
        network, images, labels, loss, epsilon, **options: see `pgd`; not steps and step_size.

    Source: paper, equation 1; Goodfellow et al., arXiv:1412.6572.
    """
    return pgd(
        network, images, labels, loss=loss, epsilon=epsilon, steps=1, step_size=epsilon, **options
    )


def fast_pgd(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    loss: Loss,
    epsilon: float | Tensor,
    targeted: bool = False,
    steps: int = 30,
    **options: Any,
) -> AttackResult:
    """`pgd` that gets about as far in 30 steps as in 100 of ε/20.

    It takes longer strides, with momentum, and follows another loss first. Targeted: steps of
    0.15 ε, from 60 % of the steps on falling to 0; momentum 0.3; for 80 % of the steps the gradient
    is that of the cross-entropy. Untargeted: steps falling from 0.7 ε to 0; momentum 0.5; for 60 %
    of the steps the logits are divided by 4. The reason: the gradient of `loss` is nearly flat
    where the network is sure. Where it is not, plain `pgd` may do better.

    Args:
        network, images, labels, loss, epsilon, targeted, steps, **options: see `pgd`.

    Source: ours; momentum: Dong et al., arXiv:1710.06081.
    """

    def guide(logits, labels, progress):
        if progress >= (0.8 if targeted else 0.6):
            return loss(logits, labels)
        if targeted:
            return cross_entropy(logits, labels)
        return loss(logits / 4, labels)

    def schedule(progress):  # in units of ε / 20
        if targeted:
            return 3 * min(1, (1 - progress) / 0.4)
        return 14 * (1 - progress)

    momentum = 0.3 if targeted else 0.5
    ours = {"guide": guide, "schedule": schedule, "momentum": momentum}
    options = ours | options | {"epsilon": epsilon, "targeted": targeted, "steps": steps}
    return pgd(network, images, labels, loss=loss, **options)


@dataclass
class _Ascent:
    """How the steps are taken; fields as in `pgd`, but `network` is the frozen copy."""

    network: nn.Module
    objective: Objective
    steps: int
    momentum: float
    schedule: Callable[[float], float] | None
    value_range: tuple[float, float]
    batch_size: int
    observe: Callable[[int, Tensor, Tensor], object] | None

    def __post_init__(self) -> None:
        self.steps = whole_number("steps", self.steps)
        self.batch_size = whole_number("batch_size", self.batch_size)
        if self.schedule is not None:
            require(callable(self.schedule), "schedule", self.schedule, "give a function")
        number = isinstance(self.momentum, int | float) and 0 <= self.momentum < math.inf
        require(number, "momentum", self.momentum, "give a number of 0 or more")

    def attempt(self, batch: Batch, start: Tensor, rows: Tensor) -> Recorder:
        """One attempt at the images of these rows."""
        recorder = Recorder(batch.images, self.objective, self.steps)
        for part in rows.split(self.batch_size):
            if len(part):
                self.ascend(batch.take(part), start[part], recorder)
        return recorder

    def ascend(self, batch: Batch, adv_images: Tensor, recorder: Recorder) -> None:
        """The attack on one batch of images."""
        direction = torch.zeros_like(adv_images)
        for step in range(self.steps + 1):
            adv_images = _project(adv_images, batch, self.value_range)
            x, logits, loss, total = self.forward(step, adv_images, batch.labels)
            going = recorder.record(step, batch, adv_images, logits, loss)
            if step == self.steps or not going.any():
                break
            gradient = _input_gradient(total, x).to(adv_images.dtype)
            recorder.record_gradient(step, batch, gradient)
            direction = self.momentum * direction + self.scale(gradient)
            adv_images = adv_images + self.stride(step) * batch.step_size * direction.sign()
            if not going.all():  # the others are done
                batch, adv_images, direction = (
                    batch.take(going),
                    adv_images[going],
                    direction[going],
                )

    def forward(self, step, adv_images, labels):
        """Input, logits and losses of the network, and the sum that the gradient is of."""
        x = input_of(self.network, adv_images.detach()).requires_grad_(step < self.steps)
        with torch.set_grad_enabled(step < self.steps):
            logits = logits_of(self.network, x)
            loss, followed = self.objective.losses(logits, labels, step / self.steps)
            total = followed.sum()
        if self.observe:
            self.observe(step, adv_images, logits.detach())
        return x, logits, loss, total

    def scale(self, gradient):
        """The gradient as momentum adds it up: over its mean absolute value."""
        if not self.momentum:
            return gradient
        return gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)

    def stride(self, step):
        """Factor of the step size, below 0 where the loss is lowered."""
        factor = 1.0 if self.schedule is None else float(self.schedule(step / self.steps))
        if not math.isfinite(factor):
            raise ValueError(
                f"schedule returns {factor} after {step / self.steps:.0%} of the steps; "
                "it must return a finite factor"
            )
        return self.objective.sign * factor


def _project(adv_images, batch, value_range):
    """Clip to ±limits around the images, and to the valid range."""
    low, high = batch.images - batch.limits, batch.images + batch.limits
    return adv_images.clamp(low, high).clamp(*value_range)


def _input_gradient(total, x):
    """Gradient of the sum of losses; not a number counts as zero."""
    gradient = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    if gradient is None:
        raise ValueError(
            "no gradient reaches the images: the network or the loss is not differentiable"
        )
    return gradient.nan_to_num(0)


def _randomised(batch, keys, value_range):
    """The images with random noise within their limits."""
    noise = uniform_noise(batch.images, epsilon=1.0, seed=keys) * batch.limits
    return (batch.images + noise).clamp(*value_range)


def _best_attempt(ascent, batch, keys, random_start, restarts):
    """The recorder of the best of all attempts at each image."""
    restarts = whole_number("restarts", restarts)
    start = _randomised(batch, keys, ascent.value_range) if random_start else batch.images
    best = ascent.attempt(batch, start, batch.rows)
    if not best.loss[0].isfinite().all():
        found = best.loss[0].tolist()
        raise ValueError(f"loss is {found}; the network or the loss fails on these images")
    for restart in range(1, restarts):
        start = _randomised(batch, [(restart, key) for key in keys], ascent.value_range)
        unfinished = batch.rows[best.score < torch.inf]
        best.take_better(ascent.attempt(batch, start, unfinished))
    return best


def _make_batch(images, labels, epsilon, step_size, region, value_range):
    """All images with what belongs to each; a ValueError if something does not fit."""
    _check_tensor(
        "images are", images, torch.float32, lambda shape: len(shape) == 4, "(N, C, H, W)"
    )
    ordered = len(value_range) == 2 and value_range[0] < value_range[1]
    require(ordered, "value_range", value_range, "give the least and the greatest valid pixel")
    images = images.detach()
    low, high = value_range
    least, greatest = images.aminmax() if images.numel() else (low, high)
    if not (least >= low and greatest <= high):  # also for NaN
        found = f"{least.cpu().numpy()!s} … {greatest.cpu().numpy()!s}"
        raise ValueError(f"images reach {found}; the valid range is {low} … {high}")
    shared, each = images.shape[2:], (len(images), *images.shape[2:])
    _check_tensor("labels are", labels, torch.int64, lambda shape: shape == each, f"{each}")
    if region is None:
        region = torch.ones_like(labels, dtype=torch.bool)
    wanted = f"{each} or (H, W)"
    _check_tensor("region is", region, torch.bool, lambda shape: shape in (shared, each), wanted)
    epsilon = per_image("epsilon", epsilon, images)
    limits = epsilon * region.to(images.device).expand(each)[:, None]
    step_size = epsilon / 20 if step_size is None else per_image("step_size", step_size, images)
    rows = torch.arange(len(images), device=images.device)
    return Batch(rows, images, labels, limits, step_size)


def _check_tensor(what, value, dtype, fits, wanted):
    """A ValueError unless an argument is a tensor of this type whose shape fits."""
    found = type(value).__name__
    if torch.is_tensor(value):
        if value.dtype == dtype and fits(value.shape):
            return
        found = f"{value.dtype} {tuple(value.shape)}"
    raise ValueError(f"{what} {found}; give a {dtype} tensor {wanted}")
