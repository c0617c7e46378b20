"""helpers.data.formats: one file as grey values or as a mask."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from radiographs import blow_up, write, write_scr

from helpers.data import label_map, load
from helpers.data.formats import area_average

pytestmark = pytest.mark.slow


def exact_average(pixels, size):
    """The mean over each output pixel's area, in fractions: each pixel cut into size × size equal crumbs."""
    n = len(pixels)
    crumbs = blow_up(pixels, size)  # (n·size, n·size), n × n of them in an output pixel
    sums = crumbs.reshape(size, n, size, n).sum((1, 3))
    return [[float(Fraction(int(total), n * n)) for total in row] for row in sums]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_an_area_average_is_exact_at_any_ratio(n, size, seed):
    pixels = np.random.default_rng(seed).integers(0, 4096, (n, n))
    assert np.allclose(area_average(pixels, size), exact_average(pixels, size), rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "highest"), [(np.uint8, 255), (np.uint16, 4095), (np.uint16, 65535)]
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_copies_of_the_images_are_scaled_by_their_bit_depth(
    tmp_path, true_cases, dtype, highest, suffix
):
    write_scr(tmp_path / "jsrt", true_cases)
    for id in true_cases:
        pixels = np.linspace(0, highest, 64).astype(dtype)[None].repeat(64, 0)
        write(tmp_path / "jsrt/png" / f"{id.lower()}{suffix}", pixels)
    images = load("jsrt", root=tmp_path / "jsrt", size=64).images
    assert torch.allclose(images[0, 0, 5], torch.linspace(-1, 1, 64), atol=2 / highest)
    assert images.min() == -1 and images.max() == pytest.approx(1, abs=1e-6)


def test_a_stray_value_above_12_bits_is_clipped(jsrt):
    first = load("jsrt", root=jsrt, size=64)
    path = jsrt / "All247images/JPCLN002.IMG"
    raw = np.frombuffer(path.read_bytes(), ">u2").copy()
    raw[:3] = 4100
    path.write_bytes(raw.tobytes())
    images = load("jsrt", root=jsrt, size=64).images
    assert images[1].min() >= -1 and (images[1] - first.images[1]).abs().max() < 0.01


def test_folder_images_may_be_deep_floating_or_grey_in_three_channels(own):
    ramp = np.linspace(0, 1, 64)[None].repeat(64, 0)
    (own / "images/case0.png").unlink()
    write(own / "images/case0.tif", (ramp * 60000 + 5000).astype(np.uint16))
    write(own / "images/case1.png", (ramp * 3000).astype(np.uint16))
    write(own / "images/case2.png", (ramp[..., None] * [250, 250, 250]).astype(np.uint8))
    (own / "images/case3.png").unlink()
    write(own / "images/case3.tiff", (ramp * 0.1 - 7).astype(np.float32))
    images = load("folder", root=own, size=64).images
    for row in range(4):
        assert torch.allclose(images[row, 0, 9], torch.linspace(-1, 1, 64), atol=0.01)


def test_images_of_odd_sizes_are_averaged_to_the_size_asked_for(own):
    for case in range(8):
        for path in own.rglob(f"case{case}.png"):
            write(path, blow_up(np.asarray(Image.open(path)), 3)[:145, :145])
    dataset = load("folder", root=own, size=50)
    assert dataset.images.shape == (8, 1, 50, 50) and dataset.labels.unique().tolist() == [0, 1, 2]


def test_masks_at_their_own_size_are_taken_exactly_and_smaller_ones_keep_what_is_half_covered(
    jsrt, true_cases
):
    at_1024, at_64 = (load("jsrt", root=jsrt, size=size) for size in (1024, 64))
    for row, (_, masks) in enumerate(true_cases.values()):
        assert np.array_equal(at_1024.labels[row], blow_up(label_map(masks), 4))
        covered = masks.reshape(5, 64, 4, 64, 4).sum((2, 4))
        assert np.array_equal(at_64.labels[row], label_map(covered >= 8))
