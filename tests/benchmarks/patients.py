"""How well networks that were trained on phantoms alone find the lungs and the heart of patients, and heart symbols drawn there:
``.venv/bin/python tests/benchmarks/patients.py --root FOLDER --publish``, a folder with outlines of both lungs and an index.csv.

What was chosen (how far phantoms vary, how long is trained) was chosen on the even half of the patients: the odd half reports,
though it was in sight when the last choices were made.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from helpers import patients
from helpers.common.paths import FIGURES, RUNS
from helpers.common.provenance import provenance
from helpers.data import load
from helpers.evaluation import iou_table, summarise
from helpers.network import find_precision, predict
from helpers.study.publish import copy_files
from helpers.study.readme import renew_readme
from helpers.sweep import Goal, run, suite, white_box
from helpers.tables import write_table
from helpers.world import randomise

CASES = 20  # in which symbols are drawn
EPSILON = 0.04
STEPS = 100
SYMBOLS = {"small": 0.34, "large": 2.25}


def halves(ids, root):
    """Even or odd of each case: its patient's place among the sorted patients."""
    index = pd.read_csv(root / "index.csv", dtype=str).set_index("id")["patient"]
    places = {patient: place for place, patient in enumerate(sorted(index[list(ids)].unique()))}
    return {id: ("even", "odd")[places[index[id]] % 2] for id in ids}


def measure(role, size, root):
    """Rows of one network: its lungs by half, its hearts, and the phantoms' own test cases."""
    trained = patients.find_network(role, size)
    data = load("folder", root=root, size=size)
    agreement, hearts = patients.compare(data, trained)
    half = halves(data.ids, root)
    tables = [agreement.assign(cases="patients, " + agreement["id"].map(half) + " half")]
    shown = {"area, percent of the image": hearts["area"], "plausible": 100 * hearts["plausible"]}
    for name, values in shown.items():
        rows = pd.DataFrame({"id": hearts["id"], "iou": values, "structure": f"heart: {name}"})
        tables.append(rows.assign(cases="patients, all"))
    phantoms = load("phantom", size=size)
    images, truth = phantoms.take("test")
    about = {"ids": phantoms.split["test"], "structures": phantoms.structures}
    tables.append(
        iou_table(predict(trained.network, images), truth, cases="phantoms, test", **about)
    )
    table = pd.concat(tables).assign(network=f"{role}, {size}")
    columns = {"iou": "value"}
    summary = summarise(table, by=["network", "cases", "structure"]).rename(columns=columns)
    return summary, provenance(data, [trained])


def draw_symbols(root):
    """Rows of heart symbols drawn in radiographs of the odd half, as the network outlines them, and of controls."""
    target, surrogate = (patients.find_network(role, 256) for role in ("target", "surrogate"))
    data = load("folder", root=root, size=256, masks=False)
    half = halves(data.ids, root)
    ids = [id for id in data.ids if half[id] == "odd"][:CASES]
    seen = patients.outline(data, target)
    best = white_box(seen, target, which=ids, epsilon=EPSILON, steps=STEPS, attack="fast pgd")
    changes = {
        "no attack": {"attack": "no attack", "epsilon": 0.0},
        "random noise": {"attack": "random noise"},
        "shuffled noise": {"attack": "shuffled noise"},
        "black-box": {"crafted_on": surrogate.digest},
        "white-box": {},
    }
    grid = {
        (symbol, name): replace(best, goal=Goal("shape", "heart", area), **change)
        for symbol, area in SYMBOLS.items()
        for name, change in changes.items()
    }
    by = ["symbol", "attack"]
    table = run(grid, seen, [target, surrogate], names=by)
    table = pd.concat([table, best_of_suite(grid, seen, target)])
    table = table[table["compared_with"] == "target"]
    is_heart = table["structure"] == "heart"
    others = table[~is_heart].groupby(by)["iou"].mean().round(2).rename("others").reset_index()
    summary = summarise(table[is_heart], by=by).merge(others, on=by)
    precision = find_precision("auto")
    about = provenance(seen, [target, surrogate], steps=STEPS, precision=precision)
    return summary.assign(epsilon=EPSILON), about


def best_of_suite(grid, seen, target):
    """Rows of the suite's attack that gives the heart most of its symbol, for each case and symbol."""
    tried = {
        (symbol, name): each
        for symbol in SYMBOLS
        for name, each in suite(replace(grid[symbol, "white-box"], attack="pgd")).items()
        if name != "random noise"
    }
    table = run(tried, seen, [target], names=["symbol", "attack"])
    own = table[(table["compared_with"] == "target") & (table["structure"] == "heart")]
    won = own.loc[own.groupby(["symbol", "id"])["iou"].idxmax(), ["symbol", "id", "attack"]]
    print(won["attack"].value_counts().to_string())
    count = len(tried) // len(SYMBOLS)
    return table.merge(won).assign(attack=f"white-box, best of {count}")


def seconds_per_batch(size, batches=10):
    """Processor time of `world.randomise` for a batch of 4 [s]."""
    images, labels = load("phantom", size=size, test_cases=4).take("test")
    generator = torch.Generator().manual_seed(0)
    randomise(images, labels, generator)
    started = time.process_time()
    for _ in range(batches):
        randomise(images, labels, generator)
    return (time.process_time() - started) / batches


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--publish", action="store_true", help="copy the table to figures/patients")
    asked = parser.parse_args()
    tables, sources = [], []
    for size in (128, 256):
        seconds = round(seconds_per_batch(size), 4)
        print(f"a batch of 4 of {size}², drawn anew: {seconds} s")
        for role in ("target", "surrogate"):
            table, source = measure(role, size, asked.root)
            print(table.round(1).to_string(), flush=True)
            tables.append(table.assign(seconds_per_batch=seconds))
            sources.append(pd.Series(source).astype(str))
    about = {name: " ".join(values.unique()) for name, values in pd.DataFrame(sources).items()}
    files = [RUNS / "on_real_radiographs.csv", RUNS / "symbols_on_real_radiographs.csv"]
    write_table(files[0], pd.concat(tables), about)
    table, about = draw_symbols(asked.root)
    print(table.to_string())
    write_table(files[1], table, about)
    print("written:", *files)
    if asked.publish:
        print(*copy_files(files, FIGURES / "patients"), *renew_readme(), sep="\n")


if __name__ == "__main__":
    main()
