"""What the explorer shows of a frame: two pictures, IoU and a line of text."""

import html
from collections.abc import Sequence
from types import SimpleNamespace

import ipywidgets as widgets
import numpy as np
import pandas as pd
from PIL import Image

from helpers.explorer import drawing
from helpers.explorer.attack_cache import AttackCache, Frame
from helpers.explorer.drawing import SIDE, score_text


class View:
    """The widgets that show.

    Args:
        cache: where the frames come from.
        controls: say how a frame is shown.
        smallest: the lowest noise level, for the colours where there is no noise.

    Attributes:
        text: what is shown, in words.
        widgets: all that change.
        columns: the pictures with their captions.
    """

    def __init__(self, cache: AttackCache, controls: SimpleNamespace, smallest: float) -> None:
        layout = {"width": f"{SIDE}px", "max_width": "100%"}
        self.cache = cache
        self.smallest = smallest
        self.text = ""
        self.controls = controls
        pictures = [widgets.Image(layout=layout) for _ in range(2)]
        self.captions = [widgets.HTML(layout=layout) for _ in range(2)]
        texts = [widgets.HTML() for _ in range(4)]
        self.radiograph, self.noise = pictures
        self.heading, self.bars, self.message, self.saved = texts
        self.widgets = [*pictures, *self.captions, *texts]
        columns = zip(pictures, self.captions, strict=True)
        self.columns = [widgets.VBox(each, layout={"margin": "0 8px 0 0"}) for each in columns]

    def say(self, text: str, *, alarm: bool) -> None:
        """Show a line of text, in another colour if it is an error."""
        colour = "var(--jp-error-color1, #B00020)" if alarm else "inherit"
        about = f'role="status" aria-live="polite" style="color: {colour}"'
        self.message.value = f"<span {about}>{html.escape(text)}</span>"

    def show(self, frame: Frame, corners: Sequence[tuple[float, float]]) -> None:
        """Show a frame, and the corners of a polygon that is being drawn."""
        pictures = self._pictures(frame, corners)
        self.radiograph.value, self.noise.value = map(drawing.png, pictures)
        for widget, caption in zip(self.captions, self._captions(frame), strict=True):
            widget.value = html.escape(caption)
        self.bars.value = score_table(frame, self.cache.dataset.structures)
        self.text = self._words(frame)
        self.heading.value = f"<b>{html.escape(self.text)}</b>"

    def picture(self, frame: Frame) -> Image.Image:
        """The frame as one picture."""
        return drawing.sheet(
            self._pictures(frame, ()),
            self._words(frame),
            self._captions(frame),
            dict(zip(self.cache.dataset.structures, frame.iou["target"], strict=True)),
            foot=f"bars: IoU × 100 of prediction and {frame.reference}",
        )

    def _pictures(self, frame, corners):
        data = self.cache.dataset
        (id,) = frame.experiment.ids
        goal = frame.experiment.goal
        radiograph = drawing.radiograph(
            self.cache.attacked(frame),
            frame.prediction,
            self.cache.goal(id, goal),
            classes=data.classes,
            reference_classes=[data.class_of(goal.structure)] if goal.structure else data.classes,
            window=(self.controls.centre.value, self.controls.width.value),
            corners=corners,
        )
        return radiograph, drawing.noise_map(frame.noise, limit=self._limit(frame))

    def _limit(self, frame):
        """Noise of the darkest colour."""
        return (frame.experiment.epsilon or self.smallest) / self.controls.gain.value

    def _captions(self, frame):
        limit = f"{self._limit(frame):.3g}"
        return (
            f"Attacked image; numbered outlines: prediction, dashed: {frame.reference}",
            f"Noise × {self.controls.gain.value:g}: blue −{limit}, white 0, red +{limit}",
        )

    def _words(self, frame):
        experiment = frame.experiment
        (what,) = experiment.ids
        if experiment.epsilon:
            what += f", ε = {experiment.epsilon:g}, {self.cache.attacker(experiment)}"
            what += f", step {experiment.steps}"
        else:
            what += ", no attack"
        structure = experiment.goal.structure
        if not structure:
            return f"{what}: mean IoU with the truth {score_text(np.nanmean(frame.iou['truth']))}"
        k = self.cache.dataset.class_of(structure) - 1
        target, truth = (score_text(frame.iou[name][k]) for name in ("target", "truth"))
        return f"{what}: IoU of the {structure} with its target {target}, with the truth {truth}"


def score_table(frame: Frame, structures: Sequence[str]) -> str:
    """HTML table: IoU of each structure with target and truth, as bars and numbers."""
    names = [f"{number} {name}" for number, name in enumerate(structures, start=1)]
    table = pd.DataFrame(frame.iou, index=names).add_prefix("IoU × 100 with the ")
    if frame.reference == "truth":
        table = table.iloc[:, 1:]
    style = table.style.format("{:.1f}", na_rep="none").format_index(escape="html")
    for number, name in enumerate(names, start=1):
        row = pd.IndexSlice[[name], :]
        style.bar(subset=row, color=drawing.colour_of(number), vmin=0, vmax=100, width=80)
    return style.set_properties(**{"width": "18em", "text-align": "right"}).to_html()
