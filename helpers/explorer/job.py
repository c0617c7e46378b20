"""What an explorer does in the background and in callbacks."""

import atexit
import time
from collections.abc import Callable
from functools import wraps
from threading import Thread
from typing import Any

from helpers.sweep import Experiment

EVERY = 0.3  # seconds between the frames on the way that are shown


def guarded(method: Callable) -> Callable:
    """A callback whose error is shown in the explorer, since nobody sees it elsewhere.

    One runs at a time, and none once the explorer is closed.
    """

    @wraps(method)
    def call(self, *args):
        with self.lock:
            try:
                if not self.closed:
                    method(self, *args)
            except Exception as error:
                self.error = str(error) or type(error).__name__
                self._say("")

    return call


class SupersededError(Exception):
    """Ends the attack of a job that is not its explorer's any more."""


class Job(Thread):
    """An attack of an explorer, until it is done or another job takes its place.

    It waits until the one before it has ended, which that does at its next step.

    Args:
        explorer: the one that is told of steps and of the end, while this is its `job`.
        attack: the experiment.
    """

    def __init__(self, explorer: Any, attack: Experiment) -> None:
        super().__init__(daemon=True)
        self.explorer = explorer
        self.attack = attack
        self.last_shown = 0.0
        atexit.register(self._end)  # a thread that computes while Python ends would abort it

    def run(self) -> None:
        """Compute the attack; an error ends the job, and the explorer shows it."""
        explorer = self.explorer
        failure = None
        try:
            with explorer.turn:
                frame = explorer.cache.compute(self.attack, self._observe)
                explorer.on_step(self, self.attack.steps, frame)
        except Exception as error:
            failure = error
        atexit.unregister(self._end)
        explorer.on_end(self, failure)

    def _observe(self, step, make):
        if self.explorer.job is not self:
            raise SupersededError
        if 0 < step < self.attack.steps and time.monotonic() > self.last_shown + EVERY:
            self.explorer.on_step(self, step, make())
            self.last_shown = time.monotonic()

    def _end(self):
        self.explorer.job = None
        self.join(10)
