"""What is published of a run."""

import re
from dataclasses import replace

import nbformat
import pandas as pd
import pytest

from helpers.common import paths
from helpers.common.provenance import provenance
from helpers.data import load
from helpers.study import plan
from helpers.study.publish import publish_weights
from helpers.tables import write_table
from helpers.training import make_recipe, train
from helpers.weights import find_weights, load_weights, weights_path

pytestmark = pytest.mark.slow

# runs of a study


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


def test_the_picture_of_a_patient_goes_to_the_readme_alone(place):
    name = "04_on_a_patient.png"
    place.write("04_fourth", f"open(f'../runs/{{profile}}/{name}', 'w').write(profile)")
    place.profile("full", "size: 2")
    for profile in ("quick", "full"):
        assert place.main("--profile", profile) == 0 and place.main("--publish", profile) == 0
    (shown,) = place.figures.rglob("*.png")
    assert shown == place.figures / "patients" / name and shown.read_text() == "quick"


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
        "helpers.study.publish.publish_weights", lambda folder, _: asked.append(folder.name) or []
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
        "parameters": "01_first ran with other parameters or cells in",
        "cells": "01_first ran with other parameters or cells in",
        "edited": "01_first wrote another a.csv in",
        "removed": "01_first wrote another b.png in",
        "second": "02_second has not finished in",
        "unknown": "profile 'none' is unknown; choose one of quick, full",
    }
    assert expected[fault] in error and error.count("\n") == 1
    assert not place.figures.exists()


def test_publish_keeps_the_results_own_provenance(place):
    text = "claim,verdict,dataset,seed,commit\na,holds,phantom,0,of-the-run\n"
    cell = f"from pathlib import Path\nPath('../runs/full/verdicts.csv').write_text({text!r})"
    place.write("01_first", cell)
    place.profile("full", "size: 2")
    assert place.main("--profile", "full") == 0 == place.main("--publish", "full")
    assert (place.figures / "verdicts.csv").read_text() == text


def test_publish_of_a_quick_run_leaves_the_figures_of_the_full_one(place):
    publishable(place)
    assert place.main() == 0 == place.main("--publish", "quick")
    assert not place.figures.exists()


# networks


@pytest.fixture(scope="module")
def small():
    return load("phantom", size=128)


def test_the_networks_of_the_transfer_notebook_are_published_too(tmp_path, small):
    settings = {"features": 2, "epochs": 1, "folder": tmp_path / "weights"}
    trained = [train(small, "target", depth=depth, **settings) for depth in (1, 2)]
    origin = provenance(small, trained[:1])
    write_table(tmp_path / "clean.csv", pd.DataFrame({"iou": [1.0]}), origin)
    further = pd.DataFrame({"digest": [each.digest[:12] for each in trained]})
    write_table(tmp_path / "transfer_networks.csv", further, origin)
    place = tmp_path / "published"
    names = ["clean.csv", "transfer_networks.csv"]
    written = publish_weights(tmp_path, names, weights=tmp_path / "weights", place=place)
    found = {load_weights(path).digest for path in written if path.suffix != ".json"}
    assert found == {each.digest for each in trained}
    stale = publish_weights(tmp_path, names[:1], weights=tmp_path / "weights", place=place)
    assert {load_weights(path).digest for path in stale if path.suffix != ".json"} == {
        trained[0].digest
    }


def test_the_networks_of_a_run_are_published_all_or_none(tmp_path, small):
    settings = {"depth": 1, "features": 2, "epochs": 1, "folder": tmp_path / "weights"}
    trained = [train(small, role, **settings) for role in ("target", "surrogate")]
    write_table(tmp_path / "clean.csv", pd.DataFrame({"iou": [1.0]}), provenance(small, trained))
    place = tmp_path / "published"
    with pytest.raises(ValueError, match="lacks the network"):
        publish_weights(tmp_path, ["clean.csv"], weights=tmp_path / "none", place=place)
    assert not place.exists()
    written = publish_weights(tmp_path, ["clean.csv"], weights=tmp_path / "weights", place=place)
    assert set(place.iterdir()) == set(written) and len(written) == 4
    found = {load_weights(path).digest for path in written if path.suffix != ".json"}
    assert found == {each.digest for each in trained}


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_the_published_networks_are_those_of_the_published_outputs_and_are_found(
    tmp_path, small, profile
):
    if not list(paths.PUBLISHED.glob("*.json")):
        pytest.skip("data/weights was emptied")
    ((notebook, values),) = plan(paths.NOTEBOOKS, profile, only=["02"])
    named = pd.read_csv(paths.FIGURES / "clean.csv").loc[0, "weights"]
    if profile == "quick":
        (named,) = re.findall(r"· weights (\S+) ·", notebook.read_text(encoding="utf-8"))
    named = named.split("/")
    data = replace(small, size=values["size"])  # the phantoms' digest is the same at all sizes
    asked = {
        name: values[name]
        for name in ("depth", "features", "epochs", "augmentation", "precision", "seed")
    }
    for role, digest in zip(("target", "surrogate"), named, strict=True):
        path = weights_path(make_recipe(data, role, **asked), tmp_path)
        assert path.parent == paths.PUBLISHED and path == find_weights(digest, tmp_path)
        assert train(data, role, folder=tmp_path, **asked).digest.startswith(digest)
    assert list(tmp_path.iterdir()) == []
    assert (
        len(list(paths.PUBLISHED.iterdir())) == 8 + 12 + 8 + 8
    )  # 07's six, four for patients, and four of 08
