"""Hard IoU against counted pixels, and intervals against known ones."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.evaluation import (
    align,
    bootstrap_interval,
    display_window,
    energy_shares,
    freed_share,
    in_truth,
    iou,
    iou_table,
    summarise,
    visibility,
)
from helpers.labels import OUTSIDE, UNLABELLED


def make_maps(seed, n=3, size=5, classes=4):
    return torch.randint(
        0, classes, (2, n, size, size), generator=torch.Generator().manual_seed(seed)
    )


# --- iou --------------------------------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_iou_is_what_counting_pixels_gives(seed, size):
    predictions, labels = make_maps(seed, n=2, size=size)
    found = iou(predictions, labels, classes=(1, 3, 2))
    assert found.shape == (2, 3) and found.dtype == torch.float32
    for i in range(2):
        for k, c in enumerate((1, 3, 2)):
            pairs = list(
                zip(predictions[i].flatten().tolist(), labels[i].flatten().tolist(), strict=True)
            )
            both = sum(p == c and t == c for p, t in pairs)
            either = sum(p == c or t == c for p, t in pairs)
            expected = 100 * both / either if either else math.nan
            assert float(found[i, k]) == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_a_class_in_neither_map_is_undefined_and_a_class_in_one_of_them_scores_0():
    predictions, labels = torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[1, 0, 2, 0]]])
    found = iou(predictions, labels, classes=(1, 2, 3))[0]
    assert found[:2].tolist() == [50, 0] and found[2].isnan()
    assert iou(labels, predictions, classes=(2,)).tolist() == [[0]]


def test_identical_maps_score_100_and_the_order_of_the_two_does_not_matter():
    predictions, labels = make_maps(0)
    assert (iou(labels, labels, classes=range(4)) == 100).all()
    assert torch.equal(
        iou(predictions, labels, classes=range(4)), iou(labels, predictions, classes=range(4))
    )


@pytest.mark.parametrize("value", [UNLABELLED, OUTSIDE])
def test_pixels_without_a_label_count_in_no_iou(value):
    generator = torch.Generator().manual_seed(0)
    predictions, labels = torch.randint(0, 3, (2, 3, 8, 8), generator=generator)
    labels[:2, :3] = value
    labels[2] = value
    found = iou(predictions, labels, classes=(0, 1, 2))
    expected = iou(predictions[:2, 3:], labels[:2, 3:], classes=(0, 1, 2))
    assert torch.equal(found[:2], expected) and found[2].isnan().all()


def test_an_image_s_iou_does_not_depend_on_the_batch():
    predictions, labels = make_maps(1, n=4)
    order = torch.tensor([2, 0, 3, 1])
    whole = iou(predictions, labels, classes=(1, 2))
    assert torch.equal(iou(predictions[order], labels[order], classes=(1, 2)), whole[order])
    assert torch.equal(iou(predictions[1:2], labels[1:2], classes=(1, 2)), whole[1:2])
    assert iou(predictions[:0], labels[:0], classes=(1, 2)).shape == (0, 2)


def test_maps_of_different_shapes_are_refused():
    predictions, labels = make_maps(0)
    with pytest.raises(ValueError, match=r"\(3, 5, 5\).*\(2, 5, 5\)"):
        iou(predictions, labels[:2], classes=(1,))
    with pytest.raises(ValueError, match=r"\(3, 5, 5\).*\(1, 5, 5\)"):  # would broadcast
        iou(predictions, labels[:1], classes=(1,))


def test_the_table_has_a_row_for_each_case_and_structure():
    predictions, labels = make_maps(2)
    table = iou_table(
        predictions,
        labels,
        ids=["c", "a", "b"],
        structures=("x", "y", "z"),
        attack="none",
        epsilon=0.5,
    )
    assert list(table.columns) == ["attack", "epsilon", "id", "structure", "iou"]
    assert table["id"].tolist() == [id for id in "cab" for _ in range(3)]
    assert table["structure"].tolist() == ["x", "y", "z"] * 3
    assert set(table["attack"]) == {"none"} and set(table["epsilon"]) == {0.5}
    np.testing.assert_array_equal(
        table["iou"], iou(predictions, labels, classes=(1, 2, 3)).flatten()
    )


# --- what becomes of freed pixels -------------------------------------------------------------------------------------

NAMES = ("heart", "left clavicle", "left lung")


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_the_freed_share_is_what_counting_pixels_gives(seed):
    truth, target = make_maps(seed, n=2)
    predictions = make_maps(seed + 1, n=2)[0]
    found = freed_share(
        truth,
        target,
        predictions,
        structure="left clavicle",
        neighbour="left lung",
        ids=["b", "a"],
        structures=NAMES,
    )
    assert list(found.columns) == ["structure", "id", "share"] and found["id"].tolist() == [
        "b",
        "a",
    ]
    assert set(found["structure"]) == {"left clavicle"}
    for k in range(2):
        pixels = zip(
            *(maps[k].flatten().tolist() for maps in (truth, target, predictions)), strict=True
        )
        taken = [p == 3 for t, wanted, p in pixels if t == 2 and wanted == 0]
        expected = 100 * sum(taken) / len(taken) if taken else math.nan
        assert found["share"][k] == pytest.approx(expected, nan_ok=True)


@pytest.mark.filterwarnings("error")
def test_an_obeyed_target_frees_all_and_a_closing_lung_takes_all():
    truth = torch.tensor([[[2, 2, 2, 2, 3, 3]]])
    target = torch.tensor([[[0, 2, 2, 0, 3, 3]]])
    share = lambda predictions, target=target: freed_share(  # noqa: E731
        truth,
        target,
        predictions,
        structure=NAMES[1],
        neighbour=NAMES[2],
        ids=["a"],
        structures=NAMES,
    )["share"][0]
    assert share(target) == 0 and share(truth) == 0  # background, and still the clavicle
    assert share(torch.where(target == 0, 3, target)) == 100
    assert share(torch.tensor([[[3, 3, 3, 2, 3, 3]]])) == 50  # what is not freed does not count
    assert math.isnan(share(target, truth))


# --- maps of many cases -----------------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(5, 9), st.integers(5, 9), st.integers(0, 10**6))
def test_aligning_brings_the_centre_of_a_mask_to_the_middle(height, width, seed):
    generator = np.random.default_rng(seed)
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    for mask in masks:
        y, x = generator.integers(0, height - 2), generator.integers(0, width - 2)
        mask[y : y + generator.integers(1, 4), x : x + generator.integers(1, 4)] = True
    for moved, mask in zip(align(masks.float(), masks), masks.numpy(), strict=True):
        assert moved.dtype == np.float32 and moved.sum() == mask.sum()
        centre = [(places * moved).sum() / moved.sum() for places in np.indices(moved.shape)]
        np.testing.assert_allclose(centre, (np.array(moved.shape) - 1) / 2, atol=0.5 + 1e-6)


def test_a_map_moves_as_far_as_its_mask_by_whole_pixels_and_brings_in_zeros():
    maps = torch.rand(1, 7, 9, generator=torch.Generator().manual_seed(0)) + 1
    mask = torch.zeros(1, 7, 9, dtype=torch.bool)
    mask[0, 1:4, 5:8] = True  # its centre is (2, 6), the middle is (3, 4)
    expected = np.zeros((14, 18), dtype=np.float32)
    expected[5:12, 3:12] = maps[0]  # all of it
    (moved,) = align(maps, mask)
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("size", [9, 10])
def test_equal_shapes_lie_on_each_other_once_aligned(size):
    masks = torch.zeros(4, size, size, dtype=torch.bool)
    for k, mask in enumerate(masks):
        mask[k : k + 3, 5 - k : 8 - k] = True
    np.testing.assert_array_equal(np.unique(align(masks.float(), masks).mean(axis=0)), [0, 1])


# --- where the noise is and who sees it -------------------------------------------------------------------------------


def test_energy_shares_of_a_partition_sum_to_100_and_follow_squares():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 2, 8, 8, generator=generator)
    label = torch.randint(0, 3, (3, 8, 8), generator=generator)
    zones = {name: label == k for k, name in enumerate("abc")}
    found = energy_shares(noise, zones)
    assert list(found) == ["a", "b", "c"] and sum(found.values()) == pytest.approx(100, abs=1e-4)
    for k, name in enumerate("abc"):
        shares = [
            float((noise[i] ** 2)[:, label[i] == k].sum() / (noise[i] ** 2).sum()) for i in range(3)
        ]
        assert found[name] == pytest.approx(100 * np.mean(shares), rel=1e-5)
    assert energy_shares(noise * 0.01, zones) == pytest.approx(found, rel=1e-4)
    assert energy_shares(noise, {"all": torch.ones(3, 8, 8, dtype=torch.bool)})[
        "all"
    ] == pytest.approx(100, abs=1e-4)


def test_noise_of_one_strength_has_the_share_of_the_area_and_each_image_counts_alike():
    noise = torch.tensor([0.01, 0.04])[:, None, None, None].expand(2, 1, 4, 4)
    zone = torch.zeros(2, 4, 4, dtype=torch.bool)
    zone[0, :2], zone[1, :1] = True, True
    assert energy_shares(noise, {"zone": zone})["zone"] == pytest.approx((50 + 25) / 2)
    assert math.isnan(energy_shares(noise * 0, {"zone": zone})["zone"])


@pytest.mark.parametrize("centre", [-0.9, 0.0, 0.4])
def test_a_display_window_lies_around_its_centre_and_the_widest_is_the_whole_range(centre):
    assert display_window(centre, 2) == display_window(centre, 3.5) == (-1, 1)
    for width in (0.25, 1.0, 1.9):
        low, high = display_window(centre, width)
        assert (low + high) / 2 == pytest.approx(centre) and high - low == pytest.approx(width)
    for width in (0, -1, math.nan):
        with pytest.raises(ValueError, match=f"window is {width}; it must be above 0"):
            display_window(centre, width)


def seen_in(images, adv_images, **window):
    """`visibility` of pictures without padding."""
    return visibility(images, adv_images, labels=torch.zeros_like(images[:, 0]), **window)


@pytest.mark.filterwarnings("error")
def test_equal_images_look_equal():
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = seen_in(images, images.clone(), centre=[0.0, 0.3], width=1.0)
    assert list(found.columns) == ["psnr", "ssim"]
    assert (found["psnr"] == np.inf).all() and found["ssim"].tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("width", [2.0, 1.0, 0.25])
def test_constant_noise_has_the_psnr_that_its_height_in_the_window_gives(width):
    images = torch.zeros(1, 1, 16, 16)
    found = seen_in(images, images + 0.04, centre=0.0, width=width)
    assert found["psnr"][0] == pytest.approx(-20 * math.log10(0.04 / width), abs=1e-3)


def test_a_narrower_window_never_hides_noise_on_a_grey_image():
    noise = (torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1) * 0.04
    images = torch.zeros(3, 1, 32, 32)
    seen = [
        seen_in(images, images + noise, centre=0.0, width=width)
        for width in (2, 1.5, 1, 0.5, 0.25, 0.1)
    ]
    for wide, narrow in zip(seen, seen[1:], strict=False):
        assert (narrow["psnr"] < wide["psnr"]).all() and (narrow["ssim"] < wide["ssim"]).all()


def test_noise_outside_the_window_is_invisible():
    images = torch.full((2, 1, 16, 16), 0.8)
    found = seen_in(
        images, images - 0.04, centre=[0.0, 0.8], width=0.5
    )  # the first is white in both
    assert (
        found["psnr"][0] == np.inf
        and found["ssim"][0] == pytest.approx(1)
        and found["psnr"][1] < 30
    )


def test_each_image_has_its_own_window_and_a_row_of_its_own():
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    adv_images, centre = (images + 0.05).clamp(-1, 1), [-0.5, 0.0, 0.5]
    whole = seen_in(images, adv_images, centre=centre, width=0.5)
    for k in range(3):
        one = seen_in(images[k : k + 1], adv_images[k : k + 1], centre=centre[k], width=0.5)
        pd.testing.assert_frame_equal(one, whole[k : k + 1].reset_index(drop=True))
    assert whole["psnr"].nunique() == 3
    assert list(seen_in(images[:0], images[:0], centre=0.0, width=1).columns) == ["psnr", "ssim"]


def test_padding_takes_no_part_in_what_can_be_seen():
    images = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(3)) * 2 - 1
    adv_images, labels = (images + 0.05).clamp(-1, 1), torch.zeros(2, 24, 24, dtype=torch.int64)
    labels[:, :, :4] = labels[:, :, -4:] = OUTSIDE
    found = visibility(images, adv_images, centre=0.0, width=1.0, labels=labels)
    cropped = seen_in(images[..., 4:-4], adv_images[..., 4:-4], centre=0.0, width=1.0)
    pd.testing.assert_frame_equal(found, cropped)


# --- intervals and means ----------------------------------------------------------------------------------------------


def test_the_interval_of_a_normal_sample_is_the_known_one():
    values = np.random.default_rng(0).normal(70, 10, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.06 * half)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = [
        low <= 5 <= high
        for low, high in (bootstrap_interval(generator.normal(5, 1, 40)) for _ in range(60))
    ]
    assert 0.85 <= np.mean(hits) <= 1


def test_the_interval_of_two_values_reaches_from_one_to_the_other():
    assert bootstrap_interval([1.0, 3.0]) == (1.0, 3.0)  # a quarter of the resamples each


@pytest.mark.filterwarnings("error")
def test_the_interval_of_constant_values_is_that_value():
    assert bootstrap_interval([42.0] * 20) == (42.0, 42.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[], [1.0], [math.nan], [1.0, math.nan]])
def test_fewer_than_two_values_have_no_interval(values):
    assert np.isnan(bootstrap_interval(values)).all()


def test_undefined_values_do_not_count_and_an_interval_is_the_same_each_time():
    values = np.random.default_rng(2).normal(size=30)
    assert bootstrap_interval([*values, math.nan]) == bootstrap_interval(values)
    assert bootstrap_interval(values) == bootstrap_interval(values)


def tidy(rows):
    return pd.DataFrame(rows, columns=["attack", "id", "structure", "iou"])


def test_structures_are_averaged_within_a_case_before_cases_are():
    table = tidy(
        [("a", "1", "x", 10), ("a", "1", "y", math.nan), ("a", "2", "x", 30), ("a", "2", "y", 70)]
    )
    summary = summarise(table, by=["attack"])
    assert list(summary.columns) == ["attack", "n", "iou", "low", "high"]
    (row,) = summary.to_dict("records")
    assert (row["attack"], row["n"], row["iou"], row["low"], row["high"]) == (
        "a",
        2,
        30,
        10,
        50,
    )  # not 36.7


def test_a_case_without_any_value_is_left_out_and_n_says_so():
    table = tidy(
        [("a", str(i), "x", value) for i, value in enumerate([10, math.nan, 20, math.nan])]
    )
    (row,) = summarise(table, by=["attack"]).to_dict("records")
    assert (row["n"], row["iou"]) == (2, 15)


def test_a_row_without_any_case_stays_in_the_table_with_n_0():
    table = tidy([("a", "1", "x", math.nan), ("a", "2", "x", math.nan), ("b", "1", "x", 5)])
    first, second = summarise(table, by=["attack"]).to_dict("records")
    assert (first["attack"], first["n"], second["attack"], second["n"]) == ("a", 0, "b", 1)
    assert math.isnan(first["iou"]) and math.isnan(first["low"]) and math.isnan(first["high"])


def test_rows_come_in_order_of_first_appearance_and_keep_their_intervals():
    generator = np.random.default_rng(3)
    table = tidy(
        [
            (a, str(i), s, v)
            for a in "zam"
            for i in range(6)
            for s, v in zip("yx", generator.random(2) * 100, strict=True)
        ]
    )
    summary = summarise(table, by=["attack", "structure"])
    assert list(zip(summary["attack"], summary["structure"], strict=True)) == [
        (a, s) for a in "zam" for s in "yx"
    ]
    for row in summary.to_dict("records"):
        values = table[(table.attack == row["attack"]) & (table.structure == row["structure"])][
            "iou"
        ]
        assert row["iou"] == pytest.approx(values.mean()) and row["n"] == 6
        assert (row["low"], row["high"]) == bootstrap_interval(values)


def test_a_structure_that_a_case_lacks_has_nothing_to_lose():
    truth = torch.tensor([[[1, 2]], [[0, 1]]])
    table = iou_table(truth, truth, ids=["a", "b"], structures=["heart", "lung"])
    kept = in_truth(table, truth, ["a", "b"], ["heart", "lung"])
    assert list(kept["id"] + " " + kept["structure"]) == ["a heart", "a lung", "b heart"]
