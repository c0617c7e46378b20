"""Detectors: truths of scores, of the area under the curve, and of an attacker who knows them."""

from functools import partial

import pytest
import torch
from small_networks import make_case, unet

from helpers import detection
from helpers.attack import pgd
from helpers.detection import TOGETHER, Watch, auc, evade
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
    for score in (detection.disagreement(sure), detection.inconsistency(sure)):
        assert torch.allclose(score(images, logits), torch.zeros(2), atol=1e-5)
    assert torch.allclose(detection.disagreement(sure)(images, -logits), torch.ones(2), atol=1e-5)


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
    plain = pgd(network, images, target, loss=loss, targeted=True, **options)
    before, after, usual = (
        loss(logits_of(network, x), target).mean()
        for x in (images, evading.adv_images, plain.adv_images)
    )
    assert after < before and after < usual + 0.05


def test_a_weight_of_nothing_is_refused():
    network, (images, labels) = unet(), make_case(2)
    watch = watch_of(network, images)
    with pytest.raises(ValueError, match="weight is 0; give a number above 0"):
        evade(network, watch, "sureness", images, labels, classes=(1,), weight=0, epsilon=0.1)
