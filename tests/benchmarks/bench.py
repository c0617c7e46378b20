"""What a phantom, a training step and an attack step cost on this machine: ``make bench``."""

import platform
import time
import warnings
from functools import partial
from statistics import median

import pandas as pd
import torch

from helpers.attack import pgd
from helpers.augmentation import augment
from helpers.common.paths import RUNS
from helpers.loss import iou_loss
from helpers.network import UNet, find_device, native_bf16
from helpers.phantom import draw_case
from helpers.tables import write_table

SIZE, DEPTH, BATCH, ROUNDS, STEPS = 256, 4, 4, 5, 10
ATTACKED = {"cpu": {256: 4}, "cuda": {256: 64, 512: 16}}  # images at a time, of each size


def seconds(work):
    """Median seconds of a few runs, after one to warm up."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return median(times[1:])


def training_step(network, optimizer, images, labels, generator, *, bf16):
    """One step of `helpers.training`, augmentation included."""
    x, y = augment(images, labels, generator, "elastic")
    optimizer.zero_grad()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        logits = network(x.contiguous(memory_format=torch.channels_last))
    iou_loss(logits, y, classes=range(6)).mean().backward()
    optimizer.step()


def draw_phantom():
    """One phantom of 512×512 pixels, on one core."""
    draw_case(1, 512)


def batch(n, size, device):
    """Random images and labels."""
    images, labels = torch.rand(n, 1, size, size) * 2 - 1, torch.randint(0, 6, (n, size, size))
    return images.to(device), labels.to(device)


def measure():
    """Table: work, device, precision, images at a time, and milliseconds per image (an attack's: and step)."""
    rows = [["phantom 512×512", "cpu, one core", "fp32", 1, 1000 * seconds(draw_phantom)]]
    for device in dict.fromkeys((find_device("cpu"), find_device())):
        name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        for precision in ("fp32", "bf16") if native_bf16(device) else ("fp32",):
            torch.manual_seed(0)
            network = UNet(depth=DEPTH).to(device, memory_format=torch.channels_last)
            optimizer, generator = (
                torch.optim.Adadelta(network.parameters(), lr=1.0),
                torch.Generator().manual_seed(0),
            )
            train = partial(
                training_step, network, optimizer, *batch(BATCH, SIZE, device), generator
            )
            cost = seconds(partial(train, bf16=precision == "bf16"))
            rows.append(
                [f"training step {SIZE}×{SIZE}", name, precision, BATCH, 1000 * cost / BATCH]
            )
            for size, n in ATTACKED[device.type].items():
                attack = partial(
                    pgd, UNet(depth=DEPTH).eval().to(device), *batch(n, size, device), epsilon=0.04
                )
                loss = partial(iou_loss, classes=range(1, 6))
                cost = seconds(partial(attack, loss=loss, steps=STEPS, precision=precision))
                rows.append(
                    [f"attack step {size}×{size}", name, precision, n, 1000 * cost / (n * STEPS)]
                )
    return pd.DataFrame(
        rows, columns=["work", "device", "precision", "images", "milliseconds_per_image"]
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # an attack on random weights
    table = measure()
    machine = {
        "depth": DEPTH,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(table.round(3).to_string(index=False))
    path = RUNS / "costs.csv"
    write_table(path, table, machine)
    print(f"written to {path}")
