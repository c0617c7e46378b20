"""Engines with Dask workers: processes on this machine, or those of a scheduler or of Slurm jobs.

Scheduler and workers that are started here listen on the loopback interface only, unless the Slurm
file names another.
"""

import asyncio
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import dask
import torch
from distributed import Client, LocalCluster, Security, wait
from distributed.comm import connect

from helpers.common.arguments import require
from helpers.common.progress import log
from helpers.sweep.engine import Done, Engine, LostEngine, keep_memory

TIMEOUT = 10  # seconds that a scheduler may take to answer, or to close
BROKEN = (OSError, CancelledError, asyncio.CancelledError)  # what a lost connection raises
SETTINGS = {  # of schedulers that are started here
    "distributed.scheduler.active-memory-manager.start": False,  # see the README beside
    "distributed.nanny.pre-spawn-environ": {},  # Dask would set it in this process too
}


class DaskEngine(Engine):
    """Workers of a Dask client.

    A task is retried when its worker dies, and abandoned after two worker deaths
    (`allowed-failures` + 1 on an external scheduler).
    """

    in_process = False

    def __init__(self, client: Client, device: torch.device, threads: int) -> None:
        self.client = client
        self.device = device
        self.threads = threads
        self.resources = {"GPU": 1} if device.type == "cuda" else None

    @property
    def lost(self) -> bool:  # type: ignore[override]
        return self.client.status != "running"

    @property
    def slots(self) -> int:  # type: ignore[override]
        """Tasks at a time: the threads of all workers; one while there is none."""
        with suppress(*BROKEN):
            return max(1, sum(self.client.nthreads().values()))
        return 1

    def map(self, function: Callable, next_task: Callable, shared: Any = None) -> Iterator[Done]:
        """See `Engine.map`."""
        running: dict = {}
        try:
            # keys of their own, or Dask would see other maps' tasks as one group with these,
            # and prefer the worker that holds `common` to idle ones
            group = secrets.token_hex(8)
            # a task, not scattered data: it is made again if the worker that holds it dies
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):
                common = self.client.submit(_same, shared, key=(f"shared{group}", 0))
            while True:
                slots = self.slots
                while len(running) < slots and (task := next_task()) is not None:
                    work = (_work, function, common, task, self.threads)
                    key = (f"work{group}", secrets.token_hex(8))
                    future = self.client.submit(*work, key=key, resources=self.resources)
                    running[future] = task
                if not running:
                    return
                with self.client.as_current(), suppress(TimeoutError):
                    wait(list(running), timeout=1, return_when="FIRST_COMPLETED")
                for future in [each for each in running if each.done()]:
                    error = future.exception()
                    result = None if error else future.result()
                    if future.cancelled():
                        raise CancelledError
                    yield running.pop(future), result, error
        except BROKEN as error:
            self.client.close(TIMEOUT)  # or it goes on asking for the scheduler
            raise LostEngine("the Dask scheduler has gone") from error
        finally:
            if not self.lost:
                self.client.cancel(list(running), force=True)


def _same(value):
    return value


def _work(function, shared, task, threads):
    torch.set_num_threads(threads)
    keep_memory()
    return function(shared, task)


@contextmanager
def start_cluster(options: dict, device: torch.device) -> Iterator[DaskEngine]:
    """An engine of workers, see `engine.start_engine`.

    Args:
        options: from `engine.parse_engine`.
        device: where tasks compute.
    """
    gpu = device.type == "cuda"
    threads = options.get("threads", 1)
    place: Any
    with ExitStack() as stack:
        with dask.config.set(SETTINGS):
            if workers := options.get("workers"):
                threads = options.get("threads", max(1, (os.cpu_count() or 1) // workers))
                place = _local_cluster(workers, gpu)
                stack.callback(place.close, timeout=TIMEOUT)
            elif path := options.get("path"):
                from helpers.sweep.slurm import slurm_cluster

                place, threads = stack.enter_context(slurm_cluster(path, gpu))
            else:
                place = options["address"]
                _check_reachable(place)
        client = stack.enter_context(Client(place, timeout=TIMEOUT, set_as_default=False))
        found = client.scheduler_info(n_workers=-1)["workers"].values()
        if not found:
            log("no worker yet; waiting (squeue shows Slurm's jobs, slurm-*.out why one ended)")
        elif gpu:
            require(
                any(each["resources"].get("GPU") for each in found),
                "engine",
                place,
                "none of its workers has a GPU: start them with --resources GPU=1",
            )
        yield DaskEngine(client, device, threads)


def _local_cluster(workers, gpu):
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
            resources={"GPU": 1} if gpu else None,
            silence_logs=50,
        )


def _check_reachable(address):
    """Raise LostEngine if no scheduler answers.

    A Dask client ignores its time-out at a port that listens and says nothing.
    """

    async def reach():
        arguments = Security().get_connection_args("client")
        comm = await asyncio.wait_for(connect(address, timeout=TIMEOUT, **arguments), TIMEOUT)
        await comm.close()

    try:
        with ThreadPoolExecutor(1) as pool:  # a notebook's own thread has an event loop already
            pool.submit(asyncio.run, reach()).result()
    except Exception as error:
        raise LostEngine(f"no Dask scheduler answers at {address} ({error!r})") from None
