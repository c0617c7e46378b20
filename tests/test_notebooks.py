"""The notebooks as they are committed, and their results with other parameters.

That their checked cells still print what is committed, nbval tests: see `make test`.
"""

import ast
import csv
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
import papermill
import pytest

from helpers import files, study

NOTEBOOKS = sorted(files.NOTEBOOKS.glob("*.ipynb"))
EPSILONS = {0.01, 0.02, 0.04, 0.08, 0.16}
TINY = {"size": 32, "depth": 2, "epochs": 2, "test_cases": 3, "steps": 2, "seed": 1}
PROVENANCE = "dataset size depth weights steps seed commit".split()

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code(notebook) for output in cell.outputs]


def texts(notebook):
    """All that can be read in a notebook: sources and outputs, but no pictures."""
    found = [cell.source for cell in notebook.cells]
    for output in outputs(notebook):
        found += [output.get("text", "")]
        found += ["".join(data) for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
    return found


def test_the_first_notebooks_are_there():
    assert [path.stem for path in NOTEBOOKS][:3] == ["01_data", "02_training", "03_untargeted_attack"]


@each_notebook
def test_the_title_carries_the_notebooks_number(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith(f"# {path.stem[:2]} · ")


@each_notebook
def test_parameters_are_literals_with_a_comment(path):
    (cell,) = tagged(read(path), "parameters")
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign | ast.AnnAssign), ast.unparse(statement)
        ast.literal_eval(statement.value)
        assert "  # " in cell.source.splitlines()[statement.end_lineno - 1], ast.unparse(statement)
    assert set(study.declared(path)) == set(papermill.inspect_notebook(path))
    assert study.declared(path)["profile"] == "quick"


def test_a_parameter_has_one_default_in_all_notebooks():
    seen = {}
    for path in NOTEBOOKS:
        for name, default in study.declared(path).items():
            assert seen.setdefault(name, default) == default, f"{path.name}: {name}"


@pytest.mark.parametrize("profile", ["quick", *(path.stem for path in (files.NOTEBOOKS / "profiles").glob("*.yaml"))])
def test_every_profile_fits_the_notebooks(profile):
    assert len(study.plan(files.NOTEBOOKS, profile)) == len(NOTEBOOKS)


@each_notebook
def test_code_is_short_and_defines_nothing(path):
    for cell in code(read(path)):
        assert len(cell.source.splitlines()) <= 20, cell.source
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef), cell.source
            assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), cell.source


@each_notebook
def test_the_kernel_is_python3(path):
    assert read(path).metadata.kernelspec.name == "python3"


@each_notebook
def test_a_notebook_was_run_from_top_to_bottom_in_a_fresh_kernel(path):
    notebook = read(path)
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert not tagged(notebook, "injected-parameters") and "papermill" not in notebook.metadata


@each_notebook
def test_outputs_hold_no_error_no_warning_and_no_widget_state(path):
    notebook = read(path)
    assert outputs(notebook)
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert not [output.text for output in outputs(notebook) if output.get("name") == "stderr"]
    assert "widgets" not in notebook.metadata


@each_notebook
def test_no_path_of_a_machine_is_in_a_notebook(path):
    own = "|".join(re.escape(f"{folder}/") for folder in (files.ROOT, Path.home(), tempfile.gettempdir()))
    for text in texts(read(path)):
        assert not re.search(rf"{own}|/home/|/root/|/Users/|[A-Z]:\\\\", text), text
        assert "sys.path" not in text and "chdir" not in text


@each_notebook
def test_a_notebook_is_smaller_than_500_kb(path):
    assert path.stat().st_size < 500_000


@each_notebook
def test_one_to_four_cells_are_checked_and_show_text(path):
    checked = tagged(read(path), "nbval-check-output")
    assert 1 <= len(checked) <= 4
    for cell in checked:
        assert cell.execution_count and cell.outputs
        assert all("image/png" not in output.get("data", {}) for output in cell.outputs)


@pytest.fixture(scope="module")
def tiny():
    """Folder with the results of all notebooks with tiny parameters."""
    folder = files.RUNS / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    overrides = [(name, str(value)) for name, value in TINY.items()]
    steps = [(path, known | {"profile": "tiny"}) for path, known in study.plan(files.NOTEBOOKS, "quick", overrides)]
    assert study.run(steps, "tiny", folder) == 0
    return folder


def table(folder, name):
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_numbers(rows):
    for row in rows:
        assert [row[name] for name in ("dataset", "size", "depth", "seed")] == ["phantom", "32", "2", "1"]
        assert int(row["n"]) <= TINY["test_cases"] and row["weights"] and row["commit"]
        if row["iou"]:
            assert 0 <= float(row["low"]) <= float(row["iou"]) <= float(row["high"]) <= 100


def test_every_notebook_runs_with_other_parameters(tiny):
    assert sorted(path.name for path in tiny.glob("*.ok.json")) == [f"{path.stem}.ok.json" for path in NOTEBOOKS]


def test_the_clean_table_covers_both_networks_and_all_structures(tiny):
    rows = table(tiny, "clean.csv")
    assert list(rows[0]) == "network structure n iou low high paper".split() + PROVENANCE
    assert {row["network"] for row in rows} == {"target", "surrogate"}
    for network in ("target", "surrogate"):
        found = {row["structure"] for row in rows if row["network"] == network}
        assert found >= {"heart", "left clavicle", "right clavicle", "left lung", "right lung"}
    check_numbers(rows)


def test_table_1_covers_every_attack_and_noise_level(tiny):
    rows = table(tiny, "table1.csv")
    assert list(rows[0]) == "attack epsilon n iou low high paper".split() + PROVENANCE
    attacks = {"white-box", "black-box", "random-noise", "shuffled-noise"}
    found = [(row["attack"], float(row["epsilon"])) for row in rows]
    assert len(found) == len(set(found)) and set(found) >= {(attack, e) for attack in attacks for e in EPSILONS}
    assert {row["steps"] for row in rows if row["attack"] == "white-box"} == {"2"}
    assert {row["weights"] for row in rows} <= {row["weights"] for row in table(tiny, "clean.csv")}
    check_numbers(rows)


def test_an_attack_hurts_more_than_random_noise(tiny):
    iou = {(row["attack"], float(row["epsilon"])): float(row["iou"]) for row in table(tiny, "table1.csv") if row["iou"]}
    assert iou["white-box", 0.16] <= iou["random-noise", 0.16]
