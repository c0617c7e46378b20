"""What an attack works on, its options, and the record of how it goes."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.common.arguments import require, require_choice, whole_number
from helpers.evaluation import iou
from helpers.loss import Loss, check_classes, check_tensor
from helpers.noise import per_image

Limit = float | Sequence[float] | Tensor
Guide = Callable[[Tensor, Tensor, float], Tensor]
Schedule = Callable[[float], float]
Observer = Callable[[int, Tensor, Tensor], object]
Transform = Callable[[Tensor, Tensor, Sequence[Hashable]], tuple[Tensor, Tensor]]
KEEP = ("last", "loss", "iou")
DECAY = 0.9  # of the squares of the gradients in Adam's direction
ENOUGH = 0.02  # share of the whole gain that a stage has to add


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack made, and how it went.

    Histories are NaN once an image was stopped.

    Attributes:
        adv_images: (N, C, H, W), within ε of the images and within the value range.
        loss: (steps + 1, N) loss of each image at the start and after each step.
        iou: (steps + 1, N) mean IoU × 100 of `classes` between prediction and labels, likewise;
            NaN where neither has any of them. None without `classes`.
        taken: int64 (N,), the number of steps after which `adv_images` was kept.
        findings: what speaks against trusting the result: a dict from a sentence to bool (N,),
            which images it is about.
        copy: what was attacked, such as "bf16, folded, channels_last", see `adapters.Form`.
    """

    adv_images: Tensor
    loss: Tensor
    iou: Tensor | None
    taken: Tensor
    findings: dict[str, Tensor]
    copy: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """The findings, a line each, with the number of images where it is not all."""
        lines = []
        for text, which in self.findings.items():
            count = "" if which.all() else f"{int(which.sum())} of {len(which)} images: "
            lines.append(count + text)
        return tuple(lines)


class Batch(NamedTuple):
    """Images under attack, with all that belongs to each of them.

    Attributes:
        rows: int64 (N,), the places of these images among all that are attacked.
        images: (N, C, H, W).
        labels: int64 (N, H, W).
        limits: (N, 1, H, W), the largest noise of each pixel: ε inside the region, 0 outside.
        lowest, highest: (N, C, H, W), what each pixel may be: within its limits and valid.
        step_size: (N, 1, 1, 1).
    """

    rows: Tensor
    images: Tensor
    labels: Tensor
    limits: Tensor
    lowest: Tensor
    highest: Tensor
    step_size: Tensor

    def take(self, which: Tensor) -> "Batch":
        """Some of the images, by place or by mask."""
        return Batch(*(part[which] for part in self))


def make_batch(
    images: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    step_size: float | Tensor | None,
    region: Tensor | None,
    value_range: tuple[Limit, Limit],
) -> Batch:
    """All images with what belongs to each; a ValueError if something does not fit.

    Args: as of `attack.pgd`.
    """
    check_tensor("images", images, torch.float32, images.shape)
    require(images.ndim == 4, "shape of the images", tuple(images.shape), "give (N, C, H, W)")
    low, high = _limits(value_range, images)
    shape = len(images), *images.shape[2:]
    masks = labels.shape[1:-2] if labels.ndim == 4 else ()  # those for a loss of one's own
    check_tensor("labels", labels, torch.int64, (shape[0], *masks, *shape[1:]))
    images, labels = (t.clone() if t.is_inference() else t.detach() for t in (images, labels))
    if region is None:
        region = torch.ones(shape, dtype=torch.bool, device=images.device)
    check_tensor("region", region, torch.bool, shape[-region.ndim :])
    epsilon = per_image("epsilon", epsilon, images)
    limits = epsilon * region.to(images.device).expand(shape)[:, None]
    lowest = (images - limits).clamp(min=low)
    highest = (images + limits).clamp(max=high)
    step_size = epsilon / 20 if step_size is None else per_image("step_size", step_size, images)
    rows = torch.arange(len(images), device=images.device)
    return Batch(rows, images, labels, limits, lowest, highest, step_size)


def _limits(value_range, images):
    """Least and greatest valid pixel, each (1, 1, 1) or (C, 1, 1); they hold for the images."""
    like = {"dtype": images.dtype, "device": images.device}
    low, high = (torch.as_tensor(limit, **like).reshape(-1, 1, 1) for limit in value_range)
    fits = {len(low), len(high)} <= {1, images.shape[1]} and (low < high).all()
    wanted = "give the least and the greatest valid pixel, each a number or one for each channel"
    require(fits, "value_range", value_range, wanted)
    if not ((low <= images) & (images <= high)).all():  # also for NaN
        found = torch.stack(images.aminmax()).tolist()
        least, greatest = value_range
        raise ValueError(f"images reach {found}; the valid range is {least} … {greatest}")
    return low, high


@dataclass
class Options:
    """How an attack is made. Fields as in `attack.pgd`."""

    loss: Loss
    sign: int  # 1 where the loss is raised, −1 where it is lowered
    steps: int
    schedule: Schedule | None
    momentum: float
    direction: str
    guide: Guide | None
    keep: str
    classes: Sequence[int] | None
    stop_at: float | None
    stages: Sequence[int]
    batch_size: int
    observe: Observer | None
    transform: Transform | None
    copies: int
    smooth: Callable[[Tensor], Tensor] | None
    keys: Sequence[Hashable]  # one for each image

    def __post_init__(self) -> None:
        self.steps = whole_number("steps", self.steps)
        self.batch_size = whole_number("batch_size", self.batch_size)
        self.copies = whole_number("copies", self.copies)
        most = 1 if self.direction == "adam" else torch.inf
        positive = 0 <= self.momentum < most
        require(positive, "momentum", self.momentum, f"give a number from 0 to below {most}")
        require_choice("direction", self.direction, ("sign", "adam"))
        require_choice("keep", self.keep, KEEP)
        if self.keep == "iou" or self.stop_at is not None:
            wanted = "name the classes whose IoU decides"
            require(self.classes is not None, "classes", self.classes, wanted)
        percent = self.stop_at is None or 0 <= self.stop_at <= 100
        require(percent, "stop_at", self.stop_at, "give an IoU from 0 to 100")

    def direct(self, step: int, gradient: Tensor, memory: list[Tensor]) -> Tensor:
        """Direction of a step, within ±1; the memory (sums of gradients, of squares) is changed."""
        adam = self.direction == "adam"
        if adam or self.momentum:  # so that all steps count alike
            gradient = gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
        sums, squares = memory
        sums.mul_(self.momentum).add_(gradient)
        if not adam:
            return sums.sign()
        squares.mul_(DECAY).addcmul_(gradient, gradient)
        mean, square = (
            part * ((1 - decay) / (1 - decay ** (step + 1)))
            for part, decay in ((sums, self.momentum), (squares, DECAY))
        )
        return (mean / (square.sqrt() + 1e-8)).clamp(-1, 1)

    def stride(self, step: int) -> float:
        """Factor of the step size, below 0 where the loss is lowered."""
        factor = 1.0 if self.schedule is None else float(self.schedule(step / self.steps))
        require(math.isfinite(factor), f"schedule at step {step}", factor, "give a finite factor")
        return self.sign * factor


class Recorder:
    """The histories of an attack on N images, and of each image the iterate that counts.

    Attributes:
        adv_images, taken, loss, iou: as in `AttackResult`.
        score: (N,), how good the iterate that counts is: infinite once the image is done, minus
            infinite while no loss was a number.
        failed: bool (N,), whether the loss was not a number at some step.
        blind: bool (N,), whether there was no gradient where noise is allowed.
    """

    def __init__(self, images: Tensor, options: Options) -> None:
        n = len(images)
        self.options = options
        self.adv_images = images.clone()
        self.loss = images.new_full((options.steps + 1, n), torch.nan)
        self.iou = self.loss.clone()
        self.score = images.new_full((n,), -torch.inf)
        self.taken = torch.zeros_like(self.score, dtype=torch.int64)
        self.failed = torch.zeros_like(self.score, dtype=torch.bool)
        self.blind = ~self.failed

    def record(
        self, step: int, batch: Batch, adv_images: Tensor, logits: Tensor, loss: Tensor
    ) -> Tensor:
        """Record an iterate of the images in a batch; returns which of them go on, bool (n,)."""
        rows, options = batch.rows, self.options
        loss = loss.detach().float()
        self.loss[step, rows] = loss
        failed = ~loss.isfinite()
        self.failed[rows] |= failed
        score = options.sign * loss
        if options.classes is not None:
            check_classes(options.classes, logits.shape[1])
            prediction = logits.argmax(dim=1)
            overlap = iou(prediction, batch.labels, classes=options.classes).nanmean(dim=1)
            self.iou[step, rows] = overlap
            gain = -options.sign * overlap.nan_to_num(100)  # nothing to find counts as found
            if options.keep == "iou":
                score = gain
            if options.stop_at is not None:
                done = gain >= -options.sign * options.stop_at
                score = score.masked_fill(done, torch.inf)
        score = score.masked_fill(failed, -torch.inf)
        better = ~failed & ((score >= self.score[rows]) | (options.keep == "last"))
        won = rows[better]
        self.score[won] = score[better]
        self.taken[won] = step
        self.adv_images[won] = adv_images[better]
        return (score < torch.inf) & ~self._is_enough(step, rows)

    def _is_enough(self, step, rows):
        """Whether the last stage has gained next to nothing, bool (n,)."""
        stages = [0, *(stage for stage in self.options.stages if stage <= step)]
        if step not in stages[2:]:
            return torch.zeros_like(rows, dtype=torch.bool)
        first, last, now = (self.options.sign * self.loss[s, rows] for s in (0, stages[-2], step))
        return now - last < ENOUGH * (last - first)

    def record_gradient(self, batch: Batch, gradient: Tensor) -> None:
        """Record which images have a gradient where noise is allowed."""
        seen = (batch.limits > 0) & (gradient != 0)
        self.blind[batch.rows] &= ~seen.flatten(1).any(dim=1)

    def result(self, findings: dict[str, Tensor], copy: str) -> AttackResult:
        """What the attack came to."""
        overlap = None if self.options.classes is None else self.iou
        return AttackResult(self.adv_images, self.loss, overlap, self.taken, findings, copy)
