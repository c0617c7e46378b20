"""What notebooks declare, and what can be asked of them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from radiographs import write

from helpers.common import paths
from helpers.study import parameters

ENGINE = 'engine = ""\nprofile = "quick"'
RECORD = "import json, pathlib\npathlib.Path({!r}, '{}').write_text(json.dumps([size, epsilon, root, profile]))"


def test_a_parameter_replaces_the_profiles_and_that_the_notebooks(place, tmp_path):
    place.write("01_first", RECORD.format(str(tmp_path), "seen.json"))
    place.profile("full", "size: 256\nepsilon: 4e-2  # YAML takes this for text\n")
    assert place.main("--profile", "full", "-p", "size=64", "-p", "root=/my data=1") == 0
    assert json.loads((tmp_path / "seen.json").read_text()) == [64, 0.04, "/my data=1", "full"]


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ("worker=2", "engine 'worker=2' is unknown; give"),
        ("no/s.yaml", "engine is 'no/s.yaml'; there is no such file"),
    ],
)
def test_an_engine_that_cannot_be_is_told_before_anything_runs(place, capsys, engine, told):
    place.write("01_first", parameters=ENGINE)
    assert place.main("-p", f"engine={engine}") == 2
    assert capsys.readouterr().err.startswith(f"study: {told}") and not place.runs.exists()


def test_a_slurm_file_is_found_from_where_the_command_was_given(place, tmp_path, monkeypatch):
    (tmp_path / "slurm.yaml").write_text("cores: 1\n")
    monkeypatch.chdir(tmp_path)
    check = f"assert engine == {str(tmp_path / 'slurm.yaml')!r}"
    place.write("01_first", check, parameters=ENGINE)
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
            "-p: parameter 'sise' is unknown; choose one of epsilon, root, size",
        ),
        (["-p", "size=abc"], "size is 'abc'; it must be of type int like 128"),
        (["-p", "size=1.5"], "size is '1.5'; it must be of type int like 128"),
        (["-p", "size=true"], "size is 'true'; it must be of type int like 128"),
        (["-p", "size="], "size is ''; it must be of type int like 128"),
        (["-p", "epsilon=[1]"], "epsilon is '[1]'; it must be of type float like 0.01"),
        (["-p", "epsilon=0"], "epsilon is 0.0; it must be above 0, and finite"),
        (["-p", "epsilon=nan"], "epsilon is nan; it must be above 0"),
        (["-p", "epsilon=inf"], "epsilon is inf; it must be above 0"),
        (["-p", "size=0"], "size is 0; it must be above 0"),
        (["-p", "size=99999999999"], "size is 99999999999; it must be below 2147483648"),
        (["-p", "size"], "expected name=value, found 'size'"),
        (
            ["-p", "profile=full"],
            "-p: parameter 'profile' is unknown; choose one of epsilon, root, size",
        ),
        (
            ["--profile", "ful"],
            "profile 'ful' is unknown; choose one of quick, broken, full, list, odd, wrong",
        ),
        (["--profile", "../profiles/full"], "profile '../profiles/full' is unknown; choose one of"),
        (
            ["--profile", "odd"],
            "profile odd: parameter 'sizes' is unknown; choose one of epsilon, ",
        ),
        (["--profile", "wrong"], "size is 'big'; it must be of type int like 128"),
        (["--profile", "broken"], "profile broken.yaml: write lines `name: value`: "),
        (["--profile", "list"], "profile list.yaml: write lines `name: value`: "),
        (["--only", "9"], "notebook '09' is unknown; choose one of 01, 01_first, 02, 02_second"),
        (["--only", "01,"], "notebook '00' is unknown; choose one of 01, 01_first, 02"),
        (["--only", "02", "-p", "size=3"], "-p: parameter 'size' is unknown; choose one of steps"),
        (["--publish", "full", "-p", "steps=3"], "--publish takes no -p"),
        (
            ["--publish", "full", "--only", "9"],
            "notebook '09' is unknown; choose one of 01, 01_first, 02, 02_second",
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
    "text, told",
    [
        ("[0.01, -1]", "it must be 0 or more"),
        ("[0.0]", "at least one noise level"),
    ],
)
def test_a_list_of_noise_levels_is_looked_through(place, capsys, text, told):
    place.write("01_first", "1/0", parameters="epsilons = [0.0, 0.01]")
    assert place.main("-p", f"epsilons={text}") == 2
    assert told in capsys.readouterr().err and not place.runs.exists()


def test_a_folder_without_notebooks_is_an_error(place, capsys):
    assert place.main() == 2
    assert "it holds no NN_name.ipynb" in capsys.readouterr().err


def test_a_default_that_is_not_a_literal_is_an_error(place, capsys):
    place.write("01_first", parameters="size = 2 * 64")
    assert place.main() == 2
    assert (
        "01_first.ipynb: not a notebook whose parameters are declared as `name = literal`: "
        in capsys.readouterr().err
    )


def test_a_file_that_is_no_notebook_is_an_error(place, capsys):
    (place.notebooks / "01_first.ipynb").write_text('{"cells": [')
    assert place.main() == 2
    assert "01_first.ipynb: not a notebook whose" in capsys.readouterr().err


@pytest.mark.slow
def test_bad_usage_is_told_without_waiting_for_papermill():
    code = "import sys, helpers.study.__main__\nsys.exit('papermill' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT).returncode == 0


def test_a_parameter_may_hold_an_equals_sign_and_take_several_lines(place):
    source = 'root = "a=b"  # x=1\nsizes = [\n    1,  # first\n    2,\n]  # pixels'
    place.write("01_first", parameters=source)
    assert parameters.read_parameters(place.notebooks / "01_first.ipynb") == {
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
        ("12", [1], None),
        ("2", 0.5, 2.0),
        ("no", True, None),
        ("no", "", "no"),
    ],
)
def test_a_value_takes_the_declared_type(value, default, result):
    if result is None:
        with pytest.raises(ValueError, match="must be of type (tuple|list|bool)"):
            parameters.convert("name", value, default)
    else:
        found = parameters.convert("name", value, default)
        assert found == result and type(found) is type(result)


def test_a_relative_root_is_the_callers(place, monkeypatch, tmp_path):
    place.write("01_first", parameters='profile = "quick"\nroot = ""')
    monkeypatch.chdir(tmp_path)
    ((_, values),) = parameters.plan(place.notebooks, "quick", [("root", "mine")])
    assert values["root"] == str(tmp_path.resolve() / "mine")


JUDGED = """
filters = ["jpeg 75"]
dataset = "phantom"
root = ""
size = 128
depth = 3
structure = "heart"
augmentation = "elastic"
precision = "auto"
epsilons = [0.01, 0.02]
steps = 100
step_counts = [10, 30]
device = "auto"
profile = "quick"
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epsilons=[5]", "epsilons is 5.0; it must be at most 2, the range of intensities"),
        ("epsilons=[010]", "epsilons is 10.0; it must be at most 2, the range of intensities"),
        ("structure=Heart", "structure 'Heart' is unknown; choose one of heart, left clavicle, r"),
        ("device=mps", "device 'mps' is unknown; choose one of auto, cpu, cuda"),
        ("device=cuda:0", "device 'cuda:0' is unknown; choose one of auto, cpu, cuda"),
        ("precision=fp16", "precision 'fp16' is unknown; choose one of auto, bf16, fp32"),
        ("dataset=fantom", "dataset 'fantom' is unknown; choose one of phantom, jsrt, folder"),
        (
            "augmentation=elastik affine",
            "augmentation 'elastik' is unknown; choose one of elastic, affine",
        ),
        (
            "size=100",
            "size is 100; it must be divisible by 8 (2**depth): choose another or a smaller",
        ),
        ("filters=[jpg 75]", "defence 'jpg' is unknown; choose one of bits, jpeg"),
        ("filters=[]", "filters is []; give one or more"),
        ("filters=[jpeg]", "defence is 'jpeg'; give a strength above 0 after its name"),
        ("dataset=folder", "root is ''; name a folder that exists, as in -p root=FOLDER"),
        ("root=nowhere", "; name a folder that exists, as in -p root=FOLDER; phantom has none"),
        ("steps=0x10", "steps is '0x10'; it must be of type int like 100"),
        ("steps=1:30", "steps is '1:30'; it must be of type int like 100"),
    ],
)
def test_what_no_run_can_use_is_refused_before_anything_runs(place, capsys, text, told):
    place.write("01_first", "1/0", parameters=JUDGED)
    assert place.main("-p", text) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and not place.runs.exists()


def test_a_root_that_is_not_there_is_refused(place, capsys):
    place.write("01_first", "1/0", parameters=JUDGED)
    assert place.main("-p", "dataset=jsrt", "-p", "root=nowhere") == 2
    assert "nowhere'; name a folder that exists" in capsys.readouterr().err


def test_a_number_that_begins_with_zero_is_decimal(place):
    place.write("01_first", parameters=JUDGED)
    place.profile("ten", "steps: 010\nstep_counts: [010, 30]")
    for profile, overrides in (
        ("ten", []),
        ("quick", [("steps", "010"), ("step_counts", "[010, 30]")]),
    ):
        ((_, values),) = parameters.plan(place.notebooks, profile, overrides)
        assert values["steps"] == 10 and values["step_counts"] == [10, 30]


@pytest.mark.parametrize(
    "files",
    [
        {"images/a.png": "", "masks/left lung/a.png": "", "masks/empty/notes.txt": ""},
        {"images/a.png": "", "labels/a.png": "", "labels.csv": "value,name\n1,left lung\n2,void\n"},
        {"CXR_png/a.png": "", "ManualMask/leftMask/a.png": "", "ManualMask/rightMask/a.png": ""},
    ],
    ids=["masks", "labels", "Montgomery"],
)
def test_the_structures_of_a_folder_are_known_before_anything_runs(place, tmp_path, capsys, files):
    for name, text in files.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(text)
    place.write("01_first", "assert structure == 'left lung'", parameters=JUDGED)
    words = "-p", "dataset=folder", "-p", f"root={tmp_path / 'mine'}"
    assert place.main(*words) == 2
    told = capsys.readouterr().err
    assert "structure 'heart' is unknown; choose one of left lung" in told and told.count("\n") == 1
    assert place.main(*words, "-p", "structure=left lung") == 0


def test_every_profile_can_be_run(tmp_path):
    for profile in ("quick", *(path.stem for path in paths.NOTEBOOKS.glob("profiles/*.yaml"))):
        own = [("root", str(tmp_path))] if profile in ("hannover", "patients") else []
        steps = parameters.plan(paths.NOTEBOOKS, profile, own)
        assert len(steps) == len(parameters.find_notebooks(paths.NOTEBOOKS))


NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Conv2d(1, 6, 1)

def anew():
    torch.seed()
    return nn.Conv2d(1, 6, 1)

def leaves():
    raise SystemExit(3)

def nothing():
    return lambda images: torch.full((len(images), 6, *images.shape[2:]), torch.nan)

def relative():
    return nn.Conv2d(1, len(open("six.txt").read()), 1)

def four():
    return nn.Conv2d(1, 4, 1)

def text():
    return "a network"

def failing():
    raise OSError("no weights")
"""
WITH_NETWORK = 'dataset = "phantom"\nsize = 16\nnetwork = ""\nsurrogate = ""\nprofile = "quick"'


@pytest.mark.parametrize("name", ["network", "surrogate"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("none.py:build", "none.py:build' fails"),
        ("mine.py", "is 'mine.py'; write file.py:function or package.module:function"),
        ("mine.py:bild", "no attribute 'bild'"),
        ("mine.py:failing", "OSError: no weights"),
        ("mine.py:text", "'str' object is not callable"),
        ("mine.py:four", "number of classes is 4; the data have 6"),
        ("no.such.package:build", "ModuleNotFoundError"),
        ("mine.py:anew", "it is another at each call: load its weights, or set a seed"),
        ("mine.py:leaves", "SystemExit: 3"),
        ("mine.py:nothing", "the network's answer is 'not finite'"),
    ],
)
def test_a_network_that_cannot_be_used_is_told_before_anything_runs(
    place, tmp_path, monkeypatch, capsys, name, given, told
):
    (tmp_path / "mine.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    place.write("01_first", "1/0", parameters=WITH_NETWORK)
    assert place.main("-p", f"{name}={given}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"study: {name}") and told in error and error.count("\n") == 1
    assert not place.runs.exists()


def test_a_network_of_other_classes_than_a_folder_s_label_maps_is_told(place, tmp_path, capsys):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").touch()
    (tmp_path / "labels.csv").write_text("value,name\n1,heart\n2,lung\n255,ignore\n")
    (tmp_path / "mine.py").write_text(NETWORK)
    place.write("01_first", "1/0", parameters=f"{WITH_NETWORK}\nroot = ''")
    words = [
        "-p",
        f"network={tmp_path}/mine.py:four",
        "-p",
        "dataset=folder",
        "-p",
        f"root={tmp_path}",
    ]
    assert place.main(*words) == 2
    told = capsys.readouterr().err
    assert "number of classes is 4; the data have 3 (background, heart, lung)" in told
    assert told.count("\n") == 1 and not place.runs.exists()


def test_a_network_is_found_from_where_the_command_was_given(place, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    check = f"assert network == {str(tmp_path / 'mine.py')!r} + ':build' and surrogate == ''"
    place.write("01_first", check, parameters=WITH_NETWORK)
    assert place.main("-p", "network=mine.py:build") == 0


def test_a_package_beside_the_caller_is_found_by_the_kernel_too(place, tmp_path, monkeypatch):
    (tmp_path / "nets_of_mine.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as of python -m
    place.write("01_first", "import nets_of_mine", parameters=WITH_NETWORK)
    assert place.main("-p", "network=nets_of_mine:build") == 0


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("basis=foo", "basis 'foo' is unknown; choose one of truth, prediction"),
        ("structure=", "structure is ''; name one"),
        ("target_seeds=[1, 1]", r"target_seeds is \[1, 1\]; give each once"),
        ("epsilons=[0.04, 0.040]", r"epsilons is \[0.04, 0.04\]; give each once"),
    ],
)
def test_what_a_notebook_would_refuse_late_is_refused_at_once(value, told):
    name = value.partition("=")[0]
    only = {"basis": ["09"], "target_seeds": ["07"]}.get(name, ["04"])
    with pytest.raises(ValueError, match=told):
        parameters.plan(paths.NOTEBOOKS, "quick", [(name, value.partition("=")[2])], only)


def test_the_notebook_of_the_ratio_is_left_out_where_there_is_no_heart(tmp_path, capsys):
    square = np.zeros((8, 8), dtype=np.uint8)
    square[2:6, 2:6] = 255
    for name in ("images", "masks/left lung", "masks/right lung"):
        write(tmp_path / name / "c1.png", square)
    own = [("dataset", "folder"), ("root", str(tmp_path)), ("structure", "left lung")]
    names = [path.stem[:2] for path, _ in parameters.plan(paths.NOTEBOOKS, "quick", own)]
    assert "06" in names and "09" not in names
    left_out = "09_what_the_doctor_reads is left out: structures is ('left lung', 'right lung')"
    assert left_out in capsys.readouterr().out
    asked = parameters.plan(paths.NOTEBOOKS, "quick", own[:2], ["09"])
    assert [path.stem[:2] for path, _ in asked] == ["09"]


SIZED = 'size = 36\ndepth = 3\nnetwork = ""\nsurrogate = ""\ndataset = "phantom"\nprofile = "quick"'


@pytest.mark.parametrize(
    ("given", "code"), [([], 2), (["network"], 2), (["network", "surrogate"], 0)]
)
def test_only_a_u_net_of_the_study_needs_a_size_that_its_depth_divides(
    place, tmp_path, monkeypatch, capsys, given, code
):
    (tmp_path / "mine.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    place.write("01_first", "size", parameters=SIZED)
    words = [word for name in given for word in ("-p", f"{name}=mine.py:build")]
    assert place.main(*words) == code
    told = "size is 36; it must be divisible by 8 (2**depth)"
    assert (told in capsys.readouterr().err) == bool(code)
