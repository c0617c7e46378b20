"""Anybody's radiographs from files to attacks: every layout trains, is attacked, and comes out as files again."""

import json
import shutil
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread
from radiographs import write, write_dicom

from helpers import phantom
from helpers.data import check, dataset, load
from helpers.labels import OUTSIDE, UNLABELLED, picture_box
from helpers.noise import shuffle_noise
from helpers.study import prepare
from helpers.sweep import Goal, Region, load_images

pytestmark = pytest.mark.slow

CASES = range(1, 13)
CROP = np.s_[:, 40:160]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def portraits():
    """Phantoms of 200×120 pixels: images in [−1, 1], and masks of heart, left and right lung."""
    drawn = [phantom.draw_case(case, 200) for case in CASES]
    return [(image[CROP], masks[:, *CROP][[0, 3, 4]]) for image, masks in drawn]


def deep(image):
    return ((image + 1) / 2 * 4095).round().astype(np.uint16)


def write_dicom_folder(root, portraits):
    """MONOCHROME1 of 16 bits, with masks."""
    for number, (image, masks) in enumerate(portraits):
        path = root / f"images/c{number:02d}.dcm"
        write_dicom(path, 4095 - deep(image), PhotometricInterpretation="MONOCHROME1")
        for name, mask in zip(("heart", "left lung", "right lung"), masks, strict=True):
            write(root / f"masks/{name}/c{number:02d}.png", mask.astype(np.uint8) * 255)


def write_jpeg_folder(root, portraits):
    """JPEG with label maps, of which a corner is not labelled."""
    for number, (image, masks) in enumerate(portraits):
        path = write(root / f"images/c{number:02d}.png", (deep(image) >> 4).astype(np.uint8))
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
        labels = np.select(list(masks), [1, 2, 3]).astype(np.uint8)
        labels[:20, :20] = 255
        write(root / f"labels/c{number:02d}.png", labels)
    (root / "labels.csv").write_text("value,name\n1,heart\n2,left lung\n3,right lung\n255,ignore\n")


def write_montgomery(root, portraits):
    for number, (image, masks) in enumerate(portraits):
        write(root / f"CXR_png/c{number:02d}.png", deep(image))
        for name, mask in zip(("leftMask", "rightMask"), masks[1:], strict=True):
            write(root / f"ManualMask/{name}/c{number:02d}.png", mask.astype(np.uint8) * 255)


def prepared(root, **parameters):
    """A study with two small networks that have learnt a little."""
    settings = {"size": 64, "depth": 2, "features": 8, "epochs": 12, "batch_size": 2}
    settings |= {"augmentation": "elastic affine intensity", "steps": 15, "test_cases": 2}
    settings |= {"profile": "own", "seed": 0, "device": "cpu", "precision": "fp32"}
    settings |= {"dataset": "folder", "root": str(root)}
    return prepare("target", "surrogate", **settings | parameters)


@pytest.mark.parametrize("write_folder", [write_dicom_folder, write_jpeg_folder, write_montgomery])
def test_radiographs_of_any_layout_are_checked_trained_on_and_attacked(
    tmp_path, portraits, write_folder, capsys
):
    write_folder(tmp_path / "own", portraits)
    assert check("folder", tmp_path / "own"), capsys.readouterr().out
    study = prepared(tmp_path / "own")
    data = study.data
    has_heart = "heart" in data.structures
    structure = "heart" if has_heart else "left lung"
    assert data.structures == (("heart",) if has_heart else ()) + ("left lung", "right lung")
    images, truth = data.take("test")
    outside = truth == OUTSIDE
    assert outside.float().mean() == pytest.approx(0.4, abs=0.02)  # 120 of 200
    if write_folder is write_jpeg_folder:
        assert (truth == UNLABELLED).any()
    history = [row["iou"] for row in study.target.history]
    assert max(history) > history[0] and max(history) > 0.3

    ids = study.cases(structure)
    attack = study.white_box(which=ids, goal=Goal("shape", structure, 0.6), epsilon=0.3)
    experiments = {
        "none": replace(attack, attack="no attack", epsilon=0.0),
        "white": attack,
        "fast": replace(attack, attack="fast pgd"),
        "cross": replace(attack, loss="cross-entropy"),
        "black": replace(attack, crafted_on=study.surrogate.digest),
        "random": replace(attack, attack="random noise"),
        "shuffled": replace(attack, attack="shuffled noise"),
        "box": replace(attack, region=Region("box", structure, 30)),
        "away": replace(attack, goal=Goal()),
    }
    results = study.run(experiments, names=["name"], noise=True, store=tmp_path / "store")
    reached = results[results["structure"] == structure].groupby(["compared_with", "name"])["iou"]
    mean = reached.mean()
    assert mean["target", "white"] > mean["target", "none"] + 10
    assert mean["truth", "away"] < mean["truth", "none"]
    images, truth = data.take(ids)
    crafted, predictions = load_images(experiments, data, store=tmp_path / "store")
    for name, made in crafted.items():
        noise = (made - images)[:, 0]
        assert not noise[truth == OUTSIDE].any(), name
        assert not predictions[name][truth == OUTSIDE].any() and predictions[name].any()
        assert name == "none" or noise.any()


@pytest.mark.parametrize("basis", ["truth", "prediction"])
@pytest.mark.parametrize(
    "goal", [Goal("shape", "heart", 2.0), Goal("resize", "left lung", 1.8)], ids=["shape", "resize"]
)
def test_a_target_keeps_the_padding_of_the_truth(tmp_path, portraits, goal, basis):
    write_dicom_folder(tmp_path / "own", portraits)
    data = load("folder", root=tmp_path / "own", size=64)
    images, truth = data.take("test")
    clean = truth.roll(5, dims=2).clamp(min=0)  # a network knows no padding
    labels = replace(goal, basis=basis).labels(truth, clean, data.structures, data.split["test"])
    assert torch.equal(labels == OUTSIDE, truth == OUTSIDE)
    assert (labels != truth).any()


@pytest.mark.parametrize("kind", ["everywhere", "box", "around"])
def test_no_region_reaches_into_the_padding(tmp_path, portraits, kind):
    write_dicom_folder(tmp_path / "own", portraits)
    data = load("folder", root=tmp_path / "own", size=64)
    masks = Region(kind, "heart", 5).masks(data.labels, data.structures, data.ids)
    assert masks.any() and not (masks & (data.labels == OUTSIDE)).any()
    if kind == "everywhere":
        assert torch.equal(masks, data.labels != OUTSIDE)


def test_shuffled_noise_stays_within_the_picture_and_keeps_its_values():
    images = torch.zeros(2, 1, 8, 8)
    noise = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) / 9
    within = torch.zeros(2, 8, 8, dtype=torch.bool)
    within[:, :, 2:6] = True
    noise *= within[:, None]
    made = shuffle_noise(images, noise, within=within)
    assert not made[~within[:, None]].any() and not torch.equal(made, noise)
    assert torch.equal(made.flatten(1).sort().values, noise.flatten(1).sort().values)
    everywhere = shuffle_noise(images, noise, within=torch.ones_like(within))
    assert torch.equal(everywhere, shuffle_noise(images, noise))


def test_what_the_explorer_saves_has_the_shape_of_the_picture_and_reads_back_as_it_was_shown(
    tmp_path, portraits
):
    write_dicom_folder(tmp_path / "own", portraits)
    study = prepared(tmp_path / "own", epochs=3)
    options = {"epsilons": [0.2], "store": tmp_path / "cells", "folder": tmp_path / "saved"}
    explorer = study.explore(goal="large symbol", **options)
    explorer.controls.epsilon.value = 0.2
    assert explorer.wait() and not explorer.error
    shown = explorer.shown
    for kind in ("image", "dicom"):
        getattr(explorer.controls, f"save_{kind}").click()
        assert not explorer.error
    (png,) = (tmp_path / "saved").glob("*image.png")
    (dicom,) = (tmp_path / "saved").glob("*.dcm")
    truth = study.data.take([shown.experiment.ids[0]])[1][0].numpy()
    height, width = truth[picture_box(truth)].shape
    assert (height, width) == (64, 38)
    assert Image.open(png).size == (width, height)
    record = dcmread(dicom)
    assert (record.Rows, record.Columns) == (height, width)
    assert json.loads(record.ImageComments)["case"] == shown.experiment.ids[0]
    again = write_one(tmp_path / "again", dicom, truth[picture_box(truth)])
    assert np.abs(again - shown.adv_image).max() < 1 / 65535
    assert np.array_equal(explorer.cache.predict(shown.experiment.ids[0], again), shown.prediction)
    explorer.close()


def write_one(root, dicom, labels):
    """The image that `load` gives of a DICOM file, as one of four cases."""
    for number in range(4):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / f"images/{number}.dcm").write_bytes(dicom.read_bytes())
        write(root / f"masks/lung/{number}.png", (labels == 2).astype(np.uint8))
    return load("folder", root=root, size=64).images[0, 0].numpy()


def test_every_bad_file_of_a_folder_is_named(tmp_path, portraits, capsys):
    root = tmp_path / "own"
    write_dicom_folder(root, portraits)
    data = (root / "images/c00.dcm").read_bytes()
    (root / "images/c00.dcm").write_bytes(data[: len(data) // 2])
    for number, changes in {
        1: {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3},
        2: {"NumberOfFrames": 2},
    }.items():
        record = dcmread(root / f"images/c{number:02d}.dcm")
        for name, value in changes.items():
            setattr(record, name, value)
        record.save_as(root / f"images/c{number:02d}.dcm")
    record = dcmread(root / "images/c03.dcm")
    del record.PixelData
    record.save_as(root / "images/c03.dcm")
    for number, content in ((4, b"see the other folder"), (5, b"")):
        (root / f"images/c{number:02d}.dcm").rename(root / f"images/c{number:02d}.png")
        (root / f"images/c{number:02d}.png").write_bytes(content)
    (root / "images/notes.txt").write_text("mine")
    (root / "masks/heart/c06.png").unlink()
    write(root / "images/c07.png", deep(portraits[7][0]))
    jpeg = imagecodecs.jpeg8_encode((deep(portraits[8][0]) >> 4).astype(np.uint8))
    (root / "images/c08.dcm").unlink()
    (root / "images/c08.jpg").write_bytes(jpeg[:-200])
    assert not check("folder", root)
    report = capsys.readouterr().out
    for name, reason in {
        "c00.dcm": "cannot be read",
        "c01.dcm": "in colour (RGB)",
        "c02.dcm": "2 frames",
        "c03.dcm": "no pixels",
        "c04.png": "cannot be read",
        "c05.png": "cannot be read",
        "notes.txt": "is left out: .txt",
        "c06.dcm": "no 'heart' mask",
        "c07.png": "keep one",
        "c08.jpg": "cannot be read",
    }.items():
        (line,) = [line for line in report.splitlines() if f"images/{name} " in line]
        assert reason in line, line
    assert "Problems (10," in report


def test_images_that_nobody_outlined_are_attacked_through_what_a_network_sees(tmp_path, portraits):
    write_dicom_folder(tmp_path / "own", portraits)
    shutil.rmtree(tmp_path / "own/masks")
    mine = tmp_path / "mine.py"
    mine.write_text(BRIGHT_AND_DARK)
    settings = {"network": f"{mine}:build", "surrogate": f"{mine}:build", "truth": "network"}
    study = prepared(tmp_path / "own", **settings)
    data = study.data
    assert data.structures == ("bright", "dark") and len(data.split["test"]) == 2
    images, truth = data.take("test")
    assert torch.equal(study.predict(), truth.masked_fill(truth == OUTSIDE, 0))
    ids = study.cases("bright")
    attack = study.white_box(which=ids, goal=Goal("shape", "bright", 0.6), epsilon=0.3)
    clean = replace(attack, attack="no attack", epsilon=0.0)
    table = study.run({"none": clean, "white": attack}, names=["attack"])
    own = table[(table["structure"] == "bright") & (table["compared_with"] == "truth")]
    before, after = own.groupby("attack")["iou"].mean()
    assert before == 100 and after < 90


def test_a_network_must_be_named_to_say_what_is_true(tmp_path, portraits):
    write_dicom_folder(tmp_path / "own", portraits)
    with pytest.raises(ValueError, match="network is ''.*says what is true"):
        prepared(tmp_path / "own", truth="network")


BRIGHT_AND_DARK = """
import torch

class BrightAndDark(torch.nn.Module):
    structures = ["bright", "dark"]

    def __init__(self):
        super().__init__()
        self.steepness = torch.nn.Parameter(torch.tensor(8.0))

    def forward(self, images):
        grey = torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2)
        levels = [0.4 - grey.abs(), grey, -grey]
        return self.steepness * torch.cat(levels, dim=1)

def build():
    return BrightAndDark()
"""
