"""A linear network whose best attack is known, small U-Nets, and images for them."""

from functools import partial

import torch
from torch import nn

from helpers.attack import pgd
from helpers.loss import iou_loss
from helpers.network import UNet

IOU = partial(iou_loss, classes=(1,))


class Linear(nn.Module):
    """Two-class network whose margin at a pixel is the pixel times its own weight."""

    def __init__(self, size=4):
        super().__init__()
        signs = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0]).repeat(size * size)[: size * size]
        self.weight = nn.Parameter(
            signs.view(size, size) * torch.linspace(0.5, 2, size * size).view(size, size)
        )

    def forward(self, images):
        margin = images[:, 0] * self.weight
        return torch.stack([-margin, margin], dim=1)


def lively(network, seed=0):
    """Random weights and batch-norm statistics, so that folding them and forgetting them both show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                fan_in = module.weight.numel() / module.out_channels
                module.weight.copy_(
                    torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5
                )
            if isinstance(module, nn.BatchNorm2d):
                for value in (module.weight, module.bias, module.running_mean, module.running_var):
                    if value is not None:
                        value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
                for value in (module.bias, module.running_mean):
                    if value is not None:
                        value.sub_(1)
    return network


def unet(**changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lively(
            UNet(**({"in_channels": 1, "num_classes": 3, "depth": 1, "features": 4} | changes))
        ).eval()


def make_case(n=4, size=16, channels=1, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, channels, size, size, generator=generator) * 2 - 1
    return images, torch.randint(0, classes, (n, size, size), generator=generator)


attack = partial(pgd, loss=IOU, epsilon=0.1, steps=3, precision="fp32")


def healthy(n=4, size=16):
    """A linear network, images away from the ends of the range, and labels: attacks on it succeed step by step."""
    images, labels = make_case(n, size=size, classes=2)
    return Linear(size).eval(), images * 0.5, labels
