"""The ε slider: drag, and watch what noise makes of a segmentation."""

import base64
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock, RLock, Timer
from types import SimpleNamespace
from typing import Any

import ipywidgets as widgets

from helpers.common.arguments import require, require_choice, whole_number
from helpers.common.paths import EXPERIMENTS, RUNS
from helpers.data import Dataset
from helpers.explorer import export
from helpers.explorer.attack_cache import AttackCache, Frame
from helpers.explorer.controls import GOALS, arrange, make_controls
from helpers.explorer.job import Job, guarded
from helpers.explorer.view import View
from helpers.ratio import HEART, other_side
from helpers.shapes import PATH_DATA, PNG_TEXT, png_text, read_shape
from helpers.sweep import Experiment, Goal
from helpers.targets import LARGE, SMALL
from helpers.weights import Trained

AGAIN = 3.0  # seconds after which a result is sent once more
MOST_TEXT = 10_000  # characters of SVG path data
OPTIONS = {
    "store": EXPERIMENTS,
    "attack": "pgd",
    "steps": 100,
    "structure": None,
    "goal": "small symbol",
    "small": SMALL,
    "large": LARGE,
    "aim": 0.1,
    "factors": (0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8),
    "which": "test",
    "also": (),
    "device": "cpu",
    "folder": RUNS / "explorer",
    "seed": 0,
    "precision": "auto",
}


def explore(
    dataset: Dataset,
    target: Trained,
    surrogate: Trained | None = None,
    *,
    epsilons: Iterable[float],
    **options: Any,
) -> "Explorer":
    """The explorer as one widget: end a notebook's cell with it.

    What the store has is shown at once. What it lacks is computed in the background, shown as it
    grows, and kept there. `close` stops its attack and frees its memory.

    Args:
        dataset: the one that holds the cases.
        target: the network that is attacked.
        surrogate: the one that black-box noise is made with; None leaves these attacks out.
        epsilons: the noise levels of the slider [units of the images]; 0 is added.
        **options: in place of those of OPTIONS:
            store: folder of a `sweep.Store`, such as that of `sweep.run(…, noise=True)`.
            attack, steps: "pgd" or "fast pgd", and its gradient steps.
            structure: the one that is replaced at first; None is the dataset's first.
            goal: one of `controls.GOALS`, at first.
            small, large: area of the symbols / area of the structure.
            aim: how far beyond .5 the cardiothoracic ratio of the goal "ratio" is.
            factors: new / old length of resized structures, area of one's own shapes; 1 is added.
            which: name of a split, or ids: the cases. The first with the structure is shown.
            also: `study.Study`s whose test cases are offered too, with their own networks, if they
                have the same structures.
            device: "cpu", "cuda" or "auto".
            folder: where files are saved.
            seed, precision: of the `Experiment`.

    Raises:
        ValueError: an option has another name, or a value that cannot be used.
    """
    for name in options:
        require_choice("option", name, OPTIONS)
    settings = SimpleNamespace(**OPTIONS | options)
    levels = _numbers("epsilons", epsilons, 0.0)
    usable = len(levels) > 1 and all(0 <= level <= 2 for level in levels)
    require(usable, "epsilons", levels, "give noise levels above 0 and up to 2")
    settings.levels = levels
    settings.factors = _numbers("factors", settings.factors, 1.0)
    settings.structure = settings.structure or dataset.structures[0]
    dataset.class_of(settings.structure)
    require_choice("goal", settings.goal, GOALS)
    require_choice("attack", settings.attack, ("pgd", "fast pgd"))
    settings.steps = whole_number("steps", settings.steps)
    return Explorer(AttackCache(dataset, target, surrogate, settings), settings)


def _numbers(name, values, also):
    try:
        return sorted({also, *map(float, values)})
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {values!r}; give a list of numbers, as [0.5, 1]") from None


class Explorer(widgets.VBox):
    """The widget that `explore` returns.

    Attributes:
        controls: the widgets to set, by name.
        view: the widgets that show.
        job: what attacks now, or None.
        shown: the frame in the pictures.
        wanted: the experiment that the controls ask for; None if they ask for what cannot be.
        error: the last error, or "".
        shape: the user's own, for a `Goal`; "" until there is one.
    """

    closed = False
    job: Job | None = None
    shown: Any = None
    wanted: Experiment | None = None
    error = ""
    shape = ""

    def __init__(self, cache: AttackCache, settings: SimpleNamespace) -> None:
        self.cache = cache
        self.settings = settings
        self.lock = RLock()  # of all that changes below
        self.turn = Lock()  # of the job that may attack
        self.timer = Timer(AGAIN, self._send_again)
        self.controls = make_controls(cache, settings)
        self.view = View(cache, self.controls)
        super().__init__(arrange(self.controls, self.view))
        self.add_class("attack-explorer")
        self._listen()
        self._changed()

    def _listen(self):
        c = self.controls
        for control in (c.case, c.attacker, c.goal, c.structure, c.factor, c.epsilon, c.step):
            control.observe(self._changed, "value")
        for control in (c.window, c.gain):
            control.observe(self._redraw, "value")
        c.path.observe(self._paste, "value")
        c.upload.observe(self._load, "value")
        c.cancel.on_click(self._cancel)
        for kind in export.FILES:
            getattr(c, f"save_{kind}").on_click(partial(self._save, kind))

    # what to show

    @guarded
    def _changed(self, _=None):
        """Show what the controls ask for, or the nearest and compute."""
        c = self.controls
        kind = c.goal.value
        own = kind == "own shape"
        self.timer.cancel()
        c.structure.disabled = kind in ("untargeted", "ratio")
        c.factor.disabled = not own and kind != "resize"
        c.factor.description = "Area ×" if own else "Length ×"
        c.own.layout.display = "" if own else "none"
        self.wanted = None
        self.error = ""
        wanted = self._asked(c.epsilon.value, c.step.value)
        self._show(self._nearest())  # an error says what is wrong with the goal
        self.wanted = wanted
        if self.shown.experiment == wanted:
            self._say("computing another …" if self.job else "")
            return
        whole = replace(wanted, steps=self.cache.steps)
        if self.job is None or self.job.attack != whole:
            self.job = Job(self, whole)
            self._say(f"computing… step 0/{whole.steps}; shown is the nearest that is at hand")
            self.job.start()

    def _asked(self, epsilon, steps):
        """The experiment that the controls ask for, but for noise level and steps."""
        c = self.controls
        return self.cache.experiment(c.case.value, c.attacker.value, self._goal(), epsilon, steps)

    def _goal(self):
        kind = self.controls.goal.value
        structure = self.controls.structure.value
        factor = self.controls.factor.value
        if kind == "untargeted":
            return Goal()
        if kind == "ratio":
            ratio = self.cache.calipers(self.controls.case.value)["ratio"]
            return Goal("ratio", HEART, other_side(ratio, margin=self.settings.aim))
        if kind == "resize":
            return Goal("resize", structure, factor)
        if kind == "own shape":
            advice = "load a PNG or paste SVG path data"
            require(self.shape, "own shape", self.shape, advice)
            return Goal("shape", structure, factor, self.shape)
        return Goal("shape", structure, getattr(self.settings, kind.split()[0]))

    def _nearest(self):
        """The frame at hand whose noise level is nearest to the one that is asked for."""
        c = self.controls
        levels = sorted(self.settings.levels, key=lambda level: abs(level - c.epsilon.value))
        found = (self.cache.find(self._asked(level, c.step.value)) for level in levels)
        return next(filter(None, found))  # that without noise is always at hand

    def _show(self, frame):
        self.shown = frame
        self._redraw()

    @guarded
    def _redraw(self, _=None):
        if self.shown:
            self.view.show(self.shown)

    def _say(self, text):
        """Say what is going on; without a text, what speaks against the attack that is shown."""
        warnings = self.shown.warnings if self.shown else ""
        self.view.say(text or warnings or "ready", self.error)
        self.controls.cancel.disabled = self.job is None

    # computing

    @guarded
    def on_step(self, job: Job, step: int, frame: Frame) -> None:
        """A job has come to a step of its attack."""
        if job is not self.job:
            return
        attack = job.attack
        steps = self.cache.steps
        if self.wanted and replace(self.wanted, steps=steps) == attack:
            self._show(self.cache.find(self.wanted) or frame)
        self._say(f"computing… step {step}/{steps} at ε = {attack.epsilon:g}")

    @guarded
    def on_end(self, job: Job, error: Exception | None) -> None:
        """A job has ended."""
        if job is not self.job:
            return
        self.job = None
        self.timer = Timer(AGAIN, self._send_again)
        self.timer.daemon = True
        self.timer.start()
        if error:
            raise error
        self._say("")

    @guarded
    def _send_again(self):
        """Send what is shown once more: a page that was just connecting has missed it."""
        for widget in (*self.view.widgets, self.controls.cancel):
            widget.send_state()

    def wait(self, seconds: float = 60) -> bool:
        """Block until nothing is computed; returns False on time-out."""
        job = self.job
        if job:
            job.join(seconds)
        with self.lock:  # what shows the end has run
            return self.job is None

    @guarded
    def _cancel(self, _):
        self.job = None
        self._show(self._nearest())
        self._say("cancelled; move a control to go on")

    # a shape of the user's own

    @guarded
    def _paste(self, change):
        text = change["new"].strip()
        if not text:
            return
        advice = 'paste what stands in d="…" of a <path>, such as M0 0 H9 V9 Z'
        usable = len(text) <= MOST_TEXT and re.fullmatch(PATH_DATA, text)
        require(usable, "SVG path data", text[:80], advice)
        read_shape(text)
        self.shape = text
        self._changed()

    @guarded
    def _load(self, change):
        for file in change["new"]:
            text = PNG_TEXT + base64.b64encode(file["content"]).decode()
            self.shape = png_text(read_shape(text))
            self.controls.path.value = ""  # the same text pasted once more is a change again
            self._changed()
        if change["new"]:
            self.controls.upload.value = ()  # and so is the same file

    # as files, and as a widget

    @guarded
    def _save(self, kind, _):
        require(self.shown, "picture", None, "choose another goal or structure")
        folder = Path(self.settings.folder).expanduser()
        self.view.saved.value = export.save(kind, self.shown, self.cache, folder)
        self.error = ""

    def _repr_mimebundle_(self, **options):
        """The widget, and a picture and a line of text for where no widget can be."""
        bundle = super()._repr_mimebundle_(**options)
        with self.lock:
            if self.shown:
                picture = self.view.still(self.shown)
                bundle["image/png"] = base64.b64encode(picture).decode()
            bundle["text/plain"] = f"Explorer: {self.error or self.view.text}"
        return bundle

    def close(self) -> None:
        """Stop what is computed, and free what is kept in memory.

        An attack that runs ends at its next step, and is not waited for.
        """
        with self.lock:
            self.timer.cancel()
            self.closed = True
            self.job = None
            self.shown = None
        self.cache.clear()
        for widget in _inside(self):
            widget.close()
        super().close()


def _inside(box):
    for child in getattr(box, "children", ()):
        yield child
        yield from _inside(child)
