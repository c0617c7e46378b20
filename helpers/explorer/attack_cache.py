"""Attacks on one case at a time: from memory, from a store, or computed step by step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from helpers.common.provenance import provenance
from helpers.data import Dataset
from helpers.evaluation import iou
from helpers.labels import OUTSIDE
from helpers.network import find_device, predict
from helpers.ratio import calipers
from helpers.sweep import Experiment, Goal, Store, compute_results, white_box
from helpers.weights import Trained

MEMORY = 2**28  # of the frames that are kept [bytes]


@dataclass(frozen=True, eq=False)
class Frame:
    """One attack on one case, at its end or at a step on the way.

    Attributes:
        experiment: of that case alone.
        adv_image: float32 (H, W), the attacked image.
        noise: likewise [units of the images]; that of a stored attack is exact but for pixels at
            the ends of the range, up to ε / 112 off.
        prediction: uint8 (H, W), the label map that the attacked network sees.
        iou: IoU × 100, a row for each structure; columns "target" and "truth".
        warnings: what speaks against trusting the attack; "" for a step on the way, which is
            not checked.
    """

    experiment: Experiment
    adv_image: np.ndarray
    noise: np.ndarray
    prediction: np.ndarray
    iou: pd.DataFrame
    warnings: str = ""

    @property
    def attacker(self) -> str:
        """Who made the noise: "white-box" or "black-box"."""
        own = self.experiment.crafted_on == self.experiment.attacked
        return "white-box" if own else "black-box"

    @property
    def reference(self) -> str:
        """The label map that matters: "truth" of an untargeted attack, "target" of others."""
        return "truth" if self.experiment.goal.kind == "untargeted" else "target"


class AttackCache:
    """Where frames come from: memory, a store, or an attack that is run.

    Args:
        dataset: the one that holds the cases.
        attacked: the network that is attacked.
        surrogate: the one that black-box noise is made with; None leaves these attacks out.
        settings: of `explore`: store, which, also, device, attack, steps, seed and precision.

    Attributes:
        counts: the numbers of steps whose frames are kept: one, every twentieth part, all.
        sources: id → the `provenance` of its dataset and networks.
        goal: function of an id and a `Goal` that returns the label map, int16 (H, W), to reach or
            (untargeted) to get away from; a ValueError says why it cannot be made of this case.
    """

    def __init__(
        self,
        dataset: Dataset,
        attacked: Trained,
        surrogate: Trained | None,
        settings: SimpleNamespace,
    ) -> None:
        self.steps = settings.steps
        self.dataset = dataset
        self.device = find_device(settings.device)
        self.counts = sorted({*range(0, self.steps, max(1, self.steps // 20)), 1, self.steps})
        self.attackers = ("white-box", "black-box") if surrogate else ("white-box",)
        self.images: dict = {}
        self.truth: dict = {}
        self.networks: dict = {}
        self.bases: dict = {}  # (id, attacker) → the attack on the cases of its dataset
        self.sources: dict = {}
        self._add_cases(dataset, attacked, surrogate, settings.which, settings)
        for more in settings.also:
            known = self.images.keys() & {*more.data.split["test"]}
            if more.data.structures == dataset.structures and not known:
                self._add_cases(more.data, more.target, more.surrogate, "test", settings)
        self.ids = tuple(self.images)
        self.store = Store(Path(settings.store).expanduser())
        self.lock = Lock()
        self.memory: dict[Experiment, Frame] = {}
        self.goal = lru_cache(self._goal)

    def _add_cases(self, dataset, attacked, surrogate, which, settings):
        images, truth = (part.to(self.device) for part in dataset.take(which))
        trained = [attacked, surrogate][: len(self.attackers)]
        base = white_box(
            dataset,
            attacked,
            which=which,
            device=settings.device,
            attack=settings.attack,
            steps=settings.steps,
            seed=settings.seed,
            precision=settings.precision,
        )
        about = {"seed": base.seed, "precision": base.precision, "device": self.device}
        source = provenance(dataset, trained, **about)
        self.networks |= {each.digest: each.network.to(self.device) for each in trained}
        self.images |= dict(zip(base.ids, images, strict=True))
        self.truth |= dict(zip(base.ids, truth, strict=True))
        self.sources |= dict.fromkeys(base.ids, source)
        for attacker, each in zip(self.attackers, trained, strict=True):
            own = replace(base, crafted_on=each.digest)
            self.bases |= {(id, attacker): own for id in base.ids}

    def experiment(
        self, id: str, attacker: str, goal: Goal, epsilon: float, steps: int
    ) -> Experiment:
        """The experiment on one case; without noise or steps that of no attack."""
        base = replace(self.bases[id, attacker], ids=(id,), goal=goal)
        if epsilon and steps:
            return replace(base, epsilon=epsilon, steps=steps)
        return replace(base, attack="no attack", epsilon=0.0)

    def first_with(self, structure: str) -> str:
        """The first case that has a structure; the first of all if none has."""
        number = self.dataset.class_of(structure)
        return max(self.ids, key=lambda id: (self.truth[id] == number).any())

    def image(self, id: str) -> np.ndarray:
        """float32 (H, W), not attacked."""
        return self.images[id][0].cpu().numpy()

    def find(self, experiment: Experiment) -> Frame | None:
        """The frame of an experiment if it takes no attack to get it, otherwise None."""
        frame = self.memory.get(experiment)
        if frame is not None:
            return frame
        (id,) = experiment.ids
        if experiment.attack == "no attack":
            return self._keep(self._frame(experiment, self.image(id)))
        if experiment.attack == "fast pgd" and experiment.steps != self.steps:
            return None  # a step on the way is not the end of an attack of so many steps
        for whole in (experiment, replace(experiment, ids=self.bases[id, "white-box"].ids)):
            result = self.store.read(whole, noise=True)
            if result is not None:
                return self._take(experiment, result, whole.ids.index(id))
        return None

    def compute(
        self,
        experiment: Experiment,
        observe: Callable,
    ) -> Frame:
        """Attack; keep the whole attack in the store, and steps on the way in memory alone.

        Args:
            experiment: with all steps.
            observe: function of the step and of a function that makes the frame of that step;
                called at each step. An exception that it raises ends the attack.

        Returns:
            The frame of the whole attack.
        """

        def watch(step, adv_images, _):
            def make():
                return self._frame(replace(experiment, steps=step), adv_images[0, 0].cpu().numpy())

            observe(step, make)
            if step in self.counts[1:-1]:
                self._keep(make())

        (result,) = compute_results(
            [experiment],
            self.images,
            self.truth,
            structures=self.dataset.structures,
            networks=self.networks,
            observe=watch,
        )
        self.store.write(experiment, result, noise=True)
        return self._take(experiment, result, 0)

    def predict(self, id: str, image: np.ndarray) -> np.ndarray:
        """Label map, uint8 (H, W), that a case's network sees in an image, float32 (H, W)."""
        batch = torch.from_numpy(image)[None, None].to(self.device)
        network = self.networks[self.bases[id, "white-box"].attacked]
        return predict(network, batch)[0].cpu().numpy().astype(np.uint8)

    def calipers(self, id: str, prediction: np.ndarray | None = None) -> dict:
        """Widths of heart and thorax and their ratio, see `ratio.calipers`.

        Args:
            id: the case.
            prediction: uint8 (H, W), of its image or one that was attacked; default that without
                noise.
        """
        seen = self.predict(id, self.image(id)) if prediction is None else prediction
        maps = torch.from_numpy(seen)[None].masked_fill(self.truth[id].cpu() == OUTSIDE, 0)
        return calipers(maps, self.dataset.structures).iloc[0].to_dict()

    def clear(self) -> None:
        """Forget what is kept in memory."""
        self.goal.cache_clear()
        with self.lock:
            self.memory.clear()

    def _goal(self, id, goal):
        labels = goal.labels(self.truth[id][None], None, self.dataset.structures, [id])
        return labels[0].cpu().numpy().astype(np.int16)

    def _frame(self, experiment, adv_image):
        """The frame of an attacked image (H, W) of the one case."""
        (id,) = experiment.ids
        prediction = self.predict(id, adv_image)
        labels = np.stack([self.goal(id, experiment.goal), self.truth[id].cpu()])
        seen = torch.from_numpy(prediction).expand(labels.shape)
        scores = iou(seen, torch.from_numpy(labels), classes=self.dataset.classes).numpy()
        noise = adv_image - self.image(id)
        return Frame(experiment, adv_image, noise, prediction, self._table(scores))

    def _table(self, scores):
        """The IoU of a frame, from that with the target and that with the truth."""
        columns = ["target", "truth"]
        return pd.DataFrame(np.transpose(scores), self.dataset.structures, columns)

    def _take(self, experiment, result, k):
        """The frame of the k-th case of a result.

        Noise is made in strides of ε / 20, and stored in coarser steps of linf / 127: what is
        near a whole number of strides is moved there.
        """
        noise = result.noise[k, 0] * np.float32(result.linf[k] / 127)
        stride = np.float32(experiment.epsilon / 20)
        whole = (noise / stride).round() * stride
        noise = np.where(np.abs(whole - noise) <= result.linf[k] / 200, whole, noise)
        adv_image = (self.image(experiment.ids[0]) + noise).clip(-1, 1)
        scores = self._table([result.iou["target"][k], result.iou["truth"][k]])
        frame = Frame(
            experiment, adv_image, noise, result.predictions[k], scores, result.warnings[k]
        )
        return self._keep(frame)

    def _keep(self, frame):
        """Keep a frame in memory, and forget the oldest one there if there are too many."""
        with self.lock:
            self.memory[frame.experiment] = frame
            if len(self.memory) > MEMORY // (9 * frame.noise.size):
                del self.memory[next(iter(self.memory))]
        return frame
