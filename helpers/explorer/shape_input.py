"""The shape of a user's own, as it comes from the explorer's controls."""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from helpers.shapes import PATH_DATA, PNG_TEXT, png_text, read_shape

MOST_TEXT = 10_000  # characters of SVG path data
MOST_BYTES = 8_000_000  # of a PNG file


def shape_of_text(text: str) -> str:
    """SVG path data, checked.

    Raises:
        ValueError: it is something else, too long, not closed or empty.
    """
    if len(text) > MOST_TEXT or not re.fullmatch(PATH_DATA, text):
        raise ValueError(
            'that is not SVG path data: paste what stands in d="…" of a <path>, such as '
            f"M0 0 H9 V9 Z, up to {MOST_TEXT} characters"
        )
    read_shape(text)
    return text


def shape_of_file(file: Mapping[str, Any]) -> str:
    """The text of an uploaded PNG file, made smaller if it is large.

    Raises:
        ValueError: it is too large, or not a PNG file that can be read.
    """
    if file["size"] > MOST_BYTES:
        raise ValueError(f"{file['name']} has {file['size']:,} bytes; {MOST_BYTES:,} are the most")
    text = PNG_TEXT + base64.b64encode(file["content"]).decode()
    try:
        return png_text(read_shape(text))
    except ValueError as error:
        raise ValueError(f"{file['name']}: {error}") from None


def path_of_corners(corners: Sequence[tuple[float, float]]) -> str:
    """SVG path data of a polygon.

    Raises:
        ValueError: it has fewer than three corners.
    """
    if len(corners) < 3:
        raise ValueError(
            f"a polygon of {len(corners)} corners has no area: draw one of three or more"
        )
    return "M" + " L".join(f"{x:g} {y:g}" for x, y in corners) + " Z"
