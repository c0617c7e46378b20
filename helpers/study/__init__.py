"""The notebooks in batch, and what each notebook begins with."""

from helpers.study.parameters import plan
from helpers.study.setup import Study, prepare

__all__ = ["Study", "plan", "prepare"]
