"""How far networks of one recipe differ, by the seed of weights and augmentation alone, under the same attack:
``.venv/bin/python tests/benchmarks/networks.py --profile deep --seeds 3``."""

import argparse
from dataclasses import replace

import pandas as pd

from helpers.common import files, paths
from helpers.common.provenance import provenance
from helpers.data import load
from helpers.evaluation import summarise
from helpers.network import find_device
from helpers.study import plan
from helpers.study.publish import renew_readme
from helpers.study.runner import override
from helpers.sweep import Goal, run, train_all, white_box
from helpers.tables import write_table

EPSILON, NAMES = 0.04, ("goal", "attack", "epsilon")


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
    settings = {"depth": depth, "features": features, "epochs": epochs}
    settings |= {"augmentation": augmentation, "precision": precision}
    roles = [("target", seed + k) for k in range(seeds)]
    networks = train_all(data, roles, engine=engine, device=find_device(device), **settings)
    tables = []
    for (_, own), trained in networks.items():
        white = white_box(
            data, trained, steps=steps, epsilon=EPSILON, device=device, precision=precision
        )
        cells = {("untargeted", "no attack", 0.0): replace(white, attack="no attack", epsilon=0.0)}
        for symbol, ratio in {"small symbol": small, "large symbol": large}.items():
            cell = replace(white, goal=Goal("shape", structure, ratio))
            cells[symbol, "no attack", 0.0] = replace(cell, attack="no attack", epsilon=0.0)
            cells[symbol, "white-box", EPSILON] = cell
            cells[symbol, "white-box, faster steps", EPSILON] = replace(cell, attack="fast pgd")
        table = run(cells, data, [trained], engine=engine, device=device, names=NAMES)
        table = table[table["compared_with"] == "target"].assign(network=own, scored=structure)
        table.loc[table["structure"] != structure, "scored"] = "others"
        tables.append(summarise(table, by=["network", *NAMES, "scored"]))
        print(
            f"network {own} ({trained.digest[:12]}):",
            *tables[-1]["iou"].map("{:.1f}".format),
            flush=True,
        )
    return pd.concat(tables, ignore_index=True), provenance(
        data, networks.values(), steps=steps, seed=seed
    )


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
        type=override,
        metavar="NAME=VALUE",
        help="a parameter that replaces the profile's, e.g. epochs=10",
    )
    parser.add_argument(
        "--publish", action="store_true", help="copy the table to figures/ and renew the README"
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
        with files.atomic_write(paths.FIGURES / path.name) as file:
            file.write(path.read_bytes())
        print(
            paths.FIGURES / path.name,
            *renew_readme(paths.ROOT / "README.md", paths.FIGURES),
            sep="\n",
        )


if __name__ == "__main__":
    main()
