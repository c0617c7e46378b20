"""Attacks on one case at a time: taken from a store, or computed with partial results on the way."""

from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import product
from threading import Lock

import numpy as np
import torch

from helpers.evaluation import iou
from helpers.network import find_device, predict
from helpers.sweep import Experiment, Store, check_experiment, white_box
from helpers.sweep.compute import follow, quantise

MEMORY = 128 * 2**20  # of frames that are kept at hand [bytes]


@dataclass(frozen=True, eq=False)
class Frame:
    """One attack on one case.

    Attributes:
        cell: the Cell, of that case alone.
        noise: int8 (H, W) in steps of linf / 127.
        linf: largest noise [units of the images].
        prediction: uint8 (H, W), label map that the attacked network sees.
        iou: {"target", "truth"} → float32 (S,), IoU × 100 of each structure.
        warnings: text; what speaks against trusting the attack.
    """

    cell: Experiment
    noise: np.ndarray
    linf: float
    prediction: np.ndarray
    iou: dict
    warnings: str = ""

    @property
    def values(self):
        """Noise, float32 (H, W) [units of the images]."""
        return self.noise * np.float32(self.linf / 127)


class AttackCache:
    """Where frames come from: memory, a store, or an attack that is run.

    Args:
        dataset: a `data.Dataset`.
        attacked: the `training.Trained` that is attacked.
        surrogate: the one that black-box noise is made with, or None.
        store: folder of a `store.Store`.
        which: name of a split, or ids: the cases; also of cells that hold them all.
        steps: of an attack, of which fewer steps are a part.
        device: "cpu", "cuda" or "auto".
        **options: of the `cells.Cell`, such as seed or precision.
    """

    def __init__(
        self,
        dataset,
        attacked,
        surrogate=None,
        *,
        store,
        which="test",
        steps=100,
        device="cpu",
        **options,
    ):
        self.dataset, self.steps, self.device = dataset, steps, find_device(device)
        images, truth = (part.to(self.device) for part in dataset.take(which))
        self.ids = tuple(dataset.split[which] if isinstance(which, str) else which)
        self.images, self.truth = (
            dict(zip(self.ids, part, strict=True)) for part in (images, truth)
        )
        base = white_box(dataset, attacked, which=self.ids, device=device, steps=steps, **options)
        self.bases, self.networks = (
            {"white-box": base},
            {attacked.digest: attacked.network.to(self.device)},
        )
        if surrogate is not None:
            self.bases["black-box"] = replace(base, crafted_on=surrogate.digest)
            self.networks[surrogate.digest] = surrogate.network.to(self.device)
        self.store, self.lock, self.computed = Store(store), Lock(), 0
        self.memory, self.goals, self.clean = OrderedDict(), {}, {}

    def cell(self, id, attacker, goal, epsilon, steps):
        """The Cell of one case; without noise or steps that of no attack."""
        cell = replace(
            self.bases[attacker],
            ids=(id,),
            goal=goal,
            epsilon=float(epsilon),
            steps=steps or self.steps,
        )
        check_experiment(cell, structures=self.dataset.structures, weights=self.networks)
        return (
            cell
            if epsilon and steps
            else replace(cell, attack="no attack", epsilon=0.0, steps=self.steps)
        )

    def image(self, id):
        """float32 (H, W), not attacked."""
        return self.images[id][0].cpu().numpy()

    def attacked(self, frame):
        """The attacked image, float32 (H, W): exact but where noise met the ends of the range, there up to ε / 112 off.

        Noise is made in strides of ε / 20, so what the store rounded is moved to the stride that it comes from.
        """
        noise, stride = frame.values, np.float32(frame.cell.epsilon / 20)
        if frame.cell.attack == "pgd" and stride:
            whole = (noise / stride).round() * stride
            noise = np.where(np.abs(whole - noise) <= frame.linf / 200, whole, noise)
        return (self.image(frame.cell.ids[0]) + noise).clip(-1, 1)

    def goal(self, cell):
        """Label map (H, W) that a cell is to reach or (untargeted) to get away from."""
        key = cell.ids, cell.goal
        if key not in self.goals:
            truth = self.truth[cell.ids[0]][None]
            clean = torch.from_numpy(self._clean(cell.ids[0]))[None].to(truth)
            labels = cell.goal.labels(truth, clean, self.dataset.structures, cell.ids)
            with self.lock:
                self.goals[key] = labels[0].cpu().numpy().astype(np.uint8)
                if len(self.goals) > 64:
                    del self.goals[next(iter(self.goals))]
        return self.goals[key]

    def find(self, cell):
        """The Frame of a cell, if it takes no attack to get it; otherwise None."""
        with self.lock:
            if cell in self.memory:
                self.memory.move_to_end(cell)
                return self.memory[cell]
        if cell.attack == "no attack":
            clean = self._clean(cell.ids[0])
            return self._keep(
                cell, np.zeros(clean.shape, np.int8), 0.0, clean, self._scores(cell, clean), ""
            )
        for whole in dict.fromkeys([cell, replace(cell, ids=self.ids)]):
            outcome = self.store.read(whole, noise=True)
            if outcome is not None:
                frames = {
                    id: self._take(replace(cell, ids=(id,)), outcome, k)
                    for k, id in enumerate(whole.ids)
                }
                return frames[cell.ids[0]]
        return None

    def nearest(self, cell, epsilons, steps):
        """The Frame at hand that is most like a cell: of another noise level, else of another step, else no attack."""
        levels = sorted(filter(None, epsilons), key=lambda epsilon: abs(epsilon - cell.epsilon))
        counts = sorted(filter(None, steps), key=lambda count: abs(count - cell.steps))
        for count, epsilon in product(counts[:1], levels):
            if (frame := self.find(replace(cell, epsilon=epsilon, steps=count))) is not None:
                return frame
        for count in counts[1:]:
            if (frame := self.find(replace(cell, steps=count))) is not None:
                return frame
        return self.find(replace(cell, attack="no attack", epsilon=0.0, steps=self.steps))

    def compute(self, cell, steps, observe=None):
        """Attack, and keep what it comes to after each number of steps.

        Args:
            cell: a Cell, with all steps.
            steps: numbers of steps that are kept besides.
            observe: function of the step and a function that returns the Frame at that step; called at each step. An
                exception that it raises ends the attack.

        Yields:
            Frame, that of the whole attack first.
        """
        id, watch = cell.ids[0], None
        if observe:
            watch = lambda step, adv, logits: observe(
                step, lambda: self._partial(cell, step, adv, logits)
            )  # noqa: E731
        self.computed += 1
        for part, outcome in follow(
            cell,
            steps,
            {id: self.images[id]},
            {id: self.truth[id]},
            observe=watch,
            structures=self.dataset.structures,
            networks=self.networks,
        ):
            frame = self._take(part, outcome, 0)
            self.store.write(part, outcome, noise=True)
            yield frame

    def predict(self, image):
        """Label map uint8 (H, W) that the attacked network sees in an image, float32 (H, W)."""
        batch = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None].to(
            self.device
        )
        return (
            predict(self.networks[self.bases["white-box"].attacked], batch)[0]
            .cpu()
            .numpy()
            .astype(np.uint8)
        )

    def clear(self):
        """Forget what is kept in memory."""
        with self.lock:
            for kept in (self.memory, self.goals, self.clean):
                kept.clear()

    def _clean(self, id):
        if id not in self.clean:
            self.clean[id] = self.predict(self.image(id))
        return self.clean[id]

    def _scores(self, cell, prediction):
        classes, maps = self.dataset.classes, torch.from_numpy(prediction.astype(np.int64))[None]
        labels = {
            "target": torch.from_numpy(self.goal(cell).astype(np.int64)),
            "truth": self.truth[cell.ids[0]].cpu(),
        }
        return {
            name: iou(maps, each[None], classes=classes)[0].numpy() for name, each in labels.items()
        }

    def _partial(self, cell, step, adv_images, logits):
        noise, linf = (
            part[0].cpu().numpy() for part in quantise(adv_images - self.images[cell.ids[0]])
        )
        prediction = logits[0].argmax(dim=0).cpu().numpy().astype(np.uint8)
        cell = replace(cell, steps=step) if step else replace(cell, attack="no attack")
        return Frame(cell, noise[0], float(linf), prediction, self._scores(cell, prediction))

    def _take(self, cell, outcome, k):
        """The Frame of the k-th case of an outcome."""
        scores = {name: values[k] for name, values in outcome.iou.items()}
        return self._keep(
            cell,
            outcome.noise[k, 0],
            float(outcome.linf[k]),
            outcome.predictions[k],
            scores,
            outcome.warnings[k],
        )

    def _keep(self, cell, *parts):
        frame = Frame(cell, *parts)
        with self.lock:
            self.memory[cell] = frame
            while len(self.memory) > max(32, MEMORY // (2 * frame.noise.size)):
                self.memory.popitem(last=False)
        return frame
