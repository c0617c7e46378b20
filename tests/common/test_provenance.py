"""Where numbers come from: commit, versions, dataset and networks."""

import subprocess
import sys
from importlib.metadata import version

import pandas as pd
import pytest

from helpers.common import provenance


@pytest.fixture
def git(tmp_path, monkeypatch):
    """A function that runs git in an empty clone, in which the package is at `clone`."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]

    def run(*words):
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True)

    try:
        run("init", "-q")
    except OSError:
        pytest.skip("git is not installed")
    return run


def write_package(root):
    for path in ("helpers/attack.py", "helpers/common/provenance.py", "README.md"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("1")


def commit_all(git):
    git("add", ".")
    git("commit", "-q", "-m", "first", "--no-verify")


def test_outside_a_clone_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    write_package(tmp_path)
    assert provenance.commit() == "unknown"


def test_without_git_the_commit_is_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() == "unknown"


def test_inside_somebody_elses_clone_the_commit_is_unknown(tmp_path, monkeypatch, git):
    (tmp_path / "paper.tex").write_text("1")
    (tmp_path / ".gitignore").write_text("venv")
    commit_all(git)
    installed = tmp_path / "venv" / "site-packages"
    write_package(installed)
    monkeypatch.setattr(provenance, "ROOT", installed)
    assert provenance.commit() == "unknown"


def test_a_clone_without_a_commit_is_unknown(tmp_path, monkeypatch, git):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    write_package(tmp_path)
    git("add", ".")
    assert provenance.commit() == "unknown"


def test_the_commit_gets_a_plus_when_code_or_notebooks_differ(tmp_path, monkeypatch, git):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    write_package(tmp_path)
    commit_all(git)
    clean = provenance.commit()
    assert len(clean) == 10 and int(clean, 16) >= 0
    (tmp_path / "README.md").write_text("2")
    assert provenance.commit() == clean
    (tmp_path / "helpers" / "attack.py").write_text("2")
    assert provenance.commit() == clean + "+"


def test_versions_name_python_and_the_numerical_packages():
    assert set(provenance.versions()) == {"python", "torch", "numpy", "scipy"}
    python = provenance.versions()["python"].split(".")[:2]
    assert python == [str(part) for part in sys.version_info[:2]]


class Stub:
    def __init__(self, **values):
        self.__dict__.update(values)


def test_provenance_names_dataset_networks_run_and_machine():
    dataset = Stub(name="phantom", size=64)
    networks = [Stub(digest=c * 64, recipe=Stub(depth=d)) for c, d in (("a", 3), ("b", 3))]
    about = {"steps": 7, "seed": 5, "precision": "bf16", "device": "cuda"}
    found = provenance.provenance(dataset, networks, **about)
    assert found == about | {
        "dataset": "phantom",
        "size": 64,
        "depth": "3",
        "weights": "a" * 12 + "/" + "b" * 12,
        "torch": version("torch"),
        "commit": provenance.commit(),
    }
    columns = "dataset size depth weights steps seed precision torch device commit"
    assert list(found) == columns.split()
    assert provenance.provenance(dataset, networks)["steps"] == ""


def test_stored_results_keep_torch_device_and_commit_of_those_who_made_them():
    results = pd.DataFrame(
        {"torch": ["2.13", "2.11", "2.13"], "device": "cpu", "commit": ["b", "a", "b"], "iou": 1.0}
    )
    found = provenance.origin_of(results)
    assert found == {"torch": "2.11/2.13", "device": "cpu", "commit": "a/b"}
