"""Networks of `full`, trained with and without grain: what faint noise that is no attack does to them, and what attacks do.

``.venv/bin/python tests/benchmarks/grain.py --publish``; networks that are missing are trained first, half an hour each. The sweep
goes on where it stopped.
"""

import argparse
from dataclasses import replace

import pandas as pd

from helpers.common.paths import FIGURES, RUNS
from helpers.common.provenance import provenance
from helpers.data import load
from helpers.evaluation import summarise
from helpers.network import find_precision
from helpers.study.publish import copy_files
from helpers.study.readme import renew_readme
from helpers.sweep import Goal, run, white_box
from helpers.tables import write_table
from helpers.training import train

CASES = 8
STEPS = 100
EPSILON = 0.04
UNTARGETED = 0.02
SYMBOLS = {"small": 0.34, "large": 2.25}
KEYS = ["augmentation", "noise", "epsilon", "scored"]


def experiments(data, target, surrogate):
    """By noise, ε and what is scored."""
    loud = white_box(data, target, epsilon=EPSILON, steps=STEPS)
    faint = replace(loud, epsilon=UNTARGETED)
    alike = {"crafted_on": surrogate.digest}
    changes = {
        "none": {"attack": "no attack", "epsilon": 0.0},
        "random": {"attack": "random noise"},
        "shuffled": {"attack": "shuffled noise"},
        "black-box": alike,
    }
    found = [(name, replace(loud, **change)) for name, change in changes.items()]
    found += [("white-box", faint), ("white-box, faster", replace(faint, attack="fast pgd"))]
    grid = {(name, each.epsilon, "structures, with the truth"): each for name, each in found}
    for size, scale in SYMBOLS.items():
        drawn = replace(loud, attack="fast pgd", goal=Goal("shape", "heart", scale))
        scored = f"heart, with the {size} symbol"
        grid["white-box, faster", EPSILON, scored] = drawn
        grid["black-box, faster", EPSILON, scored] = replace(drawn, **alike)
    return grid


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--publish", action="store_true", help="copy the table to figures/")
    arguments = parser.parse_args()
    data = load("phantom", size=256, test_cases=CASES)
    tables, trained = [], []
    for words in ("elastic", "elastic grain"):
        networks = [
            train(data, role, depth=3, epochs=60, augmentation=words)
            for role in ("target", "surrogate")
        ]
        grid = experiments(data, *networks)
        table = run(grid, data, networks, names=KEYS[1:])
        drawn = table["scored"].str.startswith("heart")
        own = (table["structure"] == "heart") & (table["compared_with"] == "target")
        kept = table[own.where(drawn, table["compared_with"] == "truth")]
        tables.append(kept.assign(augmentation=words))
        trained += networks
    summary = summarise(pd.concat(tables), by=KEYS)
    print(summary.to_string())
    path = RUNS / "grain.csv"
    about = provenance(data, trained, steps=STEPS, precision=find_precision("auto"))
    write_table(path, summary, about, exact=("epsilon",))
    print(f"written to {path}")
    if arguments.publish:
        print(*copy_files([path], FIGURES), *renew_readme(), sep="\n")


if __name__ == "__main__":
    main()
