"""Frozen copies compute what the network does, whatever network it is."""

from functools import partial

import pytest
import torch
from small_networks import IOU, attack, lively, make_case, unet
from torch import nn

from helpers.adapters import frozen_copy
from helpers.attack import fgsm
from helpers.loss import iou_loss


def check_frozen(network, images):
    with torch.no_grad():
        expected = network.eval()(images)
        with frozen_copy(network.train(), precision="fp32", example=images) as frozen:
            found = frozen(images)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        return expected


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_frozen_copy_computes_what_the_network_does_in_evaluation_mode(depth):
    network, images = unet(depth=depth), make_case()[0]
    expected = check_frozen(network, images)
    assert not torch.allclose(network.train()(images), expected, atol=0.01)


def test_a_frozen_copy_asks_for_no_weight_gradients_and_shares_no_memory():
    network = unet()
    with frozen_copy(network, example=make_case()[0]) as frozen:
        pass
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())
    assert not {p.data_ptr() for p in frozen.parameters()} & {
        p.data_ptr() for p in network.parameters()
    }
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())


def test_batch_norms_stay_where_folding_them_would_change_the_logits():
    class Residual(nn.Sequential):
        def forward(self, images):
            first = self[0](images)
            return self[1](first) + first

    network = Residual(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)).eval()
    network[1].running_mean += 1
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    with frozen_copy(network, precision="fp32", example=images) as frozen:
        torch.testing.assert_close(frozen(images), network(images))


def test_a_network_may_change_its_input_in_place():
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(1, 3, 3, padding=1)).eval()
    images, labels = make_case()
    before = images.clone()
    found = attack(network, images, labels).adv_images
    assert torch.equal(images, before) and not torch.equal(found, images)


@pytest.mark.parametrize("kind", ["spectral_norm", "weight_norm", "old"])
def test_parametrized_convolutions_are_attacked_too(kind):
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    if kind == "old":
        nn.utils.spectral_norm(convolution)
    else:
        getattr(nn.utils.parametrizations, kind)(convolution)
    check_frozen(
        lively(nn.Sequential(convolution, nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))),
        make_case(channels=3)[0],
    )


def test_the_bfloat16_copy_stays_close():
    network, images = unet(), make_case()[0]
    expected = network(images)
    with frozen_copy(network, precision="bf16", example=images) as frozen:
        found = frozen(images)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False), nn.ReLU()],
        [nn.Conv2d(3, 4, 3, padding=1, bias=False, groups=1), nn.ReLU(), nn.BatchNorm2d(4)],
        [
            nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)),
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.Tanh()),
        ],
        [nn.Conv2d(3, 6, 1, groups=3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)],
        [
            nn.Conv2d(3, 4, 2, 2),
            nn.BatchNorm2d(4),
            nn.ConvTranspose2d(4, 4, 2, 2, groups=2),
            nn.BatchNorm2d(4),
        ],
        [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()],
    ],
    ids=[
        "no affine",
        "not adjacent",
        "nested",
        "grouped",
        "grouped transposed",
        "no running statistics",
    ],
)
def test_networks_that_are_not_ours_are_frozen_and_attacked_too(layers):
    network = lively(nn.Sequential(*layers, nn.Conv2d(4, 3, 1)))
    images, labels = make_case(channels=3)
    check_frozen(network, images)
    result = attack(network, images, labels, loss=partial(iou_loss, classes=(1, 2)), steps=8)
    assert result.adv_images.shape == images.shape
    assert (result.loss[-1] > result.loss[0]).all()


def test_a_network_without_parameters_can_be_attacked():
    class Threshold(nn.Module):
        def forward(self, images):
            return torch.cat([-images, images], dim=1) * 5

    images, labels = make_case(size=4, classes=2)
    found = fgsm(Threshold(), images, labels, loss=IOU, epsilon=0.1).adv_images
    assert torch.equal(found, (images - 0.1 * (2 * labels - 1)[:, None]).clamp(-1, 1))


class Reads(nn.Module):
    """Looks at the weight of a batch norm in its forward."""

    def __init__(self):
        super().__init__()
        self.layers = lively(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)))

    def forward(self, images):
        return self.layers(images) * self.layers[1].weight.abs().mean()


def test_a_network_that_reads_its_batch_norm_is_frozen_without_folding_it():
    check_frozen(Reads(), make_case()[0])


class Standardises(nn.Module):
    """Divides each image by its standard deviation: a blank one is not a number."""

    def __init__(self):
        super().__init__()
        self.layers = lively(nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)))

    def forward(self, images):
        return self.layers(images / images.std(dim=(1, 2, 3), keepdim=True))


def test_a_first_image_whose_logits_are_no_numbers_is_told_as_any_other():
    images, labels = make_case()
    images[0] = 0
    with pytest.raises(ValueError, match=r"loss is \[nan, .*fails on these images"):
        attack(Standardises().eval(), images, labels)


class Fourier(nn.Module):
    """Its first parameter is complex, as in Fourier neural operators."""

    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.ones(16, 9, dtype=torch.cfloat) * (1 + 0.1j))
        self.layers = lively(nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)))

    def forward(self, images):
        return self.layers(torch.fft.irfft2(torch.fft.rfft2(images) * self.filter))


def test_a_network_whose_first_parameter_is_complex_is_attacked():
    images, labels = make_case()
    check_frozen(Fourier(), images)
    result = attack(Fourier().eval(), images, labels, steps=8)
    assert (result.loss[-1] > result.loss[0]).all()
