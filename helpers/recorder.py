"""What an attack works on, what it is after, and the record of how it goes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.common.arguments import require
from helpers.evaluation import iou
from helpers.loss import Guide, Loss, check_classes, check_labels

KEEP = ("last", "loss", "iou")


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


class Batch(NamedTuple):
    """Images under attack, with all that belongs to each of them.

    Attributes:
        rows: int64 (N,), the places of these images among all that are attacked.
        images: (N, C, H, W).
        labels: int64 (N, H, W).
        limits: (N, 1, H, W), the largest noise of each pixel: ε inside the region, 0 outside.
        step_size: (N, 1, 1, 1).
    """

    rows: Tensor
    images: Tensor
    labels: Tensor
    limits: Tensor
    step_size: Tensor

    def take(self, which: Tensor) -> "Batch":
        """Some of the images, by place or by mask."""
        return Batch(*(part[which] for part in self))


@dataclass
class Objective:
    """What an attack is after: its losses, and which iterate counts. Fields as in `attack.pgd`."""

    loss: Loss
    guide: Guide | None
    sign: int  # 1 where the loss is raised, −1 where it is lowered
    keep: str
    classes: Sequence[int] | None
    stop_at: float | None

    def __post_init__(self) -> None:
        require(callable(self.loss), "loss", self.loss, "give a function")
        require(self.guide is None or callable(self.guide), "guide", self.guide, "give a function")
        require(self.keep in KEEP, "keep", self.keep, f"choose one of {', '.join(KEEP)}")
        if self.keep == "iou" or self.stop_at is not None:
            wanted = "name the classes whose IoU decides"
            require(self.classes is not None, "classes", self.classes, wanted)
        if self.stop_at is not None:
            percent = isinstance(self.stop_at, int | float) and 0 <= self.stop_at <= 100
            require(percent, "stop_at", self.stop_at, "give an IoU from 0 to 100")

    def losses(self, logits: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """The loss that measures and the loss whose gradient is followed, (N,) each."""
        if progress == 0:
            check_labels(logits, labels)
            if self.classes is not None:
                check_classes(self.classes, logits.shape[1])
        loss = followed = self.loss(logits, labels)
        if self.guide and progress < 1:
            followed = self.guide(logits, labels, progress)
        for name, value in (("loss", loss), ("guide", followed)):
            found = tuple(getattr(value, "shape", ()))
            if found != (len(labels),):
                raise ValueError(
                    f"{name} has shape {found}; give one number per image ({len(labels)})"
                )
        return loss, followed


class Recorder:
    """The histories of an attempt at N images, and of each image the iterate that counts.

    Attributes:
        adv_images, taken, loss, iou, zero_gradients: as in `AttackResult`.
        score: (N,), how good the iterate that counts is: infinite once the image is done, minus
            infinite while no loss was a number.
        failed: bool (N,), whether the loss was not a number at some step.
    """

    def __init__(self, images: Tensor, objective: Objective, steps: int) -> None:
        n = len(images)
        self.objective = objective
        self.adv_images = images.clone()
        self.loss = images.new_full((steps + 1, n), torch.nan)
        self.iou = self.loss.clone()
        self.zero_gradients = self.loss[1:].clone()
        self.score = images.new_full((n,), -torch.inf)
        self.taken = torch.zeros_like(self.score, dtype=torch.int64)
        self.failed = torch.zeros_like(self.score, dtype=torch.bool)

    def record(
        self, step: int, batch: Batch, adv_images: Tensor, logits: Tensor, loss: Tensor
    ) -> Tensor:
        """Record an iterate of the images in a batch; returns which of them go on, bool (n,)."""
        rows, objective = batch.rows, self.objective
        loss = loss.detach().float()
        self.loss[step, rows] = loss
        self.failed[rows] |= ~loss.isfinite()
        score = objective.sign * loss
        if objective.classes is not None:
            prediction = logits.detach().argmax(dim=1)
            overlap = iou(prediction, batch.labels, classes=objective.classes).nanmean(dim=1)
            self.iou[step, rows] = overlap
            gain = -objective.sign * overlap.nan_to_num(100)  # nothing to find counts as found
            if objective.keep == "iou":
                score = gain
            if objective.stop_at is not None:
                done = gain >= -objective.sign * objective.stop_at
                score = score.masked_fill(done, torch.inf)
        score = torch.where(loss.isfinite(), score, -torch.inf)
        better = (score >= self.score[rows]) | (objective.keep == "last")
        self.score[rows] = torch.where(better, score, self.score[rows])
        self.taken[rows] = torch.where(better, step, self.taken[rows])
        kept = self.adv_images[rows]
        self.adv_images[rows] = torch.where(better[:, None, None, None], adv_images, kept)
        return score < torch.inf

    def record_gradient(self, step: int, batch: Batch, gradient: Tensor) -> None:
        """Record the share of zeros among the gradient's values where noise is allowed."""
        allowed = batch.limits > 0
        zeros = (allowed & (gradient == 0)).flatten(1).sum(dim=1)
        size = allowed.flatten(1).sum(dim=1) * gradient.shape[1]
        self.zero_gradients[step, batch.rows] = 100 * zeros / size.clamp(min=1)

    def take_better(self, other: "Recorder") -> None:
        """Take over the images at which another attempt came further."""
        won = other.score > self.score
        self.adv_images[won] = other.adv_images[won]
        for name in ("score", "taken", "failed", "loss", "iou", "zero_gradients"):
            getattr(self, name)[..., won] = getattr(other, name)[..., won]

    def result(self, findings: dict[str, Tensor]) -> AttackResult:
        """What the attack came to."""
        overlap = None if self.objective.classes is None else self.iou
        return AttackResult(
            self.adv_images, self.loss, overlap, self.zero_gradients, self.taken, findings
        )
