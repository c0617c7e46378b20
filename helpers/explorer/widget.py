"""The ε slider and its friends: drag, and watch what noise makes of a segmentation.

``python -m helpers.explorer`` draws figures/explorer.gif.
"""

import base64
import html
import importlib.util
import io
import json
import re
import time
import weakref
from dataclasses import replace
from functools import wraps
from pathlib import Path
from threading import Event, RLock, Thread, current_thread
from types import SimpleNamespace

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from ipyevents import Event as Listener
from PIL import Image

from helpers import plots
from helpers.common.files import atomic_write
from helpers.common.paths import EXPERIMENTS, FIGURES, RUNS
from helpers.common.provenance import provenance, versions
from helpers.data import load
from helpers.explorer import drawing
from helpers.explorer.attack_cache import AttackCache
from helpers.plots import COLOURS
from helpers.shapes import PATH_DATA, PNG_TEXT, png_text, read_shape
from helpers.sweep import Goal
from helpers.targets import LARGE, SMALL
from helpers.training import train

GOALS = ("untargeted", "small symbol", "large symbol", "resize", "own shape")
FACTORS = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8)
EVERY = 0.3  # seconds between partial frames
AGAIN = 3  # seconds after which a result is sent once more
MOST_TEXT, MOST_BYTES = 10_000, 8_000_000  # characters of SVG path data, bytes of a PNG


def explore(
    dataset,
    target,
    surrogate=None,
    *,
    epsilons,
    store=EXPERIMENTS,
    steps=100,
    structure=None,
    goal="small symbol",
    small=SMALL,
    large=LARGE,
    factors=FACTORS,
    which="test",
    device="cpu",
    folder=RUNS / "explorer",
    **options,
):
    """The explorer as one widget: end a notebook's cell with it. `close` stops its attack and frees its memory.

    What the store has is shown at once. What it lacks is computed in the background, shown as it grows, and kept there.

    Args:
        dataset: a `data.Dataset`.
        target: the `training.Trained` that is attacked.
        surrogate: the one that black-box noise is made with; None leaves these attacks out.
        store: folder of a `store.Store`, such as that of `sweep.run(…, noise=True)`.
        epsilons: the noise levels of the slider [units of the images]; 0 is added.
        steps: gradient steps of an attack.
        structure: the one that is replaced at first; default the dataset's first.
        goal: one of GOALS, at first.
        small, large: area of the symbols / area of the structure.
        factors: of resized structures, new length / old length.
        which: name of a split, or ids: the cases.
        device: "cpu", "cuda" or "auto".
        folder: where files are saved.
        **options: of the `cells.Cell`, such as seed.

    Returns:
        Explorer.

    Raises:
        ValueError: no such structure, goal or split, a number out of its range, or a store that cannot be used.
    """
    frames = AttackCache(
        dataset, target, surrogate, store=store, which=which, steps=steps, device=device, **options
    )
    if goal not in GOALS:
        raise ValueError(f"goal {goal!r} is unknown; choose one of {', '.join(GOALS)}")
    structure = dataset.structures[dataset.class_of(structure or dataset.structures[0]) - 1]
    levels = sorted({0.0, *map(float, epsilons)})
    if len(levels) < 2 or not (levels[0] >= 0 and levels[-1] <= 2):
        raise ValueError(f"epsilons are {list(epsilons)}; give noise levels above 0 and up to 2")
    source = provenance(
        dataset,
        [each for each in (target, surrogate) if each is not None],
        steps=steps,
        seed=frames.bases["white-box"].seed,
    )
    sizes = {"small symbol": float(small), "large symbol": float(large)}
    return Explorer(
        frames, levels, structure, goal, sizes, sorted(map(float, factors)), source, Path(folder)
    )


def step_grid(steps):
    """The numbers of steps on the slider: 0, each of the first, then about every tenth part, and all."""
    return sorted(
        {0, 1, 2, 3, 5, 7, *range(10, steps, max(10, -(-steps // 100) * 10)), steps}
        & set(range(steps + 1))
    )


def _guarded(method):
    """A callback whose error is shown in the widget: nobody sees it elsewhere."""

    @wraps(method)
    def call(self, *args):
        try:
            with self.lock:
                if not self.closed:
                    return method(self, *args)
        except Exception as error:
            self.say_error(error)

    return call


class Explorer(widgets.VBox):
    """The widget that `explore` returns.

    Attributes:
        controls: the widgets to set, by name.
        shown: the Frame in the picture.
        wanted: the Cell that the controls ask for; None if they ask for what cannot be.
        text: what is shown, in words.
        error: the last error, or "".
    """

    def __init__(self, frames, epsilons, structure, goal, sizes, factors, source, folder):
        self.frames, self.epsilons, self.sizes, self.source, self.folder = (
            frames,
            epsilons,
            sizes,
            source,
            folder,
        )
        self.lock, self.closed, self.job, self.queue = RLock(), False, None, []
        self.shown = self.wanted = None
        self.shape = self.text = self.error = ""
        self.corners = None  # of a polygon that is being drawn [pixels of the picture]
        self.counts = step_grid(frames.steps)
        self.controls = _controls(frames, epsilons, self.counts, structure, goal, factors)
        layout = widgets.Layout(width=f"{drawing.SIDE}px", max_width="100%")
        self.radiograph, self.noise = (widgets.Image(format="png", layout=layout) for _ in range(2))
        self.heading, self.bars, self.message, self.saved = (widgets.HTML() for _ in range(4))
        self.captions = [widgets.HTML(layout=layout) for _ in range(2)]
        super().__init__(_arrange(self))
        self.add_class("attack-explorer")
        self._listen()
        self._changed()

    def _listen(self):
        c = self.controls
        for name in ("case", "attacker", "goal", "structure", "factor", "epsilon", "step"):
            getattr(c, name).observe(self._changed, "value")
        for name in ("centre", "width", "gain"):
            getattr(c, name).observe(self._redraw, "value")
        c.play.observe(self._play, "value")
        c.played.observe(self._choose_played, "value")
        c.path.observe(self._paste, "value")
        c.upload.observe(self._load, "value")
        c.draw.observe(self._draw, "value")
        self.clicks = Listener(source=self.radiograph, watched_events=["click"])
        self.clicks.on_dom_event(self._click)
        for name in ("compute", "cancel", "save_figure", "save_image", "save_dicom"):
            getattr(c, name).on_click(getattr(self, f"_{name}"))

    # what to show

    @_guarded
    def _changed(self, _=None):
        """Show what the controls ask for, or the nearest and compute."""
        c, kind = self.controls, self.controls.goal.value
        c.structure.disabled, c.factor.disabled = (
            kind == "untargeted",
            kind not in ("resize", "own shape"),
        )
        c.own.layout.display = "" if kind == "own shape" else "none"
        self.wanted, self.error = None, ""
        cell = self.frames.cell(
            c.case.value, c.attacker.value, self._goal(), c.epsilon.value, c.step.value
        )
        self.frames.goal(cell)  # says what is wrong with the goal
        self.wanted, frame = cell, self.frames.find(cell)
        if frame is not None:
            self._show(frame)
            self._say("" if self.job is None else "computing others …")
            return
        nearest = self.frames.nearest(cell, self.epsilons, self.counts)
        self._show(nearest)
        if self.job is None or self.job.attack != self._whole(cell):
            self._start(
                [self._whole(cell), *(each for each in self.queue if each != self._whole(cell))]
            )

    def _goal(self):
        kind, structure, factor = (
            getattr(self.controls, name).value for name in ("goal", "structure", "factor")
        )
        if kind == "untargeted":
            return Goal()
        if kind == "resize":
            return Goal("resize", structure, factor)
        if kind in self.sizes:
            return Goal("shape", structure, self.sizes[kind])
        if not self.shape:
            raise ValueError("there is no shape yet: load a PNG or paste SVG path data")
        return Goal("shape", structure, factor, shape=self.shape)

    def _whole(self, cell):
        return replace(cell, steps=self.frames.steps)

    def _show(self, frame):
        self.shown = frame
        self._redraw()

    @_guarded
    def _redraw(self, _=None):
        frame = self.shown
        if frame is None:
            return
        radiograph, noise = self._pictures(frame)
        self.text, captions = self._words(frame), self._captions(frame)
        with self.hold_sync():
            self.radiograph.value, self.noise.value = drawing.png(radiograph), drawing.png(noise)
        self.heading.value = f"<b>{html.escape(self.text)}</b>"
        for widget, caption in zip(self.captions, captions, strict=True):
            widget.value = html.escape(caption)
        self.bars.value = _bars(frame, self.frames.dataset.structures)

    def _pictures(self, frame):
        c, cell, data = self.controls, frame.cell, self.frames.dataset
        reference = (
            data.classes if cell.goal.kind == "untargeted" else [data.class_of(cell.goal.structure)]
        )
        radiograph = drawing.radiograph(
            self.frames.attacked(frame),
            frame.prediction,
            self.frames.goal(cell),
            classes=data.classes,
            reference_classes=reference,
            window=(c.centre.value, c.width.value),
            corners=self.corners or (),
        )
        return radiograph, drawing.noise_map(frame.values, limit=self._limit(frame))

    def _limit(self, frame):
        """Noise of the darkest colour."""
        return (frame.cell.epsilon or self.epsilons[1]) / self.controls.gain.value

    def _captions(self, frame):
        dashed = "truth" if frame.cell.goal.kind == "untargeted" else "target"
        limit = f"{self._limit(frame):.3g}"
        return (
            f"Attacked image; numbered outlines: prediction, dashed: {dashed}",
            f"Noise × {self.controls.gain.value:g}: blue −{limit}, white 0, red +{limit}",
        )

    def _words(self, frame):
        cell, data = frame.cell, self.frames.dataset
        what = (
            f"ε = {cell.epsilon:g}, {self._attacker(cell)}, step {cell.steps}"
            if cell.epsilon
            else "no attack"
        )
        if cell.goal.kind == "untargeted":
            return f"{cell.ids[0]}, {what}: mean IoU with the truth {_number(np.nanmean(frame.iou['truth']))}"
        k = data.class_of(cell.goal.structure) - 1
        score, true = (_number(frame.iou[name][k]) for name in ("target", "truth"))
        return f"{cell.ids[0]}, {what}: IoU of the {cell.goal.structure} with its target {score}, with the truth {true}"

    def _attacker(self, cell):
        return next(
            name for name, base in self.frames.bases.items() if base.crafted_on == cell.crafted_on
        )

    def _say(self, text):
        """Say what is going on."""
        colour = "var(--jp-error-color1, #B00020)" if self.error else "inherit"
        text = f"Error: {self.error}" if self.error else text
        doubts = self.shown.warnings if self.shown is not None and not text else ""
        self.message.value = (
            f'<span role="status" aria-live="polite" style="color: {colour}">'
            f"{html.escape(text or doubts or 'ready')}</span>"
        )
        self.controls.cancel.disabled = self.job is None

    def say_error(self, error):
        """Show an exception as one line."""
        self.error = " ".join(str(error).split())[:300] or type(error).__name__
        self._say("")

    # computing

    def _start(self, attacks):
        """Run attacks in the background, in order, in place of what runs now."""
        if self.job is not None:
            self.job.cancelled.set()
        self.job = _Job(self, attacks, self.job)
        self._say(
            f"computing… step 0/{self.frames.steps}; shown is the nearest: {self._words(self.shown)}"
        )
        self.job.start()

    @_guarded
    def _step(self, job, step, partial):
        """A job has come to a step."""
        if job is not self.job:
            return
        if (
            self.wanted is not None
            and self._whole(self.wanted) == job.attack
            and self._missing(self.wanted)
        ):
            self._show(partial())
        also = f" (ε = {job.attack.epsilon:g}; {len(self.queue)} to do)" if self.queue else ""
        self._say(f"computing… step {step}/{self.frames.steps}{also}")

    @_guarded
    def _arrived(self, job, frame):
        """A job has a frame ready."""
        if self.wanted == frame.cell:
            self._show(frame)
            if job is self.job and not self.queue:
                self._say("keeping the steps …")

    @_guarded
    def _ended(self, job, error=None):
        """A job has no more attacks to do."""
        if job is self.job:
            self.job = None
            self.queue = []
            self._say("") if error is None else self.say_error(error)

    @_guarded
    def _send_again(self):
        """Send what is shown once more: a page that was just connecting when it came has missed it."""
        for widget in (
            self.heading,
            self.radiograph,
            self.noise,
            *self.captions,
            self.bars,
            self.message,
            self.controls.cancel,
        ):
            widget.send_state()

    def _missing(self, cell):
        return self.frames.find(cell) is None

    @_guarded
    def _compute(self, _):
        """Compute all noise levels of the case and goal."""
        if self.wanted is None:
            raise ValueError("choose a goal first")
        c, goal = self.controls, self.wanted.goal
        attacks = [
            self.frames.cell(c.case.value, c.attacker.value, goal, epsilon, self.frames.steps)
            for epsilon in self.epsilons[1:]
        ]
        self.queue = [attack for attack in attacks if self._missing(attack)]
        if self.queue:
            self._start(self.queue)
        else:
            self._say("every noise level is there")

    @_guarded
    def _cancel(self, _):
        if self.job is not None:
            self.job.cancelled.set()
        self.job, self.queue = None, []
        if self.wanted is not None and self._missing(self.wanted):
            self._show(self.frames.nearest(self.wanted, self.epsilons, self.counts))
        self._say("cancelled; move a control to go on")

    def wait(self, seconds=60):
        """Wait until nothing is computed any more; for programs. Returns whether that came to be."""
        end = time.monotonic() + seconds
        while (job := self.job) is not None and time.monotonic() < end:
            job.join(0.05)
        return self.job is None

    # controls that move others

    @_guarded
    def _choose_played(self, _=None):
        slider = self._played()
        self.controls.play.max = len(slider.options) - 1
        self.controls.play.value = slider.index

    @_guarded
    def _play(self, change):
        self._played().index = min(change["new"], len(self._played().options) - 1)

    def _played(self):
        return (
            self.controls.epsilon
            if self.controls.played.value == "noise level"
            else self.controls.step
        )

    @_guarded
    def _paste(self, change):
        text = change["new"].strip()
        if not text:
            return
        if len(text) > MOST_TEXT or not re.fullmatch(PATH_DATA, text):
            raise ValueError(
                'that is not SVG path data: paste what stands in d="…" of a <path>, such as '
                f"M0 0 H9 V9 Z, up to {MOST_TEXT} characters"
            )
        read_shape(text)
        self.shape = text
        self._changed()

    @_guarded
    def _draw(self, change):
        """Begin a polygon, or close it and take it as the shape."""
        self.controls.draw.description, self.error = (
            "Close the polygon" if change["new"] else "Draw a polygon",
            "",
        )
        if change["new"]:
            self.corners = []
            self._say(
                "click the corners on the radiograph, one after the other, then press Close the polygon"
            )
            return
        corners, self.corners = self.corners, None
        self._redraw()
        if len(corners) < 3:
            raise ValueError(
                f"a polygon of {len(corners)} corners has no area: draw one of three or more"
            )
        self.controls.path.value = "M" + " L".join(f"{x:g} {y:g}" for x, y in corners) + " Z"

    @_guarded
    def _click(self, event):
        if self.corners is not None:
            self.corners.append((event["dataX"], event["dataY"]))
            self._redraw()

    @_guarded
    def _load(self, change):
        if not change["new"]:
            return
        (file,) = change["new"]
        if file["size"] > MOST_BYTES:
            raise ValueError(
                f"{file['name']} has {file['size']:,} bytes; {MOST_BYTES:,} are the most"
            )
        text = PNG_TEXT + base64.b64encode(bytes(file["content"])).decode()
        try:
            self.shape = png_text(read_shape(text))
        except ValueError as error:
            raise ValueError(f"{file['name']}: {error}") from None
        self.controls.path.value = ""  # the same text pasted once more is a change again
        self._changed()

    # files

    @_guarded
    def _save_figure(self, _):
        frame = self._frame()
        cell = frame.cell
        image = self.frames.image(cell.ids[0])
        parts = (
            image,
            self.frames.attacked(frame),
            self.frames.predict(image),
            frame.prediction,
            self.frames.goal(cell),
        )
        name = "truth" if cell.goal.kind == "untargeted" else "target"
        figure = plots.plot_attacks(
            {self._attacker(cell): parts},
            structures=self.frames.dataset.structures,
            epsilon=cell.epsilon or self.epsilons[1],
            target_name=name,
        )
        path = self._path("figure.png")
        try:
            plots.save_figure(figure, path, self._about(frame))
        finally:
            plt.close(figure)
        self._tell_saved(path, "")

    @_guarded
    def _save_image(self, _):
        frame, path = self._frame(), self._path("image.png")
        drawing.write_grey(path, self.frames.attacked(frame), self._notes(frame))
        self._tell_saved(path, f"rounded to 16 bits; {self._lost(drawing.read_grey(path))}")

    @_guarded
    def _save_dicom(self, _):
        frame, path = self._frame(), self._path("image.dcm")
        write_dicom(path, self.frames.attacked(frame), self._notes(frame)["Description"])
        self._tell_saved(path, f"rounded to 16 bits; {self._lost(read_dicom(path))}")

    def _frame(self):
        """The Frame that is shown."""
        if self.shown is None:
            raise ValueError("there is no picture yet: choose another goal or structure")
        return self.shown

    def _path(self, kind):
        cell = self.shown.cell
        goal = (
            [f"{cell.goal.kind}-{cell.goal.ratio:g}", cell.goal.structure]
            if cell.goal.structure
            else ["untargeted"]
        )
        words = [
            *cell.ids,
            self._attacker(cell),
            *goal,
            f"epsilon-{cell.epsilon:g}",
            f"step-{cell.steps if cell.epsilon else 0}",
            cell.key[:8],
        ]
        return self.folder / re.sub(r"[^\w.-]+", "-", "_".join([*words, kind]))

    def _about(self, frame):
        goal = {
            "kind": frame.cell.goal.kind,
            "structure": frame.cell.goal.structure,
            "ratio": frame.cell.goal.ratio,
        }
        return self.source | {
            "steps": frame.cell.steps if frame.cell.epsilon else 0,
            "case": frame.cell.ids[0],
            "attacker": self._attacker(frame.cell),
            "goal": goal,
            "epsilon": frame.cell.epsilon,
            "cell": frame.cell.key,
        }

    def _notes(self, frame):
        return {"Software": json.dumps(versions()), "Description": json.dumps(self._about(frame))}

    def _lost(self, image):
        """What a file's rounding changes in the prediction."""
        differ = int((self.frames.predict(image) != self.shown.prediction).sum())
        return f"its prediction differs in {differ} of {image.size} pixels from the one shown"

    def _tell_saved(self, path, what):
        kind = {".png": "image/png", ".dcm": "application/dicom"}[path.suffix]
        link = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        self.saved.value = (
            f'Saved in {html.escape(path.parent.name)}: <a href="{link}" download="{path.name}">'
            f"{html.escape(path.name)}</a> {html.escape(what)}"
        )

    # as a widget

    def picture(self):
        """What is shown, as one PIL image."""
        data, frame = self.frames.dataset, self._frame()
        with self.lock:
            name = "truth" if frame.cell.goal.kind == "untargeted" else "target"
            rows = [
                (structure, k + 1, float(frame.iou["target"][k]))
                for k, structure in enumerate(data.structures)
            ]
            return drawing.sheet(
                self._pictures(frame),
                self.text,
                self._captions(frame),
                rows,
                foot=f"bars: IoU × 100 of prediction and {name}",
            )

    def _repr_mimebundle_(self, **options):
        """The widget, and what there is to see where no widget can be: a picture and a line of text."""
        bundle = super()._repr_mimebundle_(**options)
        if not self.closed and self.shown is not None:
            file = io.BytesIO()
            self.picture().quantize(32, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
            picture = base64.b64encode(file.getvalue()).decode()
            bundle |= {"text/plain": f"Explorer: {self.text}", "image/png": picture}
        return bundle

    def close(self):
        """Stop what is computed, and free what is kept in memory."""
        with self.lock:
            job, self.closed = self.job, True
            if job is not None:
                job.cancelled.set()
        if job is not None and job is not current_thread():
            job.join(10)
        self.job = self.shown = self.wanted = None
        self.frames.clear()
        for widget in [self.clicks, *self.controls.__dict__.values(), *_inside(self)]:
            widget.close()
        super().close()


def _inside(box):
    for child in box.children:
        yield child
        if isinstance(child, widgets.Box):
            yield from _inside(child)


class _Cancelled(Exception):
    pass


class _Job(Thread):
    """Attacks, one after the other, in the background."""

    def __init__(self, explorer, attacks, previous):
        super().__init__(daemon=True, name="explorer")
        self.explorer, self.attacks, self.previous, self.cancelled = (
            explorer,
            list(attacks),
            previous,
            Event(),
        )
        self.attack, self.told = self.attacks[0], 0.0

    def run(self):
        explorer, error = self.explorer, None
        try:
            if self.previous is not None:
                self.previous.join()
                self.previous = None
            for attack in self.attacks:
                self.attack = attack
                self._check()
                for frame in explorer.frames.compute(attack, explorer.counts, self._observe):
                    explorer._arrived(self, frame)
                    self._check()
                explorer.queue = [each for each in explorer.queue if each != attack]
        except _Cancelled:
            pass
        except Exception as caught:
            error = caught
        explorer._ended(self, error)
        shown, self.explorer, explorer = weakref.ref(explorer), None, None
        time.sleep(AGAIN)
        if (explorer := shown()) is not None:
            explorer._send_again()

    def _observe(self, step, partial):
        self._check()
        if step and time.monotonic() > self.told + EVERY:
            self.explorer._step(self, step, partial)
            self.told = time.monotonic()

    def _check(self):
        if self.cancelled.is_set():
            raise _Cancelled


# how it looks


def _controls(frames, epsilons, counts, structure, goal, factors):
    """The widgets to set, each with a description."""
    style, wide = (
        {"description_width": "110px"},
        widgets.Layout(width="auto", min_width="300px", flex="1 1 300px"),
    )
    about = {"style": style, "layout": wide}
    choose = lambda name, options, value, **more: widgets.Dropdown(  # noqa: E731
        description=name, options=options, value=value, **about | more
    )
    slide = lambda name, low, high, value, step: widgets.FloatSlider(  # noqa: E731
        description=name, min=low, max=high, value=value, step=step, readout_format=".2f", **about
    )
    button = lambda name, tip: widgets.Button(
        description=name, tooltip=tip, layout={"width": "auto"}
    )  # noqa: E731
    level = max((epsilon for epsilon in epsilons if epsilon <= 0.04), default=0) or epsilons[1]
    path = widgets.Textarea(
        description="SVG path data", placeholder="M0 0 H9 V9 Z", continuous_update=False, **about
    )
    upload = widgets.FileUpload(
        description="Load a PNG", accept=".png", multiple=False, layout={"width": "auto"}
    )
    draw = widgets.ToggleButton(
        description="Draw a polygon",
        tooltip="Click its corners on the radiograph",
        layout={"width": "auto"},
    )
    text = widgets.HTML(
        "The shape, put at the structure's centre: white or opaque parts of a PNG, closed SVG path "
        'data (what stands in <code>d="…"</code>), or a polygon that is drawn here.'
    )
    save_dicom = button("Save DICOM", "Attacked image as secondary capture")
    save_dicom.layout.display = "" if importlib.util.find_spec("pydicom") else "none"
    factors = sorted({*factors, 1.0})
    return SimpleNamespace(
        case=choose("Case", frames.ids, frames.ids[0]),
        attacker=choose("Attacked by", tuple(frames.bases), "white-box"),
        goal=choose("Goal", GOALS, goal),
        structure=choose("Structure", frames.dataset.structures, structure),
        factor=choose("Size", [(f"× {factor:g}", factor) for factor in factors], factors[-1]),
        epsilon=widgets.SelectionSlider(
            description="Noise level ε",
            options=[(f"{e:g}", e) for e in epsilons],
            value=level,
            **about,
        ),
        step=widgets.SelectionSlider(
            description="Attack step", options=counts, value=counts[-1], **about
        ),
        played=choose("Play through", ("attack step", "noise level"), "attack step"),
        play=widgets.Play(
            description="Play", min=0, max=len(counts) - 1, value=len(counts) - 1, interval=500
        ),
        centre=slide("Window centre", -1.0, 1.0, 0.0, 0.05),
        width=slide("Window width", 0.1, 2.0, 2.0, 0.05),
        gain=choose("Noise ×", [(f"{gain:g}", gain) for gain in (0.5, 1.0, 2.0, 5.0, 10.0)], 1.0),
        path=path,
        upload=upload,
        draw=draw,
        own=widgets.VBox([text, widgets.HBox([upload, draw, path])]),
        compute=button("Compute every ε", "Attack this case at every noise level"),
        cancel=button("Cancel", "Stop computing"),
        save_figure=button("Save figure", "PNG with its provenance"),
        save_image=button("Save attacked image", "16-bit PNG"),
        save_dicom=save_dicom,
    )


def _arrange(explorer):
    """Rows of the explorer's widgets."""
    c = explorer.controls
    row = lambda *parts: widgets.HBox(
        parts, layout={"flex_flow": "row wrap", "align_items": "center"}
    )  # noqa: E731
    column = lambda *parts: widgets.VBox(parts, layout={"margin": "0 8px 0 0"})  # noqa: E731
    return [
        row(c.case, c.attacker, c.goal),
        row(c.structure, c.factor, c.gain),
        c.own,
        row(c.epsilon, c.step),
        row(c.played, c.play, c.compute, c.cancel),
        explorer.message,
        explorer.heading,
        row(
            column(explorer.radiograph, explorer.captions[0]),
            column(explorer.noise, explorer.captions[1]),
        ),
        explorer.bars,
        row(c.centre, c.width),
        row(c.save_figure, c.save_image, c.save_dicom),
        explorer.saved,
    ]


def _bars(frame, structures):
    """HTML table: IoU of each structure with target and truth, as bars and numbers."""
    names = ("truth",) if frame.cell.goal.kind == "untargeted" else ("target", "truth")
    rows = []
    for k, structure in enumerate(structures):
        cells = [
            f'<th scope="row" style="text-align: left; padding-right: 1em">{k + 1} {html.escape(structure)}</th>'
        ]
        for name in names:
            score = float(frame.iou[name][k])
            bar = f"width: {0 if np.isnan(score) else score:.1f}%; background: {COLOURS[k % len(COLOURS)]}"
            cells.append(
                '<td><div style="width: 200px; height: 11px; border: 1px solid currentColor">'
                f'<div style="height: 11px; {bar}"></div></div></td>'
                f'<td style="text-align: right; padding: 0 2em 0 0.5em">{_number(score)}</td>'
            )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(
        f'<th colspan="2" scope="col" style="text-align: left">IoU × 100 with the {n}</th>'
        for n in names
    )
    return f"<table><tr><th></th>{heads}</tr>{''.join(rows)}</table>"


def _number(score):
    return "none" if np.isnan(score) else f"{score:.1f}"


# files of others


def write_dicom(path, image, description):
    """Write an image (H, W) [−1, 1] as a DICOM secondary capture of 16 bits; needs the package pydicom."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        SecondaryCaptureImageStorage,
        generate_uid(),
    )
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    grey = ((np.asarray(image, dtype=np.float64).clip(-1, 1) + 1) * 32767.5).round().astype("<u2")
    record = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "Modality": "OT",
        "ConversionType": "WSD",
        "PatientName": "Adversarial^Attack",
        "PatientID": "",
        "StudyDate": "",
        "StudyTime": "",
        "StudyID": "",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "PatientBirthDate": "",
        "PatientSex": "",
        "ImageComments": description,
        "Rows": grey.shape[0],
        "Columns": grey.shape[1],
        "SamplesPerPixel": 1,
        "PixelRepresentation": 0,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelData": grey.tobytes(),
    }
    for name, value in values.items():
        setattr(record, name, value)
    with atomic_write(path) as file:
        record.save_as(file, enforce_file_format=True)


def read_dicom(path):
    """The image, float32 (H, W) [−1, 1], of a file that `write_dicom` wrote."""
    from pydicom import dcmread

    return (dcmread(path).pixel_array.astype(np.float64) / 32767.5 - 1).astype(np.float32)


# the moving picture of the README


def animate(explorer, path, *, hold=900):
    """Write a GIF of the slider going through all noise levels, computing what is missing.

    Args:
        explorer: an Explorer.
        path: the file.
        hold: time of a noise level [ms].
    """
    sheets = []
    for epsilon in explorer.epsilons:
        explorer.controls.epsilon.value = epsilon
        if not explorer.wait(600):
            raise TimeoutError(f"the attack at epsilon {epsilon:g} took longer than ten minutes")
        sheets.append(explorer.picture().quantize(64, dither=Image.Dither.NONE))
    with atomic_write(path) as file:
        sheets[0].save(
            file,
            "GIF",
            save_all=True,
            append_images=sheets[1:],
            loop=0,
            optimize=True,
            duration=[hold] * (len(sheets) - 1) + [3 * hold],
        )


def main():
    """Draw figures/explorer.gif with the networks of `make study`. Returns the exit code."""
    data = load("phantom", size=128, test_cases=4)
    target = train(data, "target", depth=3, features=8, epochs=80)
    explorer = explore(data, target, epsilons=[0.01, 0.02, 0.04, 0.08, 0.16])
    animate(explorer, FIGURES / "explorer.gif")
    explorer.close()
    return 0
