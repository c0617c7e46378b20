"""Defences: truths of filters, of guarded networks and of certificates."""

import pytest
import torch
from scipy.stats import binom, norm
from small_networks import Linear, make_case, unet
from torch import nn

from helpers.attack import pgd
from helpers.defence import (
    FILTERS,
    Averaged,
    Guarded,
    adaptive,
    certified_radius,
    certify,
    guard,
)
from helpers.loss import cross_entropy
from helpers.noise import generators
from helpers.weights import Trained, state_digest


def trained(network):
    digest = state_digest(network.state_dict())
    return Trained(network, digest, None, ())


def gradient(network, images):
    x = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(network(x).square().sum(), x)
    return found


@pytest.mark.parametrize(("kind", "strength"), [("bits", 30), ("median", 1)])
def test_behind_a_filter_that_does_nothing_a_network_is_itself(kind, strength):
    network, (images, _) = unet(), make_case(2)
    guarded = Guarded(network, kind, strength)
    assert torch.allclose(guarded(images), network(images), atol=1e-4)
    assert torch.allclose(gradient(guarded, images), gradient(network, images), atol=1e-3)


@pytest.mark.parametrize("kind", ["bits", "jpeg"])
def test_a_filter_without_a_gradient_passes_on_that_of_its_answer(kind):
    network, (images, _) = Linear(8), make_case(2, size=8, classes=2)
    strength = {"bits": 3, "jpeg": 50}[kind]
    filtered = FILTERS[kind](images, strength)
    assert not torch.allclose(filtered, images, atol=0.01)
    found = gradient(Guarded(network, kind, strength), images)
    assert torch.allclose(found, gradient(network, filtered), atol=1e-5)


def test_the_gradient_through_a_gaussian_is_the_true_one():
    images = torch.rand(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: FILTERS["gaussian"](x, 1.0), images)


def test_filters_do_what_they_are_called():
    images = torch.zeros(1, 1, 9, 9)
    images[0, 0, 4, 4] = 1
    assert FILTERS["median"](images, 3).abs().max() == 0
    assert FILTERS["median"](-images, 3).abs().max() == 0
    assert FILTERS["bits"](images * 0.3, 1).unique().tolist() == [-1.0, 1.0]
    blurred = FILTERS["gaussian"](images, 1.0)
    assert blurred.sum() == pytest.approx(1, abs=0.02) and blurred.max() < 0.2
    assert (FILTERS["jpeg"](images, 95) - images).abs().max() < 0.2


@pytest.mark.parametrize("name", ["bits 4", "jpeg 75", "median 3", "gaussian 1", "average 0.05"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_attack_sees_through_every_defence(name):
    network, (images, labels) = unet(), make_case(2)
    guarded = guard(trained(network), name).network
    result = pgd(
        guarded, images, labels, loss=cross_entropy, epsilon=0.1, steps=5, precision="fp32"
    )
    assert not any("gradient" in line for line in result.warnings)
    assert (result.loss[-1] > result.loss[0]).all()


def test_guarded_networks_are_told_apart():
    plain = trained(unet())
    names = ("jpeg 75", "jpeg 50", "median 3", "average 0.05")
    made = [guard(plain, name) for name in names] + [guard(plain, "average 0.05", seed=1)]
    assert len({each.digest for each in made} | {plain.digest}) == len(made) + 1
    assert guard(plain, "jpeg 75", seed=1).digest == made[0].digest
    assert all(each.is_unchanged() for each in made)
    with torch.no_grad():
        next(plain.network.parameters()).add_(1)
    assert not made[0].is_unchanged()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blur 3", "defence 'blur' is unknown; choose one of bits, jpeg"),
        ("jpeg", "defence is '?jpeg'?; give a strength above 0"),
        ("median x", "defence is 'median x'; give a strength above 0"),
        ("median 0.5", "defence is 'median 0.5'; give a whole number"),
        ("jpeg 300", "defence is 'jpeg 300'; give a whole number, 100 at most"),
        ("bits 0", "defence is 'bits 0'; give a strength above 0"),
    ],
)
def test_a_wrong_defence_is_named(name, message):
    with pytest.raises(ValueError, match=message):
        guard(trained(unet()), name)


def test_an_average_is_the_same_for_an_image_alone_and_each_time():
    network, (images, _) = unet(), make_case(3)
    averaged = Averaged(network, 0.1)
    assert torch.allclose(averaged(images)[1:2], averaged(images[1:2]), atol=1e-5)
    assert not torch.allclose(averaged(images), Averaged(network, 0.1, seed=1)(images), atol=1e-3)
    assert averaged(images).exp().sum(dim=1).allclose(torch.ones(3, *images.shape[2:]))


def test_an_average_is_the_mean_of_the_probabilities_of_its_copies():
    network, (images, _) = unet(), make_case(2)
    alone = [
        network(images + 0.1 * torch.randn(images.shape[1:], generator=each)).softmax(dim=1)
        for each in generators(7, 2)
    ]
    mean = Averaged(network, 0.1, copies=2, seed=7)(images).exp()
    assert torch.allclose(mean, (alone[0] + alone[1]) / 2, atol=1e-5)


def test_the_attacker_goes_through_a_filter_and_draws_noise_of_its_own_against_an_average():
    plain = trained(unet())
    filtered, averaged = guard(plain, "jpeg 75"), guard(plain, "average 0.05")
    assert adaptive(plain, "jpeg 75", filtered) == {"crafted_on": filtered.digest}
    found = adaptive(plain, "average 0.05", averaged)
    assert found["crafted_on"] == plain.digest and found["transfer"].noise == 0.05


class Coin(nn.Module):
    """A network that says one of two classes by the sign of each noisy pixel."""

    def forward(self, images):
        return torch.cat([images, -images], dim=1)


def test_a_network_that_never_wavers_is_certified_everywhere():
    maps = certify(Coin(), torch.ones(2, 1, 8, 8), sigma=0.01)
    assert (maps == 0).all()


def test_a_coin_is_certified_nowhere():
    maps = certify(Coin(), torch.zeros(2, 1, 16, 16), sigma=0.5)
    assert (maps == -1).all()


@pytest.mark.parametrize("share", [0.75])
def test_few_pixels_are_wrongly_sure(share):
    offset = norm.ppf(share)  # so that exactly this share of the noisy answers is class 0
    images = torch.full((40, 1, 12, 12), float(offset))
    maps = certify(Coin(), images, sigma=1.0, tau=share, level=0.05)
    wrong = (maps >= 0).flatten(1).any(dim=1).float().mean()
    assert wrong <= 0.15  # 5 % allowed, 40 images


class Turning(nn.Module):
    """A network that says class 1 so many times, then class 0."""

    def __init__(self, times):
        super().__init__()
        self.left = times

    def forward(self, images):
        ones = (torch.arange(len(images)) < self.left).float()[:, None, None, None]
        self.left -= len(images)
        one = ones.expand_as(images)
        return torch.cat([1 - one, one], dim=1)


def test_what_is_guessed_is_tested_on_other_answers():
    images = torch.zeros(1, 1, 8, 8)
    assert (certify(Turning(10), images, sigma=0.1, first=10, number=100) == -1).all()


@pytest.mark.parametrize("size", [8, 16])
def test_so_many_answers_must_agree(size):
    images, level = torch.zeros(1, 1, size, size), 0.001
    enough = int(binom.isf(level / size**2, 100, 0.75)) + 1  # fewest whose p-value is small enough
    for agree, certain in ((enough, True), (enough - 1, False)):
        maps = certify(Turning(10 + agree), images, sigma=0.1, first=10, number=100, level=level)
        assert (maps == (1 if certain else -1)).all()


def test_a_certificate_depends_on_no_other_image():
    images = torch.rand(3, 1, 8, 8) - 0.5
    assert torch.equal(
        certify(Coin(), images, sigma=0.2)[:1], certify(Coin(), images[:1], sigma=0.2)
    )


def test_the_certified_noise_is_that_of_the_formula():
    radius = certified_radius(0.5, 0.75, 128 * 128)
    assert radius["l2"] == pytest.approx(0.337, abs=0.001)
    assert radius["linf"] == pytest.approx(0.0026, abs=0.0001)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"sigma": 0.0}, "sigma is 0"), ({"sigma": 1.0, "tau": 0.4}, "tau is 0.4")],
)
def test_a_certificate_of_nothing_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        certify(Coin(), torch.zeros(1, 1, 4, 4), **change)
