"""What a phantom, a training step and an attack step cost on this machine: ``make bench``.

Training and attack are also given as a share of the machine's matrix-product rate, measured in the same run.
"""

import platform
import time
from functools import partial
from statistics import median

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.attack import frozen_copy, pgd
from helpers.evaluation import write_table
from helpers.files import RUNS
from helpers.loss import iou_loss
from helpers.network import UNet, native_bf16
from helpers.phantom import draw_case
from helpers.training import augment

SIZE, DEPTH, BATCH, ROUNDS, STEPS = 256, 4, 4, 5, 4


def seconds(work):
    """Median seconds of a few runs, after one to warm up."""
    work()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def matrix_rate(dtype, side=2048):
    """Floating-point operations per second of a square matrix product."""
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b)


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
    """Table: work, precision, seconds per image, share of the matrix-product rate."""
    torch.manual_seed(0)
    generator, rows = torch.Generator().manual_seed(0), []
    images, labels = torch.rand(BATCH, 1, SIZE, SIZE) * 2 - 1, torch.randint(0, 6, (BATCH, SIZE, SIZE))
    network = UNet(depth=DEPTH).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adadelta(network.parameters(), lr=1.0)
    loss = partial(iou_loss, classes=range(1, 6))
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        if precision == "bf16" and not native_bf16():
            continue
        rate = matrix_rate(dtype)
        work = {
            "training step": partial(training_step, network, optimizer, images, labels, generator,
                                     bf16=precision == "bf16"),
            "attack step": partial(pgd, network, images, labels, loss=loss, epsilon=0.04, steps=STEPS,
                                   precision=precision),
        }  # fmt: skip
        for name, run in work.items():
            taken = seconds(run) / BATCH / (STEPS if name == "attack step" else 1)
            with FlopCounterMode(display=False) as counter:
                if name == "attack step":
                    x = images.to(dtype).requires_grad_()
                    loss(frozen_copy(network, precision=precision, example=images)(x), labels).sum().backward()
                else:
                    loss(network(images), labels).sum().backward()
            share = counter.get_total_flops() / BATCH / taken / rate
            rows.append([name, precision, taken, 100 * taken, share])
    rows.append(["phantom 512×512, one core", "fp32", seconds(draw_phantom), np.nan, np.nan])
    columns = ["work", "precision", "seconds_per_image", "seconds_per_100_images", "share_of_matrix_rate"]
    return pd.DataFrame(rows, columns=columns)


if __name__ == "__main__":
    table = measure()
    machine = {"size": SIZE, "depth": DEPTH, "batch": BATCH, "threads": torch.get_num_threads(),
               "processor": platform.processor() or platform.machine(), "torch": torch.__version__}  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(table.round(3).to_string(index=False))
    path = RUNS / "benchmark.csv"
    write_table(path, table, machine)
    print(f"written to {path}")
