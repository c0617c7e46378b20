"""The batch runner, on small notebooks made here."""

import json
import os
import signal
import subprocess
import sys

import nbformat
import pytest
from clusters import alive, until
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers.common import files, paths, provenance
from helpers.study import runner

PARAMETERS = (
    'size: int = 128  # pixels\nepsilon = 0.01  # of 1\nroot = ""  # folder\nprofile = "quick"'
)
RECORD = "import json, pathlib\npathlib.Path({!r}, '{}').write_text(json.dumps([size, epsilon, root, profile]))"


class Place:
    """A folder with notebooks, runs and figures of its own."""

    def __init__(self, folder):
        self.notebooks, self.runs, self.figures = (
            folder / name for name in ("notebooks", "runs", "figures")
        )
        self.readme = folder / "README.md"
        (self.notebooks / "profiles").mkdir(parents=True)

    def write(self, name, *cells, parameters=PARAMETERS):
        head = [
            new_markdown_cell("# A title"),
            new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        ]
        kernel = {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        }
        notebook = new_notebook(
            cells=head + [new_code_cell(cell) for cell in cells], metadata=kernel
        )
        nbformat.write(notebook, self.notebooks / f"{name}.ipynb")

    def profile(self, name, text):
        (self.notebooks / "profiles" / f"{name}.yaml").write_text(text, encoding="utf-8")

    def main(self, *words):
        places = {name: getattr(self, name) for name in ("notebooks", "runs", "figures", "readme")}
        return runner.main(list(words), **places)

    def command(self, *words):
        """The same in a process of its own, to send signals to."""
        code = (
            "import sys, signal, pathlib; from helpers import study; signal.signal(15, signal.default_int_handler);"
            "signal.signal(2, signal.default_int_handler);"  # a job in the background is born deaf to it
            "a, b, c = map(pathlib.Path, sys.argv[1:4]);"
            "sys.exit(study.main(sys.argv[4:], notebooks=a, runs=b, figures=c))"
        )
        places = map(str, (self.notebooks, self.runs, self.figures))
        return [sys.executable, "-c", code, *places, *words]

    def in_run(self, profile="quick"):
        folder = self.runs / profile
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


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
    assert lines[0] == f"2 notebooks into {place.runs}/quick"
    assert [line.split()[0] for line in lines[1:3]] == ["01_first", "02_second"]
    assert all(line.endswith(" s  ok") for line in lines[1:3])


def test_a_parameter_replaces_the_profiles_and_that_the_notebooks(place, tmp_path):
    place.write("01_first", RECORD.format(str(tmp_path), "seen.json"))
    place.profile("full", "size: 256\nepsilon: 4e-2  # YAML takes this for text\n")
    assert place.main("--profile", "full", "-p", "size=64", "-p", "root=/my data=1") == 0
    assert json.loads((tmp_path / "seen.json").read_text()) == [64, 0.04, "/my data=1", "full"]


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


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ("worker=2", "engine 'worker=2' is unknown; give"),
        ("no/s.yaml", "engine no/s.yaml: there is no such file"),
    ],
)
def test_an_engine_that_cannot_be_is_told_before_anything_runs(place, capsys, engine, told):
    place.write("01_first", parameters=PARAMETERS + '\nengine = ""')
    assert place.main("-p", f"engine={engine}") == 2
    assert capsys.readouterr().err.startswith(f"study: {told}") and not place.runs.exists()


def test_a_slurm_file_is_found_from_where_the_command_was_given(place, tmp_path, monkeypatch):
    (tmp_path / "slurm.yaml").write_text("cores: 1\n")
    monkeypatch.chdir(tmp_path)
    check = f"assert engine == {str(tmp_path / 'slurm.yaml')!r}"
    place.write("01_first", check, parameters=PARAMETERS + '\nengine = ""')
    assert place.main("-p", "engine=slurm.yaml") == 0


def test_each_notebook_gets_only_what_it_declares(place):
    place.write("01_first", "assert size == 7")
    place.write("02_second", "assert 'size' not in globals()", parameters="steps = 100")
    assert place.main("-p", "size=7") == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["-p", "sise=3"],
            "-p: no notebook declares a parameter 'sise'; did you mean 'size'? declared: epsilon, ",
        ),
        (["-p", "size=abc"], "parameter size must be of type int like 128, found 'abc'"),
        (["-p", "size=1.5"], "parameter size must be of type int like 128, found 1.5"),
        (["-p", "size=true"], "parameter size must be of type int like 128, found True"),
        (["-p", "size="], "parameter size must be of type int like 128, found None"),
        (["-p", "epsilon=[1]"], "parameter epsilon must be of type float like 0.01, found [1]"),
        (["-p", "epsilon=0"], "parameter epsilon is 0.0; it must be above 0, and finite"),
        (["-p", "epsilon=.nan"], "parameter epsilon is nan; it must be above 0"),
        (["-p", "epsilon=.inf"], "parameter epsilon is inf; it must be above 0"),
        (["-p", "size=0"], "parameter size is 0; it must be above 0"),
        (["-p", "size"], "expected name=value, found 'size'"),
        (["-p", "profile=full"], "parameter profile is set by --profile"),
        (
            ["--profile", "ful"],
            "there is no profile 'ful'; choose from broken, full, list, odd, quick, wrong",
        ),
        (["--profile", "../profiles/full"], "there is no profile '../profiles/full'; choose from"),
        (
            ["--profile", "odd"],
            "profile odd: no notebook declares a parameter 'sizes'; did you mean 'size'?",
        ),
        (["--profile", "wrong"], "parameter size must be of type int like 128, found 'big'"),
        (["--profile", "broken"], "broken.yaml: not valid YAML"),
        (["--profile", "list"], "list.yaml: expected lines `name: value`, found ['size']"),
        (["--only", "9"], "there is no notebook '9'; choose from 01_first, 02_second"),
        (["--only", "01,"], "there is no notebook ''; choose from 01_first, 02_second"),
        (["--only", "02", "-p", "size=3"], "-p: no notebook declares a parameter 'size'"),
        (["--publish", "full", "-p", "steps=3"], "--publish and --compare take no -p"),
        (
            ["--publish", "full", "--only", "9"],
            "there is no notebook '9'; choose from 01_first, 02_second",
        ),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_usage_is_one_line_and_runs_nothing(place, capsys, words, told):
    place.write("01_first", "1/0")
    place.write("02_second", "1/0", parameters="steps = 100")
    texts = {
        "full": "size: 256",
        "odd": "sizes: 3",
        "wrong": "size: big",
        "broken": "size: [",
        "list": "- size",
    }
    for name, text in texts.items():
        place.profile(name, text)
    try:
        code = place.main(*words)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and told in error and error.count("\n") == 1
    assert not place.runs.exists()


@pytest.mark.parametrize(
    "text, told", [("[0.01, -1]", "it must be 0 or more"), ("[0.0]", "at least one noise level")]
)
def test_a_list_of_noise_levels_is_looked_through(place, capsys, text, told):
    place.write("01_first", "1/0", parameters="epsilons = [0.0, 0.01]")
    assert place.main("-p", f"epsilons={text}") == 2
    assert told in capsys.readouterr().err and not place.runs.exists()


def test_a_folder_without_notebooks_is_an_error(place, capsys):
    assert place.main() == 2
    assert "no notebook NN_name.ipynb in" in capsys.readouterr().err


def test_a_default_that_is_not_a_literal_is_an_error(place, capsys):
    place.write("01_first", parameters="size = 2 * 64")
    assert place.main() == 2
    assert (
        "01_first.ipynb: a parameter is not declared as `name = literal`: "
        in capsys.readouterr().err
    )


def test_a_file_that_is_no_notebook_is_an_error(place, capsys):
    (place.notebooks / "01_first.ipynb").write_text('{"cells": [')
    assert place.main() == 2
    assert "01_first.ipynb is not a notebook: JSONDecodeError" in capsys.readouterr().err


def test_bad_usage_is_told_without_waiting_for_papermill():
    code = "import sys, helpers.study\nsys.exit(len({'papermill', 'torch'} & set(sys.modules)))"
    words = [sys.executable, "-c", code]
    assert subprocess.run(words, cwd=paths.ROOT).returncode == 0


def test_a_parameter_may_hold_an_equals_sign_and_take_several_lines(place):
    parameters = 'root = "a=b"  # x=1\nsizes = [\n    1,  # first\n    2,\n]  # pixels'
    place.write("01_first", parameters=parameters)
    assert runner.read_parameters(place.notebooks / "01_first.ipynb") == {
        "root": "a=b",
        "sizes": [1, 2],
    }


@pytest.mark.parametrize(
    ("value", "default", "result"),
    [
        ("[0, 1e-2]", [0.5], [0.0, 0.01]),
        ("(1)", (1,), None),
        ("[0.01, abc]", [0.5], None),
        ("[1, 3.5]", [1], None),
        ("2", 0.5, 2.0),
        ("no", True, False),
        ("no", "", "no"),
    ],
)
def test_a_value_takes_the_declared_type(value, default, result):
    if result is None:
        with pytest.raises(ValueError, match="must be of type (tuple|float|int)"):
            runner.convert("name", value, default)
    else:
        found = runner.convert("name", value, default)
        assert found == result and type(found) is type(result)


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
    assert (
        told[1].startswith("  cell 4 (In [4]): y = size")
        and told[2] == "  KeyError: 'no such case'"
    )
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
    assert "  cell 4 (" in told and f": {cell.splitlines()[0]}\n" in told and f"  {error}: " in told


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
        f"assert helpers.__path__[0] == {str(files.ROOT / 'helpers')!r}, helpers.__path__",
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


def test_the_executed_notebook_holds_no_widget_state_and_no_path_of_this_machine(place):
    place.write("01_first", "import ipywidgets\nipywidgets.IntSlider()")
    assert place.main() == 0
    text = (place.runs / "quick/01_first.ipynb").read_text()
    assert "widget-state" not in text and str(place.runs) not in text and "study-" not in text


def test_table_1_stands_beside_the_papers_values_at_the_end(place, capsys):
    cell = "import pathlib\npathlib.Path('../runs/quick/table1.csv').write_text('"
    place.write(
        "01_first",
        cell + "attack,epsilon,n,iou,low,high,paper,seed\\n"
        "white-box,0.01,20,25.1,20.0,30.2,31.0,0\\nrandom-noise,0.01,20,90.5,89,91,,0\\n')",
    )
    assert place.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  table1.csv" in lines
    assert [line.split() for line in lines[-3:]] == [
        "attack epsilon n iou low high paper".split(),
        "white-box 0.01 20 25.1 20.0 30.2 31.0".split(),
        "random-noise 0.01 20 90.5 89 91 –".split(),
    ]
    assert len({len(line) for line in lines[-3:]}) == 1


def publishable(place, dataset="phantom"):
    cell = "from pathlib import Path\nfor n in ('a.csv', 'b.png'):\n    Path(f'../runs/{profile}/{n}').write_text(n)"
    place.write("01_first", cell, parameters=f'dataset = "{dataset}"\nprofile = "quick"\nsize = 1')
    place.profile("full", "size: 2")


def test_publish_copies_a_finished_run(place):
    publishable(place)
    assert place.main("--profile", "full") == 0
    assert not place.figures.exists()
    assert place.main("--publish", "full") == 0
    assert {path.name: path.read_text() for path in place.figures.iterdir()} == {
        "a.csv": "a.csv",
        "b.png": "b.png",
    }


@pytest.mark.parametrize(("profile", "ships"), [("quick", True), ("full", True), ("other", False)])
def test_publish_takes_the_networks_of_the_profiles_that_come_with_the_study(
    place, monkeypatch, profile, ships
):
    place.write(
        "01_first",
        "from pathlib import Path\nPath(f'../runs/{profile}/clean.csv').write_text('n')",
        parameters='profile = "quick"\nsize = 1',
    )
    place.profile("full", "size: 2")
    place.profile("other", "size: 3")
    asked = []
    monkeypatch.setattr(
        "helpers.study.publish.publish_weights", lambda folder: asked.append(folder.name) or []
    )
    assert place.main("--profile", profile) == 0 and place.main("--publish", profile) == 0
    assert asked == [profile] * ships


def test_publish_of_some_notebooks_asks_for_no_others(place):
    publishable(place)
    place.write("02_second", "1/0")
    assert place.main("--profile", "full") == 1
    assert place.main("--publish", "full") == 2 and not place.figures.exists()
    assert place.main("--publish", "full", "--only", "01") == 0
    assert sorted(path.name for path in place.figures.iterdir()) == ["a.csv", "b.png"]


def test_publish_leaves_alone_what_the_run_did_not_make(place):
    publishable(place)
    assert place.main("--profile", "full") == 0
    (place.runs / "full" / "c.csv").write_text("of an earlier run")
    assert place.main("--publish", "full") == 0
    assert sorted(path.name for path in place.figures.iterdir()) == ["a.csv", "b.png"]


def test_a_relative_root_is_the_callers(place, monkeypatch, tmp_path):
    place.write("01_first", parameters='profile = "quick"\nroot = ""')
    monkeypatch.chdir(tmp_path)
    ((_, values),) = runner.plan(place.notebooks, "quick", [("root", "mine")])
    assert values["root"] == str(tmp_path.resolve() / "mine")


def test_publish_keeps_a_run_apart_that_is_not_one_of_the_main_profiles(place):
    publishable(place)
    place.profile("other", "size: 3")
    assert place.main("--profile", "other") == 0 and place.main("--publish", "other") == 0
    assert [path.name for path in (place.figures / "other").iterdir()] == ["a.csv"]


def test_publish_gives_the_notebooks_the_outputs_of_a_quick_run(place):
    publishable(place)
    place.write("01_first", "print(1 + 1)")
    assert place.main() == 0 and place.main("--publish", "quick") == 0
    notebook = nbformat.read(place.notebooks / "01_first.ipynb", as_version=4)
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2]
    assert notebook.cells[-1].outputs[0].text == "2\n"
    assert (
        not any("papermill" in cell.metadata for cell in notebook.cells)
        and "papermill" not in notebook.metadata
    )


def test_the_lines_of_progress_that_a_notebook_writes_are_shown(place, capfd):
    place.write(
        "01_first",
        "import os\nwith open(os.environ['STUDY_LOG'], 'a') as file: print('epoch 1', file=file)",
    )
    assert place.main() == 0
    assert "  epoch 1\n" in capfd.readouterr().out


def test_publish_copies_no_picture_of_other_datasets(place):
    publishable(place, dataset="jsrt")
    assert place.main("--profile", "full") == 0 and place.main("--publish", "full") == 0
    assert [path.name for path in place.figures.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    "fault", ["nothing ran", "parameters", "cells", "edited", "removed", "second", "unknown"]
)
def test_publish_refuses_what_the_profile_did_not_make(place, capsys, fault):
    publishable(place)
    if fault != "nothing ran":
        assert (
            place.main("--profile", "full", *(("-p", "size=9") if fault == "parameters" else ()))
            == 0
        )
    if fault == "cells":
        place.write(
            "01_first", "x = 2", parameters='dataset = "phantom"\nprofile = "quick"\nsize = 1'
        )
    if fault == "second":
        place.write("02_second")
    if fault == "edited":
        (place.runs / "full" / "a.csv").write_text("by hand")
    if fault == "removed":
        (place.runs / "full" / "b.png").unlink()
    capsys.readouterr()
    assert place.main("--publish", "none" if fault == "unknown" else "full") == 2
    error = capsys.readouterr().err
    expected = {
        "nothing ran": "01_first has not finished in",
        "parameters": "ran with other parameters or cells; run",
        "cells": "ran with other parameters or cells; run",
        "edited": "a.csv is not as the run left it",
        "removed": "b.png is not as the run left it",
        "second": "02_second has not finished in",
        "unknown": "there is no profile 'none'; choose from full, quick",
    }
    assert expected[fault] in error and error.count("\n") == 1
    assert not place.figures.exists()


def test_the_module_is_a_command():
    result = subprocess.run(
        [sys.executable, "-m", "helpers.study", "--profile", "none"],
        capture_output=True,
        text=True,
        cwd=paths.ROOT,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert result.returncode == 2 and result.stderr.startswith(
        "study: there is no profile 'none'; choose from"
    )
