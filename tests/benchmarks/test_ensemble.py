"""The worst case of several attacks."""

from functools import partial

import pytest
import torch
from benchmarks.ensemble import suite, worst_case
from small_networks import Linear, make_case, unet

from helpers.attack import fgsm, pgd
from helpers.evaluation import iou
from helpers.loss import cross_entropy, iou_loss
from helpers.network import predict

OPTIONS = {"classes": (1,), "epsilon": 0.1, "steps": 6, "precision": "fp32"}


def still(network, images, labels, **_):
    """No attack at all."""
    return pgd(network, images, labels, loss=cross_entropy, epsilon=0.0, steps=1)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_each_image_is_that_of_the_attack_that_did_it_most_harm(targeted):
    network, (images, labels) = unet(), make_case(6)
    worst = worst_case(network, images, labels, targeted=targeted, **OPTIONS)
    assert [*worst.by_attack] == [*suite((1,))]
    scores = torch.stack([*worst.by_attack.values()])
    expected = scores.amax(dim=0) if targeted else scores.amin(dim=0)
    assert torch.equal(worst.iou, expected)
    found = iou(predict(network, worst.adv_images), labels, classes=(1,))[:, 0]
    assert torch.equal(found, worst.iou)
    for case, name in enumerate(worst.winners):
        assert worst.by_attack[name][case] == worst.iou[case]
    assert (worst.adv_images - images).abs().max() <= 0.1 + 1e-6


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_attack_that_does_nothing_wins_nothing():
    network, (images, labels) = Linear(8), make_case(4, size=8, classes=2)
    loss = partial(iou_loss, classes=(1,))
    attacks = {"still": still, "one step": partial(one_step, loss=loss)}
    worst = worst_case(network, images, labels, attacks=attacks, targeted=True, **OPTIONS)
    assert set(worst.winners) == {"one step"} and (worst.by_attack["still"] < worst.iou).all()


def one_step(network, images, labels, *, steps, **options):
    return fgsm(network, images, labels, **options)


def test_without_an_attack_there_is_no_worst_case():
    network, (images, labels) = unet(), make_case()
    with pytest.raises(ValueError, match="attacks is {}; give one or more"):
        worst_case(network, images, labels, attacks={}, **OPTIONS)
