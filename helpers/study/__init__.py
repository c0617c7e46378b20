"""The whole study in one command: the notebooks in order, through papermill, into runs/<profile>/."""

from helpers.study.runner import plan

__all__ = ["plan"]
