"""A study of small notebooks, made for a test."""

import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers.common import paths
from helpers.study import readme
from helpers.study.__main__ import main

PARAMETERS = 'size = 128  # pixels\nepsilon = 0.01  # of 1\nroot = ""  # folder\nprofile = "quick"'
COMMAND = """
import pathlib, runpy, signal, sys
from helpers.common import paths
paths.NOTEBOOKS, paths.RUNS = map(pathlib.Path, sys.argv[1:3])
del sys.argv[1:3]
signal.signal(2, signal.default_int_handler)  # a job in the background is born deaf to it
runpy.run_module("helpers.study", run_name="__main__")
"""


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
        return main(list(words))

    def command(self, *words):
        """The same as a command of its own."""
        return [sys.executable, "-c", COMMAND, str(self.notebooks), str(self.runs), *words]

    def in_run(self, profile="quick"):
        """Names of the files in a run's folder, pages aside."""
        folder = self.runs / profile
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        return [name for name in names if not name.endswith(".html")]


@pytest.fixture
def place(tmp_path, monkeypatch):
    made = Place(tmp_path)
    for name in ("notebooks", "runs", "figures"):
        monkeypatch.setattr(paths, name.upper(), getattr(made, name))
    monkeypatch.setattr(readme, "READMES", (made.readme,))
    return made
