"""Synthetic radiographs: the anatomy that the study relies on, and the promise that a case is always the same."""

import numpy as np
import pytest

from helpers.phantom import STRUCTURES, draw_case

pytestmark = pytest.mark.slow

HEART, LEFT_CLAVICLE, RIGHT_CLAVICLE, LEFT_LUNG, RIGHT_LUNG = range(5)


@pytest.fixture(scope="module")
def population():
    """Images (48, 96, 96), drawn masks and ideal masks (48, 5, 96, 96) of every fifth case of the dataset."""
    drawn = [draw_case(case, 96) for case in range(1, 241, 5)]
    ideal = [draw_case(case, 96, jitter=0.0) for case in range(1, 241, 5)]
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(drawn, ideal, strict=True))
    return tuple(
        map(np.stack, ([a[0] for a in drawn], [a[1] for a in drawn], [a[1] for a in ideal]))
    )


def iou(first, second):
    return (first & second).sum((-2, -1)) / (first | second).sum((-2, -1))


def centres(masks):
    """Centres of mass (..., 2) as x, y in image widths."""
    size, area = masks.shape[-1], masks.sum((-2, -1))
    at = (np.arange(size) + 0.5) / size
    return np.stack([masks.sum(-2) @ at / area, masks.sum(-1) @ at / area], -1)


def width(mask):
    columns = np.flatnonzero(mask.any(-2))
    return columns[-1] - columns[0] + 1


def test_a_case_has_the_promised_types_shapes_and_range():
    image, masks = draw_case(1, 64)
    assert image.dtype == np.float32 and image.shape == (64, 64)
    assert masks.dtype == bool and masks.shape == (len(STRUCTURES), 64, 64)


def test_images_use_the_grey_range_without_leaving_it(population):
    images = population[0]
    assert np.isfinite(images).all() and images.min() >= -1 and images.max() <= 1
    assert (np.ptp(images, axis=(1, 2)) > 1.0).all() and np.ptp(images) > 1.8


def test_a_case_is_always_the_same_and_differs_from_others_and_from_other_seeds():
    image, masks = draw_case(7, 64)
    again = draw_case(7, 64)
    assert np.array_equal(image, again[0]) and np.array_equal(masks, again[1])
    for other in (draw_case(8, 64), draw_case(7, 64, seed=1)):
        assert not np.array_equal(image, other[0]) and not np.array_equal(masks, other[1])


def test_drawing_leaves_the_global_random_state_alone():
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    draw_case(1, 32)
    assert np.random.random() == expected


def test_mean_areas_are_those_of_outlined_chest_radiographs(population):
    heart, left_clavicle, right_clavicle, left_lung, right_lung = population[1].mean((0, 2, 3))
    assert 0.085 <= heart <= 0.095
    assert 0.009 <= left_clavicle <= 0.0105 and 0.009 <= right_clavicle <= 0.0105
    assert 0.125 <= left_lung <= 0.14 and 0.155 <= right_lung <= 0.17


def test_most_of_each_clavicle_lies_over_its_own_lung(population):
    masks = population[2]
    for clavicle, lung in ((LEFT_CLAVICLE, LEFT_LUNG), (RIGHT_CLAVICLE, RIGHT_LUNG)):
        share = (masks[:, clavicle] & masks[:, lung]).sum((1, 2)) / masks[:, clavicle].sum((1, 2))
        assert 0.87 <= share.mean() <= 0.93 and share.min() > 0.65


def test_the_cardiothoracic_ratio_stays_in_its_range(population):
    ratios = [width(m[HEART]) / width(m[LEFT_LUNG] | m[RIGHT_LUNG]) for m in population[2]]
    pixel = 0.02  # of 96 pixels, on about 70
    assert 0.38 - pixel <= min(ratios) and max(ratios) <= 0.58 + pixel
    assert max(ratios) - min(ratios) > 0.1


def test_the_patients_right_is_on_the_images_left(population):
    x, y = np.moveaxis(centres(population[2]), -1, 0)
    assert (x[:, RIGHT_LUNG] < 0.5).all() and (x[:, LEFT_LUNG] > 0.5).all()
    assert (x[:, RIGHT_CLAVICLE] < 0.5).all() and (x[:, LEFT_CLAVICLE] > 0.5).all()
    assert (x[:, HEART] > (x[:, RIGHT_LUNG] + x[:, LEFT_LUNG]) / 2).all()
    assert (y[:, LEFT_CLAVICLE] < y[:, LEFT_LUNG]).all() and (y[:, LEFT_LUNG] < y[:, HEART]).all()


def test_true_lungs_leave_out_the_heart_and_each_other(population):
    masks = population[2]
    assert not (masks[:, HEART] & (masks[:, LEFT_LUNG] | masks[:, RIGHT_LUNG])).any()
    assert not (masks[:, LEFT_LUNG] & masks[:, RIGHT_LUNG]).any()


def test_lungs_are_darker_than_heart_and_abdomen_and_clavicles_brighten_them(population):
    images, _, masks = population
    lungs = masks[:, LEFT_LUNG] | masks[:, RIGHT_LUNG]
    clavicles = masks[:, LEFT_CLAVICLE] | masks[:, RIGHT_CLAVICLE]
    brighter = []  # in units of the difference between heart and lungs
    for image, lung, clavicle, heart in zip(images, lungs, clavicles, masks[:, HEART], strict=True):
        air = image[lung & ~clavicle].mean()
        assert air + 0.3 < image[heart].mean() and air + 0.3 < image[88:, 40:56].mean()
        rows = slice(*np.flatnonzero(clavicle.any(1))[[0, -1]])
        step = (
            image[rows][(clavicle & lung)[rows]].mean()
            - image[rows][(lung & ~clavicle)[rows]].mean()
        )
        brighter.append(step / (image[heart].mean() - air))
    assert np.mean(brighter) > 0.1


def test_observers_agree_as_well_as_they_should(population):
    _, drawn, ideal = population
    heart, left_clavicle, right_clavicle, left_lung, right_lung = iou(drawn, ideal).mean(0)
    assert 0.92 < heart < 0.96
    assert 0.87 < left_clavicle < 0.93 and 0.87 < right_clavicle < 0.93
    assert 0.955 < left_lung < 0.985 and 0.955 < right_lung < 0.985


def test_variety_lets_patients_differ_more_from_the_mean_and_from_each_other():
    widths = {}
    for variety in (0.0, 1.0, 3.0):
        hearts = [draw_case(case, 64, variety=variety)[1][0] for case in range(12)]
        widths[variety] = [np.ptp(np.nonzero(heart.any(axis=0))[0]) for heart in hearts]
    assert np.std(widths[0.0]) < np.std(widths[1.0]) < np.std(widths[3.0]) / 1.5
    assert np.mean(widths[3.0]) == pytest.approx(np.mean(widths[1.0]), rel=0.2)


def test_patients_of_great_variety_have_all_structures_on_their_sides():
    for case in range(100, 130):
        image, masks = draw_case(case, 64, variety=3)
        heart, left_clavicle, right_clavicle, left, right = (np.nonzero(mask)[1] for mask in masks)
        assert np.isfinite(image).all() and len(heart) and len(left) and len(right)
        assert right.mean() < heart.mean() < left.mean(), case


def test_more_jitter_moves_the_labels_further_and_never_the_image():
    image, ideal = draw_case(5, 96, jitter=0)
    agreement = []
    for jitter in (0.5, 1.0, 2.0):
        same, masks = draw_case(5, 96, jitter=jitter)
        assert np.array_equal(image, same)
        agreement.append(iou(masks, ideal).mean())
    assert 1 > agreement[0] > agreement[1] > agreement[2]


@pytest.mark.parametrize("case", [1, 42, 247])
def test_the_anatomy_does_not_depend_on_the_size(case):
    large_image, large = draw_case(case, 256)
    small_image, small = draw_case(case, 128)
    halved = large.reshape(5, 128, 2, 128, 2).mean((2, 4)) >= 0.5
    assert (iou(halved, small) > (0.96, 0.84, 0.84, 0.96, 0.96)).all()
    pooled = large_image.reshape(128, 2, 128, 2).mean((1, 3))
    assert np.corrcoef(pooled.ravel(), small_image.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("size", [32, 33, 100, 257])
def test_any_size_can_be_drawn(size):
    image, masks = draw_case(3, size)
    assert image.shape == (size, size) and np.isfinite(image).all() and masks.any((1, 2)).all()


@pytest.mark.parametrize("whole", [np.int64, np.int32, float])
def test_whole_numbers_may_be_of_any_type(whole):
    assert np.array_equal(draw_case(whole(3), whole(48))[0], draw_case(3, 48)[0])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"case": 1.5}, "case is 1.5; .* 0 or more"),
        ({"case": -1}, "case is -1; .* 0 or more"),
        ({"case": "JPCLN001"}, "case is 'JPCLN001'; .* whole number"),
        ({"case": None}, "case is None; .* whole number"),
        ({"case": True}, "case is True; .* whole number"),
        ({"size": 31}, "size is 31; .* 32 or more"),
        ({"size": 64.5}, "size is 64.5; .* 32 or more"),
        ({"seed": -1}, "seed is -1; .* 0 or more"),
        ({"seed": None}, "seed is None; .* whole number"),
        ({"jitter": -0.1}, "jitter is -0.1; .* 0 or more"),
        ({"jitter": float("nan")}, "jitter is nan; .* finite"),
        ({"jitter": float("inf")}, "jitter is inf; .* finite"),
        ({"jitter": "1"}, "jitter is '1'; .* number"),
        ({"variety": -1}, "variety is -1; .* 0 or more"),
    ],
)
def test_bad_arguments_are_named_in_one_line(arguments, named):
    with pytest.raises(ValueError, match=named) as error:
        draw_case(**({"case": 1, "size": 32} | arguments))
    assert "\n" not in str(error.value)
