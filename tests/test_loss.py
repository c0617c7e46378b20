"""Soft IoU against counted pixels, its conventions, its loss, and the other losses."""

import math
import re
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from helpers.evaluation import iou
from helpers.labels import OUTSIDE, UNLABELLED, counted
from helpers.loss import cross_entropy, iou_loss, margin_loss, soft_iou


def make_case(seed, n=3, classes=4, size=6, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, size, size, generator=generator) * scale
    return logits, torch.randint(0, classes, (n, size, size), generator=generator)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1e-6, 1.0]))
def test_soft_iou_is_what_a_sum_over_pixels_gives(seed, smooth):
    logits, labels = make_case(seed, n=2, size=4)
    found = soft_iou(logits, labels, classes=(3, 1), smooth=smooth)
    for i in range(2):
        for k, c in enumerate((3, 1)):
            intersection, union = smooth, smooth
            for row in range(4):
                for column in range(4):
                    exponents = logits[i, :, row, column].double().exp()
                    p, t = float(exponents[c] / exponents.sum()), float(labels[i, row, column] == c)
                    intersection, union = intersection + p * t, union + p + t - p * t
            assert float(found[i, k]) == pytest.approx(intersection / union, abs=1e-5)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 1e4]))
def test_every_score_lies_between_0_and_1(seed, scale):
    scores = soft_iou(*make_case(seed, scale=scale), classes=range(4))
    assert scores.shape == (3, 4) and scores.dtype == torch.float32
    assert scores.min() >= 0 and scores.max() <= 1 + 1e-6


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_certain_predictions_score_their_hard_iou(seed):
    generator = torch.Generator().manual_seed(seed)
    maps, labels = torch.randint(0, 4, (2, 3, 5, 5), generator=generator)
    logits = one_hot(maps, 4).movedim(-1, 1) * 1e4
    expected = iou(maps, labels, classes=range(4)).nan_to_num(100) / 100
    torch.testing.assert_close(
        soft_iou(logits, labels, classes=range(4)), expected, atol=1e-5, rtol=0
    )


def test_a_class_absent_from_both_scores_1_and_a_class_in_one_of_them_0():
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    logits = one_hot(torch.where(torch.arange(8) < 4, 0, 2).expand(1, 8, 8), 3).movedim(-1, 1) * 1e4
    scores = soft_iou(logits, labels, classes=(0, 1, 2))[0]
    torch.testing.assert_close(scores, torch.tensor([0.5, 1.0, 0.0]), atol=1e-6, rtol=0)


def test_the_loss_is_the_negative_mean_over_the_classes_that_count():
    logits, labels = make_case(0)
    scores = soft_iou(logits, labels, classes=range(4))
    torch.testing.assert_close(iou_loss(logits, labels, classes=range(4)), -scores.mean(dim=1))
    torch.testing.assert_close(
        iou_loss(logits, labels, classes=(1, 3)), -scores[:, [1, 3]].mean(dim=1)
    )


def test_an_image_s_loss_does_not_depend_on_its_batch():
    logits, labels = make_case(1, n=5)
    whole, order = iou_loss(logits, labels, classes=(1, 2)), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(iou_loss(logits[order], labels[order], classes=(1, 2)), whole[order])
    for i in range(5):
        alone = iou_loss(logits[i : i + 1], labels[i : i + 1], classes=(1, 2))
        torch.testing.assert_close(alone, whole[i : i + 1])


def test_an_image_s_gradient_does_not_depend_on_its_batch():
    logits, labels = make_case(2)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(iou_loss(logits, labels, classes=(1, 2))[0], logits)
    assert gradient[0].abs().sum() > 0 and gradient[1:].abs().sum() == 0


def test_the_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(1, 3, 3, 3, generator=generator),
        torch.randint(0, 3, (1, 3, 3), generator=generator),
    )
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(iou_loss(logits, labels, classes=(0, 2)).sum(), logits)
    for index in [(0, 0, 1, 1), (0, 2, 0, 2), (0, 1, 2, 0)]:
        step = torch.zeros_like(logits)
        step[index] = 0.01
        up, down = (
            iou_loss(logits.detach() + s, labels, classes=(0, 2)).item() for s in (step, -step)
        )
        assert gradient[index].item() == pytest.approx((up - down) / 0.02, abs=2e-4)


def test_the_loss_is_computed_in_float32_whatever_the_logits_are():
    logits, labels = make_case(3)
    half = logits.bfloat16()
    assert iou_loss(half, labels, classes=(1,)).dtype == torch.float32
    assert torch.equal(
        iou_loss(half, labels, classes=(1,)), iou_loss(half.float(), labels, classes=(1,))
    )


def test_no_images_have_no_losses():
    assert iou_loss(
        torch.empty(0, 3, 4, 4), torch.empty(0, 4, 4, dtype=torch.int64), classes=(1,)
    ).shape == (0,)


@pytest.mark.parametrize(
    "labels, found",
    [
        (torch.zeros(3, 6, 5, dtype=torch.int64), r"\(3, 6, 5\)"),
        (torch.zeros(2, 6, 6, dtype=torch.int64), r"\(2, 6, 6\)"),
        (torch.zeros(3, 1, 6, 6, dtype=torch.int64), r"\(3, 1, 6, 6\)"),
        (torch.zeros(3, 6, 6), "float32"),
        (torch.zeros(3, 6, 6, dtype=torch.int32), "int32"),
        (torch.full((3, 6, 6), 4), "class of the labels is 4"),
        (torch.full((3, 6, 6), -1), "class of the labels is -1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, found):
    with pytest.raises(ValueError, match=found) as error:
        iou_loss(make_case(0)[0], labels, classes=(1,))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("classes", [(), (4,), (-1, 1), (0, 9), (1.5,), (True, False), ("heart",)])
def test_classes_that_the_network_does_not_have_are_refused(classes):
    with pytest.raises(
        ValueError, match=re.escape(f"classes is {classes!r}; give one or more of 0 … 3")
    ):
        soft_iou(*make_case(0), classes=classes)


@pytest.mark.parametrize("classes", [(), (-1,), (1.5,)])
def test_what_is_no_class_has_no_iou(classes):
    labels = make_case(0)[1]
    with pytest.raises(
        ValueError, match=re.escape(f"classes is {classes!r}; give one or more of 0 … ")
    ):
        iou(labels, labels, classes=classes)


# --- the other losses -------------------------------------------------------------------------------------------------

OTHERS = [cross_entropy, margin_loss]


def pixels(logits, labels):
    """Probabilities and label of one pixel after the other, image by image."""
    for image, label in zip(logits.double().softmax(dim=1), labels, strict=True):
        yield [
            (image[:, i, j], int(label[i, j]))
            for i in range(label.shape[0])
            for j in range(label.shape[1])
        ]


@pytest.mark.parametrize("loss", OTHERS)
def test_every_loss_is_one_number_per_image_that_its_batch_does_not_change(loss):
    logits, labels = make_case(4, n=3)
    whole = loss(logits, labels)
    assert whole.shape == (3,) and whole.dtype == torch.float32
    for i in range(3):
        torch.testing.assert_close(loss(logits[i : i + 1], labels[i : i + 1]), whole[i : i + 1])
    assert loss(logits.bfloat16(), labels).dtype == torch.float32


@pytest.mark.parametrize("loss", OTHERS)
def test_the_loss_is_lower_where_the_prediction_fits_better(loss):
    labels = make_case(5)[1]
    fitting = one_hot(labels, 4).movedim(-1, 1).float() + 0.3 * make_case(6)[0].sigmoid()
    assert (loss(fitting, labels) < loss(fitting, (labels + 1) % 4)).all()


def test_cross_entropy_is_the_mean_negative_log_probability():
    logits, labels = make_case(6)
    expected = [
        sum(-math.log(p[k]) for p, k in image) / len(image) for image in pixels(logits, labels)
    ]
    assert cross_entropy(logits, labels).tolist() == pytest.approx(expected, rel=1e-4)


def test_the_margin_is_the_ratio_of_differences_of_logits_whatever_their_scale():
    logits = torch.tensor([4.0, 1.0, 3.0, 0.0]).view(1, 4, 1, 1)
    for label, expected in enumerate([-1 / 3, 3 / 3, 1 / 3, 4 / 3]):
        for scale in (1, 10):
            found = margin_loss(logits * scale, torch.tensor([[[label]]]))
            assert float(found) == pytest.approx(expected, abs=1e-6)
    two = torch.tensor([4.0, 1.0]).view(1, 2, 1, 1)
    assert [float(margin_loss(two, torch.tensor([[[k]]]))) for k in (0, 1)] == [-3, 3]


def test_a_tie_with_the_label_has_a_gradient():
    logits = torch.tensor([2.0, 2.0, 0.0, -1.0]).view(1, 4, 1, 1).requires_grad_()
    for label, expected in ((0, [-0.5, 0.5]), (1, [0.5, -0.5])):
        (gradient,) = torch.autograd.grad(
            margin_loss(logits, torch.tensor([[[label]]])).sum(), logits
        )
        assert gradient.flatten()[:2].tolist() == expected


# --- pixels without a label -----------------------------------------------------------------------

LOSSES = [partial(iou_loss, classes=(1, 3)), cross_entropy, margin_loss]
NO_CLASS = [UNLABELLED, OUTSIDE]


@pytest.mark.parametrize("loss", [partial(iou_loss, classes=(1,)), cross_entropy, margin_loss])
@pytest.mark.parametrize("value", NO_CLASS)
@pytest.mark.parametrize("classes", [2, 4])
def test_a_loss_with_unlabelled_rows_is_that_of_the_other_rows(loss, value, classes):
    logits, labels = make_case(7, classes=classes)
    expected = loss(logits[:, :, 2:], labels[:, 2:])
    labels[:, :2] = value
    torch.testing.assert_close(loss(logits, labels), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [partial(iou_loss, classes=(1,)), cross_entropy, margin_loss])
def test_an_unlabelled_pixel_has_no_gradient_and_the_others_have_theirs(loss):
    logits, labels = make_case(8, classes=2)
    labels[0, 1], labels[1, 2, 3] = UNLABELLED, OUTSIDE
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, labels).sum(), logits)
    assert (gradient.abs().sum(dim=1) > 0).equal(counted(labels))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("value", NO_CLASS)
def test_an_image_without_any_label_has_no_loss_and_no_gradient(loss, value):
    logits, labels = make_case(9)
    labels[1] = value
    logits.requires_grad_()
    found = loss(logits, labels)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert found[1] == 0 and gradient.isfinite().all()
    assert not gradient[1].any() and gradient[[0, 2]].any()


@pytest.mark.parametrize("loss", LOSSES)
def test_labels_that_all_count_give_the_same_bits_beside_an_unlabelled_image(loss):
    logits, labels = make_case(10, size=33)
    before = loss(logits, labels)
    assert torch.equal(loss(logits[:2], labels[:2]), before[:2])
    other = torch.cat([labels, torch.full_like(labels[:1], UNLABELLED)])
    found = loss(torch.cat([logits, logits[:1]]), other)
    torch.testing.assert_close(found[:3], before, rtol=1e-6, atol=1e-7)


def test_a_wrong_label_is_refused_beside_unlabelled_ones():
    logits, labels = make_case(0)
    labels[0], labels[1, 0, 0] = UNLABELLED, -1
    with pytest.raises(ValueError, match=r"class of the labels is -1; .*255 where"):
        iou_loss(logits, labels, classes=(1,))
