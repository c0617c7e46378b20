"""Dask clusters that the tests start by hand, as a user would, and end again."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from helpers.sweep import engine

TESTS = Path(__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}
PYTHON = sys.executable


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def dask(*words, env=None, log=subprocess.DEVNULL):
    """A `dask scheduler` or `dask worker`, the leader of a process group of its own."""
    return subprocess.Popen(
        [PYTHON, "-m", "dask", *map(str, words)],
        env=ENVIRONMENT | (env or {}),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def end(process, how=signal.SIGTERM):
    """End a process with its children."""
    for signum in (how, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass


@contextmanager
def started(folder, *, workers=2, protocol="tcp", options=()):
    """(address, process of the scheduler) of a scheduler with workers on the loopback interface."""
    port = free_port()
    address, folder = f"{protocol}://127.0.0.1:{port}", Path(folder)
    words = [
        "scheduler",
        "--host",
        f"{protocol}://127.0.0.1",
        "--port",
        port,
        "--no-dashboard",
        *options,
    ]
    about = {"DASK_TEMPORARY_DIRECTORY": str(folder)}
    with open(folder / "cluster.log", "w") as log:
        processes = [dask(*words, env=about, log=log)]
        try:
            wait_for(port)
            each = [
                "worker",
                address,
                "--host",
                f"{protocol}://127.0.0.1",
                "--nthreads",
                1,
                "--no-dashboard",
                *options,
                "--memory-limit",
                0,
                "--death-timeout",
                60,
            ]
            processes += [dask(*each, env=about, log=log) for _ in range(workers)]
            yield address, processes[0]
        finally:
            for process in processes[::-1]:
                end(process, signal.SIGKILL)


def wait_for(port, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nobody listens on port {port}")


def alive(pid):
    """Whether a process runs (a zombie does not)."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            != "Z"
        )
    except FileNotFoundError:
        return False


def until(condition, seconds=60):
    """Wait until a condition holds; its value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return found


def close_engines():
    """Close what `open_engine` has opened, as the end of the process does."""
    while engine._OPEN:
        engine._OPEN.popitem()[1][1].close()


SBATCH = """#!/bin/sh
cp "$1" "{folder}/job.$$.sh"  # as Slurm does: the script may be gone when the job starts
setsid sh "{folder}/job.$$.sh" > "{folder}/job.$$.log" 2>&1 &
echo $! >> "{folder}/jobs"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
echo "$@" >> "{folder}/cancelled"
for job; do kill -9 -- "-$job" 2> /dev/null; done
exit 0
"""


def slurm(folder, monkeypatch):
    """Put stand-ins for Slurm's commands on PATH, which start jobs on this machine; (folder of their logs)."""
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        path = folder / name
        path.write_text(text.format(folder=folder))
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])


def certificate(folder):
    """A throw-away certificate that is its own authority, and Dask's settings that name it."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]
    subprocess.run([*words, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return key, cert
