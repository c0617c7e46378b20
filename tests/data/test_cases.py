"""helpers.data.cases: masks, label maps and pictures that are not square as label maps of one size."""

import numpy as np
import pytest
import torch
from PIL import Image
from radiographs import message, write, write_dicom

from helpers.data import check, load
from helpers.data.formats import read_mask
from helpers.data.padding import pad_to_square
from helpers.labels import OUTSIDE, UNLABELLED, picture_box

NAMES = "value,name\n1,heart\n3,left lung\n255,ignore\n"


def write_labels(root, *, names=NAMES, values=(0, 1, 3, 255), shape=(64, 64), suffix=".png"):
    """Eight cases with label maps; returns the maps by id."""
    rng, maps = np.random.default_rng(0), {}
    for case in range(8):
        id = f"case{case}"
        write(root / f"images/{id}.png", rng.integers(5, 200, shape, dtype=np.uint8))
        maps[id] = rng.choice(values, shape).astype(np.uint8)
        write(root / f"labels/{id}{suffix}", maps[id])
    (root / "labels.csv").write_text(names)
    return maps


def test_a_label_map_is_taken_exactly_with_the_names_in_their_order(tmp_path):
    maps = write_labels(tmp_path)
    dataset = load("folder", root=tmp_path, size=64)
    assert dataset.structures == ("heart", "left lung") and dataset.num_classes == 3
    classes = {0: 0, 1: 1, 3: 2, 255: UNLABELLED}
    for labels, values in zip(dataset.labels, maps.values(), strict=True):
        assert np.array_equal(labels, np.vectorize(classes.get)(values))
    assert check("folder", tmp_path)


def test_zero_is_background_unless_the_names_say_otherwise(tmp_path):
    names = "value,name\n255,Background\n7,spleen\n0,liver\n9,spleen\n"
    maps = write_labels(tmp_path, names=names, values=(0, 7, 9, 255))
    dataset = load("folder", root=tmp_path, size=64)
    assert dataset.structures == ("spleen", "liver")
    classes = {0: 2, 7: 1, 9: 1, 255: 0}
    for labels, values in zip(dataset.labels, maps.values(), strict=True):
        assert np.array_equal(labels, np.vectorize(classes.get)(values))


def test_a_label_map_gives_what_masks_of_its_classes_give(tmp_path):
    maps = write_labels(tmp_path / "maps", values=(0, 1, 3), shape=(64, 40))
    for id, values in maps.items():
        image = np.asarray(Image.open(tmp_path / f"maps/images/{id}.png"))
        write(tmp_path / f"masks/images/{id}.png", image)
        for value, name in ((1, "heart"), (3, "left lung")):
            mask = (values == value).astype(np.uint8) * 255
            write(tmp_path / f"masks/masks/{name}/{id}.png", mask)
    first, second = (load("folder", root=tmp_path / name, size=32) for name in ("maps", "masks"))
    assert first.structures == second.structures
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)


def test_other_names_are_another_dataset(tmp_path):
    write_labels(tmp_path)
    first = load("folder", root=tmp_path, size=32)
    (tmp_path / "labels.csv").write_text(NAMES.replace("3,", "4,").replace("1,", "3,") + "1,x\n")
    with pytest.raises(ValueError, match="no case .* 'left lung'"):
        load("folder", root=tmp_path, size=32)
    (tmp_path / "labels.csv").write_text(NAMES.replace("heart", "left lung", 1))
    second = load("folder", root=tmp_path, size=32)
    assert second.structures == ("left lung",) and second.digest != first.digest


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"values": (0, 1, 7)}, ["case0.png", "value 7", "no name", "labels.csv"]),
        ({"names": "value,name\n1,heart\n3,lung\n"}, ["value 255", "no name"]),
        ({"names": "value,name\n1,heart\n1,lung\n"}, ["labels.csv", "value 1 twice"]),
        (
            {"names": "value,name\n1.5,heart\n"},
            ["labels.csv", "'1.5,heart'", "columns value and name"],
        ),
        ({"names": "value,name\n1,\n"}, ["labels.csv", "'1,'", "columns value and name"]),
        ({"names": "id;name\n1;heart\n"}, ["labels.csv", "columns value and name"]),
        ({"names": "value,name\n0,background\n"}, ["labels.csv", "no structure"]),
        ({"names": "value,name\n1,Mean\n"}, ["'Mean'", "rename it"]),
        ({"suffix": ".jpg"}, ["labels/case0.jpg", "no name"]),
    ],
)
def test_label_maps_and_names_that_do_not_fit_are_named(tmp_path, options, parts, capsys):
    write_labels(tmp_path, **options)
    with pytest.raises(ValueError) as error:
        load("folder", root=tmp_path, size=32)
    message(error, *parts)
    assert not check("folder", tmp_path)
    assert parts[0] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (NAMES.replace(",", ";"), "'value;name'"),
        (NAMES.replace(",", "\t"), "separated by commas"),
        (NAMES.replace("value,name\n", ""), "'1,heart'"),
        (NAMES.replace("1,", "1.0,"), "'1.0,heart'"),
        ("", "the columns value and name"),
        ("value,name\n", "names no structure"),
        (NAMES.encode("utf-16"), "not in UTF-8"),
        (NAMES.replace("heart", "Cœur").encode("cp1252"), "not in UTF-8"),
    ],
)
def test_a_faulty_table_of_names_is_the_one_problem(tmp_path, text, part, capsys):
    write_labels(tmp_path)
    (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as error:
        load("folder", root=tmp_path, size=32)
    message(error, tmp_path / "labels.csv", part)
    assert not check("folder", tmp_path)
    assert "Problems (1," in capsys.readouterr().out


@pytest.mark.parametrize("header", ["Value,Name", "value, name"])
def test_case_and_blanks_of_a_header_do_not_matter(tmp_path, header):
    write_labels(tmp_path, names=NAMES.replace("value,name", header))
    assert load("folder", root=tmp_path, size=32).structures == ("heart", "left lung")


@pytest.mark.parametrize("small", ["heart", "colon"])
def test_a_structure_that_earlier_ones_cover_is_a_problem(tmp_path, small, capsys):
    write_labels(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "unused")
    for case in range(8):
        write(tmp_path / f"masks/body/case{case}.png", np.full((64, 64), 255, np.uint8))
        write(tmp_path / f"masks/{small}/case{case}.png", INSIDE)
    with pytest.raises(ValueError) as error:
        load("folder", root=tmp_path, size=64)
    message(error, f"{small!r}", "structures that cover it", "come later")
    assert not check("folder", tmp_path)
    assert f"structure {small!r} is covered by earlier ones (body)" in capsys.readouterr().out
    write(tmp_path / "masks/body/case3.png", 255 - INSIDE)
    assert check("folder", tmp_path)


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda root: (root / "labels.csv").unlink(), ["labels.csv", "value and name"]),
        (lambda root: (root / "labels/case3.png").unlink(), ["images/case3.png", "label map"]),
        (lambda root: (root / "masks").mkdir(), ["both masks and labels"]),
        (lambda root: write(root / "labels/case3.tif", np.eye(64) / 2), ["case3.tif", "keep one"]),
    ],
)
def test_a_folder_of_label_maps_that_is_not_whole_is_refused(tmp_path, spoil, parts):
    write_labels(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError) as error:
        load("folder", root=tmp_path, size=32)
    message(error, *parts)


def test_a_label_map_of_fractions_is_refused(tmp_path):
    write_labels(tmp_path)
    (tmp_path / "labels/case3.png").unlink()
    write(tmp_path / "labels/case3.tif", np.full((64, 64), 0.5, np.float32))
    with pytest.raises(ValueError) as error:
        load("folder", root=tmp_path, size=32)
    message(error, "case3.tif", "0.5", "whole number")


@pytest.mark.parametrize("shape", [(60, 36), (36, 60), (31, 62), (61, 60)])
def test_a_picture_that_is_not_square_is_padded_and_never_stretched(tmp_path, shape):
    maps = write_labels(tmp_path, values=(0, 1, 3), shape=shape)
    side = max(shape)
    dataset = load("folder", root=tmp_path, size=side)
    for row, (id, values) in enumerate(maps.items()):
        image, labels = dataset.images[row, 0].numpy(), dataset.labels[row].numpy()
        box = picture_box(labels)
        assert image[box].shape == shape and (labels[box] != OUTSIDE).all()
        pixels = np.asarray(Image.open(tmp_path / f"images/{id}.png")).astype(float)
        scaled = (pixels - pixels.min()) / np.ptp(pixels) * 2 - 1
        assert np.allclose(image[box], scaled, atol=1e-6)
        assert np.array_equal(labels[box] > 0, values > 0)
        around = labels == OUTSIDE
        assert (image[around] == -1).all() and around.sum() == side**2 - values.size
        before = [part.start for part in box]
        assert before == [(side - length) // 2 for length in shape]


def test_a_reduced_picture_is_outside_where_padding_covers_more_than_half(tmp_path):
    write_labels(tmp_path, values=(1, 3), shape=(64, 36))  # 14 columns on either side
    labels = load("folder", root=tmp_path, size=32).labels
    assert ((labels == OUTSIDE).sum(2) == 14).all() and (labels[:, :, 7:25] != OUTSIDE).all()
    write_labels(tmp_path, values=(1, 3), shape=(64, 38))  # 13: the seventh pixel is half covered
    labels = load("folder", root=tmp_path, size=32).labels
    assert ((labels == OUTSIDE).sum(2) == 12).all() and (labels[:, :, 6:26] != OUTSIDE).all()


def test_padding_is_in_the_middle_and_an_odd_pixel_goes_behind():
    assert pad_to_square(np.ones((1, 4)), 0).tolist() == [[0] * 4, [1] * 4, [0] * 4, [0] * 4]
    assert pad_to_square(np.ones((3, 2)), 7)[0].tolist() == [1, 1, 7]
    assert np.array_equal(pad_to_square(np.eye(3)), np.eye(3))


def test_a_square_picture_has_no_padding(tmp_path):
    write_labels(tmp_path)
    dataset = load("folder", root=tmp_path, size=48)
    assert not (dataset.labels == OUTSIDE).any()
    assert picture_box(dataset.labels[0].numpy()) == (slice(0, 48), slice(0, 48))


def test_one_folder_may_hold_all_kinds_of_files(tmp_path):
    write_labels(tmp_path)
    pixels = np.asarray(Image.open(tmp_path / "images/case0.png"))
    exact = load("folder", root=tmp_path, size=64).images[0]
    for suffix in (".bmp", ".tif", ".jpeg", ".JPG", ".dcm", ""):
        for old in (tmp_path / "images").glob("case0*"):
            old.unlink()
        path = tmp_path / f"images/case0{suffix}"
        if suffix in (".dcm", ""):
            write_dicom(path, pixels)
        elif suffix.startswith(".j") or suffix == ".JPG":
            Image.fromarray(pixels).save(path, "JPEG", quality=100, subsampling=0)
        else:
            write(path, pixels)
        image = load("folder", root=tmp_path, size=64).images[0]
        assert torch.allclose(image, exact, atol=0.05 if "j" in suffix.lower() else 1e-6), suffix


def rgba(colour, opacity):
    """A picture of one colour or one grey value for each pixel, with an opacity (h, w)."""
    grey = np.broadcast_to(colour, opacity.shape)
    return np.dstack([grey, grey, grey, opacity]).astype(np.uint8)


INSIDE = np.zeros((64, 64), np.uint8)
INSIDE[20:40, 20:30] = 255


@pytest.mark.parametrize(
    "pixels",
    [
        rgba(0, INSIDE),
        rgba(255, INSIDE),
        rgba(INSIDE, INSIDE),
        rgba(INSIDE, np.full_like(INSIDE, 255)),
        np.dstack([np.zeros_like(INSIDE), INSIDE]),
        rgba(0, INSIDE) + np.array([200, 0, 0, 0], np.uint8),
    ],
    ids=["black", "white", "both", "opaque", "grey", "red"],
)
def test_a_mask_in_the_opacity_is_used(tmp_path, pixels):
    write_labels(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "unused")
    for case in range(8):
        write(tmp_path / f"masks/heart/case{case}.png", pixels)
    dataset = load("folder", root=tmp_path, size=64)
    assert all(np.array_equal(labels, INSIDE > 0) for labels in dataset.labels)


@pytest.mark.parametrize(
    ("pixels", "problem"),
    [
        (rgba(INSIDE, INSIDE.T), "opacity"),
        (rgba(0, np.arange(64, dtype=np.uint8)[None].repeat(64, 0)), "not binary"),
        (np.asarray(Image.fromarray(INSIDE).resize((32, 32)).resize((64, 64))), "not binary"),
    ],
)
def test_a_mask_that_is_not_clear_is_refused(tmp_path, pixels, problem):
    write_labels(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "unused")
    for case in range(8):
        write(tmp_path / f"masks/heart/case{case}.png", INSIDE)
    write(tmp_path / "masks/heart/case2.png", pixels)
    with pytest.raises(ValueError) as error:
        load("folder", root=tmp_path, size=64)
    message(error, "masks/heart/case2.png", problem)


@pytest.mark.parametrize(
    ("colour", "opacity", "inside"),
    [(255, 255, True), (0, 255, False), (0, 0, False), (9, 0, False)],
)
def test_a_mask_of_one_colour_and_one_opacity_is_all_or_nothing(tmp_path, colour, opacity, inside):
    path = write(tmp_path / "a.png", rgba(colour, np.full((8, 8), opacity, np.uint8)))
    assert (read_mask(path) == inside).all()


def test_a_mask_that_was_a_jpeg_is_refused(tmp_path):
    write_labels(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "unused")
    ellipse = np.hypot(*np.mgrid[-32:32, -40:24]) < 17
    for case in range(8):
        write(tmp_path / f"masks/heart/case{case}.jpg", ellipse.astype(np.uint8) * 255)
    with pytest.raises(ValueError) as error:
        load("folder", root=tmp_path, size=64)
    message(error, "masks/heart/case0.jpg", "not binary", "JPEG")


def test_an_image_that_is_partly_transparent_is_refused(tmp_path):
    write_labels(tmp_path)
    write(tmp_path / "images/case5.png", rgba(INSIDE, INSIDE))
    with pytest.raises(ValueError) as error:
        load("folder", root=tmp_path, size=64)
    message(error, "images/case5.png", "transparent")


def test_a_structure_that_is_empty_in_every_case_is_a_problem(tmp_path, capsys):
    write_labels(tmp_path, values=(0, 1))
    with pytest.raises(ValueError) as error:
        load("folder", root=tmp_path, size=64)
    message(error, "'left lung'", "no case")
    assert not check("folder", tmp_path)
    assert "structure 'left lung' is empty in every case" in capsys.readouterr().out
