"""Engines: their texts, and what becomes of tasks, errors and lost workers."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import clusters
import pytest
import torch
from clusters import end, started, until

from helpers.sweep import LostEngine, cluster, open_engine, parse_engine, start_engine
from helpers.sweep.engine import Engine

CPU = torch.device("cpu")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(autouse=True)
def engines_closed(monkeypatch):
    yield  # before PATH is as it was: closing cancels jobs
    clusters.close_engines()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", {}),
        ("workers=4", {"workers": 4}),
        (" workers=4  threads=2 ", {"workers": 4, "threads": 2}),
        ("tcp://host:8786", {"address": "tcp://host:8786"}),
        ("tls://10.0.0.1:1 threads=3", {"address": "tls://10.0.0.1:1", "threads": 3}),
        ("a folder/slurm.yaml", {"path": "a folder/slurm.yaml"}),
        ("slurm.yml", {"path": "slurm.yml"}),
    ],
)
def test_the_text_of_an_engine_says_what_it_is(text, expected):
    assert parse_engine(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "workers",
        "workers=0",
        "workers=-1",
        "workers=two",
        "workers=2,threads=1",
        "threads=2",
        "in process",
        "threads=2 workers=4",
        "tcp://host",
        "http://a:1",
        "dask",
        "tcp://host:1 workers=2",
        "tcp://host:1 threads=0",
        4,
        None,
    ],
)
def test_any_other_text_is_refused_with_the_choices(text):
    with pytest.raises(ValueError) as caught, start_engine(text):
        pass
    assert (
        "workers=2" in str(caught.value)
        and repr(str(text)) in str(caught.value)
        and "\n" not in str(caught.value)
    )


@pytest.mark.parametrize(
    "content",
    [None, "", "[1, 2]", "a: [", "memory: 1GB", "cores: 1", "cores: 1\nnonsense: 3\nmemory: 1GB"]
    + [f"cores: 1\nmemory: 1GB\njobs: {jobs}" for jobs in ("0", "1.5", "'8'")],
)
def test_a_slurm_file_that_cannot_be_used_says_why_in_a_line(tmp_path, content):
    path = tmp_path / "slurm.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError) as caught, start_engine(str(path)):
        pass
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("listening", [False, True])
def test_a_scheduler_that_does_not_answer_is_an_error_soon(listening, monkeypatch):
    assert cluster.TIMEOUT <= 12  # and it takes some time to stop asking: 15 s are promised
    monkeypatch.setattr(cluster, "TIMEOUT", 3)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        if listening:
            mute.listen()  # takes connections, and never says a word
        start = time.monotonic()
        with (
            pytest.raises(LostEngine) as caught,
            start_engine(f"tcp://127.0.0.1:{mute.getsockname()[1]}"),
        ):
            pass
    assert time.monotonic() - start < 8
    assert "no Dask scheduler answers at tcp://127.0.0.1" in str(caught.value) and "\n" not in str(
        caught.value
    )


def test_this_process_needs_no_dask():
    code = "import sys\nfrom helpers.sweep.engine import start_engine\nwith start_engine('') as place: assert place.slots == 1\n"
    code += "import helpers.sweep\nassert not {'dask', 'distributed'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- tasks ------------------------------------------------------------------------------------------------------------


def following(tasks):
    tasks = iter(tasks)
    return lambda: next(tasks, None)


def square(shared, task):
    if task == 3:
        raise ZeroDivisionError("three")
    return shared["offset"] + task**2


def check_map(place):
    found = {
        task: (result, error)
        for task, result, error in place.map(square, following(range(7)), {"offset": 100})
    }
    assert isinstance(found.pop(3)[1], ZeroDivisionError)
    assert found == {task: (100 + task**2, None) for task in range(7) if task != 3}
    assert list(place.map(square, following([]), {})) == []
    assert (
        len(list(place.map(square, following([1, 1, 1]), {"offset": 0}))) == 3
    )  # equal tasks are still three


def check_following(place, expected):
    """A task is asked for when there is room, also again after there was none, until nothing runs any more."""
    waiting = [1, None, 2, None, None, 4]
    give = lambda: waiting.pop(0) if waiting else None  # noqa: E731
    assert [task for task, *_ in place.map(square, give, {"offset": 0})] == expected


def act(shared, task):
    """Depending on the task: the process and its threads, or death."""
    if task == "die":
        os._exit(7)
    if task == "die once" and not os.path.exists(shared):
        open(shared, "w").close()
        os._exit(7)
    time.sleep(0.05)
    return os.getpid(), torch.get_num_threads(), task


def test_tasks_in_this_process():
    check_map(Engine(CPU))
    check_following(Engine(CPU), [1])
    lazy = Engine(CPU).map(square, following(iter([1, 3, 2])), {"offset": 0})
    assert next(lazy)[1] == 1  # each when it is asked for


def test_workers_of_this_machine_do_not_set_the_threads_of_what_it_starts():
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")
    before = [os.environ.get(name) for name in names]
    with start_engine("workers=1"):
        assert [os.environ.get(name) for name in names] == before
    assert [os.environ.get(name) for name in names] == before


def test_an_engine_is_opened_once_and_anew_after_it_was_lost(tmp_path):
    assert open_engine("") is open_engine(" ") is open_engine(device="cpu")
    with started(tmp_path, workers=1) as (address, scheduler):
        place = open_engine(address)
        assert open_engine(address) is place and not place.lost
        end(scheduler, signal.SIGKILL)
        until(lambda: place.lost)
        with pytest.raises(LostEngine, match="no Dask scheduler answers"):
            open_engine(address)
        assert address not in {text for text, _ in clusters.engine._OPEN}


AT_EXIT = """
import sys
from helpers.sweep import open_engine
print(open_engine(sys.argv[1]).slots)
"""


def test_an_open_engine_is_closed_when_its_process_ends(tmp_path, monkeypatch):
    clusters.slurm(tmp_path, monkeypatch)
    path = tmp_path / "slurm.yaml"
    path.write_text(f"cores: 1\nmemory: 4GB\njobs: 1\nlocal_directory: {tmp_path}\n")
    words = [sys.executable, "-c", AT_EXIT, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["1"]), done.stderr
    jobs = (tmp_path / "jobs").read_text().split()
    assert (tmp_path / "cancelled").read_text().split() == jobs and len(jobs) == 1


def test_workers_of_this_machine(tmp_path):
    with start_engine("workers=2 threads=2") as place:
        assert place.slots == 2
        address = place.client.scheduler.address
        assert address.startswith("tcp://127.0.0.1:")
        assert not place.client.amm.running()
        assert all(address.startswith("tcp://127.0.0.1:") for address in place.client.nthreads())
        check_map(place)
        check_following(place, [1, 2])
        found = [result for _, result, _ in place.map(act, following(range(12)), None)]
        workers = {pid for pid, *_ in found}
        assert (
            len(workers) == 2
            and os.getpid() not in workers
            and {threads for _, threads, _ in found} == {2}
        )

        once = str(tmp_path / "once")  # a worker that dies is replaced, its task done again
        found = {
            task: error
            for task, _, error in place.map(act, following(["a", "die once", "b"]), once)
        }
        assert found == {"a": None, "die once": None, "b": None}

        found = {task: error for task, _, error in place.map(act, following(["die", "a"]), once)}
        assert type(found["die"]).__name__ == "KilledWorker"
        assert {pid for _, (pid, *_), _ in place.map(act, following(range(4)), None)}.isdisjoint(
            workers
        )
        workers = {pid for _, (pid, *_), _ in place.map(act, following(range(8)), None)}
    until(
        lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), 20
    )  # none is left behind


def test_room_is_counted_right_while_the_client_asks_the_scheduler_too():
    import dask

    with (
        dask.config.set({"distributed.client.scheduler-info-interval": "1ms"}),
        start_engine("workers=2") as place,
    ):
        assert {place.slots for _ in range(200)} == {2}


def test_tasks_that_nobody_waits_for_any_more_end(tmp_path):
    with start_engine("workers=1 threads=1") as place:
        running = place.map(act, following(range(1000)), None)
        next(running)
        running.close()
        assert [task for task, *_ in place.map(act, following(["x"]), None)] == ["x"]


def test_workers_without_a_gpu_are_told_of_rather_than_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.sweep.engine.find_device", torch.device)  # as if there was a GPU
    with started(tmp_path, workers=1) as (address, _):
        with start_engine(address) as place:
            until(place.client.nthreads)
        with pytest.raises(
            ValueError, match="none of its workers has a GPU: start them with --resources GPU=1"
        ):
            with start_engine(address, device="cuda"):
                pass


def test_a_scheduler_that_dies_is_an_error_soon(tmp_path):
    with started(tmp_path, workers=1) as (address, scheduler):
        with (
            pytest.raises(LostEngine, match="the Dask scheduler has gone"),
            start_engine(address) as place,
        ):
            for task, *_ in place.map(act, following(range(10**6)), None):
                if task == 3:
                    end(scheduler, 9)
                    start = time.monotonic()
    assert time.monotonic() - start < 25


def test_slurm_jobs_are_asked_for_with_a_gpu_and_follow_one_another(tmp_path, monkeypatch):
    import dask

    clusters.slurm(tmp_path, monkeypatch)
    monkeypatch.setattr("helpers.sweep.engine.find_device", torch.device)  # as if there was a GPU
    path, jobs = tmp_path / "slurm.yaml", tmp_path / "jobs"
    path.write_text(f"cores: 1\nmemory: 4GB\njobs: 1\nlocal_directory: {tmp_path}\n")
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}),
        start_engine(str(path), device="cuda:0") as place,
    ):
        assert not place.client.amm.running()
        (first,) = {result for _, result, _ in place.map(act, following(["a"]), None)}
        os.killpg(int(jobs.read_text()), signal.SIGKILL)  # as Slurm does at the end of the walltime
        (second,) = {result for _, result, _ in place.map(act, following(["b"]), None)}
    assert first[0] != second[0] and len(jobs.read_text().split()) == 2
    scripts = [script.read_text() for script in tmp_path.glob("job.*.sh")]
    assert scripts and all("--resources GPU=1" in script for script in scripts)


def test_slurm_leaves_the_interrupt_key_alone():
    code = "import signal\nbefore = signal.getsignal(signal.SIGINT)\nimport helpers.sweep.slurm\n"
    code += "assert signal.getsignal(signal.SIGINT) is before"
    subprocess.run([sys.executable, "-c", code], check=True)


def listening(pid):
    """The addresses, in hexadecimal, on which a process waits for connections."""
    lines = [
        line.split()
        for path in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{path}").read_text().splitlines()
    ]
    own = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    return {
        words[1].split(":")[0]
        for words in lines
        if words[3] == "0A" and f"socket:[{words[9]}]" in own
    }


@pytest.mark.skipif(
    not Path("/proc/net/tcp").exists(), reason="no /proc/net/tcp here to see sockets in"
)
def test_slurm_jobs_have_the_cores_of_their_threads_and_listen_on_the_loopback_interface_only(
    tmp_path, monkeypatch
):
    clusters.slurm(tmp_path, monkeypatch)
    path = tmp_path / "slurm.yaml"
    path.write_text(f"cores: 6\nprocesses: 2\nmemory: 4GB\njobs: 1\nlocal_directory: {tmp_path}\n")
    with start_engine(str(path)) as place:
        found = {
            result[0] for _, result, _ in place.map(act, following(["a", "b", "c", "d"]), None)
        }
        addresses = set.union(*map(listening, found))
    (script,) = tmp_path.glob("job.*.sh")
    assert "#SBATCH --cpus-per-task=6" in script.read_text()
    assert place.threads == 3
    assert addresses == {"0100007F"}  # 127.0.0.1


def test_workers_of_a_scheduler_with_an_address_of_its_own_choose_theirs(tmp_path, monkeypatch):
    clusters.slurm(tmp_path, monkeypatch)
    path = tmp_path / "slurm.yaml"
    path.write_text(
        "cores: 1\nmemory: 4GB\nscheduler_options: {host: 127.0.0.1}\n"
        f"local_directory: {tmp_path}\n"
    )
    with start_engine(str(path)):
        (script,) = tmp_path.glob("job.*.sh")
        assert "--host" not in script.read_text() and "--no-dashboard" in script.read_text()


@pytest.mark.parametrize(
    "sbatch", ["#!/bin/sh\necho 'invalid partition specified: gpu' >&2\nexit 1\n", None]
)
def test_a_job_that_slurm_refuses_is_an_error_at_once(tmp_path, monkeypatch, sbatch):
    clusters.slurm(tmp_path, monkeypatch)
    (tmp_path / "sbatch").write_text(sbatch) if sbatch else (tmp_path / "sbatch").unlink()
    path = tmp_path / "slurm.yaml"
    path.write_text(f"cores: 1\nmemory: 4GB\njobs: 2\nlocal_directory: {tmp_path}\n")
    with (
        pytest.raises(ValueError, match="invalid partition" if sbatch else "sbatch") as caught,
        start_engine(str(path)),
    ):
        pass
    assert f"engine {path}: not usable for Slurm" in str(caught.value) and "\n" not in str(
        caught.value
    )


def test_that_no_worker_is_there_is_logged_and_the_first_that_comes_is_used(tmp_path, monkeypatch):
    logged, late = [], []
    with started(tmp_path, workers=0) as (address, _):

        def log(line):
            logged.append(line)
            words = ("worker", address, "--nthreads", 1, "--no-dashboard", "--death-timeout", 60)
            late.append(clusters.dask(*words))

        monkeypatch.setattr(cluster, "log", log)
        try:
            with start_engine(address) as place:
                (found,) = place.map(act, following(["a"]), None)
        finally:
            for worker in late:
                end(worker)
    assert found[2] is None and len(logged) == 1
    assert "no worker yet" in logged[0] and "squeue" in logged[0]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
@pytest.mark.parametrize(
    "engine",
    [
        "_work(faults, None, None, 1)",
        "next(Engine(torch.device('cpu')).map(faults, iter([0]).__next__))[1]",
    ],
)
def test_the_memory_of_a_tensor_is_kept_for_the_next(engine):
    code = f"""if True:
        import resource, sys
        import torch
        from helpers.sweep.cluster import _work
        from helpers.sweep.engine import Engine
        def faults(*_):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(60):
                torch.ones(10_000_000)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        print(faults(), {engine})
    """
    given = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}  # as Dask's nannies set it
    done = subprocess.run(
        [sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True
    )
    as_dask_has_it, ours = map(int, done.stdout.split())
    assert ours < as_dask_has_it / 5
