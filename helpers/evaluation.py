"""Intersection over union per image and structure, tidy tables with intervals, and the paper's numbers beside ours."""

import numpy as np
import pandas as pd
from scipy.ndimage import center_of_mass, shift
from scipy.stats import bootstrap
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from helpers.loss import check_classes


def iou_table(predictions, labels, *, ids, structures, **columns):
    """Tidy table of `iou`: a row for each case and structure.

    Args:
        predictions, labels: int64 (N, H, W), classes 1 … K in the order of `structures`.
        ids: the N cases.
        structures: the K names.
        **columns: constant columns to put in front.

    Returns:
        DataFrame with the constant columns, id, structure, iou.
    """
    values = iou(predictions, labels, classes=range(1, len(structures) + 1)).cpu().numpy()
    index = pd.MultiIndex.from_product([ids, structures], names=["id", "structure"])
    return (
        pd.DataFrame({"iou": values.ravel()}, index=index)
        .reset_index()
        .assign(**columns)[[*columns, "id", "structure", "iou"]]
    )


def freed_share(truth, target, predictions, *, structure, neighbour, ids, structures):
    """Share of the pixels that a shrunken structure sets free which the network gives to a neighbour.

    Args:
        truth, target, predictions: int64 (N, H, W): before, what was wanted, and what came out.
        structure, neighbour: names out of `structures`.
        ids, structures: as in `iou_table`.

    Returns:
        DataFrame with structure, id, share [percent; NaN where no pixel was set free].

    Source: paper, section 3.3: the lung closes around a shrunken clavicle. Differs: measured, not only shown.
    """
    own, other = (1 + tuple(structures).index(name) for name in (structure, neighbour))
    freed = (truth == own) & (target == 0)
    taken = (freed & (predictions == other)).sum(dim=(1, 2)) / freed.sum(dim=(1, 2))
    return pd.DataFrame({"structure": structure, "id": ids, "share": 100 * taken.cpu().numpy()})


def align(maps, masks):
    """Move each map so that its mask's centre of mass comes to the middle of a frame twice as large, elsewhere 0.

    Args:
        maps: float (N, H, W).
        masks: bool (N, H, W), none of them empty.

    Returns:
        float32 (N, 2H, 2W) array.
    """
    moved, border = [], [((length + 1) // 2, length // 2) for length in masks.shape[1:]]
    for values, mask in zip(np.asarray(maps.cpu()), np.asarray(masks.cpu()), strict=True):
        values, mask = np.pad(values, border), np.pad(mask, border)
        move = (np.array(mask.shape) - 1) / 2 - center_of_mass(mask)
        whole = np.floor(
            move + 0.5
        )  # np.round takes halves now up, now down: equal masks would not meet
        moved.append(shift(values.astype(np.float32), whole, order=0))
    return np.stack(moved)


def energy_shares(noise, zones):
    """Where the noise is: share of its sum of squares in each zone [percent], mean over images.

    Args:
        noise: (N, C, H, W).
        zones: dict from a name to bool (N, H, W).

    Returns:
        dict from the name to a number; NaN if there is no noise.
    """
    energy = noise.square().sum(dim=1)
    whole = energy.sum(dim=(1, 2))
    return {
        name: float(100 * ((energy * zone).sum(dim=(1, 2)) / whole).mean())
        for name, zone in zones.items()
    }


def display_window(centre, width):
    """Least and greatest intensity that a display window shows; one of width 2 or more shows the whole range −1 … 1.

    Raises:
        ValueError: the width is not above 0.
    """
    if not width > 0:
        raise ValueError(
            f"window is {width}; it must be above 0: the width of the intensities that are shown"
        )
    return (-1.0, 1.0) if width >= 2 else (centre - width / 2, centre + width / 2)


def visibility(images, adv_images, *, centre, width):
    """How much an observer with a display window could notice: PSNR and SSIM of the windowed images.

    Args:
        images, adv_images: (N, 1, H, W).
        centre: N middles of the window, or one for all [units of the images].
        width: of the window, see `display_window`; what lies outside is black or white.

    Returns:
        DataFrame with psnr [dB, infinite for equal images] and ssim (at most 1), a row for each image.

    Source: the limitation named in the paper's section 4.
    """
    rows = []
    for image, adv_image, middle in zip(
        images, adv_images, np.broadcast_to(centre, len(images)), strict=True
    ):
        low, high = display_window(middle, width)
        a, b = (
            ((part[0].cpu().numpy() - low) / (high - low)).clip(0, 1) for part in (image, adv_image)
        )
        with np.errstate(divide="ignore"):
            psnr = peak_signal_noise_ratio(a, b, data_range=1.0)
        rows.append({"psnr": psnr, "ssim": structural_similarity(a, b, data_range=1.0)})
    return pd.DataFrame(rows, columns=["psnr", "ssim"])


def bootstrap_interval(values, *, level=0.95, seed=0):
    """Percentile bootstrap interval of the mean (9,999 resamples); (NaN, NaN) for fewer than two values."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return np.nan, np.nan
    result = bootstrap(
        (values,),
        np.mean,
        n_resamples=9999,
        confidence_level=level,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def summarise(table, *, by):
    """Mean IoU over cases with its bootstrap 95 % interval.

    A case's value is the mean over its structures where the IoU is defined; a case without one is left out of n.

    Args:
        table: rows with id and iou, as `iou_table` makes them.
        by: the columns that say what is compared, in the order wanted.

    Returns:
        DataFrame with the columns of `by`, n, iou, low, high, in order of first appearance.
    """
    cases = table.groupby([*by, "id"], sort=False)["iou"].mean()
    rows = []
    for key, values in cases.groupby(level=by, sort=False):
        key = key if isinstance(key, tuple) else (key,)
        rows.append([*key, values.count(), values.mean(), *bootstrap_interval(values)])
    return pd.DataFrame(rows, columns=[*by, "n", "iou", "low", "high"])


def iou(predictions, labels, *, classes):
    """Intersection over union ×100 of two label maps, per image and class.

    Args:
        predictions, labels: int64 (N, H, W).
        classes: the K class indices to score.

    Returns:
        float32 (N, K) in [0, 100]: NaN where a class is in neither map, 0 where it is in one of them only.

    Raises:
        ValueError: the shapes differ, or `classes` are not class indices.
    """
    if predictions.shape != labels.shape:
        raise ValueError(
            f"predictions have shape {tuple(predictions.shape)}, labels {tuple(labels.shape)}"
        )
    classes = check_classes(classes).to(labels.device)[:, None, None]
    predicted, true = predictions[:, None] == classes, labels[:, None] == classes  # (N, K, H, W)
    union = (predicted | true).sum(dim=(2, 3))
    return 100 * (predicted & true).sum(dim=(2, 3)).float() / union  # 0 / 0 is NaN
