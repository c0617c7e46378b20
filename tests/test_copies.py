"""An attack's copy is the fastest that gives the network's own answer; whatever the network is, one works."""

import threading
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from small_networks import lively, make_case, unet
from torch import nn

from helpers.attack import pgd
from helpers.loss import iou_loss

IOU = partial(iou_loss, classes=(1, 2))


def layers(before=1, after=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = (
            nn.Conv2d(before, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, after, 1),
        )
        return lively(nn.Sequential(*parts)).eval()


class Around(nn.Module):
    """Does something to the image before its layers see it."""

    def __init__(self, change, before=1, **attributes):
        super().__init__()
        self.layers = layers(before)
        self.change = change
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, images):
        return self.layers(self.change(self, images))


def centred(network, x):
    return x - network.mean


def keeping(network, x):
    network.kept = network.layers[0](x)
    return x + 0 * network.kept.mean()


def keeping_a_list(network, x):
    network.kept.append(network.layers[0](x))
    return x


def with_positions(network, x):
    line = torch.linspace(-1, 1, x.shape[3])
    return torch.cat([x, line.expand_as(x)], dim=1)


def in_float32(network, x):
    return x.float()


def transformed(network, x):
    return torch.fft.ifft2(torch.fft.fft2(x) * network.filter).real


def flattened(network, x):
    features = torch.relu(network.layers[0](x))
    return x + features.view(len(x), -1).mean(dim=1)[:, None, None, None]


def locked(network, x):
    with network.lock:
        return x


def by_function(network, x):
    return network(x)


class Buffers(nn.Module):
    """A convolution whose weights are buffers: no parameters at all."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(3, 1, 3, 3, generator=generator))

    def forward(self, images):
        return nn.functional.conv2d(images, self.weight, padding=1)


def normed(norm):
    network = layers()
    norm(network[0])
    return network.eval()


FOLDED = "folded, channels_last"
NETWORKS = {
    "the study's": (unet, f"bf16, {FOLDED}"),
    "a mean in float32": (lambda: Around(centred, mean=torch.tensor(0.1)), f"bf16, {FOLDED}"),
    "means in float32": (
        lambda: Around(centred, mean=torch.full((1, 1, 1, 1), 0.1)),
        f"fp32, {FOLDED}",
    ),
    "positions": (lambda: Around(with_positions, before=2), f"fp32, {FOLDED}"),
    "a cast to float32": (lambda: Around(in_float32), f"fp32, {FOLDED}"),
    "a complex parameter": (
        lambda: Around(transformed, filter=nn.Parameter(torch.ones(16, dtype=torch.cfloat))),
        f"fp32, {FOLDED}",
    ),
    "a view": (lambda: Around(flattened), "bf16"),
    "kept features": (lambda: Around(keeping), f"bf16, {FOLDED}"),
    "features kept in a list": (
        lambda: Around(keeping_a_list, kept=[]),
        "as it is",
    ),
    "a lock": (lambda: Around(locked, lock=threading.Lock()), "as it is"),
    "weight_norm": (lambda: normed(nn.utils.weight_norm), "bf16, channels_last"),
    "spectral_norm": (lambda: normed(nn.utils.spectral_norm), "bf16, channels_last"),
    "no parameters": (Buffers, "bf16, channels_last"),
    "double": (lambda: layers().double(), f"bf16, {FOLDED}"),
    "scripted": (lambda: torch.jit.script(layers()), "bf16, channels_last"),
    "traced": (lambda: torch.jit.trace(layers(), torch.zeros(2, 1, 16, 16)), "bf16, channels_last"),
    "frozen": (lambda: torch.jit.freeze(torch.jit.script(layers())), "fp32, channels_last"),
    "exported": (
        lambda: torch.export.export(
            layers(), (torch.zeros(4, 1, 16, 16),), dynamic_shapes=({0: torch.export.Dim("n")},)
        ).module(),
        "bf16, channels_last",
    ),
    "symbolically traced": (lambda: torch.fx.symbolic_trace(layers()), "bf16, channels_last"),
    "DataParallel": (lambda: nn.DataParallel(layers()), f"bf16, {FOLDED}"),
    "a function": (lambda: partial(by_function, layers()), "as it is"),
    "a partial": (
        lambda: partial(nn.functional.conv2d, weight=Buffers().weight, padding=1),
        "as it is",
    ),
    "a bound method": (lambda: layers().forward, "as it is"),
}


def state(network):
    modules = list(network.modules()) if isinstance(network, nn.Module) else []
    learning = [p.requires_grad for m in modules for p in m.parameters(recurse=False)]
    return [getattr(m, "training", None) for m in modules], learning


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_attacked_on_the_fastest_copy_that_answers_like_it(name):
    make, expected = NETWORKS[name]
    with torch.random.fork_rng():  # the vectors of a spectral norm are random
        torch.manual_seed(0)
        network = make()
    images, labels = make_case(4)
    answer = network(images.double() if name == "double" else images).float()
    before = state(network)
    results = {
        precision: pgd(
            network,
            images,
            labels,
            loss=IOU,
            epsilon=0.1,
            steps=4,
            precision=precision,
            batch_size=4,
        )
        for precision in ("bf16", "fp32")
    }
    assert results["bf16"].copy == expected
    assert results["fp32"].copy == expected.replace("bf16", "fp32")
    for result in results.values():
        assert (result.loss[-1] > result.loss[0]).all()
        torch.testing.assert_close(result.loss[0], IOU(answer.detach(), labels), atol=0.02, rtol=0)
    assert state(network) == before


class Borrowed(nn.Module):
    """Calls a module that it reaches through a closure: a copy would call the original's."""

    def __init__(self):
        super().__init__()
        self.layers = layers()
        self.call = lambda x: self.layers(x)

    def forward(self, images):
        return self.call(images)


@pytest.mark.filterwarnings("ignore")
def test_a_copy_that_still_calls_the_network_changes_nothing_in_it():
    network, (images, labels) = Borrowed().train(), make_case(4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = state(network)
    result = pgd(network, images, labels, loss=IOU, epsilon=0.1, steps=4)
    assert state(network) == modes
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    torch.testing.assert_close(result.loss[0], IOU(network.eval()(images), labels))
    assert any("training mode" in text for text in result.warnings)


def test_a_network_that_is_attacked_as_it_is_gets_its_state_back_after_an_error():
    network, (images, labels) = Around(locked, lock=threading.Lock()).train(), make_case(4)
    network.layers[1].eval()
    before = state(network)

    def stop(step, adv_images, logits):
        assert not network.training and not any(p.requires_grad for p in network.parameters())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pgd(network, images, labels, loss=IOU, epsilon=0.1, steps=4, observe=stop)
    assert state(network) == before


def test_a_copy_is_made_of_the_weights_as_they_are_now():
    network, (images, labels) = layers(), make_case(4)
    options = {"loss": IOU, "epsilon": 0.1, "steps": 2, "precision": "fp32"}
    first = pgd(network, images, labels, **options)
    with torch.no_grad():
        network[3].weight.mul_(-1)
    second = pgd(network, images, labels, **options)
    torch.testing.assert_close(second.loss[0], IOU(network(images), labels).detach())
    assert not torch.equal(first.loss, second.loss)
    network.lock = threading.Lock()  # it cannot be copied any more
    assert pgd(network, images, labels, **options).copy == "as it is"


class Huge(nn.Module):
    """Adds a number that bf16 rounds to 256 steps of what the logits differ by."""

    def __init__(self):
        super().__init__()
        self.layers = layers()
        self.offset = nn.Parameter(torch.tensor(1e5))

    def forward(self, images):
        return self.layers(images) + self.offset - 1e5


def test_bf16_gives_way_where_it_would_change_the_answers():
    images, labels = make_case(4)
    result = pgd(Huge().eval(), images, labels, loss=IOU, epsilon=0.1, steps=2, precision="bf16")
    assert result.copy == f"fp32, {FOLDED}"


@contextmanager
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SURROUNDINGS = {
    "float64 by default": float64_by_default,
    "deterministic algorithms": deterministic,
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "another default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_an_attack_is_the_same_whatever_other_libraries_have_set(name, precision):
    network, (images, labels) = layers(), make_case(4)
    options = {"loss": IOU, "epsilon": 0.1, "steps": 4, "random_start": True, "classes": (1, 2)}
    expected = pgd(network, images, labels, precision=precision, **options)
    with SURROUNDINGS[name]():
        found = pgd(network, images, labels, precision=precision, **options)
    assert found.copy == expected.copy
    assert torch.equal(found.adv_images, expected.adv_images)
    assert not found.adv_images.is_inference()


@pytest.mark.filterwarnings("ignore")
def test_an_attack_works_within_autocast():
    network, (images, labels) = layers(), make_case(4)
    with torch.autocast("cpu", torch.bfloat16):
        result = pgd(network, images, labels, loss=IOU, epsilon=0.1, steps=4, precision="fp32")
    assert (result.loss[-1] > result.loss[0]).all()


def test_a_range_of_each_channel_limits_each_channel():
    network, (images, labels) = layers(before=3), make_case(4, channels=3)
    low, high = torch.tensor([-2.0, -1.5, -1.0]), torch.tensor([2.0, 1.0, 1.5])
    result = pgd(
        network, images, labels, loss=IOU, epsilon=5.0, steps=8, value_range=(low, high.tolist())
    )
    found = result.adv_images.amin(dim=(0, 2, 3)), result.adv_images.amax(dim=(0, 2, 3))
    assert torch.equal(found[0], low) and torch.equal(found[1], high)
    with pytest.raises(ValueError, match="value_range is .* or one for each channel"):
        pgd(network, images, labels, loss=IOU, epsilon=0.1, value_range=([-1, -1], 1))
    with pytest.raises(ValueError, match=r"images reach \[-0.99.*; the valid range is"):
        pgd(network, images, labels, loss=IOU, epsilon=0.1, value_range=([-1, -0.5, -1], 1))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_program_of_a_fixed_batch_is_refused_with_its_shape(batch_size):
    images, labels = make_case(4)
    network = torch.export.export(layers(), (images,)).module()
    with pytest.raises(
        ValueError, match=r"refuses images of shape .*any number of images"
    ) as error:
        pgd(network, images, labels, loss=IOU, epsilon=0.1, steps=2, batch_size=batch_size)
    assert "\n" not in str(error.value)
