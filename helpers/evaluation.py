"""Metrics of predictions, noise and attacked images; means with intervals."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pandas import DataFrame
from scipy.ndimage import center_of_mass
from torch import Tensor

from helpers.common.arguments import require
from helpers.labels import counted, picture_box
from helpers.loss import check_classes

Names = Sequence[str]
REACHED = 80.0  # IoU × 100 with a symbol that counts as drawn


def iou(predictions: Tensor, labels: Tensor, *, classes: Iterable) -> Tensor:
    """Intersection over union ×100 of two label maps, per image and class.

    Args:
        predictions, labels: int64 (N, H, W); pixels whose label is not `labels.counted` are left
            out.
        classes: the K class indices to score.

    Returns:
        float32 (N, K) in [0, 100]: NaN where a class is in neither map, 0 where it is in one of
        them only.

    Raises:
        ValueError: the shapes differ, or `classes` are not class indices.
    """
    shapes = tuple(predictions.shape), tuple(labels.shape)
    require(shapes[0] == shapes[1], "shape of predictions and labels", shapes, "give equal ones")
    indices = check_classes(classes).to(labels.device)[:, None, None]
    true = labels[:, None] == indices  # (N, K, H, W)
    predicted = (predictions[:, None] == indices) & counted(labels)[:, None]
    union = (predicted | true).sum(dim=(2, 3))
    return 100 * (predicted & true).sum(dim=(2, 3)).float() / union  # 0 / 0 is NaN


def iou_table(
    predictions: Tensor,
    labels: Tensor,
    *,
    ids: Names,
    structures: Names,
    **columns: Any,
) -> DataFrame:
    """Tidy table of `iou`: a row for each case and structure.

    Args:
        predictions, labels: int64 (N, H, W), classes 1 … K in the order of `structures`.
        ids: the N cases.
        structures: the K names.
        **columns: constant columns to put in front.

    Returns:
        The constant columns, id, structure, iou.
    """
    values = iou(predictions, labels, classes=range(1, len(structures) + 1))
    table = DataFrame(product(ids, structures), columns=["id", "structure"])
    return table.assign(iou=values.cpu().numpy().ravel(), **columns)[[*columns, *table, "iou"]]


def freed_share(
    truth: Tensor,
    target: Tensor,
    predictions: Tensor,
    *,
    structure: str,
    neighbour: str,
    ids: Names,
    structures: Names,
) -> DataFrame:
    """Share of the pixels freed by a shrunken structure that the network gives to a neighbour.

    Args:
        truth, target, predictions: int64 (N, H, W): before, what was wanted, and what came out.
        structure, neighbour: names out of `structures`.
        ids, structures: as in `iou_table`.

    Returns:
        structure, id, share [percent; NaN where no pixel was set free].

    Source: paper, section 3.3: the lung closes around a shrunken clavicle. Differs: measured, not
    only shown.
    """
    own, other = (structures.index(name) + 1 for name in (structure, neighbour))
    freed = (truth == own) & (target == 0)
    taken = freed & (predictions == other)
    share = 100 * (taken.sum(dim=(1, 2)) / freed.sum(dim=(1, 2)))
    return DataFrame({"structure": structure, "id": ids, "share": share.cpu().numpy()})


def align(maps: Tensor, masks: Tensor) -> np.ndarray:
    """Move each map so that its mask's centre of mass is in the middle of a frame twice as large.

    Args:
        maps: float (N, H, W).
        masks: bool (N, H, W), none of them empty.

    Returns:
        float32 (N, 2H, 2W), 0 around the maps.
    """
    number, height, width = masks.shape
    frames = np.zeros((number, 2 * height, 2 * width), dtype=np.float32)
    for frame, values, mask in zip(frames, maps.cpu(), masks.cpu(), strict=True):
        y, x = center_of_mass(mask.numpy())
        # not rounded: halves would go now up, now down, and equal masks would not meet
        top, left = int(height - y), int(width - x)
        frame[top : top + height, left : left + width] = values
    return frames


def energy_shares(noise: Tensor, zones: Mapping) -> dict:
    """Where the noise is: share of its sum of squares in each zone [percent], mean over images.

    Args:
        noise: (N, C, H, W).
        zones: bool (N, H, W) each.

    Returns:
        The share of each zone; NaN if there is no noise.
    """
    energy = noise.square().sum(dim=1)
    whole = energy.sum(dim=(1, 2))
    return {
        name: float(100 * ((energy * zone).sum(dim=(1, 2)) / whole).mean())
        for name, zone in zones.items()
    }


def display_window(centre: float, width: float) -> tuple:
    """Least and greatest intensity that a display window shows.

    A window of width 2 or more shows the whole range −1 … 1.

    Raises:
        ValueError: the width is not above 0.
    """
    require(width > 0, "window", width, "it must be above 0: the width of what is shown")
    if width >= 2:
        return -1.0, 1.0
    return centre - width / 2, centre + width / 2


def visibility(
    images: Tensor,
    adv_images: Tensor,
    *,
    centre: ArrayLike,
    width: float,
    labels: Tensor,
) -> DataFrame:
    """How much an observer could notice in a display window: PSNR and SSIM of the windowed images.

    Args:
        images, adv_images: (N, 1, H, W).
        centre: N middles of the window, or one for all [units of the images].
        width: of the window, see `display_window`; what lies outside is black or white.
        labels: (N, H, W), whose padding is left out.

    Returns:
        psnr [dB, infinite for equal images] and ssim (at most 1), a row for each image.

    Source: the limitation named in the paper's section 4.
    """
    from skimage import metrics  # half a second, which the workers of a sweep do not need

    rows = []
    centres = np.broadcast_to(centre, len(images))
    for *pair, middle, own in zip(images, adv_images, centres, labels, strict=True):
        low, high = display_window(middle, width)
        box = picture_box(own.cpu().numpy())
        shown = [((part[0].cpu().numpy()[box] - low) / (high - low)).clip(0, 1) for part in pair]
        with np.errstate(divide="ignore"):
            psnr = metrics.peak_signal_noise_ratio(*shown, data_range=1.0)
        rows.append((psnr, metrics.structural_similarity(*shown, data_range=1.0)))
    return DataFrame(rows, columns=["psnr", "ssim"])


def bootstrap_interval(values: ArrayLike) -> tuple:
    """Percentile bootstrap 95 % interval of the mean (9,999 resamples), NaN values left out.

    Args:
        values: (cases,) or (networks, cases); of the latter both are resampled.

    Returns:
        (low, high); of fewer than two cases (NaN, NaN).
    """
    known = np.atleast_2d(np.asarray(values, dtype=float))
    known = known[:, ~np.isnan(known).all(axis=0)]
    if known.shape[1] < 2:
        return np.nan, np.nan
    rng = np.random.default_rng(0)
    networks, cases = (rng.integers(size, size=(9999, size)) for size in known.shape)
    drawn = known[networks[:, :, None], cases[:, None, :]]
    low, high = np.nanpercentile(np.nanmean(drawn, axis=(1, 2)), (2.5, 97.5))
    return float(low), float(high)


def summarise(table: DataFrame, *, by: list, value: str = "iou") -> DataFrame:
    """Mean IoU over cases with its bootstrap 95 % interval.

    A case's value is the mean over its structures where the IoU is defined; a case without one is
    left out of n.

    Args:
        table: rows with id and iou, as `iou_table` makes them.
        by: the columns that say what is compared, in the order wanted.
        value: the column that is averaged.

    Returns:
        The columns of `by`, n, iou (or the value), low, high, in order of first appearance.
    """
    cases = table.groupby([*by, "id"], sort=False)[value].mean()
    groups = cases.groupby(level=by, sort=False)
    rows = [[values.count(), values.mean(), *bootstrap_interval(values)] for _, values in groups]
    summary = DataFrame(rows, groups.size().index, columns=["n", value, "low", "high"])
    return summary.reset_index()


def in_truth(
    table: DataFrame, truth: Tensor, ids: Sequence, structures: Sequence[str]
) -> DataFrame:
    """The rows whose structure is in the truth of their case; of others nothing can be lost.

    Args:
        table: rows with id and structure, as `iou_table` makes them.
        truth: int64 (N, H, W).
        ids: the N names of the cases.
        structures: names of the classes 1 … S.
    """
    there = {
        (id, name)
        for id, labels in zip(ids, truth, strict=True)
        for number, name in enumerate(structures, 1)
        if (labels == number).any()
    }
    return table[[pair in there for pair in zip(table["id"], table["structure"], strict=True)]]


def worst_of(table: DataFrame, *, by: list, over: str = "attack", most: bool = True) -> DataFrame:
    """The worst of several attacks for each case: that with the highest, or lowest, mean IoU.

    Args:
        table: rows with id and iou, as `iou_table` makes them.
        by: the columns that say what is compared.
        over: the column of the attacks.
        most: whether the highest IoU is the worst, as it is with a target.

    Returns:
        The columns of `by`, id, `over` (the attack that won), iou, for `summarise`.

    Source: Croce et al., arXiv:2306.12941 (the worst case of each image, not the best attack).
    """
    cases = table.groupby([*by, "id", over], sort=False)["iou"].mean().dropna()
    groups = cases.groupby(level=[*by, "id"], sort=False)
    return cases.loc[groups.idxmax() if most else groups.idxmin()].reset_index()


def tabulate_gains(results: DataFrame, structure: str) -> DataFrame:
    """IoU of the structure with its target on each network and over all, beside no attack.

    Args:
        results: what `sweep.run` returned, with the columns step, symbol and target (the network
            that is attacked); a step is "no attack".
        structure: that is to become a symbol.

    Returns:
        step, symbol, target, n (cases), iou, low, high, gain (over no attack of the same case and
        network) with gain_low and gain_high, others (IoU of the other structures with their
        targets), reached (share of the cases at 80 or more [percent]). Target "all" is the mean
        over networks, with an interval over these and the cases.
    """
    by = ["step", "symbol", "target"]
    shown = results[results["compared_with"] == "target"]
    is_own = shown["structure"] == structure
    own = shown[is_own].groupby([*by, "id"], sort=False)["iou"].mean().unstack("id")
    others = shown[~is_own].groupby(by, sort=False)["iou"].mean().reindex(own.index)
    rows = []
    for (step, symbol), ious in own.groupby(level=by[:2], sort=False):
        targets = ious.index.get_level_values("target")
        start = own.loc[[("no attack", symbol, target) for target in targets]]
        gains = ious - start.to_numpy()
        for target in [*targets, "all"]:
            which = ious.index[(targets == target) | (target == "all")]
            each, more = ious.loc[which], gains.loc[which]
            means = each.mean().mean(), *bootstrap_interval(each)
            gain = more.mean().mean(), *bootstrap_interval(more)
            reached = 100 * (each >= REACHED).to_numpy().mean()
            rest = others.loc[which].mean()
            rows.append((step, symbol, target, each.shape[1], *means, *gain, rest, reached))
    names = "n iou low high gain gain_low gain_high others reached"
    return DataFrame(rows, columns=[*by, *names.split()])
