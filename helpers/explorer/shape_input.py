"""A shape of the user's own: SVG path data, or a PNG file."""

import base64
import re

from helpers.common.arguments import require
from helpers.explorer.job import guarded
from helpers.shapes import PATH_DATA, PNG_TEXT, png_text, read_shape

MOST_TEXT = 10_000  # characters of SVG path data


class ShapeInput:
    """The callbacks of an explorer that set its `shape`.

    Attributes:
        shape: of a `Goal`; "" until there is one.
    """

    shape = ""

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
