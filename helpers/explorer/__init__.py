"""The ε slider and its friends: drag, and watch what noise makes of a segmentation."""

from helpers.explorer.widget import Explorer, explore

__all__ = ["Explorer", "explore"]
