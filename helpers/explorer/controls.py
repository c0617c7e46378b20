"""The explorer's widgets, and how they are laid out."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import ipywidgets as widgets

from helpers.explorer.attack_cache import AttackCache
from helpers.explorer.view import View

GOALS = ("untargeted", "small symbol", "large symbol", "resize", "own shape")
GAINS = (0.5, 1.0, 2.0, 5.0, 10.0)  # of the noise's colours
USUAL = 0.04  # the noise level at first is this one, or the next below [units of the images]
HELP = (
    "The shape, put at the structure's centre: white or opaque parts of a PNG, closed SVG path "
    'data (what stands in <code>d="…"</code>), or a polygon that is drawn here.'
)

_NARROW = {"layout": {"width": "auto"}}
_WIDE = {
    "layout": {"width": "auto", "min_width": "300px", "flex": "1 1 300px"},
    "style": {"description_width": "110px"},
}


def make_controls(
    cache: AttackCache, levels: Sequence[float], factors: Sequence[float]
) -> SimpleNamespace:
    """The widgets to set, by name, each with a description.

    Args:
        cache: says which cases, attackers, structures and numbers of steps there are.
        levels: of noise, 0 first.
        factors: of lengths and areas.
    """
    usual = max(level for level in levels if level <= USUAL) or levels[1]
    counts = cache.counts
    path = {"placeholder": "M0 0 H9 V9 Z", "continuous_update": False}
    table: dict[str, tuple] = {
        "case": (widgets.Dropdown, "Case", {"options": cache.ids}),
        "attacker": (widgets.Dropdown, "Attacked by", {"options": tuple(cache.bases)}),
        "goal": (widgets.Dropdown, "Goal", {"options": GOALS}),
        "structure": (widgets.Dropdown, "Structure", {"options": cache.dataset.structures}),
        "factor": (widgets.Dropdown, "Length ×", _numbers(factors, factors[-1])),
        "gain": (widgets.Dropdown, "Noise ×", _numbers(GAINS, 1.0)),
        "epsilon": (widgets.SelectionSlider, "Noise level ε", _numbers(levels, usual)),
        "step": (widgets.SelectionSlider, "Attack step", _numbers(counts, counts[-1])),
        "centre": (widgets.FloatSlider, "Window centre", {"min": -1, "max": 1}),
        "width": (widgets.FloatSlider, "Window width", {"min": 0.1, "max": 2, "value": 2}),
        "path": (widgets.Textarea, "SVG path data", path),
        "upload": (widgets.FileUpload, "Load a PNG", "Its white or opaque parts"),
        "draw": (widgets.ToggleButton, "Draw a polygon", "Click its corners on the radiograph"),
        "compute": (widgets.Button, "Compute every ε", "Attack this case at every noise level"),
        "cancel": (widgets.Button, "Cancel", "Stop computing"),
        "save_figure": (widgets.Button, "Save figure", "PNG with its provenance"),
        "save_image": (widgets.Button, "Save attacked image", "16-bit PNG"),
        "save_dicom": (
            widgets.Button,
            "Save DICOM",
            "Secondary capture; needs pydicom",
        ),
    }
    controls = SimpleNamespace()
    for name, (kind, description, traits) in table.items():
        look = _NARROW | {"tooltip": traits} if isinstance(traits, str) else _WIDE | traits
        setattr(controls, name, kind(description=description, **look))
    controls.upload.accept = ".png"
    inputs = widgets.HBox([controls.upload, controls.draw, controls.path])
    controls.own = widgets.VBox([widgets.HTML(HELP), inputs])
    return controls


def arrange(controls: SimpleNamespace, view: View) -> list[widgets.Widget]:
    """Rows of the explorer's widgets."""
    c = controls
    return [
        _row(c.case, c.attacker, c.goal),
        _row(c.structure, c.factor, c.gain),
        c.own,
        _row(c.epsilon, c.step),
        _row(c.compute, c.cancel),
        view.message,
        view.heading,
        _row(view.radiograph, view.noise),
        view.caption,
        view.bars,
        _row(c.centre, c.width),
        _row(c.save_figure, c.save_image, c.save_dicom),
        view.saved,
    ]


def _numbers(values: Sequence[float], value: float) -> dict[str, Any]:
    return {"options": [(f"{each:g}", each) for each in values], "value": value}


def _row(*parts):
    return widgets.HBox(parts, layout={"flex_flow": "row wrap", "align_items": "center"})
