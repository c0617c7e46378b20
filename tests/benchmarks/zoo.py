"""Networks that differ, for measuring attacks: which an attack was tuned on, and which not.

The study's own are found or trained as in the notebooks; MONAI's are trained here, each within minutes, and kept in
runs/zoo/.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from helpers.augmentation import augment
from helpers.common.paths import RUNS
from helpers.data import Dataset, load
from helpers.loss import iou_loss
from helpers.network import UNet
from helpers.training import train
from helpers.weights import state_digest

EPOCHS, BATCH = 40, 4


@dataclass(frozen=True, eq=False)
class Member:
    """A trained network, the data that it was trained on, and whether attacks were tuned on it."""

    name: str
    network: nn.Module
    digest: str
    data: Dataset
    tuned: bool


class ThreeChannels(nn.Module):
    """A network of colour images: shows it a grey image under three look-up curves."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images):
        share = (images + 1) / 2
        return self.network(torch.cat([share, share**2, share.clamp(min=1e-6).sqrt()], dim=1))


def monai_unet(classes):
    from monai.networks.nets import UNet as Net

    return Net(2, 1, classes, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2)


def monai_segresnet(classes):
    from monai.networks.nets import SegResNet

    return SegResNet(2, init_filters=8, in_channels=1, out_channels=classes)


def monai_attention(classes):
    from monai.networks.nets import AttentionUnet

    return AttentionUnet(2, 1, classes, channels=(16, 32, 64, 128), strides=(2, 2, 2))


def monai_basic_rgb(classes):
    from monai.networks.nets import BasicUNet

    return ThreeChannels(BasicUNet(2, 3, classes, features=(8, 16, 32, 64, 128, 8)))


def monai_swin(classes):
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(1, classes, spatial_dims=2, feature_size=12)


def own_rgb(classes):
    return ThreeChannels(UNet(in_channels=3, num_classes=classes, depth=3, features=8))


def fit(name: str, build: Callable, data: Dataset) -> nn.Module:
    """A network trained with the study's loss and augmentation, or loaded if it was before."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build(data.num_classes)
    path = RUNS / "zoo" / f"{name.replace(' ', '_')}_{data.digest[:8]}_{data.size}.safetensors"
    if path.exists():
        network.load_state_dict(load_file(path))
        return network.eval()
    images, labels = data.take("target-training")
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    total = EPOCHS * -(-len(images) // BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=total)
    network.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            x, y = augment(images[chosen], labels[chosen], generator, "elastic affine")
            optimizer.zero_grad()
            iou_loss(network(x), y, classes=range(data.num_classes)).mean().backward()
            optimizer.step()
            rate.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return network.eval()


def members(hannover: str = "") -> dict[str, Callable[[], Member]]:
    """Names of the networks, each with a function that gives it.

    Args:
        hannover: folder of the Hannover collection; without it its network is left out.
    """
    phantom = partial(load, "phantom", test_cases=12)
    ours = {
        "quick": (128, True, {"depth": 3, "features": 8, "epochs": 80}),
        "full": (256, True, {"depth": 3, "features": 16, "epochs": 60}),
        "depth 2": (128, True, {"depth": 2, "features": 8, "epochs": 60}),
        "depth 4, bf16": (
            128,
            True,
            {"depth": 4, "features": 8, "epochs": 60, "precision": "bf16"},
        ),
        "other seed": (128, False, {"depth": 3, "features": 8, "epochs": 80, "seed": 5}),
    }
    others = {
        "MONAI UNet": (monai_unet, True),
        "MONAI SegResNet": (monai_segresnet, True),
        "MONAI AttentionUnet": (monai_attention, False),
        "MONAI SwinUNETR": (monai_swin, False),
        "MONAI BasicUNet, RGB": (monai_basic_rgb, False),
    }

    def own(name, data, tuned, settings):
        trained = train(data(), "target", **settings)
        return Member(name, trained.network, trained.digest, data(), tuned)

    def other(name, data, tuned, build):
        network = fit(name, build, data())
        return Member(name, network, state_digest(network.state_dict()), data(), tuned)

    found = {
        name: partial(own, name, partial(phantom, size=size), tuned, settings)
        for name, (size, tuned, settings) in ours.items()
    }
    if hannover:
        data = partial(load, "folder", root=hannover, size=128, test_cases=12)
        settings = {
            "depth": 3,
            "features": 8,
            "epochs": 80,
            "augmentation": "elastic affine intensity",
        }
        found["Hannover"] = partial(own, "Hannover", data, True, settings)
    for name, (build, tuned) in others.items():
        found[name] = partial(other, name, partial(phantom, size=128), tuned, build)
    return found
