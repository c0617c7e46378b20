"""Datasets: images, label maps and the split, of phantoms, of JSRT with SCR, or of any folder."""

from helpers.data.cases import label_map
from helpers.data.check import check
from helpers.data.dataset import PHANTOM_IDS, Dataset, load, own_copy
from helpers.data.folders import JSRT_IDS, scan
from helpers.data.formats import read_grey

__all__ = [
    "JSRT_IDS",
    "PHANTOM_IDS",
    "Dataset",
    "check",
    "label_map",
    "load",
    "own_copy",
    "read_grey",
    "scan",
]
