"""Where work is done: in this process, by workers on this machine, or by those of a Dask scheduler or of Slurm.

An engine is named by a text, so that it can be a notebook's parameter:

    ""                        this process
    "workers=4"               four processes on this machine; "workers=4 threads=2" with two torch threads each
    "tcp://host:8786"         the workers of a running Dask scheduler; "tls://…" with Dask's TLS settings
    "slurm.yaml"              Slurm jobs; the file holds the arguments of `dask_jobqueue.SLURMCluster`, and `jobs`

All but the first need the extra `cluster`. Scheduler and workers that are started here listen on the loopback interface
only, unless the YAML file names another.
"""

import asyncio
import ctypes
import math
import multiprocessing
import os
import re
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import yaml

from helpers.common.progress import log

PATIENCE = 10  # seconds that a scheduler may take to answer, and be out of sight
QUIET = 60  # seconds without any worker, after which it is said


class LostEngine(ConnectionError):
    """The scheduler has gone; what was finished is safe."""


def parse(engine):
    """(kind, {name: value}) of an engine's text: "here", "workers", "scheduler" or "slurm".

    Raises:
        ValueError: it is none; the message says what can be given. Or the YAML file cannot be used.
    """
    text = str(engine).strip()
    if text in ("", "in process"):
        return "here", {}
    if re.match(r"(tcp|tls)://\S+:\d+( threads=\d+)?$", text):
        address, *words = text.split()
        return "scheduler", {"address": address} | _numbers(words, text)
    if Path(text).suffix in (".yaml", ".yml"):
        return "slurm", {"path": text}
    found = _numbers(text.split(), text)
    if "workers" not in found:
        raise ValueError(f"engine {text!r} is unknown; give {_CHOICES}")
    return "workers", found


_CHOICES = '"" for this process, "workers=2", "tcp://host:port" of a Dask scheduler, or a YAML file for Slurm'


def _numbers(words, text):
    found = {}
    for word in words:
        match = re.fullmatch(r"(workers|threads)=([1-9]\d*)", word)
        if not match:
            raise ValueError(f"engine {text!r} is unknown; give {_CHOICES}")
        found[match[1]] = int(match[2])
    return found


@contextmanager
def start_engine(engine="", *, device="cpu"):
    """An engine, started if need be, and ended with the block.

    Args:
        engine: its text, see above.
        device: "cuda" asks for workers with the Dask resource GPU.

    Yields:
        An object with the number of tasks `slots` that it does at a time and the method `map`.

    Raises:
        ValueError: the text or the file cannot be used, the extra `cluster` is not installed, or no worker has a GPU.
        LostEngine: no scheduler answers.
    """
    kind, options = parse(engine)
    if kind == "here":
        yield InProcess(device)
        return
    try:
        import dask
        import distributed
    except ImportError:
        raise ValueError(f"engine {engine!r} needs Dask: pip install -e '.[cluster]'") from None
    gpu, made, before, settings = (
        str(device).startswith("cuda"),
        None,
        dict(os.environ),
        ExitStack(),
    )
    threads = options.pop("threads", None)
    try:
        if (
            kind != "scheduler"
        ):  # it drops copies of what tasks share; if then the last holder dies, Dask can deadlock
            settings.enter_context(
                dask.config.set({"distributed.scheduler.active-memory-manager.start": False})
            )
        if kind == "workers":
            threads = threads or max(1, (os.cpu_count() or 1) // options["workers"])
            settings.enter_context(_forking())
            made = _local(options["workers"], gpu)
        elif kind == "slurm":
            made, threads = _slurm(options["path"], gpu)
        else:
            _knock(options["address"])
        with distributed.Client(
            made or options["address"], timeout=PATIENCE, set_as_default=False
        ) as client:
            place = DaskEngine(client, threads or 1, gpu, device)
            if (
                gpu
                and (workers := place.workers())
                and not any(worker["resources"].get("GPU") for worker in workers)
            ):
                raise ValueError(
                    f"engine {engine}: none of its workers has a GPU: start them with --resources GPU=1"
                )
            yield place
    finally:
        if made is not None:
            made.close(timeout=PATIENCE)
        settings.close()
        for name in set(os.environ) - set(
            before
        ):  # Dask leaves OMP_NUM_THREADS=1 for all that is started later
            del os.environ[name]
        os.environ.update(before)


def _knock(address):
    """Raise LostEngine if no scheduler answers; a Dask client waits for ever for one that listens and says nothing."""
    from distributed import Security
    from distributed.comm import connect

    async def knock():
        arguments = Security().get_connection_args("client")
        comm = await asyncio.wait_for(connect(address, timeout=PATIENCE, **arguments), PATIENCE)
        await comm.close()

    try:
        with ThreadPoolExecutor(1) as pool:  # a notebook's own thread has an event loop already
            pool.submit(asyncio.run, knock()).result()
    except (OSError, TimeoutError, ValueError, RuntimeError, TypeError) as error:
        why = " ".join(str(error).split())[:120] or "no answer"
        raise LostEngine(f"no Dask scheduler answers at {address} ({why})") from None


def _forking():
    """Dask's settings with which workers are forked, where the system can, from one process that has imported torch.

    That process ends with this one, so that the next workers start at once too.
    """
    import dask
    from distributed.utils import get_mp_context

    if "forkserver" not in multiprocessing.get_all_start_methods():
        return dask.config.set({})
    settings = dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    get_mp_context().set_forkserver_preload(
        ["distributed", "helpers.sweep"]
    )  # in place of Dask's own list
    return settings


def _local(workers, gpu):
    import dask
    from distributed import LocalCluster

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


def _slurm(path, gpu):
    """The cluster and the torch threads of a worker."""
    try:
        import dask
        from dask_jobqueue import SLURMCluster
        from distributed import Status
    except ImportError:
        raise ValueError(
            f"engine {path} needs dask-jobqueue: pip install -e '.[cluster]'"
        ) from None
    try:
        options = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        jobs, cores = options.pop("jobs", 1), options["cores"]
        if type(jobs) is not int or jobs < 1:
            raise ValueError(f"jobs is {jobs!r}, a whole number of 1 or more is needed")
        options.setdefault(
            "job_cpu", cores
        )  # Dask's own count of cores is another thing here, see below
        threads = max(1, cores // options.setdefault("processes", 1))
        extra = ["--no-dashboard"] + (["--resources", "GPU=1"] if gpu else [])
        place = options.get("scheduler_options", {})
        known = options.get("interface") or dask.config.get("jobqueue.slurm.interface", None)
        if not (known or {"host", "interface"} & set(place)):
            place = place | {"host": "127.0.0.1"}
            extra += ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        options["scheduler_options"] = {"dashboard_address": None} | place
        options["worker_extra_args"] = extra + options.get("worker_extra_args", [])
        cluster = SLURMCluster(
            **options | {"cores": options["processes"]}
        )  # one task at a time in a process
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(
            f"engine {path}: not usable for Slurm ({what}); see the README for an example"
        ) from None
    try:  # not by `scale`, which tells nobody that a job was refused
        for _ in range(jobs):
            cluster.worker_spec.update(cluster.new_worker_spec())
        cluster.sync(cluster._correct_state)
    except (OSError, RuntimeError, ValueError) as error:
        for job in cluster.workers.values():  # `close` does not know jobs that were never begun
            job.status = Status.failed
        cluster.close(timeout=PATIENCE)
        raise ValueError(
            f"engine {path}: Slurm takes no job ({' '.join(str(error).split())})"
        ) from None
    cluster.adapt(
        minimum_jobs=jobs, maximum_jobs=jobs
    )  # a job that has come to its end is followed by another
    return cluster, threads


class InProcess:
    """This process, one task after the other."""

    slots = 1

    def __init__(self, device="cpu"):
        self.device = device
        _keep_memory()

    def map(self, function, following, shared=None):
        """(task, result, error) of each task: `function(shared, task)`, or the exception that it raised.

        Args:
            following: function that returns the next task, or None if there is none for now; called when there is room
                for a task. It ends when there is none and all are done.
            shared: what all tasks need; sent to a worker once.
        """
        while (task := following()) is not None:
            try:
                yield task, function(shared, task), None
            except Exception as error:
                yield task, None, error


class DaskEngine:
    """Workers of a Dask client. A task whose worker dies is done again by another; one that kills two of this machine's
    workers (elsewhere as many as the scheduler's setting `allowed-failures` says, and one) is given up."""

    def __init__(self, client, threads, gpu, device="cpu"):
        self.device = device
        self.client, self.threads, self.resources = client, threads, {"GPU": 1} if gpu else None

    def workers(self):
        """What the scheduler says of each worker; nothing, if it has gone.

        Not by `client.scheduler_info`: what it returns is at times the client's own periodic question, without workers.
        """
        if self.client.status != "running":
            return []
        with _noticing(), suppress(OSError):
            return list(
                self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"].values()
            )
        return []

    @property
    def slots(self):
        """Tasks at a time: the threads of all workers, or their GPUs."""
        count = lambda worker: (
            worker["resources"].get("GPU", 0) if self.resources else worker["nthreads"]
        )  # noqa: E731
        return max(1, int(sum(map(count, self.workers()))))

    def map(self, function, following, shared=None):
        """As `Here.map`, in the order in which the tasks end."""
        from distributed import wait

        common, running, seen = None, {}, time.monotonic()
        try:
            while True:
                while len(running) < self.slots and (task := following()) is not None:
                    # a task of its own: unlike scattered data, it is made again if the worker that holds it dies
                    with _noticing():
                        common = common or self.client.submit(_same, shared, pure=False)
                        future = self.client.submit(
                            _work,
                            function,
                            common,
                            task,
                            self.threads,
                            pure=False,
                            resources=self.resources,
                        )
                    running[future] = task
                if not running:
                    return
                with _noticing():
                    try:
                        with self.client.as_current():
                            done = wait(
                                list(running), timeout=1, return_when="FIRST_COMPLETED"
                            ).done
                    except TimeoutError:
                        done = ()
                self._check()
                if self.workers():
                    seen = time.monotonic()
                elif time.monotonic() > seen + QUIET:
                    log(
                        f"no worker for {QUIET} s; waiting (squeue shows Slurm's jobs, slurm-*.out why one ended)"
                    )
                    seen = math.inf  # until there is one
                for future in done:
                    with _noticing():
                        error = future.exception()
                        result = None if error else future.result()
                    if future.cancelled():
                        raise LostEngine("the Dask scheduler has gone")
                    yield running.pop(future), result, error
        finally:
            if self.client.status == "running":
                with suppress(OSError, CancelledError):
                    self.client.cancel(list(running), force=True)

    def _check(self):
        """Raise LostEngine unless the scheduler is there; a short break of the connection is waited for."""
        end = time.monotonic() + PATIENCE
        while self.client.status != "running":
            if (
                self.client.status in ("closed", "closing", "newly-created")
                or time.monotonic() > end
            ):
                raise LostEngine("the Dask scheduler has gone")
            time.sleep(0.2)


@contextmanager
def _noticing():
    """Turn what Dask raises on a connection that has broken into LostEngine."""
    try:
        yield
    except (OSError, CancelledError) as error:
        raise LostEngine("the Dask scheduler has gone") from error


def _same(value):
    return value


def _work(function, shared, task, threads):
    import torch  # here, because `study` reads engines' texts before it starts anything

    torch.set_num_threads(threads)
    _keep_memory()
    return function(shared, task)


def _keep_memory():
    """Have glibc keep a tensor's memory for the next: it gives back what is larger than 32 MiB, in Dask's workers all,
    and attacks take up to twice as long for fresh pages."""
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
