"""The cardiothoracic ratio: exact on rectangles, blind to stray pixels; its targets, its loss, its claims."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import beyond, claims
from helpers.explorer import FILE_TRIPS, round_trip
from helpers.ratio import (
    MOVED,
    agreement,
    calipers,
    cardiothoracic_ratio,
    diagnosis,
    has_crossed,
    other_side,
    ratio_classes,
    ratio_loss,
    ratio_table,
    stretch_heart,
    summarise_shift,
)
from helpers.sweep import Goal

NAMES = ("heart", "left lung", "right lung")
HEART, LEFT, RIGHT = 1, 2, 3
SIDE = 64


def chest(heart=(20, 44), thorax=(4, 60), size=SIDE):
    """A label map (1, size, size): heart and lungs are rectangles between these columns."""
    labels = torch.zeros(1, size, size, dtype=torch.int64)
    middle = (thorax[0] + thorax[1]) // 2
    labels[:, 8:56, thorax[0] : middle - 4] = RIGHT  # the patient's, on the image's left
    labels[:, 8:56, middle + 4 : thorax[1]] = LEFT
    labels[:, 28:52, heart[0] : heart[1]] = HEART
    return labels


@given(st.integers(8, 22), st.integers(42, 54), st.integers(0, 6), st.integers(56, 64))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_rectangles_give_the_exact_ratio(left, right, first, last):
    labels = chest((left, right), (first, last))
    wanted = (right - left) / (last - first)
    assert cardiothoracic_ratio(labels, NAMES) == pytest.approx([wanted], abs=1e-9)


def test_calipers_are_at_the_ends_of_heart_and_thorax():
    own = calipers(chest((20, 44), (4, 60)), NAMES).iloc[0]
    assert own["heart_left"] == pytest.approx(19.5) and own["heart_right"] == pytest.approx(43.5)
    assert own["thorax_left"] == pytest.approx(3.5) and own["thorax_right"] == pytest.approx(59.5)
    assert own["heart"] == pytest.approx(24) and own["thorax"] == pytest.approx(56)
    assert 28 <= own["heart_row"] <= 51


def test_a_mirrored_image_has_the_same_ratio():
    labels = chest((13, 41), (3, 62))
    round_heart = labels.clone()
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    round_heart[0][(x - 27.3) ** 2 + (y - 38.7) ** 2 < 13.4**2] = HEART
    for each in (labels, round_heart):
        mirrored = cardiothoracic_ratio(each.flip(2), NAMES)
        assert mirrored == pytest.approx(cardiothoracic_ratio(each, NAMES), abs=1e-9)


def test_a_width_grows_with_the_filled_part_of_its_last_column():
    widths = []
    for filled in range(6):
        labels = chest((20, 44))
        labels[0, 36 : 36 + filled, 44] = HEART
        widths.append(calipers(labels, NAMES)["heart"][0])
    assert widths[0] == pytest.approx(24) and 24.5 < widths[-1] < 25.01
    assert (np.diff(widths) > 0).all()


@pytest.mark.parametrize("missing", [HEART, LEFT, RIGHT])
def test_without_heart_or_lung_there_is_no_ratio(missing):
    labels = chest()
    labels[labels == missing] = 0
    assert np.isnan(cardiothoracic_ratio(labels, NAMES)).all()
    assert diagnosis(math.nan) == "not readable"


@pytest.mark.parametrize("number", [HEART, LEFT, RIGHT])
def test_stray_pixels_do_not_matter(number):
    labels = chest((20, 44), (6, 58))
    stray = labels.clone()
    stray[0, 1:4, 0:3] = number
    stray[0, 60:62, 61:64] = number
    assert cardiothoracic_ratio(stray, NAMES) == pytest.approx(cardiothoracic_ratio(labels, NAMES))


def test_a_larger_heart_that_covers_lung_leaves_the_thorax_as_it_is():
    widths = [calipers(chest(heart), NAMES)["thorax"][0] for heart in ((24, 40), (10, 54))]
    assert widths[0] == pytest.approx(widths[1])


@pytest.mark.parametrize("wanted", [0.3, 0.46, 0.54, 0.7])
def test_a_stretched_heart_has_the_wanted_ratio_within_two_pixels(wanted):
    labels = chest((22, 43))
    target = stretch_heart(labels, NAMES, wanted=wanted)
    thorax = calipers(labels, NAMES)["thorax"][0]
    assert cardiothoracic_ratio(target, NAMES)[0] == pytest.approx(wanted, abs=2 / thorax)
    rows = (target == HEART).any(dim=2)
    assert torch.equal(rows, (labels == HEART).any(dim=2))  # it is as high as before


def test_a_stretched_heart_takes_pixels_and_frees_them_but_moves_no_other_structure():
    labels = chest((22, 43))
    wider = stretch_heart(labels, NAMES, wanted=0.6)
    narrower = stretch_heart(labels, NAMES, wanted=0.2)
    for target in (wider, narrower):
        kept = (target != HEART) & (labels != HEART)
        assert torch.equal(target[kept], labels[kept])
    assert ((wider == HEART) & (labels > HEART)).any()
    assert (narrower[(labels == HEART) & (narrower != HEART)] == 0).all()


def test_a_heart_that_earlier_classes_cut_off_is_refused_with_its_case():
    labels = chest()
    order = ("left lung", "right lung", "heart")
    labels = torch.tensor([0, 3, 1, 2])[labels]
    told = "target of case a is 0.429; 0.8 does not fit: let the heart come before the lungs"
    with pytest.raises(ValueError, match=told):
        stretch_heart(labels, order, wanted=0.8, ids=["a"])


def test_each_case_of_a_batch_is_stretched_by_its_own_factor():
    labels = torch.cat([chest((22, 43)), chest((26, 40))])
    both = stretch_heart(labels, NAMES, wanted=0.55)
    alone = [stretch_heart(each[None], NAMES, wanted=0.55) for each in labels]
    assert torch.equal(both, torch.cat(alone))
    assert stretch_heart(labels[:0], NAMES, wanted=0.55).shape == labels[:0].shape


# --- the loss -----------------------------------------------------------------------------------------------------------


def logits_of(labels, sure=8.0):
    return sure * torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("moved", MOVED)
@pytest.mark.parametrize(("wanted", "sign"), [(0.6, 1), (0.25, -1)])
def test_the_gradient_of_the_loss_points_towards_the_target(moved, wanted, sign):
    labels = chest((22, 43))
    target = stretch_heart(labels, NAMES, wanted=wanted)
    logits = logits_of(labels).requires_grad_()
    options = {"classes": ratio_classes(NAMES), "moved": moved}
    ratio_loss(logits, target, **options).sum().backward()
    heart = -sign * logits.grad[0, HEART]  # above 0 where a step down the loss adds what is wanted
    if moved != "thorax":
        assert heart[:, [21, 43]].max() > 0 and heart[:, [21, 43]].min() >= 0
    if moved == "thorax":
        lungs = sign * logits.grad[0, [LEFT, RIGHT]]
        assert lungs[:, :, [3, 60]].max() > 0  # a wider heart by a narrower thorax


def test_the_loss_is_zero_at_the_target_and_does_not_couple_a_batch():
    labels = torch.cat([chest((22, 43)), chest((26, 40))])
    target = stretch_heart(labels, NAMES, wanted=0.6)
    classes = ratio_classes(NAMES)
    reached = ratio_loss(logits_of(target, sure=100.0), target, classes=classes)
    assert reached.tolist() == pytest.approx([0, 0], abs=1e-5)
    together = ratio_loss(logits_of(labels), target, classes=classes)
    alone = [
        ratio_loss(logits_of(labels[k : k + 1]), target[k : k + 1], classes=classes) for k in (0, 1)
    ]
    assert torch.allclose(together, torch.cat(alone))


# --- tables -------------------------------------------------------------------------------------------------------------


def test_equal_readings_agree_without_bias_and_limits():
    about = agreement([0.4, 0.5, math.nan], [0.4, 0.5, 0.6])
    assert about == {"n": 2, "bias": 0, "limit_low": 0, "limit_high": 0}


def test_limits_of_agreement_are_those_of_the_differences():
    difference = np.random.default_rng(0).normal(0.01, 0.02, 4000)
    about = agreement(0.5 + difference, np.full(4000, 0.5))
    assert about["bias"] == pytest.approx(0.01, abs=0.002)
    assert about["limit_high"] - about["limit_low"] == pytest.approx(4 * 1.96 * 0.01, rel=0.05)


def test_a_case_has_crossed_beyond_the_margin_on_the_other_side_only():
    before = [0.45, 0.45, 0.45, 0.55, 0.55, 0.5, 0.45]
    after = [0.53, 0.51, 0.40, 0.47, 0.60, 0.53, math.nan]
    crossed = has_crossed(before, after, margin=0.02)
    assert crossed.tolist() == [True, False, False, True, False, True, False]
    assert not has_crossed([math.nan, math.nan], [0.4, 0.6], margin=0.02).any()


def test_the_other_side_is_a_margin_beyond_one_half():
    assert other_side(0.45, margin=0.1) == pytest.approx(0.6)
    assert other_side(0.55, margin=0.1) == pytest.approx(0.4)
    assert diagnosis(0.5) == "normal" and diagnosis(0.501) == "enlarged"


def test_a_table_of_shifts_has_a_row_for_each_attack_and_case():
    before = pd.Series({"a": 24 / 56, "b": 32 / 56})
    maps = {("x", 0.1): torch.cat([chest((14, 46)), chest((16, 48))]), ("y", 0.1): chest((18, 38))}
    ids = {("x", 0.1): ["a", "b"], ("y", 0.1): ["b"]}
    table = ratio_table(maps, ids, before, NAMES, names=["attack", "epsilon"], margin=0.02)
    assert table["id"].tolist() == ["a", "b", "b"] and table["attack"].tolist() == ["x", "x", "y"]
    assert table["shift"].to_numpy() == pytest.approx([8 / 56, 0, -12 / 56])
    assert table["crossed"].tolist() == [True, False, True]
    summary = summarise_shift(table, by=["attack"])
    assert summary["shift"].to_numpy() == pytest.approx([4 / 56, -12 / 56])
    assert summary["crossed"].tolist() == [50, 100] and summary["n"].tolist() == [2, 1]


@pytest.mark.parametrize("kind", FILE_TRIPS)
def test_a_file_gives_back_an_image_to_half_a_grey_level(kind):
    images = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images[:, 0, 0, 0], images[:, 0, 0, 1] = -1, 1
    bits = 8 if "8 bits" in kind else 16
    assert (round_trip(kind, images) - images).abs().max() <= 1.001 / (2**bits - 1)


# --- claims -------------------------------------------------------------------------------------------------------------

LEAST = pd.DataFrame({"id": ["a", "b"], "epsilon": [0.004, 0.012]})
CROSSED = pd.DataFrame(
    [
        (attack, e, share)
        for attack, share in (("black-box", 10), ("random-noise", 0))
        for e in (0.01, 0.02)
    ],
    columns=["attack", "epsilon", "crossed"],
)
FILES = pd.DataFrame({"way": ["12 bits", "8 bits"], "crossed": [100.0, 40.0]})
MOVES, STAYS, BITS = (claim for claim in beyond.BEYOND if claim.notebook == "09")


@pytest.mark.parametrize(
    ("claim", "agrees", "differs"),
    [
        (MOVES, LEAST, LEAST.assign(epsilon=[0.004, math.inf])),
        (STAYS, CROSSED, CROSSED.assign(crossed=[10, 20, 0, 0])),
        (BITS, FILES, FILES.assign(crossed=[100.0, 50.0])),
    ],
)
def test_a_claim_is_decided_by_its_rule(claim, agrees, differs):
    assert claims.decide(claim, agrees)["verdict"] == "holds"
    assert claims.decide(claim, differs)["verdict"].startswith("does not hold (likely: ")


def test_a_table_without_what_a_rule_needs_decides_nothing():
    lacking = FILES[FILES["way"] == "8 bits"]
    assert claims.decide(BITS, lacking)["verdict"] == "not decided by this run"
    none = claims.decide(BITS, FILES.assign(crossed=0.0))["verdict"]
    assert none == "not decided by this run (no case crosses at 12 bits)"


def test_claims_beyond_the_paper_are_not_among_the_paper_s():
    assert not {claim.name for claim in beyond.BEYOND} & {claim.name for claim in claims.CLAIMS}


# --- wrong input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("heart",), ("heart", "left lung"), ("left lung", "right lung"), ()]
)
def test_structures_without_heart_or_lungs_are_told(names):
    with pytest.raises(ValueError, match="structures is .*needs 'heart' and two whose names hold"):
        ratio_classes(names)


def test_the_goal_ratio_needs_a_dataset_with_heart_and_lungs():
    data = toys.dataset()
    with pytest.raises(ValueError, match="the cardiothoracic ratio needs"):
        Goal("ratio", "heart", 0.6).labels(data.labels, None, data.structures, data.ids)


@pytest.mark.parametrize("wanted", [0.0, 1.0, -0.5, 52, math.nan])
def test_a_ratio_outside_0_and_1_is_refused(wanted):
    with pytest.raises(ValueError, match="ratio is .*; it must be above 0 and below 1"):
        Goal("ratio", "heart", wanted)
    with pytest.raises(ValueError, match="cardiothoracic ratio is .*; give one between 0 and 1"):
        stretch_heart(chest(), NAMES, wanted=wanted)


def test_the_goal_ratio_is_about_the_heart():
    with pytest.raises(ValueError, match="structure 'left lung' is unknown; choose one of heart"):
        Goal("ratio", "left lung", 0.6)


def test_a_case_without_a_lung_is_named():
    labels = chest()
    labels[labels == LEFT] = 0
    with pytest.raises(ValueError, match="case c7 needs a heart and two lungs; leave it out"):
        stretch_heart(labels, NAMES, wanted=0.6, ids=["c7"])


def test_other_wrong_values_are_told():
    with pytest.raises(ValueError, match="choose another case"):
        other_side(math.nan, margin=0.1)
    with pytest.raises(ValueError, match="ratio is 1.0; it must be above 0 and below 1"):
        Goal("ratio", "heart", other_side(0.4, margin=0.5))
    with pytest.raises(ValueError, match="classes is .*heart and of two lungs"):
        ratio_loss(logits_of(chest()), chest(), classes=(1, 2))
    with pytest.raises(ValueError, match="moved 'lungs' is unknown"):
        ratio_loss(logits_of(chest()), chest(), classes=(1, 2, 3), moved="lungs")


def test_the_goal_ratio_stretches_the_heart_of_truth_or_prediction():
    labels = chest((22, 43))
    goal = Goal("ratio", "heart", 0.6)
    assert torch.equal(
        goal.labels(labels, None, NAMES, ["a"]), stretch_heart(labels, NAMES, wanted=0.6)
    )
    clean = chest((26, 40))
    own = replace(goal, basis="prediction").labels(labels, clean, NAMES, ["a"])
    assert torch.equal(own, stretch_heart(clean, NAMES, wanted=0.6))
