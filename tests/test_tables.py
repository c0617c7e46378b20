"""Tables beside the paper's, for reading and for files; and the paper's numbers against its tables."""

import math

import numpy as np
import pandas as pd
import pytest

from helpers.common.paths import ROOT
from helpers.tables import (
    PAPER,
    PAPER_STRUCTURES,
    beside_paper,
    format_interval,
    markdown,
    side_by_side,
    write_table,
)

TABLES = ROOT.parent / "shared/paper"


# --- the paper --------------------------------------------------------------------------------------------------------


def test_the_paper_s_table_1_stands_beside_ours_and_controls_have_no_number():
    attacks, levels = ("random-noise", "white-box", "black-box"), (0.08, 0.01, 0.03)
    summary = pd.DataFrame(
        [(a, e, 20, 1.0, 0.0, 2.0) for a in attacks for e in levels],
        columns=["attack", "epsilon", "n", "iou", "low", "high"],
    )
    found = beside_paper(summary, "table1")
    assert list(found.columns) == ["attack", "epsilon", "n", "iou", "low", "high", "paper"]
    pd.testing.assert_frame_equal(found.drop(columns="paper"), summary)
    expected = [math.nan] * 3 + [0.0, 30.5, math.nan] + [45.5, 87.4, math.nan]
    np.testing.assert_array_equal(found["paper"], expected)


def test_the_paper_s_clean_values_stand_beside_each_network_and_structure():
    summary = pd.DataFrame(
        {"network": ["surrogate", "target", "target"], "structure": ["heart", "heart", "liver"]}
    )
    np.testing.assert_array_equal(beside_paper(summary, "clean")["paper"], [87.5, 87.3, math.nan])


@pytest.mark.parametrize("structures", [("left lung", "right lung"), PAPER_STRUCTURES[::-1], ()])
def test_numbers_of_other_structures_are_not_compared_with_the_paper_s(structures):
    summary = pd.DataFrame({"attack": ["white-box"], "epsilon": [0.02], "iou": [50.0]})
    assert beside_paper(summary, "table1")["paper"].tolist() == [0.8]
    assert beside_paper(summary, "table1", structures=list(PAPER_STRUCTURES))["paper"].tolist() == [
        0.8
    ]
    found = beside_paper(summary, "table1", structures=structures)
    assert found["paper"].isna().all()
    pd.testing.assert_frame_equal(found.drop(columns="paper"), summary)
    with pytest.raises(ValueError, match="table5"):
        beside_paper(summary, "table5", structures=structures)


SUMMARY = pd.DataFrame(
    [
        ("z", 0.04, 8, 25.34, 22.06, 28.44, 30.5),
        ("z", 0.01, 8, 90.0, math.nan, math.nan, math.nan),
        ("a", 0.01, 8, 7.0, 6.0, 8.0, math.nan),
        ("a", 0.04, 8, 5.0, 4.0, 6.0, math.nan),
    ],
    columns=["attack", "epsilon", "n", "iou", "low", "high", "paper"],
)


def test_ours_stand_with_their_interval_above_the_paper_s_number():
    found = side_by_side(SUMMARY, columns="epsilon")
    assert found.index.tolist() == [("z", "ours"), ("z", "paper"), ("a", "ours")] and list(
        found
    ) == [0.01, 0.04]
    assert found.to_numpy().tolist() == [
        ["90.0", "25.3 (22.1–28.4)"],
        ["", "30.5"],
        ["7.0 (6.0–8.0)", "5.0 (4.0–6.0)"],
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("without", ["no column", "no numbers"])
def test_a_summary_without_the_paper_has_ours_only(without):
    summary = (
        SUMMARY.drop(columns="paper") if without == "no column" else SUMMARY.assign(paper=math.nan)
    )
    found = side_by_side(summary, columns="epsilon")
    assert found.index.tolist() == [("z", "ours"), ("a", "ours")]
    assert found.loc[("a", "ours"), 0.04] == "5.0 (4.0–6.0)"


def test_cells_that_were_not_measured_stay_empty_and_every_key_has_its_row():
    rows = pd.concat([SUMMARY.assign(symbol="small"), SUMMARY[:1].assign(symbol="large", iou=1.0)])
    found = side_by_side(rows, columns="epsilon")
    assert found.index.names == ["attack", "symbol", "source"] and len(found) == 5
    assert found.loc[("z", "large", "ours"), 0.01] == "" and found.loc[
        ("z", "large", "ours"), 0.04
    ].startswith("1.0 ")


ALL_TABLES = ["clean", "table1", "table2", "table3", "table4"]


def keys_of(table):
    paper = pd.read_csv(PAPER)
    return (
        paper[paper["table"] == table]
        .dropna(axis="columns", how="all")
        .drop(columns=["table", "paper"])
    )


@pytest.mark.parametrize("table", ALL_TABLES)
def test_every_number_of_the_paper_finds_its_row(table):
    keys = keys_of(table)
    assert not keys.duplicated().any()
    found = beside_paper(keys.iloc[::-1], table)
    assert len(found) == len(keys) and found["paper"].notna().all()


@pytest.mark.parametrize("table", ALL_TABLES)
def test_a_summary_without_a_column_that_tells_the_paper_s_rows_apart_is_refused(table):
    for column in keys_of(table):
        summary = keys_of(table).drop(columns=column).drop_duplicates().assign(iou=1.0)
        with pytest.raises(KeyError, match=column):
            beside_paper(summary, table)


def test_an_unknown_table_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match="'table5'.*clean, table1, table2, table3, table4"):
        beside_paper(pd.DataFrame({"attack": ["white-box"]}), "table5")


@pytest.mark.parametrize(
    "table, rows", [("table1", 10), ("table2", 40), ("table3", 20), ("table4", 40)]
)
def test_the_numbers_in_the_package_are_those_of_the_paper_s_tables(table, rows):
    path = TABLES / f"{table}.csv"
    if not path.exists():
        pytest.skip(f"the paper's {path.name} is not beside this copy")
    ours, theirs = (
        pd.read_csv(PAPER, dtype=str),
        pd.read_csv(path, dtype=str).replace("clean", "1.0"),
    )
    numbers = ours[(ours["table"] == table) & (ours["attack"] != "no attack")]
    keys = [column for column in theirs.columns if column != "iou"]
    row = lambda record, value: (*(number(record[k]) for k in keys), float(record[value]))  # noqa: E731
    found = sorted(row(record, "paper") for record in numbers.to_dict("records"))
    assert (
        found == sorted(row(record, "iou") for record in theirs.to_dict("records"))
        and len(found) == rows
    )


def test_the_paper_s_numbers_without_attack_are_the_same_wherever_they_stand():
    paper = pd.read_csv(PAPER)
    clean = paper[(paper["table"] == "clean") & (paper["network"] == "target")].set_index(
        "structure"
    )["paper"]
    resized = paper[(paper["table"] == "table4") & (paper["factor"] == 1)]
    assert (
        len(resized) == 5
        and (resized["paper"].to_numpy() == clean[resized["structure"]].to_numpy()).all()
    )
    unattacked = paper[paper["attack"] == "no attack"]
    assert unattacked["table"].tolist() == ["table2", "table2", "table3"]
    assert unattacked["paper"].tolist() == [clean["heart"], clean["heart"], clean["all but heart"]]


def number(text):
    try:
        return float(text)
    except ValueError:
        return text


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_table_comes_back_from_its_file_with_its_provenance(tmp_path):
    table = pd.DataFrame(
        {"attack": ["white-box", "black-box"], "n": [20, 19], "iou": [1.234, math.nan]}
    )
    where = {"dataset": "phantom", "size": 64, "steps": 100, "seed": 0, "commit": "abc"}
    write_table(tmp_path / "new" / "table.csv", table, where)
    text = (tmp_path / "new" / "table.csv").read_bytes()
    assert text.startswith(
        b"attack,n,iou,dataset,size,steps,seed,commit\nwhite-box,20,1.23,phantom,64,100,0,abc\n"
    )
    back = pd.read_csv(tmp_path / "new" / "table.csv")
    pd.testing.assert_frame_equal(back, table.round(2).assign(**where), check_dtype=False)
    assert list(table.columns) == ["attack", "n", "iou"]  # the caller's table is not changed


def test_noise_levels_and_factors_keep_all_their_digits_in_a_file(tmp_path):
    table = pd.DataFrame(
        {"epsilon": [0.001, 0.005, 0.0125], "factor": [0.375, 1.0, 1.125], "iou": [1.0, 2.0, 3.0]}
    )
    write_table(tmp_path / "table.csv", table, {})
    back = pd.read_csv(tmp_path / "table.csv")
    assert back["epsilon"].tolist() == [0.001, 0.005, 0.0125] and back["factor"].tolist() == [
        0.375,
        1.0,
        1.125,
    ]


def test_a_caller_names_the_columns_that_keep_all_their_digits(tmp_path):
    table = pd.DataFrame({"ssim": [0.9542], "epsilon": [0.0125], "psnr": [38.9412]})
    write_table(tmp_path / "table.csv", table, {"seconds": 0.12345}, exact=("ssim", "window"))
    text = (tmp_path / "table.csv").read_text()
    assert text == "ssim,epsilon,psnr,seconds\n0.9542,0.01,38.94,0.12\n"


@pytest.mark.parametrize(
    "numbers, text",
    [((25.34, 22.06, 28.44), "25.3 (22.1–28.4)"), ((90.0, math.nan, math.nan), "90.0")],
)
def test_a_mean_stands_with_its_interval_where_it_has_one(numbers, text):
    assert format_interval(*numbers) == text


def test_columns_by_name_come_as_they_come_and_rows_in_the_order_of_the_summary():
    summary = SUMMARY.iloc[[2, 1, 0, 3]].rename(columns={"attack": "symbol"})
    found = side_by_side(summary, columns="symbol")
    assert list(found) == ["a", "z"]
    assert found.index.tolist() == [(0.01, "ours"), (0.04, "ours"), (0.04, "paper")]
    assert found["z"].tolist() == ["90.0", "25.3 (22.1–28.4)", "30.5"]


def test_markdown_has_a_line_for_each_row_and_leaves_missing_numbers_empty():
    table = pd.DataFrame({"a": ["x", "y"], "b": [1.5, math.nan]}, index=[7, 8])
    assert markdown(table) == "| a | b |\n| --- | --- |\n| x | 1.5 |\n| y |  |"
