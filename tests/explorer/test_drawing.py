"""Fast pictures: what is where, and what a file keeps."""

import io
import json

import numpy as np
from PIL import Image, ImageColor

from helpers.explorer.drawing import SIDE, TOP, draw, png
from helpers.explorer.export import write_grey
from helpers.labels import OUTSIDE
from helpers.plots import COLOURS


def drawn(labels, reference=None, *, image=None, noise=None, classes=(), limit=1, **options):
    """The pixels of the radiograph and of its noise."""
    flat = np.zeros(labels.shape, dtype=np.float32)
    figure = draw(
        flat if image is None else image,
        flat if noise is None else noise,
        labels,
        labels if reference is None else reference,
        classes=classes,
        limit=limit,
        **options,
    )
    picture = np.asarray(Image.open(io.BytesIO(png(figure))).convert("RGB")).astype(int)
    assert picture.shape == (SIDE + TOP, 2 * SIDE + 10, 3)
    return picture[TOP:, :SIDE], picture[TOP:, -SIDE:]


def square(low, high, size=16):
    labels = np.zeros((size, size), dtype=np.uint8)
    labels[low:high, low:high] = 1
    return labels


def test_an_outline_has_the_colour_of_its_structure_and_lies_on_the_border():
    picture, _ = drawn(square(4, 12))
    colour = np.array(ImageColor.getrgb(COLOURS[0]))
    rows, columns = np.nonzero(np.abs(picture - colour).max(axis=2) < 40)
    for ends in ((rows.min(), rows.max()), (columns.min(), columns.max())):
        assert np.allclose(ends, (105, 315), atol=4), "4 pixels of the image are 105 of the picture"


def test_the_reference_is_dashed_and_an_image_without_structures_has_no_lines():
    empty, whole = np.zeros((16, 16), dtype=np.uint8), square(4, 12)
    assert len(np.unique(drawn(empty)[0])) == 1
    white = (drawn(empty, whole, classes=(1,))[0] > 230).all(axis=2)
    edge = white[102:109].any(axis=0)[105:315]
    assert 0.2 < edge.mean() < 0.9


def test_what_is_seen_in_the_padding_is_not_drawn():
    padded = np.zeros((16, 16), dtype=np.int16)
    padded[:, :4] = padded[:, -4:] = OUTSIDE
    assert len(np.unique(drawn(square(0, 3), padded)[0])) == 1
    assert len(np.unique(drawn(square(4, 12), padded)[0])) > 1


def test_the_display_window_spreads_its_intensities():
    labels = np.zeros((16, 16), dtype=np.uint8)
    for window, grey in (((-1, 1), 128), ((0.25, 0.75), 0), ((-0.75, -0.25), 255)):
        assert abs(drawn(labels, window=window)[0][9, 9, 0] - grey) <= 1


def test_noise_is_blue_below_white_at_and_red_above_zero():
    noise = np.array([[-1.0, 0.0], [0.5, 9.0]])
    _, picture = drawn(np.zeros((2, 2), dtype=np.uint8), noise=noise, limit=0.5)
    (below, zero), (above, beyond) = picture[9::400, 9::400]
    assert below[2] > below[0] + 50 and (zero > 240).all() and above[0] > above[2] + 50
    assert (above == beyond).all()


def test_lines_are_yellow_and_where_the_image_s_pixels_are():
    line = [(3.5, 3.5), (11.5, 3.5)]
    picture, _ = drawn(np.zeros((16, 16), dtype=np.uint8), lines=[line])
    rows, columns = (abs(picture - (255, 255, 0)).sum(axis=2) < 40).nonzero()
    assert np.allclose((rows.min(), rows.max()), 105, atol=5)
    assert np.allclose((columns.min(), columns.max()), (105, 315), atol=5)


def test_a_grey_file_moves_a_pixel_by_at_most_half_a_level(tmp_path):
    image = np.random.default_rng(0).uniform(-1, 1, (20, 30)).astype(np.float32)
    write_grey(tmp_path / "a.png", image, {"name": "ε"})
    with Image.open(tmp_path / "a.png") as file:
        assert json.loads(file.text["Description"]) == {"name": "ε"}
        read = np.asarray(file) / 32767.5 - 1
    assert np.abs(read - image).max() <= 1 / 65535 + 1e-7
