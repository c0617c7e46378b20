"""helpers.data.check: what cannot be used is one line, with the name and what to do."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from radiographs import message, write

from helpers.data import check, dataset, load
from helpers.data.__main__ import main


def damage_img(root):
    path = root / "All247images/JPCLN002.IMG"
    path.write_bytes(path.read_bytes()[:-2])
    return path, "8388606", "8388608"


def swap_bytes(root):
    path = root / "All247images/JPCLN002.IMG"
    path.write_bytes(np.frombuffer(path.read_bytes(), ">u2").astype("<u2").tobytes())
    return path, "4095", "big-endian"


def blank_img(root):
    path = root / "All247images/JPCLN002.IMG"
    path.write_bytes(bytes(2 * 2048 * 2048))
    return path, "every value", "intact"


def shrink_mask(root):
    path = root / "scratch/fold2/masks/heart/JPCNN002.gif"
    write(path, np.asarray(Image.open(path))[::2, ::2])
    return path, "512×512", "1024×1024"


def drop_mask(root):
    (root / "scratch/fold2/masks/left clavicle/JPCLN004.gif").unlink()
    return "JPCLN004", "'left clavicle'", "add"


def double_image(root):
    write(root / "png/JPCLN001.png", np.eye(64, dtype=np.uint8) * 9)
    return root / "All247images/JPCLN001.IMG", root / "png/JPCLN001.png", "keep one"


def float_copy(root):
    path = root / "All247images/JPCLN001.IMG"
    path.unlink()
    return write(path.with_suffix(".tif"), np.eye(64, dtype=np.float32)), "float32", "16-bit"


def remove_masks(root):
    for path in root.rglob("*.gif"):
        path.unlink()
    return root, "holds no masks", "7056076"


def remove_tests(root):
    (root / "All247images/JPCLN001.IMG").unlink()
    return root, "odd-numbered", "3"


@pytest.mark.parametrize(
    "spoil",
    [
        damage_img,
        swap_bytes,
        blank_img,
        shrink_mask,
        drop_mask,
        double_image,
        float_copy,
        remove_masks,
        remove_tests,
    ],
)
def test_a_bad_file_of_a_jsrt_copy_is_named(jsrt, spoil, capsys):
    parts = spoil(jsrt)
    with pytest.raises(ValueError) as error:
        load("jsrt", root=jsrt, size=64)
    message(error, *parts)
    assert not dataset.CACHE.exists()
    assert main(["check", "--jsrt", str(jsrt)]) == 1
    report = capsys.readouterr().out
    assert str(parts[0]) in report and "Training cannot start" in report


def cut_png(root):
    path = root / "images/case1.png"
    path.write_bytes(path.read_bytes()[:900])
    return path, "cannot be read", "intact"


def cut_tif(root):
    (root / "images/case1.png").unlink()
    path = write(root / "images/case1.tif", np.eye(64, dtype=np.uint16))
    path.write_bytes(path.read_bytes()[:3000])
    return path, "cannot be read"


def text_for_image(root):
    path = root / "images/case1.png"
    path.write_text("see the other folder")
    return path, "cannot be read"


def huge_image(root):
    path = write(root / "images/case1.png", np.eye(600, dtype=np.uint8))
    return path, "cannot be read", "decompression bomb"


def colour_image(root):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[..., 0] = np.arange(64)
    return write(root / "images/case1.png", pixels), "colour", "grey"


def huge_values(root):
    (root / "images/case1.png").unlink()
    pixels = np.where(np.eye(64), 1e308, -1e308)
    path = root / "images/case1.tif"
    tifffile.imwrite(path, pixels)
    return path, "too far apart", "repair"


def tall_strip(root):
    pixels = np.arange(60_000, dtype=np.uint16)[:, None]
    for structure in ("liver", "spleen"):
        write(root / f"masks/{structure}/case1.png", np.uint8(pixels > 9))
    return write(root / "images/case1.png", pixels), "1×60000", "crop it"


def wide_strip(root):
    pixels = np.eye(5, 60, dtype=np.uint8)
    for structure in ("liver", "spleen"):
        write(root / f"masks/{structure}/case1.png", pixels)
    return write(root / "images/case1.png", pixels), "60×5", "crop it"


def nan_image(root):
    (root / "images/case1.png").unlink()
    pixels = np.eye(64, dtype=np.float32)
    pixels[3, 4] = np.nan
    return write(root / "images/case1.tif", pixels), "NaN", "repair"


def blank_image(root):
    return write(root / "images/case1.png", np.full((64, 64), 7, np.uint8)), "every value", "is 7.0"


def oblong_image(root):
    write(root / "images/case1.png", np.eye(64, 80, dtype=np.uint8))
    return root / "masks/liver/case1.png", "64×64", "80×64"


def turned_mask(root):
    write(root / "images/case1.png", np.eye(64, 80, dtype=np.uint8))
    write(root / "masks/liver/case1.png", np.eye(64, 80, dtype=np.uint8))
    return write(root / "masks/spleen/case1.png", np.eye(80, 64, dtype=np.uint8)), "64×80", "80×64"


def small_mask(root):
    return write(root / "masks/spleen/case1.png", np.eye(32, dtype=np.uint8)), "32×32", "64×64"


def grey_mask(root):
    ramp = np.arange(64, dtype=np.uint8)[None].repeat(64, 0)
    return write(root / "masks/spleen/case1.png", ramp), "not binary", "0, 1, 2"


def two_valued_mask(root):
    return (
        write(root / "masks/spleen/case1.png", np.eye(64, dtype=np.uint8) + 1),
        "not binary",
        "1, 2",
        "255",
    )


def no_mask(root):
    (root / "masks/spleen/case1.png").unlink()
    return root / "images/case1.png", "'spleen'"


def same_stem(root):
    return (
        write(root / "images/case1.tif", np.eye(64, dtype=np.uint8)),
        root / "images/case1.png",
        "keep one",
    )


def twice_in_index(root):
    with open(root / "index.csv", "a") as file:
        file.write("case1,p9\n")
    return root / "index.csv", "2 patients", "case1", "one line"


def not_in_index(root):
    (root / "index.csv").write_text(
        "id,patient\n" + "".join(f"case{case},p{case}\n" for case in range(7))
    )
    return root / "index.csv", "case7"


def short_line_in_index(root):
    lines = [f"p{case},case{case}\n" for case in range(7)]
    (root / "index.csv").write_text("".join(["patient,id\n", *lines, "p7\n"]))
    return root / "index.csv", "case7"


def no_patients(root):
    (root / "index.csv").write_text("id,age\ncase1,50\n")
    return root / "index.csv", "'id,age'", "columns id and patient"


def semicolons_in_index(root):
    (root / "index.csv").write_text((root / "index.csv").read_text().replace(",", ";"))
    return root / "index.csv", "'id;patient'", "separated by commas"


def index_in_cp1252(root):
    text = (root / "index.csv").read_text().replace("p1", "Müller")
    (root / "index.csv").write_text(text, encoding="cp1252")
    return root / "index.csv", "not in UTF-8", "columns id and patient"


def too_few_patients(root):
    (root / "index.csv").write_text(
        "id,patient\n" + "".join(f"case{case},p{case % 3}\n" for case in range(8))
    )
    return root, "3 patients", "four patients"


def no_images(root):
    (root / "images").rename(root / "pictures")
    return root, "holds no images", "images/<id>.png"


@pytest.mark.parametrize(
    "spoil",
    [
        cut_png,
        cut_tif,
        text_for_image,
        huge_image,
        colour_image,
        nan_image,
        huge_values,
        tall_strip,
        wide_strip,
        blank_image,
        oblong_image,
        turned_mask,
        small_mask,
        grey_mask,
        two_valued_mask,
        no_mask,
        same_stem,
        twice_in_index,
        not_in_index,
        short_line_in_index,
        no_patients,
        semicolons_in_index,
        index_in_cp1252,
        too_few_patients,
        no_images,
    ],
)
def test_a_bad_file_of_a_folder_is_named(own, spoil, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    parts = spoil(own)
    with pytest.raises(ValueError) as error:
        load("folder", root=own, size=32)
    message(error, *parts)
    assert not dataset.CACHE.exists()
    assert main(["check", "--folder", str(own)]) == 1
    report = capsys.readouterr().out
    assert str(parts[0]) in report and "Training cannot start" in report


def test_the_report_counts_what_is_there_and_names_what_is_not(jsrt, capsys):
    (jsrt / "scratch/fold2/masks/heart/JPCLN006.gif").touch()
    write(jsrt / "scratch/fold1/masks/left lung/JPCLN001.gif", np.zeros((1024, 1024), np.uint8))
    write(
        jsrt / "scratch/fold1/masks/right lung/JPCLN001.gif", np.full((1024, 1024), 255, np.uint8)
    )
    assert check("jsrt", jsrt)
    report = capsys.readouterr().out
    for part in (
        "4 images of 4 patients",
        "4 heart masks: 1024×1024 (4)",
        "4 images: 2048×2048 (4)",
        "243 of 247 images are missing: JPCLN003",
        "left out: 1, among them",
        "JPCLN006",
        "left lung/JPCLN001.gif covers 0%",
        "right lung/JPCLN001.gif covers 100%",
        "1 target-validation",
        "Training can start.",
    ):
        assert part in report, report


def test_the_report_names_every_bad_file_but_not_without_end(own, capsys):
    cut_png(own)
    two_valued_mask(own)
    assert not check("folder", own)
    report = capsys.readouterr().out
    assert (
        "Problems (2, " in report
        and "images/case1.png" in report
        and "masks/spleen/case1.png" in report
    )
    for path in own.rglob("*.png"):
        path.write_bytes(b"")
    assert not check("folder", own)
    report = capsys.readouterr().out
    assert "Problems (24, at most 20 are shown):" in report and len(report.splitlines()) < 40


def test_without_a_copy_the_report_says_where_to_put_one(tmp_path, capsys):
    assert main(["check"]) == 1
    report = capsys.readouterr().out
    assert (
        str(tmp_path / "data/jsrt") in report and "db.jsrt.or.jp" in report and "JSRT_DIR" in report
    )


def test_without_an_option_the_report_is_on_the_default_copy(jsrt, monkeypatch, capsys):
    monkeypatch.setenv("JSRT_DIR", str(jsrt))
    assert main(["check"]) == 0
    assert str(jsrt) in capsys.readouterr().out


def test_an_empty_option_is_this_folder_and_not_the_default_copy(jsrt, monkeypatch, capsys):
    monkeypatch.setenv("JSRT_DIR", str(jsrt))
    monkeypatch.chdir(jsrt / "scratch")
    for option in ("--folder", "--jsrt"):
        assert main(["check", option, ""]) == 1
        assert f"{jsrt / 'scratch'} holds no images" in capsys.readouterr().out


def test_the_help_names_the_options_and_the_exit_status(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["check", "--help"])
    text = capsys.readouterr().out
    assert leaving.value.code == 0
    for part in ("--jsrt DIR", "--folder DIR", "exit status", "JSRT_DIR"):
        assert part in text
