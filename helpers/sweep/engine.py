"""Where work is done: in this process, by workers on this machine, a Dask scheduler's, or Slurm's.

An engine is selected by a text, so that it can be a notebook's parameter:

    ""                        this process
    "workers=4"               four processes on this machine; "workers=4 threads=2" with two torch
                              threads each
    "tcp://host:8786"         the workers of a running Dask scheduler; "tls://…" with Dask's TLS
                              settings
    "slurm.yaml"              Slurm jobs; the file holds the arguments of
                              `dask_jobqueue.SLURMCluster`, and `jobs`

All but the first need the extra `cluster`.
"""

import atexit
import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch

from helpers.network import find_device

_OPEN: dict = {}
ENGINE = re.compile(
    r"(?P<path>.+\.ya?ml)|(?:workers=(?P<workers>[1-9]\d*)|(?P<address>(?:tcp|tls)://\S+:\d+))"
    r"(?: +threads=(?P<threads>[1-9]\d*))?|"
)
Done = tuple[Any, Any, BaseException | None]  # task, result, error


class LostEngine(ConnectionError):
    """The scheduler has gone; what was finished is safe."""


class Engine:
    """This process, one task after the other. Engines with workers derive from it.

    Attributes:
        device: where tasks compute.
        slots: tasks at a time.
        lost: whether it can take no more tasks.
        in_process: whether tasks share this process's memory.
    """

    slots = 1
    lost = False
    in_process = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        keep_memory()

    def map(self, function: Callable, next_task: Callable, shared: Any = None) -> Iterator[Done]:
        """Compute `function(shared, task)` of each task, in the order in which they end.

        Args:
            function: importable in a worker.
            next_task: returns the next task, or None if there is none for now; called when there is
                room for a task. The engine ends when there is none and all are done.
            shared: what all tasks need; sent to a worker once.

        Yields:
            (task, result, error): one of the last two is None.

        Raises:
            LostEngine: the scheduler has gone.
        """
        while (task := next_task()) is not None:
            try:
                yield task, function(shared, task), None
            except Exception as error:
                yield task, None, error


def parse_engine(text: str) -> dict:
    """What the text of an engine says: path, or workers or address, and threads; nothing for here.

    Raises:
        ValueError: it is no such text; the message says what can be given.
    """
    found = ENGINE.fullmatch(str(text).strip())
    if found is None:
        raise ValueError(
            f'engine {str(text)!r} is unknown; give "" for this process, "workers=2", '
            '"tcp://host:port" of a Dask scheduler, or a YAML file for Slurm'
        )
    said = {name: value for name, value in found.groupdict().items() if value}
    return {name: int(value) if value.isdigit() else value for name, value in said.items()}


@contextmanager
def start_engine(text: str = "", *, device: str | torch.device = "cpu") -> Iterator[Engine]:
    """An engine that is started if need be, and ends with the block.

    Args:
        text: see above.
        device: "cpu", "cuda" or "auto", in this process and in workers; a GPU asks for workers with
            the Dask resource GPU.

    Raises:
        ValueError: the text, the device or the file cannot be used, Slurm refuses the jobs, the
            extra `cluster` is not installed, or no worker has a GPU.
        LostEngine: no scheduler answers.
    """
    options = parse_engine(text)
    found = find_device(device)
    if not options:
        yield Engine(found)
        return
    try:
        from helpers.sweep import cluster
    except ImportError:
        raise ValueError(f"engine {text!r} needs Dask: pip install -e '.[cluster]'") from None
    with cluster.start_cluster(options, found) as engine:
        yield engine


def open_engine(text: str = "", *, device: str | torch.device = "cpu") -> Engine:
    """The engine of `start_engine`, started once in this process, shared, and closed at its exit.

    An engine that was lost is started anew.
    """
    found = find_device(device)
    key = str(text).strip(), found
    if key in _OPEN and _OPEN[key][0].lost:
        _OPEN.pop(key)[1].close()
    if key not in _OPEN:
        stack = ExitStack()
        _OPEN[key] = stack.enter_context(start_engine(text, device=found)), stack
        atexit.register(stack.close)
    return _OPEN[key][0]


def keep_memory() -> None:
    """Have glibc keep a tensor's memory for the next.

    It gives back what is larger than 32 MiB, and in Dask's workers all; attacks then take up to
    twice as long for fresh pages.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
