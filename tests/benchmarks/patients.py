"""How well a network that was trained on phantoms alone finds the lungs and the heart of patients:
``.venv/bin/python tests/benchmarks/patients.py --root FOLDER``, a folder with outlines of both lungs.

Choices are made on one half of the patients and reported on the other.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import label

from helpers.common.paths import PUBLISHED
from helpers.data import load
from helpers.evaluation import iou
from helpers.network import predict
from helpers.phantom import STRUCTURES
from helpers.weights import load_weights

HEART, LEFT, RIGHT = (STRUCTURES.index(name) + 1 for name in ("heart", "left lung", "right lung"))
LUNGS = ("left lung", "right lung")


def measure(found, data):
    """One row a case, of label maps (N, H, W) in the classes of the phantoms.

    Columns: IoU (x 100) of the right lung, of the left lung, of the left lung with the heart (the
    outlines of some observers go on behind it) and with the heart's part on the left lung's side;
    the heart's share of the image; whether its largest part holds nine tenths of it; whether its
    middle is between the lungs'.
    """
    left, right = (data.labels == data.class_of(name) for name in LUNGS)
    heart = found == HEART
    rows = []
    for case, map in enumerate(found):
        centre = {part: _middle(map == part) for part in (HEART, LEFT, RIGHT)}
        near = heart[case] & (torch.arange(data.size) > (centre[LEFT] + centre[RIGHT]) / 2)
        lung = map == LEFT
        parts, _ = label(heart[case].numpy())
        largest = np.bincount(parts[parts > 0], minlength=1).max()
        rows.append(
            {
                "case": data.ids[case],
                "right": _iou(map == RIGHT, right[case]),
                "left": _iou(lung, left[case]),
                "left+heart": _iou(lung | heart[case], left[case]),
                "left+near heart": _iou(lung | near, left[case]),
                "heart": 100 * heart[case].float().mean().item(),
                "whole": largest >= 0.9 * max(int(heart[case].sum()), 1),
                "between": centre[RIGHT] < centre[HEART] < centre[LEFT],
            }
        )
    return pd.DataFrame(rows)


def _iou(one, other):
    return 100 * ((one & other).sum() / (one | other).sum()).item()


def _middle(mask):
    """Mean column of a mask; not a number if it is empty."""
    return mask.nonzero()[:, 1].float().mean().item()


def halves(ids, root):
    """0 or 1 of each case: its patient's place, even or odd, among the sorted patients."""
    index = pd.read_csv(root / "index.csv", dtype=str).set_index("id")["patient"]
    patients = sorted(index[list(ids)].unique())
    return np.array([patients.index(index[id]) % 2 for id in ids])


def main():
    """Print a line for each half, and on request each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", type=Path, nargs="*", help="default: all of data/weights")
    parser.add_argument("--cases", action="store_true", help="print each case")
    asked = parser.parse_args()
    for path in asked.weights or sorted(PUBLISHED.glob("*.safetensors")):
        trained = load_weights(path)
        recipe = trained.recipe
        data = load("folder", root=asked.root, size=recipe.size)
        table = measure(predict(trained.network, data.images), data)
        table["half"] = halves(data.ids, asked.root)
        print(f"{path.stem}, {recipe.augmentation}, {recipe.size}²")
        print(table.drop(columns="case").groupby("half").mean().round(1).to_string())
        if recipe.dataset == "phantom":
            print("phantoms' test cases:", *[f"{value:.1f}" for value in _phantoms(trained)])
        if asked.cases:
            print(table.round(1).to_string())


def _phantoms(trained):
    """Mean IoU (x 100) of each structure of the phantoms' own test cases."""
    data = load("phantom", size=trained.recipe.size)
    images, labels = data.take("test")
    return iou(predict(trained.network, images), labels, classes=data.classes).mean(dim=0)


if __name__ == "__main__":
    main()
