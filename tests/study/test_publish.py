"""What is published: the README's tables and the notebooks' outputs."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest

from helpers.common import paths
from helpers.common.provenance import provenance
from helpers.data import load
from helpers.study import plan
from helpers.study.publish import (
    compare,
    markdown_table,
    publish_files,
    publish_summary,
    publish_weights,
    renew_readme,
)
from helpers.study.runner import main
from helpers.tables import write_table
from helpers.training import find_weights, load_weights, make_recipe, train, weights_path

TABLE = """attack,epsilon,n,iou,low,high,paper,dataset,size,depth,weights,steps,seed,commit
white-box,0.01,20,25.14,20.00,30.20,30.50,phantom,128,2,ab/cd,100,0,0123
white-box,0.02,20,3.00,1.00,5.00,0.80,phantom,128,2,ab/cd,100,0,0123
random-noise,0.01,20,90.00,89.00,91.00,,phantom,128,2,ab/cd,100,0,0123
random-noise,0.02,20,89.96,89.00,91.00,,phantom,128,2,ab/cd,100,0,0123
"""


@pytest.fixture
def figures(tmp_path):
    (tmp_path / "figures" / "deep").mkdir(parents=True)
    (tmp_path / "figures" / "deep" / "table1.csv").write_text(TABLE)
    return tmp_path / "figures"


def test_a_table_for_reading_has_ours_with_interval_above_the_papers(figures):
    lines = markdown_table(figures / "deep" / "table1.csv").splitlines()
    assert lines[:5] == [
        "| attack | source | 0.01 | 0.02 |",
        "| --- | --- | --- | --- |",
        "| white-box | ours | 25.1 (20.0–30.2) | 3.0 (1.0–5.0) |",
        "| white-box | paper | 30.5 | 0.8 |",
        "| random-noise | ours | 90.0 (89.0–91.0) | 90.0 (89.0–91.0) |",
    ]
    assert (
        lines[-1]
        == "*n = 20, dataset phantom, size 128, depth 2, weights ab/cd, steps 100, seed 0, commit 0123.*"
    )


def test_what_a_table_lacks_stays_empty(tmp_path):
    path = tmp_path / "verdicts.csv"
    path.write_text(
        "claim,ours,verdict,dataset,size\none,5.0,holds,phantom,64\ntwo,,not decided,phantom,64\n"
    )
    assert markdown_table(path).splitlines()[2:4] == [
        "| one | 5.0 | holds |",
        "| two |  | not decided |",
    ]


def test_a_run_on_a_dataset_of_ones_own_becomes_one_table(tmp_path):
    run, end = tmp_path / "runs" / "mine", "7,90,89,91,,folder-mine,64,2,ab,100,0,0123\n"
    head = "n,iou,low,high,paper,dataset,size,depth,weights,steps,seed,commit\n"
    run.mkdir(parents=True)
    (run / "clean.csv").write_text(
        f"network,structure,{head}target,lung,{end}target,mean,{end}surrogate,mean,{end}".replace(
            ",100,", ",,"
        )
    )
    (run / "table1.csv").write_text(f"attack,epsilon,{head}white-box,0.04,{end}")
    (run / "table2.csv").write_text(
        f"compared_with,symbol,attack,epsilon,{head}target,small,no attack,0.0,{end}truth,small,white-box,0.04,{end}"
    )
    (run / "table3.csv").write_text(f"symbol,attack,epsilon,{head}small,white-box,0.04,{end}")
    (run / "steps.csv").write_text(
        "schedule,symbol,steps,n,iou,low,high,epsilon,dataset,size,depth,weights,seed,commit\n"
        + "".join(
            f"{way},small,30,7,90,89,91,0.04,folder-mine,64,2,ab,0,0123\n"
            for way in ("even", "faster")
        )
    )
    names = [path.name for path in run.iterdir()]
    (path,) = publish_summary(run, names, tmp_path / "figures")
    assert path.relative_to(tmp_path).as_posix() == "figures/mine.csv"
    assert path.read_text().splitlines() == [
        "goal,attack,epsilon,n,iou,low,high,dataset,size,depth,weights,steps,seed,commit",
        "untargeted,no attack,0.0,7,90,89,91,folder-mine,64,2,ab,,0,0123",
        "untargeted,white-box,0.04,7,90,89,91,folder-mine,64,2,ab,100,0,0123",
        "small symbol,no attack,0.0,7,90,89,91,folder-mine,64,2,ab,100,0,0123",
        "small symbol: the others,white-box,0.04,7,90,89,91,folder-mine,64,2,ab,100,0,0123",
        'small symbol,"white-box, 30 faster steps",0.04,7,90,89,91,folder-mine,64,2,ab,30,0,0123',
    ]
    lines = markdown_table(path).splitlines()
    assert lines[0] == "| goal | attack | source | 0.0 | 0.04 |"
    assert "| small symbol | no attack | ours | 90.0 (89.0–91.0) |  |" in lines and len(lines) == 9
    publish_summary(run, ["table1.csv"], tmp_path / "figures")
    assert len(path.read_text().splitlines()) == 2
    with pytest.raises(ValueError, match="mine has none of clean.csv, .*: run 02, 03 or 04"):
        publish_summary(run, ["table4.csv"], tmp_path / "figures")


def test_verdicts_are_shown_as_they_are(tmp_path):
    path = tmp_path / "verdicts.csv"
    path.write_text(
        'claim,paper,ours,rule,verdict,dataset,seed\na,1,"2 (1–3), 4",below 5,holds,phantom,0\n'
    )
    lines = [
        "| claim | paper | ours | rule | verdict |",
        "| --- | --- | --- | --- | --- |",
        "| a | 1 | 2 (1–3), 4 | below 5 | holds |",
        "",
        "*dataset phantom, seed 0.*",
    ]
    assert markdown_table(path).splitlines() == lines


def test_only_what_stands_between_a_tables_marks_is_renewed(figures, tmp_path):
    readme = tmp_path / "README.md"
    start, end = (
        "before\n<!-- deep/table1.csv -->",
        "<!-- end -->\nafter\n<!-- none.csv -->old<!-- end -->\n",
    )
    readme.write_text(f"{start}old{end}")
    assert renew_readme(readme, figures) == [readme]
    table = markdown_table(figures / "deep" / "table1.csv")
    assert readme.read_text() == f"{start}\n{table}\n{end}"
    renew_readme(readme, figures)
    assert readme.read_text() == f"{start}\n{table}\n{end}"


def test_the_readmes_tables_are_the_published_ones(tmp_path):
    copy = tmp_path / "README.md"
    copy.write_bytes((paths.ROOT / "README.md").read_bytes())
    renew_readme(copy, paths.FIGURES)
    assert copy.read_text() == (paths.ROOT / "README.md").read_text()
    assert ".csv -->\n|" in copy.read_text()


def test_verdicts_are_decided_by_the_present_rules(tmp_path):
    run, origin = tmp_path / "runs" / "full", "phantom,64,2,ab,100,0,0123\n"
    run.mkdir(parents=True)
    end = "dataset,size,depth,weights,steps,seed,commit\n"
    (run / "table1.csv").write_text(
        f"attack,epsilon,n,iou,low,high,paper,{end}white-box,0.02,20,3,1,5,0.8,{origin}"
    )
    names = ["table1.csv", "verdicts.csv"]
    (run / "verdicts.csv").write_text(
        f"claim,paper,ours,rule,verdict,{end}untrue,,9,old,does not hold,{origin}"
    )
    publish_files(run, names, tmp_path / "figures")
    (row,) = pd.read_csv(tmp_path / "figures" / "verdicts.csv").to_dict("records")
    assert row["ours"] == "3.0 (1.0–5.0)" and row["verdict"] == "holds" and row["weights"] == "ab"
    assert "untrue" in (run / "verdicts.csv").read_text()
    (run / "verdicts.csv").write_text(
        f"claim,paper,ours,rule,verdict,{end}"
    )  # of a run that decides nothing
    publish_files(run, names, tmp_path / "figures")


# another run


@pytest.fixture
def again(figures, tmp_path):
    """A folder with a second run of the profile deep."""
    (tmp_path / "runs" / "deep").mkdir(parents=True)
    (tmp_path / "runs" / "deep" / "table1.csv").write_text(TABLE)
    return tmp_path / "runs" / "deep"


@pytest.mark.parametrize(
    ("before", "after", "row", "code"),
    [
        ("0123", "4567", [4, 0, 4, 0.0, 0], 0),  # another commit
        ("25.14", "30.14", [4, 0, 3, 5.0, 0], 0),
        ("25.14", "30.24", [4, 0, 3, 5.1, 1], 1),
        ("25.14", "", [4, 0, 3, 0.0, 1], 1),
        ("random-noise,0.02", "shuffled-noise,0.02", [3, 1, 3, 0.0, 0], 1),
        ("30.50", "30.60", [4, 0, 3, 0.0, 0], 0),  # not what was measured
    ],
)
def test_a_run_is_compared_with_the_published_one(figures, again, capsys, before, after, row, code):
    (again / "table1.csv").write_text(TABLE.replace(before, after))
    (found,) = compare(again, figures).values.tolist()
    assert found == ["table1.csv", *row[:3], pytest.approx(row[3]), row[4]]
    assert main(["--compare", "deep"], runs=again.parent, figures=figures) == code
    assert "table1.csv" in capsys.readouterr().out


def test_another_verdict_and_another_level_are_told(figures, again):
    for name, text in {
        "verdicts.csv": "claim,ours,verdict,dataset\none,5.0,holds,phantom\n",
        "smallest_epsilon.csv": "id,symbol,epsilon,dataset\na,small,0.02,phantom\nb,small,0.03,phantom\n",
    }.items():
        (figures / "deep" / name).write_text(text)
        (again / name).write_text(text.replace("holds", "does not hold").replace("0.03", ""))
    found = compare(again, figures)[["table", "equal", "outside"]].fillna(-1).values.tolist()
    assert found == [["smallest_epsilon.csv", 1, -1], ["table1.csv", 4, 0], ["verdicts.csv", 0, 1]]


def test_a_table_without_rows_is_nothing_to_compare(figures, again):
    for folder in (figures / "deep", again):
        (folder / "clavicle_shrinking.csv").write_text(TABLE.splitlines()[0])
    assert compare(again, figures)["table"].tolist() == ["table1.csv"]


def test_what_a_run_lacks_of_the_published_tables_is_told(figures, again, capsys):
    for name, size in (("table2.csv", 128), ("of_something_else.csv", 256)):
        (figures / "deep" / name).write_text(TABLE.replace(",128,", f",{size},"))
    assert main(["--compare", "deep"], runs=again.parent, figures=figures) == 1
    found = compare(again, figures).fillna(-1).values.tolist()
    assert [row[0] for row in found] == ["table1.csv", "table2.csv"] and found[1][1:] == [
        0,
        4,
        0,
        -1,
        -1,
    ]


def test_only_like_is_compared_with_like(figures, again, capsys):
    for text in (TABLE.replace(",20,", ",8,"), TABLE[:20]):  # other images, a truncated file
        (again / "table1.csv").write_text(text)
        with pytest.raises(
            ValueError,
            match="table1.csv has other rows than .*: they were made with other parameters",
        ):
            compare(again, figures)
    assert main(["--compare", "full"], runs=again.parent, figures=figures) == 2
    assert "no table in common" in capsys.readouterr().err
    assert main(["--compare", "dep"], runs=again.parent, figures=figures) == 2
    assert "there is no profile 'dep'; choose from" in capsys.readouterr().err
    for words in (["-p", "steps=10"], ["--only", "03"]):
        assert main(["--compare", "deep", *words], runs=again.parent, figures=figures) == 2
        assert f"take{'s' * (words[0] == '--only')} no {words[0]}" in capsys.readouterr().err


# networks


@pytest.fixture(scope="module")
def small():
    return load("phantom", size=128)


def test_the_networks_of_a_full_run_replace_those_that_were_published(tmp_path, small):
    settings = {"depth": 1, "features": 2, "epochs": 1, "folder": tmp_path / "weights"}
    trained = [train(small, role, **settings) for role in ("target", "surrogate")]
    write_table(tmp_path / "clean.csv", pd.DataFrame({"iou": [1.0]}), provenance(small, trained))
    place = tmp_path / "published"
    place.mkdir()
    for name, size in (("old", small.size), ("of another profile", 2 * small.size)):
        (place / f"{name}.json").write_text(json.dumps({"recipe": {"size": size}}))
        (place / f"{name}.safetensors").touch()
    written = publish_weights(tmp_path, weights=tmp_path / "weights", place=place)
    others = {place / f"of another profile.{kind}" for kind in ("json", "safetensors")}
    assert set(place.iterdir()) == {*written, *others} and len(written) == 4
    found = {load_weights(path).digest for path in written if path.suffix != ".json"}
    assert found == {each.digest for each in trained}
    with pytest.raises(ValueError, match="lacks the network"):
        publish_weights(tmp_path, weights=tmp_path / "none", place=place)
    assert len(list(place.iterdir())) == 6


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
    assert len(list(paths.PUBLISHED.iterdir())) == 8  # and no others
