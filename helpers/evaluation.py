"""Intersection over union per image and structure, tidy tables with intervals, and the paper's numbers beside ours."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import center_of_mass, shift
from scipy.stats import bootstrap
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from helpers.files import commit, replacing
from helpers.loss import iou

PAPER = Path(__file__).with_name("paper.csv")
# columns of tables that are not rounded
EXACT = ("epsilon", "factor", "window", "ssim", "seconds_per_image_step", "seconds_per_image")
PAPER_STRUCTURES = ("heart", "left clavicle", "right clavicle", "left lung", "right lung")


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
        whole = np.floor(move + 0.5)  # np.round takes halves now up, now down: equal masks would not meet
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
    return {name: float(100 * ((energy * zone).sum(dim=(1, 2)) / whole).mean()) for name, zone in zones.items()}


def display_window(centre, width):
    """Least and greatest intensity that a display window shows; one of width 2 or more shows the whole range −1 … 1.

    Raises:
        ValueError: the width is not above 0.
    """
    if not width > 0:
        raise ValueError(f"window is {width}; it must be above 0: the width of the intensities that are shown")
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
    for image, adv_image, middle in zip(images, adv_images, np.broadcast_to(centre, len(images)), strict=True):
        low, high = display_window(middle, width)
        a, b = (((part[0].cpu().numpy() - low) / (high - low)).clip(0, 1) for part in (image, adv_image))
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
    result = bootstrap((values,), np.mean, n_resamples=9999, confidence_level=level, method="percentile",
                       vectorized=True, rng=np.random.default_rng(seed))  # fmt: skip
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


def beside_paper(summary, table, *, structures=PAPER_STRUCTURES):
    """Add the column `paper`: the paper's value for each row, NaN where it has none.

    Args:
        summary: a table from `summarise`.
        table: "clean", "table1", "table2", "table3" or "table4".
        structures: of the dataset; if they are not the paper's five, no value of the paper is comparable.

    Raises:
        ValueError: unknown table.

    Source: the paper's Tables 1–4 and the clean IoUs in their captions.
    """
    paper = pd.read_csv(PAPER)
    if table not in set(paper["table"]):
        raise ValueError(f"table {table!r} is unknown; choose one of {', '.join(paper['table'].unique())}")
    paper = paper[paper["table"] == table].dropna(axis="columns", how="all").drop(columns="table")
    keys = [column for column in paper.columns if column != "paper"]
    if missing := [key for key in keys if key not in summary.columns]:
        raise ValueError(f"the summary has no column {missing[0]!r}; {table} of the paper goes by {', '.join(keys)}")
    if tuple(structures) != PAPER_STRUCTURES:
        return summary.assign(paper=np.nan)
    return summary.merge(paper, how="left", on=keys)


def shown(iou, low, high):
    """Text such as "25.3 (22.1–28.4)": a mean with its interval, where it has one."""
    return f"{iou:.1f} ({low:.1f}–{high:.1f})" if low == low else f"{iou:.1f}"


def side_by_side(summary, *, columns):
    """Wide table for reading: ours with its interval, and the paper's value below where there is one.

    Args:
        summary: a table from `summarise` or `beside_paper`.
        columns: the column whose values become columns, such as "epsilon": numbers by size, names as they come.

    Returns:
        DataFrame of texts such as "25.3 (22.1–28.4)".
    """
    keys = [name for name in summary.columns if name not in (columns, "n", "iou", "low", "high", "paper")]
    ours = [shown(row.iou, row.low, row.high) for row in summary.itertuples()]
    parts = [summary[[*keys, columns]].assign(source="ours", text=ours)]
    if "paper" in summary:
        known = summary[summary["paper"].notna()]
        parts.append(known[[*keys, columns]].assign(source="paper", text=known["paper"].map("{:.1f}".format)))
    rows = pd.concat(parts).set_index([*keys, "source", columns])["text"].unstack(columns).fillna("")
    if not pd.api.types.is_numeric_dtype(summary[columns]):
        rows = rows[[value for value in summary[columns].unique() if value in rows.columns]]
    keys = summary[keys].drop_duplicates().itertuples(index=False)
    wanted = [(*key, source) for key in keys for source in ("ours", "paper")]
    return rows.reindex([key for key in wanted if key in rows.index])


def markdown(table):
    """Markdown of a DataFrame of texts and numbers, without its index; what is missing stays empty."""
    cells = table.astype(object).fillna("").astype(str).to_numpy().tolist()
    lines = [[*map(str, table.columns)], ["---"] * table.shape[1], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def provenance(dataset, networks, *, steps=None, seed=0):
    """Where a table or figure comes from: dataset, size, depth, weights, steps, seed, commit, as a dict.

    Args:
        dataset: a `helpers.data.Dataset`.
        networks: the `helpers.training.Trained` that took part.
        steps: of the attack, if there is one.
        seed: of the run.
    """
    depths = sorted({trained.recipe.depth for trained in networks})
    weights = "/".join(trained.digest[:12] for trained in networks)
    return {
        "dataset": dataset.name, "size": dataset.size, "depth": "/".join(map(str, depths)), "weights": weights,
        "steps": "" if steps is None else steps, "seed": seed, "commit": commit(),
    }  # fmt: skip


def write_table(path, table, provenance):
    """Write a table as CSV (two decimals, but what is in EXACT), its provenance in the last columns."""
    with replacing(path, "w") as file:
        exact = {name: table[name].map(str) for name in EXACT if name in table}
        table.assign(**exact, **provenance).to_csv(file, index=False, float_format="%.2f", lineterminator="\n")
