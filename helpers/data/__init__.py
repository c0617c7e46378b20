"""Datasets: images, label maps and the split, from phantoms, from JSRT with SCR, or from any folder of one's own."""

from helpers.data.dataset import JSRT_IDS, PHANTOM_IDS, Dataset, check, label_map, load

__all__ = ["JSRT_IDS", "PHANTOM_IDS", "Dataset", "check", "label_map", "load"]
