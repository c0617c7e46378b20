"""The comparison of networks, in small."""

import runpy

from helpers import files
from helpers.study import plan

measure = runpy.run_path(str(files.ROOT / "tests" / "benchmarks" / "networks.py"))["measure"]


def test_networks_that_differ_by_their_seed_are_measured_side_by_side(capsys):
    ((_, parameters),) = plan(files.NOTEBOOKS, "quick", only=["04"])
    tiny = {"size": 48, "depth": 1, "epochs": 1, "steps": 2, "test_cases": 2, "seed": 1, "precision": "fp32"}
    table, source = measure(2, **parameters | tiny)
    kinds = [*table.groupby(["goal", "attack", "epsilon"], sort=False).groups]
    assert kinds[0] == ("untargeted", "no attack", 0.0) and len(kinds) == 7
    assert table.groupby(["network", "scored"]).size().to_dict() == {
        (network, scored): 7 for network in (1, 2) for scored in ("heart", "others")
    }
    assert (table["n"] == 2).all() and table["iou"].between(0, 100).all()
    first, second = (table[table["network"] == network]["iou"].tolist() for network in (1, 2))
    assert first != second
    digests, told = source["weights"].split("/"), capsys.readouterr().out
    assert len(set(digests)) == 2 and all(digest in told for digest in digests)
