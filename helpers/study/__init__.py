"""The whole study in one command: the notebooks in order, through papermill, into runs/."""

from helpers.study.parameters import plan

__all__ = ["plan"]
