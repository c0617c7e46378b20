"""The explorer's widgets, and how they are laid out."""

from types import SimpleNamespace

from ipywidgets import (
    HTML,
    Button,
    Dropdown,
    FileUpload,
    FloatRangeSlider,
    HBox,
    SelectionSlider,
    Textarea,
    VBox,
    Widget,
)

from helpers.explorer.attack_cache import AttackCache
from helpers.explorer.view import View

GOALS = ("untargeted", "small symbol", "large symbol", "resize", "own shape", "ratio")
GAINS = (0.5, 1.0, 2.0, 5.0, 10.0)  # of the noise's colours
USUAL = 0.04  # the noise level at first is this one, or the next below [units of the images]
HELP = "Closed SVG path data, or the white or opaque parts of a PNG:"

_RANGE = {"min": -1, "max": 1, "value": (-1, 1), "readout_format": ".1f"}
_NARROW = {"layout": {"width": "auto"}}
_WIDE = {
    "layout": {"width": "auto"},
    "style": {"description_width": "95px"},
}


def make_controls(cache: AttackCache, settings: SimpleNamespace) -> SimpleNamespace:
    """The widgets to set, by name, each with a description.

    Args:
        cache: says which cases, attackers, structures and numbers of steps there are.
        settings: of `explore`: levels, factors, goal and structure.
    """
    levels = settings.levels
    usual = max(level for level in levels if level <= USUAL) or levels[1]
    case = cache.first_with(settings.structure)
    structures = cache.dataset.structures
    path = {"placeholder": "M0 0 H9 V9 Z", "continuous_update": False}
    table: dict[str, tuple] = {
        "case": (Dropdown, "Case", {"options": cache.ids, "value": case}),
        "attacker": (Dropdown, "Attacked by", {"options": cache.attackers}),
        "goal": (Dropdown, "Goal", {"options": GOALS, "value": settings.goal}),
        "structure": (Dropdown, "Structure", {"options": structures, "value": settings.structure}),
        "factor": (Dropdown, "Length ×", _numbers(settings.factors, settings.factors[-1])),
        "gain": (Dropdown, "Noise ×", _numbers(GAINS, 1.0)),
        "epsilon": (SelectionSlider, "Noise level ε", _numbers(levels, usual)),
        "step": (SelectionSlider, "Attack step", _numbers(cache.counts, cache.steps)),
        "window": (FloatRangeSlider, "Window", _RANGE),
        "path": (Textarea, "SVG path data", path),
        "upload": (FileUpload, "Load a PNG", "Its white or opaque parts"),
        "cancel": (Button, "Cancel", "Stop computing"),
        "save_image": (Button, "Save PNG", "The attacked image, 16 bits"),
        "save_dicom": (Button, "Save DICOM", "The attacked image, 16 bits"),
    }
    controls = SimpleNamespace()
    for name, (kind, description, traits) in table.items():
        look = _NARROW | {"tooltip": traits} if isinstance(traits, str) else _WIDE | traits
        setattr(controls, name, kind(description=description, **look))
    controls.upload.accept = ".png"
    controls.own = VBox([HTML(HELP), controls.path, controls.upload])
    return controls


def arrange(controls: SimpleNamespace, view: View) -> list[Widget]:
    """The controls in a column beside what is shown, or above it where a page is narrow."""
    c = controls
    column = [
        *(c.case, c.attacker, c.goal, c.structure, c.factor, c.own),
        *(c.epsilon, c.step, c.gain, c.window),
        _row(c.cancel, c.save_image, c.save_dicom),
    ]
    shown = [
        view.message,
        view.heading,
        view.picture,
        view.bars,
        view.saved,
    ]
    narrow = {"flex": "1 1 270px", "max_width": "420px"}
    sides = VBox(column, layout=narrow), VBox(shown, layout={"flex": "3 1 420px"})
    return [HBox(sides, layout={"flex_flow": "row wrap"})]


def _numbers(values, value):
    return {"options": [(f"{each:g}", each) for each in values], "value": value}


def _row(*parts):
    return HBox(parts, layout={"flex_flow": "row wrap", "align_items": "center"})
