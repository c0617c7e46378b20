"""Fast pictures: what is where, and what a file keeps."""

import io
import json

import numpy as np
import pandas as pd
from PIL import Image, ImageColor

from helpers.explorer.drawing import noise_map, png, radiograph, sheet
from helpers.explorer.export import write_grey
from helpers.labels import OUTSIDE
from helpers.plots import COLOURS


def drawn(labels, reference=None, **options):
    options = {"classes": ()} | options
    image = np.zeros(labels.shape, dtype=np.float32)
    return np.asarray(
        radiograph(image, labels, labels if reference is None else reference, **options)
    ).astype(int)


def square(low, high, size=16):
    labels = np.zeros((size, size), dtype=np.uint8)
    labels[low:high, low:high] = 1
    return labels


def test_an_outline_has_the_colour_of_its_structure_and_lies_on_the_border():
    picture = drawn(square(4, 12))
    colour = np.array(ImageColor.getrgb(COLOURS[0]))
    rows, columns = np.nonzero(np.abs(picture - colour).max(axis=2) < 40)
    assert len(rows) and {rows.min(), columns.min()} <= set(
        range(103, 108)
    )  # 4 pixels of the image are 105 of the picture
    assert {rows.max(), columns.max()} <= set(range(312, 318))


def test_the_reference_is_dashed_and_an_image_without_structures_has_no_lines():
    empty, whole = np.zeros((16, 16), dtype=np.uint8), square(4, 12)
    assert len(np.unique(drawn(empty))) == 1
    white = (drawn(empty, whole, classes=(1,)) > 230).all(axis=2)
    edge = white[103:108].any(axis=0)[105:315]
    assert 0.2 < edge.mean() < 0.9


def test_what_is_seen_in_the_padding_is_not_drawn():
    padded = np.zeros((16, 16), dtype=np.int16)
    padded[:, :4] = padded[:, -4:] = OUTSIDE
    assert len(np.unique(drawn(square(0, 3), padded))) == 1
    assert len(np.unique(drawn(square(4, 12), padded))) > 1


def test_the_display_window_spreads_its_intensities():
    labels = np.zeros((16, 16), dtype=np.uint8)
    assert drawn(labels)[0, 0, 0] in (127, 128)
    assert (
        drawn(labels, window=(0.5, 0.5))[0, 0, 0] == 0
        and drawn(labels, window=(-0.5, 0.5))[0, 0, 0] == 255
    )


def test_noise_is_blue_below_white_at_and_red_above_zero():
    noise = np.array([[-1.0, 0.0], [0.5, 9.0]])
    picture = np.asarray(noise_map(noise, limit=0.5)).astype(int)
    (below, zero), (above, beyond) = picture[::400, ::400]
    assert below[2] > below[0] + 50 and (zero > 240).all() and above[0] > above[2] + 50
    assert (above == beyond).all()


def test_a_sheet_holds_everything_and_a_missing_value():
    pictures = [Image.new("L", (100, 100))] * 2
    scores = pd.Series({"heart": 50.0, "lung": float("nan")})
    page = sheet(pictures, "title", ["a", "b"], scores, foot="foot")
    found = np.asarray(page).astype(int)
    assert page.mode == "RGB" and 600 < page.width < 1000
    colour = np.abs(found - ImageColor.getrgb(COLOURS[0])).max(axis=2) < 10
    share = colour.any(axis=0).mean()
    assert 0.35 < share < 0.6, "half of the width that a whole bar has"
    assert not (np.abs(found - ImageColor.getrgb(COLOURS[1])).max(axis=2) < 10).any()
    assert Image.open(io.BytesIO(png(page))).size == page.size


def test_a_grey_file_moves_a_pixel_by_at_most_half_a_level(tmp_path):
    image = np.random.default_rng(0).uniform(-1, 1, (20, 30)).astype(np.float32)
    write_grey(tmp_path / "a.png", image, {"name": "ε"})
    with Image.open(tmp_path / "a.png") as file:
        assert json.loads(file.text["Description"]) == {"name": "ε"}
        read = np.asarray(file) / 32767.5 - 1
    assert np.abs(read - image).max() <= 1 / 65535 + 1e-7
