"""How far networks of one recipe differ, by the seed of weights and augmentation alone, under the same attack:
``python tests/benchmarks/networks.py --profile full --seeds 5``."""

import argparse
from dataclasses import replace

import pandas as pd

from helpers import files
from helpers.cells import Goal, template
from helpers.data import load
from helpers.evaluation import provenance, summarise, write_table
from helpers.network import find_device
from helpers.study import plan
from helpers.sweep import run, train_all

EPSILON = 0.04


def measure(seeds, *, profile, dataset, root, size, test_cases, seed, structure, small, large, depth, epochs,
            augmentation, precision, steps, device, engine, **_):  # fmt: skip
    """Table of a network each: IoU without attack, of both symbols, and of the other structures, with its provenance.

    Args:
        seeds: how many networks.
        profile and the others: parameters of 04_heart_attack.
    """
    data = load(dataset, size=size, root=root or None, test_cases=test_cases, seed=seed)
    settings = {"depth": depth, "epochs": epochs, "augmentation": augmentation, "precision": precision}
    roles = [("target", seed + k) for k in range(seeds)]
    networks = train_all(data, roles, engine=engine, device=find_device(device), **settings)
    tables = []
    for (_, own), trained in networks.items():
        white = template(data, trained, steps=steps, epsilon=EPSILON, device=device, precision=precision)
        cells = {("untargeted", "no attack"): replace(white, attack="no attack", epsilon=0.0)}
        for symbol, ratio in {"small symbol": small, "large symbol": large}.items():
            cell = replace(white, goal=Goal("shape", structure, ratio))
            cells[symbol, "no attack"] = replace(cell, attack="no attack", epsilon=0.0)
            cells[symbol, "white-box"] = cell
            cells[symbol, "white-box, faster steps"] = replace(cell, attack="fast pgd")
        table = run(cells, data, [trained], engine=engine, device=device, names=("goal", "attack"))
        table = table[table["compared_with"] == "target"].assign(scored=structure)
        table.loc[table["structure"] != structure, "scored"] = "others"
        found = summarise(table, by=["goal", "attack", "scored"]).assign(epsilon=EPSILON)
        origin = provenance(data, [trained], steps=steps, seed=own)
        tables.append(found.assign(**origin))
        print(f"network {own} ({trained.digest[:12]}):", *found["iou"].round(1), flush=True)
    return pd.concat(tables, ignore_index=True)


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--seeds", type=int, default=5, help="number of networks")
    arguments = parser.parse_args()
    ((_, parameters),) = plan(files.ROOT / "notebooks", arguments.profile, only=["04"])
    table = measure(arguments.seeds, **parameters)
    path = files.RUNS / arguments.profile / "networks.csv"
    write_table(path, table, {})
    print(table.groupby(["goal", "attack", "scored"], sort=False)["iou"].agg(["mean", "std", "min", "max"]).round(1))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
