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
    "files phantom data network loss training attack targets evaluation verdicts engine cells store sweep plots "
    "pictures frames explorer publish study"
).split()
MUST_NOT_KNOW = {
    "network": {"phantom", "data"},
    "loss": {"phantom", "data", "network"},
    "attack": {"phantom", "data"},
    "targets": {"attack"},
    "plots": {"network"},
    "pictures": {"network"},
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
    assert str(next(each for each in every if each.name == "torch").specifier) == "==2.13.0"
    assert "torchvision" not in {each.name for each in every}
    assert set(EXTRAS) == {"test", "cluster", "browser", "app", "dicom", "bench", "dev"}
    assert not [
        path.name
        for path in (ROOT / "helpers").glob("*.py")
        if "torchvision" in path.read_text("utf-8")
    ]


def imported(path):
    """The modules of `helpers` that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("helpers.")
            }
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write `from helpers.module import name`"
            if node.module == "helpers":
                names |= {alias.name for alias in node.names}
            elif node.module.startswith("helpers."):
                names.add(node.module.split(".")[1])
    return names


@pytest.mark.parametrize(
    "path", sorted((ROOT / "helpers").glob("[!_]*.py")), ids=lambda path: path.stem
)
def test_a_module_imports_only_from_those_above_it(path):
    assert path.stem in ORDER
    above = set(ORDER[: ORDER.index(path.stem)])
    assert imported(path) <= above - MUST_NOT_KNOW.get(path.stem, set())


def test_the_package_says_the_order_of_its_modules():
    assert ", ".join(ORDER) in " ".join(helpers.__doc__.split())


def test_make_alone_lists_every_target():
    declared = set(re.search(r"^\.PHONY: (.*)", MAKEFILE, re.MULTILINE)[1].split()) - {"FORCE"}
    assert set(TARGETS) == declared >= {"study", "test", "lab", "full", "bench", "clean"}
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
    assert told[:2] == ["make study", "make test"]
    assert {command.split()[1] for command in told} <= set(TARGETS)
    assert (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()[-1] == "make test"
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
    assert "-c constraints.txt -e .[test,cluster]" in first[1]
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


def test_clean_spares_the_users_data(project):
    for name in (
        "data/jsrt/JPCLN001.IMG",
        "runs/quick/a.csv",
        ".venv/.stamp",
        "helpers/__pycache__/a.pyc",
    ):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    assert make(project, "clean").returncode == 0
    assert (project / "data/jsrt/JPCLN001.IMG").exists()
    assert not any((project / name).exists() for name in ("runs", ".venv", "helpers/__pycache__"))


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
