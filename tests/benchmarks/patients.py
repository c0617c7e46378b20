"""How well a network that was trained on phantoms alone finds the lungs and the heart of patients:
``.venv/bin/python tests/benchmarks/patients.py --root FOLDER``, a folder with outlines of both lungs.

Choices are made on one half of the patients and reported on the other.
"""

import argparse
import time
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
from helpers.world import randomise

CLASSES = {name: number for number, name in enumerate(STRUCTURES, 1)}


def measure(found, data):
    """One row a case, of label maps (N, H, W) in the classes of the phantoms.

    Columns: IoU (x 100) of the right lung, of the left lung, and of the left lung with the heart,
    with the lungs as drawn by an observer, whose left lung goes on behind the heart; IoU of each whole
    lung, which is the lung with its clavicle and, on the left, the heart's part on that side of the
    midline; the heart's share of the image [percent]; whether one piece holds nine tenths of it;
    whether it is between the lungs.
    """
    rows = []
    for id, labels, classes in zip(data.ids, data.labels, found, strict=True):
        part = {name: classes == number for name, number in CLASSES.items()}
        heart, left, right = part["heart"], part["left lung"], part["right lung"]
        truth = {side: labels == data.class_of(f"{side} lung") for side in ("left", "right")}
        on_the_left = torch.arange(data.size) > (_middle(left) + _middle(right)) / 2
        whole_left = left | part["left clavicle"] | heart & on_the_left
        whole_right = right | part["right clavicle"]
        rows.append(
            {
                "case": id,
                "right": _iou(right, truth["right"]),
                "left": _iou(left, truth["left"]),
                "left+heart": _iou(left | heart, truth["left"]),
                "whole right": _iou(whole_right, truth["right"]),
                "whole left": _iou(whole_left, truth["left"]),
                "heart": 100 * heart.float().mean().item(),
                "one piece": _largest(heart) >= 0.9 * heart.sum().item() > 0,
                "between": _middle(right) < _middle(heart) < _middle(left),
            }
        )
    return pd.DataFrame(rows)


def _largest(mask):
    """Pixels of the largest connected piece."""
    pieces, _ = label(mask.numpy())
    return np.bincount(pieces.ravel())[1:].max(initial=0)


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
            print(f"a batch of 4 drawn anew in the world: {_seconds(recipe.size):.3f} s")
        if asked.cases:
            print(table.round(1).to_string())


def _phantoms(trained):
    """Mean IoU (x 100) of each structure of the phantoms' own test cases."""
    data = load("phantom", size=trained.recipe.size)
    images, labels = data.take("test")
    return iou(predict(trained.network, images), labels, classes=data.classes).mean(dim=0)


def _seconds(size, batches=10):
    """Processor time of `world.randomise` for a batch of 4 [s]."""
    images, labels = load("phantom", size=size, test_cases=4).take("test")
    generator = torch.Generator().manual_seed(0)
    randomise(images, labels, generator)
    started = time.process_time()
    for _ in range(batches):
        randomise(images, labels, generator)
    return (time.process_time() - started) / batches


if __name__ == "__main__":
    main()
