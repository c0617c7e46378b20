"""Targets and regions: closed forms, brute force, and the paper's overlaps on phantoms."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import targets
from helpers.evaluation import iou
from helpers.labels import OUTSIDE, UNLABELLED
from helpers.network import UNet, evaluating, receptive_field
from helpers.phantom import STRUCTURES, draw_case
from helpers.targets import LARGE, SMALL, heart_symbol, place_shape, resize_structure

SQUARE = "M0 0 H9 V9 H0 Z"
NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def truth():
    """Label maps (20, 128, 128) of phantoms, where earlier structures win."""
    labels = np.zeros((20, 128, 128), dtype=np.int64)
    for index, label in enumerate(labels):
        for number, mask in reversed(list(enumerate(draw_case(index + 1, 128)[1], start=1))):
            label[mask] = number
    return torch.from_numpy(labels)


def boxes(*where, size=40):
    """A label map (1, size, size) of rectangles (top, bottom, left, right), classes 1, 2, …"""
    labels = torch.zeros(1, size, size, dtype=torch.int64)
    for number, (top, bottom, left, right) in enumerate(where, start=1):
        labels[0, top:bottom, left:right] = number
    return labels


def centres(masks):
    return torch.stack([mask.nonzero().double().mean(dim=0) for mask in masks])


# The heart symbol


@pytest.mark.parametrize(("area_ratio", "expected", "tolerance"), [(SMALL, 34, 2), (LARGE, 42, 3)])
def test_the_symbol_overlaps_the_true_heart_as_the_papers_tables_say(
    truth, area_ratio, expected, tolerance
):
    target = heart_symbol(truth, "heart", STRUCTURES, area_ratio=area_ratio)
    assert abs(iou(target.labels, truth, classes=[1]).mean() - expected) <= tolerance
    assert target.cut.max() == 0


def test_a_small_symbol_inside_the_heart_overlaps_by_its_area_ratio(truth):
    shapes = heart_symbol(truth, "heart", STRUCTURES).shapes
    inside = ~(shapes & (truth != 1)).any(dim=(1, 2))
    assert inside.sum() >= 15
    overlap = iou(shapes[inside].long(), (truth[inside] == 1).long(), classes=[1])[:, 0]
    assert torch.allclose(overlap, torch.tensor(100 * SMALL), rtol=0.01)


@pytest.mark.parametrize("structure", ["heart", "left clavicle", "right lung"])
@pytest.mark.parametrize("area_ratio", [SMALL, 1.0, LARGE])
def test_area_and_centre_of_mass_are_those_asked_for(truth, structure, area_ratio):
    own = truth == STRUCTURES.index(structure) + 1
    target = heart_symbol(truth, structure, STRUCTURES, area_ratio=area_ratio)
    found, kept = target.shapes.sum(dim=(1, 2)), 1 - target.cut.double() / 100
    assert ((found / kept - area_ratio * own.sum(dim=(1, 2))).abs() < 0.51).all()
    whole = target.cut == 0
    assert whole.sum() >= 5 or (structure, area_ratio) == ("right lung", LARGE)
    assert ((centres(target.shapes) - centres(own))[whole].abs() < 0.3).all()


def test_the_symbol_stands_upright_and_is_symmetric():
    labels = boxes((120, 137, 120, 137), size=257)  # its centre of mass is the pixel (128, 128)
    (shape,) = heart_symbol(labels, "a", ["a"], area_ratio=100).shapes
    assert (shape ^ shape.flip(1)).sum() <= 2  # the last pixel may lack its partner
    rows, columns = shape.nonzero(as_tuple=True)
    notch = shape[:, 128].nonzero().min()
    assert rows[columns != 128].min() < notch - 10  # two lobes above the notch
    assert shape[rows.max()].sum() <= 3 and shape[rows.max(), 128]  # one tip below
    assert shape[128].sum() > shape[rows.max() - 20].sum()


# Resizing


def test_factor_1_gives_back_the_truth(truth):
    for structure in STRUCTURES:
        target = resize_structure(truth, structure, STRUCTURES, factor=1)
        assert torch.equal(target.labels, truth)
        assert target.cut.max() == 0


@pytest.mark.parametrize("factor", [0.4, 0.7, 1.3, 1.8])
def test_resizing_is_linear_and_keeps_the_centre_of_mass(truth, factor):
    for number, structure in enumerate(STRUCTURES[:3], start=1):
        own, target = truth == number, resize_structure(truth, structure, STRUCTURES, factor=factor)
        whole = target.cut == 0
        ratios = (target.shapes.sum(dim=(1, 2)) / own.sum(dim=(1, 2)))[whole]
        assert ratios.mean() == pytest.approx(factor**2, rel=0.05)
        assert (centres(target.shapes[whole]) - centres(own[whole])).abs().max() < 1.5


def test_a_resized_rectangle_is_the_rectangle_of_that_size():
    labels = boxes((15, 24, 11, 26))  # 9 × 15, centre of mass (19, 18)
    target = resize_structure(labels, "a", ["a"], factor=5 / 3)
    assert torch.equal(target.labels, boxes((12, 27, 6, 31)))  # 15 × 25


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 2.5))
def test_resizing_is_nearest_neighbour_about_the_centre_of_mass(seed, factor):
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (1, 9, 9)))
    labels[0, 4, 4] = 1
    row, column = (labels[0].nonzero().numpy().mean(axis=0)).tolist()
    expected = torch.zeros_like(labels)
    for r in range(9):
        for c in range(9):
            y, x = (math.floor(m + (p - m) / factor + 0.5) for m, p in ((row, r), (column, c)))
            expected[0, r, c] = labels[0, y, x] if 0 <= y < 9 and 0 <= x < 9 else 0
    if expected.any():
        assert torch.equal(resize_structure(labels, "a", ["a"], factor=factor).labels, expected)


# Overlaps


def brute_force(labels, shapes, number):
    """Replace one mask, then let the earlier class win, pixel by pixel."""
    result = torch.zeros_like(labels)
    for place in np.ndindex(*labels.shape):
        claims = [int(labels[place])] if labels[place] not in (0, number) else []
        result[place] = min(claims + [number] * bool(shapes[place]), default=0)
    return result


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(NAMES), st.floats(0.2, 4))
def test_the_earlier_structure_wins_and_freed_pixels_are_background(seed, structure, factor):
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, (2, 8, 8)))
    labels[:, 3, 2:5] = torch.tensor([1, 2, 3])
    number = NAMES.index(structure) + 1
    square = np.ones((3, 3), dtype=bool)
    target = place_shape(labels, structure, NAMES, square, area_ratio=factor)
    assert torch.equal(target.labels, brute_force(labels, target.shapes, number))


def test_a_grown_lung_goes_around_heart_and_clavicles_and_a_symbol_goes_over_the_lungs(truth):
    lung = resize_structure(truth, "left lung", STRUCTURES, factor=1.8).labels
    for number in (1, 2, 3):
        assert torch.equal(lung == number, truth == number)
    large = heart_symbol(truth, "heart", STRUCTURES, area_ratio=LARGE)
    assert torch.equal(large.labels == 1, large.shapes)
    assert ((truth >= 4) & large.shapes).any(dim=(1, 2)).all()


def test_targets_hold_only_classes_that_a_structure_owns(truth):
    for structure in STRUCTURES:
        for target in (
            heart_symbol(truth, structure, STRUCTURES, area_ratio=LARGE),
            resize_structure(truth, structure, STRUCTURES, factor=1.8),
        ):
            assert target.labels.dtype == torch.int64
            assert set(target.labels.unique().tolist()) <= set(range(6))
            assert (target.labels == STRUCTURES.index(structure) + 1).any(dim=(1, 2)).all()


# The border of the image


def test_a_shape_that_leaves_the_image_is_cut_and_the_share_is_told():
    labels = boxes((10, 30, 0, 10))  # the square's centre stands at x = 4.5
    target = place_shape(labels, "a", ["a"], np.ones((20, 20), dtype=bool), area_ratio=2.0)
    assert torch.equal(target.labels, boxes((10, 30, 0, 15)))
    assert target.cut.tolist() == [25.0]


def test_no_label_maps_give_an_empty_target():
    none = torch.zeros(0, 8, 8, dtype=torch.int64)
    target = heart_symbol(none, "a", ["a"])
    assert target.labels.shape == target.shapes.shape == (0, 8, 8) and target.cut.shape == (0,)


# Shapes of one's own


def test_array_polygon_png_and_svg_of_one_shape_give_the_same_target(truth, tmp_path):
    polygon = np.array([[0, 0], [600, 0], [600, 200], [200, 200], [200, 900], [0, 900]])
    array = np.zeros((900, 600), dtype=bool)
    array[:200], array[:, :200] = True, True
    Image.fromarray(np.uint8(255 * np.pad(array, 37))).save(tmp_path / "shape.png")
    path = "M 10-10 h6 v2 H12 v7 h-2 z"
    (tmp_path / "shape.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg"><g><path d="{path}"/></g></svg>'
    )
    expected = place_shape(truth, "heart", STRUCTURES, array, area_ratio=1.5)
    for shape in (polygon, tmp_path / "shape.png", str(tmp_path / "shape.svg"), path):
        found = place_shape(truth, "heart", STRUCTURES, shape, area_ratio=1.5)
        assert iou(found.shapes.long(), expected.shapes.long(), classes=[1]).min() > 97


# Regions


def test_a_bounding_box_holds_its_mask_and_no_line_more():
    masks = torch.zeros(2, 20, 30, dtype=torch.bool)
    masks[0, 4, 7] = masks[0, 9, 3] = masks[1, 0, 29] = True
    for margin in (0, 2, 5):
        found = targets.bounding_box(masks, margin=margin)
        expected = torch.zeros_like(masks)
        expected[0, max(0, 4 - margin) : 10 + margin, max(0, 3 - margin) : 8 + margin] = True
        expected[1, : 1 + margin, 29 - margin :] = True
        assert torch.equal(found, expected)


def test_everywhere_is_the_whole_image():
    assert targets.everywhere(torch.zeros(2, 3, 4, dtype=torch.bool)).all()


@pytest.mark.parametrize("depth", [1, 2])
def test_the_region_around_a_mask_is_what_the_network_sees_from_there(depth):
    network = UNet(depth=depth, features=1, num_classes=2).double()
    for parameter in network.parameters():
        torch.nn.init.constant_(
            parameter, 0.1
        )  # nothing cancels, so that the gradient shows all that is seen
    for place in range(40, 40 + 2**depth):
        images = torch.ones(1, 1, 96, 96, dtype=torch.double, requires_grad=True)
        with evaluating(network):
            network(images)[0, 0, place, place].backward()
        seen = images.grad[0] != 0
        mask = torch.zeros_like(seen)
        mask[0, place, place] = True
        assert (seen | ~targets.receptive_field_region(mask, depth=depth)).all()
        widest = targets.bounding_box(mask, margin=receptive_field(depth) // 2 + 2**depth - 1)
        assert (widest | ~seen).all()


def test_the_region_around_a_mask_is_a_square_about_each_pixel():
    masks = torch.rand(2, 50, 60, generator=torch.Generator().manual_seed(0)) > 0.999
    masks[:, 0, 0] = True
    expected = torch.zeros_like(masks)
    for case, row, column in masks.nonzero().tolist():
        expected[case, max(0, row - 8) : row + 9, max(0, column - 8) : column + 9] = True
    assert receptive_field(1) // 2 == 8
    assert torch.equal(targets.receptive_field_region(masks, depth=1), expected)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "spleen"}, "structure 'spleen' is unknown; choose one of a, b"),
        ({"area_ratio": 0}, "area_ratio is 0"),
        ({"area_ratio": -1.0}, "area_ratio is -1.0"),
        ({"area_ratio": math.nan}, "area_ratio is nan"),
        (
            {"area_ratio": 1e9},
            "area_ratio is 1000000000.0; give one above 0, for a shape of 8 images",
        ),
        ({"area_ratio": 1e-9}, "case x has no free pixel for this 'a'; give another size"),
        ({"structure": "b"}, "case x has no pixel of 'b'"),
        ({"ids": ["x", "y"]}, "ids is ['x', 'y']; give one for each label map"),
        (
            {"labels": boxes((0, 9, 0, 9)) + 2},
            "class of labels is [3]; there is no such structure",
        ),
        ({"labels": boxes((0, 9, 0, 9)) - 1}, "class of labels is [-1]"),
        (
            {"labels": boxes((0, 9, 0, 9)).float()},
            "type and shape of labels is (torch.float32, (1, 40, 40)); give a torch tensor",
        ),
        (
            {"labels": boxes((0, 9, 0, 9)).numpy()},
            "labels is (dtype('int64'), (1, 40, 40)); give a torch tensor",
        ),
    ],
)
def test_bad_targets_are_refused(options, message):
    options = {"labels": boxes((5, 15, 5, 15)), "structure": "a", "ids": ["x"]} | options
    labels, structure = options.pop("labels"), options.pop("structure")
    with pytest.raises(ValueError, match=re.escape(message)):
        place_shape(labels, structure, ["a", "b"], SQUARE, **options)


def test_a_shape_that_others_cover_wholly_is_told():
    labels = boxes((0, 0, 0, 0), (4, 12, 2, 12), size=20)
    labels[0, 5:11, 2:12] = 1  # two bars of b are left, and the square lies between them
    with pytest.raises(ValueError, match="case x has no free pixel for this 'b'"):
        place_shape(labels, "b", ["a", "b"], SQUARE, ids=["x"])


@pytest.mark.parametrize("factor", [0, -1, math.nan, math.inf])
def test_bad_factors_are_refused(factor):
    with pytest.raises(ValueError, match=f"factor is {factor}; it must be above 0"):
        resize_structure(boxes((5, 15, 5, 15)), "a", ["a"], factor=factor)


def test_bad_regions_are_refused():
    empty, full = torch.zeros(1, 8, 8, dtype=torch.bool), torch.ones(1, 8, 8, dtype=torch.bool)
    for region in (
        lambda m, **o: targets.receptive_field_region(m, depth=1, **o),
        targets.bounding_box,
    ):
        with pytest.raises(ValueError, match="case x has an empty mask"):
            region(empty, ids=["x"])
        with pytest.raises(ValueError, match="shape of masks is .torch.float32"):
            region(full.float())
        assert region(full[:0]).shape == (0, 8, 8)
        with pytest.raises(ValueError, match="masks is .*'bool'.*; give a torch tensor"):
            region(full.numpy())
    for margin in (-1, 0.5, math.nan):
        with pytest.raises(ValueError, match=f"margin is {margin}"):
            targets.bounding_box(full, margin=margin)
    for depth in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"depth is {depth}"):
            targets.receptive_field_region(full, depth=depth)


# Pictures that are not square, and pixels without a label


@pytest.mark.parametrize("make", ["shape", "resize"])
def test_padding_stays_padding_and_cuts_a_shape_as_a_border_does(make):
    labels = boxes((10, 30, 10, 20))
    labels[:, :, 25:] = OUTSIDE
    bordered = labels[:, :, :25]

    def target(maps):
        if make == "resize":
            return resize_structure(maps, "a", NAMES, factor=1.5)
        return place_shape(maps, "a", NAMES, SQUARE, area_ratio=3)

    padded, plain = target(labels), target(bordered)
    assert (padded.labels[:, :, 25:] == OUTSIDE).all() and not padded.shapes[:, :, 25:].any()
    assert torch.equal(padded.labels[:, :, :25], plain.labels)
    assert torch.equal(padded.cut, plain.cut)
    assert make == "resize" or padded.cut > 0


def test_a_shape_covers_what_has_no_label_and_leaves_the_rest_of_it_unlabelled():
    labels = boxes((10, 20, 10, 20))
    labels[:, 5:25, 20:25] = UNLABELLED
    target = place_shape(labels, "a", NAMES, SQUARE, area_ratio=2)
    assert torch.equal(target.labels == 1, target.shapes)
    assert (target.shapes & (labels == UNLABELLED)).any()
    assert torch.equal(target.labels == UNLABELLED, (labels == UNLABELLED) & ~target.shapes)
