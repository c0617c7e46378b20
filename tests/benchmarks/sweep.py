"""What a sweep costs beside its attacks, and what two workers gain: part of ``make bench``.

``python tests/benchmarks/sweep.py PART …`` measures some parts only: workers, overhead, cases, memory.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from helpers.attack import pgd
from helpers.common.paths import RUNS
from helpers.data import load
from helpers.network import UNet
from helpers.sweep import Experiment, Goal, compute_results, run, start_engine
from helpers.sweep.compute import loss_of
from helpers.sweep.report import status
from helpers.tables import write_table

MANY = (1000, 20000)


class Pixelwise(nn.Module):
    """The smallest network: three classes from the brightness of a pixel."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 1)

    def forward(self, images):
        return self.layer(images)


class Endless:
    """A dataset of as many cases as are asked for, each drawn from its id when it is taken."""

    name, size, structures, classes, digest, origin = (
        "endless",
        64,
        ("heart", "lung"),
        (1, 2),
        "0" * 64,
        None,
    )
    ids = dict.fromkeys(map(str, range(100_000)))
    images = ()

    def take(self, ids):
        pairs = [self.draw(id) for id in ids]
        return tuple(torch.stack(parts) for parts in zip(*pairs, strict=True))

    def draw(self, id):
        generator = torch.Generator().manual_seed(int(id))
        image = torch.rand(1, self.size, self.size, generator=generator) * 2 - 1
        return image, (image[0] > 0).long() + (image[0] > 0.5)


def single_cases(count):
    """Experiments of one case and one step each, and the network that they attack."""
    data = Endless()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Pixelwise().eval()
    first = Experiment(
        data.name, data.digest, data.size, ("0",), "net", "net", data.classes, attack="fgsm"
    )
    return {str(k): replace(first, ids=(str(k),)) for k in range(count)}, data, {"net": network}


def grid():
    """48 experiments of a case of a 128×128 phantom each, and their network."""
    data = load("phantom", size=128)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(num_classes=data.num_classes, depth=3).eval()
    first = Experiment(
        data.name,
        data.digest,
        data.size,
        data.split["test"][:1],
        "net",
        "net",
        data.classes,
        goal=Goal("shape", "heart"),
        steps=60,
    )
    experiments = {
        (id, epsilon): replace(first, ids=(id,), epsilon=epsilon)
        for id in data.split["test"][:12]
        for epsilon in (0.01, 0.02, 0.03, 0.04)
    }
    return experiments, data, {"net": network}


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_workers():
    """Rows: seconds of a sweep in process, and with two workers; their ratio."""
    experiments, data, networks = grid()

    def sweep(text):
        with start_engine(text) as engine:  # its start counts too
            _sweep(experiments, data, networks, engine=engine, names=("id", "epsilon"))

    one = timed(lambda: sweep(""))
    two = timed(lambda: sweep("workers=2 threads=1"))
    return [
        ["one thread in process", one, "s"],
        ["two workers", two, "s"],
        ["two workers / one thread", two / one, ""],
    ]


def measure_overhead():
    """Rows: a sweep in process beside the same attacks by `pgd` alone."""
    experiments, data, networks = grid()
    experiments = {name: experiment for name, experiment in experiments.items() if name[1] == 0.04}
    images, labels = data.take([id for id, _ in experiments])
    first = next(iter(experiments.values()))
    target = first.goal.labels(labels, None, data.structures, [id for id, _ in experiments])

    def alone():
        options = {"targeted": True, "steps": first.steps, "precision": "fp32"}
        pgd(networks["net"], images, target, loss=loss_of(first), epsilon=0.04, **options)

    def swept():
        _sweep(experiments, data, networks, names=("id", "epsilon"), batch_size=8)

    times = [(timed(alone), timed(swept)) for _ in range(3)]
    direct, through = (min(column) for column in zip(*times, strict=True))
    return [
        ["pgd alone", direct, "s"],
        ["pgd through run()", through, "s"],
        ["overhead of run()", 100 * (through / direct - 1), "%"],
    ]


def measure_cases():
    """Rows: milliseconds a case that `run` takes beside the computing."""
    experiments, data, networks = single_cases(MANY[0])
    listed, size = list(experiments.values()), 32

    def compute_all():
        for start in range(0, len(listed), size):
            part = listed[start : start + size]
            ids = [experiment.ids[0] for experiment in part]
            images, truth = (dict(zip(ids, tensors, strict=True)) for tensors in data.take(ids))
            compute_results(
                part, images, truth, structures=data.structures, networks=networks, batch_size=size
            )

    compute_all()
    attack, sweep = (
        timed(compute_all),
        timed(lambda: _sweep(experiments, data, networks, names=("case",), batch_size=size)),
    )
    return [
        ["one-step attack", 1000 * attack / len(experiments), "ms per case"],
        ["run() beside it", 1000 * (sweep - attack) / len(experiments), "ms per case"],
    ]


def measure_memory():
    """Rows: peak memory and seconds of processes that do few and many cases, begin again, and look at the store."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in MANY:
            for work in ("first", "again", "status"):
                words = [sys.executable, __file__, "child", work, str(count), f"{folder}/{count}"]
                child = json.loads(
                    subprocess.run(words, capture_output=True, text=True, check=True).stdout.split(
                        "\n"
                    )[-2]
                )
                rows += [
                    [f"{count} cases, {work}: {name}", child[name], unit]
                    for name, unit in (("peak", "MiB"), ("time", "s"))
                ]
    return rows


def child(work, count, store):
    experiments, data, networks = single_cases(int(count))
    start = time.perf_counter()
    if work == "status":
        status(store)
    else:
        run(experiments, data, networks, store=store, names=("case",))
    spent = time.perf_counter() - start
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    print(json.dumps({"peak": peak, "time": spent}))


def _sweep(experiments, data, networks, **options):
    with tempfile.TemporaryDirectory() as folder:
        return run(experiments, data, networks, store=folder, **options)


PARTS = {
    "workers": measure_workers,
    "overhead": measure_overhead,
    "cases": measure_cases,
    "memory": measure_memory,
}


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # attacks on random weights
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
        sys.exit()
    rows = []
    for part in sys.argv[1:] or PARTS:
        rows += PARTS[part]()
        print(
            pd.DataFrame(rows, columns=["work", "value", "unit"]).round(3).to_string(index=False),
            flush=True,
        )
    machine = {
        "threads": 1,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    path = RUNS / "sweep.csv"
    write_table(path, pd.DataFrame(rows, columns=["work", "value", "unit"]), machine)
    print(f"written to {path}")
