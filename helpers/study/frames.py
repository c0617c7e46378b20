"""What the page's slider shows of an attack: pictures and outlines of some cases at every ε."""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from skimage.measure import approximate_polygon, find_contours

from helpers.common.files import write_file

FILE, NUMBERS = "frames.json", "frames.csv"
SHOWN = ("no attack", "white-box", "black-box")
KEYS = ["id", "symbol", "attack", "epsilon"]
WIDTH = 512  # pixels of all cases side by side, which makes 1 to 2 MB
SHADES = 7  # of either sign in which noise is kept
COLOURS = matplotlib.colormaps["RdBu_r"](np.linspace(0, 1, 2 * SHADES + 1))


def tabulate_frames(results: pd.DataFrame, structure: str) -> pd.DataFrame:
    """IoU × 100 with the target of each structure, and the mean of all but one ("the others").

    Args:
        results: a table of `sweep.run` with the columns symbol, attack and epsilon.
        structure: the one that is to become a symbol.
    """
    is_shown = results["attack"].isin(SHOWN) & (results["compared_with"] == "target")
    rows = results.loc[is_shown, [*KEYS, "structure", "iou"]]
    others = rows[rows["structure"] != structure].groupby(KEYS, sort=False)["iou"].mean()
    return pd.concat([rows, others.reset_index().assign(structure="the others")])


def write_frames(
    path: Path,
    ids: Sequence[str],
    adv_images: Mapping,
    predictions: Mapping,
    targets: Mapping,
    structures: Sequence[str],
    structure: str,
) -> list:
    """Write pictures, noise and outlines of the first cases; the smaller they are, the more.

    Pictures are grey in 8 bits, noise is in steps of ε / 7, both deflated: a page adds them up.

    Args:
        path: of the file.
        ids: the N cases.
        adv_images: from (symbol, attack, epsilon) to images (N, 1, H, W).
        predictions: from the same to label maps (N, H, W).
        targets: from the symbol to label maps (N, H, W).
        structures: names of the classes 1 … K.
        structure: the one that is to become a symbol.

    Returns:
        The ids of these cases.
    """
    size = next(iter(predictions.values())).shape[-1]
    shown = list(ids)[: max(1, WIDTH // size)]
    classes = range(1, len(structures) + 1)
    own = structures.index(structure) + 1
    frames, pictures = [], {}
    for key, images in adv_images.items():
        symbol, attack, epsilon = key
        clean = adv_images[symbol, "no attack", 0.0]
        for k, id in enumerate(shown if attack in SHOWN else []):
            labels = np.asarray(predictions[key][k])
            noise = np.asarray(images[k, 0] - clean[k, 0]) / (epsilon or 1)
            frame = dict(zip(KEYS, (id, *key), strict=True))
            frame["noise"] = _pack(noise * SHADES, np.int8)
            frame["outlines"] = [_outline(labels == c) for c in classes]
            frame["target"] = _outline(np.asarray(targets[symbol][k]) == own)
            frames.append(frame)
            pictures[id] = _pack((np.asarray(clean[k, 0]) + 1) * 127.5, np.uint8)
    about = {"structures": structures, "structure": structure, "size": size, "total": len(ids)}
    about |= {"colours": [*map(to_hex, COLOURS)], "pictures": pictures, "frames": frames}
    write_file(path, json.dumps(about))
    return shown


def _pack(values, kind):
    packed = zlib.compress(values.round().astype(kind).tobytes(), 9)
    return base64.b64encode(packed).decode()


def read_frames(folder: Path) -> dict:
    """What `write_frames` wrote, with the rows of the table as `scores`."""
    frames = json.loads((folder / FILE).read_text(encoding="utf-8"))
    types = dict.fromkeys(("id", "structure"), str)  # an id may look like a number
    missing = {"keep_default_na": False, "na_values": {"iou": [""]}}  # no name is a missing value
    table = pd.read_csv(folder / NUMBERS, dtype=types, **missing)
    scores = table[[*KEYS, "structure", "iou"]].astype({"iou": object})
    return frames | {"scores": scores.where(scores.notna(), None).to_dict("records")}


def _outline(mask):
    """Outlines of a mask (H, W) as SVG path data [half pixels from the corner]; "" for none."""
    path = ""
    for line in find_contours(np.pad(mask, 1), 0.5):  # half a pixel outside of the corner
        points = 2 * approximate_polygon(line, 0.4)[:, ::-1].round(1) - 1
        x, y = points[0]
        steps = np.diff(points[:-1], axis=0)  # "z" closes the line
        path += f"M{x:.0f} {y:.0f}l" + " ".join(f"{dx:.0f} {dy:.0f}" for dx, dy in steps) + "z"
    return path
