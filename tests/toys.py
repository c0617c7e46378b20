"""Small datasets and networks for the tests of sweeps; processes that the tests start import them too."""

import os
import time

import torch
from PIL import Image
from torch import nn

from helpers.data import Dataset, load
from helpers.network import UNet
from helpers.sweep import Experiment, Goal


def dataset(n=6, size=16, name="toy", origin=None):
    """Cases "c0" … whose first pixel is their number / 100; a heart in a lung. Nothing of it is on disk."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, 1, size, size, generator=generator) - 0.5
    images[:, 0, 0, 0] = torch.arange(n) / 100
    labels = torch.zeros(n, size, size, dtype=torch.int64)
    a, b = size // 4, size // 2
    for k in range(n):
        labels[k, a : a + b + k % 3, a : a + b] = 2
        labels[k, a + 1 : a + b - 1, a + 1 + k % 2 : a + b - 1] = 1
    ids = tuple(f"c{k}" for k in range(n))
    return Dataset(
        name,
        size,
        ids,
        ("heart", "lung"),
        images,
        labels,
        {"test": ids},
        f"{name}-{n}-{size}",
        origin,
    )


def on_disk(folder, n=16, size=32):
    """The same cases as files, loaded from there: a dataset that has an origin."""
    data = dataset(n, size)
    for id, image, labels in zip(data.ids, data.images, data.labels, strict=True):
        parts = {"images": ((image[0] + 0.5) * 255).byte()}
        parts |= {
            f"masks/{name}": (labels == k).byte() * 255 for k, name in enumerate(data.structures, 1)
        }
        for name, pixels in parts.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy()).save(folder / name / f"{id}.png")
    return load("folder", size=size, root=folder)


@torch.no_grad()
def unet(seed=0):
    """A network of random weights that sees every class somewhere."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet(1, 3, 1, 4).eval()
    last = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]
    last.bias -= network(dataset().images).mean(dim=(0, 2, 3))
    return network


def end_process(id):
    """Stands for reading a case that no process survives."""
    os._exit(3)


class Acting(nn.Module):
    """A pixelwise network that, for some cases, writes down, waits, raises or ends its process.

    Args:
        log: file that gets a line "process case" each time that a case goes through; None: none.
        pause: seconds that each batch takes.
        raises, kills: numbers of the cases that raise an error, or end the process.
    """

    def __init__(self, log=None, pause=0.0, raises=(), kills=()):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Conv2d(1, 3, 1)
        self.log, self.pause, self.raises, self.kills = log, pause, raises, kills

    def forward(self, images):
        cases = sorted({round(float(x) * 100) for x in images[:, 0, 0, 0].detach()})
        if self.log:
            with open(self.log, "a") as file:
                file.write("".join(f"{os.getpid()} {case}\n" for case in cases))
        time.sleep(self.pause)
        if set(cases) & set(self.raises):
            raise RuntimeError(f"case {cases} is poison")
        if set(cases) & set(self.kills):
            os._exit(3)
        return self.layer(images)


def experiment(data, ids=None, **values):
    about = {
        "attacked": "net",
        "crafted_on": "net",
        "classes": data.classes,
        "steps": 3,
        "epsilon": 0.002,
    }
    return Experiment(data.name, data.digest, data.size, tuple(ids or data.ids), **about | values)


def single_experiments(data, **values):
    """An experiment for each case."""
    return {id: experiment(data, [id], **values) for id in data.ids}


def grid(data):
    """Experiments of all kinds, on networks "a" and "b"."""
    on = {"attacked": "a", "crafted_on": "a"}
    experiments = {("white-box", e): experiment(data, epsilon=e, **on) for e in (0.01, 0.05)}
    experiments |= {
        ("black-box", e): experiment(data, epsilon=e, attacked="a", crafted_on="b")
        for e in (0.01, 0.05)
    }
    for attack in ("fast pgd", "fgsm", "no attack", "random noise", "shuffled noise"):
        experiments[attack, 0.05] = experiment(data, epsilon=0.05, attack=attack, **on)
    heart = Goal("shape", "heart")
    experiments["heart", 0.05] = experiment(data, epsilon=0.05, goal=heart, **on)
    experiments["heart until 30", 0.05] = experiment(
        data, epsilon=0.05, goal=heart, stop_at=30.0, **on
    )
    experiments["resize", 0.05] = experiment(
        data, epsilon=0.05, goal=Goal("resize", "heart", 0.7), **on
    )
    experiments["8 bits", 0.05] = experiment(data, epsilon=0.05, bits=8, **on)
    for k, id in enumerate(data.ids):
        experiments[id, 0.02] = experiment(data, [id], epsilon=0.02, seed=k, **on)
    return experiments


NETWORKS = {"a": unet(0), "b": unet(1)}
