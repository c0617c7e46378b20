"""The comparison of networks, in small."""

import runpy
import sys

import pytest

from helpers.common import paths
from helpers.study import plan

pytestmark = pytest.mark.slow

patients = runpy.run_path(str(paths.ROOT / "tests" / "benchmarks" / "patients.py"))
networks = runpy.run_path(str(paths.ROOT / "tests" / "benchmarks" / "networks.py"))


def test_networks_that_differ_by_their_seed_are_measured_side_by_side(capsys):
    ((_, parameters),) = plan(paths.NOTEBOOKS, "quick", only=["04"])
    tiny = {
        "size": 48,
        "depth": 1,
        "epochs": 1,
        "steps": 2,
        "test_cases": 2,
        "seed": 1,
        "precision": "fp32",
    }
    table, source = networks["measure"](2, **parameters | tiny)
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


@pytest.mark.parametrize(
    "words, told",
    [
        (["-p", "epochs=3", "--publish"], "--publish takes no -p"),
        (["-p", "epoch=3"], "parameter 'epoch' is unknown; choose one of augmentation, "),
        (["--seeds", "0"], "--seeds is 0"),
    ],
)
def test_wrong_words_are_refused_in_a_line(monkeypatch, capsys, words, told):
    monkeypatch.setattr(sys, "argv", ["networks.py", *words])
    with pytest.raises(SystemExit) as caught:
        networks["main"]()
    assert caught.value.code == 2 and told in capsys.readouterr().err


def test_the_halves_share_no_patient(tmp_path):
    lines = [f"case{case},p{case // 3}" for case in range(12)]
    (tmp_path / "index.csv").write_text("\n".join(["id,patient", *lines]))
    halves = patients["halves"](tuple(f"case{case}" for case in range(12)), tmp_path)
    assert list(halves.values()) == 2 * [*3 * ["even"], *3 * ["odd"]]
