"""A shape of the user's own: SVG path data, a PNG file, or a polygon drawn on the radiograph."""

import base64
import re
from typing import Any

from ipyevents import Event as Listener

from helpers.explorer.job import guarded
from helpers.shapes import PATH_DATA, PNG_TEXT, png_text, read_shape

MOST_TEXT = 10_000  # characters of SVG path data
MOST_BYTES = 8_000_000  # of a PNG file


class ShapeInput:
    """The callbacks of an explorer that set its `shape`.

    Attributes:
        shape: of a `Goal`; "" until there is one.
        corners: (x, y) of a polygon that is being drawn [pixels of the picture], or None.
    """

    controls: Any
    view: Any
    shape = ""
    corners: list[tuple[float, float]] | None = None

    def listen_to_shapes(self) -> None:
        """Follow the controls, and clicks on the radiograph."""
        self.controls.path.observe(self._paste, "value")
        self.controls.upload.observe(self._load, "value")
        self.controls.draw.observe(self._draw, "value")
        self.clicks = Listener(source=self.view.radiograph, watched_events=["click"])
        self.clicks.on_dom_event(self._click)

    @guarded
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

    @guarded
    def _load(self, change):
        for file in change["new"]:
            name, size = file["name"], file["size"]
            if size > MOST_BYTES:
                raise ValueError(f"{name} has {size:,} bytes; {MOST_BYTES:,} are the most")
            text = PNG_TEXT + base64.b64encode(file["content"]).decode()
            try:
                self.shape = png_text(read_shape(text))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            self.controls.path.value = ""  # the same text pasted once more is a change again
            self._changed()

    @guarded
    def _draw(self, change):
        """Begin a polygon, or close it and take it as the shape."""
        begin = change["new"]
        corners = self.corners
        self.corners = [] if begin else None
        self.error = ""
        self.controls.draw.description = "Close the polygon" if begin else "Draw a polygon"
        self._redraw()
        if begin:
            self._say("click the corners on the radiograph, then press Close the polygon")
            return
        if len(corners) < 3:
            found = f"a polygon of {len(corners)} corners has no area"
            raise ValueError(f"{found}: draw one of three or more")
        self.controls.path.value = "M" + " L".join(f"{x:g} {y:g}" for x, y in corners) + " Z"

    @guarded
    def _click(self, event):
        if self.corners is not None:
            self.corners.append((event["dataX"], event["dataY"]))
            self._redraw()
