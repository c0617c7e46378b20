"""Fast gradient sign method and projected gradient descent (L∞), for any network and any loss."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from helpers.adapters import frozen_copy
from helpers.checks import find_warnings
from helpers.common.arguments import require, require_choice
from helpers.loss import Loss, check_labels, cross_entropy, with_background
from helpers.network import Network
from helpers.noise import Seed, random_keys, uniform_noise
from helpers.recorder import (
    AttackResult,
    Guide,
    Limit,
    Observer,
    Options,
    Recorder,
    Schedule,
    Transform,
    make_batch,
)

VERSION = 1  # of attacks, losses, targets and regions: raise it with a change that alters results
FAST_VERSION = 2  # of `fast_pgd`, likewise
STAGES: tuple[int, ...] = (30, 60, 120, 240)  # steps of `fast_pgd` at which "auto" may end


def pgd(
    network: Network,
    images: Tensor,
    labels: Tensor,
    *,
    loss: Loss,
    epsilon: float | Tensor,
    targeted: bool = False,
    steps: int = 100,
    step_size: float | Tensor | None = None,
    schedule: Schedule | None = None,
    momentum: float = 0.0,
    direction: str = "sign",
    guide: Guide | None = None,
    transform: Transform | None = None,
    copies: int = 1,
    smooth: Callable[[Tensor], Tensor] | None = None,
    random_start: bool = False,
    keep: str = "last",
    classes: Sequence[int] | None = None,
    stop_at: float | None = None,
    stages: Sequence[int] = (),
    region: Tensor | None = None,
    value_range: tuple[Limit, Limit] = (-1.0, 1.0),
    precision: str = "auto",
    batch_size: int = 8,
    seed: Seed = 0,
    observe: Observer | None = None,
) -> AttackResult:
    """Projected gradient descent: signed gradient steps, clipped to ε and to the valid range.

    Untargeted, it raises the loss between prediction and `labels`; targeted, it lowers the loss
    between prediction and the target `labels`. It attacks a frozen copy of the network in
    evaluation mode; the network itself is not touched. An image's result does not depend on the
    others in its batch, unless the network couples them, or float32 is rounded in another way. No
    images give an empty result. Whatever speaks against trusting the result is warned of and kept
    in it.

    Args:
        network: any module or function from images to logits (N, K, H, W), or to an answer that
            `outputs.to_logits` turns into them.
        images: float32 (N, C, H, W) within `value_range`.
        labels: int64 (N, H, W): the truth, or the target if `targeted`. For a loss of one's own
            they may be masks (N, K, H, W).
        loss: function of (logits, labels) that returns (N,), lower for a better fit. The logits of
            a network of one channel have one.
        epsilon: largest noise per pixel [units of the images], one number or (N,).
        targeted: whether `labels` are what the network is made to see.
        steps: number of gradient steps.
        step_size: [units of the images], one number or (N,); default epsilon / 20, the paper's.
        schedule: function of the share of the steps done, 0 … below 1, that returns a factor of
            the step size.
        momentum: share of the last direction that is added to the gradient, each divided by its
            mean absolute value.
        direction: of a step, from these sums: their "sign", or that of "adam": the mean gradient
            over the root of the mean square, clipped to ±1.
        guide: function of (logits, labels, share of the steps done), whose gradient is followed
            while `loss` measures; default `loss`.
        transform: function of (images, labels, keys) that returns both changed, differentiably: the
            gradient is followed there, while the images as they are are measured. An image's key is
            another at each step and copy, so that what is drawn from it depends on no other image.
            See `transfer.mover`.
        copies: transforms a step, whose gradients are averaged.
        smooth: function of the gradient that returns what is followed, see `transfer.smoother`.
        random_start: start at `uniform_noise` of `seed` rather than at the image.
        keep: the iterate that is returned: "last", or the best by "loss" or "iou" (of `classes`).
        classes: class indices whose IoU is recorded and decides; default none.
        stop_at: IoU × 100 at which an image is done and leaves the batch, kept as it is
            (untargeted: at or below it). Classes in neither prediction nor labels count 100.
        stages: numbers of steps; at each, an image leaves the batch whose loss has gained less
            since the last of them than 2 % of what it has gained since the start.
        region: bool (H, W) or (N, H, W), where noise is allowed; default everywhere.
        value_range: least and greatest valid pixel, each a number or one for each channel.
        precision: of the gradients: "bf16", "fp32", or "auto" as in `network.find_precision`. Where
            bf16 would change the network's answers, it is fp32.
        batch_size: images at a time; it bounds the memory. In float32, results differ by what many
            steps make of other rounding, where a processor rounds large batches in another way.
        seed: of random starts, and of the random noise that the attack is compared with: as in
            `uniform_noise`.
        observe: function of (step, adv_images, logits) of the images in the batch, called at the
            start and after each step: to follow an attack, or to end it with an exception.

    Returns:
        AttackResult; IoU and loss are those of the copy in its precision, which `copy` names.

    Raises:
        ValueError: shapes, classes or ranges do not fit, an option is not sensible, or no gradient
            reaches the images.

    Source: paper, equations 2 and 3, section 3 (100 steps of ε/20, no random start); Madry et al.,
    arXiv:1706.06083; momentum: Dong et al., arXiv:1710.06081; Adam: Kingma and Ba, arXiv:1412.6980.
    """
    way = -1 if targeted else 1, steps, schedule, momentum, direction, guide
    until = keep, classes, stop_at, stages, batch_size, observe
    keys = random_keys(seed, len(images))
    options = Options(loss, *way, *until, transform, copies, smooth, keys)
    with torch.inference_mode(False):  # the caller's mode may have no gradients
        batch = make_batch(images, labels, epsilon, step_size, region, value_range)
        result = _attack(network, options, batch, precision, random_start)
    for line in result.warnings:
        warnings.warn(line, stacklevel=2)
    return result


def fgsm(
    network: Network,
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
    network: Network,
    images: Tensor,
    labels: Tensor,
    *,
    loss: Loss,
    epsilon: float | Tensor,
    targeted: bool = False,
    steps: int | str = 30,
    **options: Any,
) -> AttackResult:
    """`pgd` that, targeted, gets further in 30 steps than the paper's 100 of ε/20.

    Untargeted it does so on most U-Nets like the study's; on others `pgd` is often ahead at 30
    steps (figures/attack_strength.csv).

    Its steps go along Adam's direction and fall to 0, from ε if targeted, else from 1.4 ε. The
    gradient of the IoU is nearly flat where the network is sure, so it follows another: targeted,
    that of `loss` and three times the cross-entropy; untargeted, that of `loss` after the logits
    are scaled until their margin (greatest − second) is 1 in the mean.

    Args:
        network, images, labels, loss, epsilon, targeted, **options: see `pgd`; a target is a label
            map (N, H, W).
        steps: number of gradient steps; "auto" for as many as each image needs: 30, then 30, 60 and
            120 more, each time from ε on, until an image gains next to nothing (see `stages` of
            `pgd`) or is stopped.

    Source: ours; compared with `pgd` on other networks than it was tuned on in
    figures/attack_strength.csv.
    """
    stages: tuple[int, ...] = ()
    shape = tuple(labels.shape)
    require(labels.ndim == 3 or not targeted, "shape of labels", shape, "give a map (N, H, W)")
    if isinstance(steps, str):
        require_choice("steps", steps, ("auto",))
        stages, steps = STAGES, STAGES[-1]

    def guide(logits, labels, progress):
        if targeted:
            return loss(logits, labels) + 3 * cross_entropy(logits, labels)
        return loss(logits / _mean_margin(logits), labels)

    def schedule(progress):  # in units of ε / 20
        return (20 if targeted else 28) * _left(progress * steps, (0, *stages, steps))

    return pgd(
        network,
        images,
        labels,
        loss=loss,
        epsilon=epsilon,
        targeted=targeted,
        steps=steps,
        schedule=schedule,
        momentum=0.5,
        direction="adam",
        guide=guide,
        stages=stages,
        **options,
    )


@torch.no_grad()
def _mean_margin(logits):
    """Distance of the greatest to the second logit, mean of each image's pixels, (N, 1, 1, 1)."""
    first, second = with_background(logits).float().topk(2, dim=1).values.unbind(dim=1)
    return (first - second).mean(dim=(1, 2), keepdim=True)[:, None].clamp(min=1e-6)


def _left(step, stages):
    """Share of the stage that is still to come, from 1 at its beginning."""
    step = round(step)
    begin = max(stage for stage in stages if stage <= step)
    end = min(stage for stage in stages if stage > step)
    return (end - step) / (end - begin)


def _attack(network, options, batch, precision, random_start):
    """The AttackResult of the fastest faithful copy of the network."""
    start = _randomised(batch, options.keys) if random_start else batch.images
    recorder = Recorder(batch.images, options)
    with frozen_copy(network, example=batch.images, precision=precision) as frozen:
        for part in batch.rows.split(options.batch_size):
            if len(part):
                _ascend(frozen, recorder, batch.take(part), start[part])
        first = recorder.loss[0]
        wanted = "the network or the loss fails on these images"
        require(first.isfinite().all(), "loss", first.tolist(), wanted)
        noisy = _randomised(batch, [("control", key) for key in options.keys])
        clean = None if random_start else first
        findings = find_warnings(frozen, recorder, batch, noisy, clean)
    return recorder.result(findings, str(frozen.form))


def _ascend(frozen, recorder, batch, adv_images):
    """Attack one batch of images: project, forward, record, gradient, step."""
    options = recorder.options
    memory = [torch.zeros_like(adv_images), torch.zeros_like(adv_images)]
    for step in range(options.steps + 1):
        adv_images = adv_images.clamp(batch.lowest, batch.highest)
        x, logits, loss, total = _forward(frozen, options, step, adv_images, batch.labels)
        going = recorder.record(step, batch, adv_images, logits, loss)
        if step == options.steps or not going.any():
            break
        if options.transform:
            gradient = _mean_gradient(frozen, options, step, adv_images, batch)
        else:
            gradient = _input_gradient(total, x)
        if options.smooth:
            gradient = options.smooth(gradient)
        recorder.record_gradient(batch, gradient)
        direction = options.direct(step, gradient, memory)
        adv_images = adv_images + options.stride(step) * batch.step_size * direction
        if not going.all():  # the others are done
            batch = batch.take(going)
            adv_images = adv_images[going]
            memory = [part[going] for part in memory]


def _forward(frozen, options, step, adv_images, labels):
    """Input and logits of the network, the loss, and the sum whose gradient is followed."""
    going = step < options.steps and options.transform is None
    x = adv_images.detach().requires_grad_(going)
    with torch.set_grad_enabled(going):
        logits = frozen(x)
        if step == 0 and labels.ndim == 3:
            check_labels(logits, labels)
        loss = followed = options.loss(logits, labels)
        if options.guide and going:
            followed = options.guide(logits, labels, step / options.steps)
        total = followed.sum()
    logits = with_background(logits.detach())
    fits = loss.shape == followed.shape == labels.shape[:1]
    found = tuple(loss.shape), tuple(followed.shape)
    require(fits, "shape of loss and guide", found, "give one number per image")
    if options.observe:
        options.observe(step, adv_images, logits)
    return x, logits, loss, total


def _mean_gradient(frozen, options, step, adv_images, batch):
    """Gradient of the images through their transformed copies."""
    gradient = torch.zeros_like(adv_images)
    for copy in range(options.copies):
        keys = [(step, copy, options.keys[row]) for row in batch.rows.tolist()]
        x = adv_images.detach().requires_grad_()
        with torch.enable_grad():
            images, labels = options.transform(x, batch.labels, keys)
            logits = frozen(images)
            if options.guide:
                followed = options.guide(logits, labels, step / options.steps)
            else:
                followed = options.loss(logits, labels)
        gradient += _input_gradient(followed.sum(), x) / options.copies
    return gradient


def _input_gradient(total, x):
    """Gradient of the sum of losses; what is no finite number counts as zero."""
    gradient = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    if gradient is None:
        raise ValueError(
            "no gradient reaches the images: the network or the loss is not differentiable"
        )
    return gradient.nan_to_num(0, 0, 0)


def _randomised(batch, keys):
    """The images with random noise within their limits."""
    noise = uniform_noise(batch.images, epsilon=1.0, seed=keys) * batch.limits
    return (batch.images + noise).clamp(batch.lowest, batch.highest)
