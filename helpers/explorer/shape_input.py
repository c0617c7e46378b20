"""A shape of the user's own: SVG path data, a PNG file, or a polygon drawn on the radiograph."""

import base64
import re

import numpy as np

from helpers.common.arguments import require
from helpers.explorer.drawing import SIDE, TOP
from helpers.explorer.job import guarded
from helpers.shapes import PATH_DATA, PNG_TEXT, png_text, read_shape

MOST_TEXT = 10_000  # characters of SVG path data


class ShapeInput:
    """The callbacks of an explorer that set its `shape`.

    Attributes:
        shape: of a `Goal`; "" until there is one.
        corners: (x, y) of a polygon that is being drawn [pixels of the image], or None.
    """

    shape = ""
    corners: list | None = None

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

    @guarded
    def _draw(self, change):
        """Begin a polygon, or close it and take it as the shape."""
        corners = self.corners
        self.corners = [] if change["new"] else None
        self.error = ""
        self._redraw()
        if change["new"]:
            self._say("click the corners on the radiograph, then press Draw a polygon once more")
            return
        require(len(corners) > 2, "number of corners", len(corners), "draw three or more")
        points = " L".join(f"{x:.4g} {y:.4g}" for x, y in corners)
        self.controls.path.value = f"M{points} Z"

    @guarded
    def _click(self, event):
        if self.corners is not None:
            size = len(self.shown.noise)
            place = np.array([event["dataX"], event["dataY"] - TOP])
            self.corners.append(tuple(place * size / SIDE - 0.5))
            self._redraw()
