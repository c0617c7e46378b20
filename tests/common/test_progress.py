"""The log, the progress bar that gives way to it, and durations."""

import os
import subprocess
import sys

import pytest

from helpers.common import paths, progress


@pytest.mark.parametrize(
    "seconds, text", [(0, "00:00"), (0.2, "00:01"), (65, "01:05"), (7200, "2:00:00")]
)
def test_a_time_is_written_as_on_a_clock(seconds, text):
    assert progress.format_duration(seconds) == text


def test_lines_are_added_to_the_log(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STUDY_LOG", str(tmp_path / "log"))
    progress.log("epoch 1, ε = 0.04")
    progress.log("epoch 2")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "epoch 1, ε = 0.04\nepoch 2\n"
    assert capsys.readouterr().out == ""


def test_without_a_log_lines_are_printed(monkeypatch, capsys):
    monkeypatch.delenv("STUDY_LOG", raising=False)
    progress.log("epoch 1")
    assert capsys.readouterr().out == "epoch 1\n"


@pytest.mark.parametrize("place", ["none/log", "", "."])
def test_a_log_that_cannot_be_written_is_printed_and_never_raises(
    tmp_path, monkeypatch, capsys, place
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUDY_LOG", place)  # as a job on another machine inherits it
    progress.log("epoch 1")
    assert capsys.readouterr().out == "epoch 1\n" and os.listdir(tmp_path) == []


def run(code, **options):
    environment = {name: value for name, value in os.environ.items() if name != "STUDY_LOG"}
    command = [
        sys.executable,
        "-c",
        "from helpers.common.progress import log, progress_bar\n" + code,
    ]
    options = {"cwd": paths.ROOT, "env": environment, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, **options)


def test_a_closed_output_never_raises():
    closed = run("import sys; sys.stdout.close(); log('a'); sys.stdout = None; log('b')")
    assert (closed.returncode, closed.stderr) == (0, b"")


def test_a_pipe_that_nobody_reads_never_raises():
    end, other = os.pipe()
    os.close(end)
    try:  # os._exit: the interpreter's own last flush is not ours
        found = run("log('a'); log('b'); import os; os._exit(7)", stdout=other)
    finally:
        os.close(other)
    assert (found.returncode, found.stderr) == (7, b"")


def test_characters_that_the_terminal_lacks_never_raise():
    found = run("import sys; sys.stdout.reconfigure(encoding='ascii'); log('ε'); log('a')")
    assert (found.returncode, found.stderr) == (0, b"")


@pytest.mark.parametrize("logged", [True, False])
def test_a_bar_is_drawn_only_where_somebody_sees_it(monkeypatch, tmp_path, logged):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("STUDY_LOG", raising=False)
    if logged:
        monkeypatch.setenv("STUDY_LOG", str(tmp_path / "log"))
    with progress.progress_bar(total=3) as bar:
        assert bar.disable == logged


def test_neither_terminal_nor_notebook_has_a_bar():
    found = run("bar = progress_bar(total=3); bar.update(); assert bar.disable")
    assert (found.returncode, found.stderr) == (0, b"")
