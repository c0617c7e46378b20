"""The study of somebody's radiographs and network: all notebooks, with nothing in them that is the study's own."""

import json
import re
import shlex

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import toys
from radiographs import write, write_dicom

from helpers import phantom
from helpers.common import paths
from helpers.data import dataset, load
from helpers.labels import picture_box
from helpers.loss import iou_loss
from helpers.study import page, parameters, runner

NAMES = ("heart", "left lung", "right lung")
SIZE = 44  # of no use to the study's U-Net, which wants a multiple of 8
FEW = {"size": SIZE, "test_cases": 3, "steps": 4, "step_counts": [4], "epsilons": [0.04]}
FEW |= {"ratio_cases": 3, "transfer_cases": 3, "ratio_epsilons": [0.04], "ratio_steps": 4}
FEW |= {
    "suite_steps": 4,
    "adaptive_steps": 4,
    "large_steps": 4,
    "filters": ["jpeg 75", "average 0.03"],
}
FEW |= {"factors": [0.8], "margins": [0.5], "windows": [2.0], "precision": "fp32"}
PARAMETERS = (
    'profile = "quick"\nnetwork = ""\ndataset = "phantom"\nroot = ""\nstructure = "heart"\nsize = 8'
)
MINE = """
import torch
from monai.networks.nets import UNet

def empty():
    return UNet(spatial_dims=2, in_channels=1, out_channels=4, channels=(8, 16, 32), strides=(2, 2))

def build():
    network = empty()
    network.load_state_dict(torch.load(__file__.replace("mine.py", "weights.pt")))
    return network

def earlier():
    network = build()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(0.98)
    return network
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A folder with radiographs in `audit-own`, a third of them not square, and a trained network in mine.py."""
    pytest.importorskip("monai", reason="MONAI is not installed: extra monai")
    place = tmp_path_factory.mktemp("mine")
    root = place / "audit-own"
    for case in range(1, 17):
        image, masks = phantom.draw_case(case, SIZE)
        crop = np.s_[:, 4:-4] if case % 3 else np.s_[:, :]
        grey = ((image[crop] + 1) / 2 * 4095).round().astype(np.uint16)
        labels = np.select([mask[crop] != 0 for mask in masks[[0, 3, 4]]], [1, 2, 3])
        write_dicom(root / f"images/c{case}.dcm", grey)
        write(root / f"labels/c{case}.png", labels.astype(np.uint8))
    lines = [f"{value},{name}" for value, name in enumerate(NAMES, start=1)]
    (root / "labels.csv").write_text("\n".join(["value,name", *lines]))
    (place / "mine.py").write_text(MINE)
    train(place, load("folder", root=root, size=SIZE))
    yield place
    for path in dataset.CACHE.glob("folder-audit-own-*"):
        path.unlink()


def train(place, data):
    found: dict = {"__file__": str(place / "mine.py")}
    exec(MINE, found)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = found["empty"]().train()
        images, labels = data.take("target-training")
        optimizer = torch.optim.Adam(network.parameters(), 5e-3)
        for _ in range(150):
            optimizer.zero_grad()
            iou_loss(network(images), labels, classes=range(4)).mean().backward()
            optimizer.step()
    torch.save(network.state_dict(), place / "weights.pt")


def run(mine, profile, only="", **changes):
    """Run notebooks as the command does; the folder of the results, and the page."""
    own = {"dataset": "folder", "root": mine / "audit-own", "network": f"{mine}/mine.py:build"}
    overrides = [(name, str(value)) for name, value in (FEW | own | changes).items()]
    steps = dict(parameters.plan(paths.NOTEBOOKS, "quick", overrides))
    for values in steps.values():
        values["profile"] = profile
    folder = paths.RUNS / profile
    chosen = [(path, values) for path, values in steps.items() if path.name.startswith(only)]
    assert runner.run(chosen, profile, folder) == 0
    return folder, page.write_page(folder, steps).read_text(encoding="utf-8")


def test_the_command_of_the_readme_is_one_that_can_run(place, tmp_path, monkeypatch):
    readme = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"`(make study ARGS=[^`]*mine\.py[^`]*)`", readme)
    monkeypatch.setattr(dataset, "CACHE", tmp_path / "cache")
    folder = toys.on_disk(tmp_path / "FOLDER").origin["root"]
    text = "import torch\ndef build():\n    torch.manual_seed(0)\n    return torch.nn.Conv2d(1, 3, 1)\n"
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    names = ("network", "dataset", "root", "structure", "size")
    check = f"assert {names[2]} == {folder!r} and dataset == 'folder' and structure == 'heart'"
    place.write("01_first", check, parameters=PARAMETERS)
    words = shlex.split(shlex.split(line)[2].removeprefix("ARGS="))
    assert {word.partition("=")[0] for word in words[1::2]} == set(names)
    assert place.main(*words) == 0
    for notebook in paths.ROOT.glob("notebooks/04*.ipynb"):
        assert set(names) <= set(parameters.read_parameters(notebook))


@pytest.fixture(scope="module")
def audit(mine):
    return run(mine, "audit", surrogate=f"{mine}/mine.py:earlier")


def table(folder, name):
    return pd.read_csv(folder / f"{name}.csv")


def shown(folder):
    """All that a reader sees in the executed notebooks, but no code."""
    for path in sorted(folder.glob("0*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                yield cell.source
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                yield output.get("text", data.get("text/markdown", data.get("text/plain", "")))


@pytest.mark.slow
def test_all_notebooks_run_and_every_table_names_the_data_and_the_networks(audit):
    folder, _ = audit
    assert len(list(folder.glob("*.ok.json"))) == 9
    names = (
        "clean table1 table2 table3 table4 heart_attack_ways steps smallest_epsilon frames".split()
    )
    names += "resizing_ways noise_restriction noise_energy visibility verdicts".split()
    names += "transfer transfer_surrogates transfer_queries transfer_universal".split()
    names += "filters robust suite prey detection certified".split()
    for name in names:
        found = table(folder, name)
        assert set(found["dataset"]) == {"folder-audit-own"}, name
        (networks,) = set(found["networks"])
        assert networks.split("/") in (["mine.py:build"], ["mine.py:build", "mine.py:earlier"])
        assert found["weights"].str.count("/").eq(networks.count("/")).all()
        assert found["depth"].isna().all(), name
        assert "paper" not in found or name == "verdicts" or found["paper"].isna().all(), name
    assert set(table(folder, "clean")["structure"]) == {*NAMES, "mean"}


@pytest.mark.slow
def test_the_network_has_learned_and_noise_bends_it(audit):
    folder, _ = audit
    clean = table(folder, "clean").set_index(["network", "structure"])["iou"]
    assert clean["target", "mean"] > 60
    attacked = table(folder, "table1").set_index("attack")["iou"]
    assert attacked["white-box"] < attacked["random-noise"] - 2
    resized = table(folder, "table4")
    assert len(resized) == 6 and set(resized["structure"]) == set(NAMES)


@pytest.mark.slow
def test_no_claim_of_the_paper_is_decided_by_other_data(audit):
    folder, text = audit
    assert set(table(folder, "verdicts")["verdict"]) == {"not decided by this run (other data)"}
    assert "<b>0</b> hold here, <b>0</b> do not" in " ".join(text.split())


@pytest.mark.slow
def test_nothing_speaks_of_networks_that_the_study_trained_or_of_numbers_of_the_paper_s_data(audit):
    folder, text = audit
    words = "\n".join(shown(folder))
    assert "no learning curves: the study trained none of these networks" in words
    assert "these data have no clavicle with its lung" in words
    for wrong in ("(the paper: 90.3)", "U-Net trained here", "nan", "train for longer"):
        assert wrong not in words, wrong
    assert not (folder / "02_learning_curves.png").exists() and "Figure 2.1." not in text
    assert not (folder / "clavicle_shrinking.csv").exists()


@pytest.mark.slow
def test_the_page_names_the_network_and_no_folder_of_the_machine(audit, mine):
    folder, text = audit
    assert "mine.py:build, not the study’s own" in text and str(mine) not in text
    assert "look before you send" in " ".join(text.split())
    frames = json.loads((folder / "frames.json").read_text())
    assert frames["structures"] == list(NAMES) and frames["structure"] == "heart"


@pytest.mark.slow
def test_padding_has_no_outline_and_no_share_of_the_pixels(audit, mine):
    folder, _ = audit
    pixels = table(folder, "noise_energy").set_index("setting").loc["(pixels)"]
    zones = pixels[["in the structure", "in its receptive field", "beyond"]].astype(float)
    assert zones.sum() == pytest.approx(100, abs=0.05)
    data = load("folder", root=mine / "audit-own", size=SIZE)
    for frame in json.loads((folder / "frames.json").read_text())["frames"]:
        _, columns = picture_box(data.take([frame["id"]])[1][0].numpy())
        for x in across("".join(frame["outlines"])):
            assert 2 * columns.start - 1 <= x <= 2 * columns.stop + 1


def across(path):
    """Where the points of SVG path data are, from left to right [half pixels]."""
    for line in re.findall("M([^z]+)z", path):
        (x, _), *steps = (map(int, pair.split()) for pair in re.findall(r"-?\d+ -?\d+", line))
        yield x
        for step, _ in steps:
            x += step
            yield x


@pytest.mark.slow
def test_with_a_network_alone_the_black_box_attacker_has_a_u_net_of_the_study(mine):
    changes = {"size": 48, "depth": 2, "features": 4, "epochs": 1}
    folder, _ = run(mine, "audit-02", "02", **changes)
    found = table(folder, "clean")
    assert set(found["networks"]) == {"mine.py:build/U-Net trained here"}
    assert (folder / "02_learning_curves.png").exists()
