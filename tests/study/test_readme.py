"""The generated tables in the pages."""

import pandas as pd
import pytest

from helpers.common import paths
from helpers.study.readme import READMES, headline, markdown_table, renew_readme

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


def test_a_table_names_what_its_results_were_made_with(tmp_path):
    path = tmp_path / "table1.csv"
    lines = TABLE.replace("seed,commit", "seed,precision,torch,device,commit").splitlines()
    ends = [line.replace(",0123", ",fp32,2.13.0+cpu,cpu,0123") for line in lines]
    path.write_text("\n".join(ends))
    assert markdown_table(path).endswith(
        "steps 100, seed 0, precision fp32, torch 2.13.0+cpu, device cpu, commit 0123.*"
    )


def test_a_table_of_goals_has_the_noise_levels_beside_each_other(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        "goal,attack,epsilon,n,iou,low,high,dataset\n"
        "untargeted,no attack,0.0,7,90,89,91,folder-mine\n"
        "small symbol,white-box,0.04,7,90,89,91,folder-mine\n"
    )
    lines = markdown_table(path).splitlines()
    assert lines[0] == "| goal | attack | source | 0.0 | 0.04 |"
    assert lines[2] == "| untargeted | no attack | ours | 90.0 (89.0–91.0) |  |"


def test_a_table_of_attacked_networks_shows_their_mean(tmp_path):
    path = tmp_path / "transfer.csv"
    path.write_text(
        "step,target,n,gain,dataset\na,1,4,2,phantom\na,2,4,4,phantom\na,all,4,3,phantom\n"
    )
    assert markdown_table(path).splitlines()[2:4] == ["| a | 4 | 3 |", ""]


def test_verdicts_are_two_words_with_rule_and_reason_below(tmp_path):
    path = tmp_path / "verdicts.csv"
    path.write_text(
        "claim,paper,ours,rule,verdict,dataset,seed\n"
        'a,1,"2 (1–3), 4",below 5,holds,phantom,0\n'
        "b,1,,above 5,does not hold (likely: it is (too) small),phantom,0\n"
        "c,1,,above 6,not decided by this run (the intervals overlap),phantom,0\n"
        "d,1,,above 7,not decided by this run,phantom,0\n"
    )
    assert markdown_table(path).splitlines() == [
        "| claim | paper | ours | verdict |",
        "| --- | --- | --- | --- |",
        "| a | 1 | 2 (1–3), 4 | holds |",
        "| b | 1 |  | does not hold |",
        "| c | 1 |  | not decided |",
        "| d | 1 |  | not decided |",
        "",
        "The rules, and likely reasons:",
        "",
        "- *a*: below 5",
        "- *b*: above 5; likely: it is (too) small",
        "- *c*: above 6; the intervals overlap",
        "- *d*: above 7",
        "",
        "*dataset phantom, seed 0.*",
    ]


def test_only_what_stands_between_a_tables_marks_is_renewed(figures, tmp_path):
    readme = tmp_path / "README.md"
    start, end = (
        "before\n<!-- deep/table1.csv -->",
        "<!-- end -->\nafter\n<!-- none.csv -->old<!-- end -->\n",
    )
    readme.write_text(f"{start}old{end}")
    assert renew_readme([readme, tmp_path / "none.md"], figures) == [readme]
    table = markdown_table(figures / "deep" / "table1.csv")
    assert readme.read_text() == f"{start}\n{table}\n{end}"
    renew_readme([readme], figures)
    assert readme.read_text() == f"{start}\n{table}\n{end}"


def test_the_headline_is_eight_rows_of_the_published_tables(tmp_path):
    lines = headline(paths.FIGURES).splitlines()
    assert lines[0] == "| IoU × 100 | paper | here (profile full) |" and len(lines) == 10
    assert all(line.count("|") == 4 and "nan" not in line for line in lines)
    assert lines[2].startswith("| clean IoU, mean of the structures | 90.3 | 9")
    page = tmp_path / "README.md"
    page.write_text("<!-- headline -->old<!-- end -->")
    renew_readme([page], paths.FIGURES)
    assert page.read_text() == f"<!-- headline -->\n{headline(paths.FIGURES)}\n<!-- end -->"
    page.write_text("<!-- headline -->old<!-- end -->")
    renew_readme([page], tmp_path)
    assert page.read_text() == "<!-- headline -->old<!-- end -->"


def test_the_pages_tables_are_the_published_ones(tmp_path):
    copy = tmp_path / "README.md"
    text = ""
    for page in READMES:
        if page.exists():
            text += page.read_text(encoding="utf-8")
    copy.write_text(text, encoding="utf-8")
    renew_readme([copy], paths.FIGURES)
    assert copy.read_text(encoding="utf-8") == text
    assert ".csv -->\n|" in text


def test_the_readme_counts_the_claims_that_hold():
    text = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    tables = [pd.read_csv(paths.FIGURES / place / "verdicts.csv") for place in ("", "phantom512")]
    small, large = ((table["verdict"] == "holds").sum() for table in tables)
    told = f"Of the paper's {len(tables[0])} claims, {small} hold at 256×256 and {large} at 512×512"
    assert told in " ".join(text.split())
