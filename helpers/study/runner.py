"""The whole study in one command: the notebooks in order, through papermill, into runs/<profile>/.

``python -m helpers.study --profile full -p steps=50`` ; with ``--help`` the rest.
"""

import argparse
import ast
import csv
import difflib
import json
import logging
import os
import shlex
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import yaml
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from helpers.common import files, paths, provenance
from helpers.sweep import parse


class Kernel(AsyncKernelManager):
    """A kernel of the running interpreter, whatever other kernel the user's Jupyter knows as "python3".

    It imports these `helpers`, and talks over sockets in a folder of its own, the attribute `folder` that `execute`
    sets: two runs cannot meet on a TCP port.
    """

    folder = None

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        if os.name == "posix":
            self.transport, self.connection_file = "ipc", f"{self.folder}/kernel.json"

    async def start_kernel(self, **kwargs):
        path = os.pathsep.join(filter(None, [str(paths.ROOT), os.environ.get("PYTHONPATH")]))
        folder = os.environ.get("JSRT_DIR")
        jsrt = {"JSRT_DIR": os.path.abspath(os.path.expanduser(folder))} if folder else {}
        await super().start_kernel(
            env=os.environ | {"PYTHONPATH": path, "TQDM_DISABLE": "1"} | jsrt, **kwargs
        )

    async def shutdown_kernel(self, now=False, restart=False):
        interrupted = isinstance(
            sys.exception(), KeyboardInterrupt
        )  # then at once: asked politely, it complains
        await super().shutdown_kernel(now or interrupted, restart)


@contextmanager
def followed():
    """Print the lines of progress that a kernel writes to the file named by STUDY_LOG, as they come."""
    with tempfile.TemporaryDirectory(prefix="study-") as folder:
        log, ended = Path(folder, "progress.log"), threading.Event()
        log.touch()

        def follow():
            with log.open(encoding="utf-8") as file:
                while True:
                    last = ended.wait(0.5)
                    for line in file:
                        print(f"  {line.rstrip()}", flush=True)
                    if last:
                        return

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            os.environ["STUDY_LOG"] = str(log)
            yield
        finally:
            del os.environ["STUDY_LOG"]
            ended.set()
            thread.join()


def find_notebooks(notebooks, only=()):
    """The notebooks NN_name.ipynb of a folder in order, or those of them whose number or name is in `only`.

    Raises:
        ValueError: there are none, or `only` names one that does not exist.
    """
    found = {path.stem: path for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise ValueError(f"no notebook NN_name.ipynb in {notebooks}")
    chosen = set()
    for name in only:
        match = [stem for stem in found if stem == name or stem[:2] == name.zfill(2)]
        if not match:
            raise ValueError(f"there is no notebook {name!r}; choose from {', '.join(found)}")
        chosen.update(match)
    return [path for stem, path in found.items() if not only or stem in chosen]


def read_profile(name, notebooks):
    """The parameters of a profile: those in profiles/<name>.yaml; "quick" has none, the notebooks' defaults.

    Raises:
        ValueError: there is no such profile, or its file is not a list of `name: value` lines.
    """
    paths = {path.stem: path for path in sorted((notebooks / "profiles").glob("*.yaml"))}
    if name not in {"quick", *paths}:
        raise ValueError(
            f"there is no profile {name!r}; choose from {', '.join(sorted({'quick', *paths}))}"
        )
    try:
        values = (
            yaml.safe_load(paths[name].read_text(encoding="utf-8")) or {} if name in paths else {}
        )
    except yaml.YAMLError as error:
        raise ValueError(
            f"{paths[name]}: not valid YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(f"{paths[name]}: expected lines `name: value`, found {values!r}")
    return values


def read_cells(notebook):
    """(type, tags, source) of each cell of a notebook file.

    Raises:
        ValueError: it is not a notebook.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return [
            (cell["cell_type"], cell["metadata"].get("tags", []), "".join(cell["source"]))
            for cell in cells
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{notebook} is not a notebook: {type(error).__name__}: {error}"
        ) from error


def read_parameters(notebook):
    """{name: default} of a notebook's parameters cell.

    Raises:
        ValueError: a line of it is not `name = literal`.
    """
    source = "\n".join(source for _, tags, source in read_cells(notebook) if "parameters" in tags)
    try:
        found = [
            (getattr(node, "target", None) or node.targets[0], node.value)
            for node in ast.parse(source).body
        ]
        return {target.id: ast.literal_eval(value) for target, value in found}
    except (SyntaxError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{notebook.name}: a parameter is not declared as `name = literal`: {error}"
        ) from error


def convert(name, value, default):
    """`value` in the type of the declared `default`; text is read as YAML unless text is declared.

    Raises:
        ValueError: it is of another type.
    """
    try:
        if isinstance(value, str) and not isinstance(default, str):
            value = yaml.safe_load(value)
        if isinstance(default, float) and not isinstance(value, bool):
            return float(value)
    except (yaml.YAMLError, TypeError, ValueError):
        pass
    if isinstance(default, list | tuple) and isinstance(value, list | tuple):
        return [convert(name, item, default[0]) if default else item for item in value]
    if default is not None and type(value) is not type(default):
        raise ValueError(
            f"parameter {name} must be of type {type(default).__name__} like {default!r}, found {value!r}"
        )
    return value


def check_range(name, value):
    """Raise ValueError for a number, alone or in a list, that no run can use: before anything is trained."""
    numbers, may_be_0 = (
        value if isinstance(value, list) else [value],
        name in ("seed", "epsilons", "margins"),
    )
    for number in numbers:
        if isinstance(number, int | float) and not (
            0 < number < float("inf") or may_be_0 and number == 0
        ):
            wanted = "0 or more" if may_be_0 else "above 0"
            raise ValueError(f"parameter {name} is {value!r}; it must be {wanted}, and finite")
    if name == "epsilons" and not any(numbers):
        raise ValueError(f"parameter {name} is {value!r}; give at least one noise level above 0")


def plan(notebooks, profile, overrides=(), only=()):
    """What to run: the chosen notebooks, each with every parameter that it declares.

    Args:
        notebooks: the folder.
        profile: a profile's name; its parameters replace the notebooks' defaults.
        overrides: (name, text) pairs that replace both.
        only: numbers or names of notebooks; empty for all.

    Returns:
        A list of (path, {name: value}).

    Raises:
        ValueError: an unknown profile, notebook, parameter or engine, or a value of the wrong type or range.
    """
    values, overrides = read_profile(profile, notebooks), dict(overrides)
    defaults = {path: read_parameters(path) for path in find_notebooks(notebooks)}
    chosen = find_notebooks(notebooks, only)
    if "profile" in values | overrides:
        raise ValueError("parameter profile is set by --profile")
    for names, where, source in (
        (values, defaults, f"profile {profile}"),
        (overrides, chosen, "-p"),
    ):
        known = sorted(set().union(*(defaults[path] for path in where)))
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                found = (
                    f"no notebook declares a parameter {name!r}; {hint}declared: {', '.join(known)}"
                )
                raise ValueError(f"{source}: {found}")
    values = values | overrides | {"profile": profile}
    by_file = parse(values.get("engine") or "")[0] == "slurm"
    if by_file and not Path(values["engine"]).expanduser().exists():
        raise ValueError(f"engine {values['engine']}: there is no such file")
    for name, is_path in (("root", True), ("engine", by_file)):
        if values.get(name) and is_path:  # notebooks run in their own folder
            values[name] = str(Path(values[name]).expanduser().resolve())
    steps = [
        (path, {n: convert(n, values.get(n, d), d) for n, d in defaults[path].items()})
        for path in chosen
    ]
    for _, parameters in steps:
        for name, value in parameters.items():
            check_range(name, value)
    return steps


def execute(notebook, parameters, output):
    """Run one notebook and put it in its place: `output` if every cell ran, else NN_name.failed.ipynb beside it.

    Returns:
        None, or what went wrong: the failed notebook's path, the cell, the error.
    """
    import nbformat  # here, because the two take a second, and bad usage is told before
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # its errors are reported below, once
    failed, error = output.with_suffix(".failed.ipynb"), None
    with tempfile.TemporaryDirectory(prefix="study-") as folder:
        draft, kernel = Path(folder, output.name), type("Kernel", (Kernel,), {"folder": folder})
        try:
            papermill.execute_notebook(
                notebook,
                draft,
                parameters,
                kernel_name="python3",
                kernel_manager_class=kernel,
                cwd=notebook.parent,
                start_timeout=180,
                iopub_timeout=60,
                store_widget_state=False,
                progress_bar=False,
            )
        except papermill.PapermillExecutionError as problem:
            error = f"{problem.ename}: {problem.evalue}"
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"
        result = nbformat.read(draft if draft.exists() else notebook, as_version=4)
    result.metadata.papermill = {"parameters": parameters}
    if not error and any(
        c.cell_type == "code" and c.source.strip() and not c.execution_count for c in result.cells
    ):
        error = "Unfinished: the notebook stopped before its last cell"
    with files.atomic_write(failed if error else output, "w") as file:
        nbformat.write(result, file)
    if error:
        return f"  notebook: {display_path(failed)}\n  {last_started(result)}\n  {error}"
    failed.unlink(missing_ok=True)


def last_started(notebook):
    """Number (in the notebook as committed, from 1), label and first line of the last cell that was started."""
    own = ("papermill-error-cell-tag", "injected-parameters")
    cells = [cell for cell in notebook.cells if own[0] not in cell.metadata.get("tags", [])]
    started = [
        place
        for place, cell in enumerate(cells)
        if cell.metadata.get("papermill", {}).get("start_time")
    ]
    if not started:
        return "cell: none was started"
    place = started[-1]
    number = sum(own[1] not in cell.metadata.get("tags", []) for cell in cells[: place + 1])
    line = next(iter(cells[place].source.strip().splitlines()), "")
    return f"cell {number} (In [{cells[place].get('execution_count') or ' '}]): {line}"


def source_digest(notebook):
    """SHA-256 of the notebook's cells without their outputs."""
    return files.digest_json(read_cells(notebook))


def results(folder):
    """{name: time of last change [ns]} of the tables and figures in a folder."""
    return {
        path.name: path.stat().st_mtime_ns
        for pattern in ("*.csv", "*.png")
        for path in folder.glob(pattern)
    }


def display_path(path):
    """A path as short as it can be told: relative if it is below the working directory."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else str(path)


def resume_command(profile, only=(), overrides=()):
    """The command that runs the rest."""
    words = [display_path(sys.executable), "-m", "helpers.study", "--profile", profile]
    words += ["--only", ",".join(only)] if only else []
    return shlex.join(
        words + [word for name, text in overrides for word in ("-p", f"{name}={text}")]
    )


def run(steps, profile, folder, overrides=()):
    """Run the planned notebooks into `folder`; stop at the first that fails.

    A notebook's NN_name.ok.json stands for its last run and only if that succeeded.

    Returns:
        The exit code: 0 all succeeded, 1 one failed, 130 interrupted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{len(steps)} notebook{'s' * (len(steps) > 1)} into {display_path(folder)}", flush=True)
    for place, (notebook, parameters) in enumerate(steps):
        rest = resume_command(profile, [path.stem[:2] for path, _ in steps[place:]], overrides)
        marker, before = folder / f"{notebook.stem}.ok.json", results(folder)
        marker.unlink(missing_ok=True)
        start, digest = time.monotonic(), source_digest(notebook)
        try:
            with followed():
                problem = execute(notebook, parameters, folder / notebook.name)
        except KeyboardInterrupt:
            print(f"{notebook.stem:<30}{time.monotonic() - start:8.1f} s  interrupted")
            print(f"  resume: {rest}", file=sys.stderr)
            return 130
        seconds = time.monotonic() - start
        print(f"{notebook.stem:<30}{seconds:8.1f} s  {'failed' if problem else 'ok'}", flush=True)
        if problem:
            print(f"{problem}\n  resume: {rest}", file=sys.stderr)
            return 1
        written = [name for name, changed in results(folder).items() if before.get(name) != changed]
        record = {
            "notebook": notebook.name,
            "source": digest,
            "parameters": parameters,
            "seconds": round(seconds, 1),
            "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "files": {name: files.digest_bytes((folder / name).read_bytes()) for name in written},
        }
        with files.atomic_write(marker, "w") as file:
            json.dump(record, file, indent=1)
    return 0


def summary(folder):
    """Text that says what a run's folder holds, with Table 1 if it is there."""
    lines = [f"\n{display_path(folder)} holds the executed notebooks and"]
    lines += [f"  {name}" for name in sorted(results(folder))] or ["  no table or figure"]
    if (table := folder / "table1.csv").exists():
        columns = ("attack", "epsilon", "n", "iou", "low", "high", "paper")
        with table.open(encoding="utf-8", newline="") as file:
            rows = [columns] + [
                tuple(row.get(name) or "–" for name in columns) for row in csv.DictReader(file)
            ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [
            "",
            "Table 1: mean IoU x 100 under untargeted attack, 95 % interval, and the paper's value",
        ]
        lines += [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        ]
    return "\n".join(lines)


def publish(profile, notebooks, runs, figures, readme, only=()):
    """Copy the tables and figures of a finished run, or of the notebooks in `only`, to `figures` (pictures only of the
    profiles quick and full; of a dataset of one's own, one table), renew the README's tables and, after a run with the
    notebooks' own parameters, their outputs; of the profiles quick and full also the networks, in data/weights.

    Returns:
        The paths written.

    Raises:
        ValueError: a notebook has not finished with the profile's parameters and its present cells, a file is not as
            the run left it, or a network is missing. Nothing is copied then.
    """
    # here, since torch takes a second
    from helpers.study.publish import (
        MAIN,
        publish_files,
        publish_summary,
        publish_weights,
        renew_outputs,
        renew_readme,
    )

    folder, known, datasets, steps = runs / profile, {}, set(), plan(notebooks, profile, only=only)
    for notebook, parameters in steps:
        marker, again = (
            folder / f"{notebook.stem}.ok.json",
            resume_command(profile, [notebook.stem[:2]]),
        )
        if not marker.exists():
            raise ValueError(
                f"{notebook.stem} has not finished in {display_path(folder)}; run {again}"
            )
        record = json.loads(marker.read_text(encoding="utf-8"))
        elsewhere = {"root": "", "engine": ""}  # these do not change a result
        ran, wanted = (
            json.loads(json.dumps(values | elsewhere))
            for values in (record["parameters"], parameters)
        )
        if record["source"] != source_digest(notebook) or ran != wanted:
            raise ValueError(
                f"{notebook.stem} in {display_path(folder)} ran with other parameters or cells; run {again}"
            )
        known |= record["files"]
        datasets.add(parameters.get("dataset", "phantom"))
    pictures = profile in MAIN and datasets == {"phantom"}
    names = [name for name in sorted(known) if pictures or name.endswith(".csv")]
    for name in names:
        path = folder / name
        if not path.exists() or known[name] != files.digest_bytes(path.read_bytes()):
            raise ValueError(
                f"{display_path(path)} is not as the run left it; run {resume_command(profile)}"
            )
    written = publish_weights(folder) if profile in MAIN and "clean.csv" in names else []
    written += (publish_summary if "folder" in datasets else publish_files)(folder, names, figures)
    if profile == "quick":
        written += [renew_outputs(notebook, folder / notebook.name) for notebook, _ in steps]
    return written + renew_readme(readme, figures)


def compare(profile, notebooks, runs, figures):
    """Print how far the tables of a run are from the published ones.

    Returns:
        The exit code: 0 all there and within the published intervals, 1 not.

    Raises:
        ValueError: there is no such profile, or nothing to compare.
    """
    from helpers.study.publish import compare as beside

    read_profile(profile, notebooks)
    table = beside(runs / profile, figures)
    print(table.to_string(index=False, na_rep="", float_format="{:.4g}".format))
    print(
        "outside: not in the published interval, or another verdict; empty where there is neither, or no table"
    )
    return int((table["outside"] > 0).any() or table["missing"].any())


def override(text):
    """Split name=value."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"expected name=value, found {text!r}")
    return name, value


def main(
    argv=None,
    *,
    notebooks=paths.NOTEBOOKS,
    runs=paths.RUNS,
    figures=paths.FIGURES,
    readme=paths.ROOT / "README.md",
):
    """The command line. Returns the exit code: 0 done, 1 a notebook failed, 2 bad usage, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.study", description=__doc__.splitlines()[0]
    )
    parser.error = lambda message: parser.exit(2, f"study: {message} (--help lists the options)\n")
    parser.add_argument(
        "--profile", default="quick", help="quick (default) or a file of notebooks/profiles"
    )
    parser.add_argument(
        "--only", action="append", default=[], help="number of a notebook, or several: 03,04"
    )
    parser.add_argument(
        "-p",
        dest="overrides",
        action="append",
        default=[],
        type=override,
        metavar="NAME=VALUE",
        help="a parameter that replaces the profile's, e.g. steps=10",
    )
    parser.add_argument(
        "--publish", metavar="PROFILE", help="copy a finished run's tables and figures to figures/"
    )
    parser.add_argument(
        "--compare", metavar="PROFILE", help="how far a run's tables are from the published ones"
    )
    options = parser.parse_args(argv)
    only = [name for text in options.only for name in text.split(",")]
    try:
        if options.overrides and (options.publish or options.compare):
            raise ValueError(
                "--publish and --compare take no -p: they are for runs with a profile's own parameters"
            )
        if options.compare and only:
            raise ValueError("--compare takes no --only: it compares each table that the run has")
        if options.publish:
            for path in publish(options.publish, notebooks, runs, figures, readme, only):
                print(display_path(path))
            return 0
        if options.compare:
            return compare(options.compare, notebooks, runs, figures)
        steps = plan(notebooks, options.profile, options.overrides, only)
    except ValueError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    code = run(steps, options.profile, runs / options.profile, options.overrides)
    if code == 0:
        print(summary(runs / options.profile))
    return code
