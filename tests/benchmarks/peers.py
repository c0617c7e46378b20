"""PGD of `helpers.attack` beside that of five libraries: the same network, images, target and number of steps.

`make bench` runs it in an environment that has them. One table of speed, arithmetic and memory, one of answers.
"""

import argparse
import platform
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode
from zoo import Member, members

from helpers.adapters import frozen_copy
from helpers.attack import fast_pgd, pgd
from helpers.common.paths import FIGURES, RUNS
from helpers.common.provenance import commit
from helpers.data import load
from helpers.evaluation import iou
from helpers.loss import cross_entropy, iou_loss
from helpers.network import UNet, native_bf16, predict
from helpers.study.publish import copy_files
from helpers.study.readme import renew_readme
from helpers.tables import write_table
from helpers.targets import LARGE, heart_symbol
from helpers.training import train

SIZE, DEPTH, BATCH, ROUNDS, STEPS, EPSILON = 256, 4, 4, 5, 30, 0.04
LOSS = partial(iou_loss, classes=range(1, 6))


def torchattacks(network, images, target, *, epsilon, step_size, steps):
    """Wants images in [0, 1]; its loss is the cross-entropy."""
    import torchattacks as library

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(images * 2 - 1)

    attack = library.PGD(
        Scaled().eval(), eps=epsilon / 2, alpha=step_size / 2, steps=steps, random_start=False
    )
    attack.set_mode_targeted_by_label(quiet=True)
    return attack((images + 1) / 2, target) * 2 - 1


def cleverhans(network, images, target, *, epsilon, step_size, steps):
    """Its loss is the cross-entropy."""
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    return projected_gradient_descent(
        network,
        images,
        epsilon,
        step_size,
        steps,
        np.inf,
        clip_min=-1,
        clip_max=1,
        y=target,
        targeted=True,
        rand_init=False,
        sanity_checks=False,
    )


def foolbox(network, images, target, *, epsilon, step_size, steps):
    """Classifies images: a loss and a criterion for label maps are put in."""
    import eagerpy
    import foolbox as library

    class Target(library.criteria.Criterion):
        target_classes = target

        def __repr__(self):
            return "Target"

        def __call__(self, perturbed, outputs):
            return eagerpy.astensor((outputs.raw.argmax(dim=1) == target).flatten(1).all(dim=1))

    class Attack(library.attacks.LinfProjectedGradientDescentAttack):
        def get_loss_fn(self, model, labels):
            return lambda inputs: eagerpy.astensor(LOSS(model(inputs).raw, labels).sum())

    model = library.PyTorchModel(network, bounds=(-1, 1), device="cpu")
    attack = Attack(abs_stepsize=step_size, steps=steps, random_start=False)
    return attack.run(model, images, Target(), epsilon=epsilon)


def captum(network, images, target, *, epsilon, step_size, steps):
    """Takes any loss; leaves gradients below 1e-6 out unless told otherwise."""
    from captum.robust import PGD

    attack = PGD(network, loss_func=LOSS, lower_bound=-1, upper_bound=1)
    attack.fgsm.zero_thresh = 0
    return attack.perturb(images, epsilon, step_size, steps, target, targeted=True)


def art(network, images, target, *, epsilon, step_size, steps):
    """Classifies images: logits and label maps are flattened for it."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    size = images.shape[-1]

    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(images).flatten(1)

    class Loss(torch.nn.Module):
        def forward(self, logits, labels):
            return LOSS(
                logits.view(len(logits), -1, size, size), labels.view(-1, size, size).long()
            ).sum()

    flat = PyTorchClassifier(
        Flat().eval(),
        loss=Loss(),
        input_shape=(1, size, size),
        nb_classes=size * size,
        clip_values=(-1, 1),
        device_type="cpu",
    )
    attack = ProjectedGradientDescentPyTorch(
        flat,
        norm=np.inf,
        eps=epsilon,
        eps_step=step_size,
        max_iter=steps,
        targeted=True,
        batch_size=len(images),
        verbose=False,
    )
    return torch.from_numpy(
        attack.generate(images.numpy(), target.flatten(1).numpy().astype(np.float32))
    )


def ours(network, images, target, *, epsilon, step_size, steps, precision="fp32", loss=LOSS):
    """`helpers.attack.pgd`, with its checks."""
    return pgd(
        network,
        images,
        target,
        loss=loss,
        epsilon=epsilon,
        step_size=step_size,
        steps=steps,
        targeted=True,
        precision=precision,
    ).adv_images


LIBRARIES = {
    "torchattacks": torchattacks,
    "captum": captum,
    "foolbox": foolbox,
    "art": art,
    "cleverhans": cleverhans,
}
CROSS_ENTROPY = ("torchattacks", "cleverhans")  # the others take any loss
PRECISIONS = ("fp32", "bf16") if native_bf16() else ("fp32",)
ATTACKS = {(name, "fp32"): attack for name, attack in LIBRARIES.items()}
ATTACKS |= {
    ("this study", precision): partial(ours, precision=precision) for precision in PRECISIONS
}


def case():
    """Network with random weights, images and target: what a step costs does not depend on them."""
    torch.manual_seed(0)
    images, target = (
        torch.rand(BATCH, 1, SIZE, SIZE) * 2 - 1,
        torch.randint(0, 6, (BATCH, SIZE, SIZE)),
    )
    return UNet(depth=DEPTH).eval(), images, target


def timed(work):
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matrix_rate(precision, side=2048):
    """Floating-point operations per second in matrix products of this precision, best of ten."""
    matrix = torch.rand(side, side).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    matrix @ matrix
    return 2 * side**3 / min(timed(lambda: matrix @ matrix) for _ in range(10))


def step_arithmetic(network, images, target):
    """Floating-point operations of one image's step: forward, and backward to the input."""
    frozen_network = frozen_copy(network, precision="fp32", example=images[:1])
    with frozen_network as frozen, FlopCounterMode(display=False) as counter:
        x = images.clone().requires_grad_()
        torch.autograd.grad(LOSS(frozen(x.clone()), target).sum(), x)  # a leaf upsets the counter
    return counter.get_total_flops() / len(images)


def peak(library, precision):
    """Peak memory [MiB] of a process of its own that attacks the batch in a few steps; NaN where there is no /proc."""
    if not Path("/proc/self/status").exists():
        return float("nan")
    command = [sys.executable, __file__, "--peak", library, precision]
    return int(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def speed():
    """Table of seconds, arithmetic, loss and memory; rounds are interleaved, times are medians."""
    network, images, target = case()
    options = {"epsilon": EPSILON, "step_size": EPSILON / 20, "steps": STEPS}
    times, rates, found = (
        {key: [] for key in ATTACKS},
        {precision: [] for precision in PRECISIONS},
        {},
    )
    for key, attack in ATTACKS.items():  # to warm up
        found[key] = attack(network, images, target, **options)
    for _ in range(ROUNDS):
        for precision in PRECISIONS:
            rates[precision].append(matrix_rate(precision))
        for key, attack in ATTACKS.items():
            run = partial(attack, network, images, target, **options)
            times[key].append(timed(run) / BATCH / STEPS)
    fastest = min(median(times[name, "fp32"]) for name in LIBRARIES)
    arithmetic, rows = step_arithmetic(network, images, target), []
    for (library, precision), seconds in times.items():
        with torch.no_grad():
            after = LOSS(network(found[library, precision].float()), target).mean().item()
        share = 100 * arithmetic / median(seconds) / median(rates[precision])
        speedup = fastest / median(seconds)
        rows.append(
            [
                library,
                precision,
                round(median(seconds), 4),
                speedup,
                share,
                after,
                peak(library, precision),
            ]
        )
    columns = [
        "library",
        "precision",
        "seconds_per_image_step",
        "speedup_over_fastest_peer",
        "share_of_matrix_rate",
        "loss_after",
        "peak_mib",
    ]
    about = {"gflop_per_image_step": round(arithmetic / 1e9, 2)}
    about |= {f"{name}_gflop_per_second": round(median(rate) / 1e9) for name, rate in rates.items()}
    return pd.DataFrame(rows, columns=columns), about


def trained_case():
    """A network with the paper's 16 features, trained on phantoms of 128×128 for 40 epochs."""
    data = load("phantom", size=128, test_cases=4, seed=0)
    trained = train(data, "target", depth=3, features=16, epochs=40)
    return Member("depth 3, 16 features", trained.network, trained.digest, data, False)


def symbol_case(data):
    """Four phantoms that a network has not seen, and targets with the large heart symbol."""
    images, truth = data.take(data.split["test"][:4])
    return images, heart_symbol(truth, "heart", data.structures, area_ratio=LARGE).labels


def answers(network, images, target):
    """Table: how alike the adversarial images of the libraries and of this study are, in float32."""
    options, rows = {"epsilon": EPSILON, "step_size": EPSILON / 20}, []
    reached = lambda images: iou(predict(network, images), target, classes=[1]).mean().item()  # noqa: E731
    for name, attack in LIBRARIES.items():
        loss = cross_entropy if name in CROSS_ENTROPY else LOSS
        same, overlaps = partial(ours, loss=loss), []
        one, other = (a(network, images, target, steps=1, **options) for a in (attack, same))
        overlaps = [
            reached(a(network, images, target, steps=20, **options)) for a in (attack, same)
        ]
        alike = 100 * ((one - other).abs() <= 1e-6).float().mean().item()
        rows.append([name, "cross-entropy" if name in CROSS_ENTROPY else "IoU", alike, *overlaps])
    return pd.DataFrame(
        rows, columns=["library", "loss", "same_after_1_step", "iou_after_20", "ours_after_20"]
    )


def race(name, network, images, target, epsilon=0.08, wanted=95.0):
    """Table: seconds per image until the mean IoU with the large symbol is 95, with the IoU loss.

    Where 100 plain steps end below, until what they reach. Plain steps of all libraries are the same
    (see `answers`), so all take as many as ours; the faster attack takes the least even number that
    gets there.
    """
    about = {"loss": LOSS, "epsilon": epsilon, "targeted": True, "classes": [1]}
    means = pgd(network, images, target, steps=100, precision="fp32", **about).iou.mean(dim=1)
    wanted = min(wanted, float(means.max()))
    plain = int((means >= wanted).float().argmax())
    options = {"epsilon": epsilon, "step_size": epsilon / 20, "steps": plain}
    runs = {
        key: (plain, partial(attack, network, images, target, **options))
        for key, attack in ATTACKS.items()
        if key[0] not in CROSS_ENTROPY
    }
    for precision in PRECISIONS:
        attack = partial(fast_pgd, network, images, target, precision=precision, **about)
        lengths = range(4, 101, 2)
        ends = (attack(steps=steps).iou[-1].mean() for steps in lengths)
        steps = next(n for n, end in zip(lengths, ends, strict=True) if end >= wanted)
        runs["this study, faster attack", precision] = steps, partial(attack, steps=steps)
    times = {key: [] for key in runs}
    for _ in range(3):
        for key, (_, work) in runs.items():
            times[key].append(timed(work) / len(images))
    fastest = min(median(seconds) for key, seconds in times.items() if key[0] in LIBRARIES)
    rows = [
        [name, *key, runs[key][0], wanted, round(median(seconds), 3), fastest / median(seconds)]
        for key, seconds in times.items()
    ]
    names = "network library precision steps iou seconds_per_image speedup".split()
    return pd.DataFrame(rows, columns=names)


def races():
    """The race on the study's quick network, on one of another seed and on one of MONAI."""
    known = members()
    found = [known[name]() for name in ("quick", "other seed", "MONAI UNet")]
    return pd.concat(race(each.name, each.network, *symbol_case(each.data)) for each in found)


def machine():
    """What the figures were measured on, and with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next(
        (line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine()
    )
    return {
        "seed": 0,
        "commit": commit(),
        "processor": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def measure_speed():
    """Table of speed, and what it is about."""
    table, rates = speed()
    about = {"dataset": "noise", "size": SIZE, "depth": DEPTH, "weights": "random", "steps": STEPS}
    return table, about | machine() | rates


def measure_answers():
    """Table of answers, and what it is about."""
    own = trained_case()
    about = {"dataset": "phantom", "size": 128, "depth": 3, "weights": own.digest[:12]}
    return answers(own.network, *symbol_case(own.data)), about | machine()


def measure_races():
    """Table of races, and what it is about."""
    return races(), {"dataset": "phantom", "size": 128} | machine()


TABLES = {
    "benchmark": measure_speed,
    "benchmark_answers": measure_answers,
    "benchmark_race": measure_races,
}


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help=f"some of {', '.join(TABLES)}; default all")
    parser.add_argument(
        "--peak", nargs=2, metavar=("LIBRARY", "PRECISION"), help="only print the peak memory [MiB]"
    )
    parser.add_argument(
        "--publish", action="store_true", help="copy the tables to figures/ and renew the README"
    )
    arguments = parser.parse_args()
    for name in set(arguments.tables) - TABLES.keys():
        parser.error(f"{name!r} is no table: there are {', '.join(TABLES)}")
    warnings.simplefilter("ignore")  # random weights are no good target
    if arguments.peak:
        network, images, target = case()
        ATTACKS[tuple(arguments.peak)](
            network, images, target, epsilon=EPSILON, step_size=EPSILON / 20, steps=3
        )
        status = Path(
            "/proc/self/status"
        ).read_text()  # the resource module's figure is the parent's, if that had more
        print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
        return
    wanted = {name: TABLES[name] for name in arguments.tables or TABLES}
    tables = {name: measure() for name, measure in wanted.items()}
    for name, (table, about) in tables.items():
        print(", ".join(f"{key} {value}" for key, value in about.items()))
        print(table.round(4).to_string(index=False), "\n", flush=True)
        exact = ("epsilon", "seconds_per_image_step", "seconds_per_image")
        write_table(RUNS / f"{name}.csv", table, about, exact=exact)
    if arguments.publish:
        paths = [RUNS / f"{name}.csv" for name in tables]
        print(*copy_files(paths, FIGURES), *renew_readme(), sep="\n")


if __name__ == "__main__":
    main()
