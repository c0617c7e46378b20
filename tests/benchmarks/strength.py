"""How far attacks get in how many steps, on networks that `fast_pgd` was tuned on and others.

``.venv/peers/bin/python tests/benchmarks/strength.py --hannover FOLDER`` (MONAI comes with `make bench`). Each network's
rows are kept in runs/strength/ once they are measured; a later call goes on there.
"""

import argparse
import platform
import sys
from functools import partial

import pandas as pd
import torch
from zoo import members

from helpers.attack import FAST_VERSION, fast_pgd, pgd
from helpers.common.files import atomic_write
from helpers.common.paths import FIGURES, RUNS
from helpers.common.provenance import commit
from helpers.ensemble import worst_case
from helpers.evaluation import iou
from helpers.loss import iou_loss
from helpers.network import find_precision, predict
from helpers.study.readme import renew_readme
from helpers.tables import write_table
from helpers.targets import SMALL, heart_symbol, resize_structure

CASES = 8
STEPS = {pgd: (100,), fast_pgd: (10, 20, 30, 100)}
NAMES = {pgd: "PGD", fast_pgd: "faster"}
KEYS = ["network", "tuned_on", "goal", "epsilon", "attack", "steps"]


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
        yield "worst case of six", 100, worst.adv_images


def measure(member, ensemble):
    """Table of one network: IoU × 100 of what is scored, and of the other structures."""
    ids = member.data.split["test"][:CASES]
    images, truth = member.data.take(ids)
    rows = []
    for (goal, epsilon), (target, own) in goals(member, truth, ids).items():
        others = [c for c in member.data.classes if c not in own]
        labels = truth if target is None else target
        options = {"epsilon": epsilon, "targeted": target is not None}
        for attack, steps, shown in attacked_images(member, images, labels, options, ensemble):
            maps = predict(member.network, shown)
            score = iou(maps, labels, classes=own).nanmean().item()
            rest = iou(maps, labels, classes=others).nanmean().item() if others else None
            about = [member.name, member.tuned, goal, epsilon, attack, steps]
            rows.append([*about, len(ids), score, rest])
            print(*about, f"{score:.1f}", flush=True)
    table = pd.DataFrame(rows, columns=[*KEYS, "n", "iou", "others"])
    return table.assign(weights=member.digest[:12], size=member.data.size)


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
    for name in arguments.only or ():
        if name not in known:
            parser.error(f"--only {name!r}: there are {', '.join(known)}")
    tables = []
    for name in arguments.only or known:
        path = RUNS / "strength" / f"{name.replace(' ', '_')}_v{FAST_VERSION}.csv"
        if not path.exists():
            table = measure(known[name](), name in arguments.ensemble)
            write_table(path, table, {"commit": commit()})
        tables.append(pd.read_csv(path))
    about = {
        "dataset": "phantom, Hannover" if arguments.hannover else "phantom",
        "seed": 0,
        "precision": find_precision("auto"),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    path = RUNS / "attack_strength.csv"
    write_table(path, pd.concat(tables, ignore_index=True), about)
    print(f"written to {path}")
    if arguments.publish:
        with atomic_write(FIGURES / path.name) as file:
            file.write(path.read_bytes())
        print(FIGURES / path.name, *renew_readme(), sep="\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
