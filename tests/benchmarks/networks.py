"""How far networks of one recipe differ, by the seed of weights and augmentation alone, under the same attack:
``.venv/bin/python tests/benchmarks/networks.py --profile deep --seeds 3``."""

import argparse
from dataclasses import replace

import pandas as pd

from helpers.common import paths
from helpers.common.provenance import origin_of, provenance
from helpers.data import load
from helpers.evaluation import summarise
from helpers.study import plan
from helpers.study.parameters import parse_override
from helpers.study.publish import copy_files
from helpers.study.readme import renew_readme
from helpers.sweep import Goal, open_engine, run, white_box
from helpers.tables import write_table
from helpers.training import train_all

EPSILON = 0.04
NAMES = ("goal", "attack", "epsilon")


def measure(
    seeds,
    *,
    profile,
    dataset,
    root,
    size,
    test_cases,
    seed,
    structure,
    small,
    large,
    depth,
    features,
    epochs,
    augmentation,
    precision,
    steps,
    device,
    engine,
    **_,
):
    """Table of each network's IoU with the truth and with both symbols, and that of the other structures; provenance.

    Args:
        seeds: how many networks.
        profile and the others: parameters of 04_heart_attack.
    """
    data = load(dataset, size=size, root=root or None, test_cases=test_cases, seed=seed)
    opened = open_engine(engine, device=device)
    networks = train_all(
        data,
        [("target", seed + k) for k in range(seeds)],
        engine=opened,
        depth=depth,
        features=features,
        epochs=epochs,
        augmentation=augmentation,
        precision=precision,
    )
    tables, results = [], []
    for (_, own), trained in networks.items():
        white = white_box(
            data,
            trained,
            steps=steps,
            epsilon=EPSILON,
            device=opened.device,
            precision=precision,
        )
        unattacked = replace(white, attack="no attack", epsilon=0.0)
        experiments = {("untargeted", "no attack", 0.0): unattacked}
        for symbol, ratio in {"small symbol": small, "large symbol": large}.items():
            goal = Goal("shape", structure, ratio)
            towards = replace(white, goal=goal)
            faster = replace(towards, attack="fast pgd")
            experiments[symbol, "no attack", 0.0] = replace(unattacked, goal=goal)
            experiments[symbol, "white-box", EPSILON] = towards
            experiments[symbol, "white-box, faster steps", EPSILON] = faster
        result = run(experiments, data, [trained], engine=opened, names=NAMES)
        results.append(result)
        table = result[result["compared_with"] == "target"]
        is_own = table["structure"] == structure
        table = table.assign(network=own, scored=is_own.map({True: structure, False: "others"}))
        tables.append(summarise(table, by=["network", *NAMES, "scored"]))
        means = " ".join(tables[-1]["iou"].map("{:.1f}".format))
        print(f"network {own} ({trained.digest[:12]}): {means}", flush=True)
    source = provenance(data, networks.values(), steps=steps, seed=seed, precision=white.precision)
    return pd.concat(tables, ignore_index=True), source | origin_of(pd.concat(results))


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--seeds", type=int, default=5, help="number of networks")
    parser.add_argument(
        "-p",
        dest="overrides",
        action="append",
        default=[],
        type=parse_override,
        metavar="NAME=VALUE",
        help="a parameter that replaces the profile's, e.g. epochs=10",
    )
    parser.add_argument(
        "--publish", action="store_true", help="copy the table to figures/ and renew the pages"
    )
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds is {arguments.seeds}; give 1 or more")
    if arguments.publish and arguments.overrides:
        parser.error("--publish takes no -p: the published table is of a profile's own parameters")
    try:
        ((_, parameters),) = plan(
            paths.NOTEBOOKS, arguments.profile, arguments.overrides, only=["04"]
        )
    except ValueError as error:
        parser.error(error)
    table, source = measure(arguments.seeds, **parameters)
    path = paths.RUNS / arguments.profile / "networks.csv"
    write_table(path, table, source)
    keys = ["goal", "attack", "scored"]
    print(
        table.groupby(keys, sort=False)["iou"]
        .agg(["mean", "std", "min", "max"])
        .round(1)
        .to_string()
    )
    print(f"written to {path}")
    if arguments.publish:
        print(*copy_files([path], paths.FIGURES), *renew_readme(), sep="\n")


if __name__ == "__main__":
    main()
