"""Run notebooks one after the other through papermill, and record what each made."""

import json
import logging
import os
import shlex
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from helpers.common import paths, provenance
from helpers.common.files import digest_bytes, write_file
from helpers.common.progress import wait_for_lock
from helpers.study.frames import FILE
from helpers.study.parameters import Names, Overrides, Parameters, Steps, source_digest

NO_RESULT = ("root", "engine", "device")  # parameters that do not change a result
SHORT = "/tmp" if os.name == "posix" else None  # Unix sockets have paths of 103 bytes at most


class Kernel(AsyncKernelManager):
    """A kernel of the running interpreter, whatever kernel the user's Jupyter calls "python3".

    It imports these `helpers`, and talks over sockets in a folder of its own: two runs cannot meet
    on a TCP port.
    """

    folder = ""  # of the running notebook, set by `execute`; so is the caller's
    caller = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        if os.name == "posix":
            self.transport = "ipc"
            self.connection_file = f"{self.folder}/kernel.json"
        spec: Any = self.kernel_spec
        places = (str(paths.ROOT), os.environ.get("PYTHONPATH", ""), self.caller)
        spec.env["PYTHONPATH"] = os.pathsep.join(filter(None, places))
        spec.env["STUDY_LOG"] = f"{self.folder}/progress.log"
        spec.env["STUDY_RUNS"] = str(paths.RUNS)
        if jsrt := os.environ.get("JSRT_DIR"):  # of the caller's folder
            spec.env["JSRT_DIR"] = os.path.abspath(os.path.expanduser(jsrt))

    async def shutdown_kernel(  # type: ignore[override]
        self, now: bool = False, restart: bool = False
    ) -> None:
        """Stop it; after an interrupt at once, for a kernel that is asked politely complains."""
        interrupted = isinstance(sys.exception(), KeyboardInterrupt)
        await super().shutdown_kernel(now or interrupted, restart)


@contextmanager
def _print_log(log):
    """Print the lines that a kernel writes to its log, as they come."""
    log.touch()
    ended = Event()

    def follow():
        with log.open(encoding="utf-8") as file:
            last = False
            while not last:
                last = ended.wait(0.5)
                for line in file:
                    print(f"  {line.rstrip()}")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(follow)
        try:
            yield
        finally:
            ended.set()


def execute(notebook: Path, parameters: Parameters, output: Path) -> str:
    """Run one notebook, and write it to `output` if every cell ran, else to NN_name.failed.ipynb.

    Returns:
        Empty, or what went wrong: the failed notebook's path, the cell, the error.
    """
    import nbformat  # here, because the two take a second, and bad usage is told before
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # its errors are reported below, once
    error = ""
    with tempfile.TemporaryDirectory(prefix="study-", dir=SHORT) as folder:
        Kernel.folder, Kernel.caller = folder, os.getcwd()
        draft = Path(folder, output.name)
        try:
            with _print_log(Path(folder, "progress.log")):
                papermill.execute_notebook(
                    notebook,
                    draft,
                    parameters,
                    kernel_name="python3",
                    kernel_manager_class=Kernel,
                    cwd=notebook.parent,
                    start_timeout=180,
                    iopub_timeout=60,
                    store_widget_state=False,
                    progress_bar=False,
                )
        except Exception as problem:
            name = getattr(problem, "ename", type(problem).__name__)  # of the error in a cell
            error = f"{name}: {getattr(problem, 'evalue', problem)}"
        result = nbformat.read(draft if draft.exists() else notebook, as_version=4)
    result.metadata.papermill = {"parameters": parameters}
    code = [cell for cell in result.cells if cell.cell_type == "code" and cell.source.strip()]
    if not error and not all(cell.execution_count for cell in code):
        error = "Unfinished: the notebook stopped before its last cell"
    failed = output.with_suffix(".failed.ipynb")
    write_file(failed if error else output, nbformat.writes(result) + "\n")
    if error:
        return f"  notebook: {failed}\n  {_last_started(result)}\n  {error}\n"
    failed.unlink(missing_ok=True)
    return ""


def _last_started(notebook):
    """Label and first line of the last cell begun."""
    line = "no cell was started"
    for cell in notebook.cells:
        if cell.metadata.get("papermill", {}).get("start_time"):
            first = cell.source.strip().partition("\n")[0]
            line = f"cell In [{cell.get('execution_count') or ' '}]: {first}"
    return line


def _find_results(folder):
    """Name and time of last change [ns] of each table and figure in a folder, and of frames."""
    files = [*folder.glob("*.csv"), *folder.glob("*.png"), *folder.glob(FILE)]
    return {(path.name, path.stat().st_mtime_ns) for path in files}


def digest_file(path: Path) -> str:
    """SHA-256 of a file; empty if there is none."""
    return digest_bytes(path.read_bytes()) if path.exists() else ""


def resume_command(profile: str, only: Names, overrides: Overrides = ()) -> str:
    """The command that runs some notebooks."""
    words = [sys.executable, "-m", "helpers.study", "--profile", profile, "--only", ",".join(only)]
    for name, text in overrides:
        words += ["-p", f"{name}={text}"]
    return shlex.join(words)


def run(steps: Steps, profile: str, folder: Path, overrides: Overrides = ()) -> int:
    """Run the planned notebooks into `folder`; stop at the first that fails.

    A notebook's NN_name.ok.json stands for its last run and only if that succeeded.

    Returns:
        The exit code: 0 all succeeded, 1 one failed, 130 interrupted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{len(steps)} notebook(s) into {folder}")
    lock = folder.with_name(f".{folder.name}.lock")  # what a notebook writes there is its own
    for place, (notebook, parameters) in enumerate(steps):
        problem, status = "", "interrupted"
        with suppress(KeyboardInterrupt):  # while it waits
            with wait_for_lock(lock, f"waiting for another run, which writes to {folder}"):
                problem, status = _run_one(notebook, parameters, folder)
        if status != "ok":
            rest = [path.stem[:2] for path, _ in steps[place:]]
            command = resume_command(profile, rest, overrides)
            print(f"{problem}  resume: {command}", file=sys.stderr)
            return 1 if problem else 130
    return 0


def _run_one(notebook, parameters, folder):
    """Run a notebook and record what it wrote; what went wrong, and how it ended in a word."""
    marker = folder / f"{notebook.stem}.ok.json"
    marker.unlink(missing_ok=True)
    before = _find_results(folder)
    digest = source_digest(notebook)
    start = time.monotonic()
    try:
        problem = execute(notebook, parameters, folder / notebook.name)
        status = "failed" if problem else "ok"
    except KeyboardInterrupt:
        problem, status = "", "interrupted"
    seconds = round(time.monotonic() - start, 1)
    print(f"{notebook.stem:<30}{seconds:8.1f} s  {status}")
    if status == "ok":
        written = sorted(_find_results(folder) - before)
        record = {
            "source": digest,
            "parameters": parameters,
            "seconds": seconds,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "files": {name: digest_file(folder / name) for name, _ in written},
        }
        write_file(marker, json.dumps(record, indent=1))
    return problem, status


def read_record(folder: Path, notebook: Path) -> dict:
    """What `run` recorded of a notebook in a folder; empty if it has not finished there."""
    marker = folder / f"{notebook.stem}.ok.json"
    return json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else {}


def find_fault(folder: Path, notebook: Path, wanted: Parameters) -> str:
    """Why a folder does not hold what a notebook would make with these parameters, or nothing."""
    record = read_record(folder, notebook)
    if not record:
        return "has not finished"
    ran, files = record["parameters"], record["files"]
    differing = {name for name in ran | wanted if ran.get(name) != wanted.get(name)}
    if record["source"] != source_digest(notebook) or differing - set(NO_RESULT):
        return "ran with other parameters or cells"
    changed = [name for name in files if digest_file(folder / name) != files[name]]
    return f"wrote another {changed[0]}" if changed else ""


def finished_files(folder: Path, notebook: Path, wanted: Parameters) -> list:
    """Names of the files that a notebook made.

    Raises:
        ValueError: it did not finish as it would now; the message says what to run.
    """
    if problem := find_fault(folder, notebook, wanted):
        command = resume_command(folder.name, [notebook.stem[:2]])
        told = f"{notebook.stem} {problem} in {folder}"
        raise ValueError(f"{told}; give the same -p as that run, or run {command}")
    return list(read_record(folder, notebook)["files"])
