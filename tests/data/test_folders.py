"""helpers.data.folders: which file belongs to which case, and what is said about files that do not fit."""

import csv
import shutil
import unicodedata
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from radiographs import CASES, FIVE, message, same, write, write_dicom, write_scr

from helpers.common.paths import ROOT
from helpers.data import JSRT_IDS, label_map, load
from helpers.data.__main__ import main
from helpers.data.folders import scan
from helpers.data.split import split_cases

pytestmark = pytest.mark.slow

HANNOVER = ROOT.parent / "shared/data/hannover"


def write_names(root, ids, folder="masks/{structure}"):
    """A JSRT tree of empty files: enough to be sorted, not to be read."""
    for id in ids:
        for name in (
            f"images/{id}.IMG",
            *(f"{folder.format(structure=structure)}/{id}.gif" for structure in FIVE),
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
    return root


def test_a_jsrt_tree_in_true_formats_gives_the_labels_it_was_made_from(jsrt, true_cases):
    dataset = load("jsrt", root=jsrt, size=256)
    assert dataset.name == "jsrt" and dataset.ids == tuple(CASES) and dataset.structures == FIVE
    for row, (image, masks) in enumerate(true_cases.values()):
        assert np.array_equal(dataset.labels[row], label_map(masks))
        assert np.abs(dataset.images[row, 0].numpy() - image).max() <= 1.001 / 4095, (
            "within half a step of 12 bits"
        )
    assert dataset.split["test"] == ("JPCLN001",)
    assert {len(dataset.split[name]) for name in ("target-validation", "surrogate-validation")} == {
        1
    }


@pytest.mark.parametrize(
    "layout",
    [
        {"folder": "scratch/fold{fold}/masks/{underscored}"},
        {"folder": "{underscored}", "suffix": ".png"},
        {"folder": "SCR/Masks/{structure}", "suffix": ".TIF"},
    ],
)
def test_other_layouts_of_the_masks_load_the_same(jsrt, true_cases, tmp_path, layout):
    first = load("jsrt", root=jsrt, size=64)
    other = tmp_path / "other"
    other.mkdir()
    (other / "All247images").symlink_to(jsrt / "All247images")
    write_scr(other, true_cases, **layout)
    dataset = load("jsrt", root=other, size=64)
    assert torch.equal(dataset.labels, first.labels) and torch.equal(dataset.images, first.images)
    assert dataset.split == first.split


def test_jsrt_is_found_where_the_environment_says_or_in_the_data_folder(
    jsrt, tmp_path, monkeypatch
):
    monkeypatch.setenv("JSRT_DIR", str(jsrt))
    assert scan("jsrt").root == jsrt
    monkeypatch.delenv("JSRT_DIR")
    (tmp_path / "data").mkdir()
    jsrt.rename(tmp_path / "data/jsrt")
    assert scan("jsrt").root == tmp_path / "data/jsrt"


def test_the_complete_jsrt_has_the_folds_of_scr(tmp_path):
    source = scan("jsrt", write_names(tmp_path, JSRT_IDS))
    assert not source.problems and len(source.images) == 247
    assert Counter(source.folds.values()) == {1: 124, 2: 123}
    assert (
        source.folds["JPCLN001"] == source.folds["JPCNN093"] == 1 and source.folds["JPCLN154"] == 2
    )
    split = split_cases(source, test_cases=20, seed=0)
    assert [len(ids) for ids in split.values()] == [100, 23, 100, 23, 20]


def test_fold_folders_decide_where_there_are_any(tmp_path):
    write_names(tmp_path, ["JPCLN002"], "fold_1/masks/{structure}")
    write_names(tmp_path, ["JPCLN003"], "Fold 2/masks/{structure}")
    write_names(tmp_path, ["JPCLN004", "JPCLN005"])
    assert scan("jsrt", tmp_path).folds == {
        "JPCLN002": 1,
        "JPCLN003": 2,
        "JPCLN004": 2,
        "JPCLN005": 1,
    }


def test_a_case_in_both_folds_is_refused(tmp_path):
    write_names(tmp_path, list(CASES))
    (tmp_path / "fold1").mkdir()
    (tmp_path / "masks/heart").rename(tmp_path / "fold1/heart")
    (tmp_path / "fold2").mkdir()
    (tmp_path / "masks/left lung").rename(tmp_path / "fold2/left lung")
    with pytest.raises(ValueError) as error:
        load("jsrt", root=tmp_path)
    message(error, "JPCLN001.IMG", "keep one")


def test_a_folder_has_the_structures_of_its_mask_folders_and_its_masks_exactly(own):
    dataset = load("folder", root=own, size=64)
    assert (
        dataset.structures == ("liver", "spleen")
        and dataset.num_classes == 3
        and dataset.name == "folder-own"
    )
    read = lambda path: np.asarray(Image.open(own / path))  # noqa: E731
    for row, id in enumerate(dataset.ids):
        masks = [read(f"masks/{structure}/{id}.png") for structure in ("liver", "spleen")]
        assert np.array_equal(dataset.labels[row], label_map(masks))
        pixels = read(f"images/{id}.png").astype(float)
        scaled = (pixels - pixels.min()) / np.ptp(pixels) * 2 - 1
        assert np.allclose(dataset.images[row, 0], scaled, atol=1e-6)


def test_hidden_files_and_clutter_of_file_managers_are_passed_over_in_silence(own, recwarn):
    first = load("folder", root=own, size=32)
    (own / "images/__MACOSX").mkdir()
    (own / "masks/__MACOSX/liver").mkdir(parents=True)
    (own / "masks/.trash").mkdir()
    for folder in ("images", "masks", "masks/liver", "masks/__MACOSX"):
        for name in (".DS_Store", "._case1.png", "Thumbs.db", "desktop.ini"):
            (own / folder / name).write_text("of a file manager")
    second = load("folder", root=own, size=32)
    assert same(first, second) and second.structures == ("liver", "spleen")
    assert not recwarn.list
    assert main(["check", "--folder", str(own)]) == 0


def test_every_file_of_images_that_is_not_used_is_named_with_the_reason(own, capsys):
    (own / "images/notes.txt").write_text("mine")
    (own / "images/README").write_text("mine")
    (own / "images/scan.nii.gz").write_bytes(bytes(400))
    (own / "images/older").mkdir()
    with pytest.warns(UserWarning) as caught:
        assert len(load("folder", root=own, size=32).ids) == 8
    (warning,) = [str(each.message) for each in caught]
    assert "4 files left out, 8 cases remain" in warning and "\n" not in warning
    parts = "notes.txt (.txt", "README (a file without", "scan.nii.gz (.gz", "older (it is a folder"
    assert all(part in warning for part in parts), warning
    assert main(["check", "--folder", str(own)]) == 1
    report = capsys.readouterr().out
    for part in ("Problems (4,", "notes.txt is left out", "older is left out", "without these 4"):
        assert part in report, report


def test_a_warning_about_many_unused_files_is_short(own):
    for number in range(500):
        (own / f"images/{number:03d}.txt").touch()
    with pytest.warns(UserWarning, match="500 files left out") as caught:
        load("folder", root=own, size=32)
    assert len(str(caught[0].message)) < 1500 and "009.txt" in str(caught[0].message)


def test_a_dicom_file_is_known_by_its_content_whatever_it_is_called(own):
    for case in range(4):
        path = own / f"images/case{case}.png"
        pixels = np.asarray(Image.open(path))
        path.unlink()
        write_dicom(own / f"images/1.2.840.{case}", pixels)
        for structure in ("liver", "spleen"):
            mask = own / f"masks/{structure}/case{case}.png"
            mask.rename(mask.with_name(f"1.2.840.{case}.png"))
    (own / "index.csv").unlink()
    assert "1.2.840.3" in load("folder", root=own, size=32).ids


def test_masks_may_be_called_after_their_image_with_mask_behind(own):
    first = load("folder", root=own, size=32)
    for path in sorted(own.glob("masks/*/*.png"))[::2]:
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    assert same(load("folder", root=own, size=32), first)
    path.with_name("case0_mask.png").write_bytes(b"")
    (own / "masks/liver/case0.png").touch()
    with pytest.raises(ValueError) as error:
        load("folder", root=own, size=32)
    message(error, "case0_mask.png", "case0.png", "keep one")


def test_names_that_differ_in_unicode_form_alone_match(own):
    for path in own.rglob("case1.png"):
        form = "NFC" if path.parent.name == "images" else "NFD"
        path.rename(path.with_name(unicodedata.normalize(form, "jérôme-ü.png")))
    (own / "masks/liver").rename(own / "masks" / unicodedata.normalize("NFD", "Milz ü"))
    index = (own / "index.csv").read_text().replace("case1", "jérôme-ü")
    (own / "index.csv").write_text(unicodedata.normalize("NFD", index))
    dataset = load("folder", root=own, size=32)
    assert "jérôme-ü" in dataset.ids and dataset.structures == ("Milz ü", "spleen")


def write_public(root, cases, places):
    """Images in CXR_png, and masks in the places, by their number of case."""
    for case in range(cases):
        pixels = np.random.default_rng(case).integers(0, 255, (48, 40), dtype=np.uint8)
        write(root / f"CXR_png/CXR_{case:04d}_{case % 2}.png", pixels)
        for place, columns in places.items():
            mask = np.zeros((48, 40), np.uint8)
            mask[8:40, columns] = 255
            write(root / place.format(f"CXR_{case:04d}_{case % 2}"), mask)
    (root / "ClinicalReadings").mkdir()
    (root / "ClinicalReadings/CXR_0000_0.txt").write_text("Patient's Sex: F")
    (root / "NLM-ReadMe.pdf").touch()
    (root / "CXR_png/Thumbs.db").touch()


def test_the_set_of_montgomery_loads_as_downloaded(tmp_path, recwarn):
    places = {"ManualMask/leftMask/{}.png": slice(22, 36), "ManualMask/rightMask/{}.png": slice(18)}
    write_public(tmp_path, 8, places)
    dataset = load("folder", root=tmp_path, size=48)
    assert dataset.structures == ("left lung", "right lung") and len(dataset.ids) == 8
    assert not recwarn.list and main(["check", "--folder", str(tmp_path)]) == 0
    assert [(dataset.labels[0] == c).sum() for c in (-100, 1, 2)] == [8 * 48, 32 * 14, 32 * 18]


@pytest.mark.parametrize("folder", ["mask", "masks"])
def test_the_set_of_shenzhen_loads_as_downloaded_and_names_what_has_no_mask(tmp_path, folder):
    write_public(tmp_path, 10, {folder + "/{}_mask.png": slice(4, 30)})
    for case in ("0003_1", "0006_0"):
        (tmp_path / f"{folder}/CXR_{case}_mask.png").unlink()
    with pytest.warns(UserWarning) as caught:
        dataset = load("folder", root=tmp_path, size=48)
    assert dataset.structures == ("lungs",) and len(dataset.ids) == 8
    warning = str(caught[0].message)
    assert "2 files left out, 8 cases remain" in warning
    assert "CXR_0003_1.png (it has no mask), CXR_png/CXR_0006_0.png (it has no mask)" in warning


@pytest.mark.parametrize(
    ("name", "parts"),
    [("jsrt", ["db.jsrt.or.jp", "7056076", "JSRT_DIR"]), ("folder", ["images/<id>.png"])],
)
def test_a_missing_folder_is_named(tmp_path, name, parts):
    with pytest.raises(FileNotFoundError) as error:
        load(name, root=tmp_path / "nowhere")
    message(error, tmp_path / "nowhere", *parts)


def test_hannover_loads_with_both_lungs_and_is_split_by_patient(capsys):
    if not HANNOVER.is_dir():
        pytest.skip(f"the Hannover radiographs are not at {HANNOVER}")
    dataset = load("folder", root=HANNOVER, size=64)
    assert dataset.images.shape == (62, 1, 64, 64) and dataset.structures == (
        "left lung",
        "right lung",
    )
    columns = torch.arange(64.0)
    place = [
        ((dataset.labels == c) * columns).sum() / (dataset.labels == c).sum()
        for c in dataset.classes
    ]
    assert place[0] > 32 > place[1], "the patient's left lung is on the right of the image"
    with open(HANNOVER / "index.csv") as file:
        patients = {row["id"]: row["patient"] for row in csv.DictReader(file)}
    tested = {patients[id] for id in dataset.split["test"]}
    assert tested and not tested & {patients[id] for id in dataset.split["target-training"]}
    few = load("folder", root=HANNOVER, size=64, test_cases=2)
    used = {patients[id] for part in few.split.values() for id in part}
    assert few.spare and not used & {patients[id] for id in few.spare}
    assert main(["check", "--folder", str(HANNOVER)]) == 0
    assert "62 images of 33 patients" in capsys.readouterr().out


def test_a_folder_without_masks_is_no_structure_and_is_named(own, capsys):
    (own / "masks/notes").mkdir()
    (own / "masks/older").mkdir()
    with pytest.warns(UserWarning) as caught:
        assert load("folder", root=own, size=32).structures == ("liver", "spleen")
    assert main(["check", "--folder", str(own)]) == 0
    report = capsys.readouterr().out
    for warning, name in zip(caught, ("notes", "older"), strict=True):
        assert f"masks/{name} holds no masks" in str(warning.message)
        assert f"masks/{name} holds no masks" in report


def save_as_npy(folder):
    for path in folder.glob("*.png"):
        np.save(path.with_suffix(".npy"), np.asarray(Image.open(path)))
        path.unlink()


def move_down(folder):
    files = list(folder.glob("*.png"))
    (folder / "batch1").mkdir()
    for path in files:
        path.rename(folder / "batch1" / path.name)


@pytest.mark.parametrize("spoil", [save_as_npy, move_down])
def test_a_structure_of_masks_that_cannot_be_read_is_refused(own, spoil, capsys):
    spoil(own / "masks/liver")
    with pytest.raises(ValueError) as error:
        load("folder", root=own, size=32)
    message(error, own / "masks/liver", "holds no masks that can be read", ".png")
    assert main(["check", "--folder", str(own)]) == 1
    assert "masks/liver holds no masks that can be read" in capsys.readouterr().out


def test_every_file_beside_masks_that_is_not_used_is_named(own, capsys):
    (own / "masks/liver/notes.txt").write_text("mine")
    (own / "masks/spleen/case1.npy").write_bytes(b"")
    with pytest.warns(UserWarning, match="2 files left out, 8 cases remain") as caught:
        load("folder", root=own, size=32)
    assert "masks/liver/notes.txt (.txt is not read)" in str(caught[0].message)
    assert main(["check", "--folder", str(own)]) == 1
    assert "masks/spleen/case1.npy is left out" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["images/link", "images/link.png", "masks/liver/link.png"])
def test_a_broken_link_is_named(own, name, capsys):
    (own / name).symlink_to(own / "nowhere")
    with pytest.warns(UserWarning, match=f"{name} .*broken link"):
        assert len(load("folder", root=own, size=32).ids) == 8
    assert main(["check", "--folder", str(own)]) == 1
    assert f"{name} is left out" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["mean", "The Others", "Background", "NA", "nan", "None", "null"])
def test_names_that_tables_use_otherwise_are_refused(own, name, capsys):
    (own / "masks/liver").rename(own / "masks" / name)
    with pytest.raises(ValueError) as error:
        load("folder", root=own, size=32)
    message(error, own, repr(name), "rename")
    assert main(["check", "--folder", str(own)]) == 1
    assert f"structure {name!r}" in capsys.readouterr().out


def test_more_structures_than_there_are_numbers_for_are_refused(own, capsys):
    for number in range(255):
        shutil.copytree(own / "masks/liver", own / f"masks/s{number}")
    assert main(["check", "--folder", str(own)]) == 1
    assert "structures: leave 254 or fewer" in capsys.readouterr().out


def test_a_table_with_an_open_quote_is_named(own, capsys):
    (own / "index.csv").write_text('id,patient\n"' + "x" * 200_000)
    assert main(["check", "--folder", str(own)]) == 1
    assert "index.csv cannot be read (field larger than field limit" in capsys.readouterr().out


def test_structures_that_differ_in_capitals_alone_are_refused(own, capsys):
    shutil.copytree(own / "masks/liver", own / "masks/Liver")
    assert main(["check", "--folder", str(own)]) == 1
    assert "'liver', and another that differs in capitals alone" in capsys.readouterr().out
    with pytest.raises(ValueError) as error:
        load("folder", root=own, size=32)
    message(error, own, "'Liver'", "rename")


def test_a_folder_with_nothing_but_empty_mask_folders_has_no_masks(own):
    for path in own.glob("masks/*/*.png"):
        path.unlink()
    with pytest.raises(ValueError) as error:
        load("folder", root=own, size=32)
    message(error, own, "holds no masks")
