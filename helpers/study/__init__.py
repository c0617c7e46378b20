"""The whole study in one command: the notebooks in order, through papermill, into runs/<profile>/."""

from helpers.study.runner import plan
from helpers.study.setup import Study, prepare

__all__ = ["Study", "plan", "prepare"]
