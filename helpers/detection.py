"""Detectors of attacked images, and an attacker who knows them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor, nn

from helpers.attack import pgd
from helpers.common.arguments import require
from helpers.labels import OUTSIDE
from helpers.loss import cross_entropy, iou_loss, with_background
from helpers.outputs import logits_of
from helpers.recorder import AttackResult
from helpers.transfer import smoother

# A detector is a differentiable function of images (N, C, H, W) and a network's logits
# (N, K, H, W) that returns (N,), higher for what looks more like an attack.
Detector = Callable[[Tensor, Tensor], Tensor]

TOGETHER = "all together"  # the detector that goes by the highest score of all
ALMOST = 0.8  # of an alarm: below it, an attacker leaves a score alone
SHIFTS = ((0, 5), (5, 0))  # [pixels], not multiples of what a U-Net pools


def sureness(images: Tensor, logits: Tensor) -> Tensor:
    """Minus the mean entropy of the pixels' probabilities: attacked networks are too sure.

    Source: the entropy of Maag and Fischer, arXiv:2305.12825. Differs: low, not high, is suspect.
    """
    probabilities = logits.softmax(dim=1)
    return (probabilities * logits.log_softmax(dim=1)).sum(dim=1).mean(dim=(1, 2))


def margin(images: Tensor, logits: Tensor) -> Tensor:
    """Mean difference of a pixel's two greatest probabilities, likewise."""
    first, second = logits.softmax(dim=1).topk(2, dim=1).values.unbind(dim=1)
    return (first - second).mean(dim=(1, 2))


def residue(images: Tensor, logits: Tensor) -> Tensor:
    """Mean square of what a Gaussian filter of one pixel takes away."""
    return (images - smoother(1.0)(images)).square().mean(dim=(1, 2, 3))


class Disagreement(nn.Module):
    """How little another network agrees: 1 − mean probability that both draw the same class."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """The score (N,)."""
        return 1 - _agreement(self.network, images, logits).mean(dim=(1, 2))


class Inconsistency(Disagreement):
    """How little a network agrees with itself on shifted images; as `Disagreement`.

    Source: Xiao et al., arXiv:1810.05162 (random crops). Differs: fixed shifts, the border
    wrapping around, so that the score is the same each time.
    """

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """The score (N,)."""
        shares = []
        for shift in SHIFTS:
            moved, expected = (part.roll(shift, dims=(2, 3)) for part in (images, logits))
            shares.append(_agreement(self.network, moved, expected))
        return 1 - torch.stack(shares).mean(dim=(0, 2, 3))


def _agreement(network, images, logits):
    """Probability (N, H, W) that a network draws the class that the logits' softmax draws."""
    other = with_background(logits_of(network, images)).float().softmax(dim=1)
    return (logits.float().softmax(dim=1) * other).sum(dim=1)


def implausibility(masks: Tensor, structure: int) -> Detector:
    """Distance of a structure's outline from what outlines of patients are like.

    It is Mahalanobis' distance of area, place, extent, tilt and roughness of the soft outline.

    Args:
        masks: bool (N, H, W) of the structure in training cases.
        structure: its class.
    """
    known = _features(masks.float())
    middle = known.mean(dim=0)
    shrunk = torch.cov(known.T) + 1e-6 * torch.eye(known.shape[1])
    inverse = torch.linalg.inv(shrunk)

    def score(images, logits):
        away = _features(logits.float().softmax(dim=1)[:, structure]) - middle.to(logits.device)
        squares = torch.einsum("ni,ij,nj->n", away, inverse.to(away), away)
        return squares.clamp(min=1e-12).sqrt()

    return score


def _features(outlines):
    """Area, extents, roughness (logarithms), centre and tilt of soft masks (N, H, W): (N, 7)."""
    size = outlines.shape[-1]
    line = torch.linspace(-0.5, 0.5, size, device=outlines.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    area = outlines.sum(dim=(1, 2)) + 1

    def mean(values):
        return (outlines * values).sum(dim=(1, 2)) / area

    across, down = mean(x), mean(y)
    x, y = x - across[:, None, None], y - down[:, None, None]
    width, height = (mean(z**2).clamp(min=1e-8).sqrt() for z in (x, y))
    edges = sum(outlines.diff(dim=dim).square().sum(dim=(1, 2)) for dim in (1, 2))
    tilt = mean(x * y) / (width * height)
    logs = area.log(), width.log(), height.log(), (edges + 1).log() - area.log() / 2
    return torch.stack([*logs, across, down, tilt], dim=1)


@dataclass(frozen=True, eq=False)
class Watch:
    """Detectors, with what they say of images without attack.

    Attributes:
        detectors: by name.
        middle, spread: median of each score on clean images, and how far above it the alarm is.
        together: how high the highest of these scores is at the alarm of `TOGETHER`.
    """

    detectors: Mapping[str, Detector]
    middle: Mapping[str, float]
    spread: Mapping[str, float]
    together: float = 1.0

    @classmethod
    @torch.no_grad()
    def of(
        cls, detectors: Mapping[str, Detector], images: Tensor, logits: Tensor, alarms: float = 0.05
    ) -> "Watch":
        """Detectors, alone and together, that raise an alarm at so large a share of clean images.

        Args:
            detectors: by name.
            images, logits: of clean cases, (N, C, H, W) and the network's answer; best such as no
                network was trained with.
            alarms: the share that is expected of other images, at most; with few images it cannot
                be reached, and the highest score is the limit.

        Source of the limit: Angelopoulos and Bates, arXiv:2107.07511 (conformal prediction).
        """
        found = {n: score(images, with_background(logits)) for n, score in detectors.items()}
        middle = {name: float(scores.median()) for name, scores in found.items()}
        spread = {name: _limit(scores - middle[name], alarms) for name, scores in found.items()}
        watch = cls(detectors, middle, spread)
        highest = watch.score(TOGETHER, images, logits)
        return replace(watch, together=_limit(highest, alarms))

    def scores(self, name: str, images: Tensor, logits: Tensor) -> Tensor:
        """(K, N): the scores that a detector goes by; it raises an alarm if one is above 1."""
        alone = name != TOGETHER
        rows = []
        for each in [name] if alone else self.detectors:
            found = self.detectors[each](images, with_background(logits)).float()
            rows.append((found - self.middle[each]) / self.spread[each])
        return torch.stack(rows) / (1.0 if alone else self.together)

    def score(self, name: str, images: Tensor, logits: Tensor) -> Tensor:
        """(N,): the highest of `scores`."""
        return self.scores(name, images, logits).amax(dim=0)


def _limit(scores, alarms):
    rank = min(len(scores), math.ceil((len(scores) + 1) * (1 - alarms)))
    return max(float(scores.kthvalue(rank).values), 1e-9)


class _Watched(nn.Module):
    """A network whose last channel is how close scores are to an alarm, the same at each pixel."""

    def __init__(self, network: nn.Module, watch: Watch, name: str) -> None:
        super().__init__()
        self.network, self.watch, self.name = network, watch, name
        used = watch.detectors.values() if name == TOGETHER else [watch.detectors[name]]
        self.used = nn.ModuleList(each for each in used if isinstance(each, nn.Module))

    def forward(self, images: Tensor) -> Tensor:
        logits = with_background(logits_of(self.network, images)).float()
        scores = self.watch.scores(self.name, images, logits)
        score = (scores - ALMOST).clamp(min=0).sum(dim=0)
        return torch.cat([logits, score[:, None, None, None].expand_as(logits[:, :1])], dim=1)


def evade(
    network: nn.Module,
    watch: Watch,
    name: str,
    images: Tensor,
    labels: Tensor,
    *,
    classes: Sequence[int],
    weight: float,
    **options: Any,
) -> AttackResult:
    """The targeted faster attack, with a detector's score in its loss.

    Args:
        network: to attack, from images to logits.
        watch: the detectors.
        name: of the one to evade, or `TOGETHER`.
        images, labels, **options: as in `attack.pgd`; labels are the target.
        classes: class indices whose IoU counts.
        weight: of the score where it is above `ALMOST`.

    Source: Carlini and Wagner, arXiv:1705.07263 (a detector's score as a term of the loss).
    """
    require(weight > 0, "weight", weight, "give a number above 0")

    def loss(logits, labels):
        own, score = logits[:, :-1], logits[:, -1].mean(dim=(1, 2))
        fit = iou_loss(own, labels, classes=classes) + 3 * cross_entropy(own, labels)
        return fit + weight * score

    return pgd(
        _Watched(network, watch, name).eval(),
        images,
        labels,
        loss=loss,
        targeted=True,
        direction="adam",
        momentum=0.5,
        schedule=lambda progress: 20 * (1 - progress),
        region=labels != OUTSIDE,
        **options,
    )


def auc(clean: Any, attacked: Any) -> float:
    """Area under the ROC curve: share of the pairs in which the attacked image scores higher."""
    clean, attacked = np.asarray(clean), np.asarray(attacked)
    return float(mannwhitneyu(attacked, clean).statistic / (len(clean) * len(attacked)))
