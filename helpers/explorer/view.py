"""What the explorer shows of a frame: a picture, IoU and a line of text."""

import html
from types import SimpleNamespace

import ipywidgets as widgets

from helpers.explorer import drawing
from helpers.explorer.attack_cache import AttackCache, Frame
from helpers.explorer.drawing import score_text
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
        self.picture = widgets.Image(layout={"max_width": "100%"})
        texts = [widgets.HTML() for _ in range(4)]
        self.message, self.heading, self.bars, self.saved = texts
        self.widgets = [self.picture, *texts]

    def say(self, text: str, error: str) -> None:
        """Show an error in its colour; where there is none, a line of text."""
        colour = "var(--jp-error-color1, #B00020)" if error else "inherit"
        about = f'role="status" aria-live="polite" style="color: {colour}"'
        words = f"Error: {error}" if error else text
        self.message.value = f"<span {about}>{html.escape(words)}</span>"

    def show(self, frame: Frame) -> None:
        """Show a frame."""
        self.text = self._words(frame)
        self.picture.value = drawing.png(self._draw(frame))
        self.bars.value = self._score_table(frame)
        self.heading.value = f"<b>{html.escape(self.text)}</b>"

    def still(self, frame: Frame) -> bytes:
        """The picture of a frame with its words, as PNG."""
        figure = self._draw(frame)
        figure.suptitle(self._words(frame), y=1.05, fontsize=10)
        return drawing.small_png(figure)

    def _draw(self, frame):
        (id,) = frame.experiment.ids
        goal = frame.experiment.goal
        gain = self.controls.gain.value
        data = self.cache.dataset
        lines = []
        if goal.kind == "ratio":
            own = self.cache.calipers(id, frame.prediction)
            lines = caliper_lines(own, len(frame.noise) / 40)
        limit = (frame.experiment.epsilon or 1.0) / gain
        figure = drawing.draw(
            frame.adv_image,
            frame.noise,
            frame.prediction,
            self.cache.goal(id, goal),
            classes=[data.class_of(goal.structure)] if goal.structure else data.classes,
            limit=limit,
            window=self.controls.window.value,
            lines=lines,
        )
        left, right = figure.axes
        outlines = f"numbered outlines: prediction, dashed: {frame.reference}"
        left.set_title(f"Attacked image; {outlines}", fontsize=9)
        colours = f"blue −{limit:.3g}, white 0, red +{limit:.3g}"
        title = f"Noise × {gain:g}: {colours}" if frame.experiment.epsilon else "No noise"
        right.set_title(title, fontsize=9)
        return figure

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

    def _score_table(self, frame):
        """HTML table: IoU of each structure with target and truth, as bars and numbers."""
        table = frame.iou.add_prefix("IoU × 100 with the ")
        table.index = [f"{number} {name}" for number, name in enumerate(table.index, start=1)]
        if frame.reference == "truth":
            table = table.iloc[:, 1:]
        style = table.style.format("{:.1f}", na_rep="none").format_index(escape="html")
        return style.bar(color="#56B4E9", vmin=0, vmax=100, width=80).to_html()
