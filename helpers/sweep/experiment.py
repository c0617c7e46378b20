"""Cells of a grid of attacks: everything that decides a result, and how the result is computed."""

import math
import time
import warnings
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache, partial

import numpy as np
import torch

from helpers import attack as attacks
from helpers.adapters import logits_of
from helpers.common.files import digest_json
from helpers.common.provenance import commit, versions
from helpers.evaluation import iou
from helpers.loss import cross_entropy, iou_loss, margin_loss
from helpers.network import evaluating, find_device, find_precision, predict
from helpers.noise import round_to_bits, shuffle_noise, uniform_noise
from helpers.shapes import heart_curve, read_shape
from helpers.targets import (
    bounding_box,
    everywhere,
    place_shape,
    receptive_field_region,
    resize_structure,
)

ATTACKS = ("pgd", "fast pgd", "fgsm", "no attack", "random noise", "shuffled noise")
LOSSES = ("iou", "cross-entropy", "margin")


@dataclass(frozen=True)
class Goal:
    """What the attacker wants.

    Attributes:
        kind: "untargeted", away from the truth; "shape", a shape in place of a structure; "resize", a structure of
            another size.
        structure: the one to replace or to resize.
        ratio: area of the shape / area of the structure; of "resize", new length / old length.
        shape: "heart", or SVG path data, or the text of a PNG (`targets.png_text`): not a file, which may change.
        basis: "truth" or "prediction": the label maps that the target is made from.
    """

    kind: str = "untargeted"
    structure: str = ""
    ratio: float = 1.0
    shape: str = "heart"
    basis: str = "truth"

    def __post_init__(self):
        _check_choice("goal", self.kind, ("untargeted", "shape", "resize"))
        _check_choice("basis", self.basis, ("truth", "prediction"))
        if not (isinstance(self.ratio, int | float) and 0 < self.ratio < math.inf):
            name = "factor" if self.kind == "resize" else "area ratio"
            raise ValueError(f"{name} is {self.ratio!r}; it must be above 0")
        if self.shape.lower().endswith((".png", ".svg")):
            raise ValueError(
                f"shape {self.shape!r} is a file, which may change; give png_text(read_shape(…)) of it"
            )

    def labels(self, truth, clean, structures, ids):
        """The label maps to reach, or (untargeted) to get away from: int64 (N, H, W), as `truth` and `clean`."""
        if self.kind == "untargeted":
            return truth
        make = resize_structure if self.kind == "resize" else place_shape
        about = {"factor": self.ratio} if self.kind == "resize" else {"area_ratio": self.ratio}
        if self.kind == "shape":
            about["shape"] = _raster(self.shape)
        return make(
            truth if self.basis == "truth" else clean, self.structure, structures, ids=ids, **about
        ).labels


@lru_cache(maxsize=8)
def _raster(shape):
    """The shape of a Goal, which every cell of a sweep asks for again."""
    return read_shape(heart_curve() if shape == "heart" else shape)


@dataclass(frozen=True)
class Region:
    """Where noise is allowed.

    Attributes:
        kind: "everywhere", "around" a structure (what a U-Net sees of it) or in its bounding "box".
        structure: of the truth.
        extent: of "around", the depth of the U-Net; of "box", the margin [pixels].
    """

    kind: str = "everywhere"
    structure: str = ""
    extent: int = 0

    def __post_init__(self):
        _check_choice("region", self.kind, ("everywhere", "around", "box"))

    def masks(self, truth, structures, ids):
        """bool (N, H, W)."""
        if self.kind == "everywhere":
            return everywhere(truth)
        if self.structure not in structures:
            raise ValueError(
                f"there is no structure {self.structure!r}; choose from {', '.join(structures)}"
            )
        masks = truth == structures.index(self.structure) + 1
        around_or_box = {
            "around": partial(receptive_field_region, depth=self.extent),
            "box": partial(bounding_box, margin=self.extent),
        }
        return around_or_box[self.kind](masks, ids=ids)


@dataclass(frozen=True)
class Experiment:
    """One attack on some cases of a dataset, with everything that decides its result.

    Attributes:
        dataset, source, size: the dataset's name, digest and side.
        ids: the N cases.
        attacked, crafted_on: digests of the weights that are attacked, and that the noise is made with.
        classes: those that the loss counts, where it counts some only.
        goal, region: what is wanted, and where noise is allowed.
        attack: one of ATTACKS; the controls have the size of the attack, "shuffled noise" is that of "pgd".
        epsilon: largest noise per pixel [units of the images].
        steps: of "pgd" and "fast pgd".
        loss: one of LOSSES.
        stop_at: IoU × 100 of the goal's structure with the target at which a case is done; None: never.
        bits: to which the attacked image is rounded; 0: not.
        precision: of the gradients: "bf16" or "fp32".
        seed: of random and shuffled noise.
        version: of `attack`.
    """

    dataset: str
    source: str
    size: int
    ids: tuple
    attacked: str
    crafted_on: str
    classes: tuple
    goal: Goal = field(default_factory=Goal)
    region: Region = field(default_factory=Region)
    attack: str = "pgd"
    epsilon: float = 0.04
    steps: int = 100
    loss: str = "iou"
    stop_at: float | None = None
    bits: int = 0
    precision: str = "fp32"
    seed: int = 0
    version: int = attacks.VERSION

    def __post_init__(self):
        _check_choice("attack", self.attack, ATTACKS)
        _check_choice("loss", self.loss, LOSSES)
        _check_choice("precision", self.precision, ("bf16", "fp32"))
        if not (isinstance(self.epsilon, int | float) and 0 <= self.epsilon < math.inf):
            raise ValueError(
                f"epsilon is {self.epsilon!r}; it must be 0 or more, in the units of the images"
            )
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"steps is {self.steps!r}; give a whole number of 1 or more")
        if self.stop_at is not None and not (0 <= self.stop_at <= 100 and self.goal.structure):
            raise ValueError(
                f"stop_at is {self.stop_at!r}; give an IoU from 0 to 100, and a goal with a structure"
            )
        if type(self.bits) is not int or self.bits < 0:
            raise ValueError(f"bits is {self.bits!r}; give a whole number, or 0 not to round")
        if not self.ids or len(set(self.ids)) < len(self.ids):
            raise ValueError(f"ids are {self.ids!r}; name one case or more, each once")

    @cached_property
    def key(self):
        """SHA-256 of the canonical JSON of the cell."""
        return digest_json(self.values())

    def values(self):
        """The same as `dataclasses.asdict`, which takes longer than all else that a small cell needs."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain | {"goal": dict(vars(self.goal)), "region": dict(vars(self.region))}

    @classmethod
    def read(cls, values):
        """The cell of these `values`, from JSON or not."""
        nested = {"goal": Goal(**values["goal"]), "region": Region(**values["region"])}
        return cls(**values | nested | {name: tuple(values[name]) for name in ("ids", "classes")})


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


def white_box(dataset, trained, *, which="test", device="cpu", precision="auto", **values):
    """The cell of a white-box attack on cases of a dataset, to be varied with `dataclasses.replace`.

    Args:
        dataset: a `data.Dataset`.
        trained: the `training.Trained` that is attacked.
        which: name of a split, or ids.
        device: where it will be computed.
        precision: of the gradients, as in `network.find_precision`.
        **values: of the Cell.
    """
    ids = tuple(dataset.split[which] if isinstance(which, str) else which)
    about = {
        "classes": dataset.classes,
        "precision": find_precision(precision, find_device(device)),
    }
    return Experiment(
        dataset.name,
        dataset.digest,
        dataset.size,
        ids,
        trained.digest,
        trained.digest,
        **about | values,
    )


def standard_grid(cell, surrogate, epsilons):
    """An attack by one who has the weights and by one who has not, two controls of the same size, and no attack.

    Args:
        cell: of the white-box attack; its ε does not matter.
        surrogate: the `training.Trained` on which the black-box attack is crafted.
        epsilons: the noise levels.

    Returns:
        dict from (attack, epsilon) to Cell; the attacks are "no attack" (ε = 0), "white-box", "black-box",
        "random-noise" and "shuffled-noise".
    """
    changes = {
        "white-box": {},
        "black-box": {"crafted_on": surrogate.digest},
        "random-noise": {"attack": "random noise"},
        "shuffled-noise": {"attack": "shuffled noise"},
    }
    levels = {
        (name, e): replace(cell, epsilon=e, **change)
        for name, change in changes.items()
        for e in epsilons
    }
    return {("no attack", 0.0): replace(cell, attack="no attack", epsilon=0.0)} | levels


def check_experiment(cell, *, structures, weights):
    """Raise a ValueError if the dataset or the networks lack what a cell asks for.

    Args:
        structures: the dataset's names.
        weights: digests of the networks at hand.
    """
    for part in (cell.goal, cell.region):
        if part.kind not in ("untargeted", "everywhere") and part.structure not in structures:
            raise ValueError(
                f"there is no structure {part.structure!r}; choose from {', '.join(structures)}"
            )
    if not set(cell.classes) <= set(range(len(structures) + 1)):
        raise ValueError(f"classes are {cell.classes}; this dataset has 0 … {len(structures)}")
    for digest in (cell.attacked, cell.crafted_on):
        if digest not in weights:
            raise ValueError(
                f"there are no weights of digest {digest[:12]}: train that network again, or hand it in"
            )


def compute(cells, images, truth, *, structures, networks, batch_size=8):
    """Outcomes of cells of one dataset; what shares network, loss and steps is attacked as one batch.

    Args:
        cells: a list of Cell.
        images, truth: dicts from the id of each case of the cells to (C, H, W) and (H, W).
        structures: the dataset's names of classes 1 … S.
        networks: dict from digest to network.
        batch_size: images at a time; bounds the memory.

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


def attack_of(cell):
    """The cell of the attack that a cell's noise comes from, before it is shuffled or rounded."""
    return replace(cell, bits=0, attack="pgd" if cell.attack == "shuffled noise" else cell.attack)


def loss_of(cell):
    """The loss function of a cell."""
    return {
        "iou": partial(iou_loss, classes=cell.classes),
        "cross-entropy": cross_entropy,
        "margin": margin_loss,
    }[cell.loss]


def _attack_all(work, structures, networks, batch_size):
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


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(choices)}")
