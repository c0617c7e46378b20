"""Detectors: truths of scores, of the area under the curve, and of an attacker who knows them."""

from functools import partial

import pytest
import torch
from small_networks import make_case, unet

from helpers import detection
from helpers.attack import fast_pgd
from helpers.detection import TOGETHER, Watch, _Watched, auc, evade
from helpers.labels import OUTSIDE
from helpers.loss import iou_loss
from helpers.outputs import logits_of

SURE = torch.tensor([30.0, 0.0, 0.0])[None, :, None, None].expand(2, 3, 16, 16)
TORN = torch.zeros(2, 3, 16, 16)
FLAT = torch.zeros(2, 1, 16, 16)


def square(side, top=4, left=4, size=16):
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_scores_of_what_is_known_by_heart():
    log3 = torch.log(torch.tensor(3.0))
    assert torch.allclose(detection.sureness(FLAT, TORN), -log3.expand(2))
    assert (detection.sureness(FLAT, SURE) > -1e-8).all()
    assert (detection.margin(FLAT, TORN) == 0).all()
    assert (detection.margin(FLAT, SURE) > 1 - 1e-6).all()
    assert (detection.residue(FLAT, SURE) == 0).all()
    noisy = FLAT + 0.1 * torch.randn(FLAT.shape, generator=torch.Generator().manual_seed(0))
    assert (detection.residue(noisy, SURE) > 0.003).all()


def test_a_sure_network_agrees_with_itself_and_on_shifted_images():
    def sure(images):
        return 30 * torch.cat([images, -images], dim=1).sign()

    images = torch.rand(2, 1, 16, 16) - 0.5
    logits = sure(images)
    for score in (detection.Disagreement(sure), detection.Inconsistency(sure)):
        assert torch.allclose(score(images, logits), torch.zeros(2), atol=1e-5)
    assert torch.allclose(detection.Disagreement(sure)(images, -logits), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_an_image_is_shifted_both_ways(dim):
    places = torch.arange(16.0).view([1, 1, -1, 1] if dim == 2 else [1, 1, 1, -1])
    upper = (places < 8).float().expand(1, 1, 16, 16)

    def by_place(images):
        return 30 * torch.cat([upper, 1 - upper], dim=1).expand(len(images), -1, -1, -1)

    images = torch.zeros(1, 1, 16, 16)
    score = detection.Inconsistency(by_place)(images, by_place(images))
    assert score.item() == pytest.approx(10 / 16 / 2, abs=1e-4)  # 5 rows at each of two edges


def test_an_unusual_outline_is_implausible():
    masks = torch.stack([square(6 + k % 3, 4 + k % 2, 3 + k % 4) for k in range(24)])
    score = detection.implausibility(masks, 1)

    def of(mask):
        inside = 20.0 * mask - 10
        return float(score(None, torch.stack([torch.zeros_like(inside), inside])[None]))

    assert of(square(7)) < 5 < 20 < of(square(2, 12, 12))
    assert of(torch.zeros(16, 16)) > 20


def test_the_area_under_the_curve():
    assert auc([1, 2, 3], [4, 5]) == 1
    assert auc([4, 5], [1, 2, 3]) == 0
    assert auc([1, 2, 3], [1, 2, 3]) == 0.5


def watch_of(network, images):
    detectors = {"sureness": detection.sureness, "residue": detection.residue}
    with torch.no_grad():
        return Watch.of(detectors, images, logits_of(network, images), alarms=0.1)


def test_an_alarm_is_as_rare_as_it_should_be_alone_and_together():
    network, (images, _) = unet(), make_case(40)
    watch = watch_of(network, images)
    logits = logits_of(network, images)
    for name in (*watch.detectors, TOGETHER):
        assert 0.05 <= (watch.score(name, images, logits) > 1).float().mean() <= 0.1
    for name in watch.detectors:
        assert watch.score(name, images, logits).median().abs() < 0.2
    each = torch.stack([watch.score(name, images, logits) for name in watch.detectors])
    together = watch.score(TOGETHER, images, logits)
    assert torch.allclose(together * watch.together, each.amax(dim=0))


@pytest.mark.parametrize("name", ["sureness", "residue", TOGETHER])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_attacker_who_knows_a_detector_lowers_its_score(name):
    network, (images, labels) = unet(), make_case(4)
    watch, target = watch_of(network, images), labels.roll(3, dims=2)
    options = {"epsilon": 0.2, "steps": 20, "precision": "fp32"}
    found = {
        weight: evade(network, watch, name, images, target, classes=(1,), weight=weight, **options)
        for weight in (1e-6, 3.0)
    }
    scores = {
        weight: watch.score(name, result.adv_images, logits_of(network, result.adv_images)).mean()
        for weight, result in found.items()
    }
    assert scores[3.0] < scores[1e-6]
    assert all((r.adv_images - images).abs().max() <= 0.2 + 1e-6 for r in found.values())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_with_next_to_no_weight_it_draws_what_the_attack_draws():
    network, (images, labels) = unet(), make_case(4)
    target = labels.roll(3, dims=2)
    options = {"epsilon": 0.2, "steps": 20, "precision": "fp32"}
    watch = watch_of(network, images)
    evading = evade(
        network, watch, "sureness", images, target, classes=(1,), weight=1e-9, **options
    )
    loss = partial(iou_loss, classes=(1,))
    plain = fast_pgd(network, images, target, loss=loss, targeted=True, **options)
    assert torch.allclose(evading.adv_images, plain.adv_images, atol=1e-3)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_padding_takes_no_noise_from_an_attacker_who_evades():
    network, (images, labels) = unet(), make_case(2)
    target = labels.roll(3, dims=2)
    target[:, :4] = OUTSIDE
    options = {"weight": 1.0, "epsilon": 0.2, "steps": 3, "precision": "fp32"}
    watch = watch_of(network, images)
    found = evade(network, watch, "sureness", images, target, classes=(1,), **options).adv_images
    assert torch.equal(found[:, :, :4], images[:, :, :4]) and not torch.equal(found, images)


def test_a_score_well_below_an_alarm_is_left_alone():
    watch = Watch(
        {"value": lambda images, logits: images.mean(dim=(1, 2, 3))}, {"value": 0.0}, {"value": 1.0}
    )
    images = torch.tensor([0.5, 0.79, 0.9, 2.0])[:, None, None, None].expand(-1, 1, 8, 8)
    watched = _Watched(lambda x: torch.cat([x, -x], dim=1), watch, "value")
    assert torch.allclose(
        watched(images)[:, -1, 0, 0], torch.tensor([0.0, 0.0, 0.1, 1.2]), atol=1e-6
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_attack_works_on_fast_copies_of_the_networks_of_detectors_too():
    network, (images, labels) = unet(), make_case(2)
    detectors = {"two": detection.Disagreement(unet()), "self": detection.Inconsistency(network)}
    watch = Watch.of(detectors, images, logits_of(network, images))
    options = {"weight": 1.0, "epsilon": 0.2, "steps": 2, "precision": "fp32"}
    found = evade(network, watch, TOGETHER, images, labels, classes=(1,), **options)
    assert found.copy == "fp32, folded, channels_last"


def test_new_images_raise_no_more_alarms_than_was_asked_for():
    scores = torch.randn(4000, 24, generator=torch.Generator().manual_seed(0))
    limits = torch.tensor([detection._limit(row[:-1].exp(), 0.05) for row in scores])
    assert 0.03 < (scores[:, -1].exp() > limits).float().mean() <= 0.05


def test_a_weight_of_nothing_is_refused():
    network, (images, labels) = unet(), make_case(2)
    watch = watch_of(network, images)
    with pytest.raises(ValueError, match="weight is 0; give a number above 0"):
        evade(network, watch, "sureness", images, labels, classes=(1,), weight=0, epsilon=0.1)
