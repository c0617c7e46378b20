"""The ε slider and its friends: drag, and watch what noise makes of a segmentation."""

from helpers.explorer.export import FILE_TRIPS, round_trip
from helpers.explorer.widget import Explorer, explore

__all__ = ["FILE_TRIPS", "Explorer", "explore", "round_trip"]
