"""The record of an experiment: everything that decides an attack's result, hashed into a key."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from helpers import attack as attacks
from helpers.common.arguments import require, require_choice, whole_number
from helpers.common.files import digest_json
from helpers.data import Dataset
from helpers.labels import OUTSIDE
from helpers.network import find_device, find_precision
from helpers.ratio import HEART, stretch_heart
from helpers.shapes import heart_curve, read_shape
from helpers.targets import (
    bounding_box,
    place_shape,
    receptive_field_region,
    resize_structure,
)
from helpers.transfer import Transfer
from helpers.weights import Trained

Names = Sequence[str]
CONTROLS = ("shuffled noise", "same spectrum")  # of the noise of "pgd"
ATTACKS = ("pgd", "fast pgd", "fgsm", "no attack", "random noise", *CONTROLS)
LOSSES = ("iou", "cross-entropy", "margin", "heart width", "thorax width", "ratio")


@dataclass(frozen=True)
class Goal:
    """What the attacker wants the network to predict.

    Attributes:
        kind: "untargeted", away from the truth; "shape", a shape in place of a structure; "resize",
            a structure of another size; "ratio", a heart of another width.
        structure: the one to replace or to resize; for "ratio" the heart.
        ratio: for "shape", area of the shape / area of the structure; for "resize", new length /
            old length; for "ratio", the cardiothoracic ratio that is wanted.
        shape: "heart", SVG path data, or the text of a PNG (`shapes.png_text`). A file could change
            after it was hashed, so a path is refused.
        basis: "truth" or "prediction": the label maps that the target is made from.
    """

    kind: str = "untargeted"
    structure: str = ""
    ratio: float = 1.0
    shape: str = "heart"
    basis: str = "truth"

    def __post_init__(self) -> None:
        require_choice("goal", self.kind, ("untargeted", "shape", "resize", "ratio"))
        require_choice("basis", self.basis, ("truth", "prediction"))
        if self.kind == "ratio":
            require_choice("structure", self.structure, [HEART])
        most = 1 if self.kind == "ratio" else math.inf
        require(0 < self.ratio < most, "ratio", self.ratio, f"it must be above 0 and below {most}")
        is_file = self.shape.lower().endswith((".png", ".svg"))
        require(
            not is_file,
            "shape",
            self.shape,
            "this is a file, which may change: give png_text(read_shape(…)) of it",
        )

    def labels(self, truth: Tensor, clean: Tensor | None, structures: Names, ids: Names) -> Tensor:
        """The label maps to reach or, untargeted, to get away from.

        Args:
            truth: int64 (N, H, W).
            clean: the prediction without attack, likewise; needed if it is the basis.
            structures: names of the classes 1 … S.
            ids: the N cases.

        Returns:
            int64 (N, H, W).
        """
        if self.kind == "untargeted":
            return truth
        basis = truth
        if self.basis == "prediction" and clean is not None:
            basis = clean.masked_fill(truth == OUTSIDE, OUTSIDE)
        own = self.structure
        if self.kind == "ratio":
            return stretch_heart(basis, structures, wanted=self.ratio, ids=ids)
        if self.kind == "resize":
            return resize_structure(basis, own, structures, factor=self.ratio, ids=ids).labels
        shape = _raster(self.shape)
        return place_shape(basis, own, structures, shape, area_ratio=self.ratio, ids=ids).labels


@lru_cache(maxsize=8)
def _raster(shape):
    """The shape of a Goal; drawing the heart takes longer than a small attack."""
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

    def __post_init__(self) -> None:
        require_choice("region", self.kind, ("everywhere", "around", "box"))

    def masks(self, truth: Tensor, structures: Names, ids: Names) -> Tensor:
        """Masks, bool (N, H, W), of label maps (N, H, W); never in the padding of a picture."""
        picture = truth != OUTSIDE
        if self.kind == "everywhere":
            return picture
        masks = truth == structures.index(self.structure) + 1
        if self.kind == "box":
            return bounding_box(masks, margin=self.extent, ids=ids) & picture
        return receptive_field_region(masks, depth=self.extent, ids=ids) & picture


def newest_version(attack: str) -> int:
    """Version of one of ATTACKS in the running code."""
    return attacks.FAST_VERSION if attack == "fast pgd" else attacks.VERSION


@dataclass(frozen=True)
class Experiment:
    """One attack on some cases of a dataset, with everything that decides its result.

    Attributes:
        dataset, source, size: the dataset's name, digest and side [pixels].
        ids: the N cases.
        attacked, crafted_on: digests of the weights that are attacked, and that the noise is
            made with.
        classes: those that the loss counts, where it counts some only.
        goal, region: what is wanted, and where noise is allowed.
        attack: one of ATTACKS. The controls are as large as the attack; CONTROLS are made of that
            of "pgd".
        epsilon: largest noise per pixel [units of the images].
        steps: of "pgd" and "fast pgd"; "auto" for as many as "fast pgd" needs.
        loss: one of LOSSES; those of widths take heart, lung and lung for `classes`.
        stop_at: IoU × 100 of the goal's structure with the target at which a case is done; None
            for never.
        bits: depth to which the attacked image is rounded; 0 for none.
        precision: of the gradients, "bf16" or "fp32".
        seed: of random and shuffled noise.
        version: of the attack; 0 is the running code's, which takes its place in `values`.
        transfer: what "pgd" does to work on other networks than those it is crafted on ("fast pgd"
            keeps its own steps); None is nothing, and stays out of `values`.
        queries: to the attacked network, which go on from the attack (or from "no attack"), see
            `transfer.ask`; 0 is none, and stays out likewise.
        random_start: of "pgd" and "fast pgd", as there; False stays out likewise.
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
    steps: int | str = 100
    loss: str = "iou"
    stop_at: float | None = None
    bits: int = 0
    precision: str = "fp32"
    seed: int = 0
    version: int = 0
    transfer: Transfer | None = None
    queries: int = 0
    random_start: bool = False

    def __post_init__(self) -> None:
        require_choice("attack", self.attack, ATTACKS)
        require_choice("loss", self.loss, LOSSES)
        require_choice("precision", self.precision, ("bf16", "fp32"))
        require(
            0 <= self.epsilon < math.inf,
            "epsilon",
            self.epsilon,
            "it must be 0 or more, in the units of the images",
        )
        if not (self.steps == "auto" and self.attack == "fast pgd"):
            whole_number("steps", self.steps)
        whole_number("bits", self.bits, 0)
        whole_number("queries", self.queries, 0)
        advice = "only pgd, fast pgd and what is made of the noise of pgd take it"
        require(
            self.transfer is None or self.attack in ("pgd", "fast pgd", *CONTROLS),
            "transfer of the attack",
            self.attack,
            advice,
        )
        several = self.transfer is not None and self.transfer.others
        advice = "of several surrogates, pgd without stop_at makes the noise"
        plain = self.attack != "fast pgd" and self.stop_at is None
        require(plain or not several, "attack on several surrogates", self.attack, advice)
        advice = "give an IoU from 0 to 100, and a goal with a structure"
        require(
            self.stop_at is None or (0 <= self.stop_at <= 100 and self.goal.structure),
            "stop_at",
            self.stop_at,
            advice,
        )
        require(
            len(set(self.ids)) == len(self.ids) > 0,
            "ids",
            self.ids,
            "name one case or more, each once",
        )

    @cached_property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of the experiment."""
        return digest_json(self.values())

    @property
    def surrogates(self) -> tuple[str, ...]:
        """Digests of all weights that the noise is made with."""
        return (self.crafted_on, *(self.transfer.others if self.transfer else ()))

    def values(self) -> dict:
        """All fields as nested dicts, for JSON; without those that older ones lack, if unset."""
        values = asdict(self) | {"version": self.version or newest_version(self.attack)}
        for name in ("transfer", "queries", "random_start"):
            if not values[name]:
                del values[name]
        return values

    def __reduce__(self) -> tuple:
        """Pickled as `values`, so that a worker with other software notices the version."""
        return Experiment.read, (self.values(),)

    @classmethod
    def read(cls, values: dict) -> "Experiment":
        """The experiment of these `values`, also after a round trip through JSON."""
        if values["version"] == newest_version(values["attack"]):
            values = values | {"version": 0}
        transfer = values.get("transfer")
        made: dict = {name: tuple(values[name]) for name in ("ids", "classes")}
        made |= {"goal": Goal(**values["goal"]), "region": Region(**values["region"])}
        if transfer:
            made["transfer"] = Transfer(**transfer | {"others": tuple(transfer["others"])})
        return cls(**values | made)


def white_box(
    dataset: Dataset,
    trained: Trained,
    *,
    which: str | Iterable[str] = "test",
    device: str | torch.device = "cpu",
    precision: str = "auto",
    **values: Any,
) -> Experiment:
    """A white-box attack on cases of a dataset, to be varied with `dataclasses.replace`.

    Args:
        dataset: where the cases come from.
        trained: the network that is attacked.
        which: name of a split, or ids.
        device: where it will be computed; it decides what "auto" is.
        precision: of the gradients, as in `network.find_precision`.
        **values: other fields of the Experiment.
    """
    ids = dataset.split[which] if isinstance(which, str) else which
    about = {
        "classes": dataset.classes,
        "precision": find_precision(precision, find_device(device)),
        "attacked": trained.digest,
        "crafted_on": trained.digest,
    }
    return Experiment(dataset.name, dataset.digest, dataset.size, tuple(ids), **about | values)


def standard_grid(experiment: Experiment, surrogate: Trained, epsilons: Sequence[float]) -> dict:
    """White-box, black-box, random and shuffled noise at every ε, and the clean baseline.

    Args:
        experiment: the white-box attack; its ε does not matter.
        surrogate: the network on which the black-box attack is crafted.
        epsilons: the noise levels.

    Returns:
        dict from (attack, epsilon); the attacks are "no attack" (ε = 0), "white-box", "black-box",
        "random-noise" and "shuffled-noise".
    """
    changes: dict = {
        "white-box": {},
        "black-box": {"crafted_on": surrogate.digest},
        "random-noise": {"attack": "random noise"},
        "shuffled-noise": {"attack": "shuffled noise"},
    }
    clean = replace(experiment, attack="no attack", epsilon=0.0)
    return {("no attack", 0.0): clean} | {
        (name, epsilon): replace(experiment, epsilon=epsilon, **change)
        for name, change in changes.items()
        for epsilon in epsilons
    }


def check_experiment(experiment: Experiment, dataset: Dataset, weights: Collection[str]) -> None:
    """Raise a ValueError if the dataset or the networks lack what an experiment asks for.

    Args:
        experiment: the record to check.
        dataset: the one that it should name.
        weights: digests of the networks at hand.
    """
    own = dataset.name, dataset.digest, dataset.size
    asked = experiment.dataset, experiment.source, experiment.size
    require(asked == own, "dataset of an experiment", asked, f"the dataset at hand is {own}")
    for part in (experiment.goal, experiment.region):
        if part.kind not in ("untargeted", "everywhere"):
            require_choice("structure", part.structure, dataset.structures)
    for digest in (experiment.attacked, *experiment.surrogates):
        require(
            digest in weights,
            "digest of the weights",
            digest[:12],
            "there are no such weights: train that network again, or hand it in",
        )


def attack_of(experiment: Experiment) -> Experiment:
    """The attack that an experiment's noise comes from, before anything is made of it.

    It is the same for all networks that are shown the noise, unless its target is made from what
    they predict.
    """
    attack = "pgd" if experiment.attack in CONTROLS else experiment.attack
    own = experiment.goal.basis == "prediction"
    attacked = experiment.attacked if own else experiment.crafted_on
    return replace(experiment, bits=0, queries=0, attack=attack, attacked=attacked)
