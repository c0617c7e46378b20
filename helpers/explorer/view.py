"""What the explorer shows of a frame: two pictures, IoU and a line of text."""

import html
from collections.abc import Sequence
from types import SimpleNamespace

import ipywidgets as widgets
import pandas as pd
from PIL import Image

from helpers.explorer import drawing
from helpers.explorer.attack_cache import AttackCache, Frame
from helpers.explorer.drawing import SIDE, score_text
from helpers.ratio import caliper_lines, diagnosis


class View:
    """The widgets that show.

    Args:
        cache: where the frames come from.
        controls: say how a frame is shown.

    Attributes:
        text: what is shown, in words.
        widgets: all that change.
    """

    def __init__(self, cache: AttackCache, controls: SimpleNamespace) -> None:
        self.cache = cache
        self.controls = controls
        self.text = ""
        layout = {"flex": "1 1 280px", "max_width": f"{SIDE}px", "margin": "0 8px 0 0"}
        pictures = [widgets.Image(layout=layout) for _ in range(2)]
        texts = [widgets.HTML() for _ in range(5)]
        self.radiograph, self.noise = pictures
        self.message, self.heading, self.caption, self.bars, self.saved = texts
        self.widgets = [*pictures, *texts]

    def say(self, text: str, error: str) -> None:
        """Show an error in its colour; where there is none, a line of text."""
        colour = "var(--jp-error-color1, #B00020)" if error else "inherit"
        about = f'role="status" aria-live="polite" style="color: {colour}"'
        words = f"Error: {error}" if error else text
        self.message.value = f"<span {about}>{html.escape(words)}</span>"

    def show(self, frame: Frame, corners: Sequence[tuple[float, float]]) -> None:
        """Show a frame, and the corners of a polygon that is being drawn."""
        pictures = self._pictures(frame, corners)
        self.radiograph.value, self.noise.value = map(drawing.png, pictures)
        self.caption.value = html.escape("; ".join(self._captions(frame)))
        self.bars.value = score_table(frame)
        self.text = self._words(frame)
        self.heading.value = f"<b>{html.escape(self.text)}</b>"

    def picture(self, frame: Frame) -> Image.Image:
        """The frame as one picture."""
        return drawing.sheet(
            self._pictures(frame, ()),
            self._words(frame),
            self._captions(frame),
            frame.iou["target"],
            foot=f"bars: IoU × 100 of prediction and {frame.reference}",
        )

    def _pictures(self, frame, corners):
        (id,) = frame.experiment.ids
        goal = frame.experiment.goal
        classes = self.cache.dataset.classes
        own = goal.kind == "ratio" and self.cache.calipers(id, frame.prediction)
        if goal.structure:
            classes = [self.cache.dataset.class_of(goal.structure)]
        radiograph = drawing.radiograph(
            frame.adv_image,
            frame.prediction,
            self.cache.goal(id, goal),
            classes=classes,
            window=(self.controls.centre.value, self.controls.width.value),
            corners=corners,
            widths=caliper_lines(own, len(frame.noise) / 40) if own else (),
        )
        return radiograph, drawing.noise_map(frame.noise, limit=self._limit(frame))

    def _limit(self, frame):
        """Noise of the darkest colour."""
        return (frame.experiment.epsilon or 1.0) / self.controls.gain.value

    def _captions(self, frame):
        limit = f"{self._limit(frame):.3g}"
        return (
            f"Attacked image; numbered outlines: prediction, dashed: {frame.reference}",
            f"Noise × {self.controls.gain.value:g}: blue −{limit}, white 0, red +{limit}",
        )

    def _words(self, frame):
        experiment = frame.experiment
        (id,) = experiment.ids
        what = f"{id}, no attack"
        if experiment.epsilon:
            level = f"ε = {experiment.epsilon:g}"
            what = f"{id}, {level}, {frame.attacker}, step {experiment.steps}"
        structure = experiment.goal.structure
        if not structure:
            return f"{what}: mean IoU with the truth {score_text(frame.iou['truth'].mean())}"
        if experiment.goal.kind == "ratio":
            ratio = self.cache.calipers(id, frame.prediction)["ratio"]
            return f"{what}: cardiothoracic ratio {ratio:.3f}, {diagnosis(ratio)}"
        target, truth = map(score_text, frame.iou.loc[structure])
        return f"{what}: IoU of the {structure} with its target {target}, with the truth {truth}"


def score_table(frame: Frame) -> str:
    """HTML table: IoU of each structure with target and truth, as bars and numbers."""
    table = frame.iou.add_prefix("IoU × 100 with the ")
    table.index = drawing.numbered(table.index)
    if frame.reference == "truth":
        table = table.iloc[:, 1:]
    style = table.style.format("{:.1f}", na_rep="none").format_index(escape="html")
    for number, name in enumerate(table.index, start=1):
        row = pd.IndexSlice[[name], :]
        style.bar(subset=row, color=drawing.colour_of(number), vmin=0, vmax=100, width=80)
    return style.set_properties(**{"width": "18em", "text-align": "right"}).to_html()
