"""The batch runner, on small notebooks made here."""

import json
import os
import signal
import subprocess
import sys
import tempfile

import pytest
from clusters import alive, until
from filelock import FileLock

from helpers.common import files, paths, provenance

pytestmark = pytest.mark.slow


def test_notebooks_run_in_order_and_leave_their_markers(place, capsys):
    place.write("02_second", "import pathlib\nassert pathlib.Path('first').exists()")
    place.write("01_first", "import pathlib\npathlib.Path('first').touch()")
    assert place.main() == 0
    assert place.in_run() == [
        "01_first.ipynb",
        "01_first.ok.json",
        "02_second.ipynb",
        "02_second.ok.json",
    ]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"2 notebook(s) into {place.runs}/quick"
    assert [line.split()[0] for line in lines[1:3]] == ["01_first", "02_second"]
    assert all(line.endswith(" s  ok") for line in lines[1:3])


def test_the_marker_says_what_ran(place):
    place.write(
        "01_first", "import pathlib, os\npathlib.Path('../runs/quick/a.csv').write_text('x')"
    )
    place.runs.joinpath("quick").mkdir(parents=True)
    place.runs.joinpath("quick/old.csv").write_text("old")
    assert place.main("-p", "size=3") == 0
    record = json.loads((place.runs / "quick/01_first.ok.json").read_text())
    assert record["parameters"] == {"size": 3, "epsilon": 0.01, "root": "", "profile": "quick"}
    assert record["files"] == {"a.csv": files.digest_bytes(b"x")}
    assert (
        record["commit"] == provenance.commit()
        and record["versions"] == provenance.versions()
        and record["seconds"] > 0
    )


def test_a_failing_cell_stops_the_study_and_says_how_to_resume(place, capsys):
    place.write("01_first")
    place.write("02_second", "x = 1", "y = size\nraise KeyError('no such case')")
    place.write("03_third")
    place.profile("full", "size: 256")
    assert place.main("--profile", "full", "--only", "02,3", "-p", "root=my data") == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].split()[
        0
    ] == "02_second" and captured.out.rstrip().endswith("failed")
    assert place.in_run("full") == ["02_second.failed.ipynb"]
    told = captured.err.splitlines()
    assert told[0] == f"  notebook: {place.runs}/full/02_second.failed.ipynb"
    assert told[1].startswith("  cell In [4]: y = size") and told[2] == "  KeyError: 'no such case'"
    assert told[3].endswith(" -m helpers.study --profile full --only 02,03 -p 'root=my data'")


def test_a_failed_run_takes_the_marker_of_an_earlier_one_away(place):
    place.write("01_first", "assert size == 128")
    assert place.main() == 0
    assert place.main("-p", "size=64") == 1
    assert place.in_run() == ["01_first.failed.ipynb", "01_first.ipynb"]
    assert place.main() == 0
    assert place.in_run() == ["01_first.ipynb", "01_first.ok.json"]


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        ("import os\nos.kill(os.getpid(), 9)", "DeadKernelError"),
        ("raise SystemExit(0)", "Unfinished"),
    ],
)
def test_a_kernel_that_ends_too_early_is_a_failure(place, capsys, cell, error):
    place.write("01_first", "x = 1", cell, "y = 2")
    assert place.main() == 1
    assert place.in_run() == ["01_first.failed.ipynb"]
    told = capsys.readouterr().err
    assert (
        "  cell In [" in told and f": {cell.splitlines()[0]}\n" in told and f"  {error}: " in told
    )


def test_a_syntax_error_in_the_first_cell_is_a_failure(place, capsys):
    place.write("01_first", "x = = 1")
    assert place.main() == 1
    assert "SyntaxError" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_half_written_and_no_kernel(place, tmp_path, number):
    pid = tmp_path / "pid"
    cell = f"import os, time, pathlib\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    place.write("01_first", cell)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(place.command(), cwd=paths.ROOT, **pipes)
    until(lambda: pid.exists() and pid.read_text())
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in out
    assert len(error.splitlines()) == 1 and "resume:" in error
    assert place.in_run() == []
    until(lambda: not alive(int(pid.read_text())), 10)


def test_the_kernel_is_this_interpreters_whatever_jupyter_knows(place, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter/kernels/python3"
    spec.mkdir(parents=True)
    spec.joinpath("kernel.json").write_text(
        '{"argv": ["/bin/false"], "display_name": "x", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    place.write(
        "01_first",
        f"import sys, helpers\nassert sys.executable == {sys.executable!r}, sys.executable",
        f"assert helpers.__path__[0] == {str(paths.ROOT / 'helpers')!r}, helpers.__path__",
    )
    assert place.main() == 0


def test_two_runs_at_once_do_not_disturb_each_other(place):
    place.write(
        "01_first",
        "import time\ntime.sleep(0.3)",
        "assert size == {'quick': 128, 'full': 256}[profile]",
    )
    place.profile("full", "size: 256")
    words = ((), (), ("--profile", "full"))
    processes = [
        subprocess.Popen(place.command(*each), stdout=subprocess.DEVNULL, cwd=paths.ROOT)
        for each in words
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert place.in_run("quick") == place.in_run("full") == ["01_first.ipynb", "01_first.ok.json"]


def test_of_two_runs_into_one_folder_each_records_its_own_files(place):
    waiting = f"import pathlib, time\nfolder = pathlib.Path({str(place.runs / 'quick')!r})"
    for name in ("01_first", "02_second"):
        write = f"(folder / '{name}_a.csv').write_text('a')\ntime.sleep(1)"
        place.write(name, waiting, write, f"(folder / '{name}_b.csv').write_text('b')")
    commands = [place.command("--only", number) for number in ("01", "02")]
    quiet = {"stdout": subprocess.DEVNULL, "cwd": paths.ROOT}
    processes = [subprocess.Popen(each, **quiet) for each in commands]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    for name in ("01_first", "02_second"):
        record = json.loads((place.runs / f"quick/{name}.ok.json").read_text())
        assert [*record["files"]] == [f"{name}_a.csv", f"{name}_b.csv"]


def test_an_interrupt_while_another_run_is_waited_for_is_told_in_a_line(place):
    place.write("01_first", "1")
    place.runs.mkdir(exist_ok=True)
    with FileLock(place.runs / ".quick.lock"):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(place.command(), cwd=paths.ROOT, **pipes)
        for line in process.stdout:
            if line.startswith("waiting for another run"):
                break
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and len(error.splitlines()) == 1 and "resume:" in error


def test_the_executed_notebook_holds_no_widget_state_and_no_path_of_this_machine(place):
    place.write("01_first", "import ipywidgets\nipywidgets.IntSlider()")
    assert place.main() == 0
    text = (place.runs / "quick/01_first.ipynb").read_text()
    assert "widget-state" not in text and str(place.runs) not in text and "study-" not in text


def test_the_lines_of_progress_that_a_notebook_writes_are_shown(place, capfd):
    place.write(
        "01_first",
        "import os\nwith open(os.environ['STUDY_LOG'], 'a') as file: print('epoch 1', file=file)",
    )
    assert place.main() == 0
    assert "  epoch 1\n" in capfd.readouterr().out


def test_the_module_is_a_command():
    result = subprocess.run(
        [sys.executable, "-m", "helpers.study", "--profile", "none"],
        capture_output=True,
        text=True,
        cwd=paths.ROOT,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert result.returncode == 2 and result.stderr.startswith(
        "study: profile 'none' is unknown; choose one of"
    )


def test_a_console_that_lacks_a_character_ends_no_run(place):
    line = "print('é', file=open(os.environ['STUDY_LOG'], 'a', encoding='utf-8'))"
    place.write("03_third", f"import os\n{line}")
    done = subprocess.run(
        place.command(),
        env=os.environ | {"PYTHONIOENCODING": "cp932", "PYTHONPATH": str(paths.ROOT)},
        capture_output=True,
        cwd=place.notebooks,
    )
    assert done.returncode == 0 and b"UnicodeEncodeError" not in done.stderr
    assert "  ?" in done.stdout.decode("cp932").splitlines()


def test_a_long_temporary_folder_is_no_obstacle(place, tmp_path, monkeypatch):
    folder = tmp_path / ("u" * 60) / "job_1234567.cluster.example.org"
    folder.mkdir(parents=True)
    assert len(str(folder)) > 107
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    place.write("01_first", "x = 1")
    assert place.main() == 0
