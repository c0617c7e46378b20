"""Cells of a grid of attacks: everything that decides a result, and how the result is computed."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial

from helpers import attack as attacks
from helpers.common.files import digest_json
from helpers.network import find_device, find_precision
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


def attack_of(cell):
    """The cell of the attack that a cell's noise comes from, before it is shuffled or rounded."""
    return replace(cell, bits=0, attack="pgd" if cell.attack == "shuffled noise" else cell.attack)


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(choices)}")
