"""The U-Net's shapes and receptive field, and predictions that leave a network as it was."""

import pytest
import torch
from torch import nn

from helpers.network import (
    UNet,
    evaluating,
    find_depth,
    find_device,
    find_precision,
    native_bf16,
    predict,
    receptive_field,
)


def make_images(n, size, channels=1, seed=0):
    return (
        torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    )


@pytest.mark.parametrize(
    "depth, size, channels, classes", [(1, 16, 1, 2), (2, 20, 3, 6), (3, 16, 1, 6), (4, 32, 2, 3)]
)
def test_logits_have_the_size_of_the_image_and_a_channel_per_class(depth, size, channels, classes):
    network = UNet(channels, classes, depth, 2)
    assert network(make_images(2, size, channels)).shape == (2, classes, size, size)


def test_images_need_not_be_square():
    assert UNet(1, 3, 2, 2)(torch.zeros(1, 1, 16, 24)).shape == (1, 3, 16, 24)


def test_the_paper_s_network_has_16_to_256_features_and_batch_norm_after_every_convolution():
    modules = list(UNet().modules())
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert sorted({c.out_channels for c in convolutions}) == [6, 16, 32, 64, 128, 256]
    assert (
        len(convolutions) == 9 * 2 + 4 + 4 + 1
    )  # two a block, one down and one up a level, the head
    assert (
        sum(isinstance(m, nn.BatchNorm2d) for m in modules) == len(convolutions) - 1
    )  # not after the head
    assert not any(isinstance(m, nn.MaxPool2d) for m in modules)


@pytest.mark.parametrize("size, depth, multiple", [(18, 2, "4"), (24, 4, "16"), (17, 1, "2")])
def test_a_size_that_cannot_be_halved_often_enough_is_refused(size, depth, multiple):
    with pytest.raises(ValueError, match=rf"{size}.* divisible by {multiple} ") as error:
        UNet(1, 2, depth, 1)(torch.zeros(1, 1, size, size))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 3, 16, 16), (16, 16)])
def test_images_of_a_wrong_shape_are_refused(shape):
    with pytest.raises((RuntimeError, ValueError), match="4D|channels"):
        UNet(1, 2, 1, 1)(torch.zeros(shape))


@pytest.mark.parametrize("setting", [{"depth": 0}, {"features": 0}, {"num_classes": 1}])
def test_impossible_networks_are_refused(setting):
    with pytest.raises(
        ValueError, match=f"{next(iter(setting))} is {next(iter(setting.values()))}"
    ):
        UNet(**setting)


def test_the_receptive_field_is_the_paper_s_184_pixels():
    assert [receptive_field(depth) for depth in (2, 3, 4)] == [40, 88, 184]


@pytest.mark.parametrize(
    "depth, size, offsets",
    [(1, 48, range(2)), (2, 96, range(4)), (3, 192, (0, 3, 7)), (4, 384, (0, 7, 15))],
)
def test_a_pixel_depends_on_the_receptive_field_and_at_most_2_to_the_depth_plus_4_pixels_more(
    depth, size, offsets
):
    network = UNet(1, 2, depth, 1).eval().requires_grad_(False)
    for module in network.modules():  # all weights positive: no path is cancelled or switched off
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.fill_(1 / module.weight[0].numel())
    sides = []
    for offset in offsets:
        images = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
        network.double()(images)[0, 1, size // 2 + offset, size // 2 + offset].backward()
        rows, columns = images.grad[0, 0].nonzero().T
        assert (
            rows.min() > 0 and rows.max() < size - 1
        )  # the image is large enough to see the whole field
        sides += [int(axis.max() - axis.min()) + 1 for axis in (rows, columns)]
    assert receptive_field(depth) <= min(sides)
    assert max(sides) <= receptive_field(depth) + 2**depth + 4


def make_network(*config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet(*config)


@pytest.mark.parametrize(("side", "depth"), [(1, 1), (17, 1), (19, 2), (41, 2), (43, 3), (95, 5)])
def test_the_depth_of_any_network_is_that_of_the_smallest_u_net_that_sees_as_far(side, depth):
    network = nn.Conv2d(1, 2, side, padding=side // 2)
    images = torch.rand(2, 1, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert find_depth(network, images) == depth


def test_a_network_that_sees_the_mean_of_an_image_sees_all_of_it():
    network = nn.Sequential(nn.InstanceNorm2d(1), nn.Conv2d(1, 2, 3, padding=1))
    depth = find_depth(network, torch.rand(1, 1, 64, 64))
    assert receptive_field(depth) // 2 >= 64 > receptive_field(depth - 1) // 2


def test_a_prediction_is_the_class_of_the_largest_logit_in_evaluation_mode():
    network, images = make_network(1, 3, 1, 4), make_images(3, 16)
    nn.init.zeros_(network.head.bias)
    for _ in range(3):
        network(images * 0.2)  # running statistics that differ from those of the batch
    maps = predict(network.train(), images)
    assert maps.shape == (3, 16, 16) and maps.dtype == torch.int64
    assert torch.equal(maps, network.eval()(images).argmax(dim=1))
    assert not torch.equal(
        maps, network.train()(images).argmax(dim=1)
    )  # else the line above would show nothing


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_a_prediction_does_not_depend_on_the_batch(batch_size):
    network, images = make_network(1, 3, 2, 4).eval(), make_images(7, 16)
    assert torch.equal(
        predict(network, images, batch_size=batch_size), predict(network, images, batch_size=100)
    )


def test_no_images_give_no_label_maps():
    maps = predict(UNet(1, 2, 1, 1), torch.empty(0, 1, 16, 24))
    assert maps.shape == (0, 16, 24) and maps.dtype == torch.int64


def test_no_label_maps_are_on_the_device_of_the_images_too():
    assert predict(UNet(1, 2, 1, 1), torch.empty(0, 1, 16, 16, device="meta")).device.type == "meta"


def mixed_modes():
    network = UNet(1, 2, 1, 1).train()
    network.bottom.eval()
    return network, {name: module.training for name, module in network.named_modules()}


def test_a_prediction_leaves_the_images_alone_even_if_the_network_works_in_place():
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(1, 3, 3, padding=1))
    images = torch.rand(3, 1, 16, 16) * 2 - 1
    before = images.clone()
    predict(network, images)
    assert torch.equal(images, before)


def test_a_prediction_gives_back_every_mode_and_all_statistics():
    network, modes = mixed_modes()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    predict(network, make_images(2, 16))
    assert modes == {name: module.training for name, module in network.named_modules()}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_every_mode_comes_back_after_an_error():
    network, modes = mixed_modes()
    with pytest.raises(ValueError):
        predict(network, torch.zeros(1, 1, 15, 15))
    assert modes == {name: module.training for name, module in network.named_modules()}
    with pytest.raises(KeyError), evaluating(network):
        assert not any(module.training for module in network.modules())
        raise KeyError
    assert modes == {name: module.training for name, module in network.named_modules()}


def test_whether_bfloat16_is_native_is_a_yes_or_a_no():
    assert type(native_bf16()) is bool
    assert type(native_bf16("cpu")) is bool
    assert native_bf16(torch.device("cpu")) == native_bf16()


def test_a_torch_that_cannot_say_so_has_no_native_bfloat16(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert native_bf16("cpu") is False


def test_the_automatic_precision_is_that_of_the_device_and_another_is_named(monkeypatch):
    assert find_precision("bf16") == "bf16" and find_precision("fp32") == "fp32"
    for kind, precision in (("cpu", "fp32"), ("meta", "bf16")):
        monkeypatch.setattr(
            "helpers.network.native_bf16", lambda device: torch.device(device).type == "meta"
        )
        assert find_precision("auto", torch.device(kind)) == precision
    with pytest.raises(
        ValueError, match="precision 'fp16' is unknown; choose one of auto, bf16, fp32"
    ):
        find_precision("fp16")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99x"])
def test_an_unknown_device_is_named(name):
    with pytest.raises(ValueError, match="choose one of auto, cpu, cuda"):
        find_device(name)


def test_the_automatic_device_is_one_that_works():
    assert torch.ones(1, device=find_device()).item() == 1 and find_device("cpu").type == "cpu"
    assert find_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.gpu
def test_float32_is_not_rounded_on_a_gpu():
    network, images = (
        UNet(1, 3, 2, 8).eval(),
        torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)),
    )
    with torch.no_grad():
        here = network(images)
        there = network.to(find_device("cuda"))(images.cuda()).cpu()
    assert (there - here).abs().max() < 1e-5 * here.abs().max()  # TF32 keeps three digits
