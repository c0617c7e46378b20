"""Workers as Slurm jobs."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
import yaml
from distributed import Status

_handler = signal.getsignal(signal.SIGINT)
from dask_jobqueue import SLURMCluster  # noqa: E402

signal.signal(signal.SIGINT, _handler)  # dask_jobqueue sets one that ends the process

TIMEOUT = 10  # seconds to close


@contextmanager
def slurm_cluster(path: str, gpu: bool) -> Iterator[tuple[SLURMCluster, int]]:
    """The cluster that a YAML file describes, and the torch threads of a worker.

    Args:
        path: of the file with the arguments of `dask_jobqueue.SLURMCluster`, and `jobs`.
        gpu: whether workers have the Dask resource GPU.

    Raises:
        ValueError: the file cannot be used, or Slurm refuses the jobs.
    """
    try:
        options = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        jobs = options.pop("jobs", 1)
        if type(jobs) is not int or jobs < 1:
            raise ValueError(f"jobs is {jobs!r}, a whole number of 1 or more is needed")
        threads = _complete(options, gpu)
        with dask.config.set({"distributed.scheduler.active-memory-manager.start": False}):
            cluster = SLURMCluster(**options)
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ValueError(
            f"engine {path}: not usable for Slurm ({type(error).__name__}: {why}); "
            "helpers/sweep/README.md has an example"
        ) from None

    async def submit():
        for _ in range(jobs):  # `scale` would not report that a job is refused
            cluster.worker_spec.update(cluster.new_worker_spec())
        await cluster

    try:
        try:
            cluster.sync(submit)
        except (OSError, RuntimeError) as error:
            for job in cluster.workers.values():
                job.status = Status.failed  # `close` does not expect jobs that never began
            why = " ".join(str(error).split())
            raise ValueError(f"engine {path}: Slurm takes no job ({why})") from None
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # a job that ends is replaced
        yield cluster, threads
    finally:
        cluster.close(timeout=TIMEOUT)


def _complete(options, gpu):
    """Add to the arguments of SLURMCluster what a sweep needs; the torch threads of a worker."""
    cores = options["cores"]
    processes = options.setdefault("processes", 1)
    options.setdefault("job_cpu", cores)
    options["cores"] = processes  # to Dask: one task at a time in each process
    extra = ["--no-dashboard"]
    if gpu:
        extra += ["--resources", "GPU=1"]
    place = {"dashboard_address": None} | options.get("scheduler_options", {})
    interface = options.get("interface") or dask.config.get("jobqueue.slurm.interface", None)
    if not interface and not {"host", "interface"} & set(place):
        place["host"] = "127.0.0.1"
        extra += ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    options["scheduler_options"] = place
    options["worker_extra_args"] = extra + options.get("worker_extra_args", [])
    return max(1, cores // processes)
