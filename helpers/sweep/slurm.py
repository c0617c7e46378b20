"""Workers as Slurm jobs."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dask
import yaml
from distributed import Status

from helpers.common.arguments import whole_number

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
    with ExitStack() as stack:
        try:
            options = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            jobs = whole_number("jobs", options.pop("jobs", 1))
            threads = _complete(options, gpu)
            cluster = SLURMCluster(**options)
            stack.callback(cluster.close, TIMEOUT)
            cluster.sync(_submit, cluster, jobs)
        except Exception as error:
            why = " ".join(str(error).split())
            raise ValueError(
                f"engine {path}: not usable for Slurm ({type(error).__name__}: {why}); "
                "helpers/sweep/README.md has an example"
            ) from None
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # a job that ends is replaced
        yield cluster, threads


async def _submit(cluster, jobs):
    for _ in range(jobs):  # `scale` would not report that a job is refused
        cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        await cluster
    except Exception:
        for job in cluster.workers.values():
            job.status = Status.failed  # `close` does not expect jobs that never began
        raise


def _complete(options, gpu):
    """Add to the arguments of SLURMCluster what a sweep needs; the torch threads of a worker."""
    cores = options["cores"]
    processes = options.setdefault("processes", 1)
    options.setdefault("job_cpu", cores)
    options["cores"] = processes  # to Dask: one task at a time in each process
    extra = ["--no-dashboard"] + gpu * ["--resources", "GPU=1"]
    place = {"dashboard_address": None} | options.get("scheduler_options", {})
    interface = options.get("interface") or dask.config.get("jobqueue.slurm.interface", None)
    if not interface and not {"host", "interface"} & set(place):
        place["host"] = "127.0.0.1"
        extra += ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    options["scheduler_options"] = place
    options["worker_extra_args"] = extra + options.get("worker_extra_args", [])
    return max(1, cores // processes)
