"""The files that install, run and describe the project agree with one another."""

import ast
import os
import re
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import helpers
from helpers.common.paths import ROOT

ORDER = (
    "common phantom labels data loss outputs network weights adapters own evaluation noise recorder "
    "checks "
    "attack world augmentation "
    "training patients transfer defence detection shapes targets ratio tables rules claims beyond curves plots "
    "ratio_plots defence_plots sweep explorer study"
).split()
MUST_NOT_KNOW = {
    "network": {"phantom", "data"},
    "loss": {"phantom", "data", "network"},
    "attack": {"phantom", "data"},
    "targets": {"attack"},
    "plots": {"network", "data", "attack"},
    "claims": {"network", "data", "attack"},
}
CONDA_NAMES = {"torch": "pytorch", "jupyter-client": "jupyter_client"}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z]+):.*## ", MAKEFILE, re.MULTILINE)


def requirements(*extras):
    return [
        Requirement(line)
        for line in PROJECT["dependencies"] + [item for name in extras for item in EXTRAS[name]]
    ]


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def make(folder, *words):
    """Run make as from a shell, also if make runs the tests."""
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    env |= {"PROFILE": "quick", "ARGS": ""}
    return subprocess.run(
        ["make", *words], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )


def project_files():
    """The files that are, or would be, part of the project."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        pytest.skip("not a git clone, so it is unknown which files belong to the project")
    return [name for name in result.stdout.split("\0") if name and (ROOT / name).exists()]


def test_conda_and_pip_users_get_the_same_packages():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge"]
    lines = [line for line in environment["dependencies"] if isinstance(line, str)]
    conda = {re.split("[=<>]", line, maxsplit=1)[0]: line for line in lines}
    pip = {CONDA_NAMES.get(each.name, each.name): each for each in requirements("test")}
    del pip["pydicom-data"]  # not on conda-forge: installing the project itself brings it
    assert set(conda) == {*pip, "python", "pip"}
    assert conda["python"] == f"python{PROJECT['requires-python']}"
    assert all(
        conda[name] == f"{name}{str(each.specifier).replace('==', '=')}"
        for name, each in pip.items()
    )
    assert environment["dependencies"][-1] == {"pip": ["-e ."]}


def test_the_pins_satisfy_what_the_project_asks_for():
    found = {canonicalize_name(name): version for name, version in pins().items()}
    for each in requirements("test", "cluster", "dev"):
        assert each.specifier.contains(found[canonicalize_name(each.name)]), each
    assert len(found) > 50


def test_the_pins_are_plain_versions_without_unwanted_packages():
    assert pins()["torch"] == "2.13.0"
    for name, version in pins().items():
        assert re.fullmatch(r"[\w.-]+", name) and re.fullmatch(r"\d[\w.]*", version), (
            name,
            version,
        )
        assert not name.lower().startswith(("torchvision", "nvidia", "triton", "adversarial"))


def test_nothing_asks_for_torchvision():
    every = requirements(*EXTRAS)
    specifier = next(each for each in every if each.name == "torch").specifier
    assert specifier.contains("2.13.0") and specifier.contains("2.9.1"), "the pin is in constraints"
    assert "torchvision" not in {each.name for each in every}
    assert set(EXTRAS) == {"test", "cluster", "browser", "app", "monai", "bench", "dev"}
    assert not [
        path.name
        for path in (ROOT / "helpers").glob("*.py")
        if "torchvision" in path.read_text("utf-8")
    ]


def imported(path):
    """The modules and folders of `helpers` that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("helpers.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write `from helpers.module import name`"
            if node.module == "helpers":
                names |= {alias.name for alias in node.names}
            elif node.module.startswith("helpers."):
                names.add(node.module.split(".")[1])
    return names


MODULES = sorted(path for path in (ROOT / "helpers").rglob("*.py") if path.parent.name != "helpers")
MODULES += sorted((ROOT / "helpers").glob("[!_]*.py"))


def room(path):
    """The module or folder of `helpers` that a file is, or is in."""
    return path.relative_to(ROOT / "helpers").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path):
    above = set(ORDER[: ORDER.index(room(path)) + 1])
    assert imported(path) <= above - MUST_NOT_KNOW.get(room(path), set())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_outsiders_import_from_a_package_and_not_from_what_is_inside(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("helpers."):
            parts = node.module.split(".")
            if parts[1] not in ("common", room(path)):
                assert len(parts) == 2, node.module


def test_the_package_has_a_map_of_all_its_modules():
    listed = re.findall(r"^(\w+)/? {2,}\S", helpers.__doc__, re.MULTILINE)
    assert sorted(listed) == sorted(ORDER) == sorted({room(path) for path in MODULES})


def test_make_alone_lists_every_target():
    declared = set(re.search(r"^\.PHONY: (.*)", MAKEFILE, re.MULTILINE)[1].split()) - {"FORCE"}
    assert set(TARGETS) == declared >= {"study", "test", "check", "clean", "distclean"}
    result = make(ROOT)
    assert result.returncode == 0
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["make", target] for target in TARGETS
    ]
    assert all(len(line.split()) > 4 for line in result.stdout.splitlines())


def test_the_commands_of_the_readme_are_those_of_make_and_ci():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    commands = [
        line.split("#")[0].removeprefix("$ ").strip()
        for block in blocks
        for line in block.splitlines()
    ]
    told = [command for command in commands if re.fullmatch(r"make \w+", command)]
    assert told == ["make study", "make lab", "make test"]
    assert {command.split()[1] for command in told} <= set(TARGETS)
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert ci[-2:] == ["make check", "make test"]
    assert os.access(ROOT / ".ci/run", os.X_OK)


STUB = """#!/bin/sh
echo "$@" >> "{log}"
case "$*" in
"-m venv "*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
esac
"""


@pytest.fixture
def project(tmp_path):
    """A folder with the Makefile and a stand-in for Python that writes down how it is called."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        folder.joinpath(name).write_bytes((ROOT / name).read_bytes())
    stub = tmp_path / "stub"
    stub.write_text(STUB.format(log=tmp_path / "log"))
    stub.chmod(0o755)
    return folder


def study_calls(folder, *words):
    """The calls of Python that `make study` makes."""
    log = folder.parent / "log"
    log.write_text("")
    result = make(folder, "study", f"PYTHON={folder.parent}/stub", *words)
    assert result.returncode == 0, result.stderr
    return [line for line in log.read_text().splitlines() if line.startswith("-m")]


def test_make_installs_once(project):
    first = study_calls(project)
    assert [line.split()[1] for line in first] == ["venv", "pip", "helpers.study"]
    assert "-c constraints.txt -e .[test,cluster,dev]" in first[1]
    assert study_calls(project) == ["-m helpers.study --profile quick"]
    words = ("PROFILE=full", "ARGS=--only 03 -p steps=10")
    assert study_calls(project, *words) == ["-m helpers.study --profile full --only 03 -p steps=10"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_make_installs_again_when_the_requirements_change(project, name):
    study_calls(project)
    later = (project / ".venv/.stamp").stat().st_mtime + 5
    os.utime(project / name, (later, later))
    assert "pip" in study_calls(project)[1]


def test_make_installs_again_in_a_copy_or_a_moved_folder(project):
    study_calls(project)
    moved = project.rename(project.parent / "moved")
    assert "pip" in study_calls(moved)[1]
    assert len(study_calls(moved)) == 1


def test_make_says_in_a_line_what_a_bare_python_lacks(project):
    stub = project.parent / "stub"
    stub.write_text(
        "#!/bin/sh\ncase \"$*\" in '-m venv '*) mkdir .venv; echo no ensurepip; exit 1;; esac\n"
    )
    result = make(project, "study", f"PYTHON={stub}")
    assert result.returncode == 2 and "apt-get install python3-venv" in result.stderr
    stub.write_text("#!/bin/sh\nexit 1\n")
    result = make(project, "study", f"PYTHON={stub}")
    assert result.returncode == 2 and "must be Python 3.11 or newer" in result.stderr
    assert not (project / ".venv").exists()


def test_clean_spares_results_and_the_users_data(project):
    kept = ("data/jsrt/JPCLN001.IMG", "runs/quick/a.csv", "runs/weights/a.safetensors")
    gone = (".venv/.stamp", "helpers/__pycache__/a.pyc", "data/cache/a.safetensors")
    for name in kept + gone:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    assert make(project, "clean").returncode == 0
    assert [name for name in kept + gone if (project / name).exists()] == list(kept)
    assert make(project, "distclean").returncode == 0
    assert [name for name in kept if (project / name).exists()] == ["data/jsrt/JPCLN001.IMG"]


def test_make_works_in_a_folder_with_a_space(project):
    spaced = project.rename(project.parent / "two words")
    lines = make(spaced, "-n", "bench").stdout.splitlines()
    assert f'PYTHONPATH="{spaced}"' in next(line for line in lines if "peers.py" in line)
    assert [line.split()[1] for line in study_calls(spaced)] == ["venv", "pip", "helpers.study"]


def test_the_readme_is_short_and_links_to_files_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 130 and len(readme.encode()) <= 9_000
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", readme)
    assert len(links) > 10 and all((ROOT / link).exists() for link in links)
    prose = re.sub(r"^```.*?^```|<!-- .*? -->", "", readme, flags=re.MULTILINE | re.DOTALL)
    folders = re.findall(r"^\| `(\w+/)` \|", prose, re.MULTILINE)
    assert folders and all((ROOT / folder).is_dir() for folder in folders if folder != "runs/")


def test_no_radiograph_of_jsrt_is_part_of_the_project():
    names, image = project_files(), r"JPC[LN]N\d{3}\.(img|gif|png|tiff?|jpe?g|npy)$"
    assert not [name for name in names if re.search(image, name, re.IGNORECASE)]
    data = {name for name in names if name.startswith("data/")} - {
        "data/README.md",
        "data/.gitignore",
    }
    assert all(
        re.fullmatch(r"data/weights/[0-9a-f]{16}\.(json|safetensors)", name) for name in data
    )
    assert (
        subprocess.run(["git", "check-ignore", "-q", "data/jsrt/JPCLN001.IMG"], cwd=ROOT).returncode
        == 0
    )


def test_every_file_is_smaller_than_5_mb():
    assert not [name for name in project_files() if (ROOT / name).stat().st_size >= 5_000_000]


def test_the_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (
        citation["version"] == helpers.__version__
        and citation["license"] == PROJECT["license"] == "MIT"
    )
    assert citation["authors"][0]["name"] == PROJECT["authors"][0]["name"]
    assert PROJECT["authors"][0]["name"] in (ROOT / "LICENSE").read_text(encoding="utf-8")
