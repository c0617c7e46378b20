"""Attacks on networks whose weights are unknown: moves, several surrogates, questions."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from helpers.adapters import frozen_copy
from helpers.augmentation import affine_maps, change_intensity, elastic_field, warp
from helpers.common.arguments import require, require_choice, whole_number
from helpers.data import Dataset
from helpers.evaluation import iou
from helpers.labels import OUTSIDE
from helpers.loss import Loss
from helpers.network import Network
from helpers.noise import Seed, generators, jitter, random_keys
from helpers.outputs import logits_of
from helpers.recorder import Transform

VERSION = 2  # of attacks with a `Transfer`: raise it with a change that alters results
MOVES = ("nothing", "image", "both")
COMBINATIONS = ("losses", "logits")
SHARE = 0.7  # of the copies that are changed, likewise for each kind of change
ELASTIC = 4.0  # strength of elastic moves in units of the training's

# Numbers of queries at which the changed share of the image is halved
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
LARGEST = 0.1  # share of the image that the first squares cover


@dataclass(frozen=True)
class Transfer:
    """What an attack does so that its noise works on networks that it does not know.

    Attributes:
        stride: length of a step [shares of ε].
        momentum: as in `attack.pgd`.
        move: what is moved at each step: "nothing"; the "image" alone, as libraries for classifiers
            do; or "both", image and target.
        elastic, intensity: whether they are also bent, and changed in gamma, contrast, brightness.
        smooth: sigma of the Gaussian that the gradient is filtered with [pixels]; 0 for none.
        copies: changed copies at each step.
        others: digests of further surrogates.
        combine: what is averaged over surrogates, their "losses" or "logits".
        noise: sigma of the Gaussian noise on each copy [units of the images]; then nothing moves.
        version: of what this module does.
    """

    stride: float = 0.05
    momentum: float = 0.0
    move: str = "nothing"
    elastic: bool = False
    intensity: bool = False
    smooth: float = 0.0
    copies: int = 1
    others: tuple[str, ...] = ()
    combine: str = "losses"
    noise: float = 0.0
    version: int = VERSION

    def __post_init__(self) -> None:
        self.options()  # names a move and a smoothing that cannot be
        require_choice("combine", self.combine, COMBINATIONS)
        whole_number("copies", self.copies)
        require(self.momentum >= 0, "momentum", self.momentum, "give a number of 0 or more")
        require(0 < self.stride <= 2, "stride", self.stride, "give a share of ε, 2 at most")
        still = not (self.elastic or self.intensity) and self.move == "nothing"
        wanted = "give 0 or more, and above 0 nothing that moves"
        require(self.noise == 0 or (self.noise > 0 and still), "noise", self.noise, wanted)

    def options(self, steps: bool = True) -> dict[str, Any]:
        """Arguments of `attack.pgd`; without `steps`, those that `fast_pgd` takes as well."""
        factor = 20 * self.stride  # of the usual ε / 20
        options: dict[str, Any] = {"copies": self.copies}
        if steps:
            options |= {"schedule": lambda progress: factor, "momentum": self.momentum}
        if self.noise:
            options["transform"] = jitter(self.noise)
        elif self.move != "nothing" or self.elastic or self.intensity:
            options["transform"] = mover(self.move, elastic=self.elastic, intensity=self.intensity)
        if self.smooth:
            options["smooth"] = smoother(self.smooth)
        return options


def mover(move: str = "both", *, elastic: bool = False, intensity: bool = False) -> Transform:
    """A `transform` of `attack.pgd` that moves images, and their labels with them.

    Each change is made to `SHARE` of the copies. The border is repeated.

    Args:
        move: one of MOVES; what is rotated by ±10°, scaled by .87–1.15, shifted by ±8 %.
        elastic: whether it is bent, too, by `ELASTIC` times the training's elastic field.
        intensity: whether gamma, contrast and brightness change as in training.

    Source: Xie et al., arXiv:1803.06978. Differs: the target moves along, the border is repeated,
    and each image is moved in its own way.
    """
    require_choice("move", move, MOVES)
    bends = elastic and move == "nothing"
    require(not bends, "move", move, "say what is bent: the image, or both image and target")

    def transform(images: Tensor, labels: Tensor, keys: Sequence[Hashable]):
        draws, fields = [], []
        for generator in generators(keys, len(images)):
            draws.append(torch.rand(11, generator=generator))
            fields.append(elastic_field(1, images.shape[-1], generator))
        draw = torch.stack(draws)
        turned, bent, brighter = (draw[:, 8:, None, None] < SHARE).unbind(dim=1)  # (N, 1, 1) each
        number = 2 * draw[:, :8] - 1
        matrix = affine_maps(number, turned)
        field = torch.cat(fields) * bent[:, None] * (ELASTIC * elastic)
        if move != "nothing":
            images, moved = warp(images, labels, field, matrix=matrix)
            labels = moved if move == "both" else labels
        if intensity:
            images = change_intensity(images, number[:, 5:], brighter)
        return images, labels

    return transform


def smoother(sigma: float) -> Callable[[Tensor], Tensor]:
    """A `smooth` of `attack.pgd`: a Gaussian filter, the border repeated.

    Args:
        sigma: [pixels], above 0; the filter ends at 3 sigma.

    Source: Dong et al., arXiv:1904.02884.
    """
    require(sigma > 0, "sigma", sigma, "give a number of pixels above 0")
    reach = max(1, round(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()

    def smooth(gradient: Tensor) -> Tensor:
        lines = kernel.to(gradient).expand(gradient.shape[1], 1, 1, -1)
        for weights in (lines, lines.mT):
            height, width = (side // 2 for side in weights.shape[2:])
            padded = pad(gradient, (width, width, height, height), mode="replicate")
            gradient = conv2d(padded, weights, groups=len(lines))
        return gradient

    return smooth


class Ensemble(nn.Module):
    """Several networks as one, with the channels of all of them; for losses of `over_networks`.

    An IoU of such channels means nothing: `classes`, `stop_at` and the `guide` of `fast_pgd` do not
    apply.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        answers = [logits_of(network, images) for network in self.networks]
        shapes = {tuple(answer.shape[1:]) for answer in answers}
        wanted = "give surrogates of the same number of classes"
        require(len(shapes) == 1, "logits of the surrogates", sorted(shapes), wanted)
        return torch.cat(answers, dim=1)


def over_networks(loss: Loss, count: int, combine: str = "losses") -> Loss:
    """A loss of the logits of an `Ensemble` of so many networks.

    Args:
        loss: of the logits of one network.
        count: of the networks.
        combine: "losses", the mean of their losses; or "logits", the loss of their mean logits.

    Source: Liu et al., arXiv:1611.02770; Dong et al., arXiv:1710.06081 (logits).
    """
    require_choice("combine", combine, COMBINATIONS)

    def mean_loss(logits, labels):
        each = logits.chunk(count, dim=1)
        if combine == "logits":
            return loss(torch.stack(each).mean(dim=0), labels)
        return torch.stack([loss(part, labels) for part in each]).mean(dim=0)

    return mean_loss


def alignment(
    network: Network, other: Network, images: Tensor, labels: Tensor, *, loss: Loss
) -> Tensor:
    """Cosine of the angle between two networks' gradients of the loss at each image, (N,).

    Args:
        network, other, images, labels, loss: as in `attack.pgd`, in float32.

    Source: Demontis et al., arXiv:1809.02861.
    """
    gradients = []
    for each in (network, other):
        with frozen_copy(each, example=images, precision="fp32") as frozen:
            x = images.detach().requires_grad_()
            total = loss(frozen(x), labels).sum()
            gradients.append(torch.autograd.grad(total, x)[0].flatten(1))
    return torch.cosine_similarity(gradients[0], gradients[1], dim=1)


def universal(
    network: Network,
    images: Tensor,
    labels: Tensor,
    *,
    loss: Loss,
    epsilon: float,
    steps: int = 20,
    transform: Transform | None = None,
    seed: int = 0,
) -> Tensor:
    """One noise that makes the network see the targets of many images, as well as it can.

    At each step it moves by ε / 10 along the sign of the sum of the gradients so far, of another
    batch of images.

    Args:
        network, images, labels, loss, epsilon, transform: as in `attack.pgd`, targeted; without
            images there is no noise to find.
        steps: of a batch of eight images each.
        seed: of the order of the images, and of the transform's draws.

    Returns:
        (1, C, H, W) within ±ε.

    Source: Metzen et al., arXiv:1704.05712. Differs: every pixel counts, whether it is won or not.
    """
    require(len(images), "number of images", len(images), "give one or more")
    noise = torch.zeros_like(images[:1])
    sums = torch.zeros_like(noise)
    generator = torch.Generator().manual_seed(seed)
    with frozen_copy(network, example=images) as frozen:
        for step in range(whole_number("steps", steps)):
            chosen = torch.randperm(len(images), generator=generator)[:8]
            x = noise.clone().requires_grad_()
            wanted = labels[chosen]
            shown = (images[chosen] + x * (wanted != OUTSIDE)[:, None]).clamp(-1, 1)
            if transform:
                keys = [(step, seed, int(place)) for place in chosen]
                shown, wanted = transform(shown, wanted, keys)
            total = loss(frozen(shown), wanted).sum()
            gradient = torch.autograd.grad(total, x)[0]
            sums += gradient / gradient.abs().mean().clamp(min=1e-30)
            noise = (noise - epsilon / 10 * sums.sign()).clamp(-epsilon, epsilon)
    return noise


def ask(
    answer: Callable[[Tensor], Tensor],
    images: Tensor,
    adv_images: Tensor,
    labels: Tensor,
    *,
    classes: Sequence[int],
    epsilon: float | Tensor,
    queries: int,
    seed: Seed = 0,
) -> Tensor:
    """Random search that asks a network for label maps only, towards a target.

    A query sets the noise of a square, or of a band across the image, to +ε or −ε; it is kept where
    the mean IoU of the classes rises. More queries go on where fewer end.

    Args:
        answer: function of images (N, C, H, W) that returns label maps int64 (N, H, W).
        images: (N, C, H, W) in [−1, 1], without attack.
        adv_images: likewise, where the search starts; within ε of the images.
        labels: int64 (N, H, W), the target.
        classes: class indices whose mean IoU decides.
        epsilon: largest noise [units of the images], of every pixel or (N, 1, H, W) of each.
        queries: 1 or more, of which the first is the start's.
        seed: of squares and bands, as in `noise.uniform_noise`.

    Returns:
        (N, C, H, W) within ε of the images, nowhere with a lower IoU than the start.

    Source: Andriushchenko et al., arXiv:1912.00049 (squares, their sizes); label maps instead of
    scores and the bands are ours.
    """
    queries = whole_number("queries", queries)
    best = adv_images.clone()
    limits = epsilon * torch.ones_like(images[:, :1])
    draws = [*generators(random_keys(seed, len(images)), len(images))]
    reached = _mean_iou(answer(best), labels, classes)
    for query in range(1, queries):
        share = LARGEST / 2 ** sum(query >= number for number in HALVINGS)
        patches = torch.stack([_patch(draw, images.shape[2:], share) for draw in draws])
        patches = patches.to(images)[:, None]
        tried = torch.where(patches == 0, best, (images + patches * limits).clamp(-1, 1))
        now = _mean_iou(answer(tried), labels, classes)
        won = now > reached
        best[won], reached[won] = tried[won], now[won]
    return best


def _mean_iou(maps, labels, classes):
    return iou(maps, labels, classes=classes).nanmean(dim=1).nan_to_num(100)


def _patch(generator, shape, share):
    """±1 in a square or a band of a share of the image, 0 elsewhere: (H, W)."""
    kind, sign, *corner = torch.rand(4, generator=generator).tolist()
    height, width = shape
    side = (share * height * width) ** 0.5
    sides = [side, side]
    if kind < 1 / 3:
        sides = [height, share * width]
    elif kind < 2 / 3:
        sides = [share * height, width]
    patch = torch.zeros(shape)
    spans = []
    for place, wanted, most in zip(corner, sides, shape, strict=True):
        length = min(most, max(1, round(wanted)))
        begin = int(place * (most - length + 1))
        spans.append(slice(begin, begin + length))
    patch[tuple(spans)] = 1 if sign < 0.5 else -1
    return patch


def other_cases(data: Dataset) -> dict[str, Dataset]:
    """The dataset with other cases for the surrogate to train on.

    Returns:
        "disjoint cases": `spare` ones, as many as the surrogate has if there are so many, less of
        them none; "a quarter of the cases": of the surrogate's, each of them four times an epoch.
    """
    own, validation = (data.split[f"surrogate-{part}"] for part in ("training", "validation"))
    free = data.spare
    few = min(len(validation), len(free) * len(validation) // len(own + validation))
    changes = {"a quarter of the cases": {"surrogate-training": own[::4] * 4}}
    if few:
        training = free[few:][: len(own)]
        disjoint = {"surrogate-validation": free[:few], "surrogate-training": training}
        changes = {"disjoint cases": disjoint} | changes
    return {name: replace(data, split=data.split | parts) for name, parts in changes.items()}
