"""Networks of other libraries are attacked as our own: in bf16 where that gives the same result."""

from functools import partial

import pytest
import torch

from helpers.attack import pgd
from helpers.evaluation import iou
from helpers.loss import iou_loss
from helpers.network import native_bf16, predict

nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed: extra monai")

SIZE = 64
TWO_D = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
LEVELS = {"channels": (8, 16, 32), "strides": (2, 2)}
NETWORKS = {
    "UNet": lambda: nets.UNet(**TWO_D, **LEVELS, num_res_units=1),
    "AttentionUnet": lambda: nets.AttentionUnet(**TWO_D, **LEVELS),
    "SegResNet": lambda: nets.SegResNet(**TWO_D, init_filters=8),
    "SwinUNETR": lambda: nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=2),
    "TorchScript": lambda: torch.jit.script(nets.UNet(**TWO_D, **LEVELS)),
    "one channel": lambda: nets.UNet(2, 1, 1, **LEVELS),
    "RGB": lambda: nets.UNet(2, 3, 2, **LEVELS),
}


def discs(n, channels, seed):
    """Images (n, channels, SIZE, SIZE) of a bright disc in noise, and its mask."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    centres = torch.randint(12, SIZE - 12, (2, n, 1, 1), generator=generator)
    labels = ((x - centres[0]) ** 2 + (y - centres[1]) ** 2 < 64).long()
    noise = torch.randn(n, channels, SIZE, SIZE, generator=generator)
    return (labels[:, None] - 0.5 + 0.15 * noise).clamp(-1, 1), labels


def trained(network, channels):
    """A network after some steps on such images; 1 minute at most."""
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(50):
        images, labels = discs(8, channels, seed=step)
        optimizer.zero_grad()
        iou_loss(network(images), labels, classes=(1,)).mean().backward()
        optimizer.step()
    return network.eval()


@pytest.mark.slow
@pytest.mark.skipif(not native_bf16(), reason="this processor has no bf16")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_an_attack_in_bf16_gets_as_far_as_in_float32(name):
    channels = 3 if name == "RGB" else 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = trained(NETWORKS[name](), channels)
    images, labels = discs(8, channels, seed=1000)
    assert iou(predict(network, images), labels, classes=(1,)).mean() > 50
    reached = {}
    target = labels.roll(4, dims=2)
    for precision in ("bf16", "fp32"):
        result = pgd(
            network,
            images,
            target,
            loss=partial(iou_loss, classes=(1,)),
            epsilon=0.2,
            targeted=True,
            steps=40,
            precision=precision,
        )
        assert result.copy.startswith((precision, "fp32"))
        found = predict(network, result.adv_images)
        reached[precision] = float(iou(found, target, classes=(1,)).mean())
        before = float(iou(predict(network, images), target, classes=(1,)).mean())
        print(name, result.copy, round(before, 1), round(reached[precision], 2))
        assert reached[precision] > before + 5
    assert reached["bf16"] == pytest.approx(reached["fp32"], abs=1)
