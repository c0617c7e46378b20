"""The cardiothoracic ratio: width of the heart over inner width of the thorax, from outlines.

Both widths are horizontal, from one end of the structure to the other: the heart's, and that from
the outer end of one lung to the outer end of the other. The outline of a structure is where its
mask, blurred over a pixel, falls to one half: exact at a straight edge, and finer than a pixel at a
round one, where it weighs how much of the last columns is filled. The longest outline counts, that
of the largest component, so that stray pixels do not.

Source: Danzer, Am J Med Sci 157:513 (1919), who takes more than .5 for an enlarged heart; extents
of segmented heart and lungs: Chamveha et al., arXiv:2002.07468.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter
from skimage.measure import find_contours
from torch import Tensor

from helpers.common.arguments import require, require_choice
from helpers.evaluation import summarise
from helpers.loss import check_classes, with_background
from helpers.targets import resize_structure

HEART, LUNG = "heart", "lung"
ENLARGED = 0.5  # a heart above this ratio counts as enlarged
MISS = 0.02  # by which a stretched heart may miss its ratio, beside a pixel at either end
# limits of agreement of a network's ratio with a reading: Li et al., IEEE Access 7 (2019)
PUBLISHED = (-0.0256, 0.0264)
MOVED = ("heart", "thorax", "both")
PARTS = ("heart", "thorax")
ENDS = ("left", "right", "row")
MARGIN = 5  # around a mask that is blurred [pixels]
ROWS = 3  # pixels of a column that make it part of a soft width
SMOOTH = 1e-6  # added to it [pixels]


def ratio_classes(structures: Sequence[str]) -> tuple[int, ...]:
    """Classes of the heart and of the two lungs.

    Args:
        structures: names of the classes 1 … S; a lung is what has "lung" in its name.

    Raises:
        ValueError: there is no heart, or there are not two lungs.
    """
    lungs = [number for number, name in enumerate(structures, start=1) if LUNG in name]
    wanted = f"the cardiothoracic ratio needs {HEART!r} and two whose names hold {LUNG!r}"
    fits = HEART in structures and len(lungs) == 2
    require(fits, "structures", tuple(structures), wanted)
    return list(structures).index(HEART) + 1, *lungs


def calipers(maps: Tensor, structures: Sequence[str]) -> pd.DataFrame:
    """Where the widths are measured, and the ratio.

    Args:
        maps: label maps (N, H, W).
        structures: names of the classes 1 … S.

    Returns:
        A row for each map: left, right and row of heart and thorax, as heart_left … [pixels; the
        middle of the first pixel is 0], heart and thorax (widths [pixels]) and ratio; NaN where a
        structure is missing.
    """
    classes = ratio_classes(structures)
    rows = []
    for labels in maps.cpu().numpy():
        heart, *lungs = (_outline(labels == number) for number in classes)
        rows.append([*_ends(heart), *_ends(np.concatenate(lungs))])
    names = [f"{part}_{end}" for part in PARTS for end in ENDS]
    table = pd.DataFrame(rows, columns=names, dtype=float)
    for part in PARTS:
        table[part] = table[f"{part}_right"] - table[f"{part}_left"]
    return table.assign(ratio=table["heart"] / table["thorax"])


def cardiothoracic_ratio(maps: Tensor, structures: Sequence[str]) -> np.ndarray:
    """The ratio of each label map (N, H, W): float (N,), NaN where heart or a lung is missing."""
    return calipers(maps, structures)["ratio"].to_numpy()


def _outline(mask):
    """Longest outline of a mask, points (K, 2) of row and column; NaN where there is none."""
    lines = find_contours(gaussian_filter(np.pad(mask.astype(float), MARGIN), 1.0), 0.5)
    return max(lines, key=len) - MARGIN if lines else np.full((1, 2), np.nan)


def _ends(points):
    """Left and right end of an outline, and the row between them."""
    ends = points[[points[:, 1].argmin(), points[:, 1].argmax()]]
    return [*ends[:, 1], ends[:, 0].mean()]


def caliper_lines(own: Mapping[str, float], tick: float) -> list:
    """Widths of a row of `calipers` as lines (6, 2) of x and y, with a tick at either end."""
    lines = []
    for part in PARTS:
        left, right, row = (own[f"{part}_{end}"] for end in ENDS)
        ends = [left, left, left, right, right, right]
        line = np.column_stack([ends, row + tick * np.array([-1, 1, 0, 0, -1, 1])])
        if not np.isnan(line).any():
            lines.append(line)
    return lines


def diagnosis(ratio: float) -> str:
    """The word for a ratio: "normal", "enlarged" or "not readable"."""
    if np.isnan(ratio):
        return "not readable"
    return "enlarged" if ratio > ENLARGED else "normal"


def other_side(ratio: float, *, margin: float) -> float:
    """The ratio that lies a margin beyond .5, seen from a ratio; a ValueError if that is NaN."""
    advice = "heart and lungs must be there: choose another case"
    require(np.isfinite(ratio), "cardiothoracic ratio", ratio, advice)
    return ENLARGED + (margin if ratio <= ENLARGED else -margin)


def stretch_heart(
    labels: Tensor, structures: Sequence[str], *, wanted: float, ids: Sequence = ()
) -> Tensor:
    """Targets in which the heart is stretched horizontally until the ratio is what is wanted.

    It is stretched about its centre of mass, in whole pixels. The other structures stay; where the
    heart meets them, the earlier class wins.

    Args:
        labels: int64 (N, H, W), as of `targets.resize_structure`.
        structures: names of the classes 1 … S.
        wanted: the ratio, between 0 and 1.
        ids: the N names of the cases for error messages; default their numbers from 0.

    Returns:
        int64 (N, H, W).

    Raises:
        ValueError: the ratio is not between 0 and 1, a case lacks the heart or a lung, or its heart
            cannot be stretched so, for structures of earlier classes or the border cut it off.
    """
    require(0 < wanted < 1, "cardiothoracic ratio", wanted, "give one between 0 and 1")
    targets = []
    ratios = cardiothoracic_ratio(labels, structures)
    for own, ratio, id in zip(labels, ratios, ids or range(len(labels)), strict=True):
        advice = f"case {id} needs a heart and two lungs; leave it out"
        require(np.isfinite(ratio), "cardiothoracic ratio", ratio, advice)
        factor = 1.0, wanted / ratio
        target = resize_structure(own[None], HEART, structures, factor=factor, ids=[id])
        targets.append(target.labels)
        reached = round(float(cardiothoracic_ratio(target.labels, structures)[0]), 3)
        fits = abs(reached - wanted) <= MISS + 2 / own.shape[1]
        advice = f"{wanted:g} does not fit: let the heart come before the lungs, or leave it out"
        require(fits, f"cardiothoracic ratio of the target of case {id}", reached, advice)
    return torch.cat(targets) if targets else labels


def ratio_loss(
    logits: Tensor, labels: Tensor, *, classes: Sequence[int], moved: str = "both"
) -> Tensor:
    """Distance of a differentiable cardiothoracic ratio to that of the labels.

    A soft width goes from the heart's centre in the labels to both sides. A column counts as much
    as the mean of its three greatest probabilities (for the heart's width that of the heart, for
    the thorax's that of heart or lungs), times all columns between it and the centre. It is
    right where the network is sure inside of its outlines.

    Args:
        logits: (N, C, H, W), before softmax.
        labels: int64 (N, H, W): the target; its heart and lungs say what ratio is wanted.
        classes: heart, lung and lung, see `ratio_classes`.
        moved: the width that the gradient changes, one of MOVED.

    Returns:
        (N,), each ≥ 0.

    Raises:
        ValueError: there are not three classes, or `moved` is another word.
    """
    require_choice("moved", moved, MOVED)
    require(len(classes) == 3, "classes", classes, "give those of the heart and of two lungs")
    logits = with_background(logits)
    parts = check_classes(classes, logits.shape[1]).to(logits.device)
    aimed = (labels[:, None] == parts[:, None, None]).float()
    columns = torch.arange(labels.shape[2], device=labels.device)
    mass = aimed[:, 0].sum(dim=1)  # of the heart, (N, W)
    centre = (mass * columns).sum(dim=1, keepdim=True) / mass.sum(dim=1, keepdim=True).clamp(min=1)
    wanted = torch.div(*_soft_widths(aimed, columns, centre))
    probabilities = logits.float().softmax(dim=1)[:, parts]
    heart, thorax = _soft_widths(probabilities, columns, centre)
    if moved == "heart":
        thorax = thorax.detach()
    elif moved == "thorax":
        heart = heart.detach()
    return (heart / thorax - wanted).abs()


def _soft_widths(masks, columns, centre):
    """Widths (N,) of heart and thorax from soft masks (N, 3, H, W) of heart and lungs."""
    filled = masks.topk(ROWS, dim=2).values.mean(dim=2)  # (N, 3, W)
    width = len(columns)
    widths = []
    for profile in (filled[:, 0], filled.amax(dim=1)):
        sides = (profile, columns >= centre), (profile.flip(1), columns > width - 1 - centre)
        reach = [
            side.where(beyond, 1).cumprod(dim=1).where(beyond, 0).sum(dim=1)
            for side, beyond in sides
        ]
        widths.append(sum(reach) + SMOOTH)
    return widths


# Tables


def agreement(measured: ArrayLike, reference: ArrayLike) -> dict:
    """Bland–Altman: mean and limits (± 1.96 standard deviations) of the differences of N readings.

    Returns:
        n, bias, limit_low, limit_high; pairs with a NaN are left out.

    Source: Bland and Altman, Lancet 327:307 (1986).
    """
    differences = np.subtract(measured, reference)
    known = differences[np.isfinite(differences)]
    spread = 1.96 * known.std(ddof=1) if len(known) > 1 else np.nan
    bias = known.mean() if len(known) else np.nan
    limits = {"limit_low": bias - spread, "limit_high": bias + spread}
    return {"n": len(known), "bias": bias, **limits}


def has_crossed(before: ArrayLike, after: ArrayLike, *, margin: float) -> np.ndarray:
    """Whether ratios have moved to the other side of .5, a margin beyond it; NaN has not."""
    was_normal = np.asarray(before) <= ENLARGED
    beyond = np.asarray(after) - ENLARGED
    crossed = np.where(was_normal, beyond >= margin, beyond <= -margin)
    return crossed & np.isfinite(np.asarray(before))


def ratio_table(
    maps: Mapping,
    ids: Mapping,
    before: pd.Series,
    structures: Sequence[str],
    *,
    names: Sequence[str],
    margin: float,
) -> pd.DataFrame:
    """Ratios after attacks beside those before: a row for each attack and case.

    Args:
        maps: from the parts of an attack's name to label maps (N, H, W).
        ids: from the same to the N cases.
        before: ratio without attack of every case.
        structures: names of the classes 1 … S.
        names: of the columns that hold the parts of a name.
        margin: as of `has_crossed`.

    Returns:
        The columns of `names`, id, after, before, shift, crossed.
    """
    ratios = {key: cardiothoracic_ratio(each, structures) for key, each in maps.items()}
    parts = {key: pd.DataFrame({"id": ids[key], "after": after}) for key, after in ratios.items()}
    table = pd.concat(parts, names=names).droplevel(-1).reset_index()
    start = before[table["id"]].to_numpy()
    shift = table["after"] - start
    crossed = has_crossed(start, table["after"], margin=margin)
    return table.assign(before=start, shift=shift, crossed=crossed)


def summarise_shift(table: pd.DataFrame, *, by: list) -> pd.DataFrame:
    """Mean shift with its bootstrap 95 % interval, and the share of cases that crossed.

    Args:
        table: of `ratio_table`.
        by: the columns that say what is compared.

    Returns:
        The columns of `by`, n, shift, low, high, crossed [percent of all cases].
    """
    summary = summarise(table, by=by, value="shift")
    share = 100 * table.groupby(by, sort=False)["crossed"].mean()
    return summary.assign(crossed=share.to_numpy())
