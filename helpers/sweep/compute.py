"""How the result of an experiment is computed: attacks in batches, then scores."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from helpers import attack as attacks
from helpers.common.arguments import require
from helpers.common.provenance import commit, versions
from helpers.evaluation import iou
from helpers.labels import OUTSIDE
from helpers.loss import cross_entropy, iou_loss, margin_loss
from helpers.network import evaluating, predict
from helpers.noise import round_to_bits, scramble_phases, shuffle_noise, uniform_noise
from helpers.outputs import label_maps, logits_of
from helpers.ratio import ratio_loss
from helpers.sweep.experiment import CONTROLS, Experiment, attack_of, newest_version
from helpers.transfer import VERSION, Ensemble, ask, over_networks

WIDTHS = {"heart width": "heart", "thorax width": "thorax", "ratio": "both"}  # losses of `ratio`
SHARED = "crafted_on attack steps loss classes precision stop_at transfer random_start"
OPTIONS = attrgetter(*SHARED.split())


@dataclass(frozen=True, eq=False)
class Result:
    """The result of an experiment, for its N cases.

    Attributes:
        iou: {"target", "truth"} → float32 (N, S), IoU × 100 of each structure of the prediction,
            see `evaluation.iou`.
        linf: float32 (N,), largest noise.
        loss: float32 (N,) of the attacked network's prediction, to the target (to the truth, if
            untargeted).
        warnings: N texts: what speaks against trusting the case.
        predictions: uint8 (N, H, W), what the attacked network sees; None if not read.
        noise: int8 (N, C, H, W) in steps of linf / 127, so at most linf / 254 off; None if not
            kept.
        seconds: of computing, per case.
        about: commit, versions, device and threads; copy, as of `AttackResult`, after an attack.
    """

    iou: dict
    linf: np.ndarray
    loss: np.ndarray
    warnings: tuple
    predictions: np.ndarray | None
    noise: np.ndarray | None
    seconds: float
    about: dict


class _Cases(NamedTuple):
    """Images (N, C, H, W), truth, label maps to reach and region, each (N, H, W)."""

    images: Tensor
    truth: Tensor
    goal: Tensor
    region: Tensor


def compute_results(
    experiments: Sequence[Experiment],
    images: dict,
    truth: dict,
    *,
    structures: Sequence[str],
    networks: dict,
    batch_size: int = 8,
    observe: Callable | None = None,
) -> list[Result]:
    """Results of experiments on one dataset; those with settings in common share batches.

    Args:
        experiments: what to compute.
        images: from the id of each case of the experiments to (C, H, W).
        truth: likewise to label maps (H, W).
        structures: the dataset's names of classes 1 … S.
        networks: from digest to network.
        batch_size: images at a time; bounds the memory.
        observe: as of `attack.pgd`; an exception that it raises ends the attacks.

    Raises:
        ValueError: an experiment is of another version of the attacks than this machine has.
    """
    start = time.monotonic()
    cases = {e: _prepare(e, images, truth, structures, networks) for e in experiments}
    groups: dict = {}
    for experiment in experiments:
        if experiment.attack not in ("no attack", "random noise"):
            attack = attack_of(experiment)
            groups.setdefault(batch_settings(attack), {})[attack] = cases[experiment]
    attacked: dict = {}
    for group in groups.values():
        attacked |= _attack(group, structures, networks, batch_size, observe)
    results = []
    for experiment in experiments:
        shown = _adversarial(experiment, cases[experiment], attacked, networks)
        score = _score(experiment, cases[experiment], shown, structures, networks, batch_size)
        results.append(score)
    seconds = (time.monotonic() - start) / sum(len(e.ids) for e in experiments)
    return [replace(result, seconds=seconds) for result in results]


def _prepare(experiment, images, truth, structures, networks):
    ids, goal, version = experiment.ids, experiment.goal, experiment.version
    newest = newest_version(experiment.attack)
    require(
        version in (0, newest),
        "version of the attacks",
        version,
        f"this machine has {newest}: update this software where it is older",
    )
    known = not experiment.transfer or experiment.transfer.version == VERSION
    require(known, "version of the transfer", experiment.transfer, f"this machine has {VERSION}")
    x = torch.stack([images[id] for id in ids])
    y = torch.stack([truth[id] for id in ids])
    clean = predict(networks[experiment.attacked], x) if goal.basis == "prediction" else None
    labels = goal.labels(y, clean, structures, ids)
    return _Cases(x, y, labels, experiment.region.masks(y, structures, ids))


def batch_settings(attack: Experiment) -> tuple:
    """What attacks of one batch have in common."""
    structure = attack.stop_at is not None and attack.goal.structure
    return (*OPTIONS(attack), attack.goal.kind == "untargeted", structure)


def _attack(group, structures, networks, batch_size, observe):
    """Adversarial images, warnings and copy of attacks that have their settings in common."""
    first = next(iter(group))
    cases = [(experiment, id) for experiment in group for id in experiment.ids]
    together = _Cases(*map(torch.cat, zip(*group.values(), strict=True)))
    images = together.images
    options = {
        "loss": loss_of(first),
        "targeted": first.goal.kind != "untargeted",
        "precision": first.precision,
        "epsilon": torch.tensor([e.epsilon for e, _ in cases], device=images.device),
        "batch_size": batch_size,
        "observe": observe,
        "seed": [(e.seed, id) for e, id in cases],
        "region": together.region,
    }
    if first.stop_at is not None:
        classes = [structures.index(first.goal.structure) + 1]
        options |= {"stop_at": first.stop_at, "classes": classes}
    if first.attack != "fgsm":
        options |= {"steps": first.steps, "random_start": first.random_start}
    function = {"pgd": attacks.pgd, "fast pgd": attacks.fast_pgd, "fgsm": attacks.fgsm}
    network = networks[first.crafted_on]
    if first.transfer:
        options |= first.transfer.options(steps=first.attack != "fast pgd")
        if first.transfer.others:
            network = Ensemble(networks[digest] for digest in first.surrogates).eval()
            count, combine = len(first.surrogates), first.transfer.combine
            options["loss"] = over_networks(options["loss"], count, combine)
    with warnings.catch_warnings(action="ignore"):  # they are kept in the table
        result = function[first.attack](network, images, together.goal, **options)
    parts = result.adv_images.split([len(experiment.ids) for experiment in group])
    texts = (
        "; ".join(text for text, found in result.findings.items() if found[case])
        for case in range(len(images))
    )
    return {
        experiment: (adv_images, [next(texts) for _ in experiment.ids], {"copy": result.copy})
        for experiment, adv_images in zip(group, parts, strict=True)
    }


def loss_of(experiment: Experiment) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss function of an experiment."""
    if experiment.loss == "iou":
        return partial(iou_loss, classes=experiment.classes)
    if experiment.loss in WIDTHS:
        return partial(ratio_loss, classes=experiment.classes, moved=WIDTHS[experiment.loss])
    return {"margin": margin_loss, "cross-entropy": cross_entropy}[experiment.loss]


def _adversarial(experiment, cases, attacked, networks):
    """The images that the network is shown, what speaks against trusting each, and the copy."""
    images, kind = cases.images, experiment.attack
    keys = [(experiment.seed, id) for id in experiment.ids]
    no_attack = images, [""] * len(keys), {}
    adv_images, texts, copy = attacked.get(attack_of(experiment), no_attack)
    if kind == "random noise":
        noise = uniform_noise(images, epsilon=experiment.epsilon, seed=keys)
        adv_images = (images + noise * cases.region[:, None]).clamp(-1, 1)
    elif kind in CONTROLS:
        scatter = shuffle_noise if kind == "shuffled noise" else scramble_phases
        picture = cases.truth != OUTSIDE
        adv_images = scatter(images, adv_images, seed=keys, within=picture)
    if experiment.queries:
        adv_images = ask(
            partial(predict, networks[experiment.attacked]),
            images,
            adv_images,
            cases.goal,
            classes=experiment.classes,
            epsilon=experiment.epsilon * cases.region[:, None],
            queries=experiment.queries,
            seed=keys,
        )
    if experiment.bits:
        adv_images = round_to_bits(adv_images, experiment.bits)
    return adv_images, texts, copy


@torch.no_grad()
def _score(experiment, cases, shown, structures, networks, batch_size):
    """The Result of the images that are shown to the network; without the seconds."""
    adv_images, texts, copy = shown
    network, loss = networks[experiment.attacked], loss_of(experiment)
    batches = zip(adv_images.split(batch_size), cases.goal.split(batch_size), strict=True)
    predicted, losses = [], []
    with evaluating(network):
        for images, labels in batches:
            logits = logits_of(network, images)
            predicted.append(label_maps(logits))
            losses.append(loss(logits, labels).float())
    maps = torch.cat(predicted)
    classes = range(1, len(structures) + 1)
    compared = {"target": cases.goal, "truth": cases.truth}
    noise = adv_images - cases.images
    linf = noise.abs().flatten(1).amax(dim=1)
    steps = (noise / linf.clamp(min=1e-12)[:, None, None, None] * 127).round()
    device = {"device": adv_images.device.type, "threads": torch.get_num_threads()}
    return Result(
        {k: iou(maps, labels, classes=classes).cpu().numpy() for k, labels in compared.items()},
        linf.cpu().numpy(),
        torch.cat(losses).cpu().numpy(),
        tuple(texts),
        maps.cpu().numpy().astype(np.uint8),
        steps.cpu().numpy().astype(np.int8),
        0.0,
        _origin() | device | copy,
    )


@cache
def _origin():
    """Commit and versions of the running code; asking git takes longer than a small attack."""
    return {"commit": commit(), **versions()}


def restore_images(images: Tensor, result: Result) -> Tensor:
    """Adversarial images from the noise that a result kept, each pixel at most linf / 254 off.

    Args:
        images: (N, C, H, W), those that were attacked.
        result: one with noise.

    Returns:
        (N, C, H, W) within [−1, 1].
    """
    steps: Any = result.noise
    noise = steps * (result.linf / 127)[:, None, None, None]
    return (images + torch.from_numpy(noise).to(images)).clamp(-1, 1)
