"""Why the paper's attack does not shrink a lung here: explanations against each other.

``.venv/bin/python tests/benchmarks/shrinking.py --root FOLDER --publish``; the folder is one of real radiographs. A network's
rows are kept in runs/shrinking/; a later call goes on there.
"""

import argparse
import sys
from functools import partial

import pandas as pd
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from helpers import patients
from helpers.attack import pgd
from helpers.common.paths import FIGURES, RUNS
from helpers.common.provenance import provenance
from helpers.data import load
from helpers.evaluation import iou, summarise
from helpers.labels import counted
from helpers.loss import soft_iou
from helpers.network import find_precision, predict
from helpers.study.publish import copy_files
from helpers.study.readme import renew_readme
from helpers.tables import write_table
from helpers.targets import resize_structure
from helpers.training import train

CASES = 6
FACTOR = 0.4
EPSILON = 0.04
STEPS = 100
KEYS = ["network", "images", "structure", "way"]


def mean_iou(logits, labels, classes, divisor=1.0):
    return -soft_iou(logits / divisor, labels, classes=classes).mean(dim=1)


def log_iou(logits, labels, classes):
    return -soft_iou(logits, labels, classes=classes).log().mean(dim=1)


def pixels(logits, labels, classes):
    """Mean cross-entropy of the labelled pixels."""
    mask = counted(labels)
    losses = cross_entropy(logits.float(), labels.where(mask, 0), reduction="none")
    return (losses * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2))


def ways(classes, own):
    """Loss and ε by what they test."""
    everything = partial(mean_iou, classes=classes)
    return {
        "IoU of all, as in the paper": (everything, EPSILON),
        "twice the noise": (everything, 2 * EPSILON),
        "logits / 4, less sure": (partial(mean_iou, classes=classes, divisor=4), EPSILON),
        "log IoU of all, small targets weigh more": (partial(log_iou, classes=classes), EPSILON),
        "IoU of the lung alone": (partial(mean_iou, classes=[own]), EPSILON),
        "cross-entropy": (partial(pixels, classes=classes), EPSILON),
    }


def conflict(network, images, labels, own, others):
    """Cosine between the gradients of the lung's IoU and of the others', per image."""
    gradients = []
    for classes in ([own], others):
        x = images.clone().requires_grad_()
        loss = mean_iou(network(x), labels, classes).sum()
        gradients.append(torch.autograd.grad(loss, x)[0].flatten(1))
    return cosine_similarity(*gradients)


def measure(name, data, trained):
    """Rows of one network on one dataset."""
    network = trained.network
    ids = data.split["test"][:CASES]
    images, truth = data.take(ids)
    tables = []
    for lung in ("left lung", "right lung"):
        own = data.class_of(lung)
        others = [c for c in data.classes if c != own]
        target = resize_structure(truth, lung, data.structures, factor=FACTOR, ids=ids).labels
        for way, (loss, epsilon) in ways(list(data.classes), own).items():
            options = {"epsilon": epsilon, "steps": STEPS, "targeted": True}
            attacked = pgd(network, images, target, loss=loss, **options).adv_images
            maps = predict(network, attacked)
            table = pd.DataFrame({"id": ids})
            table["iou"] = iou(maps, target, classes=[own])[:, 0].numpy()
            table["others"] = iou(maps, target, classes=others).nanmean(dim=1).numpy()
            table["cosine"] = conflict(network, attacked, target, own, others).numpy()
            about = dict(zip(KEYS, [name, data.name, lung, way], strict=True))
            tables.append(table.assign(**about))
            print(*about.values(), *table[["iou", "others", "cosine"]].mean().round(2), flush=True)
    return pd.concat(tables)


def networks(root):
    """What is measured by name: a function to the dataset and the network."""

    def full():
        data = load("phantom", size=256, test_cases=CASES)
        return data, train(data, "target", depth=3, epochs=60)

    def on_phantoms():
        return load("phantom", size=256, test_cases=CASES), patients.find_network("target", 256)

    def on_patients():
        trained = patients.find_network("target", 256)
        images = load("folder", root=root, size=256, masks=False, test_cases=CASES)
        return patients.outline(images, trained), trained

    found = {"full": full, "patients on phantoms": on_phantoms}
    return found | ({"patients on patients": on_patients} if root else {})


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="", help="folder of real radiographs")
    parser.add_argument("--publish", action="store_true", help="copy the table to figures/")
    arguments = parser.parse_args()
    tables = []
    for name, make in networks(arguments.root).items():
        path = RUNS / "shrinking" / f"{name.replace(' ', '_')}.csv"
        if not path.exists():
            data, trained = make()
            about = provenance(data, [trained], steps=STEPS, precision=find_precision("auto"))
            write_table(path, measure(name, data, trained), about)
        tables.append(pd.read_csv(path))
    table = pd.concat(tables)
    means = table.groupby(KEYS, sort=False)[["others", "cosine"]].mean().reset_index()
    summary = summarise(table, by=KEYS).merge(means.round(3), on=KEYS)
    names = ("size", "weights", "steps", "seed", "precision", "torch", "device", "commit")
    about = {name: " ".join(table[name].astype(str).unique()) for name in names}
    path = RUNS / "lung_shrinking.csv"
    write_table(path, summary, {"dataset": " ".join(table["dataset"].unique())} | about)
    print(f"written to {path}")
    if arguments.publish:
        print(*copy_files([path], FIGURES), *renew_readme(), sep="\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
