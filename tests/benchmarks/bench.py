"""What a phantom, a training step and an attack step cost on this machine: ``make bench``."""

import platform
import time
import warnings
from functools import partial
from statistics import median

import pandas as pd
import torch

from helpers.attack import pgd
from helpers.evaluation import write_table
from helpers.files import RUNS
from helpers.loss import iou_loss
from helpers.network import UNet, native_bf16
from helpers.phantom import draw_case
from helpers.training import augment

SIZE, DEPTH, BATCH, ROUNDS, STEPS = 256, 4, 4, 5, 10


def seconds(work):
    """Median seconds of a few runs, after one to warm up."""
    work()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def training_step(network, optimizer, images, labels, generator, *, bf16):
    """One step of `helpers.training`, augmentation included."""
    x, y = augment(images, labels, generator, "elastic")
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = network(x.contiguous(memory_format=torch.channels_last))
    iou_loss(logits, y, classes=range(6)).mean().backward()
    optimizer.step()


def draw_phantom():
    """One phantom of 512×512 pixels, on one core."""
    draw_case(1, 512)


def measure():
    """Table: work, precision, milliseconds per image, and speed-up over float32 in the same run."""
    torch.manual_seed(0)
    generator, rows = torch.Generator().manual_seed(0), []
    images, labels = torch.rand(BATCH, 1, SIZE, SIZE) * 2 - 1, torch.randint(0, 6, (BATCH, SIZE, SIZE))
    network = UNet(depth=DEPTH).to(memory_format=torch.channels_last)
    attacked = UNet(depth=DEPTH).eval()
    optimizer = torch.optim.Adadelta(network.parameters(), lr=1.0)
    loss = partial(iou_loss, classes=range(1, 6))
    for precision in ("fp32", "bf16") if native_bf16() else ("fp32",):
        train = partial(training_step, network, optimizer, images, labels, generator, bf16=precision == "bf16")
        attack = partial(pgd, attacked, images, labels, loss=loss, epsilon=0.04, steps=STEPS, precision=precision)
        rows.append(["training step", precision, 1000 * seconds(train) / BATCH])
        rows.append(["attack step", precision, 1000 * seconds(attack) / BATCH / STEPS])
    rows.append(["phantom 512×512, one core", "fp32", 1000 * seconds(draw_phantom)])
    table = pd.DataFrame(rows, columns=["work", "precision", "milliseconds_per_image"])
    slow = table[table["precision"] == "fp32"].set_index("work")["milliseconds_per_image"]
    return table.assign(speedup_over_fp32=table["work"].map(slow) / table["milliseconds_per_image"])


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # an attack on random weights
    table = measure()
    machine = {"size": SIZE, "depth": DEPTH, "batch": BATCH, "threads": torch.get_num_threads(),
               "processor": platform.processor() or platform.machine(), "torch": torch.__version__}  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(table.round(3).to_string(index=False))
    path = RUNS / "costs.csv"
    write_table(path, table, machine)
    print(f"written to {path}")
