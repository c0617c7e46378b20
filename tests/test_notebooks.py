"""The notebooks as they are committed, and their results with other parameters.

That their checked cells still print what is committed, nbval tests: see `make test`.
"""

import ast
import csv
import re
import shutil
import tempfile
from itertools import product
from pathlib import Path

import clusters
import nbformat
import papermill
import pytest

from helpers.claims import CLAIMS
from helpers.common import paths
from helpers.study import parameters, runner
from helpers.weights import find_weights

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
EPSILONS = {0.01, 0.02, 0.04, 0.08, 0.16}
TINY = {
    "size": 48,
    "depth": 2,
    "epochs": 2,
    "precision": "fp32",
    "test_cases": 3,
    "steps": 2,
    "step_counts": [1, 2],
    "ratio_cases": 3,
    "transfer_cases": 3,
    "ratio_epsilons": [0.01, 0.02],
    "ratio_steps": 2,
    "transfer_steps": [2],
    "large_steps": 2,
    "queries": [2],
    "variant_epochs": 1,
    "robust_epsilons": [0.04],
    "hardening_epochs": 1,
    "suite_steps": 2,
    "adaptive_steps": 2,
    "filters": ["median 3", "average 0.03"],
    "sigmas": [0.1],
    "seed": 1,
}
ORDER = ("heart", "left clavicle", "right clavicle", "left lung", "right lung")
STRUCTURES = set(ORDER)
ATTACKS = {"white-box", "black-box", "random-noise", "shuffled-noise"}
PROVENANCE = "dataset size depth weights steps seed precision torch device commit".split()

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
        found += [
            "".join(data)
            for kind, data in output.get("data", {}).items()
            if kind.startswith("text/")
        ]
    return found


def test_the_notebooks_are_there():
    names = (
        "01_data 02_training 03_untargeted_attack 04_heart_attack 05_resizing 06_noise_restriction "
        "07_without_the_weights 08_defences 09_what_the_doctor_reads"
    )
    assert [path.stem for path in NOTEBOOKS] == names.split()


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
    assert set(parameters.read_parameters(path)) == set(papermill.inspect_notebook(path))
    assert parameters.read_parameters(path)["profile"] == "quick"


def test_a_parameter_has_one_default_in_all_notebooks():
    seen = {}
    for path in [*NOTEBOOKS, paths.NOTEBOOKS / "app" / "explorer.ipynb"]:
        for name, default in parameters.read_parameters(path).items():
            assert seen.setdefault(name, default) == default, f"{path.name}: {name}"


@pytest.mark.parametrize(
    "profile", ["quick", *(path.stem for path in (paths.NOTEBOOKS / "profiles").glob("*.yaml"))]
)
def test_every_profile_fits_the_notebooks(profile, tmp_path):
    own = [("root", str(tmp_path))] if profile in ("hannover", "patients") else []
    assert len(parameters.plan(paths.NOTEBOOKS, profile, own)) == len(NOTEBOOKS)


@each_notebook
def test_code_is_short_and_defines_nothing(path):
    for cell in code(read(path)):
        most = (
            30 if "parameters" in cell.metadata.get("tags", ()) else 20
        )  # a list to look things up
        assert len(cell.source.splitlines()) <= most, cell.source
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef), (
                cell.source
            )
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
    own = "|".join(
        re.escape(f"{folder}/") for folder in (paths.ROOT, Path.home(), tempfile.gettempdir())
    )
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
    folder = paths.RUNS / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    overrides = [(name, str(value)) for name, value in TINY.items()]
    steps = [
        (path, known | {"profile": "tiny"})
        for path, known in parameters.plan(paths.NOTEBOOKS, "quick", overrides)
    ]
    assert runner.run(steps, "tiny", folder) == 0
    return folder


def table(folder, name):
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_numbers(rows):
    for row in rows:
        assert [row[name] for name in ("dataset", "size", "depth", "seed")] == [
            "phantom",
            "48",
            "2",
            "1",
        ]
        assert int(row["n"]) <= TINY["test_cases"] and row["weights"] and row["commit"]
        if row["iou"]:
            assert 0 <= float(row["low"]) <= float(row["iou"]) <= float(row["high"]) <= 100


def test_every_notebook_runs_with_other_parameters(tiny):
    assert sorted(path.name for path in tiny.glob("*.ok.json")) == [
        f"{path.stem}.ok.json" for path in NOTEBOOKS
    ]


def test_the_clean_table_covers_both_networks_and_all_structures(tiny):
    rows = table(tiny, "clean.csv")
    assert list(rows[0]) == "network structure n iou low high paper".split() + PROVENANCE
    assert {row["network"] for row in rows} == {"target", "surrogate"}
    for network in ("target", "surrogate"):
        found = {row["structure"] for row in rows if row["network"] == network}
        assert found >= STRUCTURES
    check_numbers(rows)


def test_table_1_covers_every_attack_and_noise_level(tiny):
    rows = table(tiny, "table1.csv")
    assert list(rows[0]) == "attack epsilon n iou low high paper".split() + PROVENANCE
    found = [(row["attack"], float(row["epsilon"])) for row in rows]
    assert len(found) == len(set(found)) and set(found) == set(product(ATTACKS, EPSILONS))
    assert {row["steps"] for row in rows if row["attack"] == "white-box"} == {"2"}
    assert {row["weights"] for row in rows} <= {row["weights"] for row in table(tiny, "clean.csv")}
    check_numbers(rows)


def test_an_attack_hurts_more_than_random_noise(tiny):
    iou = {
        (row["attack"], float(row["epsilon"])): float(row["iou"])
        for row in table(tiny, "table1.csv")
        if row["iou"]
    }
    assert iou["white-box", 0.16] <= iou["random-noise", 0.16]


def test_tables_2_and_3_cover_both_symbols_every_attack_and_noise_level(tiny):
    cells = set(product(("small", "large"), ATTACKS, EPSILONS)) | {
        (s, "no attack", 0.0) for s in ("small", "large")
    }
    for name, keys in (("table2", ["compared_with"]), ("table3", [])):
        rows = table(tiny, f"{name}.csv")
        assert (
            list(rows[0])
            == keys + "symbol attack epsilon n iou low high paper".split() + PROVENANCE
        )
        found = [
            (*(row[key] for key in (*keys, "symbol", "attack")), float(row["epsilon"]))
            for row in rows
        ]
        wanted = (
            {(other, *cell) for other in ("target", "truth") for cell in cells} if keys else cells
        )
        assert len(found) == len(wanted) and set(found) == wanted
        with_paper = [row for row in rows if row["paper"]]
        assert len(with_paper) == (42 if keys else 21)
        check_numbers(rows)


def test_table_4_covers_every_structure_and_factor(tiny):
    rows = table(tiny, "table4.csv")
    assert list(rows[0]) == "structure factor n iou low high others paper".split() + PROVENANCE
    found = [(row["structure"], float(row["factor"])) for row in rows]
    assert len(found) == 40 and set(found) == set(
        product(STRUCTURES, (0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8))
    )
    assert found == sorted(found, key=lambda cell: (ORDER.index(cell[0]), cell[1]))
    assert all(row["paper"] for row in rows)
    check_numbers(rows)


def test_noise_is_restricted_in_every_way_and_at_every_margin(tiny):
    rows = table(tiny, "noise_restriction.csv")
    assert list(rows[0]) == "setting margin n iou low high others".split() + PROVENANCE
    assert [row["setting"] for row in rows[:4]] == [
        "all",
        "structure only",
        "receptive field",
        "bounding box",
    ]
    margins = [int(row["margin"]) for row in rows[4:]]
    assert {row["setting"] for row in rows[4:]} == {"bounding box"} and margins == sorted(
        set(margins)
    )
    assert margins[0] > 0 and margins[-1] > 20  # beyond half of the receptive field of depth 2
    check_numbers(rows)


def test_the_numbers_behind_the_other_figures_are_kept(tiny):
    for name, first in (
        ("steps", "schedule symbol steps n iou low high epsilon"),
        ("smallest_epsilon", "id symbol epsilon"),
        ("clavicle_shrinking", "structure factor n share low high before disturbed"),
        ("resizing_ways", "structure way factor n iou low high others"),
        ("visibility", "setting window psnr ssim"),
        ("noise_energy", "setting,in the structure,in its receptive field,beyond"),
    ):
        rows, names = table(tiny, f"{name}.csv"), first.split("," if "," in first else " ")
        others = [column for column in PROVENANCE if column not in names]
        assert rows and list(rows[0]) == names + others, name


def test_the_defences_have_their_tables_with_both_attackers(tiny):
    firsts = {
        "filters": "defence attacker n iou low high clean epsilon",
        "robust": "network n iou low high clean untargeted single,untargeted single,digest "
        "untargeted_low untargeted_high least epsilon",
        "suite": "aim network attack n iou low high won",
        "prey": "network structure n iou low high area clean epsilon",
        "detection": "detector aim attacker knows weight n false auc caught iou evaded epsilon",
        "certified": "network sigma n certified wrong abstained l2 linf least",
        "hygiene": "asked answer",
        "defence_verdicts": "claim paper ours rule verdict",
    }
    for name, first in firsts.items():
        rows = table(tiny, f"{name}.csv")
        expected = [
            word
            for part in first.split(",")
            for word in ([part] if part == "untargeted single" else part.split())
        ]
        assert rows and [*rows[0]][: len(expected)] == expected, name
    attackers = {row["attacker"] for row in table(tiny, "filters.csv")}
    assert attackers == {"none", "oblivious", "adaptive"}
    networks = ["plain", "ε 0.04", "ε 0.04, one step", "ε 0.04, half clean"]
    assert [row["network"] for row in table(tiny, "robust.csv")] == networks
    for row in table(tiny, "robust.csv"):
        won = [float(r["won"]) for r in table(tiny, "suite.csv") if r["network"] == row["network"]]
        assert sum(won) == pytest.approx(200, abs=0.1)  # of the symbol, and untargeted


def test_every_way_is_tried_at_the_smallest_and_the_largest_factor(tiny):
    rows = table(tiny, "resizing_ways.csv")
    found = [(row["structure"], row["way"], float(row["factor"])) for row in rows]
    ways = ("PGD", "PGD on it alone", "PGD with cross-entropy", "faster steps")
    assert set(found) == set(product(STRUCTURES, ways, (0.4, 1.8))) and len(found) == 40
    own = {(row["structure"], row["factor"]): row["iou"] for row in table(tiny, "table4.csv")}
    assert all(
        row["iou"] == own[row["structure"], row["factor"]] for row in rows if row["way"] == "PGD"
    )
    check_numbers(rows)


def test_the_ratio_has_its_tables_with_every_attack_noise_level_and_way(tiny):
    firsts = {
        "ratio": "network n bias limit_low limit_high,other side",
        "ratio_shift": "direction attack epsilon n shift low high others",
        "ratio_crossed": "attack epsilon n shift low high crossed",
        "ratio_least": "id direction epsilon before",
        "ratio_file": "way n shift low high crossed",
        "ratio_ways": "way n shift low high crossed others epsilon",
        "ratio_verdicts": "claim paper ours rule verdict",
    }
    for name, first in firsts.items():
        columns = [*first.split(",")[0].split(), *first.split(",")[1:]]
        rows = table(tiny, f"{name}.csv")
        others = [column for column in PROVENANCE if column not in columns]
        assert rows and list(rows[0]) == columns + others, name
    found = {(row["attack"], float(row["epsilon"])) for row in table(tiny, "ratio_crossed.csv")}
    assert found == set(product(ATTACKS, (0.01, 0.02)))
    assert {row["direction"] for row in table(tiny, "ratio_shift.csv")} == {"enlarge", "shrink"}
    assert [row["way"] for row in table(tiny, "ratio_file.csv")][:4] == [
        "as computed",
        "12 bits",
        "10 bits",
        "8 bits",
    ]


def test_without_the_weights_every_attack_is_tried_on_every_network(tiny):
    rows = table(tiny, "transfer.csv")
    first = "step symbol target n iou low high gain gain_low gain_high others reached epsilon taken"
    assert list(rows[0]) == first.split() + PROVENANCE
    found = [(row["step"], row["symbol"], row["target"]) for row in rows]
    steps = list(dict.fromkeys(step for step, *_ in found))
    assert steps[:2] == ["no attack", "paper's attack"] and len(steps) == 15
    assert len(found) == len({*found}) == 15 * 2 * 4
    assert {target for *_, target in found} == {"1", "2", "3", "all"}
    for row in rows:
        assert row["step"] != "no attack" or float(row["gain"]) == 0
    for name, keys in (
        ("transfer_controls", "step symbol target"),
        ("transfer_networks", "network"),
        ("transfer_surrogates", "surrogate alignment symbol"),
        ("transfer_steps", "attack steps"),
        ("transfer_epsilon", "attack epsilon"),
        ("transfer_queries", "start queries"),
        ("transfer_universal", "noise cases"),
    ):
        assert list(table(tiny, f"{name}.csv")[0])[: len(keys.split())] == keys.split()


def test_a_searched_noise_level_says_with_how_many_steps(tiny):
    assert {row["steps"] for row in table(tiny, "smallest_epsilon.csv")} == {"auto"}


def test_every_claim_of_the_paper_gets_a_verdict(tiny):
    rows = table(tiny, "verdicts.csv")
    assert list(rows[0]) == "claim paper ours rule verdict".split() + PROVENANCE
    rows += table(tiny, "transfer_verdicts.csv")
    assert [row["claim"] for row in rows] == [claim.name for claim in CLAIMS]
    for row in rows:
        assert row["verdict"] == "holds" or row["verdict"].startswith(
            ("does not hold (", "not decided")
        )


def test_every_figure_of_the_paper_has_its_counterpart(tiny):
    sources = "\n".join(cell.source for path in NOTEBOOKS for cell in read(path).cells)
    for number in range(1, 6):
        assert f"counterpart of the paper's Figure {number}" in sources
    names = "04_heart_attack 04_even_and_faster_steps 06_settings 03_predictions_under_attack"
    for name in [*names.split(), "04_symbols_under_attack", "05_resized"]:
        assert (tiny / f"{name}.png").stat().st_size > 10_000


def run_04(profile, changed):
    """Run notebook 04 with parameters of a profile of this name; the folder of its results."""
    (notebook,) = paths.NOTEBOOKS.glob("04_*.ipynb")
    known = parameters.read_parameters(notebook)
    overrides = [(name, str(value)) for name, value in changed.items() if name in known]
    ((path, values),) = parameters.plan(paths.NOTEBOOKS, "quick", overrides, ["04"])
    folder = paths.RUNS / profile
    assert runner.run([(path, values | {"profile": profile})], profile, folder) == 0
    return folder


@pytest.mark.slow
def test_a_notebook_submits_its_slurm_jobs_once(tiny, tmp_path, monkeypatch):
    """Notebook 04 trains, sweeps five times and searches the least noise by bisection."""
    clusters.slurm(tmp_path, monkeypatch)
    options = f"cores: 1\nmemory: 4GB\njobs: 1\nlocal_directory: {tmp_path}\n"
    (tmp_path / "slurm.yaml").write_text(options)
    engine = str(tmp_path / "slurm.yaml")
    folder = run_04("slurm", TINY | {"seed": 2, "step_counts": [2], "engine": engine})
    assert len((tmp_path / "jobs").read_text().split()) == 1
    assert (folder / "smallest_epsilon.csv").exists()


OWN = """
from pathlib import Path
from helpers.weights import load_weights

def build():
    network = load_weights(Path("{path}")).network
    return lambda images: {{"out": network(images)}}
"""


@pytest.mark.slow
def test_a_network_of_one_s_own_gets_the_tables_of_the_study_s_with_the_same_weights(
    tiny, tmp_path
):
    theirs = table(tiny, "table2.csv")
    target, _ = theirs[0]["weights"].split("/")
    network = tmp_path / "mine.py"
    network.write_text(OWN.format(path=find_weights(target)))
    changed = TINY | {"step_counts": [2], "network": f"{network}:build"}
    own = table(run_04("own", changed), "table2.csv")
    assert {row["weights"].split("/")[0] for row in own}.isdisjoint({target})
    for mine, other in zip(own, theirs, strict=True):
        assert [mine[name] for name in ("attack", "symbol")] == [
            other[name] for name in ("attack", "symbol")
        ]
        assert float(mine["iou"]) == pytest.approx(float(other["iou"]), abs=0.5)


@pytest.mark.slow
def test_a_network_that_has_learned_nothing_is_told_in_a_line(tmp_path, capfd):
    weak = {"size": 48, "depth": 2, "features": 2, "epochs": 1, "test_cases": 3, "steps": 2}
    overrides = [(name, str(value)) for name, value in weak.items()]
    ((path, values),) = parameters.plan(paths.NOTEBOOKS, "quick", overrides, ["04"])
    assert runner.run([(path, values | {"profile": "weak"})], "weak", tmp_path) == 1
    told = capfd.readouterr().err
    assert "test images: heart in the truth and the clean prediction is []; take more" in told


def test_every_set_up_cell_has_four_lines_and_prepares_the_same_way():
    for path in NOTEBOOKS:
        (cell,) = [cell for cell in code(read(path)) if cell.source.startswith("study = prepare(")]
        lines = cell.source.splitlines()
        assert len(lines) <= 4 and lines[-1] == "data = study.data"
