"""Networks that were trained on phantoms alone, and what they see in patients' radiographs.

``python -m helpers.patients target 256`` trains one, resumably, unless it is there: those that come
with the study were made so.
"""

import argparse
import json
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pandas import DataFrame, concat
from scipy.ndimage import label
from torch import Tensor, nn

from helpers.common.files import digest_json
from helpers.common.paths import PUBLISHED
from helpers.data import Dataset, load
from helpers.evaluation import iou_table
from helpers.labels import OUTSIDE
from helpers.network import predict
from helpers.outputs import logits_of, with_background
from helpers.phantom import STRUCTURES
from helpers.training import train
from helpers.weights import Trained, load_weights

PHANTOMS = 800  # beyond the study's, in which patients differ more
RECIPE: dict[str, Any] = {
    "epochs": 20,
    "augmentation": "world",
    "precision": "bf16",
    "schedule": "growing",
}
# The target sees a whole radiograph at once; the attacker does not know its depth.
SHAPES: dict[str, dict[str, Any]] = {
    "target": {"depth": 5, "features": 6},
    "surrogate": {"depth": 4, "features": 8},
}
LUNGS = ("left lung", "right lung")
# Observers of lungs alone draw them on behind these, which the study's label maps cut out of them.
COVERS = {"left lung": "heart", "right lung": "right clavicle"}
AREA = (3, 14)  # of a plausible heart [percent of the image]


def train_on_phantoms(role: str, size: int) -> Trained:
    """Train the network "target" or "surrogate" on phantoms of the size [pixels], or find it."""
    data = load("phantom", size=size, extra=PHANTOMS)
    return train(data, role, **RECIPE, **SHAPES[role])


def find_network(role: str, size: int) -> Trained:
    """The network that comes with the study for a role, trained at the nearest size [pixels]."""
    found = {}
    for path in PUBLISHED.glob("*.json"):
        recipe = json.loads(path.read_bytes())["recipe"]
        if recipe["augmentation"] == "world" and recipe["depth"] == SHAPES[role]["depth"]:
            found[recipe["size"]] = path
    nearest = min(found, key=lambda known: abs(known - size))
    trained = load_weights(found[nearest].with_suffix(".safetensors"))
    network: Any = trained.network
    network.structures = STRUCTURES
    return trained


def target() -> nn.Module:
    """For the parameter `network`: trained on phantoms of 256 pixels."""
    return find_network("target", 256).network


def surrogate() -> nn.Module:
    """For the parameter `surrogate`: likewise, of another depth, split and seed."""
    return find_network("surrogate", 256).network


def example(trained: Trained) -> Dataset:
    """A real radiograph with what one of these networks sees in it as the truth."""
    recipe: Any = trained.recipe
    return outline(load("example", size=recipe.size), trained)


def outline(dataset: Dataset, trained: Trained) -> Dataset:
    """The same images with a network's own outlines as the truth, of all its structures.

    Args:
        dataset: whose labels do not count, except for OUTSIDE.
        trained: a network of N classes, best with the attribute `structures`.
    """
    network: Any = copy(trained.network)
    network.order = None  # of another dataset's structures
    device = next(iter(network.parameters()), torch.empty(0)).device
    labels = predict(network, dataset.images.to(device)).cpu()
    with torch.no_grad():
        count = with_background(logits_of(network, dataset.images[:1].to(device))).shape[1]
    names = getattr(network, "structures", None)
    structures = tuple(names or (f"class {k}" for k in range(1, count)))
    return replace(
        dataset,
        structures=structures,
        labels=labels.masked_fill(dataset.labels == OUTSIDE, OUTSIDE),
        digest=digest_json([dataset.digest, trained.digest]),
        origin=None,
    )


def compare(drawn: Dataset, trained: Trained) -> tuple:
    """How a network's outlines agree with an observer's, whose lungs go on behind heart and bones.

    Args:
        drawn: all its cases count; lungs as an observer drew them, and no heart.
        trained: a network of one's own that knows lungs and heart.

    Returns:
        A table with a row for each case and structure (id, structure, iou × 100), and that of
        `find_hearts`; (None, None) if there are no such structures. The structure "left lung with
        the heart" counts what the network calls heart within the observer's left lung as found,
        "right lung with the right clavicle" likewise.
    """
    known = getattr(trained.network, "structures", None) or ()
    if not {"heart", *LUNGS} <= set(known) or set(drawn.structures) != set(LUNGS):
        return None, None
    seen = outline(drawn, trained)
    maps = torch.zeros_like(drawn.labels)
    for name in LUNGS:
        maps[seen.labels == seen.class_of(name)] = drawn.class_of(name)
    about = {"ids": drawn.ids, "structures": drawn.structures}
    tables = [iou_table(maps, drawn.labels, **about)]
    for lung, cover in COVERS.items():
        if cover in known:
            number = drawn.class_of(lung)
            covered = (seen.labels == seen.class_of(cover)) & (drawn.labels == number)
            whole = iou_table(maps.masked_fill(covered, number), drawn.labels, **about)
            whole = whole[whole["structure"] == lung]
            tables.append(whole.replace(lung, f"{lung} with the {cover}"))
    return concat(tables), find_hearts(seen)


def find_hearts(seen: Dataset) -> DataFrame:
    """Whether each case's heart is where and as large as a heart is.

    Returns:
        A row for each case: id; area [percent of the image]; largest, the share of its largest
        piece [percent]; between, whether its middle column is between those of the lungs; and
        plausible, if the area is from 3 to 14, the largest piece 90 or more, and it is between.
    """
    rows = []
    for id, labels in zip(seen.ids, seen.labels, strict=True):
        heart, left, right = (labels == seen.class_of(name) for name in ("heart", *LUNGS))
        pieces, _ = label(heart.numpy())
        largest = np.bincount(pieces.ravel())[1:].max(initial=0)
        row = {"id": id, "area": 100 * heart.float().mean().item()}
        row["largest"] = 100 * largest / max(int(heart.sum()), 1)
        row["between"] = _middle(right) < _middle(heart) < _middle(left)
        fits = AREA[0] <= row["area"] <= AREA[1]
        rows.append(row | {"plausible": fits and row["largest"] >= 90 and row["between"]})
    return DataFrame(rows)


def _middle(mask: Tensor) -> float:
    """Mean column of a mask; not a number if it is empty."""
    return mask.nonzero()[:, 1].float().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m helpers.patients", description=__doc__)
    parser.add_argument("role", choices=SHAPES)
    parser.add_argument("size", type=int, help="of the phantoms [pixels]")
    asked = parser.parse_args()
    train_on_phantoms(asked.role, asked.size)
