"""How far attacks get in how many steps, on networks that `fast_pgd` was tuned on and others.

``PYTHONPATH=. .venv/peers/bin/python tests/benchmarks/strength.py --hannover FOLDER`` (MONAI comes with `make bench`). Each network's
rows are kept in runs/strength/ once they are measured; a later call goes on there.
"""

import argparse
import sys
from functools import partial

import pandas as pd
import torch
from ensemble import worst_case
from peers import machine
from zoo import members

from helpers.attack import FAST_VERSION, fast_pgd, pgd
from helpers.common.paths import FIGURES, RUNS
from helpers.common.provenance import commit
from helpers.evaluation import iou, summarise
from helpers.loss import iou_loss
from helpers.network import find_precision, predict
from helpers.study.publish import copy_files
from helpers.study.readme import renew_readme
from helpers.tables import write_table
from helpers.targets import SMALL, heart_symbol, resize_structure

CASES = 8
STEPS = {pgd: (100,), fast_pgd: (10, 20, 30, 100)}
NAMES = {pgd: "PGD", fast_pgd: "faster"}
KEYS = ["network", "tuned_on", "goal", "epsilon"]


def goals(member, truth, ids):
    """Label maps to reach by (goal, ε), with the classes that are scored; None is untargeted."""
    data = member.data
    structures = data.structures
    heart = "heart" in structures
    structure = "heart" if heart else "left lung"
    symbol = partial(heart_symbol, truth, structure, structures, ids=ids)
    own = [structures.index(structure) + 1]
    sizes = {"small symbol": SMALL, "large symbol": 2.25 if heart else 1.0}
    levels = (0.02, 0.04) if member.name in ("quick", "full") else (0.04,)
    found = {}
    for name, ratio in sizes.items():
        for epsilon in levels:
            found[name, epsilon] = symbol(area_ratio=ratio).labels, own
    for epsilon in (0.01, 0.02):
        found["untargeted", epsilon] = None, list(data.classes)
    if member.name == "full":
        for lung in ("left lung", "right lung"):
            for factor in (0.4, 1.8):
                made = resize_structure(truth, lung, structures, factor=factor, ids=ids)
                scored = [structures.index(lung) + 1]
                found[f"{lung} × {factor}", 0.04] = made.labels, scored
    return found


def attacked_images(member, images, labels, options, ensemble):
    """Attack, steps and images, one after the other."""
    classes = list(member.data.classes)
    loss = partial(iou_loss, classes=classes)
    yield "no attack", 0, images
    for attack, counts in STEPS.items():
        for steps in counts:
            result = attack(member.network, images, labels, loss=loss, steps=steps, **options)
            yield NAMES[attack], steps, result.adv_images
    if ensemble:
        worst = worst_case(member.network, images, labels, classes=classes, steps=100, **options)
        yield "worst of six", 100, worst.adv_images


def measure(member, ensemble):
    """Table of one network, a row a case: IoU × 100 of what is scored, mean of the others'."""
    ids = member.data.split["test"][:CASES]
    images, truth = member.data.take(ids)
    tables = []
    for (goal, epsilon), (target, own) in goals(member, truth, ids).items():
        others = [c for c in member.data.classes if c not in own] or own
        labels = truth if target is None else target
        options = {"epsilon": epsilon, "targeted": target is not None}
        suite = ensemble and epsilon == 0.04
        for attack, steps, shown in attacked_images(member, images, labels, options, suite):
            maps = predict(member.network, shown)
            scores = [iou(maps, labels, classes=c).nanmean(dim=1).numpy() for c in (own, others)]
            about = dict(zip(KEYS, [member.name, member.tuned, goal, epsilon], strict=True))
            about["attack"] = f"{attack} {steps}".removesuffix(" 0")
            tables.append(pd.DataFrame({"id": ids, "iou": scores[0], "others": scores[1]} | about))
            print(*about.values(), *(f"{score.mean():.1f}" for score in scores), flush=True)
    return pd.concat(tables).assign(weights=member.digest[:12])


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hannover", default="", help="folder of the Hannover collection")
    parser.add_argument("--only", nargs="*", help="names of networks")
    parser.add_argument(
        "--ensemble", nargs="*", default=["quick"], help="with the whole suite, too"
    )
    parser.add_argument("--publish", action="store_true", help="copy the table to figures/")
    arguments = parser.parse_args()
    known = members(arguments.hannover)
    code = commit()  # of the code that runs, whatever is committed meanwhile
    for name in arguments.only or ():
        if name not in known:
            parser.error(f"--only {name!r}: there are {', '.join(known)}")
    tables = []
    for name in arguments.only or known:
        path = RUNS / "strength" / f"{name.replace(' ', '_')}_v{FAST_VERSION}.csv"
        if not path.exists():
            table = measure(known[name](), name in arguments.ensemble)
            write_table(path, table, {"commit": code})
        tables.append(pd.read_csv(path))
    table = pd.concat(tables)
    keys = [*KEYS, "attack"]
    table["tuned_on"] = table["tuned_on"].map({True: "yes", False: "no"})
    summary = summarise(table, by=keys)
    rest = table.groupby(keys, sort=False)["others"].mean().reset_index()
    summary = summary.merge(rest, on=keys)
    about = {
        "dataset": "phantom, Hannover" if arguments.hannover else "phantom",
        "weights": " ".join(table["weights"].unique()),
        "seed": 0,
        "commit": " ".join(table["commit"].unique()),
        "precision": find_precision("auto"),
    }
    about |= {name: value for name, value in machine().items() if name not in about}
    path = RUNS / "attack_strength.csv"
    write_table(path, summary, about)
    print(f"written to {path}")
    if arguments.publish:
        print(*copy_files([path], FIGURES), *renew_readme(), sep="\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
