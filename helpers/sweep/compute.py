"""How the result of an experiment is computed: attacks in batches, then scores."""

import time
import warnings
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch

from helpers import attack as attacks
from helpers.adapters import logits_of
from helpers.common.provenance import commit, versions
from helpers.evaluation import iou
from helpers.loss import cross_entropy, iou_loss, margin_loss
from helpers.network import evaluating, predict
from helpers.noise import round_to_bits, shuffle_noise, uniform_noise
from helpers.sweep.experiment import ATTACKS, Goal, Region, attack_of


@dataclass(frozen=True, eq=False)
class Result:
    """What a cell came to, for its N cases.

    Attributes:
        iou: {"target", "truth"} → float32 (N, S), IoU × 100 of each structure of the prediction, see `loss.iou`.
        linf: float32 (N,), largest noise.
        loss: float32 (N,) of the attacked network's prediction, to the target (to the truth, if untargeted).
        warnings: N texts: what speaks against trusting the case.
        predictions: uint8 (N, H, W), what the attacked network sees.
        noise: int8 (N, C, H, W) in steps of linf / 127, so at most linf / 254 off; None if not kept.
        seconds: of computing, per case.
        about: commit, versions, device and threads.
    """

    iou: dict
    linf: np.ndarray
    loss: np.ndarray
    warnings: tuple
    predictions: np.ndarray
    noise: np.ndarray | None
    seconds: float
    about: dict


def compute_results(cells, images, truth, *, structures, networks, batch_size=8, observe=None):
    """Outcomes of cells of one dataset; what shares network, loss and steps is attacked as one batch.

    Args:
        cells: a list of Cell.
        images, truth: dicts from the id of each case of the cells to (C, H, W) and (H, W).
        structures: the dataset's names of classes 1 … S.
        networks: dict from digest to network.
        batch_size: images at a time; bounds the memory.
        observe: as of `attack.pgd`; an exception that it raises ends the attacks.

    Returns:
        A list of Outcome, without noise left out.

    Raises:
        ValueError: a cell is of another version of the attacks than this machine has.
    """
    for cell in cells:
        if cell.version != attacks.VERSION:
            found = f"version {cell.version} of the attacks, this machine has {attacks.VERSION}"
            raise ValueError(
                f"cell {cell.key[:12]} asks for {found}: update this software where it is older"
            )
    start = time.monotonic()
    work = {cell: _work(cell, images, truth, structures, networks) for cell in cells}
    made = _attack_all(
        {attack_of(cell): work[cell] for cell in cells if cell.attack not in ATTACKS[3:5]},
        structures,
        networks,
        batch_size,
        observe,
    )
    results = []
    for cell in cells:
        x, y, goal, region = work[cell]
        keys, doubts = [(cell.seed, id) for id in cell.ids], [""] * len(x)
        if cell.attack == "no attack":
            adv_images = x
        elif cell.attack == "random noise":
            random = uniform_noise(x, epsilon=cell.epsilon, seed=keys) * region[:, None]
            adv_images = (x + random).clamp(-1, 1)
        else:
            adv_images, doubts = made[attack_of(cell)]
            if cell.attack == "shuffled noise":
                adv_images = shuffle_noise(x, adv_images, seed=keys)
        if cell.bits:
            adv_images = round_to_bits(adv_images, cell.bits)
        results.append((cell, x, y, goal, adv_images, doubts))
    outcomes = [_score(*result, structures, networks, batch_size) for result in results]
    seconds = (time.monotonic() - start) / sum(len(cell.ids) for cell in cells)
    return [replace(outcome, seconds=seconds) for outcome in outcomes]


def follow(cell, steps, images, truth, *, structures, networks, observe=None):
    """Outcomes of a "pgd" cell and of the same cell with fewer steps, which is the beginning of the same attack.

    Args:
        cell: a Cell without `stop_at` and `bits`.
        steps: the numbers of steps that are wanted besides those of the cell, each from 1 to that number.
        images, truth, structures, networks: as for `compute`.
        observe: as of `attack.pgd`; an exception that it raises ends the attack.

    Yields:
        (Cell, Outcome), the whole attack first.
    """
    if cell.attack != "pgd" or cell.stop_at is not None or cell.bits:
        raise ValueError(
            f"attack is {cell.attack!r}; a plain 'pgd' without stop_at and bits can be followed"
        )
    start, seen = time.monotonic(), {}
    x, y, goal, region = _work(cell, images, truth, structures, networks)

    def watch(step, adv_images, logits):
        if step in steps:
            seen[step] = adv_images.clone()
        if observe:
            observe(step, adv_images, logits)

    network, about = (
        networks[cell.crafted_on],
        {
            "loss": loss_of(cell),
            "targeted": cell.goal.kind != "untargeted",
            "precision": cell.precision,
            "epsilon": cell.epsilon,
            "batch_size": len(x),
            "seed": [(cell.seed, id) for id in cell.ids],
            "region": None if region.all() else region,
        },
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are kept in the outcome
        result = attacks.pgd(network, x, goal, steps=cell.steps, observe=watch, **about)
    for count in [cell.steps, *sorted(set(seen) - {0, cell.steps}, reverse=True)]:
        part = result
        if count < cell.steps:
            part = attacks.shortened(
                network, x, goal, result, seen.pop(count), steps=count, **about
            )
        case = replace(cell, steps=count)
        outcome = _score(
            case, x, y, goal, part.adv_images, _texts(part), structures, networks, len(x)
        )
        yield (
            case,
            replace(outcome, seconds=(time.monotonic() - start) / len(x) * count / cell.steps),
        )


def _work(cell, images, truth, structures, networks):
    """Images, truth, label maps to reach and region of a cell."""
    x, y = (torch.stack([part[id] for id in cell.ids]) for part in (images, truth))
    clean = predict(networks[cell.attacked], x) if cell.goal.basis == "prediction" else None
    return (
        x,
        y,
        cell.goal.labels(y, clean, structures, cell.ids),
        cell.region.masks(y, structures, cell.ids),
    )


def _texts(result):
    """What speaks against trusting each image of an AttackResult, a text each."""
    return [
        "; ".join(text for text, which in result.doubts.items() if which[k])
        for k in range(len(result.taken))
    ]


def loss_of(cell):
    """The loss function of a cell."""
    return {
        "iou": partial(iou_loss, classes=cell.classes),
        "cross-entropy": cross_entropy,
        "margin": margin_loss,
    }[cell.loss]


def _attack_all(work, structures, networks, batch_size, observe):
    """{cell: (adversarial images, warnings of each)} of the attacks, in as few batches as can be."""
    groups, made = {}, {}
    for cell in work:
        alike = replace(
            cell,
            ids=("",),
            goal=Goal(cell.goal.kind, cell.goal.structure),
            region=Region(),
            epsilon=0,
        )
        if cell.stop_at is None:
            alike = replace(
                alike, goal=Goal("untargeted" if cell.goal.kind == "untargeted" else "shape")
            )
        groups.setdefault(alike, []).append(cell)
    for alike, cells in groups.items():
        images, _, labels, regions = (
            torch.cat(parts) for parts in zip(*(work[cell] for cell in cells), strict=True)
        )
        sizes = [len(cell.ids) for cell in cells]
        epsilon = torch.tensor([cell.epsilon for cell in cells], device=images.device)
        options = {
            "loss": loss_of(alike),
            "targeted": alike.goal.kind != "untargeted",
            "precision": alike.precision,
            "epsilon": epsilon.repeat_interleave(torch.tensor(sizes, device=images.device)),
            "batch_size": batch_size,
            "observe": observe,
            "seed": [(cell.seed, id) for cell in cells for id in cell.ids],
            "region": None if regions.all() else regions,
        }
        if alike.stop_at is not None:
            options |= {
                "stop_at": alike.stop_at,
                "classes": [structures.index(alike.goal.structure) + 1],
            }
        options |= {} if alike.attack == "fgsm" else {"steps": alike.steps}
        attack = {"pgd": attacks.pgd, "fast pgd": attacks.fast_pgd, "fgsm": attacks.fgsm}[
            alike.attack
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are kept in the table
            result = attack(networks[alike.crafted_on], images, labels, **options)
        doubts = _texts(result)
        for cell, end in zip(cells, np.cumsum(sizes), strict=True):
            part = slice(end - len(cell.ids), end)
            made[cell] = result.adv_images[part], doubts[part]
    return made


@torch.no_grad()
def _score(cell, images, truth, goal, adv_images, doubts, structures, networks, batch_size):
    network, loss, maps, losses = networks[cell.attacked], loss_of(cell), [], []
    with evaluating(network):
        for x, labels in zip(adv_images.split(batch_size), goal.split(batch_size), strict=True):
            logits = logits_of(network, x)
            maps.append(logits.argmax(dim=1))
            losses.append(loss(logits, labels).float())
    maps, classes = torch.cat(maps), range(1, len(structures) + 1)
    steps, linf = quantise(adv_images - images)
    array = lambda tensor: tensor.cpu().numpy()  # noqa: E731
    scores = {
        name: array(iou(maps, labels, classes=classes))
        for name, labels in (("target", goal), ("truth", truth))
    }
    about = {**_origin(), "device": images.device.type, "threads": torch.get_num_threads()}
    return Result(
        scores,
        array(linf),
        array(torch.cat(losses)),
        tuple(doubts),
        array(maps).astype(np.uint8),
        array(steps),
        0.0,
        about,
    )


def quantise(noise):
    """Noise (N, C, H, W) rounded to int8 steps of linf / 127, and linf (N,)."""
    linf = noise.abs().flatten(1).amax(dim=1)
    return (noise / linf.clamp(min=1e-12)[:, None, None, None] * 127).round().to(torch.int8), linf


@cache
def _origin():
    """Commit and versions of the running code: asked once, since asking git takes longer than a small attack."""
    return {"commit": commit(), **versions()}


def restore_images(images, outcome):
    """Adversarial images from the noise that an outcome kept, each pixel at most linf / 254 off.

    Args:
        images: (N, C, H, W), those that were attacked.
        outcome: an Outcome with noise.

    Returns:
        (N, C, H, W) within [−1, 1].
    """
    if outcome.noise is None:
        raise ValueError("the noise of this cell was not kept: run it again with noise=True")
    scale = torch.from_numpy(outcome.linf / 127)[:, None, None, None]
    return (images + (torch.from_numpy(outcome.noise) * scale).to(images)).clamp(-1, 1)
