"""Shapes: closed forms, brute force, and files that are none."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import shapes
from helpers.shapes import png_text, read_shape

SQUARE = "M0 0 H9 V9 H0 Z"


def test_the_symbol_is_the_curve_filled():
    raster = read_shape(shapes.heart_curve())
    scale = (shapes.FINENESS - 1) / 32  # the curve is 32 wide
    assert raster.sum() / scale**2 == pytest.approx(180 * math.pi, rel=1e-3)


@pytest.mark.parametrize(
    ("path", "area"),  # in the unit in which the longest side is 1
    [
        ("M0 0 L10 0 10 10 L 0 10 Z", 1),
        ("m5,5 l10 0 l0 10 h-10 z", 1),
        ("M0 0 H10 V10 H0 V0", 1),  # back at its start
        ("M0 0 H10 V10 H0 Z M2 2 V8 H8 V2 Z", 1 - 0.36),  # a hole, whichever way round
        ("M0 0 H10 V10 H0 Z M2 2 H8 V8 H2 Z", 1 - 0.36),
        ("M-5 0 A5 5 0 0 1 5 0 A 5 5 0 0 1 -5 0 Z", math.pi / 4),
        ("M-5 0 a5 5 0 1 0 10 0 a5 5 0 1 0 -10 0 z", math.pi / 4),
        ("M0 0 Q5 10 10 0 Z", 1 / 3),  # a parabola of height 5: two thirds of its box
        ("M0 0 Q2.5 5 5 0 T10 0 Z", 1 / 6),
        ("M0 0 C0 4 6 4 6 0 Z", 0.6 * 4 * 6 / 36),
        ("M0 0 c0 4 6 4 6 0 s6 -4 6 0 z", 2 * 0.6 * 4 * 6 / 144),
    ],
)
def test_paths_enclose_the_area_known_in_closed_form(path, area):
    raster = read_shape(path)
    assert raster.sum() / max(raster.shape) ** 2 == pytest.approx(area, rel=4e-3)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=3, max_size=8))
def test_polygons_are_filled_by_the_even_odd_rule(corners):
    corners = np.array(corners, dtype=float)
    span = np.ptp(corners, axis=0).max()
    raster = shapes._fill([corners])
    for x, y in np.random.default_rng(0).uniform(0, 20, (50, 2)):
        ends = zip(corners, np.roll(corners, -1, axis=0), strict=True)
        hits = sum(
            (a[1] <= y) != (b[1] <= y) and x >= a[0] + (y - a[1]) * (b - a)[0] / (b - a)[1]
            for a, b in ends
        )
        place = (np.array([x, y]) - corners.min(axis=0)) * (shapes.FINENESS - 1) / (span or 1)
        column, row = np.rint(place).astype(int)
        if 1 <= row < raster.shape[0] - 1 and 1 <= column < raster.shape[1] - 1:
            near = raster[row - 1 : row + 2, column - 1 : column + 2]
            assert near.all() != near.any() or near.all() == bool(
                hits % 2
            )  # unless it lies on the outline


def test_a_png_shape_is_what_is_opaque_or_bright_or_not_zero(tmp_path):
    inside = np.zeros((6, 8), dtype=bool)
    inside[1:4, 2:7] = True
    clear = np.zeros((6, 8, 4), dtype=np.uint8)
    clear[..., 3] = np.where(inside, 200, 100)
    images = {
        "alpha": clear,
        "grey": np.where(inside, 128, 127).astype(np.uint8),
        "indices": inside.astype(np.uint8),
        "deep": np.where(inside, 40000, 30000).astype(np.uint16),
    }
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        assert np.array_equal(read_shape(tmp_path / f"{name}.png"), np.ones((3, 5), dtype=bool)), (
            name
        )


def test_of_an_svg_nothing_but_the_path_data_is_read(tmp_path):
    (tmp_path / "a.svg").write_text(
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" xmlns:x="http://www.w3.org/1999/xlink">'
        '<script>throw 1</script><image x:href="http://127.0.0.1:1/a.png"/><g transform="translate(3, 4)">'
        f'<path onclick="x()" d="{SQUARE}"/></g></svg>'
    )
    assert read_shape(tmp_path / "a.svg").all()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("M0 0 H9 V9", "not closed"),
        ("M0 0 H9 V9 Z M1 1 H3 V3", "not closed"),
        ("M0 0 L1 Z", "shape M0 0 L1 Z: "),
        ("M0 0 H1e999 V9 Z", "corner is not finite"),
        ("circle", "shape circle: <U6 () is no shape; give a bool array (h, w), a polygon (K, 2)"),
        ("", "is no shape; give a bool array"),
        (np.zeros((4, 4), dtype=bool), "it is empty: no area lies inside it"),
        (np.array([[0, 0], [5, 5], [9, 9]]), "it is empty: no area lies inside it"),
        (np.array([[0, 0], [0, 0], [0, 0]]), "it is empty: no area lies inside it"),
        (np.zeros((0, 2)), "(0, 2)"),
        (np.array([[0, 0], [5, np.nan], [9, 9]]), "corner is not finite; give numbers"),
        (np.zeros((4, 4)), "float64 (4, 4)"),
        (None, "object ()"),
    ],
)
def test_what_is_no_shape_is_refused(shape, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_shape(shape)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.svg", "<svg", "a.svg: unclosed token"),
        ("a.svg", "<svg/>", "number of <path d=…> elements is 0; give a file with one"),
        (
            "a.svg",
            '<svg><path d="M0 0H9V9Z"/><path d="M0 0H9V9Z"/></svg>',
            "elements is 2; give a file with one",
        ),
        ("a.svg", "<svg><path/></svg>", "elements is 0"),
        (
            "a.svg",
            '<svg><g transform="rotate(45)"><path d="M0 0H9V9Z"/></g></svg>',
            "transform is 'rotate(45)'; it would be lost: apply it",
        ),
        ("a.png", "no picture", "a.png: not a PNG file"),
    ],
)
def test_files_that_hold_no_shape_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_shape(tmp_path / name)


def test_a_truncated_or_missing_png_is_refused(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(
        tmp_path / "a.png"
    )
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"shape .*a\.png: image file is truncated"):
        read_shape(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="b.png"):
        read_shape(tmp_path / "b.png")


def test_a_huge_png_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "MOST_PIXELS", 99)
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(shapes.PngImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match=r"a\.png: number of pixels is 100; make it 99 at most"):
        read_shape(tmp_path / "a.png")


def test_a_shape_as_text_is_the_shape():
    shape = np.random.default_rng(0).random((40, 60)) > 0.5
    assert np.array_equal(read_shape(png_text(shape)), read_shape(shape))
    assert max(read_shape(png_text(np.ones((3000, 1000), dtype=bool))).shape) == 512
    with pytest.raises(ValueError, match="Only base64 data is allowed"):
        read_shape("data:image/png;base64,?")
